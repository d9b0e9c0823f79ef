"""Which adapters of a loaded model a call uses."""

from __future__ import annotations

from collections.abc import Mapping

# names and how much of each, sorted and without zeros, so that equal choices are equal keys; (): the plain model
Choice = tuple[tuple[str, float], ...]
PLAIN: Choice = ()


Asked = str | Mapping[str, float] | None  # the option `adapter`; None or a mapping once it is checked


def choice_of(asked: Asked) -> Choice:
    """A checked option `adapter` as a key of contexts."""
    return tuple(sorted((name, scale) for name, scale in shares(asked).items() if scale))


def shares(asked: Asked) -> Mapping[str, float]:
    """How much of each adapter."""
    return {asked: 1.0} if isinstance(asked, str) else asked or {}
