"""`bagel-rt export`: a checkpoint becomes an artefact folder that describes itself."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import onnx_ir as ir
import torch
from tokenizers import Tokenizer

from bagel_engines import disk
from bagel_engines.claims import IN_USE
from bagel_export.artefact import parity
from bagel_export.artefact.publish import check_room, check_target, publishing
from bagel_export.checkpoint.open import EMBEDDING, VAE_PREFIX, Checkpoint, open_checkpoint
from bagel_export.checkpoint.sources import Asked
from bagel_export.checkpoint.tensors import SourceTensor
from bagel_export.checkpoint.tokenizer import TOKENIZER_FILE, load_tokenizer
from bagel_export.onnx import tracing, wrappers
from bagel_export.quantization.calibration import PROMPTS, Range, calibrate, read_prompts
from bagel_export.quantization.precision import Precision, precision_named, risk_to_pictures
from bagel_export.quantization.recipe import Recipe, Treated, recipe_for
from bagel_export.quantization.smoothing import calibrated
from bagel_export.reference.vae import DOWNSAMPLE, SCALE, SHIFT
from bagel_export.weights.links import link_weights, linkable
from bagel_export.weights.write import WEIGHT_FILE, external_tensors, weight_bytes, write_weights
from bagel_rt.adapters.read import Loras
from bagel_rt.artefact.contract import (
    CONTRACT_VERSION,
    EXTRAS,
    FORMAT_VERSION,
    LAYER,
    TASK_GRAPHS,
    GraphSpec,
    ModelDims,
    graph_specs,
    layer_spec,
    strip_specs,
)
from bagel_rt.artefact.manifest import MANIFEST, Widths, model_section, sha256
from bagel_rt.errors import ExportError
from bagel_rt.files.typed_paths import typed_path
from bagel_rt.model.vae_strips import WHOLE_UP_TO
from bagel_rt.options.own_settings import read_own_settings
from bagel_rt.remarks import remark
from bagel_rt.styles.files import read_values, style_path

Step = TypeVar("Step")
Result = TypeVar("Result")
WEIGHTS = ("copy", "link")
ROOM_FOR_GRAPHS = 64 << 20  # graphs, tokenizer and manifest; the rest is weights


@dataclass(frozen=True)
class Progress:
    """What an export is doing: a stage's name, how far it is, and the stage's size (bytes, or one per graph)."""

    stage: str
    done: int
    total: int
    detail: str = ""


def model_dims(checkpoint: Checkpoint) -> ModelDims:
    c, llm = checkpoint.config, checkpoint.config.llm
    return ModelDims(
        hidden_size=llm.hidden_size,
        num_hidden_layers=llm.num_hidden_layers,
        num_attention_heads=llm.num_attention_heads,
        num_key_value_heads=llm.num_key_value_heads,
        head_dim=llm.head_dim,
        vocab_size=llm.vocab_size,
        max_position_embeddings=llm.max_position_embeddings,
        rope_theta=llm.rope_theta,
        layer_module=llm.layer_module,
        vit_patch_size=c.vit.patch_size,
        vit_grid=c.vit_max_num_patch_per_side,
        latent_channels=c.latent_channels,
        latent_patch_size=c.latent_patch_size,
        vae_downsample=DOWNSAMPLE,
        max_latent_size=c.max_latent_size,
        vae_scale=SCALE,
        vae_shift=SHIFT,
    )


def widths_of(checkpoint: Checkpoint) -> Widths:
    c = checkpoint.config
    first = checkpoint.tensors.get(VAE_PREFIX + "decoder.norm_out.weight")
    return Widths(
        inner=c.llm.intermediate_size,
        vit_inner=c.vit.intermediate_size,
        vit_hidden=c.vit.hidden_size,
        vit_heads=c.vit.num_attention_heads,
        vae=first.shape[0] if first else 0,
    )


def export(
    ckpt: str | Path | Asked,
    out: str | Path,
    task: str = "full",
    overwrite: bool = False,
    verify: bool = True,
    precision: str = "fp32",
    lora: Loras | None = None,
    weights: str = "copy",
    arithmetic: str | None = None,
    prompts: Path | None = None,
    system: str | None = None,
    style: str | Path | None = None,
    settings: Path | None = None,
) -> Iterator[Progress]:
    """Export a checkpoint to `out`, yielding progress; the work is done when the iterator ends.

    precision: a word or the forms of parts, see precision.precision_named; arithmetic: "fp32", "bf16" or "fp16" inside
    the graphs where the precision does not say it itself (under fp16 the VAE stays float32). prompts: a text file, one
    prompt a line, to calibrate a precision that needs it on, instead of calibration.PROMPTS.
    system: a text that calls of the artefact begin with.
    lora: an adapter or several, merged while the weights are streamed. weights "link" reads tensors that need no change
    from hard links to the checkpoint's own files. style: how the model reasons, a built-in name or a TOML file
    (bagel_rt.styles), which the artefact keeps. settings: a TOML file of option values by kind of call
    (bagel_rt.options.own_settings), which calls of the artefact begin with.

    Nothing is written before the checkpoint has been checked as a whole. `out` appears in one rename when it is
    complete; an existing artefact is replaced only with `overwrite`, and is intact until then. Raises CheckpointError,
    or ExportError for the target, the disk, or a graph that does not compute what the reference computes.
    """
    out = typed_path(out).absolute()
    if task not in TASK_GRAPHS:
        raise ExportError(f"task {task!r} is unknown; allowed: {', '.join(TASK_GRAPHS)}")
    if weights not in WEIGHTS:
        raise ExportError(f"weights {weights!r} is unknown; allowed: {', '.join(WEIGHTS)}")
    if system is not None and not system.strip():
        raise ExportError("the system prompt is empty: write it into the file, or leave --system out")
    stored = precision_named(precision, arithmetic)
    texts = PROMPTS if prompts is None else read_prompts(prompts)
    reasons = None if style is None else read_values(style_path(style))
    brought = {} if settings is None else read_own_settings(settings)
    check_target(out, overwrite)
    if risk := risk_to_pictures(stored, task):
        remark(risk)
    checkpoint = open_checkpoint(ckpt, task, lora)
    if stored.needs_calibration and checkpoint.config.llm.sparse:
        raise ExportError(
            f"precision {stored.name!r} is calibrated, and a generation expert in pieces is not (a piece that no prompt"
            " picks has no range): use --precision balanced, bf16 or fp16"
        )
    recipe = recipe_for(checkpoint.tensors, stored)
    in_place = linkable(checkpoint.tensors, recipe) if weights == "link" else {}
    copied = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in in_place}
    tokenizer, special_ids = load_tokenizer(checkpoint.tokenizer, checkpoint.config.llm.vocab_size)
    check_room(out.parent, weight_bytes(copied.values(), recipe) + ROOM_FOR_GRAPHS)
    if stored.needs_calibration:
        ranges = yield from _calibration(checkpoint, tokenizer, special_ids, texts)
        recipe = calibrated(recipe, checkpoint.tensors, ranges, checkpoint.config.llm.num_hidden_layers)
    with publishing(out, overwrite) as folder:
        disk.write_by(folder / TOKENIZER_FILE, lambda path: tokenizer.save(str(path)))
        linked = link_weights(in_place, folder, recipe)
        offsets = yield from _weights(copied, folder, recipe)
        names = (*TASK_GRAPHS[task], *_extras(checkpoint))
        entries = yield from write_graphs(checkpoint, folder, offsets, names, stored, recipe, verify, linked)
        failed = [f"{n} ({e['parity']['relative_l2']:.1e})" for n, e in entries.items() if _failed(e)]
        if failed:
            raise ExportError(f"graphs differ from the reference by relative L2: {', '.join(failed)}; nothing was kept")
        manifest = _manifest(
            checkpoint, stored, recipe, offsets, entries, special_ids, tokenizer.get_vocab_size(), linked
        )
        manifest |= {} if system is None else {"system_prompt": system}
        if reasons is not None:
            manifest["style"] = reasons
        if brought:
            manifest["settings"] = brought
        manifest["files"] = yield from _files(folder)
        disk.write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode("utf-8") + b"\n")


def _extras(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The graphs exported beside those of the task: LAYER, and where the model draws pictures of more than 512 x 512
    the parts of the VAE's decoder that decode them in strips."""
    if checkpoint.task != "full":
        return ()
    dims = model_dims(checkpoint)
    large = (dims.max_latent_size * dims.latent_stride) ** 2 > WHOLE_UP_TO
    return EXTRAS if large else (LAYER,)


