"""Conversations that keep their contexts: texts, images, answers and pictures in any order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from bagel_rt.adapters.choice import choice_of
from bagel_rt.artefact.contract import VAE_ENCODER
from bagel_rt.asks import ALONE
from bagel_rt.bare_errors import bare_errors
from bagel_rt.conversation.gate import Gate
from bagel_rt.conversation.marks import Drawn, Kind, Mark
from bagel_rt.conversation.reason import MAX_PICTURES, checked_options, reasoned, request_for, shortened, steps_of
from bagel_rt.conversation.scheduler import Scheduler
from bagel_rt.conversation.streaming import drain, stream
from bagel_rt.errors import BagelError, InputError
from bagel_rt.events import Event, ImageReady, OnProgress, Turn, finished
from bagel_rt.generation.needs import Need
from bagel_rt.generation.reader import Reading
from bagel_rt.generation.reasoning import Reasoning, Request
from bagel_rt.generation.turn_seeds import OneStream
from bagel_rt.generation.turns import Rehearsal, Turns
from bagel_rt.inputs.masks import with_mask_opened
from bagel_rt.inputs.pictures import ImageInput, open_image, open_images
from bagel_rt.inputs.segments import Latents
from bagel_rt.options import checks, defaults, presets
from bagel_rt.options.defaults import with_values
from bagel_rt.options.encoding import Encoding
from bagel_rt.options.fields import explains
from bagel_rt.options.image_options import ImageOptions, ImageTurnKeywords
from bagel_rt.options.text_options import TextOptions, TextTurnKeywords
from bagel_rt.options.without_effect import remark_on_idle
from bagel_rt.results import ImageResult, ReasonResult, TextResult
from bagel_rt.styles.files import GENERIC, Named, style_named
from bagel_rt.styles.style import Style
from bagel_rt.styles.tables import ReasonKeywords

if TYPE_CHECKING:
    from PIL.Image import Image


# called with a turn and its options before the turn begins; raises InputError where memory will not suffice
Admit = Callable[[Rehearsal, Any], Need | None]


class Session:
    """A conversation with a model: give texts and images, have texts and pictures made, and go on from there.

    Everything said stays in the contexts: an answer as a text, a finished picture as an input image. All random
    numbers, of noise and of sampled text, come from one stream of the seed, in the order of the calls. A call that
    fails or is cancelled leaves the session as it was. Use it in a `with` block, or close() it.

    think: "image" (or True) makes it plan before every picture, "text" reason in its answers; the official system
    prompt stands at the beginning, or the caller's own (`system`). `adapter`: all is computed with it. One
    call at a time; sessions of a model may be used from several threads.
    """

    def __init__(self, scheduler: Scheduler, mark: Mark, admit: Admit | None = None, style: Style | None = None):
        """style: how the model reasons where a turn names none."""
        self._style = style
        self._turns, self._scheduler, self._gate, self._admit = mark.turns, scheduler, scheduler.gate, admit
        self._busy, self._closed = False, False
        self._lease = self._turns.tree.lease(choice_of(mark.adapter))
        with self._gate.enter():
            self._move_to(mark)
        self._gate.admit(self, Session._forget)

    @property
    def seed(self) -> int:
        """The seed of its noise and of its sampled text."""
        return self._mark.seed

    @property
    def think(self) -> Kind:
        """What it thinks before doing: "image", "text" or None."""
        return self._mark.think

    @property
    def adapter(self) -> Mapping[str, float] | None:
        """How much of which adapter everything in it is computed with."""
        return self._mark.adapter

    @property
    def _has_pictures(self) -> bool:
        return self._mark.reading.size is not None or self._mark.drawn is not None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what this session alone holds. A turn that is being streamed ends at its next step."""
        self._closed = True
        self._gate.leave(lambda: self._lease.close())  # the lease it has by then, not the one it has now

    def __del__(self) -> None:  # a forgotten session keeps no memory
        if not self._closed:
            self.close()

    @bare_errors
    def add_text(self, text: str) -> None:
        """Add a text of the user."""
        checks.text("text", text)
        self._check_memory(lambda session, _: session.add_text(text), None)
        with self._gate.enter():
            self._check_free()
            here = self._with_drawn_read()
            self._move_to(replace(here, reading=self._turns.reader.add_text(here.reading, text)))

    @bare_errors
    def add_image(self, image: ImageInput, vae: bool = True, vit: bool = True, vae_sample: bool = True) -> None:
        """Add an image: through the VAE (for drawing), then through the ViT (for understanding).

        vae_sample=False encodes it as the posterior's mean, without noise.
        """
        vae, vit, vae_sample = checks.flag("vae", vae), checks.flag("vit", vit), checks.flag("vae_sample", vae_sample)
        if not vae and not vit:
            raise InputError("vae and vit are both False, so nothing of the image would enter")
        if vae and self._turns.manifest.task != "full":
            raise InputError("this model was exported with --task understand: it has no VAE; add images with vae=False")
        opened = open_image(image)
        self._check_memory(lambda session, _: session.add_image(opened, vae, vit, vae_sample), None)
        with self._gate.enter():
            self._check_free()
            here = self._with_drawn_read()
            self._move_to(self._with_image(here, opened, Encoding(vae, vit, vae_sample)))

    @bare_errors
    @explains(defaults.ANSWER, without=("seed", "think", "system", "adapter"))
    def generate_text(self, *, on_progress: OnProgress = None, **options: Unpack[TextTurnKeywords]) -> TextResult:
        """Write an answer, which enters the session as a text.

        on_progress is called with each event of the turn, as in the calls of Bagel.
        """
        return drain(self.stream_text(**options), on_progress)

    @bare_errors
    @explains(defaults.INTERLEAVE, without=("seed", "vae_seed", "system", "adapter"))
    def generate_image(self, *, on_progress: OnProgress = None, **options: Unpack[ImageTurnKeywords]) -> ImageResult:
        """Draw a picture, which enters the session as an image. The size follows the last image, a drawn one too.

        on_progress is called with each event of the turn, as in the calls of Bagel.
        """
        return drain(self.stream_image(**options), on_progress)

    @bare_errors
    @explains(defaults.ANSWER, without=("seed", "think", "system", "adapter"))
    def stream_text(self, **options: Unpack[TextTurnKeywords]) -> Generator[Event, None, None]:
        """As generate_text, as a generator of events that ends with Done(result). Closing it undoes the turn."""
        _refuse(options, "seed", "think", "system", "adapter")
        first = self._turns.defaults(presets.ASK)
        opts = with_values(first, options)
        remark_on_idle(opts, first, options, self._has_pictures)
        need = self._check_memory(lambda session, opts: finished(session._answer(opts)), opts)
        return self._stream(self._answer(opts), need, writes=True)

    @bare_errors
    @explains(defaults.INTERLEAVE, without=("seed", "vae_seed", "system", "adapter"))
    def stream_image(self, **options: Unpack[ImageTurnKeywords]) -> Generator[Event, None, None]:
        """As generate_image, as a generator of events. The turn stands once ImageReady was given out."""
        _refuse(options, "seed", "vae_seed", "system", "adapter")
        plans = self.think == "image"
        chosen = {"think": plans, "system": self._mark.system, "adapter": self._mark.adapter}
        first = self._turns.defaults(presets.INTERLEAVE)
        opts = with_values(first, {**chosen, **with_mask_opened(options)})
        if opts.think and not plans:
            raise InputError('think needs the system prompt at the beginning: open the session with think="image"')
        self._turns.check_draws()
        self._turns.sizes.check_asked(opts)
        remark_on_idle(opts, first, options, self._has_pictures, encodes=True)
        need = self._check_memory(lambda session, opts: finished(session._draw(opts)), opts)
        return self._stream(self._draw(opts), need)

    @bare_errors
    def reason(
        self,
        prompt: str,
        images: Sequence[ImageInput] | ImageInput = (),
        *,
        style: Named | None = None,
        max_pictures: int = MAX_PICTURES,
        max_tokens: int | None = None,
        system: str | None = None,
        on_progress: OnProgress = None,
        **options: Unpack[ReasonKeywords],
    ) -> ReasonResult:
        """Think in words and pictures behind all that was said, as Bagel.reason does; all of it stays in the session.

        The style's system prompt enters before the question, unless it is there already. Random numbers come from the
        session's stream.
        """
        events = self.stream_reason(
            prompt, images, style=style, max_pictures=max_pictures, max_tokens=max_tokens, system=system, **options
        )
        return drain(events, on_progress, pictures=True)

    @bare_errors
    def stream_reason(
        self,
        prompt: str,
        images: Sequence[ImageInput] | ImageInput = (),
        *,
        style: Named | None = None,
        max_pictures: int = MAX_PICTURES,
        max_tokens: int | None = None,
        system: str | None = None,
        **options: Unpack[ReasonKeywords],
    ) -> Generator[Event, None, None]:
        """As reason, as a generator of events that ends with Done(result). Closing it undoes the turn as a whole."""
        asked, opened = checks.text("prompt", prompt), open_images(images)
        used = style_named(style) if style is not None else self._style or style_named(GENERIC)
        request = request_for(self._turns, used, max_pictures, max_tokens, system, options, self._mark.adapter)
        short = shortened(request)
        need = self._check_memory(
            lambda session, opts: finished(session._reason(asked, opened, steps_of(short, opts))),
            checked_options(request),
        )
        return self._stream(self._reason(asked, opened, request), need)

    def mark(self) -> Mark:
        """Where the session stands now, for rollback()."""
        self._check_open()
        return self._mark

    @bare_errors
    def rollback(self, mark: Mark) -> None:
        """Go back to a mark of this session or of one it shares its past with, random numbers included."""
        if not isinstance(mark, Mark) or mark.turns is not self._turns:
            raise InputError("rollback needs what mark() of a session of this model returned")
        with self._gate.enter():
            self._check_free()
            self._move_to(mark)

    @bare_errors
    def fork(self, seed: int | None = None) -> Session:
        """Another session with the same past, which shares its memory. It draws what this one would have drawn.

        With a seed, its random numbers start afresh.
        """
        seed = checks.whole("seed", seed, least=None, optional=True)
        with self._gate.enter():
            self._check_free()
            here = self._with_drawn_read()
        return Session(self._scheduler, here if seed is None else here.with_seed(seed), self._admit, self._style)

    def _answer(self, opts: TextOptions) -> Turn[TextResult]:
        here = self._ready_mark()
        noise = here.noise.copy()
        with self._turns.tree.lease(choice_of(here.adapter)) as contexts:
            history = here.reading.histories.cond
            written = yield from self._turns.write(contexts, history, opts, noise, "answering")
            said = self._turns.reader.add_text(here.reading, written.text)
            yield ALONE
            self._move_to(replace(here, reading=said, noise=noise))
        return TextResult(written.text, written.ids, self.seed)

    def _draw(self, opts: ImageOptions) -> Turn[ImageResult]:
        turns, here = self._turns, self._ready_mark()
        noise = here.noise.copy()
        with turns.tree.lease(choice_of(here.adapter)) as contexts:
            size = turns.sizes.choose(opts, here.reading.size)
            grid = turns.sizes.grid(size)
            turns.check_noise(opts, grid)
            source = turns.painter.source(here.reading, opts, size)
            histories, thought = yield from turns.plan(contexts, here.reading.histories, opts, noise)
            start = turns.start(opts, grid, noise)
            painting = yield from turns.painter.paint(contexts, histories, opts, start, grid, noise, source)
            result = turns.result(opts, here.reading, painting, thought, self.seed)
            reading = here.reading
            if thought is not None:
                reading = replace(reading, histories=reading.histories.with_thought(turns.reader.text(thought)))
            drawn = Drawn(painting.image, opts.encoding)
            self._move_to(replace(here, reading=reading, noise=noise, drawn=drawn))
        yield ImageReady(result)
        return result

    def _reason(self, prompt: str, images: list[Image], request: Request) -> Turn[ReasonResult]:
        here = self._with_drawn_read()
        noise = here.noise.copy()
        with self._turns.tree.lease(choice_of(here.adapter)) as contexts:
            seeds = OneStream(self.seed, noise)
            loop = Reasoning(self._turns, contexts, request, seeds, here.reading)
            loop.read(prompt, images)
            why = yield from loop.run()
            yield ALONE
            drawn = None if loop.unread is None else Drawn(loop.unread, loop.viewer.how)
            self._move_to(replace(here, reading=loop.views.pictures, noise=noise, drawn=drawn))
            return reasoned(loop, why, prompt, self.seed)

    def _with_image(self, here: Mark, image: Image, how: Encoding) -> Mark:
        """The mark behind an image that is read now."""
        noise = here.noise.copy()
        return replace(here, reading=self._turns.reader.add_image(here.reading, image, how, noise), noise=noise)

    def _move_to(self, mark: Mark) -> None:
        """Make `mark` the session's state: compute contexts that are not cached yet, then give back what only the old
        state needs."""
        self._check_open()
        histories, lease = mark.reading.histories, self._turns.tree.lease(choice_of(mark.adapter))
        try:
            lease.open(histories.cond)
            lease.keep(histories.cfg_text)
            lease.keep(histories.cfg_img)
        except BaseException:
            lease.close()
            raise
        self._lease.close()
        self._lease, self._mark = lease, mark

    def _stream(self, turn: Turn, need: Need | None, writes: bool = False) -> Generator[Event, None, None]:
        return stream(self._scheduler, self._guarded(turn), writes, need)

    def _guarded(self, turn: Turn) -> Turn:
        """Run the turn; until it ends, no other turn of this session may begin."""
        self._check_free()
        self._busy = True
        try:
            answer = None
            while True:
                self._check_open()
                answer = yield turn.send(answer)
        except StopIteration as end:
            return end.value
        finally:
            turn.close()
            self._busy = False

    def _with_drawn_read(self) -> Mark:
        """The session's state, once the picture it drew last is encoded as an input image."""
        here = self._mark
        if here.drawn is not None:
            here = self._with_image(replace(here, drawn=None), here.drawn.image, here.drawn.how)
            self._move_to(here)
        return here

    def _ready_mark(self) -> Mark:
        """`_with_drawn_read`, for a turn of the model. Raises InputError when there is no input yet."""
        here = self._with_drawn_read()
        if not here.reading.texts and here.reading.size is None:
            raise InputError("nothing was said in this session yet: add a text or an image first")
        return here

    def _forget(self) -> None:
        """Hold nothing of a model that is being closed: no context, and nothing of what was read."""
        self._lease.close()
        self._mark = replace(self._mark, reading=Reading(), drawn=None)

    def _check_memory(self, take: Callable[[Session, Any], object], opts: Any) -> Need | None:
        """What the turn `take` needs, with all that was read before. Raises InputError when it is more than is
        allowed."""
        self._gate.check_open()
        need = self._admit(rehearsal(self._mark, take), opts) if self._admit is not None else None
        return None if need is None else replace(need, keeps=True)

    def _check_free(self) -> None:
        self._check_open()
        if self._busy:
            raise BagelError("this session is in the middle of a turn: read its stream to the end, or close it, first")

    def _check_open(self) -> None:
        self._gate.check_open()
        if self._closed:
            raise BagelError("this session was closed; open another")


def _refuse(values: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if name in values:
            raise InputError(f"{name} is chosen once for a session: give it to session() or fork(), not to a turn")


def rehearsal(mark: Mark, take: Callable[[Session, Any], object]) -> Rehearsal:
    """Everything from the session's beginning to the end of the turn `take`, for an engine that only counts.

    What was read before counts too, because its memory is still in use when the turn begins.
    """

    def rehearse(turns: Turns, opts: Any) -> None:
        for segment in mark.reading.histories.cond:
            if isinstance(segment, Latents):  # an image: the VAE's encoder ran when it was added
                high, wide = (turns.manifest.model.latent_stride * cells for cells in segment.grid)
                turns.graphs(VAE_ENCODER, pixels=np.broadcast_to(np.float32(0), (1, 3, high, wide)))
        with Session(Scheduler(Gate()), replace(mark, turns=turns)) as copied:
            take(copied, opts)

    return rehearse
