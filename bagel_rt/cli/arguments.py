"""Arguments shared by commands, made from the option dataclasses so that a default is written once."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from bagel_rt.artefact.folders import find_model
from bagel_rt.options.presets import PRESETS

if TYPE_CHECKING:
    from bagel_rt.api import Bagel

IMAGE_HELP = {
    "height": ("pixels, a multiple of 16 (default: from the input image, else the model's largest)", int),
    "width": ("pixels, a multiple of 16 (default: as for the height)", int),
    "cfg_text_scale": ("how strongly the text guides; 1: not at all", float),
    "cfg_img_scale": ("how strongly the input image guides; 1: not at all", float),
    "cfg_renorm_min": ("lowest factor of the renormalisation, 0 to 1", float),
    "cfg_renorm_type": ("global, channel or text_channel", str),
    "timestep_shift": ("above 1: more steps near the noise", float),
    "num_timesteps": ("points of the schedule; N points are N-1 evaluations", int),
    "step_cache": ("taylorseer: forecast two of three steps", str),
    "max_think_tokens": ("longest plan, in tokens", int),
    "text_temperature": ("of sampled text", float),
}
IMAGE_FLAGS = {
    "think": "write a plan before drawing",
    "do_sample": "sample the plan instead of taking the likeliest",
}
TEXT_HELP = {
    "max_tokens": ("longest answer, in tokens", int),
    "text_temperature": ("of sampled text", float),
    "top_k": ("sample among the k likeliest tokens", int),
    "top_p": ("sample among the likeliest tokens that reach this probability", float),
}
METAVARS = {int: "N", float: "X", str: "NAME"}
TEXT_FLAGS = {"think": "reason before answering", "do_sample": "sample instead of taking the likeliest token"}


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model and engine")
    group.add_argument(
        "--model", metavar="DIR", help="artefact, or bagel-nano (default: BAGEL_RT_MODEL, `bagel-rt use`, the bundled)"
    )
    group.add_argument("--backend", default="auto", help="auto, onnxruntime, openvino or tensorrt (default: auto)")
    group.add_argument("--device", default="cpu", help="cpu, or cuda or cuda:N with onnxruntime (default: cpu)")
    group.add_argument("--threads", type=int, metavar="N", help="engine threads (default: the engine's choice)")
    group.add_argument(
        "--arithmetic",
        help="faster, less exact: int8 (with int8 and int4 weights), bfloat16 (openvino; default: the artefact's own)",
    )
    group.add_argument("--cuda-graphs", action="store_true", help="capture denoising steps and play them (CUDA)")
    group.add_argument("--cache-tokens", type=int, metavar="N", help="tokens of context the page pool can hold")
    group.add_argument(
        "--low-memory", action="store_true", help="give the VAE's and the ViT's memory back after each use"
    )
    group.add_argument(
        "--max-memory", type=float, metavar="GIB", help="memory that may be taken (default: what is free)"
    )
    group.add_argument(
        "--packed-weights",
        action="store_true",
        help="map packed weights from the cache folder (onnxruntime on the CPU)",
    )


def add_option_arguments(parser: argparse.ArgumentParser, defaults: Any, helps: dict, flags: dict[str, str]) -> None:
    """--seed and one argument per option, with dashes; only options given on the command line reach the call."""
    group = parser.add_argument_group("options")
    group.add_argument("--seed", type=int, default=argparse.SUPPRESS, help="any integer (default: a new one, reported)")
    add_options_to(group, defaults, helps, flags)


def add_options_to(group: Any, defaults: Any, helps: dict, flags: dict[str, str]) -> None:
    """One argument per option in a group."""
    for name, (text, kind) in helps.items():
        value = getattr(defaults, name)
        shown = text if value is None else f"{text} (default: {value})"
        group.add_argument(_dashed(name), type=kind, default=argparse.SUPPRESS, help=shown, metavar=METAVARS[kind])
    for name, text in flags.items():
        group.add_argument(
            _dashed(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
        )  # --no-NAME switches off what a preset switched on


def add_preset_argument(parser: argparse.ArgumentParser, task: str) -> None:
    """--preset, with the names that have settings for this kind of call."""
    names = ", ".join(name for name, tasks in PRESETS.items() if task in tasks)
    parser.add_argument("--preset", metavar="NAME", help=f"settings of an official script: {names} (default: notebook)")


def given_options(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that were on the command line, by their Python names."""
    return {name: getattr(args, name) for name in (*names, "seed") if hasattr(args, name)}


def open_model(args: argparse.Namespace) -> Bagel:
    """Load the artefact the arguments name, and say on stderr which model and engine are used."""
    from bagel_rt.api import CACHE_TOKENS, load

    found = find_model(args.model)
    bagel = load(
        found.folder,
        args.backend,
        args.device,
        threads=args.threads,
        arithmetic=args.arithmetic,
        cuda_graphs=args.cuda_graphs,
        cache_tokens=CACHE_TOKENS if args.cache_tokens is None else args.cache_tokens,
        low_memory=args.low_memory,
        packed_weights=args.packed_weights,
        max_memory=args.max_memory,
    )
    print(f"bagel-rt: {bagel.manifest.name} in {found.folder} ({found.why}) on {bagel.engine}", file=sys.stderr)
    return bagel


def _dashed(name: str) -> str:
    return "--" + name.replace("_", "-")
