"""What does TensorRT-RTX make of an artefact, without a GPU?  python bench/tensorrt_builds.py --model DIR [--out FILE]

Every graph with its real profiles, for several GPU architectures: lint, parse, build; the plan's size against the size
of the weights it was built from. With --only whole_step flow_embed, gen_step and flow_head as one graph. Each graph is
built in a process of its own, so that a builder that crashes is a result. One JSON line per build. Nothing is executed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx

from bagel_engines.tensorrt.lint import BuildReport, build, lint
from bagel_rt.artefact.contract import graph_specs
from bagel_rt.artefact.manifest import Manifest, read_manifest
from bagel_rt.tensorrt.profiles import largest, profiles
from bench.whole_step import STEP, step_profile, whole_step

ARCHITECTURES = ("SM86", "SM89", "SM120")


def weight_bytes(graph: Path) -> int:
    """Bytes of the weight file that a graph reads."""
    found = onnx.load(str(graph), load_external_data=False).graph.initializer
    outside = [t for t in found if t.data_location == onnx.TensorProto.EXTERNAL]
    return sum(int(next(e.value for e in t.external_data if e.key == "length")) for t in outside)


def built(folder: Path, graph: str, architecture: str) -> dict[str, Any]:
    manifest = read_manifest(folder)
    with tempfile.TemporaryDirectory(dir=folder.parent) as room:
        path, ranges = graph_and_profiles(manifest, graph, Path(room))
        start = time.monotonic()
        report = build(path, ranges, architecture)
        return line_of(manifest, path, report) | {"seconds": round(time.monotonic() - start, 1)}


def graph_and_profiles(manifest: Manifest, graph: str, room: Path) -> tuple[Path, list[dict[str, tuple]]]:
    """room: an empty folder on the artefact's file system, for a graph that is joined."""
    model, limits = manifest.model, largest(manifest.model)
    if graph == STEP:
        return whole_step(manifest.folder, room), [step_profile(model, manifest.arithmetic, limits)]
    spec = graph_specs(model, manifest.arithmetic)[graph]
    return manifest.graph_file(graph), profiles(spec, model, limits)


def line_of(manifest: Manifest, path: Path, report: BuildReport) -> dict[str, Any]:
    return {
        "model": manifest.name,
        "precision": manifest.precision,
        "arithmetic": manifest.arithmetic,
        "graph": path.stem,
        "architecture": report.compute_capability,
        "tensorrt_rtx": report.version,
        "weights": weight_bytes(path),
        "plan": report.plan_bytes,
        "lint": lint(path),
        "errors": [error.replace(f"{path.parent}/", "") for error in report.errors],
    }


def apart(folder: Path, graph: str, architectures: list[str]) -> list[dict[str, Any]]:
    """The builds of one graph, in another process; architectures it did not live to are reported with its end."""
    command = [sys.executable, __file__, "--model", folder, "--only", graph, "--here", "--sm", *architectures]
    done = subprocess.run(command, capture_output=True, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    seen = {line["architecture"] for line in found}
    ended = f"the builder's process ended with {done.returncode}: {done.stderr[-300:]}"
    lost = [a for a in architectures if a not in seen]
    return found + [{"graph": graph, "architecture": a, "plan": 0, "lint": [], "errors": [ended]} for a in lost]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, action="append", help="artefact (may be repeated)")
    parser.add_argument("--sm", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--only", nargs="*", help="these graphs")
    parser.add_argument("--here", action="store_true", help="in this process")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = []
    for folder in args.model:
        for graph in args.only or read_manifest(folder).graphs:
            found = (built(folder, graph, sm) for sm in args.sm) if args.here else iter(apart(folder, graph, args.sm))
            for line in found:
                print(json.dumps(line), flush=True)
                lines.append(json.dumps(line) + "\n")
    if args.out is not None:
        args.out.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
