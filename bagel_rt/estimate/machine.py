"""The machine that something was measured on: its CPU, and the rates at which it multiplies and reads at best."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bagel_engines.host_cpus import own_cpus

# what decides which products a CPU has: the arithmetic beside float32
FLAGS = ["avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "bf16"]
TOPOLOGY = Path("/sys/devices/system/cpu")


def cpu() -> tuple[str, str]:
    """Model and instruction sets as Linux tells them; elsewhere the model alone, as far as it is known."""
    told = Path("/proc/cpuinfo")
    if not told.is_file():
        return platform.processor(), ""
    lines = dict(line.split(":", 1) for line in told.read_text(encoding="utf-8").splitlines() if ":" in line)
    said = {key.strip(): value.strip() for key, value in lines.items()}
    has = said.get("flags", said.get("Features", "")).split()
    return said.get("model name", ""), " ".join(flag for flag in FLAGS if flag in has)


def machine() -> dict[str, Any]:
    """CPU, its instructions, how many of its CPUs this process may use, and whether two of these share a core."""
    model, flags = cpu()
    told = ", ".join(part for part in (platform.machine(), f"{os.cpu_count()} CPUs", model, flags) if part)
    return {"machine": told, "cpus_used": own_cpus(), "threads_share_a_core": threads_share_a_core()}


def threads_share_a_core() -> bool | None:
    """Whether two CPUs that this process may use are threads of one core; None where the system does not tell."""
    used = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    files = [TOPOLOGY / f"cpu{number}" / "topology" / "thread_siblings_list" for number in used]
    if not files or not all(file.is_file() for file in files):
        return None
    cores = {file.read_text(encoding="utf-8").strip() for file in files}
    return len(cores) < len(used)


def float32_rate(side: int = 1536) -> float:
    """Floating point operations a second of a product of two float32 matrices, by numpy."""
    one = np.random.default_rng(0).standard_normal((side, side)).astype(np.float32)
    return 2 * side**3 / _least(lambda: one @ one)


def read_rate(numbers: int = 1 << 26) -> float:
    """Bytes a second at which a large array is read, by numpy on one thread."""
    values = np.ones(numbers, np.float32)
    return 4 * numbers / _least(values.sum)


def _least(run: Callable[[], object]) -> float:
    took = []
    for _ in range(5):
        started = time.perf_counter()
        run()
        took.append(time.perf_counter() - started)
    return min(took)
