"""How much memory a workload takes: sizes from the manifest times the engine's factors (bagel_engines.memory_needs)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bagel_engines.memory_needs import Needs
from bagel_rt.artefact.contract import GEN_STEP, LM_HEAD, UND_STEP, VAE_DECODER, VAE_ENCODER, VIT
from bagel_rt.artefact.manifest import Manifest, Widths
from bagel_rt.estimate.counting_engine import Call
from bagel_rt.estimate.workload import Workload
from bagel_rt.model.graphs import BRIEF
from bagel_rt.model.vae_strips import in_strips, large, strips_memory

# the part (of precision.PARTS) whose weights a graph reads; weights of graphs that are not named are float
FORM_OF = {UND_STEP: "und", VIT: "vit", LM_HEAD: "head", VAE_ENCODER: "vae", VAE_DECODER: "vae"}


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for. Mapped weight files are not counted: the system can drop them."""

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def context(self) -> int:
        """Of the request's own keys and values; requests at once have the rest in common."""
        return sum(size for name, size in self.parts.items() if name.startswith("context"))


def memory(
    manifest: Manifest, widths: Widths, work: Workload, needs: Needs, low_memory: bool = False, adapters: int = 0
) -> Memory:
    """Memory at the peak of a workload.

    Engines keep every loaded graph and the working memory of its largest call, so these add up. With low_memory the
    VAE, the ViT and every call's working memory are given back after use, so only the largest counts. What decodes a
    large picture is given back in any case. adapters: bytes of those that the model was loaded with.
    """
    sizes = [_size(manifest, call) for call in work.of(VAE_DECODER)]
    weights = {graph: _weights(manifest, graph, needs, work) for graph in work.graphs}
    packing = weights.get(LM_HEAD, 0) if needs.lazy else 0  # the largest single weight, there twice while it is packed
    working = {graph: max(_working(manifest, widths, call, needs) for call in work.of(graph)) for graph in work.graphs}
    if any(in_strips(manifest, needs, *size) for size in sizes):
        weights[VAE_DECODER] = 0  # strips_memory includes the parts' weights
    once = {VAE_DECODER} if any(large(needs, *size) for size in sizes) else set()
    given_back = set(BRIEF) if low_memory else once
    steady = [graph for graph in work.graphs if graph not in given_back]
    brief = [weights[graph] + working[graph] for graph in work.graphs if graph in given_back]
    lasting = [working[graph] for graph in steady]
    busy = max([*brief, *lasting], default=0) if low_memory else sum(lasting) + max(brief, default=0)
    model = manifest.model
    token = 2 * model.num_hidden_layers * model.num_key_value_heads * model.head_dim * needs.number
    return Memory(
        {
            "program": needs.program + needs.graph * (len(steady) + bool(brief)),
            "weights": sum(weights[graph] for graph in steady),
            f"context, {work.tokens} tokens": work.tokens * token,
            "working": max(busy + work.held, packing),
            **({"adapters": adapters} if adapters else {}),
        }
    )


def _size(manifest: Manifest, call: Call) -> tuple[int, int]:
    """(height, width) in pixels of the picture that a call of the VAE's decoder makes."""
    scale = manifest.model.vae_downsample
    return scale * call["latent_height"], scale * call["latent_width"]


def _weights(manifest: Manifest, graph: str, needs: Needs, work: Workload) -> int:
    stored, forms = manifest.weights_of(graph), manifest.raw.get("weight_forms", {})
    if graph == GEN_STEP:
        und = manifest.weights_of(UND_STEP)
        drawn = not needs.lazy or any(call["gen_rows"] for call in work.of(GEN_STEP))
        gen = needs.weights(forms.get("gen", "float"), stored - und) if drawn else 0
        return needs.weights(forms.get("und", "float"), und) + gen
    form = forms.get(FORM_OF.get(graph, ""), "float")
    return needs.weights("conv8" if graph in (VAE_ENCODER, VAE_DECODER) and form == "int8" else form, stored)


def _working(manifest: Manifest, widths: Widths, call: Call, needs: Needs) -> int:
    model = manifest.model
    if call.graph in (UND_STEP, GEN_STEP):
        rows = call["und_rows"] + call["gen_rows"]
        sizes = (widths.inner, model.hidden_size, model.num_hidden_layers, model.num_attention_heads)
        return needs.step.size(rows, rows + call["past"], *sizes, 2 * model.num_key_value_heads * model.head_dim)
    if call.graph == VIT:
        rows = call["patches"]
        return needs.vit.size(rows, rows, widths.vit_inner, widths.vit_hidden, 1, widths.vit_heads)
    if call.graph == VAE_DECODER:
        high, wide = _size(manifest, call)
        if in_strips(manifest, needs, high, wide):
            return strips_memory(high, wide, widths.vae)
        return needs.decoder(high * wide, widths.vae)
    if call.graph == VAE_ENCODER:
        return int(needs.encoder_pixel * widths.vae * call["height"] * call["width"])
    return 0  # graphs that compute few rows: nothing beside the others' gigabytes
