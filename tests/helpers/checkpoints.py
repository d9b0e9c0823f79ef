"""Checkpoints and adapters as tests change and make them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bagel_rt.adapters.read import Lora

RANK, ALPHA = 3, 8.0
LAYER = "language_model.model.layers.0"
QUERY, GATE = f"{LAYER}.self_attn.q_proj", f"{LAYER}.mlp_moe_gen.gate_proj"
WEIGHTS = "adapter_model.safetensors"


def change_tensors(folder: Path, change: Callable[[dict], dict]) -> None:
    path = folder / "ema.safetensors"
    tensors = change({name: tensor.clone() for name, tensor in load_file(path).items()})
    path.unlink()
    save_file(tensors, path)


def pair(outputs: int, inputs: int, seed: int, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
    """lora_A (rank, in) and lora_B (out, rank)."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(rank, inputs, generator=random), torch.randn(outputs, rank, generator=random)


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor], **config) -> Lora:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / WEIGHTS)
    stated = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "use_dora": False, **config}
    (folder / "adapter_config.json").write_text(json.dumps(stated))
    return Lora(folder)


def of(module: str, a: torch.Tensor, b: torch.Tensor, root: str = "base_model.model.") -> dict[str, torch.Tensor]:
    return {f"{root}{module}.lora_A.weight": a, f"{root}{module}.lora_B.weight": b}
