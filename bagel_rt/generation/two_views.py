"""What a model has read and made while it reasons, as it stands before its texts and before its pictures.

A style may let texts see pictures by the ViT alone and pictures by the VAE and the ViT, as if everything were read anew
in each turn. Both readings only ever grow, so what they have in common with an earlier turn is cached, and a picture is
encoded once for each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bagel_rt.generation.reader import Reader, Reading
from bagel_rt.inputs.negatives import with_given_image, with_given_text, with_own_image, with_own_text
from bagel_rt.inputs.segments import Histories, History, Latents, Patches, Segment
from bagel_rt.options.encoding import Encoding
from bagel_rt.sampling.torch_noise import TorchNoise
from bagel_rt.styles.style import ContextRules

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = {"vit": Patches, "vae": Latents}
Enter = Callable[..., Histories]  # a rule of inputs/negatives.py


@dataclass(frozen=True)
class Views:
    """texts: what a text is written behind; pictures: what a picture is drawn behind."""

    texts: Reading
    pictures: Reading


class Viewer:
    """Adds to both views what a style's rules say. sample: the VAE encodes with noise."""

    def __init__(self, reader: Reader, rules: ContextRules, sample: bool, draws: bool):
        self._reader, self._rules = reader, rules
        shown = f"{rules.text_view}+{rules.picture_view}" if draws else rules.text_view
        self._draws, self._how = draws, Encoding("vae" in shown, "vit" in shown, sample)

    def of(self, reading: Reading) -> Views:
        """Both views of what was read before, which holds images in every form that is shown."""
        return Views(_narrowed(reading, self._rules.text_view), _narrowed(reading, self._rules.picture_view))

    @property
    def how(self) -> Encoding:
        """How images are encoded: in every form that one of the views shows."""
        return self._how

    def with_system(self, views: Views, text: str) -> Views:
        """Behind a system prompt, unless it is empty or there already."""
        segment = self._reader.text(text)
        if not text or segment in views.pictures.histories.cond:
            return views
        return _both(views, lambda one: replace(one, histories=one.histories.with_system(segment)))

    def with_given_text(self, views: Views, text: str) -> Views:
        return self._with_text(views, text, with_given_text)

    def with_own_text(self, views: Views, text: str) -> Views:
        return self._with_text(views, text, with_own_text)

    def with_given_image(self, views: Views, image: Image, noise: TorchNoise) -> Views:
        return self._with_image(views, image, noise, with_given_image)

    def with_own_image(self, views: Views, image: Image, noise: TorchNoise) -> Views:
        """A picture of its own, between the style's texts for it."""
        if self._rules.before_picture:
            views = self.with_own_text(views, self._rules.before_picture)
        views = self._with_image(views, image, noise, with_own_image)
        return self.with_own_text(views, self._rules.after_picture) if self._rules.after_picture else views

    def _with_text(self, views: Views, text: str, enter: Enter) -> Views:
        segment, rule = self._reader.text(text), self._rules.negatives
        return _both(
            views,
            lambda one: replace(one, histories=enter(rule, one.histories, segment), texts=(*one.texts, text)),
        )

    def _with_image(self, views: Views, image: Image, noise: TorchNoise, enter: Enter) -> Views:
        segments, size = self._reader.encoded(image, self._how, noise)

        def seen(one: Reading, view: str) -> Reading:
            shown = [segment for segment in segments if _shows(view, segment)]
            histories = enter(self._rules.negatives, one.histories, *shown)
            return replace(one, histories=histories, size=size, image=image)

        pictures = self._rules.picture_view if self._draws else self._rules.text_view
        return Views(seen(views.texts, self._rules.text_view), seen(views.pictures, pictures))


def _both(views: Views, change: Callable[[Reading], Reading]) -> Views:
    return Views(change(views.texts), change(views.pictures))


def _shows(view: str, segment: Segment) -> bool:
    hidden = [kind for name, kind in KINDS.items() if name not in view.split("+")]
    return not isinstance(segment, tuple(hidden))


def _narrowed(reading: Reading, view: str) -> Reading:
    def shown(history: History) -> History:
        return tuple(segment for segment in history if _shows(view, segment))

    h = reading.histories
    return replace(reading, histories=Histories(shown(h.cond), shown(h.cfg_text), shown(h.cfg_img)))
