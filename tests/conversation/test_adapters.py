"""Adapters of a loaded model: switched in every call, and the same as an export that merged them."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import LAYER, of, pair, write_adapter
from safetensors.torch import save_file

import bagel_rt
from bagel_rt.adapters.read import Lora
from bagel_rt.errors import BagelError, InputError

SIZES = {  # (outputs, inputs) of the random checkpoint's matrices
    "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.o_proj": (64, 64),
    "mlp.gate_proj": (128, 64), "mlp.down_proj": (64, 128),
    "self_attn.q_proj_moe_gen": (64, 64), "self_attn.v_proj_moe_gen": (32, 64), "self_attn.o_proj_moe_gen": (64, 64),
    "mlp_moe_gen.up_proj": (128, 64), "mlp_moe_gen.down_proj": (64, 128),
}  # fmt: skip
STYLE, FACES = ("self_attn.q_proj", "mlp.gate_proj", "mlp_moe_gen.up_proj", "self_attn.o_proj_moe_gen"), tuple(SIZES)
DRAWN = {"height": 64, "width": 64, "num_timesteps": 4, "seed": 3}
ENGINES = ("onnxruntime", "openvino")
NEAR = 1e-5  # relative L2; 1.2e-6 was measured at most


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.fixture(scope="session")
def loras(tmp_path_factory) -> dict[str, Lora]:
    """style: peft's, ranks of 3 and, by a pattern, 5; faces: kohya's names and alphas, every kind of matrix, rank 4."""
    folder = tmp_path_factory.mktemp("adapters")
    tensors = {}
    for layer, module in enumerate(STYLE):
        rank = 5 if "up_proj" in module else 3
        tensors |= of(f"{LAYER[:-1]}{layer % 2}.{module}", *pair(*SIZES[module], seed=layer, rank=rank))
    style = write_adapter(folder / "style", tensors, use_rslora=True, rank_pattern={"up_proj": 5}, lora_alpha=1.5)
    flat = {}
    for seed, module in enumerate(FACES):
        down, up = pair(*SIZES[module], seed=10 + seed, rank=4)
        name = f"lora_unet_{LAYER}.{module}".replace(".", "_")
        alpha = torch.tensor(1.0 + seed / 4)
        flat |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": alpha}
    save_file(flat, folder / "faces.safetensors")
    return {"style": style, "faces": Lora(folder / "faces.safetensors")}


@pytest.fixture(scope="session")
def merged(small_checkpoint, loras, export_once, tmp_path_factory) -> dict[str, Path]:
    """The random checkpoint, exported with each adapter, and with both."""
    folder = tmp_path_factory.mktemp("merged")
    both = [Lora(loras["style"].folder, 0.5), Lora(loras["faces"].folder, 0.25)]
    wanted = {"style": loras["style"], "faces": loras["faces"], "both": both}
    return {
        name: export_once(f"with-{name}", small_checkpoint, folder, lora=lora, verify=False)
        for name, lora in wanted.items()
    }


CHOICES = {"style": "style", "faces": {"faces": 1.0}, "both": "style=0.5,faces=0.25"}


def paths(loras: dict[str, Lora]) -> dict[str, Path]:
    return {name: lora.folder for name, lora in loras.items()}


def made(bagel, photo, adapter=None) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """The latents of a picture and of an edit, and an answer."""
    how = {} if adapter is None else {"adapter": adapter}
    picture = bagel.generate("a boat", **DRAWN, **how)
    edit = bagel.edit(photo, "a boat", **DRAWN, cfg_img_scale=1.5, **how)
    return picture.latent, edit.latent, bagel.ask("what?", [photo], max_tokens=6, **how).token_ids


@pytest.fixture(scope="session", params=ENGINES)
def switching(request, small_artefact, loras):
    with bagel_rt.load(small_artefact, request.param, adapters=paths(loras)) as bagel:
        yield request.param, bagel


@pytest.fixture(scope="session")
def of_exports(switching, small_artefact, merged):
    """What the plain model and the merged exports make, on the same engine."""
    from PIL import Image

    photo = Image.fromarray(np.random.default_rng(5).integers(0, 256, (70, 100, 3)).astype(np.uint8))
    found = {}
    for name, folder in {None: small_artefact, **merged}.items():
        with bagel_rt.load(folder, switching[0]) as bagel:
            found[name] = made(bagel, photo)
    return found


@pytest.mark.parametrize("name", CHOICES)
def test_a_call_with_an_adapter_is_the_merged_export_s(switching, of_exports, photo, name):
    wanted, plain = of_exports[name], of_exports[None]
    found = made(switching[1], photo, CHOICES[name])
    for mine, theirs, without in zip(found[:2], wanted[:2], plain[:2], strict=True):
        assert distance(mine, theirs) < NEAR
        assert distance(mine, without) > 0.01
    assert found[2] == wanted[2]


@pytest.mark.parametrize("adapter", [None, {"style": 0.0}, {"style": 0, "faces": 0.0}])
def test_without_an_adapter_or_with_none_of_it_the_plain_model_answers_to_the_bit(
    switching, of_exports, photo, adapter
):
    made(switching[1], photo, "faces")
    for mine, theirs in zip(made(switching[1], photo, adapter), of_exports[None], strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_eight_threads_switch_adapters_in_every_call_and_each_gets_its_own(switching, of_exports, photo):
    """Pictures are those of a call alone to the bit, and the merged export's; answers share calls of the engine."""
    bagel = switching[1]
    free = bagel.free_tokens
    wanted = {name: made(bagel, photo, CHOICES.get(name)) for name in of_exports}
    turns = [[*wanted][(thread + turn) % 4] for thread in range(8) for turn in range(3)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: made(bagel, photo, CHOICES.get(name)), turns))
    for name, mine in zip(turns, found, strict=True):
        for one, alone, merged in zip(mine[:2], wanted[name][:2], of_exports[name][:2], strict=True):
            np.testing.assert_array_equal(one, alone)
            assert distance(one, merged) < NEAR
        assert mine[2] == of_exports[name][2]
    assert bagel.free_tokens == free


