"""Grouped-query attention without copies of keys and values, for OpenVINO.

Seen with 2026.4.1, each in every layer of every call:

* Its reader of ONNX expands grouped-query attention by repeating keys and values for every query head, seven times for
  the 7B. Here each key-value head becomes a batch of its own, (kv heads, 1, keys, dim), with its queries side by side,
  and nothing is repeated.
* It transposes and scales all keys before the product, which for a single query is most of the work. Here the queries
  are scaled, and MatMul reads the keys as they lie.
* An expert that gets no rows would still gather the whole context from the page pool for its attention. Here the
  gather takes no rows when there are no queries.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def share_keys(model: Any) -> int:
    """Rewrite every attention of a model that reads repeated keys and values; returns how many there were."""
    found = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() == "ScaledDotProductAttention" and _of_ours(node):
            keys, values = (_unrepeated(node.input_value(i)) for i in (1, 2))
            if keys is not None and values is not None:
                _count_unrepeated(node.input_value(1), keys)
                if not _masked(node):
                    keys, values = (_gathered_for(port, node.input_value(0)) for port in (keys, values))
                _attend(node, keys, values)
                found += 1
    if found:
        model.validate_nodes_and_infer_types()
    return found


def _unrepeated(port: Any) -> Any | None:
    """The keys or values (1, kv heads, rows, dim) before they are repeated for every query head (by Unsqueeze, Tile and
    Reshape); None where the port is made in another way."""
    for kind in ("Reshape", "Tile", "Unsqueeze"):
        node = port.get_node()
        if node.get_type_name() != kind:
            return None
        port = node.input_value(0)
    shape = port.get_partial_shape()
    known = shape.rank.is_static and shape.rank.get_length() == 4 and all(shape[i].is_static for i in (0, 1, 3))
    return port if known and shape[0].get_length() == 1 else None


def _count_unrepeated(repeated: Any, keys: Any) -> None:
    """Move the nodes that read the repeated keys' shape (to pad a mask to their number) to the keys themselves."""
    for target in list(repeated.get_target_inputs()):
        if target.get_node().get_type_name() == "ShapeOf":
            target.replace_source_output(keys)


def _of_ours(node: Any) -> bool:
    """Whether the mask, if there is one, is made of numbers to add to scores, as the reader of ONNX makes it."""
    boolean = node.get_input_size() > 3 and node.input_value(3).get_element_type().get_type_name() == "boolean"
    return not node.get_attributes()["causal"] and not boolean


def _masked(node: Any) -> bool:
    return node.get_input_size() > 3 and node.input_value(3).get_partial_shape().rank.get_length() > 0


def _gathered_for(port: Any, queries: Any) -> Any:
    """Keys or values (1, kv heads, rows, dim) that are gathered from the pool only if there are queries (1, heads, n,
    dim) to read them; the port itself where nothing is gathered."""
    from openvino import opset13 as ops

    unsqueeze = port.get_node()
    joined = unsqueeze.input_value(0).get_node()
    if unsqueeze.get_type_name() != "Unsqueeze" or joined.get_type_name() != "Concat":
        return port
    asked = ops.minimum(ops.gather(ops.shape_of(queries), [2], 0), np.array([1], np.int64))
    parts = [_gathered_if(part, asked) for part in joined.input_values()]
    return ops.unsqueeze(ops.concat(parts, joined.get_attributes()["axis"]), 0).output(0)


def _gathered_if(port: Any, asked: Any) -> Any:
    """A Gather by an index (kv heads, rows) made again with asked * rows of the index; other ports as they are.

    asked: (1,) int64, 1 where there are queries, else 0.
    """
    from openvino import opset13 as ops

    node = port.get_node()
    if node.get_type_name() == "Convert":
        return ops.convert(_gathered_if(node.input_value(0), asked), node.get_element_type().get_type_name()).output(0)
    if node.get_type_name() != "Gather":
        return port
    table, index, axis = node.input_values()
    stop = ops.multiply(ops.gather(ops.shape_of(index), [1], 0), asked)
    return ops.gather(table, ops.slice(index, [0], stop, [1], [1]), axis).output(0)


def _attend(node: Any, keys: Any, values: Any) -> None:
    """Replace the node by softmax(scale queries keys^T + mask) values, each key-value head with all its query heads."""
    from openvino import opset13 as ops

    heads = node.input_value(0).get_partial_shape()[1].get_length()
    shared, dim = (keys.get_partial_shape()[i].get_length() for i in (1, 3))
    kind = node.input_value(0).get_element_type()
    scale = node.input_value(4) if node.get_input_size() > 4 else ops.constant(dim**-0.5, kind)
    queries = ops.reshape(ops.multiply(node.input_value(0), scale), [shared, heads // shared, -1, dim], False)
    keys, values = (ops.reshape(port, [shared, 1, -1, dim], False) for port in (keys, values))
    scores = ops.matmul(queries, keys, False, True)
    if _masked(node):
        scores = ops.add(scores, node.input_value(3))
    attended = ops.matmul(ops.softmax(scores, -1), values, False, False)
    node.output(0).replace(ops.reshape(attended, [1, heads, -1, dim], False).output(0))
