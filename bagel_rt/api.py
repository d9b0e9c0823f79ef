"""The Python API: `load` an exported artefact, then draw, edit, ask, stream, or open a session on the `Bagel`."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from bagel_engines import EngineFailure, Settings, open_engine
from bagel_rt.adapters.switched import check_engine, checked_paths
from bagel_rt.artefact.folders import model_folder
from bagel_rt.artefact.manifest import Manifest, read_manifest
from bagel_rt.artefact.precision import check_rounding, spelled_out
from bagel_rt.artefact.trust import check_trust
from bagel_rt.bare_errors import bare_errors
from bagel_rt.conversation.calls import Calls, rehearsal
from bagel_rt.conversation.gate import Gate
from bagel_rt.conversation.marks import Think, beginning
from bagel_rt.conversation.reason import (
    MAX_PICTURES,
    checked_options,
    reason,
    request_for,
)
from bagel_rt.conversation.reason import rehearsal as reason_rehearsal
from bagel_rt.conversation.scheduler import TEXT_SHARE, Priority, Queue
from bagel_rt.conversation.session import Session
from bagel_rt.conversation.streaming import drain, stream
from bagel_rt.errors import EngineUnavailableError, InputError
from bagel_rt.estimate.admission import Admission, limit_of
from bagel_rt.estimate.choice import resolved
from bagel_rt.events import Event, OnProgress, Progress, Step
from bagel_rt.generation.needs import Need
from bagel_rt.generation.reader import Item, open_items
from bagel_rt.generation.turns import Rehearsal, Turns
from bagel_rt.inputs.masks import with_mask_opened
from bagel_rt.inputs.pictures import ImageInput, open_images
from bagel_rt.kv_cache.page_pool import CACHE_TOKENS
from bagel_rt.model.graphs import Graphs
from bagel_rt.model.vocabulary import Vocabulary
from bagel_rt.options import checks, defaults, presets
from bagel_rt.options.defaults import with_values
from bagel_rt.options.fields import explains
from bagel_rt.options.image_options import ImageKeywords, ImageOptions
from bagel_rt.options.own_settings import Own
from bagel_rt.options.seeds import draw_seed, seeds_of
from bagel_rt.options.text_options import TextKeywords
from bagel_rt.options.without_effect import remark_on_idle
from bagel_rt.results import ImageResult, ReasonResult, TextResult
from bagel_rt.styles.files import GENERIC, Named, style_in, style_named
from bagel_rt.styles.style import Style
from bagel_rt.styles.tables import ReasonKeywords
from bagel_rt.tensorrt.stores import packed_for, plans_for

if TYPE_CHECKING:
    from PIL.Image import Image

    from bagel_engines.protocol import OnWeights

Seeds = Sequence[int]
Adapter = str | Mapping[str, float] | None


@bare_errors
def load(
    artefact_dir: str | Path,
    backend: str = "auto",
    device: str = "cpu",
    *,
    threads: int | None = None,
    arithmetic: str | None = None,
    cache_tokens: int = CACHE_TOKENS,
    cuda_graphs: bool | None = None,
    exact_vae: bool = False,
    low_memory: bool = False,
    packed_weights: bool = False,
    max_memory: float | None = None,
    priority: Priority = "tokens",
    queue_length: int | None = None,
    queue_seconds: float | None = None,
    verify: bool = False,
    key: str | Path | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    on_progress: OnProgress = None,
) -> Bagel:
    """Open an artefact folder on an engine; use it in a `with` block, or close() it.

    artefact_dir: a folder, or "bagel-nano", the model that comes with this package (an artefact folder of that name in
    the current folder comes first).
    backend: "auto" (the fastest installed), "onnxruntime", "openvino" or "tensorrt"; device: "cpu", or "cuda" or
    "cuda:N" with onnxruntime. "tensorrt" is always on CUDA and builds what is missing on its first use.
    arithmetic None computes in what the artefact states. Faster, less exact, and named in every result: "bfloat16", or
    "bf16", for a float32 artefact (openvino); "int8" for int8 and int4 weights on the CPU, which rounds what they
    multiply to 8 bits in blocks too, and on openvino computes the rest in bfloat16; "int8-rows" (onnxruntime on the
    CPU), which rounds it row by row and multiplies in integers. "auto" takes the fastest of these on this machine that
    is within 3 % of float32 in a layer: measured on first use, in 20 seconds at most, and kept (estimate/choice.py).
    Quantised artefacts of 1 GiB and more choose engine and arithmetic so when neither is named.
    threads: of the engine, as many as the machine has CPUs at most; None leaves their number to the engine.
    cache_tokens: how many tokens of context the key-value cache can hold, for all calls and sessions together; memory
    is taken as it is used.
    cuda_graphs: on CUDA, record denoising steps as CUDA graphs and replay them; `engine` says what cannot be recorded.
    None: with onnxruntime, not with tensorrt.
    exact_vae: onnxruntime on CUDA computes the VAE of an artefact in 16-bit arithmetic in float16; with this in
    float32.
    low_memory: the VAE and the ViT are loaded for each use and given back after it, and so is the working memory of
    every call on a CPU; results are the same.
    packed_weights: onnxruntime on the CPU keeps its packed weights in the user's cache folder (BAGEL_RT_CACHE) and maps
    them from there; made on the first use, they take up to twice the weights' size on the disk.
    max_memory: GiB that may be taken on a CPU, None for what is free now; a call or a session's turn that will take
    more is refused before it begins.
    priority: who comes first where calls of several threads run at once: "tokens" (texts, which have half of the time
    while pictures are drawn), "pictures" (a denoising step after each token), or "arrival" (likewise, in the order of
    coming).
    queue_length: how many requests may wait, before their first event, until those under way leave them room in the
    cache and in memory; one more is refused with QueueFull. None: nobody waits, every request begins at once.
    queue_seconds: how long one waits before it ends with QueueTimeout, None: without end.
    verify: compare every byte of the artefact with the manifest's hashes first, which reads all of it. key: the file of
    a public key; what was not signed with its private half (`bagel-rt sign`) is refused, and every byte is compared.
    adapters: LoRA adapters, folders or files of any kind that export reads, by the names that calls choose them by
    (adapter="style"); on onnxruntime and openvino on the CPU. What cannot be switched is refused by name.

    on_progress: called with events.Progress("loading GRAPH", bytes, of so many) while large weights are brought to a
    device, which is with the first call that needs the graph, from the thread that makes it.

    Raises ArtefactError for the folder, EngineUnavailableError for the engine, InputError for an option.
    """
    backend, device = checks.text("backend", backend), checks.text("device", device)
    threads = checks.threads("threads", threads)
    arithmetic = spelled_out(checks.text("arithmetic", arithmetic, optional=True))
    cuda_graphs = None if cuda_graphs is None else checks.flag("cuda_graphs", cuda_graphs)
    exact_vae = checks.flag("exact_vae", exact_vae)
    cache_tokens = checks.whole("cache_tokens", cache_tokens, least=1)
    low_memory = checks.flag("low_memory", low_memory)
    packed_weights = checks.flag("packed_weights", packed_weights)
    max_memory = checks.positive("max_memory", max_memory, optional=True)
    priority = checks.choice("priority", priority, tuple(TEXT_SHARE))
    queue_length = checks.whole("queue_length", queue_length, least=0, optional=True)
    queue_seconds = checks.positive("queue_seconds", queue_seconds, optional=True)
    paths = checked_paths(adapters)
    manifest = read_manifest(model_folder(checks.path("artefact_dir", artefact_dir)))
    check_trust(manifest, checks.flag("verify", verify), None if key is None else checks.path("key", key))
    check_rounding(manifest, arithmetic)
    switched = None
    if paths:
        check_engine(backend, device, packed_weights)
        from bagel_rt.adapters.loaded import load_adapters

        switched = load_adapters(manifest, paths)
    try:
        backend, arithmetic = resolved(manifest, backend, device, arithmetic, threads, packed_weights)
        plans = plans_for(manifest, pool_tokens=cache_tokens) if backend == "tensorrt" else None
        packed = packed_for(manifest) if packed_weights else None
        settings = Settings(
            threads=threads,
            arithmetic=arithmetic,
            stated=manifest.arithmetic,
            weights=manifest.weight_bytes,
            plans=plans,
            cuda_graphs=cuda_graphs,
            exact_vae=exact_vae,
            on_weights=_loading(on_progress),
            low_memory=low_memory,
            packed=packed,
        )
        engine = open_engine(backend, device, settings)
    except EngineFailure as error:
        raise EngineUnavailableError(str(error)) from error
    vocabulary = Vocabulary.of(manifest)
    counts, held = queue_length is not None, switched.nbytes if switched else 0
    limit = limit_of(max_memory)
    admission = Admission(manifest, engine, limit, cache_tokens, low_memory, vocabulary, counts, held)
    queue = Queue(queue_length, queue_seconds, priority)
    return Bagel(manifest, Graphs(manifest, engine, low_memory, switched), cache_tokens, admission, vocabulary, queue)


def _loading(on_progress: OnProgress) -> OnWeights | None:
    if on_progress is None:
        return None
    return lambda graph, done, total: on_progress(Progress(f"loading {graph}", done, total))


class Bagel:
    """A loaded model. Calls from several threads are safe and share the engine's calls (docs/python.md).

    Calls begin with the settings that the artefact brings along (`export --settings`), else with BAGEL's. What they
    take beside their options: `preset`, the name of an official script whose settings hold in their place
    (presets.PRESETS), and `on_progress`, a function that is called with each event of the call as it happens
    (bagel_rt.events: TextPiece, Step, Progress), from the calling thread. An error that it raises ends the call.
    """

    def __init__(
        self,
        manifest: Manifest,
        graphs: Graphs,
        cache_tokens: int = CACHE_TOKENS,
        admission: Admission | None = None,
        vocabulary: Vocabulary | None = None,
        queue: Queue | None = None,
    ):
        self.manifest, self.graphs, self._admission = manifest, graphs, admission
        self._turns = Turns(manifest, graphs, cache_tokens, vocabulary)
        self._calls = Calls(self._turns)
        self._gate = Gate()
        self._own_style = style_in(manifest)
        limit = admission.limit.size if admission is not None else None
        self._scheduler = (queue or Queue()).scheduler(self._gate, lambda: self.free_tokens, limit)

    def __enter__(self) -> Bagel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give all memory back, that of its streams and sessions too: they answer that it was closed, as it does.

        Closing twice is harmless. In a process that was forked after loading, nothing happens.
        """
        self._gate.close(self._turns.close)

    @property
    def engine(self) -> str:
        """Engine, version, device and arithmetic."""
        return str(self.graphs.engine.info)

    @property
    def model(self) -> str:
        """Name and fingerprint of the artefact."""
        return f"{self.manifest.name} {self.manifest.fingerprint}"

    @property
    def settings(self) -> Own:
        """Option values that calls begin with where they name no preset, by kind of call: those that the artefact
        brings along (`export --settings`)."""
        return self._turns.own

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that calls may choose."""
        return self.graphs.adapters.names

    @property
    def free_tokens(self) -> int:
        """Tokens of context that the key-value cache still has room for."""
        return self._turns.pool.table.free_tokens

    @overload
    def generate(
        self, prompt: str, *, seed: int | None = ..., images: None = ..., preset: str | None = ...,
        on_progress: OnProgress = ..., **options: Unpack[ImageKeywords],
    ) -> ImageResult: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: str, *, seed: int | Seeds | None = ..., images: int | None = ..., preset: str | None = ...,
        on_progress: OnProgress = ..., **options: Unpack[ImageKeywords],
    ) -> list[ImageResult]: ...  # fmt: skip

    @bare_errors
    @explains(defaults.GENERATE)
    def generate(self, prompt, *, preset=None, on_progress=None, **options):
        """Draw a picture from text.

        `images=n`, or a list as `seed`, returns a list: one picture per seed, counted up from `seed`; the contexts are
        computed once. Each is the picture its seed alone gives.
        """
        items = [checks.text("prompt", prompt)]
        return drain(self._image(items, self._turns.defaults(presets.GENERATE, preset), options), on_progress)

    @overload
    def edit(
        self, image: ImageInput | Sequence[ImageInput], prompt: str, *, seed: int | None = ..., images: None = ...,
        preset: str | None = ..., on_progress: OnProgress = ..., **options: Unpack[ImageKeywords],
    ) -> ImageResult: ...  # fmt: skip

    @overload
    def edit(
        self, image: ImageInput | Sequence[ImageInput], prompt: str, *, seed: int | Seeds | None = ...,
        images: int | None = ..., preset: str | None = ..., on_progress: OnProgress = ...,
        **options: Unpack[ImageKeywords],
    ) -> list[ImageResult]: ...  # fmt: skip

    @bare_errors
    @explains(defaults.EDIT)
    def edit(self, image, prompt, *, preset=None, on_progress=None, **options):
        """Draw a changed version of an image, or a picture of what is in several (a list): they come before the prompt.

        The size follows the last image. `images=n`, or a list as `seed`, as in generate; input images are encoded once,
        with the first seed's noise: alone, edit(seed=s, vae_seed=first) gives the same picture.
        """
        items = [*open_images(image), checks.text("prompt", prompt)]
        if len(items) == 1:
            raise InputError("edit was given no image: name one, or a list of them; without any, call generate")
        return drain(self._image(items, self._turns.defaults(presets.EDIT, preset), options), on_progress)

    @bare_errors
    @explains(defaults.ANSWER)
    def ask(
        self,
        prompt: str,
        images: Sequence[ImageInput] | ImageInput = (),
        *,
        preset: str | None = None,
        on_progress: OnProgress = None,
        **options: Unpack[TextKeywords],
    ) -> TextResult:
        """Answer a question about images, or without any. The images come first, as in the official code."""
        items = [*open_images(images), checks.text("prompt", prompt)]
        return drain(self._text(items, self._turns.defaults(presets.ASK, preset), {**options}), on_progress)

    @overload
    def interleave(
        self, items: Sequence[Item], output: Literal["image"] = ..., *, seed: int | None = ..., images: None = ...,
        preset: str | None = ..., on_progress: OnProgress = ..., **options: Unpack[ImageKeywords],
    ) -> ImageResult: ...  # fmt: skip

    @overload
    def interleave(
        self, items: Sequence[Item], output: Literal["image"] = ..., *, seed: int | Seeds | None = ...,
        images: int | None = ..., preset: str | None = ..., on_progress: OnProgress = ...,
        **options: Unpack[ImageKeywords],
    ) -> list[ImageResult]: ...  # fmt: skip

    @overload
    def interleave(
        self, items: Sequence[Item], output: Literal["text"], *, preset: str | None = ...,
        on_progress: OnProgress = ..., **options: Unpack[TextKeywords],
    ) -> TextResult: ...  # fmt: skip

    @bare_errors
    @explains(defaults.INTERLEAVE, defaults.ANSWER)
    def interleave(self, items, output="image", *, preset=None, on_progress=None, **options):
        """Any sequence of texts (str) and images (Path, PIL image, bytes, array) -> one image or text.

        A str is always text; give an image file as a pathlib.Path. `seed` and `images` as in generate.
        """
        if isinstance(items, str):  # a slip here; stream() takes it for a list of one
            raise InputError("items must be a list of texts and images, not a str")
        return drain(self._events(items, output, preset, options), on_progress)

    @overload
    def stream(
        self, inputs: Sequence[Item] | str, output: Literal["image"] = ..., *, seed: int | Seeds | None = ...,
        images: int | None = ..., preset: str | None = ..., **options: Unpack[ImageKeywords],
    ) -> Generator[Event, None, None]: ...  # fmt: skip

    @overload
    def stream(
        self, inputs: Sequence[Item] | str, output: Literal["text"], *, preset: str | None = ...,
        **options: Unpack[TextKeywords],
    ) -> Generator[Event, None, None]: ...  # fmt: skip

    @bare_errors
    @explains(defaults.INTERLEAVE, defaults.ANSWER)
    def stream(self, inputs, output="image", *, preset=None, **options):
        """As interleave, as a generator of events (bagel_rt.events) that ends with Done(result).

        Between two events the model is free for other calls, so a preview may be decoded or a question asked. Closing
        the generator cancels the call and gives everything back.
        """
        return self._events([inputs] if isinstance(inputs, str) else inputs, output, preset, options)

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
        adapter: Adapter = None,
        seed: int | None = None,
        on_progress: OnProgress = None,
        **options: Unpack[ReasonKeywords],
    ) -> ReasonResult:
        """Think in words and pictures until there is an answer: texts and pictures in turns, each behind all before.

        style: a built-in name (generic, zebra-cot, thinkmorph, mathcanvas, unicot), a TOML file or a Style; None: the
        artefact's own, else generic. max_pictures ends the loop where one more is asked for. max_tokens: of one text.
        system: a system prompt in place of the style's. adapter: as in the other calls.
        Turn n has the seed `seed` + n, and images are encoded with the noise of `seed`, so that each turn is what
        interleave(items, seed=seed + n, vae_seed=seed) gives. Other options replace the style's; on_progress sees
        finished pictures, too.
        """
        events = self.stream_reason(
            prompt,
            images,
            style=style,
            max_pictures=max_pictures,
            max_tokens=max_tokens,
            system=system,
            adapter=adapter,
            seed=seed,
            **options,
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
        adapter: Adapter = None,
        seed: int | None = None,
        **options: Unpack[ReasonKeywords],
    ) -> Generator[Event, None, None]:
        """As reason, as a generator of events that ends with Done(result): each picture is an ImageReady."""
        self._gate.check_open()
        asked, opened = checks.text("prompt", prompt), open_images(images)
        first = draw_seed(checks.whole("seed", seed, least=None, optional=True))
        request = request_for(self._turns, self._style(style), max_pictures, max_tokens, system, options, adapter)
        need = self._need(reason_rehearsal(asked, opened, request), checked_options(request))
        return stream(self._scheduler, reason(self._turns, asked, opened, request, first), need=need)

    @property
    def style(self) -> Style | None:
        """How this model reasons, where its artefact says so (`export --style`)."""
        return self._own_style

    def _style(self, given: Named | None) -> Style:
        return style_named(given) if given is not None else self._own_style or style_named(GENERIC)

    @bare_errors
    def preview(self, step: Step) -> Image:
        """The picture a step of the sampler is heading for, decoded."""
        if not isinstance(step, Step):
            raise InputError(f"preview needs a Step from a stream, not {type(step).__name__}")
        with self._gate.enter():
            return self._turns.decode(step.clean, step.grid)

    @bare_errors
    def session(
        self, seed: int | None = None, think: Think = None, *, system: str | None = None, adapter: Adapter = None
    ) -> Session:
        """A conversation that keeps its contexts; use it in a `with` block, or close() it. See session.Session.

        system: a text that stands at the beginning; None: the one that the artefact keeps, "": not that either.
        adapter: as in the calls; everything in the session is computed with it.
        """
        self._gate.check_open()
        start = beginning(self._turns, seed, think, system, adapter)
        return Session(self._scheduler, start, self._admission and self._admission.check, self._own_style)

    def _events(self, given: Sequence[Item], output: str, preset: str | None, values: dict[str, Any]):
        checks.choice("output", output, ("image", "text"))
        items = open_items(given)
        if output == "text":
            return self._text(items, self._turns.defaults(presets.ASK, preset), values)
        task = presets.EDIT if _pictures(items) else presets.GENERATE
        return self._image(items, self._turns.defaults(presets.INTERLEAVE if preset is None else task, preset), values)

    def _text(self, items: list, defaults: Any, values: dict[str, Any]) -> Generator[Event, None, None]:
        self._gate.check_open()
        opts = with_values(defaults, values)
        self.graphs.adapters.check(opts.adapter)
        remark_on_idle(opts, defaults, values, _pictures(items))
        need = self._need(rehearsal(items), opts)
        return stream(self._scheduler, self._calls.answer(items, opts, draw_seed(opts.seed)), writes=True, need=need)

    def _need(self, request: Rehearsal, opts: Any) -> Need | None:
        """What a request needs, where that is known. Raises InputError when it is more than is allowed."""
        return None if self._admission is None else self._admission.check(request, opts)

    def _image(self, items: list, defaults: ImageOptions, values: dict[str, Any]) -> Generator[Event, None, None]:
        self._gate.check_open()
        values = with_mask_opened(values)
        images, seed = values.pop("images", None), values.pop("seed", defaults.seed)
        seeds = seeds_of(seed, images)
        opts = with_values(defaults, {**values, "seed": None if seeds else seed})
        self._turns.check_draws()
        self.graphs.adapters.check(opts.adapter)
        self._turns.sizes.check_asked(opts)
        remark_on_idle(opts, defaults, values, _pictures(items))
        need = self._need(rehearsal(items), opts)
        if seeds is None:
            return stream(self._scheduler, self._calls.draw_one(items, opts, draw_seed(opts.seed)), need=need)
        if opts.noise is not None and len(seeds) > 1:
            raise InputError("noise is given, so every picture would be the same; leave images and the seeds out")
        if opts.vae_seed is None and opts.vae_sample and len(items) > 1:
            opts = replace(opts, vae_seed=seeds[0])
        return stream(self._scheduler, self._calls.draw(items, opts, seeds), need=need)


def _pictures(items: list) -> bool:
    return not all(isinstance(item, str) for item in items)
