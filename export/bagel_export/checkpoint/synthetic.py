"""A small random BAGEL in the official checkpoint layout: for demos, tests and benchmarks, of any shape."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from bagel_export.checkpoint.shards import VAE_WEIGHTS, WEIGHTS
from bagel_export.config import BagelConfig, LLMConfig, ViTConfig
from bagel_export.reference.bagel import BagelModel, sincos_table
from bagel_export.reference.vae import AutoEncoder
from bagel_rt.artefact.manifest import SPECIAL_TOKENS, ResizeRule

# how Qwen2's tokenizer cuts text before merging bytes
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


SMALL_LLM = LLMConfig(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=272,
    max_position_embeddings=4096,
    rms_norm_eps=1e-6,
    rope_theta=1e6,
)
SMALL_VIT = ViTConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    patch_size=14,
    image_size=224,
)
TAGS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
# so many random numbers are drawn; a larger tensor repeats them, so that the released size takes minutes, not hours
DRAWN_ONCE = 1 << 22
SMALL_VAE_IMAGES, SMALL_VIT_IMAGES = ResizeRule(128, 64, 16), ResizeRule(112, 56, 14)


@dataclass(frozen=True)
class Shape:
    """What to vary; the rest follows BAGEL."""

    llm: LLMConfig = SMALL_LLM
    vit: ViTConfig = SMALL_VIT
    max_latent_size: int = 16
    vae_base_width: int = 32
    vae_transform: ResizeRule = SMALL_VAE_IMAGES
    vit_transform: ResizeRule = SMALL_VIT_IMAGES
    dtype: torch.dtype = torch.float32
    seed: int = 0

    def with_llm(self, **values) -> Shape:
        return replace(self, llm=replace(self.llm, **values))


# BAGEL-7B-MoT as released: 14.6 billion parameters, 29.2 GB in bfloat16
RELEASED = Shape(
    llm=LLMConfig(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
    ),
    vit=ViTConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        patch_size=14,
        image_size=980,
    ),
    max_latent_size=64,
    vae_base_width=128,
    vae_transform=ResizeRule(1024, 512, 16),
    vit_transform=ResizeRule(980, 224, 14),
    dtype=torch.bfloat16,
)


def write_checkpoint(folder: Path, shape: Shape | None = None) -> Path:
    """Write configs, tokenizer and random weights; files that are there are replaced. Returns the folder."""
    shape = shape or Shape()
    model, vae = without_weights(folder, shape)
    random, weights = np.random.default_rng(shape.seed), model.state_dict()
    if shape.llm.tie_word_embeddings:
        del weights["language_model.lm_head.weight"]
    _write_tensors(folder / WEIGHTS, weights, random, shape.dtype)
    _write_tensors(folder / VAE_WEIGHTS, vae.state_dict(), random, torch.float32)
    return folder


def without_weights(folder: Path, shape: Shape) -> tuple[BagelModel, AutoEncoder]:
    """Write configs and tokenizer. Returns the model and the VAE that such weights are for, which hold no numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    write_configs(folder, shape.llm, shape.vit, shape.vae_transform, shape.vit_transform)
    byte_tokenizer(shape.llm.vocab_size).save(str(folder / "tokenizer.json"))
    config = BagelConfig(
        shape.llm, shape.vit, max_latent_size=shape.max_latent_size, vit_max_num_patch_per_side=shape.vit.grid
    )
    with torch.device("meta"):
        return BagelModel(config), AutoEncoder(shape.vae_base_width)


def write_configs(folder: Path, llm: LLMConfig, vit: ViTConfig, for_vae: ResizeRule, for_vit: ResizeRule) -> None:
    """llm_config.json, vit_config.json and preprocessor_config.json as an official checkpoint has them."""
    _write_json(folder / "llm_config.json", {"model_type": "qwen2", "hidden_act": "silu", **_stated(llm)})
    _write_json(folder / "vit_config.json", {"model_type": "siglip_vision_model", **asdict(vit)})
    rules = {"vae_transform": for_vae, "vit_transform": for_vit}
    sizes = ("max_size", "min_size", "stride")
    _write_json(folder / "preprocessor_config.json", {k: {s: getattr(r, s) for s in sizes} for k, r in rules.items()})


def _stated(llm: LLMConfig) -> dict[str, Any]:
    """The config as files state it: of experts in pieces, the keys that LLM-Drop's checkpoints have."""
    values, sparse = asdict(llm), llm.sparse
    del values["sparse"], values["top_k"]
    if sparse is None:
        return values
    layers = [i in sparse.layers for i in range(llm.num_hidden_layers)]
    counts = {"num_experts": sparse.count, "num_shared_experts": int(bool(sparse.shared)), "top_k": sparse.top_k}
    return {**values, "transformed_gen": layers, "transformed_und": False, **counts}


def byte_tokenizer(vocab_size: int) -> Tokenizer:
    """Byte-level BPE without merges: 256 bytes, then the special tokens; as many rows as `vocab_size` must hold."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t in ("<|endoftext|>", *SPECIAL_TOKENS.values())]
    )
    if tokenizer.get_vocab_size() > vocab_size:
        raise ValueError(f"vocab_size {vocab_size} is less than the tokenizer's {tokenizer.get_vocab_size()}")
    return tokenizer


def safetensors_header(tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> tuple[bytes, int]:
    """What a safetensors file of these tensors begins with, and how many bytes follow."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * dtype.itemsize
        header[name] = {"dtype": TAGS[dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, end


def _write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], random: np.random.Generator, dtype: torch.dtype
) -> None:
    """A safetensors file of random values, one piece of one tensor in memory at a time."""
    header, _ = safetensors_header(tensors, dtype)
    with path.open("wb") as stream:
        stream.write(header)
        for name, tensor in tensors.items():
            for values in _pieces(name, tuple(tensor.shape), random):
                stream.write(values.to(dtype).contiguous().view(torch.uint8).numpy().data)


def _pieces(name: str, shape: tuple[int, ...], random: np.random.Generator) -> Iterator[torch.Tensor]:
    """A tensor's values, flat and in order."""
    if name.endswith("pos_embed.pos_embed"):
        yield sincos_table(math.isqrt(shape[0]), shape[1]).reshape(-1)
    elif math.prod(shape) <= DRAWN_ONCE:
        yield torch.from_numpy(_values(name, shape, random)).reshape(-1)
    else:
        columns = math.prod(shape[1:])
        rows = max(1, DRAWN_ONCE // columns)
        drawn = torch.from_numpy(_values(name, (rows, *shape[1:]), random)).reshape(-1)
        for first in range(0, shape[0], rows):
            yield drawn[: (min(first + rows, shape[0]) - first) * columns]


def _values(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    x = random.standard_normal(shape, np.float32)
    if "norm" in name.split(".")[-2] and name.endswith("weight"):
        return 1 + np.float32(0.1) * x
    if name.endswith("bias"):
        return np.float32(0.05) * x
    if "embed" in name:
        return x
    fan_in = int(np.prod(shape[1:]))
    return x * np.float32(1.2 / math.sqrt(fan_in))


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
