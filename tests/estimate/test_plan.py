"""plan: what a request will take, and refusing what does not fit."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from checkpoints import QUERY, RANK, of, pair, write_adapter
from generators import drain
from PIL import Image

import bagel_rt
from bagel_engines import open_engine
from bagel_engines.low_rank import linear_weights
from bagel_engines.memory_needs import MIB, Needs, Stack, openvino_needs
from bagel_rt.artefact.contract import GEN_STEP, LAYER, LM_HEAD, UND_STEP, VAE_DECODER, VAE_ENCODER, VIT, graph_specs
from bagel_rt.artefact.example_inputs import SIZES, example_inputs
from bagel_rt.artefact.folders import BUNDLED
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.cli import main
from bagel_rt.conversation.calls import rehearsal
from bagel_rt.conversation.session import rehearsal as turn
from bagel_rt.errors import InputError
from bagel_rt.estimate import forecast, timing
from bagel_rt.estimate.admission import Limit
from bagel_rt.estimate.counting_engine import Call
from bagel_rt.estimate.memory import memory
from bagel_rt.estimate.workload import Workload, workload
from bagel_rt.options import defaults
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.options.text_options import TextOptions

SMALL = {"height": 64, "width": 64, "num_timesteps": 9}
REQUESTS = {
    "a picture": (["a red ring"], replace(defaults.GENERATE, **SMALL)),
    "a planned picture with step caching": (
        ["a red ring"],
        replace(defaults.GENERATE, **SMALL, think=True, max_think_tokens=5, step_cache="taylorseer"),
    ),
    "an edit": ([Image.new("RGB", (64, 96)), "paint it"], replace(defaults.EDIT, num_timesteps=4)),
    "an answer": ([Image.new("RGB", (64, 64)), "what is it?"], TextOptions(max_tokens=4)),
}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", REQUESTS)
def test_the_calls_that_are_counted_are_those_the_engine_gets(small_artefact, backend, name):
    items, opts = REQUESTS[name]
    with bagel_rt.load(small_artefact, backend) as bagel:
        counted = workload(bagel.manifest, rehearsal(items), opts, bagel.graphs.engine.takes_zero_rows, 4096)
        values = {k: v for k, v in vars(opts).items() if v is not None}
        output = "image" if isinstance(opts, ImageOptions) else "text"
        for _ in bagel.stream(items, output, preset="notebook", **values):
            pass
        made = bagel.graphs.calls
    times = {graph: sum(counted.of(graph).values()) for graph in counted.graphs}
    written = 0 if output == "image" and not opts.think else 1  # how long a text gets is the model's choice
    assert {g: n for g, n in times.items() if not written or g not in ("lm_head", UND_STEP, GEN_STEP)} == {
        g: n for g, n in made.items() if not written or g not in ("lm_head", UND_STEP, GEN_STEP)
    }
    assert all(times[graph] >= n for graph, n in made.items())


def test_the_layer_is_the_step_graphs_first(small_artefact):
    manifest = read_manifest(small_artefact)
    halves = 2 * manifest.model.num_hidden_layers
    inputs = example_inputs(graph_specs(manifest.model)[GEN_STEP], halves)
    engine = open_engine("onnxruntime")
    whole = engine.load(manifest.graph_file(GEN_STEP)).run(inputs, ["new_kv"])["new_kv"]
    first = {**inputs, "pool": inputs["pool"][: 2 * SIZES["pool_slots"]]}
    alone = engine.load(manifest.graph_file(LAYER)).run(first, ["new_kv"])["new_kv"]
    assert np.allclose(alone, whole[:2], rtol=1e-5, atol=1e-6)


@pytest.fixture
def planned(small_artefact):
    manifest = read_manifest(small_artefact)

    def total(low_memory=False, arithmetic="float32", **values) -> int:
        opts = replace(defaults.GENERATE, **{**SMALL, **values})
        work = workload(manifest, rehearsal(["a ring"]), opts, True, 4096)
        return memory(manifest, manifest.widths, work, openvino_needs(arithmetic), low_memory).total

    return total


def test_planned_memory_grows_with_the_picture_and_the_text_and_shrinks_with_what_saves_memory(planned):
    assert planned(height=128) > planned() > planned(low_memory=True)
    assert planned(think=True, max_think_tokens=900) > planned(think=True, max_think_tokens=100)
    assert planned(step_cache="taylorseer", num_timesteps=30) > planned(num_timesteps=30)
    assert planned(arithmetic="bfloat16") < planned()


def test_weights_are_planned_as_the_artefact_states_them(small_artefact):
    manifest = read_manifest(small_artefact)
    work = workload(manifest, rehearsal(["a ring"]), replace(defaults.GENERATE, **SMALL), True, 4096)
    parts = memory(manifest, manifest.widths, work, openvino_needs("float32")).parts
    assert parts["weights"] == sum(manifest.weights_of(graph) for graph in work.graphs)
    assert parts["program"] == (85 + 12 * len(work.graphs)) * MIB


# factors without rounding, every graph's memory as easily told apart as powers of ten
PLAIN = Needs(7, 3, {"float": 1.0}, Stack(1.0), Stack(1.0), decoder_pixel=1.0, encoder_pixel=1.0, decoder_channels=0.0)


def test_planned_memory_is_tokens_times_their_keys_and_values_and_rows_times_the_factors():
    manifest = read_manifest(BUNDLED)
    model, widths = manifest.model, manifest.widths
    rows = (("gen_rows", 64), ("past", 30), ("und_rows", 2))
    picture = (("latent_height", 8), ("latent_width", 4))
    work = Workload({Call(GEN_STEP, rows): 9, Call(VAE_DECODER, picture): 1}, tokens=96, held=1000)
    parts = memory(manifest, widths, work, PLAIN).parts
    keys_and_values = 2 * model.num_hidden_layers * model.num_key_value_heads * model.head_dim
    step, decoder = 66 * widths.inner, 64 * 32 * widths.vae
    assert parts == {
        "program": 7 + 2 * 3,
        "weights": manifest.weights_of(GEN_STEP) + manifest.weights_of(VAE_DECODER),
        "context, 96 tokens": 96 * keys_and_values * 4,
        "working": step + decoder + 1000,
    }


def test_planned_time_is_each_calls_seconds_as_often_as_it_is_called_by_stage(monkeypatch):
    calls = {
        Call(VIT, (("patches", 16),)): 2,
        Call(UND_STEP, (("past", 30), ("und_rows", 20))): 1,
        Call(UND_STEP, (("past", 50), ("und_rows", 1))): 100,
        Call(LM_HEAD, (("und_rows", 1),)): 101,
        Call(GEN_STEP, (("gen_rows", 64), ("past", 30), ("und_rows", 2))): 147,
        Call(VAE_DECODER, (("latent_height", 8), ("latent_width", 4))): 3,
    }
    each = {call: float(10**i) for i, call in enumerate(calls)}

    class Stopped:
        def __init__(self, manifest, engine): ...

        def measure(self, asked):
            for i, call in enumerate(asked, start=1):
                yield timing.Timed({call: each[call]}, i, len(calls))

    monkeypatch.setattr(forecast, "Stopwatch", Stopped)
    seconds = drain(forecast._seconds(read_manifest(BUNDLED), None, Workload(calls, 100, 0)))
    assert seconds == {
        "reading": 2 * 1 + 1 * 10,
        "writing": 100 * 100 + 101 * 1000,
        "drawing": 147 * 1e4,
        "decoding": 3 * 1e5,
    }


def test_an_expert_that_has_no_rows_is_not_counted_where_weights_are_packed_on_use(small_artefact):
    manifest = read_manifest(small_artefact)
    work = workload(manifest, rehearsal(["what?"]), TextOptions(max_tokens=4), True, 4096)
    parts = memory(manifest, manifest.widths, work, openvino_needs("float32")).parts
    assert parts["weights"] == manifest.weights_of(UND_STEP) + manifest.weights_of(LM_HEAD)


@pytest.mark.parametrize("call", ["generate", "edit", "ask"])
def test_what_does_not_fit_is_refused_with_numbers_before_anything_is_loaded(small_artefact, photo, call):
    with bagel_rt.load(small_artefact, max_memory=0.02) as bagel:
        calls = {
            "generate": lambda: bagel.generate("a ring", seed=1),
            "edit": lambda: bagel.edit(photo, "paint it", seed=1),
            "ask": lambda: bagel.ask("what?", photo),
        }
        with pytest.raises(InputError, match=r"takes about 0\.\d+ GiB .*weights.* 0\.02 GiB are allowed\. Instead: "):
            calls[call]()
        assert not bagel.graphs.opened
        assert bagel.free_tokens == 32768


def test_a_sessions_turn_that_does_not_fit_is_refused_and_the_session_stands_where_it_stood(small_artefact, photo):
    with bagel_rt.load(small_artefact, max_memory=64) as bagel, bagel.session(seed=1) as session:
        session.add_text("a ring")
        bagel._admission.limit = Limit(20 * MIB, "are allowed")
        turns = [
            lambda: session.add_text("and a cube"),
            lambda: session.add_image(photo),
            session.stream_text,
            session.stream_image,
            lambda: session.fork().stream_image(),
        ]
        for turn in turns:
            with pytest.raises(InputError, match=r"takes about 0\.\d+ GiB .* 0\.02 GiB are allowed"):
                turn()
        assert session.mark().reading.texts == ("a ring",)
        assert session.mark().reading.size is None


def test_a_turn_counts_what_the_session_read_before_it(small_artefact, photo):
    manifest = read_manifest(small_artefact)
    answer = lambda session, _: session.generate_text(max_tokens=2)  # noqa: E731
    with bagel_rt.load(small_artefact, max_memory=64) as bagel, bagel.session(seed=1) as session:
        session.add_text("what?")
        plain = workload(bagel.manifest, turn(session.mark(), answer), defaults.ANSWER, True, 4096)
        session.add_image(photo)
        calls = dict(bagel.graphs.calls)
        shown = workload(bagel.manifest, turn(session.mark(), answer), defaults.ANSWER, True, 4096)
        assert bagel.graphs.calls == calls  # counting calls nothing
    assert {VAE_ENCODER, VIT} <= set(shown.graphs)
    assert VAE_ENCODER not in plain.graphs
    assert shown.tokens > plain.tokens
    needs = openvino_needs("float32")
    sizes = [memory(manifest, manifest.widths, work, needs).total for work in (plain, shown)]
    assert sizes[1] > sizes[0]


def test_a_smaller_picture_that_fits_is_named(golden_artefact, monkeypatch):
    from bagel_rt.estimate import admission

    monkeypatch.setattr(admission, "memory", lambda m, w, work, needs, low: FakeMemory(work))
    with bagel_rt.load(golden_artefact, max_memory=1) as bagel, pytest.raises(InputError) as refused:
        bagel.generate("a ring", height=512, width=512)
    assert "height and width 256 with low_memory (0.50 GiB)" in str(refused.value)


class FakeMemory:
    """A GiB for 512 latent cells, plus half of one."""

    def __init__(self, work):
        (call,) = work.of(VAE_DECODER)
        self.total = int(2**30 * (call["latent_height"] * call["latent_width"] / 1024 - 0.5))
        self.parts = {"working": self.total}


def test_an_artefact_that_does_not_state_its_widths_is_not_limited(small_artefact, tmp_path):
    import shutil

    old = shutil.copytree(small_artefact, tmp_path / "old")
    raw = json.loads((old / "bagel_rt.json").read_text())
    del raw["widths"], raw["extra_graphs"]
    (old / "bagel_rt.json").write_text(json.dumps(raw))
    with bagel_rt.load(old, max_memory=0.001) as bagel:
        bagel.generate("a ring", seed=1, **SMALL)
    assert main(["plan", "--model", str(old)]) == 2


def test_a_limit_must_be_a_positive_number(small_artefact):
    with pytest.raises(InputError, match="max_memory is 0"):
        bagel_rt.load(small_artefact, max_memory=0)


class Clock:
    """Stands for running a graph: 1 ms a row, and 1 us for each token of context a row sees."""

    def __init__(self):
        self.seen = []

    def __call__(self, runner, inputs, outputs) -> float:
        rows = sum(len(inputs[name]) for name in ("und", "gen", "latents", "gen_out", "und_out") if name in inputs)
        past = len(inputs.get("slots", ()))
        cells = np.prod(inputs["latent"].shape[2:]) if "latent" in inputs else 0
        self.seen.append((rows, past))
        return 1e-3 * rows + 1e-6 * past * rows + 1e-3 * float(cells)


def test_times_of_one_layer_and_of_the_ends_of_a_range_stand_for_all(small_artefact, monkeypatch):
    monkeypatch.setattr(timing, "_seconds", clock := Clock())
    manifest = read_manifest(small_artefact)

    def step(rows, gen, past):
        return Call(GEN_STEP, (("gen_rows", gen), ("past", past), ("und_rows", rows)))

    calls = [step(1, 0, past) for past in range(10, 500)] + [step(2, 16, 30)]
    calls += [Call(VAE_DECODER, (("latent_height", 64), ("latent_width", 16)))]
    seconds = {}
    for timed in timing.Stopwatch(manifest, open_engine("openvino")).measure(calls):
        seconds |= timed.seconds
    layers = manifest.model.num_hidden_layers
    for call in calls[:-1]:
        rows = call["und_rows"] + call["gen_rows"]
        assert seconds[call] == pytest.approx(layers * rows * (1e-3 + 1e-6 * call["past"]))
    assert seconds[calls[-1]] == pytest.approx(64 * 16 * 1e-3)  # measured at half of it
    assert len(clock.seen) < 25


@pytest.mark.parametrize("asked", [[], ["--edit"], ["--ask"], ["--ask", "--height", "64"], ["--think", "--low-memory"]])
def test_the_command_tells_memory_and_time_on_every_engine(model, capsys, asked):
    assert main(["plan", "--model", str(model), "--tokens", "4", *asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["engine"].split()[0] for one in found] == ["openvino", "onnxruntime"]
    for one in found:
        assert one["fits"]
        assert one["memory_bytes"]["in all"] == sum(v for k, v in one["memory_bytes"].items() if k != "in all")
        assert all(seconds > 0 for seconds in one["seconds"].values())
        assert ("decoding" in one["seconds"]) == ("--ask" not in asked)


def test_the_command_says_what_to_do_where_it_is_too_much(model, capsys):
    assert main(["plan", "--model", str(model), "--no-time", "--max-memory", "0.01", "--backend", "openvino"]) == 0
    out = capsys.readouterr().out
    assert "too much, 0.01 GiB are allowed" in out
    assert "instead: an export with --precision" in out


def test_adapters_are_planned_with_their_bytes(model, tmp_path, capsys):
    outputs, inputs = linear_weights(read_manifest(model).graph_file(UND_STEP))[f"{QUERY}.weight"]
    write_adapter(tmp_path / "style", of(QUERY, *pair(outputs, inputs, seed=1)))
    command = ["plan", "--model", str(model), "--no-time", "--json", "--backend", "openvino"]
    found = []
    for more in ([], ["--lora", str(tmp_path / "style")]):
        assert main([*command, *more]) == 0
        found.append(json.loads(capsys.readouterr().out)[0]["memory_bytes"])
    assert found[1]["adapters"] == 4 * RANK * (outputs + inputs)
    assert found[1]["in all"] == found[0]["in all"] + found[1]["adapters"]


@pytest.mark.parametrize(
    "asked", [["--height", "50"], ["--tokens", "0"], ["--backend", "tensorrt"], ["--max-memory", "-1"]]
)
def test_a_bad_plan_ends_with_code_2(model, capsys, asked):
    assert main(["plan", "--model", str(model), "--no-time", *asked]) == 2
    assert "bagel-rt: error:" in capsys.readouterr().err
