"""TensorRT optimisation profiles: for each graph, and each way it is used, the ranges of its dynamic input shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bagel_engines.device.largest import ROWS
from bagel_rt.artefact.contract import (
    FLOW_EMBED,
    FLOW_HEAD,
    GEN_STEP,
    LM_HEAD,
    UND_STEP,
    VAE_DECODER,
    VAE_ENCODER,
    VIT,
    GraphSpec,
    ModelDims,
    input_shapes,
)
from bagel_rt.artefact.example_inputs import SIZES
from bagel_rt.kv_cache.page_pool import CACHE_TOKENS, slots_for

Span = tuple[int, int, int]  # smallest, usual, largest
Spans = Mapping[str, Span]
DECODE_ROWS = 8  # not 1: for a profile of exactly one row TensorRT-RTX 1.7.1 stores the weights twice
# sizes that plans are compared at: small, mostly odd, and more rows than the profile for decoding takes
EXAMPLE = {**SIZES, "und_rows": DECODE_ROWS + 3}
IMAGE_ROWS = 4902  # the longest segment prefilled at once: ViT tokens of the largest picture and two markers


@dataclass(frozen=True)
class Limits:
    """The largest request: picture in pixels, context in tokens, slots in the page pool."""

    max_height: int
    max_width: int
    max_context: int = 9216
    pool_slots: int = slots_for(CACHE_TOKENS)


def largest(model: ModelDims) -> Limits:
    """The largest picture the model's tables allow."""
    side = model.latent_stride * model.max_latent_size
    return Limits(side, side)


def profiles(spec: GraphSpec, model: ModelDims, limits: Limits) -> list[dict[str, tuple]]:
    """For each way a graph is used: dynamic input -> (smallest, usual, largest shape)."""
    found = []
    for spans in _spans(spec.name, model, limits):
        sizes = [{**{k: span[i] for k, span in spans.items()}, "pool_slots": limits.pool_slots} for i in range(3)]
        shapes = [input_shapes(spec, size, 2 * model.num_hidden_layers) for size in sizes]
        dynamic = [t.name for t in spec.inputs if any(isinstance(d, str) for d in t.shape)]
        found.append({name: tuple(s[name] for s in shapes) for name in dynamic})
    return found


def sum_profile(names: Sequence[str], model: ModelDims, limits: Limits) -> dict[str, tuple]:
    """The profile of a graph of device/linear_sums.py (step caching): shapes (rows, hidden) of these inputs."""
    return {name: tuple((n, model.hidden_size) for n in _up_to(_latents(model, limits))) for name in names}


def largest_profile(model: ModelDims) -> dict[str, tuple]:
    """The profile of device/largest.py: logits of the rows that the head takes at once."""
    return {ROWS: tuple((rows, model.vocab_size) for rows in (1, 1, DECODE_ROWS))}


def example_sizes(graph: str, model: ModelDims, limits: Limits) -> Iterator[dict[str, int]]:
    """Sizes to compare a plan at: for each profile the smallest sizes it takes, and some a little larger.

    Sizes that an earlier profile would take as well are left out, as the engine would use that one.
    """
    tried: list[dict[str, int]] = []
    for place, spans in enumerate(_spans(graph, model, limits)):
        for wanted in ({}, EXAMPLE):
            sizes = {name: min(max(wanted.get(name, low), low), high) for name, (low, _, high) in spans.items()}
            if sizes not in tried and _first(graph, model, limits, sizes) == place:
                tried.append(sizes)
                yield {**sizes, "pool_slots": limits.pool_slots}


def _first(graph: str, model: ModelDims, limits: Limits, sizes: Mapping[str, int]) -> int:
    """The number of the first profile that takes these sizes."""
    for place, spans in enumerate(_spans(graph, model, limits)):
        if all(low <= sizes[name] <= high for name, (low, _, high) in spans.items()):
            return place
    raise ValueError(f"{graph} takes no sizes such as {dict(sizes)}")


def _spans(graph: str, model: ModelDims, limits: Limits) -> Sequence[Spans]:
    latents, context = _up_to(_latents(model, limits)), limits.max_context
    decode = {"und_rows": (1, 1, DECODE_ROWS), "past": (0, min(512, context), context)}
    prefill = {"und_rows": _up_to(min(IMAGE_ROWS, context)), "past": (0, min(512, context), context)}
    none = {"gen_rows": (0, 0, 0)}
    patches = model.vit_grid**2
    down = model.vae_downsample
    high, wide = limits.max_height // down, limits.max_width // down
    stride = model.latent_patch_size
    return {
        UND_STEP: [decode, prefill],
        GEN_STEP: [
            {**decode, **none},
            {**prefill, **none},
            {"und_rows": (2, 2, 2), "gen_rows": latents, "past": (0, min(64, context), context)},
        ],
        FLOW_EMBED: [{"gen_rows": latents}],
        FLOW_HEAD: [{"gen_rows": latents}],
        LM_HEAD: [{"und_rows": (1, 1, DECODE_ROWS)}],
        VIT: [{"patches": _up_to(patches)}],
        VAE_DECODER: [{"latent_height": _from(stride, high), "latent_width": _from(stride, wide)}],
        VAE_ENCODER: [
            {"height": _from(stride * down, limits.max_height), "width": _from(stride * down, limits.max_width)}
        ],
    }[graph]


def _latents(model: ModelDims, limits: Limits) -> int:
    """Latent tokens of the largest picture."""
    return (limits.max_height // model.latent_stride) * (limits.max_width // model.latent_stride)


def _up_to(most: int) -> Span:
    return (1, max(1, most // 4), most)


def _from(least: int, most: int) -> Span:
    return (least, max(least, most // 2), most)
