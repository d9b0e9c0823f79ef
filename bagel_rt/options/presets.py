"""Settings of the official repository's notebook, app and evaluation scripts, as option values per kind of call.

"model" are those that a model brings along; one that brings none is called as in the notebook.

What a preset cannot bring is the scripts' arithmetic: GenEval prefills its text under fp16 autocast, all of them draw
noise on a GPU, and most seed once per run instead of once per picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bagel_rt.errors import InputError
from bagel_rt.options import checks
from bagel_rt.options.defaults import with_values
from bagel_rt.options.own_settings import KINDS, NOTHING, Own

GENERATE, EDIT, INTERLEAVE, ASK = KINDS
MODEL = "model"

RAW_VIT = {"vit_raw": True, "vit_min_size": 378}  # the evaluations resize the original for the ViT, by another rule
SAMPLED_PLAN = {"do_sample": True, "text_temperature": 0.3, "max_think_tokens": 2048}
SCRIPT_THINK = {"think": True, "cfg_img_thought": True, **SAMPLED_PLAN}
SEED = {"seed": 42}  # of every evaluation script

PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    MODEL: {GENERATE: {}, EDIT: {}, ASK: {}},
    "notebook": {GENERATE: {}, EDIT: {}, ASK: {}},
    "app": {
        GENERATE: {"cfg_img_scale": 1.5, "max_think_tokens": 1024},
        EDIT: {"max_think_tokens": 1024},
        ASK: {"max_tokens": 512},
    },
    "geneval": {GENERATE: {"cfg_interval": (0.0, 1.0), **SEED}},
    "wise": {GENERATE: {"think": True, "cfg_text_system": False, **SAMPLED_PLAN, **SEED}},
    "gedit": {EDIT: {"cfg_img_scale": 1.5, "cfg_interval": (0.4, 1.0), **RAW_VIT, **SEED}},
    "kris": {EDIT: {"cfg_img_scale": 1.5, **SCRIPT_THINK, **RAW_VIT, **SEED}},
    "rise": {EDIT: {"cfg_img_scale": 2.0, **SCRIPT_THINK, **RAW_VIT, **SEED}},
    "imgedit": {EDIT: {"cfg_img_scale": 1.5, **RAW_VIT, **SEED}},
    "vlm": {ASK: {"vit_max_pixels": 2_007_040, **RAW_VIT}},
}


def defaults(task: str, preset: str | None, own: Own = NOTHING) -> Any:
    """The options of a kind of call ("generate", "edit", "ask") under a preset, or without one, as "interleave" is
    called. own: the model's settings, which hold where no script's do.

    Raises InputError for an unknown preset, or one that has no settings for this kind of call.
    """
    if preset is None or preset == MODEL:
        return with_values(KINDS[task], own.get(task, {}))
    checks.choice("preset", preset, tuple(PRESETS))
    if task not in PRESETS[preset]:
        fitting = ", ".join(name for name, tasks in PRESETS.items() if task in tasks)
        raise InputError(f"preset {preset} is for {', '.join(PRESETS[preset])}; those for {task} are {fitting}")
    return with_values(KINDS[task], PRESETS[preset][task])
