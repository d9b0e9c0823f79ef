"""The documents' tables of measured numbers, made from bench/results.  python bench/tables.py [--check]

In README.md and docs/ a table stands between <!-- table: NAME --> and <!-- end of table -->; NAME is one of TABLES. It
is written anew; with --check tables are only named that are not what the results give, and the exit code is 1.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.nano.intervals import paired

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
TABLES: dict[str, Callable[[], str]] = {}


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


def filled(text: str) -> str:
    """The text with every table made anew."""
    return PLACE.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[4]}", text)


def table(make: Callable[[], Iterable[Sequence[str]]]) -> Callable[[], str]:
    """Enter a table's rows, of which the first is the heads, under the function's name."""

    def text() -> str:
        heads, *rows = make()
        return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))

    TABLES[make.__name__.replace("_", "-")] = text
    return text


def read(name: str) -> Any:
    """A result file: an object, or a list where every line is one."""
    text = (RESULTS / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else json.loads(text)


def duration(ms: float) -> str:
    """To three digits, in milliseconds or, from a second on, in seconds."""
    return f"{ms:.3g} ms" if ms < 1000 else f"{ms / 1000:.3g} s" if ms < 1e6 else f"{ms / 1000:.0f} s"


def timed(cell: dict[str, float] | None, base: bool = False) -> str:
    """The time, and its ratio to the first column."""
    if cell is None:
        return ""
    return duration(cell["ms"]) if base else f"{duration(cell['ms'])} ({cell['ratio']:.2f})"


@table
def cuda_counts() -> Iterable[Sequence[str]]:
    yield "artefact", "one more", "kernels", "products", "plays", "copies up, within, down", "waits", "allocations"
    for name, found in read("cuda-counts.json")["results"].items():
        for how, word in (("ordinary", "step"), ("played", "step"), ("ordinary", "token")):
            one = found[how][word]
            copies = ", ".join(str(one.get(f"copy {way}", 0)) for way in ("H2D", "D2D", "D2H"))
            work = one.get("kernel", 0) + one.get("convolution", 0) + one.get("set", 0), one.get("product", 0)
            numbers = (*work, one.get("play", 0), copies, one["synchronise"], one.get("malloc", 0))
            yield name, f"{word}, played" if how == "played" else word, *map(str, numbers)


LAYER_WAYS = ("fp32", "int8", "int8/int8", "int4", "int4/int8", "w8a8")


ZEN4_WAYS = {
    "torch int8": "PyTorch int8",
    "fp32": "`fp32` in bfloat16",
    "int8/int8": "`int8`, `--arithmetic int8`",
    "w8a8": "`w8a8` in bfloat16",
    "onnxruntime:int8/int8": "`int8`, `int8`, ONNX Runtime",
    "onnxruntime:int8/int8-rows": "`int8`, `int8-rows`, ONNX Runtime",
    "onnxruntime:w8a8/float32": "`w8a8`, ONNX Runtime",
    "int4/int8": "`int4`, `--arithmetic int8`",
}


AVX2_WAYS = {
    "torch int8": "PyTorch int8",
    "fp32/float32": "`fp32`",
    "int8/float32": "`int8`",
    "w8a8/float32": "`w8a8`",
    "int4/float32": "`int4`",
    "onnxruntime:int8/int8": "`int8`, `int8`, ONNX Runtime",
    "onnxruntime:int8/int8-rows": "`int8`, `int8-rows`, ONNX Runtime",
    "onnxruntime:w8a8/float32": "`w8a8`, ONNX Runtime",
    "onnxruntime:int4/int8": "`int4`, `int8`, ONNX Runtime",
}


@table
def speed():
    """README: the least that says what to expect, of every kind of machine in bench/results."""
    kinds = ("AMX", "Zen 4", "AVX2")
    yield "work", *(head for kind in kinds for head in (f"{kind}: PyTorch", "`int8`", "`w8a8`"))
    machines = (
        ("cpu", "int8/int8", "w8a8"),
        ("zen4", "int8/int8", "onnxruntime:w8a8/float32"),
        ("avx2", "onnxruntime:int8/int8-rows", "onnxruntime:w8a8/float32"),
    )
    for title, work in (
        ("one denoising step, 1024 latents", "denoise 1024 latents, context 50"),
        ("one denoising step, 4096 latents", "denoise 4096 latents, context 50"),
        ("reading 500 tokens", "prefill of 500 tokens"),
        ("writing one token", "one token, context 500"),
    ):
        yield title, *_beside("layers-{}.json", work, machines)
    yield "a picture of 512 x 512", *_beside("picture-{}.json", "512 x 512", machines)
    cached = [(name, *(f"{way}, step cache" for way in ways)) for name, *ways in machines]
    yield "the same with `--step-cache taylorseer`", *_beside("picture-{}.json", "512 x 512", cached, peer=False)


def _beside(file: str, work: str, machines: Iterable[Sequence[str]], peer: bool = True) -> Iterable[str]:
    """Of each machine PyTorch's time, where peer says so, and those of its ways."""
    for name, *ways in machines:
        known = (RESULTS / file.format(name)).exists()
        row = read(file.format(name))["results"][work] if known else {}
        yield timed(_peer(row), True) if peer and known else ""
        yield from (timed(row.get(way)) for way in ways)


