"""Opens a checkpoint: finds its files, reads configs and headers, and checks every tensor's name and shape.

What checkpoints may look like (decoder forms, prefixes, vocabularies, other ViTs) is decided here and in config.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bagel_export.checkpoint.packings.packed import Stored
from bagel_export.checkpoint.parts import (
    GENERATION_ROOTS,
    TOKENIZER_FILES,
    WHOLE_HINT,
    Weights,
    folder_with,
    read_configs,
    read_weights_of,
)
from bagel_export.checkpoint.shards import VAE_WEIGHTS
from bagel_export.checkpoint.sources import Asked, find_source
from bagel_export.checkpoint.sparse import with_sparse_experts
from bagel_export.checkpoint.tensors import SourceTensor
from bagel_export.checkpoint.updates import merged
from bagel_export.config import BagelConfig, LLMConfig, ViTConfig, read_json
from bagel_export.reference.bagel import BagelModel
from bagel_export.reference.vae import AutoEncoder
from bagel_rt.adapters.read import Loras, names_of, read_adapter
from bagel_rt.artefact.manifest import ResizeRule
from bagel_rt.errors import CheckpointError
from bagel_rt.files.safetensors_file import DTYPES

VAE_PREFIX = "vae."
EMBEDDING = "language_model.model.embed_tokens.weight"
LM_HEAD = "language_model.lm_head.weight"
PATCH_EMBEDDING = "vit_model.vision_model.embeddings.patch_embedding.weight"
UNDERSTAND_HINT = "export with --task understand to leave generation out"
BASE_HINT = "; if only changed tensors are here, name the checkpoint that they were changed from with --base"


@dataclass(frozen=True)
class Checkpoint:
    """A validated checkpoint: every tensor the task needs is there with its shape, every other one is in `unused`."""

    name: str
    folder: Path
    task: str
    config: BagelConfig
    tensors: dict[str, SourceTensor]  # by the reference model's names; the VAE's begin with "vae."
    unused: tuple[str, ...]
    vae_transform: ResizeRule
    vit_transform: ResizeRule
    tokenizer: Path  # the folder that has it: `folder`, or the base's

    def by_parameter(self) -> dict[str, SourceTensor]:
        """The tensors by every parameter name that reads them: a tied lm_head reads the embedding table."""
        tied = {LM_HEAD: self.tensors[EMBEDDING]} if self.config.llm.tie_word_embeddings else {}
        return self.tensors | tied

    def meta_model(self) -> BagelModel:
        """The reference model without memory for its weights."""
        with torch.device("meta"):
            return BagelModel(self.config).eval().requires_grad_(False)

    def meta_vae(self) -> AutoEncoder:
        with torch.device("meta"):
            return AutoEncoder(self.config.vae_base_width, self.config.latent_channels).eval().requires_grad_(False)


def open_checkpoint(ckpt: str | Path | Asked, task: str = "full", lora: Loras | None = None) -> Checkpoint:
    """Find, read and check a checkpoint for a task, "full" or "understand", with adapters merged. Reads headers only.

    `ckpt` is a folder, a weight file, or a hub id; an Asked says also where to find what that does not hold. Raises
    CheckpointError naming file and key.
    """
    source = find_source(ckpt)
    weights, vae = read_weights_of(source)  # first: a model of another kind is called by its name, not by its configs
    llm, vit = read_configs(source)
    tokenizer = folder_with(source, TOKENIZER_FILES)
    check_tokenizer_present(tokenizer, "" if source.base else WHOLE_HINT)
    vae_rule, vit_rule = read_transforms(folder_with(source, ["preprocessor_config.json"]), vit)
    hint = "" if source.base else BASE_HINT
    if task == "full" and vae is None:
        raise CheckpointError(f"{source.folder / VAE_WEIGHTS}: file not found; {UNDERSTAND_HINT}{hint}")
    path, stored = weights.path, weights.stored
    adapter = read_adapter(lora, stored) if lora else None
    if adapter:
        check_untied(llm, adapter.file, {*adapter.updates, *adapter.whole})
        stored |= adapter.whole
    config = _complete_config(path, llm, vit, stored, task, hint)
    with torch.device("meta"):
        wanted = {k: tuple(v.shape) for k, v in BagelModel(config).state_dict().items()}
    if llm.tie_word_embeddings:
        del wanted[LM_HEAD]
    tensors, unused = _match(path, wanted, stored, config, task, hint)
    if adapter:
        tensors, unused = merged(adapter, tensors), (*unused, *adapter.left_out(tensors))
    if vae and task == "full":
        config, found, vae_unused = _with_vae(config, vae.read())
        tensors, unused = tensors | found, unused + vae_unused
    elif vae:
        unused += tuple(VAE_PREFIX + name for name in vae.read().stored)
    name = f"{source.name}+{names_of(lora)}" if lora else source.name
    return Checkpoint(name, source.folder, task, config, tensors, unused, vae_rule, vit_rule, tokenizer)


def _with_vae(config: BagelConfig, weights: Weights) -> tuple[BagelConfig, dict[str, SourceTensor], tuple[str, ...]]:
    """The config with the VAE's width, the VAE's tensors, and the names of those that are not used."""
    stored = {VAE_PREFIX + name: tensor for name, tensor in weights.stored.items()}
    config = replace(config, vae_base_width=_vae_base_width(weights.path, stored))
    with torch.device("meta"):
        vae = AutoEncoder(config.vae_base_width, config.latent_channels).state_dict()
    wanted = {VAE_PREFIX + k: tuple(v.shape) for k, v in vae.items()}
    return config, *_match(weights.path, wanted, stored, config, "full")


def check_untied(llm: LLMConfig, file: Path, names: set[str]) -> None:
    """Refuse an adapter that changes the head of a model whose head is the embedding table."""
    if llm.tie_word_embeddings and LM_HEAD in names:
        raise CheckpointError(
            f"{file}: changes '{LM_HEAD}', which llm_config.json ties to the embedding table; untie them first"
        )


def load_for_training(
    ckpt: str | Path | Asked, generation: bool
) -> tuple[BagelConfig, dict[str, SourceTensor], list[str]]:
    """Config, tensors by model name, and keys that match nothing: a checkpoint as a starting point for training.

    Unlike open_checkpoint it asks for no VAE and no tokenizer, and lets tensors be missing. Without `generation` the
    understanding keys alone are kept.
    """
    source = find_source(ckpt)
    llm, vit = read_configs(source)
    path, stored = (weights := read_weights_of(source)[0]).path, weights.stored
    if generation and "latent_pos_embed.pos_embed" not in stored:  # stage 1, understanding only
        side = _table_side(path, stored, "vit_pos_embed.pos_embed", "")
        config = BagelConfig(_stored_vocabulary(llm, stored), vit, vit_max_num_patch_per_side=side)
    else:
        config = _complete_config(path, llm, vit, stored, "full" if generation else "understand")
    with torch.device("meta"):
        wanted = {k: tuple(v.shape) for k, v in BagelModel(config).state_dict().items()}
    task = "full" if generation else "understand"
    unmatched = [k for k in stored if k not in wanted and not _known_unused(k, config, task)]
    return config, {k: _source(k, t, wanted[k]) for k, t in stored.items() if k in wanted}, sorted(unmatched)


def check_tokenizer_present(folder: Path, hint: str = "") -> None:
    if (folder / "tokenizer.json").is_file():
        read_json(folder / "tokenizer.json")
        return
    if not ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()):
        raise CheckpointError(f"{folder}: no tokenizer: tokenizer.json, or vocab.json with merges.txt, is needed{hint}")
    read_json(folder / "vocab.json")


def read_transforms(folder: Path, vit: ViTConfig) -> tuple[ResizeRule, ResizeRule]:
    """The VAE's and the ViT's resize limits: preprocessor_config.json where there is one, else the released model's."""
    path = folder / "preprocessor_config.json"
    if not path.exists():
        return ResizeRule(1024, 512, 16), ResizeRule(980, 224, vit.patch_size)
    values = read_json(path)
    rules = []
    for key, unit in (("vae_transform", 16), ("vit_transform", vit.patch_size)):
        section = values.get(key) if isinstance(values, dict) else None
        if not isinstance(section, dict):
            raise CheckpointError(f"{path}: key '{key}' is missing or not an object")
        for name in ("max_size", "min_size", "stride", "max_pixels"):
            value = section.get(name)
            if (name in section or name != "max_pixels") and (type(value) is not int or value < 1):
                raise CheckpointError(f"{path}: key '{key}.{name}' is {value!r}; a positive integer is expected")
        if section["stride"] % unit:
            raise CheckpointError(f"{path}: key '{key}.stride' is {section['stride']}; it must be a multiple of {unit}")
        unknown = sorted(set(section) - {"max_size", "min_size", "stride", "max_pixels"})
        if unknown:
            raise CheckpointError(f"{path}: key '{key}.{unknown[0]}' is unknown")
        rules.append(ResizeRule(**section))
    return rules[0], rules[1]


