"""Names of an adapter's tensors: peft's, diffusers' and kohya's, with what tools put in front of them."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

# modules that wrap another one, anywhere in a model: torch.compile, FSDP, activation checkpointing
WRAPPER = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
DOWN, UP, ALPHA, MAGNITUDE = "down", "up", "alpha", "magnitude"  # the parts of one matrix's update
PEFT_NAMES = {DOWN: "lora_A", UP: "lora_B", ALPHA: "alpha", MAGNITUDE: "lora_magnitude_vector"}
PREFIXES = re.compile(r"(?:module\.|base_model\.model\.|transformer\.|diffusion_model\.|unet\.)+")
FLAT = re.compile(r"lora_(?:unet|transformer|te\d*)_(?=[^.]+$)")  # kohya: dots of the module's name are underscores
PART = re.compile(
    r"(?P<module>.+?)\.(?:"
    r"lora_(?P<embedding>embedding_)?(?P<letter>[AB])"  # peft, diffusers
    r"|lora(?:_linear_layer)?[._](?P<way>down|up)"  # kohya, diffusers before peft
    r"|(?P<magnitude>lora_magnitude_vector|dora_scale)|(?P<alpha>alpha))"
    r"(\.(?P<adapter>(?!weight|bias)[^.]+))?(\.weight)?"
)
KINDS = {  # other kinds of adapters, by what their keys hold
    r"\.hada_[wt]": "LoHa",
    r"\.lokr_[wt]": "LoKr",
    r"\.(oft_|boft_|oft_R)": "OFT",
    r"\.lora_mid\.": "LoCon with a third matrix",
    r"\.(a1|a2|b1|b2|c1|c2)\.weight$": "GLoRA",
    r"\.(ia3_l|on_input)": "IA3",
    r"\.vera_lambda": "VeRA",
    r"\.diff(_b)?$": "whole differences (LyCORIS full)",
}


@dataclass(frozen=True)
class Part:
    """What a key says: a part of the update of `module`; `adapter`, the name that peft may put into it."""

    module: str
    part: str  # DOWN, UP, ALPHA or MAGNITUDE
    embedding: bool
    adapter: str


def bare(key: str) -> str:
    """A key without what wraps a model or holds an adapter."""
    name = WRAPPER.sub("", key)
    prefix = PREFIXES.match(name)
    return WRAPPER.sub("", name[prefix.end() :]) if prefix else name


def part_of(key: str) -> Part | None:
    """What a bare key says; None for a tensor that is whole."""
    match = PART.fullmatch(key)
    if match is None:
        return None
    found = match.groupdict()
    part = {"A": DOWN, "B": UP}.get(found["letter"]) or found["way"] or (MAGNITUDE if found["magnitude"] else ALPHA)
    return Part(found["module"], part, bool(found["embedding"]), found["adapter"] or "")


def kind_of(key: str) -> str | None:
    """The kind of adapter that a key belongs to where it is not LoRA or DoRA."""
    return next((kind for pattern, kind in KINDS.items() if re.search(pattern, key)), None)


def candidate(name: str, names: Collection[str]) -> str | None:
    """The checkpoint's name of a tensor that an adapter names from the root of whatever was trained."""
    roots = (name, name.removeprefix("model."), f"language_model.{name}", f"language_model.model.{name}")
    return next((root for root in roots if root in names), None)


def of_flat(module: str, names: Collection[str]) -> list[str]:
    """The weights that a module of kohya's layout may be, whose dots are underscores; more than one is ambiguous."""
    bare_name = FLAT.sub("", module)
    if bare_name == module:
        return []
    flat = {name: name.removesuffix(".weight").replace(".", "_") for name in names if name.endswith(".weight")}
    wanted = {root + bare_name for root in ("", "language_model_", "language_model_model_")} | {
        bare_name.removeprefix("model_")
    }
    return sorted(name for name, form in flat.items() if form in wanted)