def _peer(row: dict[str, Any]) -> dict[str, float]:
    """PyTorch's fastest form; results before it was chosen have bfloat16."""
    names = ("torch", "torch bf16", "official control flow, torch bf16")
    return next(row[name] for name in names if name in row)


@table
def layers_zen4():
    yield from _layers("layers-zen4.json", ZEN4_WAYS)


@table
def layers_avx2():
    yield from _layers("layers-avx2.json", AVX2_WAYS)


def _layers(file: str, ways: dict[str, str]) -> Iterable[Sequence[str]]:
    """By work PyTorch's time, those of the ways, and the roof for many rows; at the end the errors."""
    report = read(file)
    yield "work", "PyTorch", *ways.values(), "roof"
    best = max(report["rates_gop_per_s"].values())
    for work, row in report["results"].items():
        roof = {"ms": report["operations_g"][work] / best * 1000}
        roof["ratio"] = roof["ms"] / row["torch"]["ms"]
        many = not work.startswith(("one", "4", "8"))
        cells = (timed(row.get(way)) for way in ways)
        yield work, timed(row["torch"], True), *cells, timed(roof) if many else ""
    row = report["results"]["denoise 1024 latents, context 50"]
    errors = (f"{100 * row[way]['relative_error']:.2g} %" if way in row else "" for way in ("torch", *ways))
    yield "error, 1024 latents", *errors, ""


@table
def ran_zen4():
    yield from _ran("ran-zen4.json", ZEN4_WAYS)


@table
def ran_avx2():
    yield from _ran("ran-avx2.json", AVX2_WAYS)


def _ran(file: str, ways: dict[str, str]) -> Iterable[Sequence[str]]:
    """What the engines' own graphs hold."""
    yield "way", "of one layer's products"
    found = read(file)["results"]
    for way, told in ways.items():
        if way in found:
            counts = (f"{count} {'in ' if name.islower() else ''}{name}" for name, count in found[way].items())
            yield told, ", ".join(counts)


@table
def forms_zen4():
    yield from _forms("layers-zen4.json")


@table
def forms_avx2():
    yield from _forms("layers-avx2.json")


def _forms(file: str) -> Iterable[Sequence[str]]:
    """Every form that PyTorch was tried in."""
    results = read(file)["results"]
    tried = {work: row["torch"]["forms"] for work, row in results.items() if "forms" in row["torch"]}
    yield "PyTorch", *tried
    for form in next(iter(tried.values())):
        told = (forms[form] for forms in tried.values())
        yield form.removeprefix("torch "), *(duration(ms) if isinstance(ms, float) else "not run" for ms in told)


