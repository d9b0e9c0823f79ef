"""Adapters of a loaded model, switched in every call by two small inputs of the step graphs.

All adapters' thin matrices lie one behind the other along their rank (bagel_engines.low_rank); an adapter has a span of
it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bagel_engines import LowRank
from bagel_rt.adapters.choice import PLAIN, Asked, Choice, shares
from bagel_rt.artefact.contract import ADAPTER_COLUMNS, ADAPTER_SCALES
from bagel_rt.errors import EngineUnavailableError, InputError
from bagel_rt.options import checks

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
INSTEAD = "export with --lora, which merges it"


@dataclass(frozen=True)
class Adapters:
    """spans: of each adapter, its first rank and the one behind its last. graphs: the products that are added to each
    graph."""

    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    graphs: Mapping[str, LowRank] = field(default_factory=dict)
    apart: bool = False  # calls without an adapter run the graph as it is

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.spans)

    @cached_property
    def nbytes(self) -> int:
        arrays = {id(a): a for low in self.graphs.values() for t in low.products.values() for a in (t.down, t.up)}
        return sum(array.nbytes for array in arrays.values())

    def check(self, asked: Asked) -> None:
        """Raise InputError for an adapter that was not loaded."""
        for name in shares(asked):
            if name not in self.spans:
                known = f"loaded: {', '.join(self.spans)}" if self.spans else "none is loaded"
                raise InputError(
                    f"adapter is {name!r}; {known}. Name it when the model is loaded: adapters={{{name!r}: PATH}}, or"
                    f" --lora {name}=PATH"
                )

    def inputs(self, graph: str, choice: Choice) -> dict[str, np.ndarray]:
        """What a graph is called with beside its own inputs; nothing for one that no adapter touches."""
        if graph not in self.graphs or (self.apart and choice == PLAIN):
            return {}
        spans = [(range(*self.spans[name]), scale) for name, scale in choice]
        return {
            ADAPTER_COLUMNS: np.array([rank for span, _ in spans for rank in span], np.int64),
            ADAPTER_SCALES: np.array([scale for span, scale in spans for _ in span], np.float32),
        }


def check_engine(backend: str, device: str, packed_weights: bool) -> None:
    """Raise EngineUnavailableError for an engine that cannot switch adapters, InputError for packed weights."""
    if backend == "tensorrt" or device != "cpu":
        raise EngineUnavailableError(
            f"adapters are switched on onnxruntime and openvino on the CPU, not on {backend} on {device}; {INSTEAD}"
        )
    if packed_weights:
        raise InputError(f"packed_weights are of a graph without adapters; leave one of them out, or {INSTEAD}")
    if find_spec("onnx") is None:
        raise EngineUnavailableError("adapters of a loaded model need the onnx package; run: pip install onnx")


def checked_paths(given: object) -> dict[str, Path]:
    """What a caller names as `adapters`, checked: paths by name."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"adapters is a {type(given).__name__}; a dict of names and paths is expected")
    for name in given:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InputError(f"an adapter's name is {name!r}; letters, digits, '.', '_' and '-' are allowed")
    return {name: Path(checks.path(f"adapters[{name!r}]", path)) for name, path in given.items()}