def _failed(entry: dict[str, Any]) -> bool:
    return entry["parity"]["status"] == "failed"


def _calibration(
    checkpoint: Checkpoint, tokenizer: Tokenizer, special_ids: dict[str, int], prompts: Sequence[str]
) -> Generator[Progress, None, dict[str, Range]]:
    running = calibrate(checkpoint, tokenizer, special_ids, prompts)
    return (yield from _as_progress(running, lambda step: Progress("calibrating", *step)))


def _weights(
    tensors: Mapping[str, SourceTensor], folder: Path, recipe: Recipe
) -> Generator[Progress, None, dict[str, int]]:
    """Write the weight file in steps a progress bar can follow; returns the offsets."""
    total, done = weight_bytes(tensors.values(), recipe), 0
    yield Progress("weights", 0, total)

    def progress(written: int) -> Progress:
        nonlocal done
        done += written
        return Progress("weights", done, total)

    return (yield from _as_progress(write_weights(tensors, folder / WEIGHT_FILE, recipe), progress))


def _as_progress(
    running: Generator[Step, None, Result], progress: Callable[[Step], Progress]
) -> Generator[Progress, None, Result]:
    """Run a generator, yielding its steps as Progress; returns what it returns."""
    while True:
        try:
            step = next(running)
        except StopIteration as end:
            return end.value
        yield progress(step)