@table
def layers():
    yield "work", "PyTorch bf16", *(f"`{way}`" for way in LAYER_WAYS)
    for work, row in read("layers-cpu.json")["results"].items():
        yield work, timed(row["torch bf16"], True), *(timed(row.get(way)) for way in LAYER_WAYS)


@table
def layers_bandwidth():
    ways = ("torch bf16", *LAYER_WAYS)
    yield "one token", *(f"`{way}`" if way in LAYER_WAYS else "PyTorch bf16" for way in ways)
    for work, row in read("layers-cpu.json")["results"].items():
        if work.startswith("one token"):
            yield work, *(f"{row[way]['share_of_bandwidth']:.2f}" for way in ways)


@table
def layers_error():
    ways = ("torch bf16", *LAYER_WAYS)
    yield "work", *(f"`{way}`" if way in LAYER_WAYS else "PyTorch bf16" for way in ways)
    for work, row in read("layers-cpu.json")["results"].items():
        if "relative_error" in row["fp32"]:
            yield work, *(f"{100 * row[way]['relative_error']:.2g} %" for way in ways)


@table
def engines():
    (found,) = read("engines-cpu.jsonl")
    openvino, onnxruntime, ratio = (
        found["median"]["openvino"],
        found["median"]["onnxruntime"],
        found["ratio_to_openvino"],
    )
    yield "work", "OpenVINO", "ONNX Runtime (ratio)"
    for title, key in (
        ("a denoising step of 1024 latents", "step_s"),
        ("one text token", "token_s"),
        ("decoding 512 x 512", "vae_decode_s"),
    ):
        ratios = ratio["onnxruntime"][key]
        yield title, duration(1000 * openvino[key]), f"{duration(1000 * onnxruntime[key])} ({ratios:.2f})"


@table
def overhead():
    yield "engine", "a denoising step", "of it outside the engine", "share"
    for row in read("overhead-cpu.jsonl"):
        times = (f"{row[key]:.2f} ms" for key in ("step_ms", "step_overhead_ms"))
        yield row["engine"], *times, f"{100 * row['step_overhead_share']:.1f} %"


@table
def encoders():
    names = {
        "openvino int8, int8 weights": "OpenVINO int8",
        "openvino bfloat16, int8 weights": "OpenVINO bf16",
        "openvino float32, int8 weights": "OpenVINO float32",
        "onnxruntime float32, int8 weights": "ONNX Runtime float32",
    }
    yield "work", "PyTorch bf16", "PyTorch float32", *names.values()
    results = read("encoders-cpu.json")["results"]
    for title, graph, suffix in (
        ("ViT, 980 x 980", "vit", ""),
        ("VAE decoding, 1024 x 1024", "vae_decoder", ""),
        ("the same in strips, in half the memory", "vae_decoder", ", in strips"),
    ):
        row = results[graph]
        torch = ("", "") if suffix else (timed(row["torch bf16"], True), timed(row["torch fp32"]))
        yield title, *torch, *(timed(row.get(name + suffix)) for name in names)


@table
def encoders_avx2():
    """Artefacts with 8-bit weights where there is a choice; errors against PyTorch in float32."""
    names = {
        "torch int8": "PyTorch int8",
        "openvino float32, fp32 weights": "`fp32`, OpenVINO",
        "onnxruntime float32, fp32 weights": "`fp32`, ONNX Runtime",
        "onnxruntime int8-rows, int8 weights": "`int8`, `int8-rows`, ONNX Runtime",
    }
    yield "work", "PyTorch float32", *names.values()
    results = read("encoders-avx2.json")["results"]
    for title, graph, suffix in (
        ("ViT, 980 x 980", "vit", ""),
        ("VAE decoding, 1024 x 1024", "vae_decoder", ""),
        ("the same in strips, in half the memory", "vae_decoder", ", in strips"),
    ):
        row = results[graph]
        yield title, "" if suffix else timed(row["torch"], True), *(timed(row.get(name + suffix)) for name in names)
    row = results["vit"]
    yield "error of the ViT", "0", *(f"{100 * row[name]['relative_error']:.2g} %" for name in names)


