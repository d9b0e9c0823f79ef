"""The loop of words and pictures: texts and pictures in turns, each behind all that came before, as a style says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bagel_rt.artefact.manifest import Manifest, ResizeRule
from bagel_rt.asks import ALONE
from bagel_rt.errors import BagelError
from bagel_rt.events import ImageReady, Turn
from bagel_rt.generation.next_turn import ANSWERED, PICTURE, PICTURES, TEXT, TURNS, Decider
from bagel_rt.generation.reader import Reader, Reading
from bagel_rt.generation.turn_seeds import TurnSeeds
from bagel_rt.generation.turns import Turns, Written
from bagel_rt.generation.two_views import Viewer, Views
from bagel_rt.model.context_tree import Lease
from bagel_rt.options.text_options import TextOptions
from bagel_rt.remarks import remark
from bagel_rt.results import ImageResult, TextResult
from bagel_rt.styles.style import Rule, Style, between

if TYPE_CHECKING:
    from PIL.Image import Image

STAGE = "reasoning"


@dataclass(frozen=True)
class Request:
    """What a caller asks of a loop. image: options of its pictures in place of the style's."""

    style: Style
    text: TextOptions
    image: Mapping[str, Any]
    max_pictures: int

    @property
    def draws(self) -> bool:
        return self.style.draws and self.max_pictures > 0

    @property
    def samples(self) -> bool:
        """Whether images are encoded with noise."""
        return self.style.image_options(self.image).vae_sample


