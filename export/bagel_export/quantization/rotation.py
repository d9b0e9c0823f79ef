"""Rotation: large numbers among what a weight multiplies are spread over their neighbours before both are rounded.

x W^T = (x R) (W R)^T for an orthonormal R. R is a Hadamard matrix in blocks along the diagonal, as QuaRot (arXiv
2404.00456, section 4) does before its down projections: silu(gate) * up has a few numbers many times the others,
different ones in every row, so that no factor per input (smoothing.py) can make them smaller.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LARGEST, LEAST = 128, 16  # inputs of a block; fewer than LEAST spread too little to be worth the nodes
# the weights whose inputs have outliers; after a norm or attention there are few, and rotating those changed no error
HEAVY_TAILED = "down_proj"


def rotation_for(name: str, form: str, inputs: int) -> int:
    """Inputs to a block for a weight of that name and form, a power of two that divides them; 0 for no rotation.

    fp8 is as exact for large numbers as for small ones, so it gains nothing.
    """
    if form != "w8a8" or HEAVY_TAILED not in name.split("."):
        return 0
    block = min(inputs & -inputs, LARGEST)
    return block if block >= LEAST else 0


def hadamard(size: int) -> np.ndarray:
    """The orthonormal symmetric matrix of that power of two (Sylvester's construction), float32."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.sqrt(np.float32(size))


def rotated(x: Tensor, block: int) -> Tensor:
    """x R for x (rows, inputs)."""
    return (x.reshape(-1, block) @ torch.from_numpy(hadamard(block))).reshape(x.shape)
