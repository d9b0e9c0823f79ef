"""Every graph of the recorded checkpoint builds for three generations of NVIDIA GPUs. Built, not executed.

One precision a test, each graph in a process of its own (bench/tensorrt_builds.py), so that a crash is a failure with
a name. All of it takes long: `pytest -m matrix tests/test_tensorrt_matrix.py`. Without -m a part of it runs, all graphs
for the oldest architecture and one finding about weights; tests/test_tensorrt_build.py builds for the newest.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from bagel_export.artefact.export import export
from bagel_export.checkpoint.synthetic import SMALL_VIT, Shape, write_checkpoint
from bagel_rt.artefact.contract import GEN_STEP, TASK_GRAPHS, UND_STEP

ALL = ("SM86", "SM89", "SM120")
ROOT = Path(__file__).parents[2]
LARGEST_SHARE = 1.25  # of the weights: what a plan may weigh, its kernels included
KERNELS = 7e6  # bytes of code that a step graph's plan carries whatever its weights weigh, about

pytestmark = pytest.mark.slow  # what is marked matrix is left out unless it is asked for


def builds(model: Path, *more: str) -> list[dict]:
    command = [sys.executable, "bench/tensorrt_builds.py", "--model", model, *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def exported(checkpoint: Path, out: Path, precision: str, arithmetic: str | None = None) -> Path:
    for _ in export(checkpoint, out, precision=precision, arithmetic=arithmetic, verify=False):
        pass
    return out


def numbers_in(graph: Path) -> int:
    """How many weights a graph multiplies, whatever they are stored in."""
    initializers = onnx.load(str(graph), load_external_data=False).graph.initializer
    return sum(math.prod(t.dims) for t in initializers if len(t.dims) == 2 and not t.name.endswith(".scale"))


@pytest.mark.parametrize(
    "precision, arithmetic, architectures",
    [
        ("bf16", None, ALL[:1]),
        *(
            pytest.param(*case, marks=pytest.mark.matrix)
            for case in [
                ("bf16", None, ALL[1:]),
                ("fp16", None, ALL),
                ("int8", "bf16", ALL),
                ("int8", "fp32", ALL[-1:]),
                ("int4", "bf16", ALL),
                ("w8a8", "bf16", ALL),
                ("fp8", "bf16", ALL[1:]),
            ]
        ),
    ],
)
def test_every_graph_builds_with_its_real_profiles(golden_checkpoint, tmp_path, precision, arithmetic, architectures):
    model = exported(golden_checkpoint, tmp_path / "model", precision, arithmetic)
    found = builds(model, "--sm", *architectures)
    assert {(f["graph"], f["architecture"]) for f in found} == {
        (graph, sm) for graph in TASK_GRAPHS["full"] for sm in architectures
    }
    assert [(f["graph"], f["architecture"], f["errors"]) for f in found if not f["plan"]] == []
    assert [(f["graph"], f["lint"]) for f in found if f["lint"]] == []


@pytest.mark.matrix
def test_a_whole_denoising_step_builds_as_one_graph(golden_checkpoint, tmp_path):
    """flow_embed, gen_step and flow_head: of about the size that they have apart."""
    model = exported(golden_checkpoint, tmp_path / "model", "bf16")
    parts = builds(model, "--sm", "SM89", "SM120", "--only", "flow_embed", GEN_STEP, "flow_head")
    whole = builds(model, "--sm", "SM89", "SM120", "--only", "whole_step")
    for found in whole:
        assert found["errors"] == found["lint"] == []
        apart = sum(part["plan"] for part in parts if part["architecture"] == found["architecture"])
        assert 0.2 * apart < found["plan"] < 1.1 * apart, (found, apart)


@pytest.mark.matrix
def test_eight_bit_floats_are_refused_for_gpus_that_have_none_with_what_to_do(golden_checkpoint, tmp_path):
    model = exported(golden_checkpoint, tmp_path / "model", "fp8")
    (found,) = builds(model, "--sm", "SM86", "--only", UND_STEP)
    assert found["plan"] == 0
    assert "export with --precision w8a8" in found["errors"][0]


@pytest.fixture(scope="module")
def wide_checkpoint(tmp_path_factory):
    """Layers as wide as it takes for weights, not kernels, to be what a plan weighs."""
    shape = replace(Shape(), vit=replace(SMALL_VIT, num_hidden_layers=2)).with_llm(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=2
    )
    return write_checkpoint(tmp_path_factory.mktemp("wide") / "checkpoint", shape)


@pytest.mark.matrix
def test_plans_hold_sixteen_bit_weights_once_for_all_their_profiles(wide_checkpoint, tmp_path):
    model = exported(wide_checkpoint, tmp_path / "model", "bf16")
    for found in builds(model, "--sm", "SM120", "--only", UND_STEP, GEN_STEP):
        assert 1 <= found["plan"] / found["weights"] < LARGEST_SHARE, found


@pytest.mark.parametrize(
    "precision, least, most",
    [
        ("int8", 1.5, 2.2),
        *(
            pytest.param(*case, marks=pytest.mark.matrix)
            for case in [("w8a8", 0.9, 1.4), ("fp8", 0.9, 1.4), ("int4", 0.4, 0.8)]
        ),
    ],
)
def test_plans_keep_few_bits_where_rows_are_rounded_too_or_weights_have_four(
    wide_checkpoint, tmp_path, precision, least, most
):
    """Findings about the builder. When int8 fails, 8-bit weights alone have become worth building: tell the README."""
    model = exported(wide_checkpoint, tmp_path / "model", precision, "bf16")
    (found,) = builds(model, "--sm", "SM120", "--only", UND_STEP)
    assert found["lint"] == []
    assert least < (found["plan"] - KERNELS) / numbers_in(model / f"{UND_STEP}.onnx") < most, found


def test_a_builder_that_crashes_is_reported_with_its_graph(golden_artefact, monkeypatch):
    import bench.tensorrt_builds as script

    monkeypatch.setattr(script.sys, "executable", "/bin/false")
    (found,) = script.apart(golden_artefact, GEN_STEP, ["SM120"])
    assert found["plan"] == 0
    assert "ended with 1" in found["errors"][0]
