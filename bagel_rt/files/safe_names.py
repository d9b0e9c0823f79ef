"""File names made of a user's ids: unique, and allowed on every operating and file system."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Container

LONGEST = 100  # bytes of a name without its ending: encrypted file systems allow 143 for a name and its ending
# names of devices on Windows, with any ending
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE | re.DOTALL)


def same_file(name: str) -> str:
    """A spelling that is equal for two names that some file system takes for the same: names that differ only in upper
    and lower case, or in composed and decomposed Unicode characters."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def names_for(id: str, endings: list[str], taken: Container[str]) -> list[str]:
    """A file name per ending, all beginning with the id where that gives safe names that are free.

    taken: names that are not free, as same_file() spells them. An id that gives no safe or free name loses its unsafe
    characters and gets a hash of it added.
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
