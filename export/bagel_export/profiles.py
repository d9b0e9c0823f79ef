"""Optimisation profiles of the graphs: which sizes a built engine must take (decode, prefill, denoise)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bagel_export.onnx_graph import sizes_for
from bagel_rt.contract import GEN_STEP, UND_STEP, VAE_DECODER, GraphSpec

Span = tuple[int, int, int]  # smallest, usual, largest

DECODE = {"und_rows": (1, 1, 8), "gen_rows": (0, 0, 0), "past": (0, 512, 8192)}  # never 1..1: weights stored twice
PREFILL = {"und_rows": (1, 256, 4902), "gen_rows": (0, 0, 0), "past": (0, 512, 8192)}
DENOISE = {"und_rows": (2, 2, 2), "gen_rows": (1, 1024, 4096), "past": (0, 64, 9216)}
UND_ONLY = [{k: v for k, v in p.items() if k != "gen_rows"} for p in (DECODE, PREFILL)]
LATENT_ROWS = {"gen_rows": (1, 1024, 4096)}
PICTURE = {"latent_height": (2, 64, 128), "latent_width": (2, 64, 128)}

SPANS: dict[str, Sequence[Mapping[str, Span]]] = {
    GEN_STEP: [DECODE, PREFILL, DENOISE],
    UND_STEP: UND_ONLY,
    VAE_DECODER: [PICTURE],
}


def profiles(spec: GraphSpec, halves: int, pool_slots: int = 32768) -> list[dict[str, tuple]]:
    """For each way a graph is used: every dynamic input's smallest, usual and largest shape."""
    found = []
    for spans in SPANS.get(spec.name, [LATENT_ROWS]):
        shapes = [
            sizes_for(spec, {**{k: span[i] for k, span in spans.items()}, "pool_slots": pool_slots}, halves)
            for i in range(3)
        ]
        dynamic = [t.name for t in spec.inputs if any(isinstance(d, str) for d in t.shape)]
        found.append({name: tuple(s[name] for s in shapes) for name in dynamic})
    return found
