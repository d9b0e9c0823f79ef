"""Fuses 2x nearest-neighbour upsampling with the 3 x 3 convolution behind it, for OpenVINO.

The VAE's decoder repeats every pixel twice each way and convolves. A 3 x 3 window then covers only 2 x 2 different
pixels, so its nine products fall on four. A transposed convolution with a 4 x 4 kernel of summed weights and stride 2
computes the same from four products, and the upsampled picture is never made. Only the order of sums differs.
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
# in one dimension: out[2i] = w0 x[i-1] + (w1 + w2) x[i] and out[2i+1] = (w0 + w1) x[i] + w2 x[i+1]; this matrix times
# (w0, w1, w2) is the kernel of four with which a transposed convolution of stride 2 computes both
SUMS = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)


def upsample_at_once(model: Any) -> int:
    """Fuse each 2x upsampling of a model with the 3 x 3 convolution that follows; returns how many were fused."""
    found = [node for node in model.get_ordered_ops() if _follows_upsampling(node)]
    for node in found:
        _fuse(node)
    if found:
        model.validate_nodes_and_infer_types()
    return len(found)


def _follows_upsampling(node: Any) -> bool:
    if node.get_type_name() != "Convolution":
        return False
    before = node.input_value(0).get_node()
    attributes = node.get_attributes()
    plain = all(list(attributes[name]) == [1, 1] for name in ("strides", "dilations", "pads_begin", "pads_end"))
    kernel = node.input_value(1).get_partial_shape()
    known = kernel.is_static and list(kernel.to_shape())[2:] == [3, 3]
    return known and plain and before.get_type_name() == "Interpolate" and _is_doubling(before)


def _is_doubling(node: Any) -> bool:
    """Whether an Interpolate repeats every pixel twice each way."""
    attributes = node.get_attributes()
    factors = node.input_value(1).get_node()
    repeats = all(attributes[name] == value for name, value in REPEATING.items())
    return repeats and factors.get_type_name() == "Constant" and factors.get_data().tolist() == [1.0, 1.0, 2.0, 2.0]


def _fuse(node: Any) -> None:
    from openvino import opset13 as ops

    small = node.input_value(0).get_node().input_value(0)
    weights = ops.convert(ops.transpose(node.input_value(1), np.array([1, 0, 2, 3])), "f32")
    sums = ops.matmul(ops.matmul(SUMS, weights, False, False), SUMS, False, True)
    kernel = ops.convert(sums, small.get_element_type().get_type_name())
    risen = ops.convolution_backprop_data(small, kernel, [2, 2], pads_begin=[1, 1], pads_end=[1, 1])
    node.output(0).replace(risen.output(0))
