"""Twice the resolution and a convolution in one step, with less than half of the products.

Where every pixel is repeated twice each way and a 3 x 3 convolution follows, its nine products fall on four different
pixels. A transposed convolution of 4 x 4 with a stride of two, whose kernel holds the sums of those weights, gives the
same sums of four products, and the large picture in between is never made.
"""

from __future__ import annotations

from typing import Any

import numpy as np

REPEATING = {
    "mode": "nearest",
    "shape_calculation_mode": "scales",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}
# out[2i] = w0 x[i-1] + (w1 + w2) x[i] and out[2i+1] = (w0 + w1) x[i] + w2 x[i+1], as a kernel of four
SUMS = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)


def upsample_at_once(model: Any) -> int:
    """Join a model's doublings with the convolutions that follow them; returns how many there were."""
    found = [node for node in model.get_ordered_ops() if _follows_doubling(node)]
    for node in found:
        _join(node)
    if found:
        model.validate_nodes_and_infer_types()
    return len(found)


def _follows_doubling(node: Any) -> bool:
    if node.get_type_name() != "Convolution":
        return False
    before = node.input_value(0).get_node()
    attributes = node.get_attributes()
    plain = all(list(attributes[name]) == [1, 1] for name in ("strides", "dilations", "pads_begin", "pads_end"))
    kernel = node.input_value(1).get_partial_shape()
    known = kernel.is_static and list(kernel.to_shape())[2:] == [3, 3]
    return known and plain and before.get_type_name() == "Interpolate" and _doubles(before)


def _doubles(node: Any) -> bool:
    """Whether an Interpolate repeats every pixel twice each way."""
    attributes = node.get_attributes()
    factors = node.input_value(1).get_node()
    repeats = all(attributes[name] == value for name, value in REPEATING.items())
    return repeats and factors.get_type_name() == "Constant" and factors.get_data().tolist() == [1.0, 1.0, 2.0, 2.0]


def _join(node: Any) -> None:
    from openvino import opset13 as ops

    small = node.input_value(0).get_node().input_value(0)
    weights = ops.convert(ops.transpose(node.input_value(1), np.array([1, 0, 2, 3])), "f32")
    sums = ops.matmul(ops.matmul(SUMS, weights, False, False), SUMS, False, True)
    kernel = ops.convert(sums, small.get_element_type().get_type_name())
    risen = ops.convolution_backprop_data(small, kernel, [2, 2], pads_begin=[1, 1], pads_end=[1, 1])
    node.output(0).replace(risen.output(0))
