"""Plans on disk. Each is named by everything it depends on (model, TensorRT version, GPU, driver, settings), and has a
JSON record beside it that says whether it was executed and how far from another engine it was found to be."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bagel_engines import disk
from bagel_engines.claims import alone
from bagel_engines.device import cuda
from bagel_engines.disk import unique
from bagel_engines.kept_files import explained
from bagel_engines.store_key import Key
from bagel_engines.tensorrt.plan_builder import RECIPE, BuildSettings, Flavour

SUFFIX = ".plan"
ANY = "any"  # of drivers
ADVICE = "make room there"  # where the disk refuses one


@dataclass(frozen=True)
class Target:
    """The GPU a plan is for: its name and compute capability, the driver, and the architecture ("SM120"). Of a plan
    built for another machine's GPU only the architecture is known."""

    gpu: str
    driver: str
    architecture: str

    @staticmethod
    def at_hand(index: int) -> Target:
        return Target(cuda.describe(index), cuda.dotted(cuda.versions()[0]), cuda.architecture(index))

    @staticmethod
    def across(architecture: str) -> Target:
        return Target(architecture, ANY, architecture)

    @property
    def is_here(self) -> bool:
        """Whether it is this machine's GPU, and not every GPU of an architecture."""
        return self.driver != ANY


@dataclass(frozen=True)
class PlanKey(Key):
    """Everything a plan depends on. model: a name for graphs and weights that changes when either does."""

    model: str
    graph: str
    flavour: str
    version: str
    target: Target
    settings: BuildSettings
    recipe: int = RECIPE


def key_for(model: str, graph: Path, found: Flavour, target: Target, settings: BuildSettings) -> PlanKey:
    return PlanKey(model, graph.stem, found.name, found.version, target, settings)


def refusal(path: Path, record: Mapping[str, Any]) -> str | None:
    """Why a plan must not be used: the comparison it failed. None for a plan that passed or was never compared."""
    compared = record.get("compared")
    if compared is None or compared["passed"]:
        return None
    worst = max((found for found in compared["outputs"] if not found["passed"]), key=_how_far)
    fault = "is not finite" if worst["relative_l2"] is None else f"is off by relative L2 {worst['relative_l2']:.1e}"
    return (
        f"plan {path}: output '{worst['output']}' {fault} from {compared['reference']}, {worst['tolerance']:.0e} is"
        f" allowed (compared on {compared['date']}); it is not used. Remove the plan, install another version of"
        " TensorRT or of the driver, and run: bagel-rt verify --backend tensorrt; --backend onnxruntime --device cuda"
        " needs no plans"
    )


def standing(record: Mapping[str, Any]) -> str:
    """Whether a plan was executed and compared, in a few words for people."""
    if not record.get("executed"):
        return "not executed"
    compared = record.get("compared")
    if compared is None:
        return "executed, not compared"
    return (
        f"{'agrees with' if compared['passed'] else 'DIFFERS from'} {compared['reference']} ({compared['date'][:10]})"
    )


def record_of(plan: Path) -> dict[str, Any]:
    """The record beside a plan."""
    return json.loads(plan.with_suffix(".json").read_text(encoding="utf-8"))


def records(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of the plans in a folder that have a readable one."""
    for plan in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            record = record_of(plan)
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and {"key", "bytes"} <= record.keys():
            yield record


def _how_far(found: Mapping[str, Any]) -> float:
    return math.inf if found["relative_l2"] is None else found["relative_l2"]


class PlanStore:
    """A folder of plans, each beside a record of what it was built from and what was found out about it since."""

    def __init__(self, folder: Path):
        self.folder = folder

    def find(self, key: PlanKey) -> Path | None:
        """The plan for this key, whole and unchanged since it was written; None where there is none."""
        path = self.path(key)
        try:
            record = self.record(key)
            whole = record["key"] == key.facts() and path.stat().st_size == record["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return path if whole else None

    def save(self, key: PlanKey, plan: Any, notes: Mapping[str, Any] | None = None) -> Path:
        """Write a plan and its record; either appears whole. `plan` is any buffer.

        Where another process has built the same plan meanwhile, that one stays: it may be in use. Raises EngineFailure
        where the disk does not take it.
        """
        self.make_folder()
        with explained("the plan", self.folder, ADVICE):
            return self._save(key, plan, notes)

    def make_folder(self) -> None:
        with explained("the plan", self.folder, ADVICE):
            disk.make_folder(self.folder, exist_ok=True, parents=True)

    def _save(self, key: PlanKey, plan: Any, notes: Mapping[str, Any] | None) -> Path:
        data, path = memoryview(plan), self.path(key)
        facts = {"key": key.facts(), "bytes": data.nbytes, "crc32": zlib.crc32(data), "executed": False}
        partial = unique(path.parent, path.name)
        try:
            with disk.opened(partial, "wb") as stream:
                disk.write(stream, data)
            disk.sync(partial)
            with alone(self.folder):
                if self.find(key) is None:
                    disk.replace(partial, path)
                    self._write_record(key, {**facts, **(notes or {})})
        finally:
            disk.remove(partial)
        return path

    def note(self, key: PlanKey, **facts: Any) -> None:
        """Add what was found out, such as that a plan was executed, or how far it is from ONNX Runtime."""
        with alone(self.folder):  # what another process adds meanwhile stays
            self._write_record(key, {**self.record(key), **facts})

    def path(self, key: PlanKey) -> Path:
        return self.folder / f"{key.name}{SUFFIX}"

    def record(self, key: PlanKey) -> dict[str, Any]:
        return record_of(self.path(key))

    def _write_record(self, key: PlanKey, record: dict[str, Any]) -> None:
        path = self.path(key).with_suffix(".json")
        disk.write_whole(path, json.dumps(record, indent=1).encode() + b"\n")