def _complete_config(
    path: Path, llm: LLMConfig, vit: ViTConfig, stored: dict, task: str, hint: str = ""
) -> BagelConfig:
    vit_grid = _table_side(path, stored, "vit_pos_embed.pos_embed", hint)
    if vit_grid != vit.grid:
        raise CheckpointError(
            f"{path}: tensor 'vit_pos_embed.pos_embed' holds {vit_grid} x {vit_grid} places, vit_config.json's"
            f" image_size / patch_size gives {vit.grid} x {vit.grid}"
        )
    llm = with_sparse_experts(path, path.parent, _stored_vocabulary(llm, stored), stored)
    if task == "understand":  # without the generation expert a layer is an ordinary Qwen2 layer, the dense form
        llm = replace(llm, layer_module="Qwen2DecoderLayer", sparse=None)
        return BagelConfig(llm, vit, vit_max_num_patch_per_side=vit_grid, visual_gen=False)
    side = _table_side(path, stored, "latent_pos_embed.pos_embed", f"; {UNDERSTAND_HINT}{hint}")
    return BagelConfig(llm, vit, max_latent_size=side, vit_max_num_patch_per_side=vit_grid)


def _stored_vocabulary(llm: LLMConfig, stored: dict[str, Stored]) -> LLMConfig:
    """The config with the stored tables' number of rows: fine-tunes that added tokens often kept the old vocab_size."""
    tables = [stored[key] for key in (EMBEDDING, LM_HEAD) if key in stored]
    if llm.tie_word_embeddings:
        tables = tables[:1]
    rows = {table.shape[0] for table in tables if len(table.shape) == 2}
    if len(rows) == 2:
        a, b = tables
        raise CheckpointError(
            f"{b.file}: tensor '{b.key}' has {b.shape[0]} rows, '{a.key}' has {a.shape[0]}: a vocabulary grows in both"
        )
    return replace(llm, vocab_size=rows.pop()) if rows and 0 not in rows else llm


