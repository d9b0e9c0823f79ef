"""The recorded runs of the official code on a card: how many texts are equal, how far the latents are.

For bench/gpu.py. The artefacts are of the recorded checkpoint (tests/golden), by precision.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from golden_cases import Case, distance, names, read  # type: ignore[import-not-found]

MODES = ("t2i", "edit", "interleave", "text", "understand")


def cases_part(
    add: Callable[[str, Callable[[], Any]], Any],
    artefact: Path,
    opened: Callable[[Path, bool], AbstractContextManager[Any]],
) -> None:
    """opened: loads an artefact, with CUDA graphs or without."""
    for played in (False, True):
        told = "CUDA graphs" if played else "no CUDA graphs"
        add(f"{artefact.name}: recorded cases, {told}", lambda played=played: _all(opened(artefact, played)))


def _all(opening: AbstractContextManager[Any]) -> dict[str, Any]:
    start = time.perf_counter()
    found: dict[str, Any] = {}
    with opening as bagel:
        for name in names(*MODES):
            try:
                found[name] = _one(bagel, read(name))
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"[:200]
        engine = str(bagel.engine)
    return {
        "cases": len(found),
        "failed": sorted(name for name, one in found.items() if isinstance(one, str)),
        "worst latent": max((one for one in found.values() if isinstance(one, float)), default=None),
        "texts equal": sum(one is True for one in found.values()),
        "texts": sum(isinstance(one, bool) for one in found.values()),
        "by case": found,
        "engine": engine,
        "s": round(time.perf_counter() - start, 2),
    }


def _one(bagel: Any, case: Case) -> bool | float:
    """Whether the text is the recorded one; or the relative distance of the latents."""
    if case.wants_text:
        return bagel.interleave(case.items, output="text", **case.options).text == case.meta["texts"][0]
    drawn = bagel.interleave(case.items, output="image", **case.options)
    return float(f"{distance(drawn.latent, case.arrays['final_latent']):.3e}")
