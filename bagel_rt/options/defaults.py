"""Which options each kind of call begins with, and how given values replace them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from bagel_rt.errors import InputError
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.options.names import did_you_mean
from bagel_rt.options.text_options import TextOptions

GENERATE = ImageOptions()
EDIT = ImageOptions(cfg_img_scale=2.0, cfg_interval=(0.0, 1.0), cfg_renorm_type="text_channel")
INTERLEAVE = ImageOptions(cfg_text_scale=3.0, cfg_img_scale=1.5)  # the defaults of interleave_inference
ANSWER = TextOptions()

Options = TypeVar("Options", ImageOptions, TextOptions)


def with_values(defaults: Options, values: Mapping[str, Any]) -> Options:
    """The defaults with some values replaced. An unknown name is refused with the nearest known one."""
    known = [f.name for f in fields(defaults)]
    for name in values:
        if name not in known:
            hint = did_you_mean(name, known) or f"; known: {', '.join(known)}"
            raise InputError(f"unknown option {name!r}{hint}")
    return replace(defaults, **values)