@table
def pictures():
    ways = ("int8/int8", "int4/int8", "w8a8")
    yield "a picture", "official control flow, PyTorch bf16", *(f"`{way}`" for way in ways)
    for size, row in read("picture-cpu.json")["results"].items():
        yield size, timed(row["official control flow, torch bf16"], True), *(timed(row.get(way)) for way in ways)
        yield f"{size}, step cache", "", *(timed(row.get(f"{way}, step cache")) for way in ways)


@table
def pictures_zen4():
    yield "a picture of 512 x 512", "time", "with the step cache", "forecast", "forecast with it"
    row = read("picture-zen4.json")["results"]["512 x 512"]
    yield f"official control flow, PyTorch, {_form(row)}", timed(row["torch"], True), "", "", ""
    for way, told in ZEN4_WAYS.items():
        if way in row:
            both = row[way], row[f"{way}, step cache"]
            ahead = (f"{one['planned_ms'] / one['ms']:.2f} of it" for one in both)
            yield told, *(timed(one) for one in both), *ahead


@table
def serving_tokens():
    found = read("serving-cpu.json")["results"]
    rows = {
        "bagel-nano, OpenVINO": found["tokens, bagel-nano"]["openvino 2026.4.1 (cpu, float32)"],
        "bagel-nano, ONNX Runtime": found["tokens, bagel-nano"]["onnxruntime 1.31.1 (cpu, float32)"],
        "one layer of the 7B's shape, int8, OpenVINO": found["tokens, one layer"]["openvino 2026.4.1 (cpu, int8)"],
    }
    yield "model", *(f"{n} at once" for n in ("1", "2", "4", "8", "16")), "one after another"
    for name, row in rows.items():
        cells = (f"{one['tokens_per_s']:.0f} ({one['times']:.2f})" for one in row.values())
        yield name, *cells, f"{row['8']['one_after_another']:.0f}"


@table
def serving_drawing():
    yield "engine", "first", "first token, alone", "beside two pictures", "a step, alone", "beside eight answers"
    keys = ("first_token_alone", "first_token_beside_two_pictures", "step_alone", "step_beside_eight_answers")
    for engine, row in read("serving-cpu.json")["results"]["drawing"].items():
        for first in ("tokens", "pictures"):
            yield engine, first, *(f"{row['milliseconds'][first][key]:.0f} ms" for key in keys)


@table
def merged():
    """How exactly adapters arrive."""
    yield "form", "latents", "latents, scale forgotten"
    for form, row in read("merged-cpu.json")["apart"].items():
        yield form, f"{row['latents']:.1e}", f"{row['latents_without_scales']:.1e}"


@table
def merging():
    """What merging takes."""
    yield "form", "7B read in", "memory"
    for form, row in read("merged-cpu.json")["cost"].items():
        yield form, f"{row['seconds_7b']} s", f"{row['peak_mib']} MiB"


@table
def adapters():
    """What adapters of a loaded model cost a layer of it."""
    yield "engine", "rank", "work", "plain model", "none used", "one used", "loading, plain", "with adapters"
    names = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    for engine, ranks in read("adapters-cpu.json")["by_rank"].items():
        for rank, found in ranks.items():
            for work, ms in found["ms"].items():
                cells = (f"{ms['plain']:.1f} ms", *(f"{ms[k] / ms['plain']:.3f}" for k in ("none", "one")))
                seconds = (f"{found['load_s'][k]:.1f} s" for k in ("plain", "adapters"))
                yield names[engine], rank, work, *cells, *seconds


def _form(row: dict[str, Any]) -> str:
    return row["torch"]["form"].removeprefix("torch ")


@table
def products():
    (found,) = read("products-cpu.jsonl")
    yield "weights", "how", "1 row", "16 rows", "256 rows"
    for weights, ways in found["results"].items():
        for way, times in ways.items():
            yield weights, way, *(f"{times[rows]:.3g} ms" for rows in ("1", "16", "256"))


