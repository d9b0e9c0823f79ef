"""Ways to run a model that benchmarks compare: a precision of its weights, and what is computed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bagel_engines import EngineFailure, Settings, open_engine
from bagel_export.artefact.export import export


@dataclass(frozen=True)
class Way:
    """precision: of the artefact; arithmetic and backend: the engine's."""

    precision: str
    arithmetic: str = "bfloat16"
    backend: str = "openvino"

    def __str__(self) -> str:
        engine = "" if self.backend == "openvino" else f"{self.backend}:"
        return engine + (self.precision if self.arithmetic == "bfloat16" else f"{self.precision}/{self.arithmetic}")

    def artefact(self, folder: Path) -> Path:
        return folder / self.precision.replace(",", "-")


def way(text: str) -> Way:
    """Parse a way: "int8" is int8 weights computed in bfloat16 on OpenVINO, "onnxruntime:int8/int8" the same weights on
    ONNX Runtime with arithmetic int8."""
    backend, named, rest = text.rpartition(":")
    words = rest.split("/", 1)
    return Way(*words, **({"backend": backend} if named else {}))


def refused(ways: Iterable[Way]) -> dict[Way, str]:
    """Those of the ways that an engine does not have on this CPU, with its reason."""
    found: dict[Way, str] = {}
    for each in ways:
        try:
            open_engine(each.backend, settings=Settings(arithmetic=each.arithmetic))
        except EngineFailure as error:
            found[each] = str(error)
    return found


def exported(ways: Iterable[Way], checkpoint: Path, folder: Path) -> None:
    """An artefact for each precision, where it is not there yet."""
    for each in ways:
        if not each.artefact(folder).exists():
            for _ in export(checkpoint, each.artefact(folder), precision=each.precision, verify=False):
                pass
