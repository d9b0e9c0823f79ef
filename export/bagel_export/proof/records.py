"""Recorded runs of the official code: one NumPy archive per run, as bagel_export.proof.record writes them.

| key | content |
|---|---|
| `input{n}.rgb` | the input image as given, uint8 (n: its place in the list of inputs) |
| `text_ids{n}` | token ids of each text segment, in order |
| `vae_encode{n}.in / moments / latent`, `vit{n}.pixels / pos_ids / out / connector / rows` | image encoders |
| `ctx{n}.hidden_in / hidden_out / positions` | each context pass, in order |
| `kv.cond / cfg_text / cfg_img .len, .k, .v` | before drawing [layers, tokens, KV heads, dim]; k, v if small |
| `noise{n}.*` | every random draw, in order |
| `flow.x_t, t, v, v_cond, v_text, v_img, scales` | every step; NaN where a branch was not run |
| `final_latent`, `vae_decode.in / out`, `image` | the result; image is uint8 |
| `text{n}.kv_before.*, returned_ids, logits, argmax` | text decoding |
| `meta` | JSON: the case, the texts, the order of events, the type the run computed in |
"""

from __future__ import annotations

import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from bagel_export.proof.cases import Case, Trace
from bagel_rt.errors import InputError
from bagel_rt.files.text_files import parse_json
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.options.text_options import TextOptions

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
MODES = ("t2i", "edit", "interleave", "text", "understand")
RENAMED = {"max_think_token_n": ("max_tokens", "max_think_tokens")}  # official name: of an answer, of a plan


def read_record(path: Path) -> tuple[Case, Trace, str]:
    """A record's case, what it holds, and the type it was computed in. Raises InputError naming file and key."""
    try:
        with np.load(path) as stored:
            trace = {key: stored[key] for key in stored.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such record") from None
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a record, or cut off: {error}") from None
    try:
        meta = parse_json(str(trace.pop("meta")))
        case = _case(meta["case"], trace)
        precision = PRECISIONS[meta["dtype"]]
    except KeyError as error:
        raise InputError(f"{path}: not a recorded run: key {error} is missing or unknown") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a recorded run: {error}") from None
    _check_stages(path, case, trace)
    if "vit0.pixels" in trace and "vit0.rows" not in trace:
        _add_vit_rows(path, trace, meta.get("events", []))
    return case, trace, precision


def _case(asked: dict[str, Any], trace: Trace) -> Case:
    if asked["mode"] not in MODES:
        raise ValueError(f"mode {asked['mode']!r}; allowed: {', '.join(MODES)}")
    items = tuple(item["text"] if "text" in item else trace[f"input{i}.rgb"] for i, item in enumerate(asked["inputs"]))
    kwargs = dict(asked["kwargs"])
    text = bool(kwargs.pop("understanding_output", False))
    for official, names in RENAMED.items():
        if official in kwargs:
            kwargs[names[0] if text else names[1]] = kwargs.pop(official)
    if (shape := kwargs.pop("image_shapes", None)) is not None:
        kwargs["height"], kwargs["width"] = shape
    if kwargs.pop("enable_taylorseer", False):
        kwargs["step_cache"] = "taylorseer"
    known = {field.name for field in fields(TextOptions if text else ImageOptions)}
    kept = {key: value for key, value in {**kwargs, "seed": asked["seed"]}.items() if key in known}
    return Case(asked["name"], items, "text" if text else "image", kept)


def _check_stages(path: Path, case: Case, trace: Trace) -> None:
    text = {"text0.returned_ids", "text0.logits", "text0.kv_before.len"}
    needed = text if case.output == "text" or case.think else set()
    if case.output == "image":
        flow = ("flow.x_t", "flow.t", "flow.v_cond", "flow.v_text", "flow.v_img")
        lengths = (f"kv.{branch}.len" for branch in ("cond", "cfg_text", "cfg_img"))
        needed |= {*flow, *lengths, "final_latent", "vae_decode.in", "vae_decode.out", "image"}
    images = sum(not isinstance(item, str) for item in case.items)
    needed |= {f"vit{n}.pixels" for n in range(images)}
    if case.output == "image":
        needed |= {f"vae_encode{n}.{part}" for n in range(images) for part in ("in", "moments", "latent")}
    if missing := sorted(needed - trace.keys()):
        raise InputError(f"{path}: the recorded run is not whole: key '{missing[0]}' is missing; record it again")


def _add_vit_rows(path: Path, trace: Trace, events: list[dict[str, Any]]) -> None:
    """`vit{n}.rows`, connector and position together, as they entered the decoder between two markers."""
    passes = [e["event"] for e in events if e.get("mode") == "und" and e.get("is_causal") is False]
    for n, name in enumerate(passes):
        if f"{name}.hidden_in" not in trace:
            raise InputError(f"{path}: the recorded run is not whole: key '{name}.hidden_in' is missing")
        trace[f"vit{n}.rows"] = trace[f"{name}.hidden_in"][1:-1]
