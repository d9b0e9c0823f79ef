"""The embedded API: load an artefact, then draw, edit, ask, or give any sequence of texts and images."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from bagel_engines import EngineFailure, open_engine
from bagel_rt import check, contract, options
from bagel_rt.contexts import Context, ContextTree
from bagel_rt.drawing import Painter
from bagel_rt.embeddings import Embeddings
from bagel_rt.errors import BagelError, EngineUnavailableError, InputError
from bagel_rt.experts import Experts
from bagel_rt.graphs import Graphs
from bagel_rt.images import ImageInput, open_image, to_image, unpatchify
from bagel_rt.manifest import Manifest, read_manifest
from bagel_rt.noise import TorchNoise
from bagel_rt.options import ImageOptions, TextOptions, with_values
from bagel_rt.pool import PagePool
from bagel_rt.prefill import Prefill
from bagel_rt.prompts import THINK_THEN_ANSWER, THINK_THEN_DRAW
from bagel_rt.reading import Item, Reader
from bagel_rt.results import ImageResult, TextResult
from bagel_rt.segments import Grid
from bagel_rt.tokens import TextCodec
from bagel_rt.writing import Writer

CACHE_TOKENS = 32768


@dataclass(frozen=True)
class Progress:
    """What a call is doing: "thinking" or "answering" (tokens, of at most `total`), "drawing" (steps), "decoding"."""

    stage: str
    done: int
    total: int


OnProgress = Callable[[Progress], object] | None


def load(
    artefact_dir: str | Path,
    backend: str = "auto",
    device: str = "cpu",
    *,
    threads: int | None = None,
    arithmetic: str | None = None,
    cache_tokens: int = CACHE_TOKENS,
) -> Bagel:
    """Open an artefact folder on an engine; use it in a `with` block, or close() it.

    backend: "auto" (the fastest installed), "onnxruntime" or "openvino"; device: "cpu", or "cuda" or
    "cuda:N" with onnxruntime. arithmetic None computes in what the artefact states; "bfloat16" for a float32 artefact
    (openvino) is faster and less exact, and is named in every result.
    cache_tokens: how many tokens of context the page pool can hold; memory is taken as it is used.

    Raises ArtefactError for the folder, EngineUnavailableError for the engine, InputError for an option.
    """
    check.whole("threads", threads, least=1, optional=True)
    check.whole("cache_tokens", cache_tokens, least=1)
    manifest = read_manifest(artefact_dir)
    try:
        engine = open_engine(backend, device, threads, arithmetic, manifest.arithmetic, manifest.weight_bytes)
    except EngineFailure as error:
        raise EngineUnavailableError(str(error)) from error
    return Bagel(manifest, Graphs(manifest, engine), cache_tokens)


class Bagel:
    """A loaded model. Calls from several threads are safe: they wait for each other."""

    def __init__(self, manifest: Manifest, graphs: Graphs, cache_tokens: int = CACHE_TOKENS):
        self.manifest, self.graphs = manifest, graphs
        self._model = manifest.model
        self._codec = TextCodec(manifest)
        self._pool = PagePool(manifest.model, cache_tokens, manifest.arithmetic, make_cache=graphs.engine.cache)
        embeddings = Embeddings(manifest)
        experts = Experts(manifest, graphs, embeddings.markers)
        self._prefill = Prefill(manifest, graphs, experts, embeddings)
        self._reader = Reader(manifest, graphs, self._codec)
        self._writer = Writer(graphs, experts, embeddings, self._codec.im_start, self._codec.im_end)
        self._painter = Painter(graphs, experts, self._prefill)
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Bagel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the graphs' memory back. Closing twice is harmless."""
        with self._lock:
            self._closed = True
            self.graphs.close()

    @property
    def engine(self) -> str:
        """Engine, version, device and arithmetic."""
        return str(self.graphs.engine.info)

    @property
    def model(self) -> str:
        """Name and fingerprint of the artefact."""
        return f"{self.manifest.name} {self.manifest.fingerprint}"

    @property
    def free_tokens(self) -> int:
        """Room left in the page pool."""
        return self._pool.table.free_tokens

    def generate(self, prompt: str, *, on_progress: OnProgress = None, **image_options: Any) -> ImageResult:
        """Draw a picture from text. Options and defaults: options.ImageOptions (the official notebook's)."""
        return self._draw([_text("prompt", prompt)], with_values(options.GENERATE, image_options), on_progress)

    def edit(
        self, image: ImageInput, prompt: str, *, on_progress: OnProgress = None, **image_options: Any
    ) -> ImageResult:
        """Draw a changed version of an image. Defaults: options.EDIT; the size follows the image."""
        items = [open_image(image), _text("prompt", prompt)]
        return self._draw(items, with_values(options.EDIT, image_options), on_progress)

    def ask(
        self,
        prompt: str,
        images: Sequence[ImageInput] | ImageInput = (),
        *,
        on_progress: OnProgress = None,
        **text_options: Any,
    ) -> TextResult:
        """Answer a question about images, or without any. The images come first, as in the official code."""
        several: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        items = [*(open_image(image) for image in several), _text("prompt", prompt)]
        return self._answer(items, with_values(options.ANSWER, text_options), on_progress)

    @overload
    def interleave(
        self, items: Sequence[Item], output: Literal["image"] = ..., *, on_progress: OnProgress = ..., **values: Any
    ) -> ImageResult: ...

    @overload
    def interleave(
        self, items: Sequence[Item], output: Literal["text"], *, on_progress: OnProgress = ..., **values: Any
    ) -> TextResult: ...

    def interleave(self, items, output="image", *, on_progress=None, **values):
        """Any sequence of texts (str) and images (Path, PIL image, bytes, array) -> one image or text.

        A str is always text; give an image file as a pathlib.Path. Defaults: options.INTERLEAVE, options.ANSWER.
        """
        if isinstance(items, str | bytes) or not isinstance(items, Sequence):
            raise InputError("items must be a list of texts and images")
        if output == "image":
            return self._draw(items, with_values(options.INTERLEAVE, values), on_progress)
        if output == "text":
            return self._answer(items, with_values(options.ANSWER, values), on_progress)
        raise InputError(f"output is {output!r}; allowed: image, text")

    def _answer(self, items: Sequence[Item], opts: TextOptions, on_progress: OnProgress) -> TextResult:
        seed = _seed(opts.seed)
        with self._call(), self._contexts() as tree:
            reading = self._reader.for_answer(items, THINK_THEN_ANSWER if opts.think else None)
            context = tree.open(reading.histories.cond)
            ids = self._write(tree, context, opts, seed, "answering", on_progress)
        return TextResult(self._codec.text(ids), ids, seed)

    def _draw(self, items: Sequence[Item], opts: ImageOptions, on_progress: OnProgress) -> ImageResult:
        if self.manifest.task != "full":
            raise InputError(
                f"{self.manifest.folder}: exported with --task understand, it answers but cannot draw; export with"
                " --task full"
            )
        seed = _seed(opts.seed)
        if opts.height is not None or opts.width is not None:
            self._check_size(opts.height or opts.width, opts.width or opts.height)
        with self._call(), self._contexts() as tree:
            noise = TorchNoise(seed)
            reading = self._reader.for_image(items, THINK_THEN_DRAW if opts.think else None, noise, opts.vae_sample)
            height, width = self._size(opts, reading.size)
            grid = (height // self._model.latent_stride, width // self._model.latent_stride)
            start = self._initial_noise(opts, grid, noise)
            histories, thought = reading.histories, None
            if opts.think:
                ids = self._write(tree, tree.open(histories.cond), opts.text, seed, "thinking", on_progress)
                thought = self._codec.text(ids)
                histories = histories.with_thought(self._reader.text(thought))
            latent = start
            for step in self._painter.draw(tree, histories, start, grid, opts):
                latent = step.x
                _tell(on_progress, "drawing", step.done, step.total)
            _tell(on_progress, "decoding", 0, 1)
            image = self._decode(latent, grid)
            _tell(on_progress, "decoding", 1, 1)
        used = replace(opts, height=height, width=width, seed=seed).describe()
        return ImageResult(image, thought, latent, seed, used, reading.prompt, self.model, self.engine)

    def _write(
        self, tree: ContextTree, context: Context, opts: TextOptions, seed: int, stage: str, on_progress: OnProgress
    ) -> list[int]:
        # a generator of its own: writing never shifts the noise of the picture
        random = np.random.default_rng(seed & 0xFFFFFFFFFFFFFFFF)
        ids = []
        for token in self._writer.write(tree, context, opts, random):
            ids.append(token)
            _tell(on_progress, stage, len(ids) - 1, opts.max_tokens - 1)
        return ids

    def _initial_noise(self, opts: ImageOptions, grid: Grid, noise: TorchNoise) -> np.ndarray:
        shape = (grid[0] * grid[1], self._model.latent_width)
        if opts.noise is None:
            return noise.normal(*shape)
        if opts.noise.shape != shape:
            raise InputError(f"noise has shape {opts.noise.shape}; {shape} is expected for this size")
        return opts.noise.astype(np.float32)

    def _size(self, opts: ImageOptions, image_size: tuple[int, int] | None) -> tuple[int, int]:
        """(height, width): as asked for, else the last image's, else the largest square; checked."""
        largest = self.manifest.vae_transform.max_size
        height, width = image_size or (largest, largest)
        return self._check_size(opts.height or height, opts.width or width)

    def _check_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        assert height is not None
        assert width is not None
        stride, most = self._model.latent_stride, self._model.latent_stride * self._model.max_latent_size
        near = [min(max(round(side / stride), 1) * stride, most) for side in (height, width)]
        if [height, width] != near:
            raise InputError(
                f"height {height}, width {width} cannot be drawn: both must be multiples of {stride} up to {most};"
                f" the nearest is height {near[0]}, width {near[1]}"
            )
        return height, width

    def _decode(self, latent: np.ndarray, grid: Grid):
        m = self._model
        planes = unpatchify(latent, grid, m.latent_patch_size)[None]
        (pixels,) = self.graphs(contract.VAE_DECODER, latent=planes / np.float32(m.vae_scale) + np.float32(m.vae_shift))
        return to_image(pixels[0])

    def _contexts(self) -> ContextTree:
        return ContextTree(self._pool, self._prefill, self._model.max_position_embeddings)

    @contextmanager
    def _call(self) -> Iterator[None]:
        """One call at a time on one handle."""
        with self._lock:
            if self._closed:
                raise BagelError("this model was closed; load it again")
            yield


def _seed(seed: int | None) -> int:
    return secrets.randbits(32) if seed is None else int(seed)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} must be a str, not {type(value).__name__}")
    return value


def _tell(on_progress: OnProgress, stage: str, done: int, total: int) -> None:
    if on_progress is not None:
        on_progress(Progress(stage, done, total))
