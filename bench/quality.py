"""What does a precision, an engine or a shortcut cost?  python bench/quality.py --ckpt bench/nano/bagel-nano --out DIR

bagel-nano in float32 on ONNX Runtime is the yardstick. Each variant draws, edits and answers the same held-out cases
with the same seeds: the difference of the share that is right, pair by pair; how far its latents and pixels are from
the yardstick's; how many greedy answers are the same. Writes quality.md and quality.json into --out; ends in one line
of JSON.
What a small model loses is not what the 7B loses: for that, `bagel-rt verify` runs on the weights in question.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import bagel_rt
from bagel_rt.results import ImageResult
from bench.nano.cases import Case, all_cases
from bench.nano.score import compare, is_right, result
from bench.timing import machine
from bench.ways import Way, exported


@dataclass(frozen=True)
class Variant:
    name: str
    precision: str = "fp32"
    backend: str = "onnxruntime"
    arithmetic: str | None = None  # the engine's
    options: dict[str, Any] = field(default_factory=dict)


VARIANTS = (
    Variant("float32, ONNX Runtime"),
    Variant("float32, OpenVINO", backend="openvino"),
    Variant("float32, OpenVINO in bfloat16", backend="openvino", arithmetic="bfloat16"),
    Variant("fp16", "fp16"),
    Variant("int8", "int8"),
    Variant("int8, OpenVINO in bfloat16", "int8", "openvino", "bfloat16"),
    Variant("int8, OpenVINO in int8", "int8", "openvino", "int8"),
    Variant("int8, OpenVINO", "int8", "openvino", "float32"),
    Variant("int8, ONNX Runtime in int8", "int8", arithmetic="int8"),
    Variant("int8, ONNX Runtime in int8-rows", "int8", arithmetic="int8-rows"),
    Variant("int4", "int4"),
    Variant("int4, OpenVINO in bfloat16", "int4", "openvino", "bfloat16"),
    Variant("int4, OpenVINO in int8", "int4", "openvino", "int8"),
    Variant("int4, OpenVINO", "int4", "openvino", "float32"),
    Variant("int4, ONNX Runtime in int8", "int4", arithmetic="int8"),
    Variant("int4, ONNX Runtime in int8-rows", "int4", arithmetic="int8-rows"),
    Variant("w8a8, OpenVINO", "w8a8", "openvino", "float32"),
    Variant("w8a8, ONNX Runtime", "w8a8"),
    Variant("w8a8, OpenVINO in bfloat16", "w8a8", "openvino", "bfloat16"),
    Variant("fp8, OpenVINO", "fp8", "openvino", "float32"),
    Variant("fp8, OpenVINO in bfloat16", "fp8", "openvino", "bfloat16"),
    Variant("und=int4,gen=w8a8, OpenVINO in bfloat16", "und=int4,gen=w8a8", "openvino", "bfloat16"),
    Variant("step cache", options={"step_cache": "taylorseer"}),
    Variant("int8, OpenVINO in bfloat16, step cache", "int8", "openvino", "bfloat16", {"step_cache": "taylorseer"}),
    Variant("int8, OpenVINO in int8, step cache", "int8", "openvino", "int8", {"step_cache": "taylorseer"}),
)


@dataclass
class Outcome:
    """What a variant gave, case by case."""

    engine: str = ""
    marks: dict[str, list[int]] = field(default_factory=dict)
    latents: list[np.ndarray] = field(default_factory=list)
    pictures: list[np.ndarray] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def outcome(variant: Variant, model: Path, cases: Iterable[Case]) -> Outcome:
    out = Outcome()
    with bagel_rt.load(model, variant.backend, arithmetic=variant.arithmetic) as bagel:
        out.engine = bagel.engine
        for case in tqdm(list(cases), desc=variant.name, unit="case"):
            given = result(bagel, case, variant.options)
            picture = None
            if isinstance(given, ImageResult):
                picture = given.image
                out.latents.append(given.latent)
                out.pictures.append(np.asarray(picture, np.float32))
            else:
                out.texts.append(given.text)
            out.marks.setdefault(case.category, []).append(int(is_right(case, picture, given.text)))
    return out


def distance(mine: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Median relative L2."""
    pairs = zip(mine, other, strict=True)
    return float(np.median([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs if a.shape == b.shape]))


