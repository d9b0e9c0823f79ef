"""What the machine and this process say about memory, in bytes."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")


def anonymous_bytes() -> int | None:
    """This process's memory that no file stands behind; None where the system does not tell."""
    return _field(PROC / "self" / "status", "RssAnon")


def _field(path: Path, name: str) -> int | None:
    """A line `name: N kB` of a file of /proc."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, rest = line.partition(":")
        if key == name:
            return int(rest.split()[0]) * 1024
    return None
