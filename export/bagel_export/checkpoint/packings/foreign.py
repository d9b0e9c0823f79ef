"""Forms that are not read, by the keys that give them away: what the file is, and what to use instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bagel_export.checkpoint.packings.packed import Stored
from bagel_rt.errors import CheckpointError


@dataclass(frozen=True)
class Foreign:
    """A form that is refused: how its keys look, what it is, what to use."""

    keys: re.Pattern[str]
    what: str
    instead: str


LANCE = "Lance or another relative of BAGEL with another ViT and VAE (Qwen2.5-VL's, Wan 2.2's), which is another model"
USE_BAGEL = "use a checkpoint of BAGEL itself, or one fine-tuned from it"
# rows of a layer that makes latents: 48 channels of Wan 2.2's VAE, where BAGEL has 2 x 2 patches of 16
HEAD, WAN = re.compile(r"(.*\.)?llm2vae\.weight"), 48
BF16 = "use the bf16 weights that it was made from"
FOREIGN = (
    Foreign(
        re.compile(r"(.*\.)?(encoded_exponent|sign_mantissa)"),
        "DFloat11, whose Huffman-coded exponents are read by its own CUDA program",
        f"{BF16} (ByteDance-Seed/BAGEL-7B-MoT): they hold the very same numbers",
    ),
    Foreign(
        re.compile(r"(.*\.)?(visual|vit_model)\.(blocks|merger|patch_embed)\..+"),
        LANCE,
        USE_BAGEL,
    ),
    Foreign(
        re.compile(r".+\.SCB"),
        "bitsandbytes' 8-bit form (LLM.int8)",
        f"{BF16} with --precision int8, or an NF4 file",
    ),
    Foreign(re.compile(r".+\.weight_packed"), "packed by compressed-tensors", f"{BF16} with --precision int4"),
    Foreign(re.compile(r".+\.biases"), "packed by MLX", f"{BF16} with --precision int4"),
    Foreign(re.compile(r".+\.weight_scale_2"), "NVFP4", f"{BF16} with --precision int4"),
    Foreign(
        re.compile(r".+\.(smooth_factor|proj_down|smooth)"), "SVDQuant (Nunchaku)", f"{BF16} with --precision int4"
    ),
)


def check_known(stored: Mapping[str, Stored]) -> None:
    """Raise CheckpointError for a form that is known and not read."""
    for key, tensor in stored.items():
        if HEAD.fullmatch(key) and tensor.shape[:1] == (WAN,):
            raise _refusal(tensor, key, LANCE, USE_BAGEL)
        for form in FOREIGN:
            if form.keys.fullmatch(key):
                raise _refusal(tensor, key, form.what, form.instead)


def _refusal(tensor: Stored, key: str, what: str, instead: str) -> CheckpointError:
    return CheckpointError(f"{tensor.file}: tensor '{key}' shows that this is {what}: it is not read; {instead}")
