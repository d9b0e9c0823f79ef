"""The graphs made for CUDA compute what the portable ones do: both on ONNX Runtime's CPU, in float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from norms_outside import fused_for_cpu, on_cpu
from onnx import helper

import bagel_rt
from bagel_engines.onnxruntime.cuda_form import with_fused_attention, with_fused_rows
from bagel_engines.onnxruntime.device_engine import on_host
from bagel_engines.onnxruntime.masked_runner import ALL, CAUSAL, OTHER, kinds_of
from bagel_rt.api import Bagel
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.model.graphs import Graphs

SLOTS = 40
PLACE = "session.model_external_initializers_file_folder_path"


def session(model: bytes, folder: Path, given: dict[str, np.ndarray] | None = None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(PLACE, str(folder))
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in (given or {}).items()}
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def inputs(folder: Path, und: int, gen: int, past: int, mask: np.ndarray) -> dict[str, np.ndarray]:
    model = json.loads((folder / "bagel_rt.json").read_text(encoding="utf-8"))["model"]
    kv, dim, hidden = model["num_key_value_heads"], model["head_dim"], model["hidden_size"]
    random = np.random.default_rng(3)
    normal = lambda *shape: random.standard_normal(shape, dtype=np.float32)  # noqa: E731
    angles = random.random((und + gen, dim // 2), np.float32) * 6
    cos, sin = (np.concatenate([part, part], axis=1) for part in (np.cos(angles), np.sin(angles)))
    found = {
        "und": normal(und, hidden),
        "und_cos": cos[:und],
        "und_sin": sin[:und],
        "pool": normal(2 * model["num_hidden_layers"] * SLOTS, kv, dim),
        "slots": random.permutation(SLOTS)[:past],
        "mask": mask,
    }
    of_gen = {"gen": normal(gen, hidden), "gen_cos": cos[und:], "gen_sin": sin[und:]}
    return found | of_gen if gen else found


def lengths(und: int, gen: int, past: int) -> dict[str, np.ndarray]:
    ends = {"und_length": past + und, "length": past + und + gen}
    last = {f"{name}_last": np.array([end - 1], np.int32) for name, end in ends.items()}
    return {name: np.array(end, np.int32) for name, end in ends.items()} | last | {"pool_half": np.array(SLOTS)}


def both(folder: Path, graph: str, given: dict[str, np.ndarray], causal: bool, change: Any = None) -> list[tuple]:
    """What the portable graph gives, and the one for CUDA, for each output. change: done to that one before."""
    form = with_fused_attention(folder / f"{graph}.onnx", causal)
    assert form is not None
    model, weights = on_cpu(form, folder)
    if change:
        change(model, weights)
    portable = onnxruntime.InferenceSession(str(folder / f"{graph}.onnx"), providers=["CPUExecutionProvider"])
    fused = session(model.SerializeToString(), folder, weights)
    more = lengths(len(given["und"]), len(given.get("gen", ())), len(given["slots"]))
    taken = {i.name for i in fused.get_inputs()}
    names = [output.name for output in portable.get_outputs()]
    other = fused.run(names, {name: array for name, array in {**given, **more}.items() if name in taken})
    return list(zip(portable.run(names, given), other, strict=True))


def far(pairs: list[tuple]) -> float:
    """The largest relative distance of an output."""
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(a)) for a, b in pairs)


def causal_mask(rows: int, past: int) -> np.ndarray:
    return np.tri(rows, past + rows, past, dtype=bool)


@pytest.mark.parametrize("rows, past", [(1, 9), (5, 9), (4, 0), (1, 0)])
@pytest.mark.parametrize("causal", [True, False])
def test_und_step_is_the_same_with_fused_attention(small_artefact, rows, past, causal):
    mask = causal_mask(rows, past) if causal else np.ones((rows, past + rows), bool)
    assert far(both(small_artefact, "und_step", inputs(small_artefact, rows, 0, past, mask), causal)) < 2e-6


@pytest.mark.parametrize("gen, past", [(16, 9), (16, 0), (3, 20)])
def test_gen_step_is_the_same_with_fused_attention(small_artefact, gen, past):
    mask = np.ones((2, past + 2 + gen), bool)
    assert far(both(small_artefact, "gen_step", inputs(small_artefact, 2, gen, past, mask), False)) < 2e-6


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
    assert far(both(small_artefact, "und_step", given, causal=True, change=fault)) > 1e-3


def test_masks_are_told_apart():
    causal, everything = causal_mask(3, 4), np.ones((3, 7), bool)
    odd = everything.copy()
    odd[0, 0] = False
    kinds = [kinds_of(mask) for mask in (causal, everything, odd, np.ones((1, 5), bool))]
    assert kinds == [(CAUSAL, OTHER), (ALL, OTHER), (OTHER,), (CAUSAL, ALL, OTHER)]


def test_a_mask_that_is_neither_is_computed_by_the_portable_graph(small_artefact):
    mask = np.ones((3, 12), bool)
    mask[0, 4:8] = False
    given = inputs(small_artefact, 3, 0, 9, mask)
    names = ["und_out", "new_kv"]
    engines = on_host(), on_host(fused=fused_for_cpu)
    plain, fused = (engine.load(small_artefact / "und_step.onnx").run(given, names) for engine in engines)
    assert all(np.array_equal(plain[name], fused[name]) for name in names)