@table
def starts():
    yield "engine", "start", "until the first token", "memory, anonymous and shared"
    for engine, runs in read("start-cpu.json")["results"].items():
        for which, run in runs.items():
            yield engine, which, f"{run['token_s']:.1f} s", f"{run['peak_anonymous_and_shared_gib']:.1f} GiB"


@table
def quality():
    yield "variant", "weights", "right", "difference (95 %)", "latents, relative L2", "same answers"
    for name, row in read("quality.json")["variants"].items():
        pair = row["paired"]
        difference = f"{pair['difference']:+.3f} ({pair['low']:+.3f} to {pair['high']:+.3f})"
        numbers = f"{row['latents_relative_l2']:.1e}", f"{row['answers_the_same']:.2f}"
        yield name, f"{row['weights_mb']:.1f} MB", f"{row['right']:.3f}", difference, *numbers


@table
def packings():
    """What a form loses, what a reader that forgot its scales would draw, and what it takes to unpack."""
    yield "form", "weights", "latents", "latents, scales forgotten", "bytes a weight", "7B unpacked in", "memory"
    for form, row in read("packings-cpu.json")["results"].items():
        forgotten = f"{row['latents_without_scales']:.1e}" if "latents_without_scales" in row else ""
        apart = f"{row['weights']:.1e}", f"{row['latents']:.1e}", forgotten
        yield form, *apart, f"{row['bytes_per_weight']:.2f}", f"{row['seconds_7b']} s", f"{row['peak_mib']} MiB"


def _ways(rows: list[dict[str, Any]], ruler: str, groups: Sequence[str]) -> Iterable[Sequence[str]]:
    """Rows of bench/nano/shortcuts.py of some groups: shares, and distances by a ruler beside plain steps."""
    yield "way", "evaluations", "time", "right", "difference (95 %)", "distance", "plain steps there"
    for row in (one for one in rows if one["group"] in groups):
        pair, far, plain = row["paired"], row[ruler], row.get("plain_there")
        yield (
            row["way"],
            f"{row['evaluations']:.0f}",
            duration(1000 * row["processor_seconds"]),
            f"{row['right']:.2f}",
            f"{pair['difference']:+.2f} ({pair['low']:+.2f} to {pair['high']:+.2f})",
            "" if far is None else f"{far:.1e}",
            f"{plain[ruler]:.1e}: {'better' if row['beats_plain'] else 'worse'}" if plain else "",
        )


def _shortcuts(key: str, ruler: str, *groups: str) -> Iterable[Sequence[str]]:
    return _ways(read("nano-shortcuts.json")[key], ruler, groups)


@table
def caches():
    return _shortcuts("rows", "from_default", "plain", "cache")


@table
def solvers():
    return _shortcuts("rows", "from_end", "plain", "solver")


@table
def solvers_guided():
    return _shortcuts("rows", "from_end", "solver, guidance always")


@table
def guidance_rules():
    return _shortcuts("rows", "from_default", "guidance", "size")


@table
def edits_shortened():
    return _shortcuts("edit_rows", "from_default", "plain", "cache")


@table
def edits_solved():
    return _shortcuts("edit_rows", "from_end", "solver")


@table
def full_size():
    yield "work", "weights", "time", "memory taken", "planned", "with mapped files (VmHWM)"
    titles = {"draw": "a picture, 8 evaluations", "edit": "an edit, 12 evaluations", "ask": "an answer of 64 tokens"}
    for precision, row in read("full-size.json")["results"].items():
        for work, title in {"export": "export of 29.2 GB", **titles}.items():
            yield title, precision, *_taken(row[work], work)


@table
def full_size_1024():
    yield "work", "weights", "time", "memory taken", "planned", "with mapped files (VmHWM)"
    for precision, row in read("full-size-1024.json")["results"].items():
        for work, title in {"draw": "a picture, 4 evaluations", "edit": "an edit, 6 evaluations"}.items():
            yield title, precision, *_taken(row[work], work)


