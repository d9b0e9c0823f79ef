"""What the machine and this process say about memory, in bytes."""

from __future__ import annotations

from pathlib import Path

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def free_bytes() -> int | None:
    """What this process can still take before the system swaps; None where the system does not tell.

    A container's own limit counts, where there is one; files that were read can make room.
    """
    free, limit, used = _field(PROC / "meminfo", "MemAvailable"), _number("memory.max"), _number("memory.current")
    if free is None or limit is None or used is None:
        return free
    return min(free, max(0, limit - used + (_field(CGROUP / "memory.stat", "inactive_file") or 0)))


def anonymous_bytes() -> int | None:
    """This process's memory that no file stands behind; None where the system does not tell."""
    return _field(PROC / "self" / "status", "RssAnon")


def _number(name: str) -> int | None:
    """A file of the container's limits that holds one number; "max" is none."""
    try:
        return int((CGROUP / name).read_text())
    except (OSError, ValueError):
        return None


def _field(path: Path, name: str) -> int | None:
    """A line `name: N kB`, or `name N` in bytes, of a system's file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.replace(":", " ").split()
        if words[:1] == [name]:
            return int(words[1]) * (1024 if words[2:] == ["kB"] else 1)
    return None
