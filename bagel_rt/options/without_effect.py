"""Options that do nothing in the call they are given for: said once, because the caller expects something of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, fields
from typing import Any

import numpy as np

from bagel_rt.options.image_options import ImageOptions
from bagel_rt.options.text_options import TextOptions
from bagel_rt.remarks import remark


def remark_on_idle(opts: Any, defaults: Any, values: Mapping[str, Any], pictures: bool, encodes: bool = False) -> None:
    """Remark on the `values` a caller gave that change nothing of a call with `opts`, or not what they say.

    defaults: what the call begins with, so that what a preset brings is not remarked on. pictures: whether there are
    input images; encodes: whether images are encoded although there are none yet.
    """
    given = [one for one in fields(opts) if one.name in values and _says_something(one, opts, defaults)]
    idle = [
        f"{one.name} (needs {needs})"
        for one in given
        if (needs := " and ".join(_missing(one, opts, pictures or encodes)))
    ]
    if idle:
        remark(f"no effect in this call: {', '.join(idle)}")
    elif not pictures and _guides_by_no_picture(opts) and any(one.name == "cfg_img_scale" for one in given):
        remark("cfg_img_scale is given and there is no input image: it only makes the text's guidance stronger")


def _says_something(one: Field, opts: ImageOptions | TextOptions, defaults: Any) -> bool:
    """Whether a given value differs from the call's default, and from the option's own, which switches it off."""
    value = getattr(opts, one.name)
    return not isinstance(value, np.ndarray) and value not in (one.default, getattr(defaults, one.name))


def _missing(one: Field, opts: Any, pictures: bool) -> Iterator[str]:
    """What an option lacks in order to act in this call."""
    if one.metadata["images"] and not pictures:
        yield "an input image"
    for name in one.metadata["needs"]:
        name, _, wanted = name.partition("=")
        value = getattr(opts, name)
        if wanted:
            if value != wanted:
                yield f"{name} {wanted}"
        elif value is None or value is False:
            yield name
        elif value is not True and name.endswith("_scale") and value <= 1:
            yield f"{name} above 1"


def _guides_by_no_picture(opts: Any) -> bool:
    """Whether image guidance, without an image, leads away from the very context that it leads to."""
    return isinstance(opts, ImageOptions) and opts.cfg_img_scale > 1 and (not opts.think or opts.cfg_img_thought)
