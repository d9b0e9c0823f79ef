"""What the contexts that guidance leads away from hold, while a model reasons in words and pictures.

For each of a style's rules (styles/style.py, ContextRules.negatives): how a given text, a given image, a text of the
model's own and a picture of its own enter the three histories.
"""

from __future__ import annotations

from dataclasses import replace

from bagel_rt.inputs.segments import Histories, Segment, Text

BASE, REBUILT, FROZEN, APART = "base", "rebuilt", "frozen", "apart"


def with_given_text(rule: str, histories: Histories, text: Text) -> Histories:
    return _texts_apart(histories, text) if rule == APART else histories.with_text(text)


def with_given_image(rule: str, histories: Histories, *segments: Segment) -> Histories:
    return _images_apart(histories, segments) if rule == APART else histories.with_image(*segments)


def with_own_text(rule: str, histories: Histories, text: Text) -> Histories:
    if rule in (BASE, FROZEN):
        return histories.with_thought(text)
    return with_given_text(rule, histories, text)


def with_own_image(rule: str, histories: Histories, *segments: Segment) -> Histories:
    if rule == FROZEN:
        return replace(histories, cond=(*histories.cond, *segments))
    return with_given_image(rule, histories, *segments)


def _texts_apart(histories: Histories, text: Text) -> Histories:
    return replace(histories, cond=(*histories.cond, text), cfg_img=(*histories.cfg_img, text))


def _images_apart(histories: Histories, segments: tuple[Segment, ...]) -> Histories:
    return replace(histories, cond=(*histories.cond, *segments), cfg_text=(*histories.cfg_text, *segments))
