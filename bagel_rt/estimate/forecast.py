"""Memory and time that a request will take on one engine: what `bagel-rt plan` shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bagel_engines import Engine
from bagel_rt.artefact.contract import GEN_STEP, LM_HEAD, UND_STEP, VAE_DECODER, VAE_ENCODER, VIT
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.errors import InputError
from bagel_rt.estimate.admission import Admission, Limit
from bagel_rt.estimate.counting_engine import Call
from bagel_rt.estimate.memory import Memory, memory
from bagel_rt.estimate.timing import Stopwatch
from bagel_rt.estimate.workload import Workload, workload
from bagel_rt.events import Progress
from bagel_rt.model.vocabulary import Vocabulary
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.options.text_options import TextOptions

if TYPE_CHECKING:
    from bagel_rt.generation.turns import Rehearsal

STAGES = ("reading", "writing", "drawing", "decoding")


@dataclass(frozen=True)
class Forecast:
    """What a request will take. engine: its name in words. seconds: by stage, empty where nothing was timed. instead:
    changes that would make the request fit, where it does not."""

    engine: str
    memory: Memory
    limit: Limit
    instead: tuple[str, ...]
    seconds: Mapping[str, float]

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.limit.size


def forecast(
    manifest: Manifest,
    engine: Engine,
    request: Rehearsal,
    opts: ImageOptions | TextOptions,
    limit: Limit,
    room: int,
    low_memory: bool = False,
    timed: bool = True,
    held: int = 0,
) -> Generator[Progress, None, Forecast]:
    """Forecast a request, yielding progress while calls are timed on this machine. room: tokens of the page pool.
    held: bytes of adapters, whose products are not in what is timed.

    Raises InputError for an artefact that does not say what is needed, and for an engine whose needs are not known.
    """
    needs, widths = engine.needs, manifest.widths
    if widths is None:
        raise InputError(f"{manifest.folder}: exported by a version that did not state its widths; export it again")
    if needs is None:
        raise InputError(f"{engine.info}: what it takes from main memory is not known; plan for a CPU engine")
    vocabulary = Vocabulary.of(manifest)
    work = workload(manifest, request, opts, engine.takes_zero_rows, room, vocabulary)
    found = memory(manifest, widths, work, needs, low_memory, held)
    seconds: Mapping[str, float] = {}
    if timed:
        seconds = yield from _seconds(manifest, engine, work)
    admission = Admission(manifest, engine, limit, room, low_memory, vocabulary, held=held)
    instead = () if found.total <= limit.size else tuple(admission.alternatives(request, opts, needs))
    return Forecast(str(engine.info), found, limit, instead, seconds)


def _seconds(manifest: Manifest, engine: Engine, work: Workload) -> Generator[Progress, None, Mapping[str, float]]:
    spent: dict[str, float] = defaultdict(float)
    yield Progress("measuring", 0, 1)
    for timed in Stopwatch(manifest, engine).measure(work.calls):
        yield Progress("measuring", timed.done, timed.total)
        for call, seconds in timed.seconds.items():
            spent[_stage(call)] += seconds * work.calls[call]
    return {stage: spent[stage] for stage in STAGES if stage in spent}


def _stage(call: Call) -> str:
    if call.graph == VAE_DECODER:
        return "decoding"
    if call.graph in (VIT, VAE_ENCODER):
        return "reading"
    if call.graph == LM_HEAD:
        return "writing"
    if call.graph in (GEN_STEP, UND_STEP) and not call["gen_rows"]:
        return "writing" if call["und_rows"] == 1 else "reading"
    return "drawing"
