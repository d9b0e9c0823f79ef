"""`python -m bagel_export.proof.record`: record a run of the official code, for `bagel-rt verify --record`.

For someone who has a checkout of the official repository with its requirements, the weights, and a CUDA machine.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bagel_export.checkpoint.open import Checkpoint, open_checkpoint
from bagel_export.proof.cases import picture
from bagel_export.proof.official import check_official_config, load_official
from bagel_export.proof.recorder import Recorder
from bagel_rt.errors import BagelError, InputError
from bagel_rt.files.output_files import check_file, write_by
from bagel_rt.inputs.pictures import open_image

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# the official notebook's settings
DRAW: dict[str, Any] = {
    "cfg_text_scale": 4.0,
    "cfg_img_scale": 1.0,
    "cfg_interval": [0.4, 1.0],
    "timestep_shift": 3.0,
    "num_timesteps": 50,
    "cfg_renorm_min": 0.0,
    "cfg_renorm_type": "global",
}
EDIT = DRAW | {"cfg_img_scale": 2.0, "cfg_interval": [0.0, 1.0], "cfg_renorm_type": "text_channel"}
SETTINGS = {"t2i": DRAW, "edit": EDIT, "understand": {"understanding_output": True, "do_sample": False}}
PROMPTS = {
    "t2i": "A red cube on a blue sphere.",
    "edit": "Make the sky green.",
    "understand": "What is in this image?",
}


@dataclass(frozen=True)
class Asked:
    """A call of the official `interleave_inference`: inputs in order (texts, uint8 images), and its keywords."""

    mode: str
    inputs: tuple[str | np.ndarray, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    seed: int = 42

    def describe(self) -> dict[str, Any]:
        """The case as a record states it."""
        inputs = [
            {"text": i} if isinstance(i, str) else {"image": {"size": [i.shape[1], i.shape[0]]}} for i in self.inputs
        ]
        return {"name": self.mode, "mode": self.mode, "seed": self.seed, "inputs": inputs, "kwargs": self.kwargs}


def record(
    checkout: Path, checkpoint: Checkpoint, asked: Asked, out: Path, device: str = "cuda", dtype: str = "bf16"
) -> None:
    """Run the official code once and write what every stage took and gave to `out`, which appears whole or not at all.

    Raises InputError for the checkout, the device, or the target.
    """
    check_target(out)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: no CUDA device is there; the official code needs one")
    check_official_config(checkpoint.folder)
    official = load_official(checkout, checkpoint, device, DTYPES[dtype])
    recorder = Recorder(official)
    _seed(asked.seed)
    with recorder.listening(), torch.no_grad():
        made = official.inferencer.interleave_inference([_input(i) for i in asked.inputs], **asked.kwargs)
    arrays = dict(recorder.arrays)
    arrays |= {f"input{i}.rgb": x for i, x in enumerate(asked.inputs) if not isinstance(x, str)}
    if drawn := [part for part in made if not isinstance(part, str)]:
        arrays["image"] = np.asarray(drawn[0])
    meta = {
        "case": asked.describe(),
        "texts": [part for part in made if isinstance(part, str)],
        "events": recorder.events,
        "dtype": dtype,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "official": _commit(checkout),
        "checkpoint": checkpoint.name,
        "torch": torch.__version__,
    }
    _write(out, arrays, meta)


def check_target(out: Path) -> None:
    if out.suffix != ".npz":
        raise InputError(f"{out}: a record is a .npz file; name it so")
    check_file(out)


def _input(item: str | np.ndarray) -> Any:
    return item if isinstance(item, str) else open_image(item)


def _seed(seed: int) -> None:
    """Seed every random generator as the official app does before a call."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)


def _write(out: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    meta_text = np.array(json.dumps(meta))
    write_by(out, lambda path: np.savez_compressed(path, **arrays, meta=meta_text))  # pyright: ignore[reportArgumentType]


def _commit(checkout: Path) -> str:
    """The checkout's commit, or "unknown" where git does not say."""
    asked = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bagel_export.proof.record",
        description="Record a run of the official BAGEL code, stage by stage, for bagel-rt verify --record.",
    )
    parser.add_argument(
        "--official", type=Path, required=True, metavar="CHECKOUT", help="clone of ByteDance-Seed/Bagel"
    )
    parser.add_argument("--ckpt", required=True, metavar="PATH", help="checkpoint folder or hub id")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    parser.add_argument("--mode", choices=list(SETTINGS), default="edit", help="edit passes every stage (default)")
    parser.add_argument("--prompt", help="default: one that suits the mode")
    parser.add_argument("--image", type=Path, metavar="FILE", help="input image (default: a small built-in scene)")
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="default: 42")
    parser.add_argument("--size", type=int, default=512, metavar="N", help="t2i: height and width (default: 512)")
    parser.add_argument("--num-timesteps", type=int, metavar="N", help="points of the schedule (default: 50)")
    parser.add_argument("--think", action="store_true", help="let it write a plan, or reason, first")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N", help="of written text (default: 64)")
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument(
        "--dtype", choices=list(DTYPES), default="bf16", help="of the weights (default: bf16, as there)"
    )
    return parser


def asked_for(args: argparse.Namespace) -> Asked:
    """The call the arguments describe."""
    kwargs = dict(SETTINGS[args.mode])
    if args.think or args.mode == "understand":
        kwargs["max_think_token_n"] = args.max_tokens
    if args.think:
        kwargs["think"] = True
    if args.mode != "understand" and args.num_timesteps is not None:
        kwargs["num_timesteps"] = args.num_timesteps
    prompt = PROMPTS[args.mode] if args.prompt is None else args.prompt
    if args.mode == "t2i":
        kwargs["image_shapes"] = [args.size, args.size]
        return Asked(args.mode, (prompt,), kwargs, args.seed)
    image = picture() if args.image is None else np.asarray(open_image(args.image))
    return Asked(args.mode, (image, prompt), kwargs, args.seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Record one run; returns the exit code: 0 done, 1 failed, 2 bad input."""
    try:
        args = build_parser().parse_args(argv)
        check_target(args.out)
        record(args.official, open_checkpoint(args.ckpt), asked_for(args), args.out, args.device, args.dtype)
    except BagelError as error:
        sys.stderr.write(f"bagel_export.proof.record: error: {error}\n")
        return error.exit_code
    except (KeyboardInterrupt, OSError) as error:
        sys.stderr.write(f"bagel_export.proof.record: {error or 'interrupted'}\n")
        return 1
    sys.stdout.write(f"{args.out}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
