"""Generation experts in pieces (BAGEL-MoE-7B-GEN-16to8, -32to16), known by their tensors, whose shapes say the sizes.

llm_config.json's top_k alone says how many pieces are picked for a row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bagel_export.checkpoint.packings.packed import Stored
from bagel_export.config import LLMConfig, SparseExperts
from bagel_rt.errors import CheckpointError

PIECE = re.compile(r"language_model\.model\.layers\.(\d+)\.mlp(_moe_gen)?\.experts\.(\d+)\.gate_proj\.weight")


def with_sparse_experts(path: Path, folder: Path, llm: LLMConfig, stored: Mapping[str, Stored]) -> LLMConfig:
    """The config with what the tensors say of pieces; as it is where there are none.

    Raises CheckpointError for pieces in the understanding expert, layers that differ, and a top_k that does not fit.
    """
    found: dict[int, int] = {}
    for key in stored:
        if match := PIECE.fullmatch(key):
            if not match[2]:
                raise CheckpointError(
                    f"{path}: tensor '{key}' is of an understanding expert in pieces, which is not read; export the"
                    " checkpoint whose generation expert alone is in pieces (BAGEL-MoE-7B-GEN)"
                )
            found[int(match[1])] = max(found.get(int(match[1]), 0), int(match[3]) + 1)
    if not found:
        return llm
    layers, counts = tuple(sorted(found)), set(found.values())
    if len(counts) > 1:
        raise CheckpointError(f"{path}: its layers have {min(counts)} to {max(counts)} pieces; one number is expected")
    count, at = counts.pop(), f"language_model.model.layers.{layers[0]}.mlp_moe_gen."
    if isinstance(llm.top_k, bool) or not isinstance(llm.top_k, int) or not 1 <= llm.top_k <= count:
        raise CheckpointError(
            f"{folder / 'llm_config.json'}: key 'top_k' is {llm.top_k!r}; 1 to {count} are expected: how many of the"
            f" {count} pieces of '{at}' are picked for a row"
        )
    piece, shared = (_inner(stored, f"{at}{name}.gate_proj.weight") for name in ("experts.0", "shared_expert"))
    return replace(llm, sparse=SparseExperts(layers, count, llm.top_k, piece, shared))


def _inner(stored: Mapping[str, Stored], key: str) -> int:
    return stored[key].shape[0] if key in stored and stored[key].shape else 0
