"""How much memory is free on this machine, or in the container this process runs in."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes that can be taken without swapping: what the system calls available, or less where a container is limited.

    Memory this process holds already is not counted as free.
    """
    free = int(psutil.virtual_memory().available)
    limit, used = _number(CGROUP / "memory.max"), _number(CGROUP / "memory.current")
    return free if limit is None or used is None else min(free, max(0, limit - used + _reclaimable()))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # another system, or "max"
        return None


def _reclaimable() -> int:
    """Bytes of cached files: a container's usage counts them, and the kernel frees them when memory is needed."""
    try:
        stated = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(stated.get("active_file", 0)) + int(stated.get("inactive_file", 0))
