"""A step graph beside its form for CUDA: both on ONNX Runtime's CPU, over the same inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from norms_outside import on_cpu

from bagel_engines.onnxruntime.cuda_form import CudaForm, with_fused_attention
from bagel_engines.onnxruntime.quantised_weights import PLAIN

SLOTS = 40
PLACE = "session.model_external_initializers_file_folder_path"


def session(model: bytes, folder: Path, given: dict[str, np.ndarray] | None = None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(PLACE, str(folder))
    for name, value in PLAIN.items():  # or rows would be rounded
        options.add_session_config_entry(name, value)
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in (given or {}).items()}
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def inputs(folder: Path, und: int, gen: int, past: int, mask: np.ndarray) -> dict[str, np.ndarray]:
    stated = json.loads((folder / "bagel_rt.json").read_text(encoding="utf-8"))
    model, kept = stated["model"], np.float16 if stated["arithmetic"] == "float16" else np.float32
    kv, dim, hidden = model["num_key_value_heads"], model["head_dim"], model["hidden_size"]
    random = np.random.default_rng(3)
    normal = lambda *shape: random.standard_normal(shape, dtype=np.float32)  # noqa: E731
    angles = random.random((und + gen, dim // 2), np.float32) * 6
    cos, sin = (np.concatenate([part, part], axis=1) for part in (np.cos(angles), np.sin(angles)))
    found = {
        "und": normal(und, hidden),
        "und_cos": cos[:und],
        "und_sin": sin[:und],
        "pool": normal(2 * model["num_hidden_layers"] * SLOTS, kv, dim).astype(kept),
        "slots": random.permutation(SLOTS)[:past],
        "mask": mask,
    }
    of_gen = {"gen": normal(gen, hidden), "gen_cos": cos[und:], "gen_sin": sin[und:]}
    return found | of_gen if gen else found


def lengths(und: int, gen: int, past: int) -> dict[str, np.ndarray]:
    ends = {"und_length": past + und, "length": past + und + gen}
    last = {f"{name}_last": np.array([end - 1], np.int32) for name, end in ends.items()}
    return {name: np.array(end, np.int32) for name, end in ends.items()} | last | {"pool_half": np.array(SLOTS)}


def both(folder: Path, graph: str, given: dict[str, np.ndarray], kind: str, change: Any = None) -> list[tuple]:
    """What the portable graph gives, and the one for CUDA, for each output. change: done to that one before."""
    form = with_fused_attention(folder / f"{graph}.onnx", kind)
    assert form is not None
    return beside(folder, graph, form, given, change)


def beside(folder: Path, graph: str, form: CudaForm, given: dict[str, np.ndarray], change: Any = None) -> list[tuple]:
    """As `both`, of a form that was made before."""
    model, weights = on_cpu(form, folder / f"{graph}.onnx", change)
    portable = session((folder / f"{graph}.onnx").read_bytes(), folder)
    fused = session(model.SerializeToString(), folder, weights)
    more = lengths(len(given["und"]), len(given.get("gen", ())), len(given["slots"]))
    taken = {i.name for i in fused.get_inputs()}
    names = [output.name for output in fused.get_outputs()]
    other = fused.run(names, {name: array for name, array in {**given, **more}.items() if name in taken})
    return list(zip(portable.run(names, given), other, strict=True))


def far(pairs: list[tuple]) -> float:
    """The largest relative distance of an output."""
    wide = [(a.astype(np.float32), b.astype(np.float32)) for a, b in pairs]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(a)) for a, b in wide)


def causal_mask(rows: int, past: int) -> np.ndarray:
    return np.tri(rows, past + rows, past, dtype=bool)
