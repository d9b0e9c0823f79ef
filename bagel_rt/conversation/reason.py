"""Reasoning in words and pictures as a call: its request checked, its loop run, its result put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bagel_rt.adapters.choice import choice_of
from bagel_rt.events import Turn, finished
from bagel_rt.generation.reasoning import Reasoning, Request
from bagel_rt.generation.turn_seeds import CountedSeeds
from bagel_rt.generation.turns import Rehearsal, Turns
from bagel_rt.inputs.system_prompts import first_of
from bagel_rt.options import checks
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.results import ReasonResult
from bagel_rt.styles.style import Style
from bagel_rt.styles.tables import split

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PICTURES = 8


def reason(turns: Turns, prompt: str, images: list[Image], request: Request, seed: int) -> Turn[ReasonResult]:
    """The loop of words and pictures that a style describes, from nothing."""
    with turns.tree.lease(choice_of(request.text.adapter)) as contexts:
        loop = Reasoning(turns, contexts, request, CountedSeeds(seed))
        loop.read(prompt, images)
        why = yield from loop.run()
        return reasoned(loop, why, prompt, seed)


def reasoned(loop: Reasoning, why: str, prompt: str, seed: int) -> ReasonResult:
    """What a loop came to."""
    request, manifest, texts = loop.request, loop.turns.manifest, loop.texts
    return ReasonResult(
        parts=tuple(loop.parts),
        answer=request.style.answer_in(texts[-1].text) if texts else "",
        stopped=why,
        style=request.style.name,
        seed=seed,
        options={"max_pictures": request.max_pictures, **replace(request.text, seed=seed).describe()},
        prompt=prompt,
        model=f"{manifest.name} {manifest.fingerprint}",
        engine=str(loop.turns.graphs.engine.info),
        failures=tuple(loop.failures),
    )


def request_for(
    turns: Turns,
    style: Style,
    max_pictures: int,
    max_tokens: int | None,
    system: str | None,
    values: Mapping[str, Any],
    adapter: Any = None,
) -> Request:
    """What a caller asks of a loop, checked. system: in place of the style's, which comes before the artefact's.

    Raises InputError for an option, or a style that the artefact cannot follow.
    """
    system = checks.text("system", system, optional=True)
    style = replace(style, system=first_of(system, style.system or turns.manifest.system, None) or "")
    max_pictures = checks.whole("max_pictures", max_pictures, least=0, most=checks.MOST)
    for_texts, for_pictures = split({**values, **({} if max_tokens is None else {"max_tokens": max_tokens})})
    texts = replace(style.text_options(for_texts), adapter=adapter)
    turns.graphs.adapters.check(texts.adapter)
    request = Request(style, texts, for_pictures, max_pictures)
    if request.draws or "vae" in style.contexts.text_view:
        turns.check_draws()
    turns.sizes.check_asked(style.image_options(for_pictures))
    return request


def shortened(request: Request) -> Request:
    """The first two texts and pictures alone: as large as any turn, but for the context that grows."""
    rules = replace(request.style.turns, next="always" if request.draws else "never", ends=(), most_turns=4)
    return replace(request, style=replace(request.style, turns=rules), text=replace(request.text, max_tokens=2))


def steps_of(request: Request, opts: Any) -> Request:
    """The request with as many steps of the sampler as `opts` has, which a memory check makes few."""
    if not isinstance(opts, ImageOptions):
        return request
    fewer = {"num_timesteps": opts.num_timesteps, "cfg_zero_steps": opts.cfg_zero_steps}
    return replace(request, image={**request.image, **fewer})


def checked_options(request: Request) -> Any:
    """The options that a memory check counts by: those of the pictures, or of the text where nothing is drawn."""
    return request.style.image_options(request.image) if request.draws else request.text


def rehearsal(prompt: str, images: list[Image], request: Request) -> Rehearsal:
    """A loop's first turns, for an engine that only counts. See generation.turns.Rehearsal."""
    short = shortened(request)

    def rehearse(turns: Turns, opts: Any) -> None:
        finished(reason(turns, prompt, images, steps_of(short, opts), 0))

    return rehearse
