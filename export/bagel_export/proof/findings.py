"""Results of a comparison stage by stage, the limits they must keep, and their report as a table or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

EXACT = 1e-6  # for pixels prepared for an encoder, which both sides compute with the same arithmetic
# relative L2 within which a stage, and a whole picture's latent, count as the same, by what the coarser side computes
# in. Guidance and the steps of a picture multiply what one evaluation is off.
STAGE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2}
WHOLE = {"float32": 1e-2, "float16": 1e-1, "bfloat16": 3e-1}
ROUNDED_STAGE, ROUNDED_WHOLE = 1e-1, 5e-1  # weights in 8 bits or fewer
TOKENS = 0.8  # share of greedy tokens that agree, each after the same tokens, where a side is not float32


@dataclass(frozen=True)
class Limits:
    """What counts as the same."""

    stage: float
    whole: float
    tokens: float

    @staticmethod
    def between(*precisions: str) -> Limits:
        """The limits for comparing two sides that compute in, or were rounded to, these types."""
        stage = max(STAGE.get(p, ROUNDED_STAGE) for p in precisions)
        whole = max(WHOLE.get(p, ROUNDED_WHOLE) for p in precisions)
        return Limits(stage, whole, 1.0 if set(precisions) == {"float32"} else TOKENS)


@dataclass(frozen=True)
class Finding:
    """One stage of one case. `error` is a relative L2 distance, or the share of tokens that differ."""

    case: str
    stage: str
    error: float
    limit: float
    detail: str = ""

    @property
    def same(self) -> bool:
        return bool(np.isfinite(self.error) and self.error <= self.limit)


def distance(got: np.ndarray, wanted: np.ndarray) -> float:
    """Relative L2; infinite where the shapes differ."""
    if got.shape != wanted.shape:
        return float("inf")
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    return float(np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), 1e-12))


def compared(case: str, stage: str, got: np.ndarray, wanted: np.ndarray, limit: float) -> Finding:
    """A finding about two arrays; its detail is their shape and the largest difference."""
    if got.shape != wanted.shape:
        return Finding(case, stage, float("inf"), limit, f"shape {got.shape}, {wanted.shape} is expected")
    most = float(np.max(np.abs(got.astype(np.float64) - wanted.astype(np.float64)))) if got.size else 0.0
    return Finding(case, stage, distance(got, wanted), limit, f"{'x'.join(map(str, got.shape))}, at most {most:.1e}")


def identical(case: str, stage: str, got: Sequence[int], wanted: Sequence[int], limit: float = 0.0) -> Finding:
    """A finding about two lists of tokens: the share of places where they differ."""
    places = max(len(got), len(wanted), 1)
    same = sum(a == b for a, b in zip(got, wanted, strict=False))
    return Finding(case, stage, 1 - same / places, limit, f"{same} of {places} tokens")


def table(findings: Sequence[Finding]) -> str:
    """A table of fixed-width columns, one line per finding."""
    wide = max(len(f.stage) for f in findings)
    head = f"{'case':10} {'stage':{wide}} {'error':>9} {'limit':>9}  {'':7} what"
    lines = [
        f"{f.case:10} {f.stage:{wide}} {f.error:9.1e} {f.limit:9.1e}  {'same' if f.same else 'DIFFERS':7} {f.detail}"
        for f in findings
    ]
    return "\n".join([head, *lines])


def report(findings: Sequence[Finding], **about: Any) -> dict[str, Any]:
    """Everything as JSON values."""
    return {
        **about,
        "same": all(f.same for f in findings),
        "findings": [
            {**asdict(f), "error": f.error if np.isfinite(f.error) else None, "same": f.same} for f in findings
        ],
    }
