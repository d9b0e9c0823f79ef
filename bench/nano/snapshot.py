"""Writes a training state in the official checkpoint layout: python -m bench.nano.snapshot --state DIR --out DIR."""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from bagel_export.checkpoint.shards import VAE_WEIGHTS, WEIGHTS
from bagel_export.checkpoint.synthetic import write_configs
from bench.nano.pictures import RULE
from bench.nano.start import BEGUN, OF_TOKENS, model_config, vit_rule
from bench.nano.train import CONFIG


def write_snapshot(state: Path, out: Path, config: dict, done: bool = True) -> None:
    """The averaged weights and the VAE in bfloat16, configs and tokenizer; files that are there are replaced.

    done: else the step is noted, so that training from this checkpoint goes on with it.
    """
    saved = torch.load(state / "model.pt", map_location="cpu", weights_only=False)
    vae = torch.load(state / "vae-final.pt", map_location="cpu", weights_only=True)["vae"]
    average = {n.removeprefix("model."): v for n, v in saved["average"].items() if n.startswith("model.")}
    shape = model_config(config["model"], len(average[OF_TOKENS[0]]))
    out.mkdir(parents=True, exist_ok=True)
    write_configs(out, shape.llm, shape.vit, RULE, vit_rule(config))
    Tokenizer.from_file(str(state / "tokenizer.json")).save(str(out / "tokenizer.json"))
    save_file({name: _half(v) for name, v in average.items()}, out / WEIGHTS, {"format": "pt"})
    save_file({name: _half(v) for name, v in vae.items()}, out / VAE_WEIGHTS, {"format": "pt"})
    (out / BEGUN).unlink(missing_ok=True)
    if not done:
        (out / BEGUN).write_text(json.dumps({"step": saved["step"]}) + "\n", encoding="utf-8")


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
