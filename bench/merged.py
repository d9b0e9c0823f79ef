"""What do adapters cost an export, and how exactly do they arrive?  python bench/merged.py [--out FILE]

Distance: the recorded checkpoint with a random adapter of every matrix of its decoder, of rank 8, a fifth as large as
the weights, draws a picture of 4 steps with text guidance; the relative L2 of the latents from those of a checkpoint
whose weights were added up in float64 beforehand. Merged by the reader it draws in PyTorch, as bench/packings.py does;
switched in a loaded model on each engine, against an export of that checkpoint on the same engine. Beside it the same
where the adapter's scale (DoRA: lengths) is forgotten.

Time and memory: a matrix of 4736 x 3584 with an adapter of rank 16 and 64 is merged as an export does it, piece by
piece, on one core; what the 7B's numbers take is reckoned from that. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import bagel_rt
from bagel_export.artefact.export import export
from bagel_export.checkpoint.open import open_checkpoint
from bagel_export.checkpoint.packings.unpack import read_unpacked
from bagel_export.checkpoint.tensors import SourceTensor
from bagel_export.checkpoint.updates import merged
from bagel_rt.adapters.read import read_adapter
from bench.packings import GOLDEN, INPUTS, NAME, OUTPUTS, PICTURE, cost_of, latents, relative
from bench.timing import finish, machine

sys.path.insert(0, str(GOLDEN.parent / "helpers"))
from checkpoints import of, write_adapter

RANK, ALPHA = 8, 4.0
SHARE = 0.2  # of a weight's length


def adapter_of(folder: Path, tensors: dict[str, torch.Tensor], rank: int, dora: bool, **config: Any) -> Any:
    """A random adapter of these matrices. DoRA's lengths are the rows' own, times 1 to 1.2."""
    random, parts = torch.Generator().manual_seed(1), {}
    for name, weight in tensors.items():
        a, b = (torch.randn(*shape, generator=random) for shape in ((rank, weight.shape[1]), (weight.shape[0], rank)))
        b *= SHARE * float(weight.norm()) / float((b @ a).norm()) * rank / ALPHA
        parts |= of(name.removesuffix(".weight"), a, b)
        if dora:
            stretched = weight.norm(dim=1) * (1 + SHARE * torch.rand(len(weight), generator=random))
            parts[f"base_model.model.{name.removesuffix('.weight')}.lora_magnitude_vector"] = stretched
    return write_adapter(folder, parts, **{"r": rank, "lora_alpha": ALPHA, "use_dora": dora, **config})


def added_up(tensors: dict[str, torch.Tensor], folder: Path, dora: bool) -> dict[str, torch.Tensor]:
    """The weights with an adapter in them, by its formula, in float64."""
    stored = load_file(folder / "adapter_model.safetensors")
    parts = {key.removeprefix("base_model.model."): tensor.double() for key, tensor in stored.items()}
    found = {}
    for name, weight in tensors.items():
        module = name.removesuffix(".weight")
        whole = weight.double() + ALPHA / RANK * parts[f"{module}.lora_B.weight"] @ parts[f"{module}.lora_A.weight"]
        if dora:
            whole *= (parts[f"{module}.lora_magnitude_vector"] / whole.norm(dim=1))[:, None]
        found[name] = whole.float()
    return found


def with_weights(plain: Path, folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    shutil.copytree(plain, folder)
    path = folder / "ema.safetensors"
    stored = {**load_file(path), **tensors}
    path.unlink()
    save_file({key: value.clone() for key, value in stored.items()}, path)
    return folder


def distances(folder: Path) -> dict[str, dict[str, Any]]:
    plain = folder / "plain"
    shutil.copytree(GOLDEN / "checkpoint", plain)
    subprocess.run([sys.executable, GOLDEN / "make_checkpoint.py", plain], check=True)
    stored = load_file(plain / "ema.safetensors")
    tensors = {k: t.float() for k, t in stored.items() if ".layers." in k and k.endswith("proj.weight") and t.ndim == 2}
    tensors |= {k: t.float() for k, t in stored.items() if k.endswith("proj_moe_gen.weight")}
    tensors = {k: t for k, t in tensors.items() if k.startswith("language_model.")}
    found, exports = {}, {}
    for form, dora in (("LoRA", False), ("DoRA", True)):
        lora = adapter_of(folder / form, tensors, RANK, dora)
        forgot = adapter_of(folder / f"{form}-forgot", tensors, RANK, dora, lora_alpha=RANK) if not dora else None
        exports[form] = with_weights(plain, folder / f"{form}-added", added_up(tensors, lora.folder, dora))
        wanted = latents(open_checkpoint(exports[form]))
        got = latents(open_checkpoint(plain, lora=lora))
        without = latents(open_checkpoint(plain, lora=forgot) if forgot else open_checkpoint(plain))
        apart = {"latents": relative(got, wanted), "latents_without_scales": relative(without, wanted)}
        found[f"{form}, merged"] = apart
    return found | switched(folder, plain, exports["LoRA"])


def switched(folder: Path, plain: Path, added: Path) -> dict[str, dict[str, Any]]:
    """Of the LoRA adapter in a loaded model, on each engine."""
    for name, checkpoint in (("artefact", plain), ("merged", added)):
        for _ in export(checkpoint, folder / name, verify=False):
            pass
    found = {}
    for engine, title in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")):
        drawn = {}
        with bagel_rt.load(folder / "artefact", engine, adapters={"lora": folder / "LoRA"}) as bagel:
            for key, scale in (("switched", 1.0), ("forgotten", RANK / ALPHA)):
                drawn[key] = bagel.generate(PICTURE.items[0], adapter={"lora": scale}, **PICTURE.options).latent
        with bagel_rt.load(folder / "merged", engine) as bagel:
            wanted = bagel.generate(PICTURE.items[0], **PICTURE.options).latent
        found[f"LoRA, switched on {title}"] = {
            "latents": relative(drawn["switched"], wanted),
            "latents_without_scales": relative(drawn["forgotten"], wanted),
        }
    return found


def costs(folder: Path) -> dict[str, dict[str, Any]]:
    """Of merging, beside reading the plain matrix."""
    torch.manual_seed(0)
    weight, found = torch.randn(OUTPUTS, INPUTS).mul_(0.02).bfloat16(), {}
    save_file({NAME: weight}, folder / "model.safetensors")
    tensor = SourceTensor(NAME, read_unpacked(folder / "model.safetensors")[NAME], (OUTPUTS, INPUTS))
    found["plain"] = cost_of(tensor)
    for form, dora in (("LoRA", False), ("DoRA", True)):
        for rank in (16, 64):
            lora = adapter_of(folder / f"{form}{rank}", {NAME: weight.float()}, rank, dora)
            found[f"{form} of rank {rank}, merged"] = cost_of(merged(read_adapter(lora, [NAME]), {NAME: tensor})[NAME])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        apart, cost = distances(Path(folder)), costs(Path(folder))
    assert all(math.isfinite(row["latents"]) for row in apart.values())
    question = "what adapters cost an export, and how exactly they arrive"
    finish({"question": question, "apart": apart, "cost": cost, **machine()}, args.out)


if __name__ == "__main__":
    main()
