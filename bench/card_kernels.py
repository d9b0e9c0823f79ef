"""Which kernels a call runs on a card, by PyTorch's profiler, which sees those of every library in the process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

MOST = 40


def kernels(work: Callable[[], Any]) -> list[dict[str, Any]]:
    """The kernels of a call that take longest: name, calls, microseconds in all. Empty where PyTorch sees no card."""
    if not torch.cuda.is_available():
        return []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    found = [(e.key, e.count, e.self_device_time_total) for e in profile.key_averages()]
    longest = sorted(found, key=lambda one: -one[2])[:MOST]
    return [{"kernel": name[:120], "calls": count, "us": round(us, 1)} for name, count, us in longest if us > 0]
