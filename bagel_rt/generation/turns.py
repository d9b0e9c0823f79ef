"""What a loaded model can do: write a text, plan, denoise and decode a picture. Calls and sessions are made of these.

Each is a generator that yields events and returns its result (events.Turn). The cached contexts it uses belong to the
lease it is given (model/context_tree.py), so that they are freed when the call ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bagel_rt.artefact.manifest import Manifest
from bagel_rt.asks import ALONE
from bagel_rt.errors import InputError
from bagel_rt.events import TextPiece, Turn, finished
from bagel_rt.generation.flow_sampler import FlowSampler
from bagel_rt.generation.painter import Painter, Painting
from bagel_rt.generation.reader import Reader, Reading
from bagel_rt.generation.text_decoder import TextDecoder
from bagel_rt.inputs.brought_settings import settings_in
from bagel_rt.inputs.detokenizer import TextPieces
from bagel_rt.inputs.picture_sizes import Sizes
from bagel_rt.inputs.segments import Grid, Histories, History, Text
from bagel_rt.inputs.stop_strings import StopStrings
from bagel_rt.kv_cache.page_pool import PagePool
from bagel_rt.model.context_tree import ContextTree, Lease
from bagel_rt.model.graphs import Graphs
from bagel_rt.model.prefill import Prefill
from bagel_rt.model.step_graphs import Experts
from bagel_rt.model.text_evaluator import TextEvaluator
from bagel_rt.model.vae_decoder import VaeDecoder
from bagel_rt.model.vocabulary import Vocabulary
from bagel_rt.options import presets
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.options.text_options import TextOptions
from bagel_rt.results import ImageResult
from bagel_rt.sampling.torch_noise import TorchNoise

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Written:
    """A text with its token ids, the stop string that ended it, and the token that followed im_end, where asked for."""

    ids: list[int]
    text: str
    stopped_at: str | None = None
    following: int | None = None


class Turns:
    """A loaded model's parts, put together over one key-value cache."""

    def __init__(self, manifest: Manifest, graphs: Graphs, cache_tokens: int, vocabulary: Vocabulary | None = None):
        """vocabulary: of a model that is open already; None opens it."""
        self.manifest, self.graphs, self.own = manifest, graphs, settings_in(manifest)
        self._vocabulary = vocabulary or Vocabulary.of(manifest)
        embeddings = self._vocabulary.embeddings
        self.pool = PagePool(manifest.model, cache_tokens, manifest.arithmetic, make_cache=graphs.engine.cache)
        self.codec = self._vocabulary.codec
        self.reader = Reader(manifest, graphs, self.codec)
        self.sizes = Sizes(manifest)
        experts = Experts(manifest, graphs, embeddings.markers)
        prefill = Prefill(manifest, graphs, experts, embeddings)
        self._evaluator = TextEvaluator(graphs, experts, embeddings, self.pool)
        self.tree = ContextTree(self.pool, prefill, self._evaluator, manifest.model.max_position_embeddings)
        self._writer = TextDecoder(self._evaluator, graphs.engine.info, self.codec, manifest.model.vocab_size)
        self._decoder = VaeDecoder(manifest, graphs)
        sampler = FlowSampler(graphs, experts, prefill)
        self.painter = Painter(manifest, self.reader, self.sizes, sampler, self._decoder)

    def close(self) -> None:
        """Give back the page pool, the graphs and what texts are read with. Nothing may be called afterwards."""
        self.tree.clear()
        self._evaluator.close()
        self.pool.close()
        self._vocabulary.close()
        self.graphs.close()

    def defaults(self, task: str, preset: str | None = None) -> Any:
        """What calls of a kind begin with: see presets.defaults."""
        return presets.defaults(task, preset, self.own)

    def check_draws(self) -> None:
        """Raise InputError for an artefact without the graphs that draw (exported with --task understand)."""
        if self.manifest.task != "full":
            raise InputError(
                f"{self.manifest.folder}: exported with --task understand, it answers but cannot draw; export with"
                " --task full"
            )

    def write(
        self,
        contexts: Lease,
        history: History,
        opts: TextOptions,
        noise: TorchNoise,
        stage: str,
        stop_at: Sequence[str] = (),
        with_following: bool = False,
        reads_together: bool = False,
    ) -> Turn[Written]:
        """Write a text behind a history; its token ids are as the official code returns them (im_start first, no
        im_end).

        It also ends where it has written one of the strings `stop_at` or of opts.stop; with_following takes one token
        more behind im_end. reads_together: the history's last text may be read in one call with others' rows, for no
        picture follows.
        """
        ids: list[int] = []
        following: list[int] | None = [] if with_following else None
        text, pieces, stops, total = (
            "",
            TextPieces(self.codec),
            StopStrings((*stop_at, *(opts.stop or ()))),
            opts.max_tokens - 1,
        )
        read = [token for segment in history if isinstance(segment, Text) for token in segment.ids]

        def event(token: int) -> TextPiece:
            nonlocal text
            ids.append(token)
            ready = stops.push(pieces.push(token))
            text += ready
            return TextPiece(stage, len(ids) - 1, total, ready)

        if reads_together:
            context = yield from contexts.opened(history)
        else:
            yield ALONE
            context = contexts.open(history)
        yield from self._writer.write(
            contexts, context, opts, noise, event, read, following, lambda: stops.found is not None
        )
        if rest := stops.push(pieces.finish()) + stops.finish():
            text += rest
            yield TextPiece(stage, len(ids) - 1, total, rest)
        return Written(ids, text, stops.found, following[0] if following else None)

    def plan(
        self, contexts: Lease, histories: Histories, opts: ImageOptions, noise: TorchNoise
    ) -> Turn[tuple[Histories, str | None]]:
        """Prepare the histories that guide a picture: with `think` write a plan and add it, then apply the options that
        change the guidance contexts. Returns them, and the plan's text or None."""
        thought = None
        if opts.think:
            thought = (yield from self.write(contexts, histories.cond, opts.text, noise, "thinking")).text
            plan = self.reader.text(thought)
            histories = histories.with_thought(plan)
            if opts.cfg_img_thought:
                histories = histories.with_cfg_img_text(plan)
            if not opts.cfg_text_system:
                histories = histories.without_system_in_cfg_text()
        if opts.negative_prompt is not None:
            histories = histories.with_negative(self.reader.text(opts.negative_prompt))
        return histories, thought

    def start(self, opts: ImageOptions, grid: Grid, noise: TorchNoise) -> np.ndarray:
        """The noise (h * w, 64) that a picture begins with; the official code draws it after the plan was written."""
        if opts.noise is None:
            return noise.normal(*self._latent_shape(grid))
        return opts.noise.astype(np.float32)

    def check_noise(self, opts: ImageOptions, grid: Grid) -> None:
        """Raise InputError for given noise of another shape than (h * w, 64)."""
        shape = self._latent_shape(grid)
        if opts.noise is not None and opts.noise.shape != shape:
            raise InputError(f"noise has shape {opts.noise.shape}; {shape} is expected for this size")

    def _latent_shape(self, grid: Grid) -> tuple[int, int]:
        return grid[0] * grid[1], self.manifest.model.latent_width

    def decode(self, latent: np.ndarray, grid: Grid) -> Image:
        """Decode latents (h * w, 64) to a picture, without events."""
        return finished(self._decoder.run(latent, grid))

    def result(
        self, opts: ImageOptions, reading: Reading, painting: Painting, thought: str | None, seed: int
    ) -> ImageResult:
        """The ImageResult of a painting, with the options as they were used."""
        image, latent = painting.image, painting.latent
        filled = {"height": image.height, "width": image.width, "seed": seed}
        used = replace(opts, **filled).describe()
        model = f"{self.manifest.name} {self.manifest.fingerprint}"
        return ImageResult(image, thought, latent, seed, used, reading.prompt, model, str(self.graphs.engine.info))


# A call, or a session's turn, as a function of (Turns, options) that makes it. Called with Turns over the counting
# engine (estimate/), it computes nothing and shows which graphs would be called at which sizes.
Rehearsal = Callable[[Turns, Any], object]
