"""Refuses a request that needs more memory than allowed before its work begins, and says what would fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bagel_engines import Engine
from bagel_engines.memory_needs import Needs
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.errors import BagelError, InputError
from bagel_rt.estimate.free_memory import free_memory
from bagel_rt.estimate.memory import memory
from bagel_rt.estimate.workload import Workload, workload
from bagel_rt.generation.needs import Need
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.options.text_options import TextOptions

if TYPE_CHECKING:
    from bagel_rt.generation.turns import Rehearsal
    from bagel_rt.model.vocabulary import Vocabulary

GIB = 2**30
Options = ImageOptions | TextOptions | None  # None: nothing is made, only read


@dataclass(frozen=True)
class Limit:
    """How many bytes may be taken, and in words why: they are free, or allowed by the user."""

    size: int
    why: str

    def __str__(self) -> str:
        return f"{self.size / GIB:.2f} GiB {self.why}"


def limit_of(max_memory: float | None) -> Limit:
    """max_memory in GiB, or what the machine has free now."""
    if max_memory is None:
        return Limit(free_memory(), "are free")
    return Limit(int(max_memory * GIB), "are allowed")


class Admission:
    """Checks the requests of one loaded model against its limit.

    Without known factors nothing is refused: for engines on another device, and artefacts of a version that did not
    store their widths. room: tokens of the page pool.
    """

    def __init__(
        self,
        manifest: Manifest,
        engine: Engine,
        limit: Limit,
        room: int,
        low_memory: bool = False,
        vocabulary: Vocabulary | None = None,
        counts: bool = False,
        held: int = 0,
    ):
        """vocabulary: of the open model; None opens it for each request. counts: what a request needs is said also
        where memory is not known. held: bytes that the model holds beside what its artefact states."""
        self._counts, self._more = counts, (held,) if held else ()
        self._manifest, self._engine, self._room, self._low_memory = manifest, engine, room, low_memory
        self.limit, self._vocabulary = limit, vocabulary

    def check(self, request: Rehearsal, opts: Options) -> Need | None:
        """What a request needs, None where it was not counted. Raises InputError when it is more than the limit."""
        needs, widths = self._engine.needs, self._manifest.widths
        known = needs is not None and widths is not None
        if not known and not self._counts:
            return None
        try:
            work = self._counted(request, opts)
        except BagelError:  # a faulty request: it raises this error itself when it is made
            return None
        if needs is None or widths is None:
            return Need(work.tokens)
        found = memory(self._manifest, widths, work, needs, self._low_memory, *self._more)
        if found.total <= self.limit.size:
            return Need(work.tokens, found.context, found.total - found.context)
        parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in found.parts.items())
        instead = "; ".join(self.alternatives(request, opts, needs)) or "take a machine with more memory"
        raise InputError(
            f"this takes about {found.total / GIB:.2f} GiB of memory ({parts}), and {self.limit}. Instead: {instead};"
            " or allow more with max_memory"
        )

    def alternatives(self, request: Rehearsal, opts: Options, needs: Needs) -> Iterator[str]:
        """Changes that would make the request fit, or may, in words."""
        widths = self._manifest.widths
        assert widths is not None

        def total(changed: Options, low_memory: bool) -> int:
            return memory(self._manifest, widths, self._counted(request, changed), needs, low_memory, *self._more).total

        if not self._low_memory and (size := total(opts, True)) <= self.limit.size:
            yield f"low_memory ({size / GIB:.2f} GiB)"
        if isinstance(opts, ImageOptions):
            for side in (1024, 768, 512, 256):
                smaller = replace(opts, height=side, width=side)
                if side < self._side(opts) and (size := total(smaller, True)) <= self.limit.size:
                    yield f"height and width {side} with low_memory ({size / GIB:.2f} GiB)"
                    break
        forms = set(self._manifest.raw.get("weight_forms", {}).values())
        engine = self._engine.info
        if engine.name == "onnxruntime" and engine.arithmetic != "int8" and forms & {"int8", "int4"}:
            yield 'arithmetic "int8", which keeps 8-bit and 4-bit weights as they are (else they become float32)'
        if "int4" not in forms:
            yield f"an export with --precision {'small' if 'int8' in forms or 'w8a8' in forms else 'balanced or small'}"

    def _counted(self, request: Rehearsal, opts: Options) -> Workload:
        """The request's workload, counted over few steps and tokens: enough to meet its largest calls. The tokens that
        were left out are added to the context."""
        short, more = _shortened(opts)
        work = workload(self._manifest, request, short, self._engine.takes_zero_rows, self._room, self._vocabulary)
        return replace(work, tokens=work.tokens + more)

    def _side(self, opts: ImageOptions) -> int:
        return max(opts.height or 0, opts.width or 0) or self._manifest.vae_transform.max_size


def _shortened(opts: Options) -> tuple[Options, int]:
    """Options that make fewer calls of the same sizes, and how many fewer tokens are written with them."""
    if opts is None:
        return opts, 0
    if isinstance(opts, TextOptions):
        return replace(opts, max_tokens=min(2, opts.max_tokens)), max(0, opts.max_tokens - 2)
    # all steps are needed with a step cache, which holds more results from step to step
    short = opts if opts.step_cache else replace(opts, num_timesteps=2, cfg_zero_steps=0)
    left = max(0, opts.max_think_tokens - 2) if opts.think else 0
    return replace(short, max_think_tokens=min(2, opts.max_think_tokens)), left