def write_graphs(
    checkpoint: Checkpoint,
    folder: Path,
    offsets: dict[str, int],
    names: tuple[str, ...],
    precision: Precision,
    recipe: Recipe,
    verify: bool,
    linked: Mapping[str, ir.ExternalTensor] | None = None,
) -> Generator[Progress, None, dict[str, Any]]:
    """Export the named graphs beside the weight file; returns each one's manifest entry.

    linked: tensors that are not in the weight file, by their own names.
    """
    model = checkpoint.meta_model().to(getattr(torch, precision.arithmetic))
    vae = checkpoint.meta_vae().to(getattr(torch, precision.vae)) if checkpoint.task == "full" else None
    exact = checkpoint.meta_model(), checkpoint.meta_vae() if checkpoint.task == "full" else None
    dims = model_dims(checkpoint)
    sources = checkpoint.by_parameter()
    linked = linked or {}
    copied = {name: tensor for name, tensor in sources.items() if tensor.name not in linked}
    in_place = {name: linked[tensor.name] for name, tensor in sources.items() if tensor.name in linked}
    weights = external_tensors(copied, offsets, folder, recipe) | in_place
    kept = {name: Treated(source, recipe[source.name]) for name, source in sources.items()}
    specs = {**graph_specs(dims, precision.arithmetic), LAYER: layer_spec(dims, precision.arithmetic)}
    specs |= strip_specs(dims, checkpoint.config.vae_base_width)
    entries = {}
    for i, name in enumerate(names):
        yield Progress("graphs", i, len(names), f"tracing {name}")
        spec, path = specs[name], folder / f"{name}.onnx"
        halves = 2 * (1 if name == LAYER else dims.num_hidden_layers)
        module = wrappers.build(name, model, vae)
        traced = tracing.trace(module, spec, halves)
        tracing.attach_weights(traced, weights)
        size = sum(weights[k].nbytes for k in traced.graph.initializers if k in weights)
        tracing.finish(traced, spec, path)
        check = parity.skipped()
        if verify:
            yield Progress("graphs", i, len(names), f"checking {name}")
            check = parity.compare(spec, wrappers.build(name, *exact), path, kept, size, halves, precision)
        entries[name] = {"file": path.name, **_signature(spec), "weight_bytes": size, "parity": check}
    yield Progress("graphs", len(names), len(names))
    return entries


def _signature(spec: GraphSpec) -> dict[str, Any]:
    return {
        "inputs": [asdict(t) for t in spec.inputs],
        "outputs": [asdict(t) for t in spec.outputs],
    }


def _manifest(
    checkpoint: Checkpoint,
    precision: Precision,
    recipe: Recipe,
    offsets: dict[str, int],
    entries: dict,
    special_ids: dict[str, int],
    vocab: int,
    linked: Mapping[str, ir.ExternalTensor],
) -> dict[str, Any]:
    extras = {name: entries.pop(name) for name in EXTRAS if name in entries}
    table, in_place = checkpoint.tensors[EMBEDDING], linked.get(EMBEDDING)
    return {
        "format_version": FORMAT_VERSION,
        "contract_version": CONTRACT_VERSION,
        "source": checkpoint.name,
        "task": checkpoint.task,
        "precision": precision.name,
        "arithmetic": precision.arithmetic,
        "weight_forms": dict(precision.forms),
        "model": model_section(model_dims(checkpoint)),
        "widths": asdict(widths_of(checkpoint)),
        "transforms": {"vae": asdict(checkpoint.vae_transform), "vit": asdict(checkpoint.vit_transform)},
        "tokenizer": {"file": TOKENIZER_FILE, "size": vocab, "special_ids": special_ids},
        "embeddings": {
            "file": in_place.location if in_place else WEIGHT_FILE,
            "offset": in_place.offset if in_place else offsets[EMBEDDING],
            "shape": list(table.shape),
            "dtype": recipe[EMBEDDING].stored,
        },
        "graphs": entries,
        "extra_graphs": extras,
        "linked_files": sorted({str(tensor.location) for tensor in linked.values()}),
        "unused_tensors": list(checkpoint.unused),
        "exporter": {
            name: importlib.metadata.version(name)
            for name in ("bagel-rt", "torch", "onnx", "onnxscript", "transformers", "onnxruntime")
        },
    }


def _files(folder: Path) -> Generator[Progress, None, dict[str, Any]]:
    """Size and hash of every file; returns them by name."""
    paths = sorted(p for p in folder.iterdir() if p.name not in (MANIFEST, IN_USE))
    total, before, entries = sum(p.stat().st_size for p in paths), 0, {}
    for path in paths:
        for part in sha256(path):
            if isinstance(part, int):
                yield Progress("hashing", before + part, total)
            else:
                entries[path.name] = {"size": path.stat().st_size, "sha256": part}
        before += path.stat().st_size
    return entries
