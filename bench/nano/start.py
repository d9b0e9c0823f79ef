"""Where training begins: from nothing, or with a checkpoint's weights, with its tokens or with new ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from bagel_export.checkpoint.shards import VAE_WEIGHTS, WEIGHTS
from bagel_export.config import BagelConfig, LLMConfig, ViTConfig
from bagel_export.training.unified import BagelForUnifiedMultimodal
from bagel_rt.artefact.manifest import ResizeRule
from bench.nano.hints import Heads
from bench.nano.shares import Shares
from bench.nano.state import State
from bench.nano.tokenizer import train_tokenizer
from bench.nano.train_vae import BEGUN as VAE_BEGUN

PATCH = 14
OF_TOKENS = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")  # a row for each
VAES = ("keep", "polish", "tune")  # as it is; train its decoder further; both halves, then the decoder
BEGUN = "training.json"  # in a checkpoint that is not done: the step it was at


def model_config(sizes: dict[str, Any], vocabulary: int | None = None) -> BagelConfig:
    """vocabulary: how many tokens, where a state folder says so; else the config's."""
    llm = LLMConfig(
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        num_hidden_layers=sizes["num_hidden_layers"],
        num_attention_heads=sizes["num_attention_heads"],
        num_key_value_heads=sizes["num_key_value_heads"],
        vocab_size=vocabulary or sizes["vocabulary"],
        max_position_embeddings=4096,
        rms_norm_eps=1e-6,
        rope_theta=sizes["rope_theta"],
    )
    side = sizes["vit_side"]
    vit = ViTConfig(
        hidden_size=sizes["vit_hidden_size"],
        intermediate_size=sizes["vit_intermediate_size"],
        num_hidden_layers=sizes["vit_num_hidden_layers"],
        num_attention_heads=sizes["vit_num_attention_heads"],
        patch_size=PATCH,
        image_size=side,
    )
    return BagelConfig(
        llm,
        vit,
        max_latent_size=sizes["max_latent_size"],
        vit_max_num_patch_per_side=vit.grid,
        timestep_shift=sizes["timestep_shift"],
    )


def vit_rule(config: dict[str, Any]) -> ResizeRule:
    side = config["model"]["vit_side"]
    return ResizeRule(side, side, PATCH)


def prepare(config: dict[str, Any], folder: Path, checkpoint: Path | None, new_tokens: bool, vae: str) -> None:
    """What a new state folder begins with: tokenizer.json and, of a checkpoint, its VAE. What is there stays.

    vae: one of VAES: what is to become of the checkpoint's on the pictures that config says; or the file of another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens, final = folder / "tokenizer.json", State(folder, "vae-final")
    if not tokens.exists():
        if checkpoint and not new_tokens:
            shutil.copyfile(checkpoint / "tokenizer.json", tokens)
        else:
            sizes = config["model"]
            train_tokenizer(sizes["vocabulary"], sizes["seed"], shares(config), sizes["corpus"]).save(str(tokens))
    if checkpoint and not final.path.exists():
        file = checkpoint / VAE_WEIGHTS if vae in VAES else Path(vae)
        values = in_float32(file)
        if vae == "tune":
            State(folder, VAE_BEGUN).put(vae=values)
        else:
            final.put(vae=values, polished=0 if vae == "polish" else config["vae"]["polish_steps"])


def in_float32(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    return {name: value.float() for name, value in load_file(file).items()}


def shares(config: dict[str, Any], of_a_lesson: dict[str, float] | None = None) -> Shares:
    return Shares(**config["shares"] | (of_a_lesson or {}))


def first_model(config: dict[str, Any], folder: Path, checkpoint: Path | None) -> BagelForUnifiedMultimodal:
    """As it is before its first step here: random, or with all of a checkpoint's weights."""
    torch.manual_seed(config["model"]["seed"])
    if checkpoint is None:
        return hinted(BagelForUnifiedMultimodal(model_config(config["model"])))
    weights = in_float32(checkpoint / WEIGHTS)
    old, new = (Tokenizer.from_file(str(path / "tokenizer.json")) for path in (checkpoint, folder))
    size = len(weights[OF_TOKENS[0]])
    if old.get_vocab() != new.get_vocab():
        size = config["model"]["vocabulary"]
        weights |= {name: moved_rows(weights[name], old, new, size) for name in OF_TOKENS}
    model = BagelForUnifiedMultimodal(model_config(config["model"], size))
    model.model.load_state_dict(weights)
    return hinted(model)


def hinted(model: BagelForUnifiedMultimodal) -> BagelForUnifiedMultimodal:
    """With the heads that only training has."""
    model.add_module("hints", Heads(model.config.llm.hidden_size))
    return model


def moved_rows(rows: Tensor, old: Tokenizer, new: Tokenizer, size: int) -> Tensor:
    """A row for each of `size` new tokens: the same token's, else the mean of those that spelt it before."""
    known, out = old.get_vocab(), torch.zeros(size, rows.shape[1])
    for token, at in new.get_vocab().items():
        spelt = [known[token]] if token in known else _spelling(token, known)
        out[at] = rows[spelt].mean(0)
    return out


def _spelling(token: str, known: dict[str, int]) -> list[int]:
    """The longest known tokens that make it up, from the left. Single bytes are always known."""
    found, at = [], 0
    while at < len(token):
        end = next(end for end in range(len(token), at, -1) if token[at:end] in known)
        found.append(known[token[at:end]])
        at = end
    return found


def first_step(checkpoint: Path | None) -> int:
    """Where a checkpoint that is not done goes on; 0 for one that says nothing."""
    file = checkpoint / BEGUN if checkpoint else None
    return json.loads(file.read_text(encoding="utf-8"))["step"] if file and file.exists() else 0
