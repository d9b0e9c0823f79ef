"""A checkpoint's parts, wherever they lie: in what was named, or where that has none of them in the base below it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from bagel_export.checkpoint.key_roots import without_root
from bagel_export.checkpoint.packings import comfyui
from bagel_export.checkpoint.packings.packed import Stored
from bagel_export.checkpoint.packings.unpack import read_unpacked
from bagel_export.checkpoint.shards import VAE_WEIGHTS
from bagel_export.checkpoint.sources import Source
from bagel_export.config import LLMConfig, ViTConfig, read_model_configs
from bagel_rt.errors import CheckpointError

GENERATION_ROOTS = ("time_embedder.", "vae2llm.", "llm2vae.", "latent_pos_embed.")
ROOTS = ("language_model.", "vit_model.", "connector.", "vit_pos_embed.", *GENERATION_ROOTS)
VAE_ROOTS = ("encoder.", "decoder.")
VAE_HOLDERS = ("vae.", "vae_model.", "first_stage_model.")  # before the VAE's names in a file that holds all parts
MODEL_CONFIGS = ("llm_config.json", "vit_config.json", "config.json")
WHOLE_HINT = ", or name a whole checkpoint that has it with --base"
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


@dataclass(frozen=True)
class Weights:
    """The tensors of one part of the model by the reference model's names, and the file to name in complaints."""

    path: Path
    stored: dict[str, Stored]


@dataclass(frozen=True)
class VaeWeights:
    """Where the VAE's tensors are: among the model's, or in a file of their own, not read before it is needed."""

    path: Path
    inside: dict[str, Stored] | None = None

    def read(self) -> Weights:
        if self.inside is not None:
            return Weights(self.path, self.inside)
        return Weights(self.path, without_root(self.path, read_unpacked(self.path), VAE_ROOTS))


def read_weights_of(source: Source) -> tuple[Weights, VaeWeights | None]:
    """The tensors of the model and the place of its VAE: a checkpoint's own, and those of its base where it has none.

    Headers are read, values are not. The VAE is looked for among the weights, then in ae.safetensors; None when it is
    nowhere. Raises CheckpointError naming file and key.
    """
    path = source.find_weights()
    model, inside = _split(path, read_unpacked(path))
    vae = VaeWeights(path, inside) if inside else VaeWeights(source.folder / VAE_WEIGHTS)
    vae = vae if vae.path.exists() else None
    if source.base is None:
        return Weights(path, model), vae
    below, below_vae = read_weights_of(source.base)
    return Weights(path, below.stored | model), vae or below_vae


def _split(path: Path, stored: dict[str, Stored]) -> tuple[dict[str, Stored], dict[str, Stored]]:
    """A weight file's tensors, the model's and the VAE's, each without what stands before their names."""
    vae = {key for key in stored if key.startswith((*VAE_HOLDERS, *VAE_ROOTS))}
    if not vae:
        return without_root(path, stored, ROOTS), {}
    apart = {key: tensor for key, tensor in stored.items() if key in vae}
    rest = {key: tensor for key, tensor in stored.items() if key not in vae}
    return without_root(path, rest, ROOTS), without_root(path, apart, VAE_ROOTS)


def read_configs(source: Source) -> tuple[LLMConfig, ViTConfig]:
    """The configs of a checkpoint, or of its base where it has none; the form of the layers is always the base's, whose
    tensors fill in for those that are not there. Raises CheckpointError."""
    own = _own_configs(source)
    if source.base is None:
        return own or _refuse_without_configs(source)
    below = read_configs(source.base)
    return (replace(own[0], layer_module=below[0].layer_module), own[1]) if own else below


def _refuse_without_configs(source: Source) -> NoReturn:
    raise CheckpointError(
        f"{source.folder / MODEL_CONFIGS[0]}: file not found; a BAGEL checkpoint has {MODEL_CONFIGS[0]} and"
        f" {MODEL_CONFIGS[1]}{WHOLE_HINT}"
    )


def _own_configs(source: Source) -> tuple[LLMConfig, ViTConfig] | None:
    """The folder's, else those that the weight file itself carries."""
    if any((source.folder / name).exists() for name in MODEL_CONFIGS):
        return read_model_configs(source.folder)
    return comfyui.carried_configs(source.find_weights())


def folder_with(source: Source, names: Iterable[str]) -> Path:
    """The folder that has one of these files: the checkpoint's own first; its own, too, when none has."""
    names = list(names)
    for found in (source, source.base):
        if found is not None and any((found.folder / name).is_file() for name in names):
            return found.folder
    return source.folder
