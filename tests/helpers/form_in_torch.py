"""Runs a VAE's form for CUDA in PyTorch, node by node: in float32, and rounded to the node's type behind each, as
CUDA's kernels do it. (ONNX Runtime's CPU leaves such rounding out where it can.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from bagel_engines.onnxruntime.cuda_form import CudaForm, made_values

TYPES = {TensorProto.FLOAT: torch.float32, TensorProto.FLOAT16: torch.float16}
LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def run(form: CudaForm, graph: Path, given: dict[str, np.ndarray], change: Any = None) -> np.ndarray:
    """The form's only output. change: done to the model and its weights before."""
    model = onnx.load_from_string(form.model)
    weights = {name: array for name, (array, _) in made_values(graph, form, ()).items()}
    if change:
        change(model, weights)
    values = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in (weights | given).items()}
    with torch.inference_mode():
        for node in model.graph.node:
            how = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            made = OPERATORS[node.op_type](how, *(values.get(name) for name in node.input))
            values.update(zip(node.output, made if isinstance(made, tuple) else (made,), strict=True))
    return values[model.graph.output[0].name].numpy()


def _convolved(how: dict, x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    top, left, bottom, right = how["pads"]
    wide = F.pad(x.float().permute(FIRST), (left, right, top, bottom))
    return F.conv2d(wide, w.float().permute(FIRST), bias.float(), how["strides"]).permute(LAST).to(x.dtype)


def _normed(how: dict, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    out = F.group_norm(x.float().permute(FIRST), how["groups"], scale, bias, how["epsilon"]).permute(LAST)
    return (F.silu(out) if how["activation"] else out).to(x.dtype)


def _sum_normed(how: dict, x: Tensor, scale: Tensor, bias: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
    added = x + skip
    return _normed(how, added, scale, bias), added


def _normed_first(how: dict, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.group_norm(x.float(), how["num_groups"], scale.float(), bias.float(), how["epsilon"]).to(x.dtype)


def _enlarged(_: dict, x: Tensor, none: None, scales: Tensor) -> Tensor:
    assert scales.tolist() == [1, 2, 2, 1]
    return x.repeat_interleave(2, 1).repeat_interleave(2, 2)


def _attended(_: dict, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


OPERATORS: dict[str, Any] = {
    "Constant": lambda how: torch.from_numpy(np.array(numpy_helper.to_array(how["value"]))),
    "Cast": lambda how, x: x.to(TYPES[how["to"]]),
    "Transpose": lambda how, x: x.permute(how["perm"]),
    "Shape": lambda how, x: torch.tensor(x.shape),
    "Reshape": lambda how, x, shape: x.reshape(shape.tolist()),
    "Add": lambda how, a, b: a + b,
    "QuickGelu": lambda how, x: F.silu(x.float()).to(x.dtype),
    "NhwcConv": _convolved,
    "GroupNorm": _normed,
    "SkipGroupNorm": _sum_normed,
    "GroupNormalization": _normed_first,
    "Resize": _enlarged,
    "Attention": _attended,
}
