"""The stand-in for the official code, asked what a golden run was asked."""

from __future__ import annotations

from pathlib import Path

from golden_cases import read

from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.proof.record import Asked, record

STANDIN = Path(__file__).parent.parent / "official_standin"


def recorded(checkpoint: Path, out: Path, name: str) -> Path:
    """The stand-in, asked what a golden run was asked."""
    case = read(name)
    asked = Asked(case.asked["mode"], tuple(case.items), dict(case.asked["kwargs"]), case.asked["seed"])
    record(STANDIN, open_checkpoint(checkpoint), asked, out, device="cpu", dtype="fp32")
    return out
