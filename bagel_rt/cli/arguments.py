"""Arguments shared by commands, made from the option dataclasses so that a default is written once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bagel_rt.artefact.folders import find_model
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.cli.progress import loading
from bagel_rt.cli.terminal import words
from bagel_rt.errors import InputError
from bagel_rt.files.text_files import read_prompt
from bagel_rt.files.typed_paths import typed_path
from bagel_rt.inputs.picture_sizes import Sizes
from bagel_rt.options.fields import options_of
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.options.presets import PRESETS

if TYPE_CHECKING:
    from bagel_rt.api import Bagel

Read = TypeVar("Read")


def argument(read: Callable[[str], Read]) -> Callable[[str], Read]:
    """A reader of an argument whose refusals argparse repeats as they are."""

    def refusing(given: str) -> Read:
        try:
            return read(given)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return refusing


text_argument: Callable[[str], str] = argument(words)
path_argument: Callable[[str], Path] = argument(typed_path)
prompt_file_argument: Callable[[str], str] = argument(lambda given: read_prompt(typed_path(given)))

SYSTEM: dict[str, Any] = {"type": prompt_file_argument, "metavar": "FILE"}  # such texts are long
# how the values of an option are read, by its type
KINDS: dict[str, dict[str, Any]] = {
    "int": {"type": int, "metavar": "N"},
    "float": {"type": float, "metavar": "X"},
    "str": {"type": text_argument, "metavar": "TEXT"},
    "bool": {"action": argparse.BooleanOptionalAction},  # the negative form undoes what a preset sets
    "tuple[str, ...]": {"type": text_argument, "nargs": "+", "metavar": "TEXT"},
    "tuple[float, float]": {"type": float, "nargs": 2, "metavar": ("LO", "HI")},
}


def add_model_arguments(parser: argparse.ArgumentParser, switches: bool = True) -> None:
    """switches: with adapters that calls choose from."""
    group = parser.add_argument_group("model and engine")
    group.add_argument(
        "--model", metavar="DIR", help="artefact, or bagel-nano (default: BAGEL_RT_MODEL, `bagel-rt use`, the bundled)"
    )
    group.add_argument(
        "--key",
        type=path_argument,
        metavar="FILE",
        help="public key: refuse an artefact not signed with its other half",
    )
    group.add_argument("--backend", default="auto", help="auto, onnxruntime, openvino or tensorrt (default: auto)")
    group.add_argument("--device", default="cpu", help="cpu, or cuda or cuda:N with onnxruntime (default: cpu)")
    group.add_argument("--threads", type=int, metavar="N", help="engine threads (default: the engine's choice)")
    group.add_argument(
        "--arithmetic",
        help="faster, less exact: auto (what `bagel-rt ways` measured), int8 or int8-rows (int8 and int4 weights), bf16"
        " (openvino); default: auto for large quantised artefacts, else the artefact's own",
    )
    group.add_argument(
        "--cuda-graphs",
        action=argparse.BooleanOptionalAction,
        help="capture denoising steps and play them (CUDA; default: with onnxruntime)",
    )
    group.add_argument("--exact-vae", action="store_true", help="the VAE in float32 (onnxruntime on CUDA, 16 bits)")
    group.add_argument("--cache-tokens", type=int, metavar="N", help="tokens of context the page pool can hold")
    group.add_argument(
        "--low-memory", action="store_true", help="give the VAE's and the ViT's memory back after each use"
    )
    group.add_argument(
        "--max-memory", type=float, metavar="GIB", help="memory that may be taken (default: what is free)"
    )
    if switches:
        add_adapters_argument(group)
    group.add_argument(
        "--packed-weights",
        action="store_true",
        help="map packed weights from the cache folder (onnxruntime on the CPU)",
    )


def add_adapters_argument(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--lora",
        dest="switched",
        action="append",
        type=argument(named_adapter),
        metavar="[NAME=]PATH",
        help="load an adapter, to be chosen by its name (repeatable; onnxruntime and openvino on the CPU)",
    )


def named_adapter(given: str) -> tuple[str, Path]:
    """NAME=PATH, or a path whose last part is the name."""
    name, equals, path = given.partition("=")
    found = typed_path(path if equals else given)
    return (name if equals else found.stem if found.is_file() else found.name), found


def adapters_of(args: argparse.Namespace) -> dict[str, Path]:
    """The adapters that are to be loaded, by name. Raises InputError for two of one name."""
    found: dict[str, Path] = {}
    for name, path in getattr(args, "switched", None) or ():
        if name in found:
            raise InputError(f"--lora: two adapters are called {name}: {found[name]} and {path}; give one a NAME=PATH")
        found[name] = path
    return found


def chosen_adapter(args: argparse.Namespace, given: dict[str, Any]) -> dict[str, Any]:
    """The options of a call, with all adapters that were loaded for it where none is chosen."""
    loaded = adapters_of(args)
    return given if "adapter" in given or not loaded else {**given, "adapter": dict.fromkeys(loaded, 1.0)}


def option_names(options: Any, images: bool = True) -> list[str]:
    """The options (of a call with these defaults) that the command line has; images: also those of input images."""
    return [one.name for one in options_of(options) if one.on_command_line and (images or not one.images)]


def add_options_to(group: Any, options: Any, names: Sequence[str]) -> None:
    """An argument for each of these options; only what is given on the command line reaches the call."""
    for one in options_of(options):
        if one.name in names:
            kind = SYSTEM if one.name == "system" else KINDS.get(one.type.removesuffix(" | None"), {"metavar": "NAME"})
            text = one.text if one.default is None else f"{one.text} (default: {_spelled(one.default)})"
            group.add_argument(_dashed(one.name), default=argparse.SUPPRESS, help=text, **kind)


def _spelled(default: Any) -> str:
    """A default as it would be typed; a flag as yes or no."""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def add_preset_argument(parser: argparse.ArgumentParser, task: str) -> None:
    """--preset, with the names that have settings for this kind of call."""
    names = ", ".join(name for name, tasks in PRESETS.items() if task in tasks)
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"settings of an official script: {names} (default: those the model brings, else notebook's)",
    )


def given_options(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Those of the options that were on the command line, by their Python names."""
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def check_size(args: argparse.Namespace, options: ImageOptions) -> None:
    """Refuse, before a model is loaded, a size that it cannot draw. Raises InputError naming the nearest it can."""
    Sizes(read_manifest(find_model(args.model).folder)).asked(options)


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
        exact_vae=args.exact_vae,
        cache_tokens=CACHE_TOKENS if args.cache_tokens is None else args.cache_tokens,
        low_memory=args.low_memory,
        packed_weights=args.packed_weights,
        max_memory=args.max_memory,
        priority=getattr(args, "priority", "tokens"),
        queue_length=getattr(args, "queue_length", None),
        queue_seconds=getattr(args, "queue_seconds", None),
        key=args.key,
        adapters=adapters_of(args),
        on_progress=loading(),
    )
    print(f"bagel-rt: {bagel.manifest.name} in {found.folder} ({found.why}) on {bagel.engine}", file=sys.stderr)
    return bagel


def _dashed(name: str) -> str:
    return "--" + name.replace("_", "-")
