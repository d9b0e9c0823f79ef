"""How many CPUs this process may use where the system lets it have fewer than there are: containers, `taskset`.

ONNX Runtime starts a thread for each core of the machine whatever a process may use. They wait for each other by
spinning: on one allowed CPU a small picture took three times as long with two threads as with one (onnxruntime 1.31.1).
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def allowed_cpus() -> int | None:
    """CPUs of this process where they are fewer than the machine's; None where all are its own."""
    own, quota = own_cpus(), _quota()
    allowed = own if quota is None else min(own, quota)
    return allowed if allowed < (os.cpu_count() or 1) else None


def own_cpus() -> int:
    """CPUs that this process may run on, which may be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota() -> int | None:
    """CPUs' worth of time that a container has, at least one; None without a limit."""
    try:
        time, period = (CGROUP / "cpu.max").read_text().split()
        return max(1, math.ceil(int(time) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # another system, or "max"
        return None
