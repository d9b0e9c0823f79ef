"""File names made of ids: unique, and good on every file system."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Container

LONGEST = 100  # bytes of a name without its ending: encrypted file systems allow 143 for a name and its ending
# devices on Windows, whatever stands behind the first full stop
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE | re.DOTALL)


def same_file(name: str) -> str:
    """Equal for two names that some file system takes for one: those that differ in case or in Unicode's spelling."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def names_for(id: str, endings: list[str], taken: Container[str]) -> list[str]:
    """A file name per ending, all beginning with the id where that gives safe names that are free.

    taken: names that are not free, as same_file() spells them. Else the names begin with what is safe of the id, and
    a hash of it makes them this id's own.
    """
    plain = [id + ending for ending in endings]
    if _is_safe(id) and not any(same_file(name) in taken for name in plain):
        return plain
    stem = f"{_cut(re.sub(r'[^a-zA-Z0-9_-]', '_', id))}-{hashlib.sha256(id.encode()).hexdigest()[:12]}"
    return [stem + ending for ending in endings]


def _is_safe(id: str) -> bool:
    try:
        size = len(os.fsencode(id))
    except UnicodeEncodeError:  # not in this system's character set
        return False
    return size <= LONGEST and not RESERVED.fullmatch(id)


def _cut(ascii_name: str) -> str:
    return ascii_name[: LONGEST - 40]
