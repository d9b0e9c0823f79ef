"""Where files that engines make of an artefact are kept: TensorRT's plans, ONNX Runtime's packed weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bagel_engines.device.largest import LARGEST
from bagel_engines.device.linear_sums import SUM_GRAPHS
from bagel_rt.artefact.contract import graph_specs
from bagel_rt.artefact.folders import cache, home
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.errors import InputError
from bagel_rt.kv_cache.page_pool import CACHE_TOKENS, slots_for
from bagel_rt.tensorrt.profiles import Limits, largest, largest_profile, profiles, sum_profile

if TYPE_CHECKING:
    from bagel_engines.onnxruntime.packed_weights import PackedStore
    from bagel_engines.tensorrt.engine import Plans


def plans_for(
    manifest: Manifest,
    limits: Limits | None = None,
    pool_tokens: int = CACHE_TOKENS,
    budget: int | None = None,
    on_step: Callable[[str, str, int, int], None] | None = None,
) -> Plans:
    """Plans of an artefact, in the user's data folder: the artefact's own folder may be read-only.

    budget: bytes of weights that stay on the device while the rest is streamed; None keeps all there.
    """
    from bagel_engines.tensorrt.engine import Plans

    specs = graph_specs(manifest.model, manifest.arithmetic)
    chosen = limits or limits_of(manifest, None, None, None, pool_tokens)

    def profiles_of(graph: str) -> list[dict[str, tuple]]:
        if graph in SUM_GRAPHS:
            return [sum_profile(SUM_GRAPHS[graph], manifest.model, chosen)]
        if graph == LARGEST.stem:
            return [largest_profile(manifest.model)]
        return profiles(specs[graph], manifest.model, chosen)

    return Plans(plan_folder(manifest), manifest.fingerprint, profiles_of, budget, on_step)


def plan_folder(manifest: Manifest) -> Path:
    return home() / "plans" / f"{manifest.folder.resolve().name}-{manifest.fingerprint}"


def packed_for(manifest: Manifest) -> PackedStore:
    """Packed weights of an artefact, in the user's cache folder."""
    from bagel_engines.onnxruntime.packed_weights import PackedStore

    folder = cache() / "packed" / f"{manifest.folder.resolve().name}-{manifest.fingerprint}"
    sizes = {name: int(entry.get("weight_bytes", 0)) for name, entry in manifest.graphs.items()}
    return PackedStore(folder, manifest.fingerprint, sizes)


def limits_of(
    manifest: Manifest, max_height: int | None, max_width: int | None, max_context: int | None, pool_tokens: int
) -> Limits:
    """Limits for a build, unset ones as large as the model allows. Raises InputError for what it does not allow."""
    most, stride, pool_slots = largest(manifest.model), manifest.model.latent_stride, slots_for(pool_tokens)
    for name, value, top in (("max_height", max_height, most.max_height), ("max_width", max_width, most.max_width)):
        if value is not None and (value % stride or not stride <= value <= top):
            raise InputError(f"{name} {value} is not possible: multiples of {stride} up to {top} are")
    if max_context is not None and not 1 <= max_context <= pool_slots:
        raise InputError(f"max_context {max_context} is not possible: 1 to {pool_slots} (the page pool) are")
    context = min(most.max_context, pool_slots) if max_context is None else max_context
    return Limits(max_height or most.max_height, max_width or most.max_width, context, pool_slots)
