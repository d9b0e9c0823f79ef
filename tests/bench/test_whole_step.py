"""The graph of a whole denoising step computes what its three parts compute one after the other."""

from __future__ import annotations

import numpy as np

from bagel_engines import open_engine
from bagel_rt.artefact.contract import FLOW_EMBED, FLOW_HEAD, GEN_STEP, graph_specs
from bagel_rt.artefact.example_inputs import example_inputs
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.tensorrt.profiles import largest
from bench.whole_step import step_profile, whole_step


def test_the_joined_graph_computes_what_its_parts_do(small_artefact):
    model = read_manifest(small_artefact).model
    specs = graph_specs(model)
    given = {name: example_inputs(specs[name], 2 * model.num_hidden_layers) for name in (FLOW_EMBED, GEN_STEP)}
    engine = open_engine("onnxruntime")
    rows = engine.load(small_artefact / "flow_embed.onnx").run(given[FLOW_EMBED], ("gen",))["gen"]
    last = engine.load(small_artefact / "gen_step.onnx").run({**given[GEN_STEP], "gen": rows}, ("gen_out",))["gen_out"]
    wanted = engine.load(small_artefact / f"{FLOW_HEAD}.onnx").run({"gen_out": last}, ("velocity",))["velocity"]

    room = small_artefact.parent / f"{small_artefact.name}-whole"
    room.mkdir()
    whole = engine.load(whole_step(small_artefact, room))
    inputs = {**given[FLOW_EMBED], **{name: array for name, array in given[GEN_STEP].items() if name != "gen"}}
    assert set(whole.inputs) == set(inputs)
    assert np.allclose(whole.run(inputs, ("velocity",))["velocity"], wanted, rtol=1e-5, atol=1e-6)
    assert set(step_profile(model, "float32", largest(model))) <= set(inputs)
