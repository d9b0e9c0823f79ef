"""A training of bagel-nano that takes seconds: every table of bench/nano/config.toml, as small as it works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MODEL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_latent_size": 4, "rope_theta": 1e4, "timestep_shift": 2.0, "vit_hidden_size": 32,
    "vit_intermediate_size": 64, "vit_num_hidden_layers": 2, "vit_num_attention_heads": 2, "vit_side": 56,
    "vocabulary": 320, "corpus": 900, "seed": 0,
}  # fmt: skip
VAE = {
    "base_width": 32, "batch": 2, "pictures": 0.5, "scale_batches": 1, "steps": 2, "polish_steps": 1,
    "tune_steps": 2, "tune_rate": 1e-4,
    "polish_noise": 0.05, "learning_rate": 1e-3, "warmup": 2, "kl_weight": 1e-5, "mean_weight": 1e-2, "ema": 0.9,
    "seed": 1,
}  # fmt: skip
TRAINING = {
    "steps": 40, "decay_steps": 10, "warmup": 4, "muon_rate": 5e-3, "adam_rate": 5e-3, "weight_decay": 0.0,
    "ce_weight": 0.5, "hint_weight": 0.05, "ema": 0.9, "pool": 60, "first_fill": 20, "fresh": 4,
    "mix": {"draw": 6, "edit": 3, "ask": 4, "think": 2}, "draws": 2, "round": 8, "workers": 0, "fuse": False, "seed": 2,
}  # fmt: skip
SHARES = {"pictures": 0.3, "sentences": 0.3, "unknown": 0.1}
CONFIG = {"model": MODEL, "vae": VAE, "training": TRAINING, "shares": SHARES}


def written(config: dict[str, dict[str, Any]], file: Path) -> Path:
    """The config as a TOML file."""
    tables = (
        "\n".join([f"[{name}]", *(f"{k} = {_toml(v)}" for k, v in table.items())]) for name, table in config.items()
    )
    file.write_text("\n".join(tables) + "\n", encoding="utf-8")
    return file


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)
