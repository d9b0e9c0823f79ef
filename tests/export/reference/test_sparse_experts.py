"""A generation expert in pieces: the rule of its router, and every graph and engine against it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from calls import FAST
from checkpoints import change_tensors, of, pair, write_adapter
from safetensors.torch import load_file

import bagel_rt
from bagel_export.artefact.export import export
from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.checkpoint.synthetic import SMALL_VIT, Shape, write_checkpoint
from bagel_export.config import SparseExperts
from bagel_export.quantization.precision import part_of
from bagel_export.reference.mlp import SparseMLP
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.errors import CheckpointError, ExportError

PIECES = SparseExperts(layers=(0,), count=4, top_k=2, piece=32, shared=16)
AT = "language_model.model.layers.0.mlp_moe_gen."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Two layers, the generation expert of the first in pieces."""
    shape = replace(Shape().with_llm(sparse=PIECES), vit=replace(SMALL_VIT, num_hidden_layers=2))
    return write_checkpoint(tmp_path_factory.mktemp("sparse") / "checkpoint", shape)


def by_rows(tensors: dict[str, torch.Tensor], x: torch.Tensor, top_k: int) -> torch.Tensor:
    """The rule, row by row and piece by piece."""

    def mlp(name: str, row: torch.Tensor) -> torch.Tensor:
        gate, up, down = (tensors[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
        return down @ (F.silu(gate @ row) * (up @ row))

    out = []
    for row in x:
        logits = tensors["gate.weight"] @ row
        best = sorted(range(len(logits)), key=lambda i: -float(logits[i]))[:top_k]
        picked = sum(mlp(f"experts.{i}", row) * (1 + logits[i]) for i in best)
        shared = mlp("shared_expert", row) * (1 + tensors["gate_shared.weight"] @ row) if PIECES.shared else 0
        out.append(picked + shared)
    return torch.stack(out)


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("rows", [1, 7])
def test_the_best_pieces_of_a_row_are_added_by_one_and_their_logits(top_k, rows):
    torch.manual_seed(3)
    module = SparseMLP(64, replace(PIECES, top_k=top_k)).eval()
    x = torch.randn(rows, 64)
    with torch.no_grad():
        torch.testing.assert_close(module(x), by_rows(module.state_dict(), x, top_k), rtol=1e-4, atol=1e-5)


def test_sizes_are_those_of_the_tensors_and_other_layers_are_dense(checkpoint):
    found = open_checkpoint(checkpoint)
    assert found.config.llm.sparse == PIECES
    assert found.tensors[f"{AT}experts.3.up_proj.weight"].shape == (32, 64)
    assert found.tensors[AT.replace("0", "1") + "up_proj.weight"].shape == (128, 64)
    assert open_checkpoint(checkpoint, "understand").config.llm.sparse is None
    assert part_of(f"{AT}experts.3.up_proj.weight") == "gen"
    assert part_of(f"{AT}gate.weight") is None


@pytest.fixture(scope="module")
def artefact(checkpoint, tmp_path_factory) -> Path:
    """Exported, every graph compared with the reference."""
    out = tmp_path_factory.mktemp("sparse-artefact") / "model"
    for _ in export(checkpoint, out):
        pass
    return out


def test_exported_graphs_are_the_reference_and_skip_what_was_not_picked(artefact):
    manifest = read_manifest(artefact)
    assert {graph["parity"]["status"] for graph in manifest.graphs.values()} == {"verified"}
    nodes = onnx.load(artefact / "gen_step.onnx", load_external_data=False).graph.node
    assert sum(node.op_type == "NonZero" for node in nodes) == PIECES.count


def test_every_engine_draws_the_same_picture(artefact):
    drawn = []
    for backend in ("onnxruntime", "openvino"):
        with bagel_rt.load(artefact, backend=backend) as bagel:
            drawn.append(bagel.generate("a ring", seed=1, **FAST).latent)
            assert bagel.ask("why?", max_tokens=3).token_ids
    np.testing.assert_allclose(drawn[0], drawn[1], rtol=1e-3, atol=1e-3)


def test_eight_bits_in_blocks_are_the_reference_too_and_leave_the_routers_as_they_are(checkpoint, tmp_path):
    for _ in export(checkpoint, tmp_path / "model", precision="int8"):
        pass
    manifest = read_manifest(tmp_path / "model")
    assert {graph["parity"]["status"] for graph in manifest.graphs.values()} == {"verified"}
    stored = load_file(tmp_path / "model" / "weights.safetensors")
    assert stored[f"{AT}experts.0.up_proj.weight"].dtype == torch.int8
    assert stored[f"{AT}gate.weight"].dtype == torch.float32


def test_an_adapter_of_a_piece_and_of_the_shared_one_is_switched_in_a_loaded_model(checkpoint, artefact, tmp_path):
    tensors = of(f"{AT}experts.1.up_proj", *pair(32, 64, 1)) | of(f"{AT}shared_expert.down_proj", *pair(64, 16, 2))
    lora = write_adapter(tmp_path / "style", tensors)
    for _ in export(checkpoint, tmp_path / "merged", lora=lora, verify=False):
        pass
    for backend in ("onnxruntime", "openvino"):
        with bagel_rt.load(artefact, backend, adapters={"style": lora.folder}) as bagel:
            found, plain = (bagel.generate("a ring", seed=1, adapter=one, **FAST).latent for one in ("style", None))
        with bagel_rt.load(tmp_path / "merged", backend) as bagel:
            wanted = bagel.generate("a ring", seed=1, **FAST).latent
        size = np.linalg.norm(wanted)
        assert np.linalg.norm(found - wanted) / size < 1e-5 < 1e-3 < np.linalg.norm(plain - wanted) / size


# Bad twins


def test_a_calibrated_precision_is_refused_with_what_to_use(checkpoint, tmp_path):
    for precision in ("small", "w8a8", "gen=fp8"):
        with pytest.raises(ExportError, match=r"in pieces is not .*: use --precision balanced"):
            list(export(checkpoint, tmp_path / "model", precision=precision))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda t: {k.replace("_moe_gen.experts", ".experts"): v for k, v in t.items()},
            "understanding expert in pieces",
        ),
        (
            lambda t: {k: v for k, v in t.items() if k != f"{AT}experts.1.up_proj.weight"},
            "experts.1.up_proj.weight' is",
        ),
        (lambda t: {k: v for k, v in t.items() if k != f"{AT}gate.weight"}, "mlp_moe_gen.gate.weight' is missing"),
        (lambda t: t | {f"{AT}experts.1.up_proj.weight": torch.zeros(31, 64)}, "has shape [31, 64], [32, 64] is"),
        (lambda t: t | {f"{AT}gate.weight": torch.zeros(3, 64)}, "mlp_moe_gen.gate.weight' has shape [3, 64]"),
        (lambda t: t | {f"{AT}experts.1.up_prj.weight": torch.zeros(32, 64)}, "experts.1.up_prj.weight' is not part"),
    ],
)
def test_what_is_wrong_with_pieces_is_named(checkpoint, tmp_path, change, words):
    copy = copied(checkpoint, tmp_path)
    change_tensors(copy, change)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(copy)
    assert words in str(caught.value)


def test_a_file_of_pieces_that_is_cut_off_is_named(checkpoint, tmp_path):
    path = copied(checkpoint, tmp_path) / "ema.safetensors"
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:-1000])
    with pytest.raises(CheckpointError, match=r"ema.safetensors: the file is cut off: tensor '"):
        open_checkpoint(path.parent)


@pytest.mark.parametrize("top_k", [None, 0, 5, True, "2"])
def test_a_top_k_that_does_not_fit_is_named(checkpoint, tmp_path, top_k):
    copy = copied(checkpoint, tmp_path)
    path = copy / "llm_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "top_k": top_k}))
    with pytest.raises(CheckpointError, match=r"key 'top_k' is .*; 1 to 4 are expected"):
        open_checkpoint(copy)


def copied(checkpoint: Path, folder: Path) -> Path:
    copy = folder / "checkpoint"
    copy.mkdir()
    for file in checkpoint.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert load_file(copy / "ema.safetensors")
    return copy
