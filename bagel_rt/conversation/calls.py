"""What generate, edit and ask do: read all inputs, make an answer or pictures, keep nothing in the cache.

Each call is a generator of events (a `Turn`); api.py runs it to its end, or hands it out as a stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bagel_rt.adapters.choice import choice_of
from bagel_rt.events import ImageReady, Turn, finished
from bagel_rt.generation.reader import skip_encoding
from bagel_rt.generation.turns import Rehearsal, Turns
from bagel_rt.inputs.system_prompts import THINK_THEN_ANSWER, THINK_THEN_DRAW, first_of
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.options.text_options import TextOptions
from bagel_rt.results import ImageResult, TextResult
from bagel_rt.sampling.torch_noise import TorchNoise


class Calls:
    """One-shot calls. `items` are texts (str) and opened images, in order."""

    def __init__(self, turns: Turns):
        self._turns = turns

    def answer(self, items: list, opts: TextOptions, seed: int) -> Turn[TextResult]:
        turns = self._turns
        with turns.tree.lease(choice_of(opts.adapter)) as contexts:
            system = first_of(opts.system, turns.manifest.system, THINK_THEN_ANSWER if opts.think else None)
            noise = TorchNoise(seed)
            reading = turns.reader.read(items, system, opts.encoding, noise)
            history = reading.histories.cond
            written = yield from turns.write(contexts, history, opts, noise, "answering", reads_together=True)
        return TextResult(written.text, written.ids, seed)

    def draw_one(self, items: list, opts: ImageOptions, seed: int) -> Turn[ImageResult]:
        return (yield from self.draw(items, opts, [seed]))[0]

    def draw(self, items: list, opts: ImageOptions, seeds: list[int]) -> Turn[list[ImageResult]]:
        """A picture per seed. Images are encoded with the noise of opts.vae_seed, else of the first seed."""
        turns, results = self._turns, []
        with turns.tree.lease(choice_of(opts.adapter)) as contexts:
            encoding_noise = TorchNoise(seeds[0] if opts.vae_seed is None else opts.vae_seed)
            system = first_of(opts.system, turns.manifest.system, THINK_THEN_DRAW if opts.think else None)
            reading = turns.reader.read(items, system, opts.encoding, encoding_noise)
            size = turns.sizes.choose(opts, reading.size)
            grid = turns.sizes.grid(size)
            turns.check_noise(opts, grid)
            source = turns.painter.source(reading, opts, size)
            histories, thought = reading.histories, None
            for seed in seeds:
                noise = TorchNoise(seed)
                if opts.vae_sample:
                    skip_encoding(noise, reading)
                if not results or opts.do_sample:  # a greedy plan does not depend on the seed
                    histories, thought = yield from turns.plan(contexts, reading.histories, opts, noise)
                start = turns.start(opts, grid, noise)
                painting = yield from turns.painter.paint(contexts, histories, opts, start, grid, noise, source)
                results.append(turns.result(opts, reading, painting, thought, seed))
                yield ImageReady(results[-1], len(results), len(seeds))
        return results


def rehearsal(items: Sequence[Any]) -> Rehearsal:
    """The call for `items` (texts, opened images) as a function that can be run on an engine that only counts.

    It draws for ImageOptions, else it answers. See generation.turns.Rehearsal.
    """

    def rehearse(turns: Turns, opts: Any) -> None:
        calls, given = Calls(turns), list(items)
        finished(calls.draw(given, opts, [0]) if isinstance(opts, ImageOptions) else calls.answer(given, opts, 0))

    return rehearse
