"""Writes a training state in the official checkpoint layout: python -m bench.nano.snapshot --state DIR --out DIR."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from bagel_export.checkpoint.shards import VAE_WEIGHTS, WEIGHTS
from bagel_export.checkpoint.synthetic import write_configs
from bagel_rt.artefact.manifest import ResizeRule
from bench.nano.train import CONFIG, PATCH, model_config
from bench.nano.world import SIDE


def write_snapshot(state: Path, out: Path, config: dict) -> None:
    """The averaged weights and the VAE in bfloat16, configs and tokenizer; files that are there are replaced."""
    shape, side = model_config(config["model"]), config["model"]["vit_side"]
    out.mkdir(parents=True, exist_ok=True)
    write_configs(out, shape.llm, shape.vit, ResizeRule(SIDE, SIDE, 16), ResizeRule(side, side, PATCH))
    Tokenizer.from_file(str(state / "tokenizer.json")).save(str(out / "tokenizer.json"))
    average = torch.load(state / "model.pt", weights_only=False)["average"]
    vae = torch.load(state / "vae-final.pt", weights_only=True)["vae"]
    save_file({k.removeprefix("model."): _half(v) for k, v in average.items()}, out / WEIGHTS, {"format": "pt"})
    save_file({k: _half(v) for k, v in vae.items()}, out / VAE_WEIGHTS, {"format": "pt"})


def _half(values: Tensor) -> Tensor:
    return values.bfloat16().contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG)
    args = parser.parse_args()
    write_snapshot(args.state, args.out, tomllib.loads(args.config.read_text()))


if __name__ == "__main__":
    main()
