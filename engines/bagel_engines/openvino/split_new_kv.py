"""New keys and values as results of their own, layer by layer, where a graph stacks them at its end.

OpenVINO lets tensors of changing size take turns in one place, which grows to the largest of them. Keys and values that
wait for the stack keep their places to the end, and places are as wide as an MLP: 4.2 GiB for 1024 latents of the 7B,
where the tensors themselves are 0.1. Results have memory of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bagel_engines.number_formats import widened

STACKED = "new_kv"
NARROW = {"bfloat16": "bf16", "float16": "f16"}


@dataclass(frozen=True)
class Parts:
    """Names of the results that make up each half of the stacked tensor, and the 16-bit type they are kept in where the
    stack has float32."""

    halves: tuple[tuple[str, ...], ...]
    kept: str | None

    @property
    def names(self) -> list[str]:
        return [name for half in self.halves for name in half]

    def stacked(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """(halves, rows, heads, dim) from the arrays of the names, each (some of the rows, heads, dim)."""
        first = [arrays[name] for name in self.halves[0]]
        rows = sum(len(array) for array in first)
        out = np.empty((len(self.halves), rows, *first[0].shape[1:]), np.float32 if self.kept else first[0].dtype)
        for half, names in zip(out, self.halves, strict=True):
            start = 0
            for name in names:
                array = arrays[name]
                half[start : start + len(array)] = widened(array, self.kept) if self.kept else array
                start += len(array)
        return out


def take_apart(model: Any, arithmetic: str) -> Parts | None:
    """Replace a model's stacked result by its parts; None, and nothing changed, where it has none of that form.

    arithmetic: what the model will compute in. Parts are given out in it, or they would wait to be widened.
    """
    from openvino import opset13 as ops

    results = [r for r in model.get_results() if STACKED in r.input_value(0).get_names()]
    found = [_half(port) for port in _stacked_in(results[0])] if results else []
    if not found or not all(found):
        return None
    wide = results[0].get_element_type().get_type_name() == "f32"
    kept = arithmetic if wide and arithmetic in NARROW else None
    model.remove_result(results[0])
    halves = []
    for i, half in enumerate(found):
        names = tuple(f"{STACKED}.{i}.{j}" for j in range(len(half)))
        for name, port in zip(names, half, strict=True):
            given = ops.convert(port, NARROW[kept]).output(0) if kept else port
            given.get_tensor().set_names({name})
            model.add_results([ops.result(given)])
        halves.append(names)
    model.validate_nodes_and_infer_types()
    return Parts(tuple(halves), kept)


def _stacked_in(result: Any) -> list[Any]:
    stack = result.input_value(0).get_node()
    return _inputs(stack) if stack.get_type_name() == "Concat" else []


def _half(port: Any) -> list[Any]:
    """The ports that are put one behind the other in a half of the stack; none where it is made in another way."""
    node = port.get_node()
    if node.get_type_name() != "Unsqueeze":
        return []
    inner = node.input_value(0)
    return _inputs(inner.get_node()) if inner.get_node().get_type_name() == "Concat" else [inner]


def _inputs(node: Any) -> list[Any]:
    return [node.input_value(i) for i in range(node.get_input_size())]