@dataclass
class Reasoning:
    """One run of a loop. `parts` grows by a result for each turn; `views` is what the next turn is made behind.

    The last picture that was drawn is `unread` until a turn follows, so that it is never encoded for nothing.
    """

    turns: Turns
    contexts: Lease
    request: Request
    seeds: TurnSeeds
    before: Reading = field(default_factory=Reading)
    parts: list[TextResult | ImageResult] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    unread: Image | None = None
    turn: int = 0

    def __post_init__(self) -> None:
        style = self.request.style
        self._reader = Reader(resized(self.turns.manifest, style), self.turns.graphs, self.turns.codec)
        self.viewer = Viewer(self._reader, style.contexts, self.request.samples, self.request.draws)
        self._judge = Viewer(self._reader, style.contexts, self.request.samples, draws=False)  # sees as texts see
        self.views = self.viewer.of(self.before)
        self._decider = Decider(style.turns, self.turns.codec.token_id)
        self._given_size: tuple[int, int] | None = None

    @property
    def style(self) -> Style:
        return self.request.style

    def read(self, prompt: str, images: list[Image]) -> None:
        """The system prompt and what was given, in the style's order."""
        self.views = self.viewer.with_system(self.views, self.style.system)
        items = [*images, prompt] if self.style.contexts.order == "images first" else [prompt, *images]
        for item in items:
            if isinstance(item, str):
                self.views = self.viewer.with_given_text(self.views, item)
            else:
                self.views = self.viewer.with_given_image(self.views, item, self.seeds.of_images())
        self._given_size = self.views.pictures.size

    def run(self) -> Turn[str]:
        """All turns; returns why it stopped."""
        return (yield from (self._judged() if self.style.turns.next == "judge" else self._alternating()))

    def _alternating(self) -> Turn[str]:
        while self.turn < self.style.turns.most_turns:
            written = yield from self._text()
            decided = self._decider.after(written)
            if decided == TEXT:
                continue
            if decided != PICTURE:
                return decided
            if len(self.pictures) >= self.request.max_pictures:
                return PICTURES
            if self.turn < self.style.turns.most_turns:
                yield from self._picture_or_none()
        return TURNS

    @property
    def pictures(self) -> list[ImageResult]:
        return [part for part in self.parts if isinstance(part, ImageResult)]

    @property
    def texts(self) -> list[TextResult]:
        return [part for part in self.parts if isinstance(part, TextResult)]

    def _text(self) -> Turn[Written]:
        """The next text, which enters the contexts."""
        yield ALONE
        self.read_own_picture()
        rules, turn = self.style.turns, self._next_turn()
        history = self.views.texts.histories.cond
        written = yield from self.turns.write(
            self.contexts,
            history,
            self.request.text,
            self.seeds.of_text(turn),
            STAGE,
            rules.stop_at,
            rules.next == "token",
        )
        if rules.strip:
            written = replace(written, text=written.text.strip())
        self.parts.append(TextResult(written.text, written.ids, self.seeds.seed(turn)))
        self.views = self.viewer.with_own_text(self.views, written.text)
        return written

    def _picture_or_none(self) -> Turn[None]:
        """The next picture; one that cannot be drawn is left out where the style says so."""
        turn = self._next_turn()
        try:
            yield from self._picture(turn)
        except BagelError as error:
            if self.style.turns.failed_pictures != "skip":
                raise
            self.failures.append(str(error))

    def _picture(self, turn: int) -> Turn[None]:
        reading, turns = self.views.pictures, self.turns
        opts = self.style.image_options(self.request.image, edits=reading.size is not None)
        opts = replace(opts, seed=self.seeds.seed(turn))
        noise = self.seeds.of_picture(turn, reading, opts.vae_sample)
        size = turns.sizes.choose(opts, self._size(reading))
        grid = turns.sizes.grid(size)
        histories, _ = yield from turns.plan(self.contexts, reading.histories, opts, noise)
        start = turns.start(opts, grid, noise)
        painting = yield from turns.painter.paint(self.contexts, histories, opts, start, grid, noise)
        self.unread = painting.image
        self.parts.append(turns.result(opts, reading, painting, None, self.seeds.seed(turn)))
        yield ImageReady(self.pictures[-1], len(self.pictures), self.request.max_pictures)

    def read_own_picture(self) -> None:
        """The last picture enters the contexts, unless it has."""
        if self.unread is not None:
            image, self.unread = self.unread, None
            self.views = self.viewer.with_own_image(self.views, image, self.seeds.of_images())

    def _size(self, reading: Reading) -> tuple[int, int] | None:
        """(height, width) of what is given or, in contexts made anew, of the last picture; else the style's."""
        found = self._given_size if self.style.contexts.kept else reading.size
        return found or default_size(self.turns.manifest, self.style)

    def _next_turn(self) -> int:
        self.turn += 1
        return self.turn - 1

    def _judged(self) -> Turn[str]:
        """A plan and a picture; then texts that judge it, and an edit as the last of them suggests.

        What stays is the plan and the last picture.
        """
        yield from self._text()
        planned = self.views
        why = yield from self._edits(planned)
        self.views, self.unread = planned, self.pictures[-1].image if self.pictures else None
        return why

    def _edits(self, planned: Views) -> Turn[str]:
        rules, most = self.style.judge, self.request.max_pictures
        for made in range(rules.rounds + 1):
            if made >= most:
                return PICTURES
            yield from self._picture_or_none()
            if made == rules.rounds or self.unread is None:
                break
            image, self.unread = self.unread, None
            self.views = self._judge.with_own_image(planned, image, self.seeds.of_images())
            for _ in range(rules.texts):
                written = yield from self._text()
            if any(word in written.text for word in rules.good):
                return ANSWERED
            suggestion = between(written.text, *rules.suggestion) or written.text
            self.views = self._edit_of(image, suggestion)
        return TURNS

    def _edit_of(self, image: Image, suggestion: str) -> Views:
        """A picture and what to change of it, and nothing else: the base model's edit."""
        noise = self.seeds.of_text(self.turn)  # an edit begins with the encoding, from its own seed
        views = self.viewer.with_given_image(Views(Reading(), Reading()), image, noise)
        return self.viewer.with_given_text(views, suggestion)


def resized(manifest: Manifest, style: Style) -> Manifest:
    """The manifest with the style's rules for input images, where the model's position tables reach so far."""
    m = manifest.model
    vae = _rule(style.sizes.vae, m.latent_stride, m.max_latent_size)
    vit = _rule(style.sizes.vit, m.vit_patch_size, m.vit_grid)
    beyond = [name for name, found in (("vae", vae), ("vit", vit)) if getattr(style.sizes, name) and found is None]
    if beyond:
        remark(
            f"style {style.name} resizes images beyond this model's position tables ({' and '.join(beyond)}): they are"
            " resized by the model's own rules"
        )
    return replace(manifest, vae_transform=vae or manifest.vae_transform, vit_transform=vit or manifest.vit_transform)


def _rule(stated: Rule | None, unit: int, cells: int) -> ResizeRule | None:
    if stated is None or stated[0] > unit * cells or stated[2] % unit:
        return None
    return ResizeRule(*stated)


def default_size(manifest: Manifest, style: Style) -> tuple[int, int] | None:
    """The style's (height, width) of a picture without images, where the model can draw it."""
    sizes, stride = style.sizes, manifest.model.latent_stride
    if sizes.height is None or sizes.width is None:
        return None
    most = stride * manifest.model.max_latent_size
    fits = max(sizes.height, sizes.width) <= most and not sizes.height % stride and not sizes.width % stride
    return (sizes.height, sizes.width) if fits else None