def psnr(mine: list[np.ndarray], other: list[np.ndarray]) -> float:
    """Median peak signal-to-noise ratio of pictures, dB; 99 where they are equal."""
    found = []
    for a, b in zip(mine, other, strict=True):
        error = float(np.square(a - b).mean())
        found.append(99.0 if error == 0 else 10 * math.log10(255**2 / error))
    return float(np.median(found))


def row(found: Outcome, yardstick: Outcome, size: int) -> dict[str, Any]:
    bits = {category: "".join(map(str, marks)) for category, marks in yardstick.marks.items()}
    every = [bit for marks in found.marks.values() for bit in marks]
    same = sum(a == b for a, b in zip(found.texts, yardstick.texts, strict=True))
    return {
        "engine": found.engine,
        "machine": machine()["machine"],
        "weights_mb": round(size / 1e6, 1),
        "right": round(sum(every) / len(every), 4),
        "paired": compare(found.marks, bits)["all"],
        "latents_relative_l2": float(f"{distance(found.latents, yardstick.latents):.2g}"),
        "psnr_db": round(psnr(found.pictures, yardstick.pictures), 1),
        "answers_the_same": round(same / max(1, len(found.texts)), 4),
    }


def sheet(rows: dict[str, dict[str, Any]], cases: int) -> str:
    lines = [
        "# What precisions, engines and shortcuts cost bagel-nano",
        "",
        f"{cases} held-out cases each, same seeds; against float32 on ONNX Runtime. `python bench/quality.py`",
        "",
        "| variant | weights | right | difference (95 %) | latents | pictures | same answers |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, r in rows.items():
        p = r["paired"]
        difference = f"{p['difference']:+.3f} ({p['low']:+.3f} to {p['high']:+.3f})"
        distances = f"{r['latents_relative_l2']:.1e} | {r['psnr_db']:.0f} dB | {r['answers_the_same']:.2f}"
        lines.append(f"| {name} | {r['weights_mb']} MB | {r['right']:.3f} | {difference} | {distances} |")
    lines += [
        "",
        "A small model's losses: whether a precision is good enough for other weights, `bagel-rt verify` says.",
    ]
    return "\n".join([*lines, ""])


def earlier(report: Path, cases: int) -> dict[str, dict[str, Any]]:
    """Rows of an earlier run over as many cases."""
    found = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    return found["variants"] if found.get("cases") == cases else {}


def chosen(limit: int) -> list[Case]:
    """The first cases of every kind."""
    kinds: dict[str, list[Case]] = {}
    for case in all_cases():
        kinds.setdefault(case.category, []).append(case)
    return [case for cases in kinds.values() for case in cases[:limit]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=30, help="cases per category")
    parser.add_argument(
        "--variants", nargs="*", metavar="NAME", help="these only, beside the yardstick; others stay as --out has them"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for quality.md and quality.json")
    args = parser.parse_args()
    cases = chosen(args.limit)
    kept = earlier(args.out / "quality.json", len(cases)) if args.variants is not None else {}
    rows: dict[str, dict[str, Any]] = {}
    yardstick: Outcome | None = None
    with tempfile.TemporaryDirectory() as folder:
        for variant in VARIANTS:
            if rows and args.variants is not None and variant.name not in args.variants:
                continue
            way = Way(variant.precision)
            exported([way], args.ckpt, Path(folder))
            model = way.artefact(Path(folder))
            found = outcome(variant, model, cases)
            yardstick = yardstick or found
            size = (model / "weights.safetensors").stat().st_size
            rows[variant.name] = row(found, yardstick, size)
            known = kept | rows
            ordered = {each.name: known[each.name] for each in VARIANTS if each.name in known}
            report = {
                "question": "what precisions, engines and shortcuts cost bagel-nano",
                "cases": len(cases),
                "variants": ordered,
                **machine(),
            }
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / "quality.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            (args.out / "quality.md").write_text(sheet(ordered, len(cases)), encoding="utf-8")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
