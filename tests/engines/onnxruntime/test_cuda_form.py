"""The graphs made for CUDA compute what the portable ones do: both on ONNX Runtime's CPU, in float32."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from norms_outside import fused_for_cpu
from onnx import helper
from step_forms import both, causal_mask, far, inputs, session

import bagel_rt
from bagel_engines.onnxruntime.cuda_form import with_fused_attention, with_fused_rows
from bagel_engines.onnxruntime.device_engine import on_host
from bagel_engines.onnxruntime.masked_runner import (
    ALL,
    CAUSAL,
    DRAW,
    MANY,
    MANY_DRAW,
    MANY_ROWS,
    OTHER,
    MaskedRunner,
    kinds_of,
)
from bagel_rt.api import Bagel
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.model.graphs import Graphs


@pytest.mark.parametrize("rows, past", [(1, 9), (5, 9), (4, 0), (1, 0)])
@pytest.mark.parametrize("kind", [CAUSAL, ALL, OTHER])
def test_und_step_is_the_same_with_fused_attention(small_artefact, rows, past, kind):
    mask = np.ones((rows, past + rows), bool) if kind == ALL else causal_mask(rows, past)
    if kind == OTHER:  # every second place of the past is another's
        mask[:, 1:past:2] = False
    assert far(both(small_artefact, "und_step", inputs(small_artefact, rows, 0, past, mask), kind)) < 2e-6


@pytest.mark.parametrize("gen, past", [(16, 9), (16, 0), (3, 20)])
def test_gen_step_is_the_same_with_fused_attention(small_artefact, gen, past):
    mask = np.ones((2, past + 2 + gen), bool)
    assert far(both(small_artefact, "gen_step", inputs(small_artefact, 2, gen, past, mask), ALL)) < 2e-6


def test_a_denoising_step_computes_nothing_that_it_drops(small_artefact):
    """Neither new keys and values for the cache, nor what the last layer makes of the markers' rows."""
    given = inputs(small_artefact, 2, 16, 9, np.ones((2, 27), bool))
    (pair,) = both(small_artefact, "gen_step", given, DRAW)
    assert far([pair]) < 2e-6
    whole, drawn = (with_fused_attention(small_artefact / "gen_step.onnx", kind) for kind in (ALL, DRAW))
    made = [Counter(n.op_type for n in onnx.load_from_string(form.model).graph.node) for form in (whole, drawn)]
    assert made[0]["Gemm"] - made[1]["Gemm"] == 4
    assert made[0]["Slice"] - made[1]["Slice"] >= 2 * 2
    assert made[1]["GroupQueryAttention"] == 4


PICTURE = {"seed": 3, "height": 64, "width": 64, "num_timesteps": 5}


@pytest.fixture(scope="module")
def pair(small_artefact):
    """The model with fused attention on the engine for devices, over the machine's own memory, and on the plain one."""
    manifest = read_manifest(small_artefact)
    fused = Bagel(manifest, Graphs(manifest, on_host(fused=fused_for_cpu)), 4096)
    with fused, bagel_rt.load(small_artefact, "onnxruntime", cache_tokens=4096) as plain:
        yield fused, plain


def test_pictures_edits_and_answers_with_fused_attention_are_those_without(pair):
    drawn = [b.generate("a red circle", **PICTURE) for b in pair]
    assert far([[d.latent for d in drawn]]) < 1e-4
    source = drawn[0].image
    assert far([[b.edit(source, "make it blue", seed=1, num_timesteps=4).latent for b in pair]]) < 1e-4
    first, second = (b.ask("what is it?", source, max_tokens=6).token_ids for b in pair)
    assert first == second


def test_norms_and_activations_joined_with_what_is_beside_them_change_nothing_else(small_artefact):
    form = with_fused_rows(small_artefact / "gen_step.onnx", half=False)
    given = inputs(small_artefact, 2, 6, 9, np.tri(2, 17, 9, dtype=bool))
    runs = [
        session((small_artefact / "gen_step.onnx").read_bytes(), small_artefact),
        session(form.model, small_artefact),
    ]
    assert far(list(zip(*(one.run(["gen_out", "und_out", "new_kv"], given) for one in runs), strict=True))) < 2e-6


def attribute(name: str, value: int | float) -> Any:
    """A fault: the attention's attribute has another value."""

    def change(model: Any, _: dict) -> None:
        for node in model.graph.node:
            if node.op_type == "GroupQueryAttention":
                kept = [a for a in node.attribute if a.name != name]
                del node.attribute[:]
                node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def swapped_heads(_: Any, weights: dict[str, np.ndarray]) -> None:
    """A fault: keys' weights where the values' belong."""
    for name, array in weights.items():
        if array.ndim == 2:
            keys = (len(array) - len(array) // 2) // 2
            weights[name] = np.concatenate([array[: len(array) // 2], np.roll(array[len(array) // 2 :], keys, axis=0)])


@pytest.mark.parametrize("fault", [attribute("causal", 0), attribute("scale", 0.2), swapped_heads])
def test_another_mask_scale_or_order_of_heads_is_seen(small_artefact, fault):
    given = inputs(small_artefact, 5, 0, 9, causal_mask(5, 9))
    assert far(both(small_artefact, "und_step", given, CAUSAL, change=fault)) > 1e-3


def test_masks_are_told_apart():
    causal, everything = causal_mask(3, 4), np.ones((3, 7), bool)
    odd = everything.copy()
    odd[0, 0] = False
    kinds = [kinds_of(mask) for mask in (causal, everything, odd, np.ones((1, 5), bool))]
    assert kinds == [(CAUSAL, OTHER), (ALL, OTHER), (OTHER,), (CAUSAL, ALL, OTHER)]


def test_a_call_goes_to_the_graph_of_its_mask_its_outputs_and_its_rows():
    went: list[str] = []

    def opened(kind: str) -> Any:
        return SimpleNamespace(inputs=("gen",), outputs=("gen_out",), run=lambda *_: went.append(kind))

    runner = MaskedRunner(ALL, (ALL, DRAW, MANY, MANY_DRAW), opened, kinds_of)
    odd = np.tri(2, 5, dtype=bool)
    for outputs, rows, mask in (
        (("gen_out",), 16, np.ones((2, 5), bool)),
        (("new_kv",), 16, np.ones((2, 5), bool)),
        (("gen_out",), MANY_ROWS, np.ones((2, 5), bool)),
        (("new_kv",), MANY_ROWS, np.ones((2, 5), bool)),
        (("gen_out",), MANY_ROWS, odd),
    ):
        runner.run({"gen": np.zeros((rows, 1)), "mask": mask}, outputs)
    assert went == [DRAW, ALL, MANY_DRAW, MANY, OTHER]


def test_a_mask_that_is_neither_is_added_to_the_scores(small_artefact):
    mask = np.ones((3, 12), bool)
    mask[0, 4:8] = False
    given = inputs(small_artefact, 3, 0, 9, mask)
    names = ["und_out", "new_kv"]
    engines = on_host(), on_host(fused=fused_for_cpu)
    plain, fused = (engine.load(small_artefact / "und_step.onnx").run(given, names) for engine in engines)
    assert far([(plain[name], fused[name]) for name in names]) < 2e-6