def test_a_session_has_one_adapter_in_all_its_turns(switching, of_exports, photo, merged):
    def talk(bagel, **how):
        with bagel.session(seed=5, **how) as session:
            session.add_image(photo)
            session.add_text("a boat")
            first = session.generate_image(height=64, width=64, num_timesteps=3)
            session.add_text("what is it?")
            return first, session.generate_text(max_tokens=5).token_ids, session.fork()

    backend, bagel = switching
    mine, said, fork = talk(bagel, adapter="faces")
    with fork, bagel_rt.load(merged["faces"], backend) as export:
        theirs, wanted, other = talk(export)
        with other:
            fork.add_text("again")
            other.add_text("again")
            how = {"height": 64, "width": 64, "num_timesteps": 3}
            assert distance(fork.generate_image(**how).latent, other.generate_image(**how).latent) < NEAR
    assert distance(mine.latent, theirs.latent) < NEAR
    assert said == wanted
    assert mine.options["adapter"] == {"faces": 1.0}
    with bagel.session() as session:
        session.add_text("x")
        with pytest.raises(InputError, match="adapter is chosen once for a session"):
            session.generate_text(adapter="style")


def test_reasoning_takes_an_adapter(switching, merged):
    backend, bagel = switching
    how = {"max_pictures": 1, "max_tokens": 4, "seed": 1, "height": 64, "width": 64, "num_timesteps": 3}
    mine = bagel.reason("what?", adapter="faces", **how)
    with bagel_rt.load(merged["faces"], backend) as export:
        theirs = export.reason("what?", **how)
    assert [getattr(part, "text", None) for part in mine.parts] == [
        getattr(part, "text", None) for part in theirs.parts
    ]
    assert mine.options["adapter"] == {"faces": 1.0}


def test_equal_histories_are_other_contexts_with_other_adapters(switching):
    bagel = switching[1]
    tree, reader = bagel._turns.tree, bagel._turns.reader
    history = (reader.text("a boat"),)
    plain, style, less = (), (("style", 1.0),), (("style", 0.5),)
    with (
        tree.lease(style) as first,
        tree.lease(style) as second,
        tree.lease(plain) as third,
        tree.lease(less) as fourth,
    ):
        assert first.open(history) is second.open(history)
        contexts = [lease.open(history) for lease in (first, third, fourth)]
        assert len({id(context) for context in contexts}) == 3
        keys = [bagel._turns.pool.read(context.sequence) for context in contexts]
        assert all(np.abs(one - other).max() > 1e-3 for one, other in pairwise(keys))
        third.keep(history)


