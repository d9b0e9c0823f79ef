"""Checkpoints packed as people share them: a writer per form, after the form's public description and not after our
reader. Each returns what it wrote and the numbers that its tensors stand for, worked out number by number."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

FP8 = {"e4m3": (torch.float8_e4m3fn, 448.0), "e5m2": (torch.float8_e5m2, 57344.0)}
# the sixteen quantiles of a normal distribution that NF4 rounds to (arXiv 2305.14314, appendix E)
NF4 = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0],
    np.float32,
)  # fmt: skip


@dataclass
class Packed:
    """A weight file in the making."""

    stored: dict[str, torch.Tensor]  # what goes into the file
    means: dict[str, np.ndarray] = field(default_factory=dict)  # the numbers of packed tensors, by plain names
    scales: dict[str, str] = field(default_factory=dict)  # the key of a scale that is multiplied with, by plain names
    config: dict | None = None  # config.json's quantization_config


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "ema.safetensors")


def folder_of(checkpoint: Path, folder: Path, packed: Packed, name: str = "ema.safetensors", **metadata: str) -> Path:
    """A checkpoint's folder with its weights packed."""
    shutil.copytree(checkpoint, folder, copy_function=os.link)
    (folder / "ema.safetensors").unlink()
    save_file({k: t.clone().contiguous() for k, t in packed.stored.items()}, folder / name, metadata or None)
    if packed.config is not None:
        stated = json.loads((checkpoint / "config.json").read_text()) if (checkpoint / "config.json").exists() else {}
        (folder / "config.json").unlink(missing_ok=True)
        (folder / "config.json").write_text(json.dumps({**stated, "quantization_config": packed.config}))
    return folder


def linears(tensors: dict[str, torch.Tensor]) -> list[str]:
    """The weights that such files pack: the decoder's matrices."""
    return [k for k, t in tensors.items() if ".layers." in k and k.startswith("language_model.") and t.ndim == 2]


