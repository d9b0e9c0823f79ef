"""What an export does to each tensor of a checkpoint (type, rounding, smoothing), decided before anything is
written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bagel_export.checkpoint.open import EMBEDDING, LM_HEAD
from bagel_export.checkpoint.tensors import SourceTensor
from bagel_export.quantization.formats import FORMATS
from bagel_export.quantization.precision import Precision
from bagel_export.quantization.quantize import FP8_LARGEST, LEAST_ROW, LEVELS, Layout, dequantize, layout_for, quantize
from bagel_export.quantization.rotation import rotated, rotation_for
from bagel_export.reference.streamed import Rounding

# tables, of which rows are looked up and none multiplied; and the ViT's patch embedding, whose errors reach everything
LEFT_ALONE = ("embed_tokens", "position_embedding", "pos_embed", "patch_embedding")


@dataclass(frozen=True)
class Treatment:
    """What is done to one tensor.

    stored: a key of formats.FORMATS for the tensor, or for its scales where it is quantised (then `layout` is set).
    columns, rows: factors of a smoothing (smoothing.py), applied before rounding. A weight is multiplied by columns
    (inputs,); the tensor that makes its inputs is divided by rows (outputs,), so the product stays the same.
    rotated: block size of the rotation (rotation.py) of a Linear's weight and of what it multiplies; 0 for none.
    importance (inputs,): weight of each input's rounding error, for int4. reach: the largest absolute value that the
    weight is expected to multiply, for fp8.
    """

    stored: str
    layout: Layout | None = None
    columns: np.ndarray | None = field(default=None, repr=False)
    rows: np.ndarray | None = field(default=None, repr=False)
    rotated: int = 0
    importance: np.ndarray | None = field(default=None, repr=False)
    reach: float | None = None

    @property
    def as_it_is(self) -> bool:
        """Whether the checkpoint's numbers are kept, but for their type."""
        return self.layout is None and self.columns is None and self.rows is None and not self.rotated

    def prepared(self, weight: np.ndarray, inputs: slice = slice(None)) -> np.ndarray:
        """The float32 weight, or these inputs of it, as it is rounded: with columns and rows applied, then rotated.

        Columns and rows are applied in place.
        """
        if self.columns is not None:
            weight *= self.columns[inputs]
        if self.rows is not None:
            weight /= self.rows.reshape(-1, *[1] * (weight.ndim - 1))
        return rotated(torch.from_numpy(weight), self.rotated).numpy() if self.rotated else weight


Recipe = Mapping[str, Treatment]


def treatment_of(tensor: SourceTensor, precision: Precision) -> Treatment:
    """The treatment of a tensor without what a calibration adds (smoothing, reach, importance)."""
    stored = precision.stored(tensor.name)
    name = tensor.name.split(".")
    if name[-1] != "weight" or name[-2] in LEFT_ALONE:
        return Treatment(stored)
    layout = layout_for(precision.form(tensor.name), tensor.shape)
    return Treatment(stored, layout, rotated=rotation_for(tensor.name, layout.form, tensor.shape[1]) if layout else 0)


def recipe_for(tensors: Mapping[str, SourceTensor], precision: Precision) -> dict[str, Treatment]:
    """The treatments by tensor name, without what a calibration adds."""
    recipe = {name: treatment_of(tensor, precision) for name, tensor in tensors.items()}
    if any(form != "float" for form in precision.forms.values()) and _is_a_bf16_table(tensors):
        recipe[EMBEDDING] = Treatment("bfloat16")  # half the room, nothing lost
    return recipe


def _is_a_bf16_table(tensors: Mapping[str, SourceTensor]) -> bool:
    """Whether the token table is stored in bfloat16 and read by the host alone: no graph is tied to it."""
    table = tensors[EMBEDDING]
    return table.stored.dtype == "BF16" and table.update is None and LM_HEAD in tensors


@dataclass(frozen=True)
class Treated:
    """A source tensor as the artefact keeps it: what a graph of it must compute with."""

    source: SourceTensor
    treatment: Treatment

    def array(self) -> np.ndarray:
        """float32, shaped as in the checkpoint."""
        weight, how = self.treatment.prepared(self.source.array()), self.treatment
        if how.layout is None:
            return weight.astype(FORMATS[how.stored].dtype, copy=False).astype(np.float32, copy=False)
        return dequantize(*quantize(weight, how.layout, how.importance, how.stored), how.layout)

    @property
    def rounding(self) -> Rounding | None:
        """What happens to the rows that the weight multiplies."""
        form = self.treatment.layout.form if self.treatment.layout else ""
        if form == "w8a8":
            block = self.treatment.rotated
            return (lambda x: rounded_by_row(rotated(x, block))) if block else rounded_by_row
        reach = self.treatment.reach
        return (lambda x: rounded_to_fp8(x, reach)) if form == "fp8" and reach else None


def rounded_by_row(x: Tensor) -> Tensor:
    """Rows (n, inputs) rounded to 8-bit integers, each row scaled so that its largest number is 127."""
    step = x.abs().amax(-1, keepdim=True).clamp_min(LEAST_ROW) / LEVELS["w8a8"]
    return torch.round(x / step) * step


def rounded_to_fp8(x: Tensor, reach: float) -> Tensor:
    """Rows rounded to 8-bit floats, scaled so that the largest of them is `reach`; larger numbers are clipped to it."""
    step = reach / FP8_LARGEST
    return (x / step).clamp(-FP8_LARGEST, FP8_LARGEST).to(torch.float8_e4m3fn).float() * step
