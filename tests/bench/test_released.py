"""An artefact without its numbers is made of a checkpoint that has none, and is whole again once they are made."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from bagel_export.checkpoint.synthetic import Shape
from bagel_rt.artefact.manifest import read_manifest
from bench.released import HEAD, exported, filled, hollow_checkpoint

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    import torch

    return exported(tmp_path_factory.mktemp("small"), replace(Shape(), dtype=torch.bfloat16))


def test_a_hollow_checkpoint_takes_no_room(tmp_path):
    folder = hollow_checkpoint(tmp_path, Shape())
    for path in folder.glob("*.safetensors"):
        assert path.stat().st_size > 1e6
        assert path.stat().st_blocks * 512 < 2e5


def test_weights_are_left_out_and_made_where_they_are_needed(without, tmp_path):
    assert not list(without.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in without.iterdir()) < 4e6
    whole = filled(without, tmp_path / "whole")
    manifest = read_manifest(whole)  # every file is as long as it states
    for head in without.glob(f"*{HEAD}"):
        header = json.loads(head.read_bytes()[8:])
        header.pop("__metadata__", None)
        data = (whole / head.name.removesuffix(HEAD)).read_bytes()[head.stat().st_size :]
        for name, tensor in header.items():
            if tensor["dtype"] == "BF16":
                bits = np.frombuffer(data[slice(*tensor["data_offsets"])], np.uint16).astype(np.uint32) << 16
                values = bits.view(np.float32)
                assert np.isfinite(values).all(), name
                assert ("norm" in name and name.endswith("weight")) == bool((values == 1).all()), name
    assert manifest.arithmetic == "bfloat16"


def test_a_model_of_made_numbers_draws(without, tmp_path):
    import bagel_rt

    whole = filled(without, tmp_path / "whole")
    with bagel_rt.load(whole, "openvino", cache_tokens=1024, arithmetic="float32") as bagel:
        assert np.isfinite(bagel.generate("a cube", seed=1, height=32, width=32, num_timesteps=3).latent).all()