def fp8(tensors: dict[str, torch.Tensor], kind: str, scale: str = "", shape: str = "one", mark: bool = False) -> Packed:
    """scale: what the scale's key ends with, "" for a plain cast of everything; shape: one, rows, columns, blocks."""
    dtype, most = FP8[kind]
    out = Packed(dict(tensors))
    for name in linears(tensors) if scale else list(tensors):
        w = tensors[name].float().numpy()
        if not scale:
            rounded = tensors[name].to(dtype)
            out.stored[name], out.means[name] = rounded, rounded.float().numpy()
            continue
        high, wide = {"one": w.shape, "rows": (1, w.shape[1]), "blocks": (32, 32)}[shape]
        blocks = w.reshape(w.shape[0] // high, high, w.shape[1] // wide, wide)
        steps = (np.abs(blocks).max((1, 3)) / most).astype(np.float32)
        each = np.kron(steps, np.ones((high, wide), np.float32))
        rounded = torch.from_numpy(w / each).to(dtype)
        key = name.removesuffix(".weight") + scale
        out.stored[name], out.means[name] = rounded, rounded.float().numpy() * each
        out.stored[key] = torch.from_numpy(steps.reshape(()) if shape == "one" else steps)
        out.scales[name] = key
    if mark:
        out.stored["scaled_fp8"] = torch.zeros(2, dtype=dtype)
        out.stored |= {n.replace(".weight", ".scale_input"): torch.ones(()) for n in out.scales}
    return out


def nf4(tensors: dict[str, torch.Tensor], nested: bool = False, block: int = 64) -> Packed:
    out = Packed(dict(tensors))
    for name in linears(tensors):
        flat = tensors[name].float().numpy().reshape(-1)
        absmax = np.abs(flat.reshape(-1, block)).max(1)
        state = {"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16", "shape": list(tensors[name].shape)}
        parts = {".absmax": absmax, ".quant_map": NF4}
        if nested:
            offset, table = float(absmax.mean()), np.linspace(-1, 1, 256, dtype=np.float32)
            groups = [absmax[i : i + 256] - np.float32(offset) for i in range(0, len(absmax), 256)]
            coarse = np.array([np.abs(g).max() for g in groups], np.float32)
            codes = np.concatenate(
                [np.abs(table[None] - (g / c)[:, None]).argmin(1) for g, c in zip(groups, coarse, strict=True)]
            ).astype(np.uint8)
            absmax = table[codes] * coarse[np.arange(len(codes)) // 256] + np.float32(offset)
            parts = {".absmax": codes, ".quant_map": NF4, ".nested_absmax": coarse, ".nested_quant_map": table}
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
        each = absmax[np.arange(flat.size) // block]
        codes = np.abs(NF4[None] - (flat / each)[:, None]).argmin(1).astype(np.uint8)
        out.means[name] = (NF4[codes] * each).reshape(tensors[name].shape)
        out.stored[name] = torch.from_numpy(codes[0::2] << 4 | codes[1::2]).reshape(-1, 1)
        out.stored |= {name + end: torch.from_numpy(part) for end, part in parts.items()}
        text = torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)
        out.stored[f"{name}.quant_state.bitsandbytes__nf4"] = text
        out.scales[name] = name + (".nested_absmax" if nested else ".absmax")
    return out


def gptq(
    tensors: dict[str, torch.Tensor],
    packing: str = "auto_round:auto_gptq",
    symmetric: bool = True,
    order: bool = False,
    bits: int = 4,
    group: int = 32,
    only: str = "",
) -> Packed:
    """AutoRound's W4A16. packing: "auto_round:auto_gptq" (stored zero points are one less) or "auto_round"."""
    out, each = Packed(dict(tensors)), 32 // bits
    out.config = {"quant_method": "auto-round", "bits": bits, "group_size": group, "sym": symmetric}
    out.config |= {"packing_format": packing, "block_name_to_quantize": "language_model.model.layers"}
    shift = 1 if "gptq" in packing else 0
    for name in [n for n in linears(tensors) if only in n]:
        w, module = tensors[name].float().numpy().T, name.removesuffix(".weight")  # (inputs, outputs)
        groups = np.arange(len(w)) // group
        if order:
            groups = groups[::-1].copy()
            out.stored[module + ".g_idx"] = torch.from_numpy(groups.astype(np.int32))
        least = np.stack([w[groups == g].min(0) for g in range(groups.max() + 1)])
        most = np.stack([w[groups == g].max(0) for g in range(groups.max() + 1)])
        top = 2**bits - 1
        if symmetric:
            scales = (np.maximum(-least, most) / (top // 2)).astype(np.float16)
            zeros = np.full_like(scales, 2 ** (bits - 1), np.int64)
        else:
            scales = ((np.maximum(most, 0) - np.minimum(least, 0)) / top).astype(np.float16)
            zeros = np.clip(np.round(-np.minimum(least, 0) / scales), 1, top).astype(np.int64)
        q = np.clip(np.round(w / scales[groups].astype(np.float32)) + zeros[groups], 0, top).astype(np.int64)
        out.means[name] = (scales[groups].astype(np.float32) * (q - zeros[groups])).T.astype(np.float32)
        del out.stored[name]
        words = sum(q[i::each] << bits * i for i in range(each))
        marks = sum((zeros - shift)[:, i::each] << bits * i for i in range(each))
        for end, values in ((".qweight", words), (".qzeros", marks)):
            out.stored[module + end] = torch.from_numpy(np.asarray(values).astype(np.uint32).view(np.int32))
        out.stored[module + ".scales"] = torch.from_numpy(scales)
        out.scales[name] = module + ".scales"
    return out


def write_gguf(path: Path, tensors: dict[str, torch.Tensor], kind: str) -> dict[str, np.ndarray]:
    """A GGUF file, its matrices in a block form; returns what they mean, worked out here for Q8_0 and Q4_0."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    writer, means = GGUFWriter(path, "bagel"), {}
    for name, tensor in tensors.items():
        values = tensor.float().numpy()
        if name in linears(tensors):
            means[name] = {"Q8_0": _q8_0, "Q4_0": _q4_0, "F16": _f16, "BF16": _bf16}[kind](values)
            form = GGMLQuantizationType[kind]
            writer.add_tensor(name, quants.quantize(values, form), raw_dtype=form)
        else:
            means[name] = values
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return means


def _f16(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).astype(np.float32)


def _bf16(x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(x).bfloat16().float().numpy()


def _q8_0(x: np.ndarray) -> np.ndarray:
    """Blocks of 32: a float16 step of the greatest number / 127, and whole numbers."""
    blocks = x.reshape(-1, 32)
    step = np.abs(blocks).max(1, keepdims=True) / 127
    return (np.round(blocks / step) * step.astype(np.float16).astype(np.float32)).reshape(x.shape)


def _q4_0(x: np.ndarray) -> np.ndarray:
    """Blocks of 32: a float16 step of the number of greatest size / -8, and whole numbers -8 to 7."""
    blocks = x.reshape(-1, 32)
    step = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1) / -8
    q = np.clip(np.trunc(blocks / step + 8.5), 0, 15) - 8
    return (q * step.astype(np.float16).astype(np.float32)).reshape(x.shape)
