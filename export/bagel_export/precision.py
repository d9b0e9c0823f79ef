"""The precisions of an artefact: how weights are stored, and what its graphs compute in."""

from __future__ import annotations

from dataclasses import dataclass

from bagel_export.checkpoint import VAE_PREFIX
from bagel_rt.errors import ExportError


@dataclass(frozen=True)
class Precision:
    """`name` is what the manifest says; dtypes by numpy's names and "bfloat16".

    arithmetic: inside the graphs and of the cached keys and values; vae: inside the VAE's two graphs; int8: whether the
    weights of Linear layers and convolutions are rounded to 8 bits (arithmetic stays). tolerance: largest relative L2
    from the reference in float32 on the same rounded weights; measured errors are a tenth of it or less.
    """

    name: str
    arithmetic: str
    vae: str
    tolerance: float
    int8: bool = False

    def stored(self, tensor: str) -> str:
        """What a tensor of that name is stored in where it is not quantised."""
        return self.vae if tensor.startswith(VAE_PREFIX) else self.arithmetic


PRECISIONS = {
    "fp32": Precision("float32", "float32", "float32", 1e-4),
    "bf16": Precision("bfloat16", "bfloat16", "bfloat16", 6e-2),
    "fp16": Precision("float16", "float16", "float32", 1e-2),  # a VAE's activations can exceed what float16 holds
    "int8": Precision("int8", "float32", "float32", 1e-4, int8=True),
}


def precision_named(name: str) -> Precision:
    """Raises ExportError for a name that is unknown."""
    if name not in PRECISIONS:
        raise ExportError(f"precision {name!r} is unknown; allowed: {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
