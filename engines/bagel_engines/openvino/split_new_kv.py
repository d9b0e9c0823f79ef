"""Makes every layer's new keys and values outputs of the model, for OpenVINO, and stacks them on the host.

A step graph stacks the new keys and values of all layers into one output (new_kv) at its end. OpenVINO (2026.4.1) lets
tensors of dynamic size share a buffer that grows to the largest of them. A layer's keys and values stay alive until the
stack is made, so each keeps its whole buffer occupied, which an MLP activation had used before: 4.2 GiB for 1024
latents of the 7B, where the keys and values themselves are 0.1 GiB. Outputs have buffers of their own, of their own
size.
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
    """The outputs that new_kv was split into: their names by half (keys, or values, of a layer).

    kept: the 16-bit type they are given out in where new_kv itself is float32; None: the type of new_kv.
    """

    halves: tuple[tuple[str, ...], ...]
    kept: str | None

    @property
    def names(self) -> list[str]:
        return [name for half in self.halves for name in half]

    def stacked(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """new_kv (halves, rows, heads, dim) put together again from the arrays of `names`, each (rows of one expert,
        heads, dim)."""
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
    """Replace the output new_kv by the tensors it is stacked from; None, and nothing changed, where it has no such
    form.

    arithmetic: what the model will compute in. 16-bit parts are given out as they are and widened on the host: a
    conversion at the graph's end would keep their buffers occupied like the stack did.
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
    """The tensors that one half of the stack is concatenated from; none where it is made in another way."""
    node = port.get_node()
    if node.get_type_name() != "Unsqueeze":
        return []
    inner = node.input_value(0)
    return _inputs(inner.get_node()) if inner.get_node().get_type_name() == "Concat" else [inner]


def _inputs(node: Any) -> list[Any]:
    return [node.input_value(i) for i in range(node.get_input_size())]
