"""flow_embed, gen_step and flow_head as one graph, to see what a builder makes of a whole denoising step.

The product runs them as three: flow_embed once for all branches of a step, and gen_step also for text and for pictures
that enter a context, so a plan of the whole step would be a second copy of its weights (docs/internals/tensorrt.md).
"""

from __future__ import annotations

import os
from pathlib import Path

import onnx

from bagel_rt.artefact.contract import FLOW_EMBED, FLOW_HEAD, GEN_STEP, ModelDims, graph_specs
from bagel_rt.tensorrt.profiles import Limits, profiles

STEP = "whole_step"
PARTS = (FLOW_EMBED, GEN_STEP, FLOW_HEAD)
JOINED = ("gen", "gen_out")  # what one part gives the next


def whole_step(artefact: Path, out: Path) -> Path:
    """Write the joined graph into a folder, with links to the artefact's weight files beside it."""
    models = {name: onnx.load(str(artefact / f"{name}.onnx"), load_external_data=False) for name in PARTS}
    graph = onnx.helper.make_graph([], STEP, [], [])
    for name, model in models.items():
        _apart(model.graph, name)
        graph.node.extend(model.graph.node)
        graph.initializer.extend(model.graph.initializer)
        graph.input.extend(given for given in model.graph.input if given.name not in JOINED)
    graph.output.extend(models[FLOW_HEAD].graph.output)
    joined = onnx.helper.make_model(
        graph, opset_imports=models[GEN_STEP].opset_import, ir_version=models[GEN_STEP].ir_version
    )
    joined.functions.extend(models[GEN_STEP].functions)
    onnx.save(joined, str(out / f"{STEP}.onnx"))
    for weights in artefact.glob("*.safetensors"):
        os.link(weights, out / weights.name)
    return out / f"{STEP}.onnx"


def _apart(graph: onnx.GraphProto, part: str) -> None:
    """Give every name inside a graph the part's name in front, so that none is met twice."""
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    rename = lambda name: name if name in kept else f"{part}/{name}"  # noqa: E731
    for node in graph.node:
        node.name = f"{part}/{node.name}"
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = rename(tensor.name)


def step_profile(model: ModelDims, arithmetic: str, limits: Limits) -> dict[str, tuple]:
    """The ranges of the joined graph's inputs: those of denoising."""
    specs = graph_specs(model, arithmetic)
    found: dict[str, tuple] = {}
    for name in PARTS:
        found |= profiles(specs[name], model, limits)[-1]
    return {name: spans for name, spans in found.items() if name not in JOINED}
