"""Random inputs of the right form for any graph of the contract: to compare engines, time calls and test graphs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bagel_engines import Engine, Tensor
from bagel_rt.artefact.contract import GraphSpec, input_shapes

SIZES = {
    "patches": 12,
    "und_rows": 4,
    "gen_rows": 9,
    "past": 21,
    "pool_slots": 40,
    "height": 64,
    "width": 48,
    "latent_height": 8,
    "latent_width": 6,
    "rows": 5,
    "columns": 14,
}


def example_inputs(
    spec: GraphSpec, halves: int, seed: int = 0, sizes: Mapping[str, int] = SIZES
) -> dict[str, np.ndarray]:
    """Random but well-formed inputs: unit rotations, distinct slots, a mask that lets every query see itself.

    sizes: values of the contract's symbols. Arrays are float32 also where the graph takes 16 bits (convert with
    number_formats.narrowed).
    """
    random = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    shapes = input_shapes(spec, sizes, halves)
    for tensor in spec.inputs:
        shape = shapes[tensor.name]
        if tensor.name == "slots":
            arrays[tensor.name] = random.permutation(sizes["pool_slots"])[: shape[0]].astype(np.int64)
        elif tensor.name == "position_ids":
            arrays[tensor.name] = np.arange(shape[0], dtype=np.int64)
        elif tensor.name == "mask":
            arrays[tensor.name] = np.tril(np.ones(shape, bool), sizes["past"])
        elif tensor.name == "time":
            arrays[tensor.name] = np.full(shape, 0.7, np.float32)
        elif tensor.name.endswith(("_cos", "_sin")):
            angles = np.arange(shape[0])[:, None] * 0.3 ** np.arange(shape[1] // 2)[None]
            half = np.cos(angles) if tensor.name.endswith("cos") else np.sin(angles)
            arrays[tensor.name] = np.concatenate([half, half], axis=1).astype(np.float32)
        else:
            arrays[tensor.name] = random.standard_normal(shape).astype(np.float32)
    return arrays


def cached(engine: Engine, pool: np.ndarray, halves: int) -> Tensor:
    """A page pool (halves * slots, heads, dim) written into a cache of the engine. Given as an array instead, the
    engine might convert it in every call."""
    by_half = pool.reshape(halves, -1, *pool.shape[1:])
    cache = engine.cache(halves, by_half.shape[1], (pool.shape[1], pool.shape[2]), pool.dtype)
    cache.write(np.arange(by_half.shape[1]), by_half)
    return cache.tensor
