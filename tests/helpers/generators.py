"""What a generator returns."""

from __future__ import annotations


def drain(generator):
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value
