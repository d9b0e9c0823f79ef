"""Teaches bagel-nano a task more: python -m bench.nano.finetune --state DIR. Started again, it goes on where it was.

It begins with the checkpoint's own weights; the table [counting] of config.toml says how it trains, with the old tasks
beside the new one so that they are kept. bench.nano.snapshot makes a checkpoint of it.
"""

from __future__ import annotations

import argparse
import shutil
import tomllib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from bagel_export.checkpoint.shards import VAE_WEIGHTS, WEIGHTS
from bagel_export.training.unified import BagelForUnifiedMultimodal
from bagel_rt.artefact.manifest import ResizeRule
from bench.nano.pack import Packer
from bench.nano.state import State, stop_when_told
from bench.nano.train import CONFIG, PATCH, load_vae, model_config, train

CHECKPOINT = Path(__file__).with_name("bagel-nano")
TABLE = "counting"


def settings(config: dict[str, Any]) -> dict[str, Any]:
    return {**config["training"], **config[TABLE]}


def begin(checkpoint: Path, folder: Path) -> None:
    """The tokenizer and the VAE where training expects them."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(checkpoint / "tokenizer.json", folder / "tokenizer.json")
    vae = {name: values.float() for name, values in load_file(checkpoint / VAE_WEIGHTS).items()}
    torch.save({"vae": vae}, folder / "vae-final.pt")


def loaded(checkpoint: Path, config: dict[str, Any]) -> BagelForUnifiedMultimodal:
    """The model with the checkpoint's weights; every one of them must be there."""
    model = BagelForUnifiedMultimodal(model_config(config["model"]))
    model.model.load_state_dict({name: values.float() for name, values in load_file(checkpoint / WEIGHTS).items()})
    return model


def run(config: dict[str, Any], folder: Path, checkpoint: Path = CHECKPOINT, steps: int | None = None) -> None:
    begin(checkpoint, folder)
    vae = load_vae(folder / "vae-final.pt", config["vae"]["base_width"])
    side, how = config["model"]["vit_side"], settings(config)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    packer = Packer(tokenizer, model_config(config["model"]), ResizeRule(side, side, PATCH), how["draws"])
    train(loaded(checkpoint, config), vae, packer, how, State(folder, "model"), steps or how["steps"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, required=True, help="folder for checkpoints and logs")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="what it begins with")
    parser.add_argument("--steps", type=int, help="instead of the config's")
    args = parser.parse_args()
    stop_when_told()
    run(tomllib.loads(args.config.read_text()), args.state, args.checkpoint, args.steps)


if __name__ == "__main__":
    main()
