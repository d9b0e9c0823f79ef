"""Weights are streamed: writing them takes memory for a piece, however large the checkpoint is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 1 << 20
# a fresh process, so that nothing else of the test run is in its memory; `own`: not counting mapped file pages,
# which the kernel takes back when it needs them
MEASURE = """
import json, resource, sys
from pathlib import Path
import psutil
from bagel_export.checkpoint.open import open_checkpoint
from bagel_rt.adapters.read import Lora
from bagel_export.quantization.precision import precision_named
from bagel_export.quantization.recipe import recipe_for
from bagel_export.weights.write import weight_bytes, write_weights

def own():
    info = psutil.Process().memory_info()
    return info.rss - getattr(info, "shared", 0)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

lora = Lora(Path(sys.argv[3])) if len(sys.argv) > 3 and sys.argv[3] else None
checkpoint = open_checkpoint(sys.argv[1], lora=lora)
recipe = recipe_for(checkpoint.tensors, precision_named(sys.argv[4] if len(sys.argv) > 4 else "fp32"))
before, peak_before, most, largest = own(), peak(), 0, 0
for written in write_weights(checkpoint.tensors, Path(sys.argv[2]), recipe):
    most, largest = max(most, own()), max(largest, written)
size = weight_bytes(checkpoint.tensors.values(), recipe)
print(json.dumps(dict(own=most - before, peak=peak() - peak_before, size=size, piece=largest)))
"""


@pytest.fixture(scope="module")
def large_checkpoint(small_checkpoint, tmp_path_factory) -> Path:
    """The small checkpoint in bf16 with a vocabulary of 1.5 million: 2 x 183 MiB that lie in a file full of holes."""
    from bagel_export.checkpoint.open import EMBEDDING
    from bagel_rt.files.safetensors_file import read_header

    folder = tmp_path_factory.mktemp("large") / "checkpoint"
    folder.mkdir()
    for name in ("vit_config.json", "preprocessor_config.json", "tokenizer.json", "ae.safetensors"):
        (folder / name).hardlink_to(small_checkpoint / name)
    llm = json.loads((small_checkpoint / "llm_config.json").read_text())
    llm["vocab_size"] = 1_500_000
    (folder / "llm_config.json").write_text(json.dumps(llm))
    header, position = {}, 0
    for key, stored in read_header(small_checkpoint / "ema.safetensors").items():
        tables = (EMBEDDING, "language_model.lm_head.weight")
        shape = [llm["vocab_size"], llm["hidden_size"]] if key in tables else list(stored.shape)
        count = 1
        for n in shape:
            count *= n
        header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, position + 2 * count]}
        position += 2 * count
    text = json.dumps(header).encode()
    with (folder / "ema.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + position)
    return folder


@pytest.fixture(scope="module")
def large_adapter(tmp_path_factory) -> Path:
    """An adapter of rank 8 for the head of the large checkpoint."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("adapter")
    root = "base_model.model.language_model.lm_head"
    pair = {f"{root}.lora_A.weight": torch.ones(8, 64), f"{root}.lora_B.weight": torch.zeros(1_500_000, 8)}
    save_file(pair, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 8}))
    return folder


@pytest.mark.parametrize("merged", [False, True])
def test_writing_the_weights_takes_a_fraction_of_their_size_in_memory(
    large_checkpoint, large_adapter, tmp_path, merged
):
    out = tmp_path / "weights.safetensors"
    given = [sys.executable, "-c", MEASURE, large_checkpoint, out, *([large_adapter] if merged else [])]
    done = subprocess.run(given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["size"] > 700 * MIB
    assert seen["size"] < out.stat().st_size < seen["size"] + MIB
    out.unlink()
    assert seen["piece"] <= 80 * MIB
    assert seen["own"] < 250 * MIB  # a few copies of one piece
    assert seen["peak"] < seen["size"] / 2 + 100 * MIB  # the largest stored tensor may be mapped as a whole


def test_a_large_head_is_rounded_in_a_fraction_of_its_size(large_checkpoint, tmp_path):
    given = [sys.executable, "-c", MEASURE, large_checkpoint, tmp_path / "weights.safetensors", "", "int8"]
    done = subprocess.run(given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    whole = 4 * 1_500_000 * 64  # in float32; rounding it at once takes three times that
    assert json.loads(done.stdout)["own"] < 1.9 * whole
