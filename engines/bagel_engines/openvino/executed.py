"""What a compiled OpenVINO model runs its matrix products in: read from the model, whatever was asked for."""

from __future__ import annotations

from collections import Counter
from typing import Any

FORMATS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "i8": "int8", "u8": "int8"}


def products(compiled: Any) -> Counter[str]:
    """How many products with weights (FullyConnected nodes) a model computes in which format.

    The kernel's name ends in it: "brgemm_avx512_amx_bf16", "brgemm_avx512_i8", "undef_f32". What the model calls a
    node's precision is that of its weights where those are compressed. Rows that a kernel rounds by itself (dynamic
    quantisation) do not show here: the name ends in the format they come in (arithmetic.rounds_rows tells).
    """
    found: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        told = node.get_rt_info()
        if _text(told, "layerType") == "FullyConnected":
            kind = _text(told, "primitiveType").rpartition("_")[2].lower()
            found[FORMATS.get(kind, kind or "unknown")] += 1
    return found


def differing(found: Counter[str], *claimed: str) -> str:
    """In words, how many products run in another format than the claimed ones; empty where none does."""
    others = {name: count for name, count in sorted(found.items()) if name not in claimed}
    told = " and ".join(f"{count} in {name}" for name, count in others.items())
    return f"of {found.total()} products {told}" if others else ""


def _text(told: Any, key: str) -> str:
    if key not in told:
        return ""
    value = told[key]
    return str(value.astype(str) if hasattr(value, "astype") else value)
