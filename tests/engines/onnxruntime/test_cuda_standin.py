"""Every graph runs on ONNX Runtime's real CUDA provider over a CUDA that computes nothing (tests/cuda_standin).

`make cuda-standin` fetches onnxruntime-gpu, builds the stand-in and runs these. They show what the provider refuses and
where it puts nodes; they say nothing of numbers or times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bagel_rt
from bagel_engines.onnxruntime.masked_runner import OTHER

ROOT = Path(__file__).parents[3]
FOLDER = os.environ.get("BAGEL_RT_CUDA_STANDIN", "")  # with `site` (onnxruntime-gpu) and `libraries`
TOGETHER = "und_step of four callers"
NANO = Path(bagel_rt.__file__).parent / "models" / "bagel-nano"
OF_SHAPES = {"Squeeze", "Div", "Mul", "Concat", "Reshape"}  # nodes on a few numbers of shapes
pytestmark = [
    pytest.mark.cuda_standin,
    pytest.mark.skipif(not FOLDER, reason="needs the stand-in of CUDA: make cuda-standin"),
]


def ran(artefact: Path, *words: str) -> dict[str, dict]:
    """What came of each form of each graph, by both names."""
    found = told("run_graphs.py", artefact, *words)
    return {one["graph"] if one["form"] == OTHER else f"{one['graph']} {one['form']}": one for one in found}


def told(script: str, *words: object) -> list[dict]:
    """The JSON lines of a script of tests/cuda_standin."""
    path = os.pathsep.join([f"{FOLDER}/site", *(str(ROOT / part) for part in ("", "engines", "export"))])
    env = {**os.environ, "PYTHONPATH": path, "LD_LIBRARY_PATH": f"{FOLDER}/libraries"}
    command = [sys.executable, ROOT / "tests/cuda_standin" / script, *words]
    lines = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in lines.splitlines() if line.startswith("{")]


def check(artefact: Path, *words: str) -> dict[str, dict]:
    graphs = ran(artefact, *words)
    assert {one["graph"] for one in graphs.values()} == {path.stem for path in artefact.glob("*.onnx")}
    assert not {name: one["refused"] for name, one in graphs.items() if "refused" in one}
    assert set().union(*(one["on_cpu"] for one in graphs.values())) <= OF_SHAPES
    assert not {name: one["not_captured"] for name, one in graphs.items() if one["not_captured"]}
    assert graphs["vae_decoder"]["done"]["convolution"] > 0
    return graphs


def check_products(artefact: Path, kind: str) -> None:
    """Two layers of the random checkpoint: five products each and expert, as queries, keys and values are one, and
    seven in the form that no call needs; none with weights that are unpacked before."""
    graphs = check(artefact)
    found = {name: one["nodes"].get(kind) for name, one in graphs.items() if "_step" in name}
    und = dict.fromkeys(("und_step", "und_step causal", "und_step all"), 10)
    assert found == {**und, "gen_step": 28, "gen_step all": 20}
    assert not any("DequantizeLinear" in one["nodes"] for one in graphs.values())


def test_bagel_nano_as_shipped_runs_and_unpacks_no_weights_for_a_product():
    products = check(NANO)
    assert products["gen_step"]["nodes"] == {"MatMulNBits": 84}
    assert products["und_step"]["nodes"] == {"MatMulNBits": 42}


def test_float32_and_bfloat16_run(small_artefact, bf16_artefact):
    for artefact in (small_artefact, bf16_artefact):
        assert check(artefact)["gen_step"]["nodes"] == {"Gemm": 28}


def check_calls(artefact: Path, fused: bool = False) -> None:
    for words in ([], ["graphs"]):
        (found,) = told("run_calls.py", artefact, *words)
        assert set(found["calls"]) == {"generate", "edit", "ask", "session"}
        assert not any(call["forbidden"] for call in found["calls"].values())
        assert all(call.get("play", 0) > 0 for name, call in found["calls"].items() if words and name != "ask")
        step, token, streams = (found["one more"][key] for key in ("step", "token", "streams"))
        assert step["synchronise"] == token["synchronise"] == 1
        assert step["copy D2H"] == 2  # velocities
        assert step["copy H2D"] == 3 or not fused  # latents, their places, time
        assert token["waits for an event"] == 1
        assert step.get("malloc", 0) == token.get("malloc", 0) == 0
        assert len(streams) == 1  # which is why nothing else has to wait
        assert streams != ["0"]
        assert found["captured again"] == 0
        assert found["held"] > 0
        assert found["refused"] == "OutOfDeviceMemoryError"
        assert found["left"] == 0


def test_calls_run_to_their_end_and_a_closed_model_leaves_nothing_behind(bf16_artefact):
    """With CUDA graphs and without, and after a call that failed for want of memory."""
    check_calls(bf16_artefact, fused=True)
    check_calls(NANO)


def test_calls_of_quantised_artefacts_run_to_their_end(quantised_artefacts):
    for word in ("int8", "int4"):
        check_calls(quantised_artefacts / word)


def test_all_sessions_read_one_copy_of_the_weights(bf16_artefact, half_artefacts):
    """What und_step takes for other masks, and gen_step for denoising, is little, quantised or not."""
    for artefact in (bf16_artefact, half_artefacts("int4", "bf16"), half_artefacts("fp8", "fp16")):
        (own,), (shared,) = (told("weights_held.py", artefact, *words) for words in ([], ["shared"]))
        assert shared["held"] < own["held"]
        assert shared["more"] < 0.6 * own["more"]  # of so small a model; constants take whole pages


def test_a_step_takes_fewer_launches_than_the_portable_one(bf16_artefact):
    """Two layers: of a denoising step, which leaves out four products of the last; of a token; of four callers'
    tokens, whose attention is products."""
    found = {(one["graph"], one["form"]): one["whole"] for one in told("count_layers.py", bf16_artefact)}
    for graph, products, copies in (("gen_step", 16, 0), ("und_step", 10, 6), (TOGETHER, 14, 0)):
        fused, portable = found[graph, "fused"], found[graph, "portable"]
        assert fused["product"] == products <= portable["product"]
        assert fused["kernel"] < 0.7 * portable["kernel"]
        assert fused.get("copy D2D", 0) <= copies


def test_quantised_artefacts_run_and_unpack_no_weights_for_a_product(quantised_artefacts):
    for word in ("int8", "int4", "w8a8"):
        assert check(quantised_artefacts / word)["gen_step"]["nodes"]["MatMulNBits"] == 28


@pytest.mark.parametrize("arithmetic", ["fp16", "bf16"])
@pytest.mark.parametrize("word", ["int8", "int4", "w8a8"])
def test_quantised_artefacts_in_16_bits_run_and_unpack_no_weights(half_artefacts, word, arithmetic):
    check_products(half_artefacts(word, arithmetic), "MatMulNBits")


@pytest.mark.parametrize("arithmetic", ["fp16", "bf16"])
def test_fp8_artefacts_run_and_unpack_no_weights(half_artefacts, arithmetic):
    check_products(half_artefacts("fp8", arithmetic), "MatMulBlockQuantizedFp8Weight")


def test_many_rows_are_multiplied_in_fp8_and_few_are_not(half_artefacts):
    many = check(half_artefacts("fp8", "bf16"), "shared")["gen_step many"]
    assert many["nodes"]["GemmFloat8"] == many["nodes"]["MatMulBlockQuantizedFp8Weight"] == 10


def test_the_vae_of_16_bit_artefacts_takes_fewer_launches(bf16_artefact):
    """Small as it is: its widest level has norms that the kernel does not take."""
    found = {(one["graph"], one["form"]): one["whole"] for one in told("count_layers.py", bf16_artefact)}
    for graph in ("vae_decoder", "vae_encoder"):
        fused, portable = found[graph, "fused"], found[graph, "portable"]
        assert fused["convolution"] == portable["convolution"]
        assert fused["kernel"] < 0.7 * portable["kernel"]
