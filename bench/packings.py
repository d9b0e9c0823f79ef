"""What do the forms that BAGEL is packed in cost?  python bench/packings.py [--out FILE]

Distance: the recorded checkpoint is packed in each form, read back, and draws a picture of 4 steps with text guidance
in PyTorch; the relative L2 of the latents from those of the plain checkpoint. Beside it the same of the weights, and
the latents' distance where every scale is 1, which is what a reader that forgot them would draw.

Time and memory: a matrix of 4736 x 3584 in each form (plain: in bfloat16) is unpacked as an export does it, piece by
piece, on one core. What all of the 7B's 14,607,260,128 numbers take is reckoned from that. Ends in one JSON
line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from bagel_export.checkpoint.open import Checkpoint, open_checkpoint
from bagel_export.checkpoint.packings.unpack import read_unpacked
from bagel_export.checkpoint.sources import Asked
from bagel_export.checkpoint.tensors import SourceTensor
from bagel_export.proof.cases import Case
from bagel_export.proof.of_reference import opened
from bench.timing import finish, machine

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
sys.path.insert(0, str(GOLDEN.parent / "helpers"))
from packings import Packed, folder_of, fp8, gptq, nf4, weights, write_gguf  # noqa: E402  the tests' writers

NUMBERS = 14_607_260_128  # of the released ema.safetensors
OUTPUTS, INPUTS, ROUNDS = 4736, 3584, 5
NAME = "language_model.model.layers.0.mlp.gate_proj.weight"
OPTIONS = {"height": 128, "width": 128, "num_timesteps": 4, "cfg_text_scale": 4.0, "cfg_img_scale": 1.0, "seed": 1}
PICTURE = Case("picture", ("A red cube on a blue sphere.",), "image", OPTIONS)
Writer = Callable[[dict[str, torch.Tensor]], Packed]
FORMS: dict[str, Writer] = {
    "plain": lambda t: Packed(dict(t)),
    "fp8 e4m3, scale per tensor": lambda t: fp8(t, "e4m3", ".scale_weight"),
    "fp8 e4m3, scale per row": lambda t: fp8(t, "e4m3", ".weight_scale", "rows"),
    "fp8 e4m3, scales of blocks": lambda t: fp8(t, "e4m3", ".weight_scale_inv", "blocks"),
    "fp8 e5m2, scale per tensor": lambda t: fp8(t, "e5m2", ".scale_weight"),
    "fp8 e4m3, plain cast": lambda t: fp8(t, "e4m3"),
    "NF4": nf4,
    "NF4, nested scales": lambda t: nf4(t, nested=True),
    "AutoRound W4, understanding MLP alone": lambda t: gptq(t, only=".mlp."),
    "AutoRound W4, all of the decoder": gptq,
}
GGUF = ("BF16", "Q8_0", "Q4_0")


def latents(checkpoint: Checkpoint) -> np.ndarray:
    with opened(checkpoint, layers=False) as reference:
        return reference.trace(PICTURE)["final_latent"]


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(f"{np.linalg.norm(found - wanted) / np.linalg.norm(wanted):.3g}")


def weights_apart(found: Checkpoint, wanted: Checkpoint) -> float:
    """Of all matrices of the decoder together."""
    off = total = 0.0
    for name, tensor in wanted.tensors.items():
        if ".layers." in name and name.startswith("language_model.") and len(tensor.shape) == 2:
            plain = tensor.array()
            off += float(np.square(found.tensors[name].array() - plain).sum())
            total += float(np.square(plain).sum())
    return float(f"{(off / total) ** 0.5:.3g}")


def distances(folder: Path) -> dict[str, dict[str, Any]]:
    plain = folder / "plain"
    shutil.copytree(GOLDEN / "checkpoint", plain)
    subprocess.run([sys.executable, GOLDEN / "make_checkpoint.py", plain], check=True)
    wanted, tensors = open_checkpoint(plain), weights(plain)
    drawn, found = latents(wanted), {}
    for i, (form, write) in enumerate(FORMS.items()):
        packed = write(tensors)
        got = open_checkpoint(folder_of(plain, folder / f"{i}", packed))
        found[form] = {"weights": weights_apart(got, wanted), "latents": relative(latents(got), drawn)}
        if packed.scales:
            for key in packed.scales.values():
                packed.stored[key] = torch.ones_like(packed.stored[key])
            forgot = open_checkpoint(folder_of(plain, folder / f"{i}-forgotten", packed))
            found[form]["latents_without_scales"] = relative(latents(forgot), drawn)
    for kind in GGUF:
        write_gguf(folder / f"{kind}.gguf", tensors, kind)
        got = open_checkpoint(Asked(folder / f"{kind}.gguf", base=plain))
        found[f"GGUF {kind}"] = {"weights": weights_apart(got, wanted), "latents": relative(latents(got), drawn)}
    return found


def costs(folder: Path) -> dict[str, dict[str, Any]]:
    torch.manual_seed(0)
    tensors, found = {NAME: torch.randn(OUTPUTS, INPUTS).mul_(0.02).bfloat16()}, {}
    for i, (form, write) in enumerate(FORMS.items()):
        (place := folder / f"cost{i}").mkdir()
        packed = write(tensors)
        save_file({k: t.clone().contiguous() for k, t in packed.stored.items()}, place / "model.safetensors")
        (place / "config.json").write_text(json.dumps({"quantization_config": packed.config or {}}))
        found[form] = cost(place / "model.safetensors")
    for kind in GGUF:
        write_gguf(folder / f"cost-{kind}.gguf", tensors, kind)
        found[f"GGUF {kind}"] = cost(folder / f"cost-{kind}.gguf")
    return found


def cost(path: Path) -> dict[str, Any]:
    tensor = SourceTensor(NAME, read_unpacked(path)[NAME], (OUTPUTS, INPUTS))
    return {"bytes_per_weight": round(path.stat().st_size / (OUTPUTS * INPUTS), 3), **cost_of(tensor)}


def cost_of(tensor: SourceTensor) -> dict[str, Any]:
    """Seconds and memory of reading a matrix piece by piece, and seconds of all of the 7B's numbers so."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in tensor.chunks():
            pass
        taken.append(time.perf_counter() - start)
    tracemalloc.start()
    for _ in tensor.chunks():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    each = statistics.median(taken) / (OUTPUTS * INPUTS)
    return {
        "seconds": round(statistics.median(taken), 3),
        "peak_mib": round(peak / 2**20),
        "seconds_7b": round(each * NUMBERS),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        apart, taken = distances(Path(folder)), costs(Path(folder))
    report = {
        "question": "what each packed form loses of a picture's latents, and what unpacking it takes",
        "model": "tests/golden/checkpoint for distances; one matrix of 4736 x 3584 for time and memory",
        "results": {form: {**apart[form], **taken[form]} for form in apart},
        "rounds": ROUNDS,
        **machine(),
    }
    finish(report, args.out)


if __name__ == "__main__":
    main()