def _taken(found: dict[str, Any], work: str) -> tuple[str, ...]:
    seconds = found["seconds"] if work == "export" else found["seconds"][work]
    sizes = (found["peak_anonymous_and_shared_gib"], found.get("planned_gib"), found["vmhwm_gib"])
    return f"{seconds:.0f} s", *("" if size is None else f"{size:.1f} GiB" for size in sizes)


@table
def sparse_layer():
    """A layer whose generation expert is in pieces, beside the dense one."""
    found = read("sparse-layer-cpu.json")
    yield "generation expert", "ONNX Runtime", "OpenVINO"
    for form, ms in found["ms"].items():
        ratios = found["ratio_to_dense"][form]
        cells = ({"ms": ms[engine], "ratio": ratios[engine]} for engine in ("onnxruntime", "openvino"))
        yield form, *(timed(cell, base=form == "dense") for cell in cells)


@table
def planned():
    yield "model", "engine", "least planned / taken", "most", "rows"
    results = {**read("memory-nano.json")["results"], **read("memory-cpu.json")["results"]}
    for model, rows in results.items():
        for engine in ("openvino", "onnxruntime"):
            ratios = [row["ratio"] for row in rows if row["engine"] == engine]
            yield model, engine, f"{min(ratios):.2f}", f"{max(ratios):.2f}", str(len(ratios))


@table
def nano_scores():
    """Of the model that ships, beside the one that shipped before it, pair by pair, and beside its other forms."""
    given = ("before", "int8", "fp32", "w8a8")
    before, bundled, exact, rounded = (read(f"nano-score-{which}.json") for which in given)
    yield "asked for", "aim", "right, `int8`", "95 %", "more than before", "95 %", "`fp32`", "`w8a8`"
    for name, row in bundled["scores"].items():
        pair = paired(*(map(int, found["marks"][name]) for found in (bundled, before)))
        low, high = row["interval"]
        more = f"{pair['difference']:+.2f}", f"{pair['low']:+.2f} to {pair['high']:+.2f}"
        others = (f"{found['scores'][name]['share']:.2f}" for found in (exact, rounded))
        aim = f"{row['aim']:.2f}" if "aim" in row else ""
        yield name, aim, f"{row['share']:.2f}", f"{low:.2f} to {high:.2f}", *more, *others


@table
def nano_trials():
    """Short trainings from one checkpoint, each with one thing changed."""
    yield "trained with", "cases of each", "two objects", "counting", "position", "captions", "loss of pictures"
    names = {
        "trial": "what the model before had",
        "trial_shares": "more unsaid colours, captions",
        "trial_hints": "hints",
    }
    for lesson, row in read("nano-trials.json")["rows"].items():
        scores = row["scores"]
        shares = (f"{scores[name]['share']:.2f}" for name in ("two objects", "counting", "position", "captions"))
        yield names[lesson], str(scores["captions"]["n"]), *shares, f"{row['mse']:.3f}"


@table
def nano_sampling():
    """Pictures of bagel-nano by how they are sampled, each way paired with BAGEL's own."""
    yield "pictures with", "cases", "right", "95 %", "better than with BAGEL's by", "95 %"
    yield from _ways_of_sampling("nano-sampling.json")


def _ways_of_sampling(file: str):
    for n, row in enumerate(read(file)["rows"]):
        (low, high), pair = row["interval"], row["paired"] if n else None
        yield row["guidance"], str(row["n"]), f"{row['share']:.2f}", f"{low:.2f} to {high:.2f}", *_better(pair)


@table
def left():
    """Questions of what is left of a scene, answered by bagel-nano after its second lesson in three ways."""
    result = read("nano-left.json")
    over = {"described first": "drawn over described", "at once": "drawn over at once"}
    yield "what is left is", "cases", "right", "95 %", "drawn first is better by", "95 %"
    for name, row in result["scores"].items():
        low, high = row["interval"]
        pair = result[over[name]] if name in over else None
        yield name, str(row["n"]), f"{row['share']:.2f}", f"{low:.2f} to {high:.2f}", *_better(pair)


