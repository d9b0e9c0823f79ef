"""The way chosen for an artefact on this machine: measured once and kept in the cache folder; or pinned by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bagel_engines import disk
from bagel_engines.diagnosis import packages
from bagel_engines.host_cpus import own_cpus
from bagel_engines.onnxruntime.packed_weights import processor
from bagel_rt.artefact.contract import LAYER
from bagel_rt.artefact.folders import cache
from bagel_rt.artefact.manifest import Manifest
from bagel_rt.errors import OutputError
from bagel_rt.estimate.calibration import Measured, calibrate, fastest
from bagel_rt.estimate.ways import Way, offered, quantised
from bagel_rt.remarks import remark

AUTO = "auto"
# artefacts with fewer bytes of weights are not worth a calibration: they run as stated on the first engine installed
LEAST_BYTES = 1 << 30


@dataclass(frozen=True)
class Choice:
    """way: what to run with. pinned: by hand. measured: every way that was timed, best first."""

    way: Way
    pinned: bool
    measured: tuple[dict[str, Any], ...] = ()

    def __str__(self) -> str:
        if self.pinned:
            return f"{self.way}, pinned"
        others = "; ".join(_told(one) for one in self.measured)
        return f"{self.way}, the fastest here within its error of float32 ({others})"


def resolved(
    manifest: Manifest, backend: str, device: str, arithmetic: str | None, threads: int | None, packed: bool = False
) -> tuple[str, str | None]:
    """Engine and arithmetic to open, where the caller left them to be chosen; else as they were given.

    Chosen are both for a large quantised artefact on the CPU when neither is named, and the arithmetic when it is
    "auto". The first time this measures for up to calibration.MOST_SECONDS, and says in a remark what came out.
    """
    asked = arithmetic == AUTO or (backend == AUTO and arithmetic is None)
    if not asked or device != "cpu" or backend == "tensorrt":
        return backend, None if arithmetic == AUTO else arithmetic
    if not worth_it(manifest):
        way = _pinned(manifest, backend) or Way(backend)
        return way.backend, way.arithmetic
    way = chosen(manifest, "onnxruntime" if packed and backend == AUTO else backend, threads).way
    return way.backend, way.arithmetic


def worth_it(manifest: Manifest) -> bool:
    """Whether there is something to choose, and more to gain than a calibration takes."""
    return quantised(manifest) and manifest.has(LAYER) and manifest.weight_bytes >= LEAST_BYTES


def chosen(manifest: Manifest, backend: str = AUTO, threads: int | None = None) -> Choice:
    """The kept choice, or one that is measured now and kept."""
    return kept(manifest, backend, threads) or measure(manifest, backend, threads)


def kept(manifest: Manifest, backend: str = AUTO, threads: int | None = None) -> Choice | None:
    """The choice of an earlier load on this machine with these versions; None where there is none."""
    if (way := _pinned(manifest, backend)) is not None:
        return Choice(way, pinned=True)
    found = _read(_file(manifest, backend))
    if found.get("key") != _key(threads):
        return None
    return Choice(Way.parse(found["way"]), False, tuple(found["measured"]))


def measure(manifest: Manifest, backend: str = AUTO, threads: int | None = None) -> Choice:
    """Time the ways and keep the fastest that is near enough."""
    found = calibrate(manifest, offered(manifest, backend), threads)
    choice = Choice(fastest(found).way, False, tuple(_as_json(one) for one in found))
    facts = {"key": _key(threads), "way": str(choice.way), "measured": choice.measured}
    try:
        _write(_file(manifest, backend), facts)
    except OSError as error:  # what was measured is good for this load
        remark(
            f"the choice cannot be kept, and is measured again next time: {error}; BAGEL_RT_CACHE names another folder"
        )
    remark(f"{manifest.folder.name} runs with {choice}; 'bagel-rt ways' measures again, pins another or clears it")
    return choice


def pin(manifest: Manifest, way: Way) -> None:
    """Run the artefact this way from now on wherever engine and arithmetic are left open. EngineFailure: it cannot.

    Raises OutputError where that cannot be kept."""
    way.open(manifest)
    file = _file(manifest, "pinned")
    try:
        _write(file, {"way": str(way)})
    except OSError as error:
        raise OutputError(
            f"{file}: cannot be written, {error.strerror}; BAGEL_RT_CACHE names another folder"
        ) from error


def _pinned(manifest: Manifest, backend: str) -> Way | None:
    """The way pinned for an artefact, where the engine is open or the same."""
    found = _read(_file(manifest, "pinned"))
    way = Way.parse(found["way"]) if "way" in found else None
    return way if way is not None and backend in (AUTO, way.backend) else None


def clear(manifest: Manifest) -> int:
    """Forget what was chosen and pinned; returns how many choices there were."""
    files = list(_folder(manifest).glob("*.json"))
    for file in files:
        disk.remove(file)
    return len(files)


def _key(threads: int | None) -> dict[str, Any]:
    """What a choice depends on beside the artefact."""
    versions = {name: version for name, version in packages().items() if name in ("openvino", "onnxruntime")}
    return {"processor": processor(), "cpus": own_cpus(), "threads": threads, "versions": versions}


def _folder(manifest: Manifest) -> Path:
    return cache() / "ways" / f"{manifest.folder.resolve().name}-{manifest.fingerprint}"


def _file(manifest: Manifest, name: str) -> Path:
    return _folder(manifest) / f"{name}.json"


def _read(file: Path) -> dict[str, Any]:
    """A kept file's facts; none where it is missing or damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(file: Path, facts: dict[str, Any]) -> None:
    """Whole or not at all: another process may be reading."""
    disk.make_folder(file.parent, exist_ok=True, parents=True)
    disk.write_whole(file, json.dumps(facts, indent=1).encode() + b"\n")


def _as_json(one: Measured) -> dict[str, Any]:
    return {"way": str(one.way), "ms": {k: round(1000 * v, 2) for k, v in one.seconds.items()}, "error": one.error}


def _told(one: dict[str, Any]) -> str:
    times = ", ".join(f"{ms:g} ms for {rows}" for rows, ms in one["ms"].items())
    return f"{one['way']}: {times}, {one['error']:.1%} off"
