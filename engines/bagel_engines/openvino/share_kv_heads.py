"""Attention without keys and values that nobody looks at, and without copies of them.

OpenVINO's reader of ONNX repeats keys and values up to the number of query heads before it attends: seven times for the
7B, in every layer, for every token. Its kernel needs no copies when a key head is a batch of its own with one head of
keys and all its heads of queries. Left to itself it also transposes and scales all keys first, which for one query is
most of the work: here queries are scaled, and the product reads keys as they lie. Where an expert has no rows, its
attention would still collect the context.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def share_keys(model: Any) -> int:
    """Take the repeats out of a model's attention; returns how many attentions had them."""
    found = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() == "ScaledDotProductAttention" and not node.get_attributes()["causal"]:
            keys, values = (_unrepeated(node.input_value(i)) for i in (1, 2))
            if keys is not None and values is not None:
                _count_unrepeated(node.input_value(1), keys)
                if not _masked(node):
                    keys, values = (_if_asked(port, node.input_value(0)) for port in (keys, values))
                _attend(node, keys, values)
                found += 1
    if found:
        model.validate_nodes_and_infer_types()
    return found


def _unrepeated(port: Any) -> Any | None:
    """What a port repeats, (1, kv heads, rows, dim); None where it is of another form."""
    for kind in ("Reshape", "Tile", "Unsqueeze"):
        node = port.get_node()
        if node.get_type_name() != kind:
            return None
        port = node.input_value(0)
    shape = port.get_partial_shape()
    known = shape.rank.is_static and shape.rank.get_length() == 4 and all(shape[i].is_static for i in (0, 1, 3))
    return port if known and shape[0].get_length() == 1 else None


def _count_unrepeated(repeated: Any, keys: Any) -> None:
    """Let who asks how many keys there are ask before they are repeated: a mask is padded to that length."""
    for target in list(repeated.get_target_inputs()):
        if target.get_node().get_type_name() == "ShapeOf":
            target.replace_source_output(keys)


def _masked(node: Any) -> bool:
    return node.get_input_size() > 3 and node.input_value(3).get_partial_shape().rank.get_length() > 0


def _if_asked(port: Any, queries: Any) -> Any:
    """Keys or values, (1, kv heads, rows, dim), whose gathered rows are left out when there are no queries (1, heads,
    0, dim); the port itself where nothing is gathered."""
    from openvino import opset13 as ops

    unsqueeze = port.get_node()
    joined = unsqueeze.input_value(0).get_node()
    if unsqueeze.get_type_name() != "Unsqueeze" or joined.get_type_name() != "Concat":
        return port
    asked = ops.minimum(ops.gather(ops.shape_of(queries), [2], 0), np.array([1], np.int64))
    parts = [_some(part, asked) for part in joined.input_values()]
    return ops.unsqueeze(ops.concat(parts, joined.get_attributes()["axis"]), 0).output(0)


def _some(port: Any, asked: Any) -> Any:
    """What a port gathers by an index (kv heads, rows), once more for all or none of the rows; others as they are."""
    from openvino import opset13 as ops

    node = port.get_node()
    if node.get_type_name() == "Convert":
        return ops.convert(_some(node.input_value(0), asked), node.get_element_type().get_type_name()).output(0)
    if node.get_type_name() != "Gather":
        return port
    table, index, axis = node.input_values()
    stop = ops.multiply(ops.gather(ops.shape_of(index), [1], 0), asked)
    return ops.gather(table, ops.slice(index, [0], stop, [1], [1]), axis).output(0)


def _attend(node: Any, keys: Any, values: Any) -> None:
    """softmax(scale queries keys^T + mask) values, over one head of keys and values for several of queries."""
    from openvino import opset13 as ops

    heads = node.input_value(0).get_partial_shape()[1].get_length()
    shared, dim = (keys.get_partial_shape()[i].get_length() for i in (1, 3))
    kind = node.input_value(0).get_element_type()
    scale = node.input_value(4) if node.get_input_size() > 4 else ops.constant(dim**-0.5, kind)
    queries = ops.reshape(ops.multiply(node.input_value(0), scale), [shared, heads // shared, -1, dim], False)
    keys, values = (ops.reshape(port, [shared, 1, -1, dim], False) for port in (keys, values))
    scores = ops.matmul(queries, keys, False, True)
    if _masked(node):
        scores = ops.add(scores, _added(node.input_value(3), kind))
    attended = ops.matmul(ops.softmax(scores, -1), values, False, False)
    node.output(0).replace(ops.reshape(attended, [1, heads, -1, dim], False).output(0))


def _added(mask: Any, kind: Any) -> Any:
    """What a mask adds to scores of some type."""
    from openvino import opset13 as ops

    if mask.get_element_type().get_type_name() != "boolean":
        return mask
    return ops.select(mask, ops.constant(0.0, kind), ops.constant(-np.inf, kind)).output(0)
