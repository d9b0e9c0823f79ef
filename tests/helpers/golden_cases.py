"""The recorded runs of the official code (tests/golden), ready for comparison."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# how far a result may be from the recorded one on an engine for CPUs: relative L2, and of 255. What was measured is in
# bench/results/recorded-cpu.json, and tests/docs compares
LATENT, PIXEL = 1e-5, 1
FOLDER = Path(__file__).parent.parent / "golden" / "cases"


@dataclass(frozen=True)
class Case:
    name: str
    asked: dict[str, Any]
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]

    @property
    def items(self) -> list:
        """The inputs in order: texts as str, images as uint8 arrays."""
        given = enumerate(self.asked["inputs"])
        return [item["text"] if "text" in item else self.arrays[f"input{i}.rgb"] for i, item in given]

    @property
    def wants_text(self) -> bool:
        return self.asked["kwargs"].get("understanding_output", False)

    @property
    def options(self) -> dict[str, Any]:
        """The recorded keyword arguments under bagel-rt's names."""
        kwargs = dict(self.asked["kwargs"])
        kwargs.pop("understanding_output", None)
        if (shapes := kwargs.pop("image_shapes", None)) is not None:
            kwargs["height"], kwargs["width"] = shapes
        if (tokens := kwargs.pop("max_think_token_n", None)) is not None:
            kwargs["max_tokens" if self.wants_text else "max_think_tokens"] = tokens
        if kwargs.pop("enable_taylorseer", False):
            kwargs["step_cache"] = "taylorseer"
        return {**kwargs, "seed": self.asked["seed"]}


def names(*modes: str) -> list[str]:
    """The recorded cases of some modes."""
    return [p.stem for p in sorted(FOLDER.glob("*.json")) if json.loads(p.read_text())["mode"] in modes]


def read(name: str) -> Case:
    with np.load(FOLDER / f"{name}.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    meta = json.loads(str(arrays.pop("meta")))
    return Case(name, json.loads((FOLDER / f"{name}.json").read_text()), arrays, meta)


def distance(got: Any, wanted: Any) -> float:
    """Relative L2."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    assert got.shape == wanted.shape
    return float(np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), 1e-12))