def test_what_is_asked_for_must_be_loaded(switching, small_bagel):
    bagel = switching[1]
    assert bagel.adapters == ("style", "faces")
    for ask in (
        lambda: bagel.generate("x", adapter="styles"),
        lambda: bagel.ask("x", adapter={"styles": 1}),
        lambda: bagel.session(adapter="styles"),
        lambda: bagel.reason("x", adapter="styles"),
    ):
        with pytest.raises(InputError, match="adapter is 'styles'; loaded: style, faces"):
            ask()
    with pytest.raises(InputError, match="none is loaded"):
        small_bagel.ask("x", adapter="style")
    for wrong in ("style=x", {"style": None}, 3, {}, "", {"style": float("nan")}):
        with pytest.raises(InputError, match="adapter"):
            bagel.ask("x", adapter=wrong)


EMBED, HEAD = "language_model.model.embed_tokens", "language_model.lm_head"
REFUSED = {
    "DoRA": ({**of(f"{LAYER}.mlp.gate_proj", *pair(128, 64, 1)),
              f"base_model.model.{LAYER}.mlp.gate_proj.lora_magnitude_vector": torch.ones(128)},
             "'base_model.model.*magnitude_vector' is DoRA's"),
    "whole": ({f"base_model.model.{HEAD}.weight": torch.ones(272, 64)}, "replaces 'language_model.lm_head.weight'"),
    "bias": ({f"base_model.model.{LAYER}.self_attn.q_proj.bias": torch.ones(64)}, "q_proj.bias' as a whole"),
    "embedding": ({f"base_model.model.{EMBED}.lora_embedding_A": torch.ones(3, 272),
                   f"base_model.model.{EMBED}.lora_embedding_B": torch.ones(64, 3)}, "changes '.*embed_tokens.weight'"),
    "head": (of(HEAD, *pair(272, 64, 1)), "changes 'language_model.lm_head.weight'"),
    "shape": (of(f"{LAYER}.mlp.gate_proj", *pair(64, 64, 1)), "an update of .64, 64.; .* is .128, 64.: the adapter"),
    "name": (of(f"{LAYER}.mlp.gate", *pair(64, 64, 1)), "matches nothing in the checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_switched_is_refused_by_name_when_the_model_is_loaded(small_artefact, tmp_path, kind):
    tensors, message = REFUSED[kind]
    lora = write_adapter(tmp_path / "a", tensors, bias="all", use_dora=kind == "DoRA")
    with pytest.raises(BagelError, match=message) as caught:
        bagel_rt.load(small_artefact, "onnxruntime", adapters={"a": lora.folder})
    if kind not in ("shape", "name"):
        assert "export with --lora" in str(caught.value)


def test_engines_and_artefacts_that_cannot_switch_are_refused_before_anything_is_loaded(
    small_artefact, loras, tmp_path
):
    def refused(message: str, folder: Path = small_artefact, backend: str = "onnxruntime", **how) -> None:
        with pytest.raises(BagelError, match=message):
            bagel_rt.load(folder, backend, **{"adapters": paths(loras), **how})

    refused("on the CPU, not on tensorrt on cpu; export with --lora", backend="tensorrt")
    refused("not on onnxruntime on cuda", device="cuda")
    refused("packed_weights are of a graph without adapters", packed_weights=True)
    refused("adapters is a list", adapters=[loras["style"].folder])
    refused("an adapter's name is 'a b'", adapters={"a b": loras["style"].folder})
    refused("no such adapter folder or file", adapters={"a": tmp_path / "gone"})
    copy = Path(shutil.copytree(small_artefact, tmp_path / "w8a8"))
    stated = json.loads((copy / "bagel_rt.json").read_text())
    stated["weight_forms"] = {**stated.get("weight_forms", {}), "gen": "w8a8"}
    (copy / "bagel_rt.json").write_text(json.dumps(stated))
    refused("its gen expert has w8a8 weights, whose rows are rounded", copy)


def test_the_artefact_is_not_changed_and_adapters_count_as_memory(small_artefact, loras):
    before = {file.name: file.read_bytes() for file in small_artefact.iterdir()}
    with bagel_rt.load(small_artefact, "onnxruntime", adapters=paths(loras)) as bagel:
        bagel.ask("x", max_tokens=2, adapter="style")
        held = bagel.graphs.adapters.nbytes
    assert {file.name: file.read_bytes() for file in small_artefact.iterdir()} == before
    assert held > 4 * 9 * (64 + 128)
    with pytest.raises(InputError, match=r"adapters 0\.00"):
        bagel_rt.load(small_artefact, "onnxruntime", adapters=paths(loras), max_memory=0.001).ask("x")
