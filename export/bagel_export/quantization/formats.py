"""One number format under the names that safetensors, numpy and ONNX have for it."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir


@dataclass(frozen=True)
class Format:
    tag: str  # in a safetensors header
    dtype: np.dtype
    onnx: ir.DataType


FORMATS = {
    "float32": Format("F32", np.dtype(np.float32), ir.DataType.FLOAT),
    "bfloat16": Format("BF16", np.dtype(ml_dtypes.bfloat16), ir.DataType.BFLOAT16),
    "float16": Format("F16", np.dtype(np.float16), ir.DataType.FLOAT16),
    "int8": Format("I8", np.dtype(np.int8), ir.DataType.INT8),
    # two in a byte, which safetensors has no name for
    "int4": Format("U8", np.dtype(ml_dtypes.int4), ir.DataType.INT4),
    "fp8": Format("F8_E4M3", np.dtype(ml_dtypes.float8_e4m3fn), ir.DataType.FLOAT8E4M3FN),
}