def _table_side(path: Path, stored: dict[str, Stored], key: str, hint: str) -> int:
    if key not in stored:
        raise CheckpointError(f"{path}: tensor '{key}' is missing{hint}")
    shape = stored[key].shape
    side = math.isqrt(shape[0]) if len(shape) == 2 else 0
    if not side or side * side != shape[0]:
        raise CheckpointError(f"{path}: tensor '{key}' has shape {list(shape)}; a square number of rows is expected")
    return side


def _vae_base_width(path: Path, stored: dict[str, Stored]) -> int:
    key = "encoder.conv_in.weight"
    if VAE_PREFIX + key not in stored:
        raise CheckpointError(f"{path}: tensor '{key}' is missing; {UNDERSTAND_HINT}")
    width = stored[VAE_PREFIX + key].shape[0] if stored[VAE_PREFIX + key].shape else 0
    if not width or width % 32:
        raise CheckpointError(f"{path}: tensor '{key}' has {width} channels; a multiple of 32 is expected (group norm)")
    return width


def _match(path: Path, wanted: dict, stored: dict, config: BagelConfig, task: str, base_hint: str = ""):
    """Pair every wanted tensor with a stored one; sort the rest into known-unused, or refuse it."""
    missing = sorted(set(wanted) - set(stored))
    if missing:
        generation = all("_moe_gen" in k or k.startswith((*GENERATION_ROOTS, VAE_PREFIX)) for k in missing)
        hint = f"; {UNDERSTAND_HINT}" if generation and task == "full" else ""
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{path}: tensor '{missing[0].removeprefix(VAE_PREFIX)}' is missing{more}{hint}{base_hint}"
        )
    unused = tuple(sorted(set(stored) - set(wanted)))
    for name in unused:
        if not _known_unused(name, config, task):
            key, file = name.removeprefix(VAE_PREFIX), stored[name].file
            raise CheckpointError(f"{file}: tensor '{key}' is not part of the model that the configs describe")
    return {name: _source(name, stored[name], shape) for name, shape in wanted.items()}, unused


def _known_unused(name: str, config: BagelConfig, task: str) -> bool:
    dropped = f"vit_model.vision_model.encoder.layers.{config.vit.layers_used}."
    return (
        name.endswith(("._extra_state", "rotary_emb.inv_freq", "embeddings.position_ids"))
        or name.startswith((dropped, "vit_model.vision_model.head."))
        or (config.llm.tie_word_embeddings and name == LM_HEAD)
        or (task == "understand" and ("_moe_gen." in name or name.startswith(GENERATION_ROOTS)))
    )


def _source(name: str, stored: Stored, shape: tuple[int, ...]) -> SourceTensor:
    found = stored.shape
    if name == PATCH_EMBEDDING and len(found) == 4:
        out, channels, high, wide = found
        found = (out, high * wide * channels) if high == wide else found
    if found != shape:
        key = name.removeprefix(VAE_PREFIX)
        raise CheckpointError(
            f"{stored.file}: tensor '{key}' has shape {list(stored.shape)}, {list(shape)} is expected"
        )
    if stored.dtype not in DTYPES:
        raise CheckpointError(
            f"{stored.file}: tensor '{stored.key}' has type {stored.dtype}; allowed: {', '.join(DTYPES)}"
        )
    return SourceTensor(name, stored, shape)