def _better(pair: dict[str, float] | None) -> tuple[str, str]:
    """A paired difference and its interval; nothing beside what the others are compared with."""
    return (f"{pair['difference']:+.2f}", f"{pair['low']:+.2f} to {pair['high']:+.2f}") if pair else ("", "")


@table
def recorded():
    yield "engine", "latents, relative L2, worst", "with the step cache, worst", "pixels apart, most", "texts the same"
    for engine, row in read("recorded-cpu.json")["engines"].items():
        plain, cached = (f"{row[key]:.1e}" for key in ("relative_l2", "relative_l2_step_cache"))
        yield engine, plain, cached, f"{row['pixels']} of 255", f"{row['texts_same']} of {row['texts']}"


@table
def mutation():
    """Shares of changes that a test noticed, when first measured and since tests were added."""
    yield "module", "mutants", "noticed at first", "noticed now", "survivors now", "in the words of messages"
    for module, found in read("mutation.json")["results"].items():
        before, after = found["before"], found["after"]
        now = (f"{100 * after['score']:.1f} %", str(len(after["survivors"]))) if after else ("not measured again", "")
        yield (
            f"`{module}`",
            str(before["mutants"]),
            f"{100 * before['score']:.1f} %",
            *now,
            str(before["words_of_messages"]),
        )


@table
def planted():
    yield "fault", "in", "noticed"
    for one in read("planted.json")["results"]:
        yield one["what"], f"`{one['file']}`", "yes" if one["noticed"] else "no"


@table
def through_vae():
    yield "pictures", "as drawn", "the VAE before", "the VAE that ships"
    before, ships = (read(f"nano-vae-{which}.json")["through the VAE"] for which in ("before", "shipped"))
    for kind in ("plain", "varied", "people"):
        counts = (before[f"{kind}, as drawn"], before[f"{kind}, redrawn"], ships[f"{kind}, redrawn"])
        yield kind, *(str(one["right"]) for one in counts)


@table
def nano_guidance():
    """Edits of bagel-nano by the scales of guidance, each paired with BAGEL's own."""
    yield "edits with", "cases", "right", "95 %", "better than with BAGEL's by", "95 %"
    yield from _ways_of_sampling("nano-guidance.json")


@table
def drift():
    """Of each engine: calls in one process, and models opened and closed in another."""
    yield "engine", "work", "memory at first", "at last", "drift", "threads, descriptors left"
    for name, one in read("drift.json")["results"].items():
        engine, part = name.split(", ")
        calls = part == "calls"
        opened = "graphs compiled by OpenVINO alone" if part == "alone" else "models opened"
        work = f"{one['calls_of_each']:,} calls of each kind" if calls else f"{one['opened_and_closed']} {opened}"
        first = one["mib_first" if calls else "mib_after_a_tenth"]
        grown = f"{100 * one['drift_of_the_second_half']:+.2f} %"
        left = f"{one['threads_left']}, {one['descriptors_left']}"
        yield engine, work, f"{first:.0f} MiB", f"{one['mib_last']:.0f} MiB", grown, left


@table
def fuzzed():
    """Minutes and calls of all guided runs together."""
    yield "target", "minutes", "calls", "guided by coverage", "found in the last run"
    for target, one in read("fuzz.json")["results"].items():
        guided = "yes" if one["guided"] else "no"
        yield f"`{target}`", f"{one['minutes']:.1f}", f"{one['calls']:,}", guided, str(len(one["found"]))


def main() -> int:
    check, wrong = "--check" in sys.argv[1:], []
    for path in documents():
        text = path.read_text(encoding="utf-8")
        made = filled(text)
        if made != text:
            wrong.append(path)
            if not check:
                path.write_text(made, encoding="utf-8")
    for path in wrong:
        print(f"{path.relative_to(ROOT)}: {'is not what bench/results gives' if check else 'tables written anew'}")
    return 1 if check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
