"""Ways to run an artefact on this CPU, beside what its graphs state: an engine, and what it computes in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bagel_engines import Engine, EngineFailure, Settings, open_engine
from bagel_engines.memory_needs import Needs
from bagel_engines.select import installed
from bagel_rt.artefact.contract import GEN_STEP, UND_STEP
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.artefact.precision import meaning_of
from bagel_rt.errors import InputError
from bagel_rt.estimate.free_memory import free_memory

IN_BLOCKS = {"int8", "int4"}  # forms whose rows an engine may round
QUANTISED = {*IN_BLOCKS, "w8a8"}
ROUNDING = {"openvino": ("int8",), "onnxruntime": ("int8-rows", "int8")}


@dataclass(frozen=True)
class Way:
    """arithmetic None: as the artefact states."""

    backend: str
    arithmetic: str | None = None

    def __str__(self) -> str:
        return f"{self.backend}/{self.arithmetic or 'stated'}"

    @classmethod
    def parse(cls, text: str) -> Way:
        """Of what str() gives: "openvino/stated". Raises InputError."""
        backend, slash, arithmetic = text.partition("/")
        if not slash or not arithmetic:
            raise InputError(f"{text!r} is no way to run a model; allowed: ENGINE/ARITHMETIC, as onnxruntime/int8-rows")
        return cls(backend, None if arithmetic == "stated" else arithmetic)

    def open(self, manifest: Manifest, threads: int | None = None) -> Engine:
        """Raises EngineFailure for what this machine does not have."""
        settings = Settings(threads=threads, arithmetic=self.arithmetic, stated=manifest.arithmetic)
        return open_engine(self.backend, settings=settings)


def quantised(manifest: Manifest) -> bool:
    """Whether either expert's weights have 8 or 4 bits, so that there is something to choose."""
    forms = meaning_of(manifest).forms
    return bool(QUANTISED & {forms["und"], forms["gen"]})


def offered(manifest: Manifest, backend: str = "auto") -> list[Way]:
    """The ways that this machine really has and has memory for, engines with the artefact's own arithmetic first."""
    return list(_offered(manifest, [name for name in installed() if backend in ("auto", name)]))


def _offered(manifest: Manifest, engines: list[str]) -> Iterator[Way]:
    in_blocks = bool(IN_BLOCKS & set(meaning_of(manifest).forms.values()))
    for name in engines:
        # on onnxruntime, weights in blocks would become float32, in four to eight times the memory
        stated = [None] if name == "openvino" or not in_blocks else []
        for arithmetic in (*stated, *(ROUNDING[name] if in_blocks else ())):
            try:
                engine = Way(name, arithmetic).open(manifest)
            except EngineFailure:
                continue
            if _weights(manifest, engine.needs) <= free_memory():
                yield Way(name, arithmetic)


def _weights(manifest: Manifest, needs: Needs | None) -> int:
    """Bytes that the experts' weights take in memory."""
    graph = GEN_STEP if manifest.has(GEN_STEP) else UND_STEP
    form = meaning_of(manifest).forms["gen" if graph == GEN_STEP else "und"]
    return needs.weights(form, manifest.weights_of(graph)) if needs else 0
