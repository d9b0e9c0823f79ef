"""Attention whose query heads share keys and values, without a copy of these for every query head.

OpenVINO's reader of ONNX repeats keys and values up to the number of query heads before it attends: seven times for the
7B, in every layer, for every token. Its kernel needs no copies when a key head is a batch of its own with one head of
keys and all its heads of queries; every sum is the same.
"""

from __future__ import annotations

from typing import Any


def share_keys(model: Any) -> int:
    """Take the repeats out of a model's attention; returns how many it had."""
    found = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() == "ScaledDotProductAttention":
            keys, values = (_unrepeated(node.input_value(i)) for i in (1, 2))
            if keys is not None and values is not None:
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


def _attend(node: Any, keys: Any, values: Any) -> None:
    from openvino import opset13 as ops

    heads = node.input_value(0).get_partial_shape()[1].get_length()
    shared, dim = (keys.get_partial_shape()[i].get_length() for i in (1, 3))
    queries = ops.reshape(node.input_value(0), [shared, heads // shared, -1, dim], False)
    apart = [ops.reshape(port, [shared, 1, -1, dim], False) for port in (keys, values)]
    names = ("attention_mask", "scale")
    rest = {name: node.input_value(3 + i) for i, name in enumerate(names) if node.get_input_size() > 3 + i}
    attended = ops.scaled_dot_product_attention(queries, *apart, causal=node.get_attributes()["causal"], **rest)
    whole = ops.reshape(attended, [1, heads, -1, values.get_partial_shape()[3].get_length()], False)
    node.output(0).replace(whole.output(0))
