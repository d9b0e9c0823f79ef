"""Model configuration as the checkpoint states it. A missing key is an error that names the file and the key."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from bagel_rt.errors import CheckpointError
from bagel_rt.files import text_files

DecoderForm = Literal["Qwen2MoTDecoderLayer", "Qwen2MoEDecoderLayer", "Qwen2DecoderLayer"]
DECODER_FORMS: tuple[DecoderForm, ...] = ("Qwen2MoTDecoderLayer", "Qwen2MoEDecoderLayer", "Qwen2DecoderLayer")
Config = TypeVar("Config")
# greatest size and greatest number of layers that are believed: with more, a config is damaged, and building the model
# would run out of memory or never end
MOST, MOST_LAYERS = 1 << 24, 1000


def read_json(path: Path) -> Any:
    """Parse a JSON file, or say which file is not JSON and where it breaks."""
    return text_files.read_json(path, CheckpointError)


class _Section:
    """Typed look-ups in one JSON object, with the file named in every complaint."""

    def __init__(self, path: Path, values: Any, prefix: str = ""):
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{path}: {prefix.rstrip('.') or 'the top level'} must be an object")
        self.path, self.values, self.prefix = path, values, prefix

    def _get(self, key: str, default: Any, kinds: tuple[type, ...], what: str) -> Any:
        value = self.values.get(key)
        if value is None:
            if default is None:
                raise CheckpointError(
                    f"{self.path}: key '{self.prefix}{key}' is missing; add it with the model's value"
                )
            return default
        if isinstance(value, bool) != (kinds == (bool,)) or not isinstance(value, kinds):
            raise CheckpointError(f"{self.path}: key '{self.prefix}{key}' is {value!r}; {what} is expected")
        return value

    def integer(self, key: str, default: int | None = None, most: int = MOST) -> int:
        value = self._get(key, default, (int,), "a positive integer")
        if not 1 <= value <= most:
            limit = f" up to {most}" if value > most else ""
            raise CheckpointError(
                f"{self.path}: key '{self.prefix}{key}' is {value}; a positive integer{limit} is expected"
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default, (int, float), "a positive number")
        if not 0 < value <= sys.float_info.max:
            raise CheckpointError(f"{self.path}: key '{self.prefix}{key}' is {value}; a positive number is expected")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        return self._get(key, default, (bool,), "true or false")

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        value = self._get(key, default, (str,), f"one of {', '.join(allowed)}")
        if value not in allowed:
            raise CheckpointError(f"{self.path}: key '{self.prefix}{key}' is {value!r}; allowed: {', '.join(allowed)}")
        return value

    def build(self, kind: type[Config], **values: Any) -> Config:
        """The config of these values; what does not go together is named with the file."""
        try:
            return kind(**values)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from None


@dataclass(frozen=True)
class SparseExperts:
    """A generation expert whose MLPs are in pieces, some of them picked for each row by a router.

    layers: which have one; count: pieces; top_k: how many are picked; piece, shared: inner widths, shared 0 for none.
    """

    layers: tuple[int, ...]
    count: int
    top_k: int
    piece: int
    shared: int


@dataclass(frozen=True)
class LLMConfig:
    """The Qwen2 decoder; field names are llm_config.json's."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    layer_module: DecoderForm = "Qwen2MoTDecoderLayer"
    qk_norm: bool = True
    tie_word_embeddings: bool = False
    top_k: int | None = None  # with `sparse`; other configs may have a key of that name for sampling
    sparse: SparseExperts | None = None  # as the stored tensors have it (checkpoint/sparse.py)

    def __post_init__(self) -> None:
        _divides(self.num_attention_heads, self.hidden_size, "num_attention_heads", "hidden_size")
        _divides(self.num_key_value_heads, self.num_attention_heads, "num_key_value_heads", "num_attention_heads")
        if self.head_dim % 2:
            raise CheckpointError(
                f"head size {self.head_dim} (hidden_size / num_attention_heads) must be even for RoPE"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @staticmethod
    def parse(path: Path, values: Any, prefix: str = "") -> LLMConfig:
        get = _Section(path, values, prefix)
        get.choice("hidden_act", ("silu",))
        config = get.build(
            LLMConfig,
            hidden_size=get.integer("hidden_size"),
            intermediate_size=get.integer("intermediate_size"),
            num_hidden_layers=get.integer("num_hidden_layers", most=MOST_LAYERS),
            num_attention_heads=get.integer("num_attention_heads"),
            num_key_value_heads=get.integer("num_key_value_heads"),
            vocab_size=get.integer("vocab_size"),
            max_position_embeddings=get.integer("max_position_embeddings"),
            rms_norm_eps=get.number("rms_norm_eps"),
            rope_theta=get.number("rope_theta"),
            layer_module=get.choice("layer_module", DECODER_FORMS, "Qwen2MoTDecoderLayer"),
            qk_norm=get.flag("qk_norm", True),
            tie_word_embeddings=get.flag("tie_word_embeddings", False),
            top_k=get.values.get("top_k"),
        )
        stated = get.values.get("head_dim")
        if stated is not None and stated != config.head_dim:
            raise CheckpointError(
                f"{path}: key '{prefix}head_dim' is {stated}; BAGEL uses hidden_size / num_attention_heads"
                f" = {config.head_dim}"
            )
        return config


@dataclass(frozen=True)
class ViTConfig:
    """The SigLIP-NaViT tower; num_hidden_layers is the config's count, of which the last layer is not built."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    patch_size: int
    image_size: int
    num_channels: int = 3
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        _divides(self.num_attention_heads, self.hidden_size, "vit num_attention_heads", "vit hidden_size")
        _divides(self.patch_size, self.image_size, "vit patch_size", "vit image_size")
        if self.num_hidden_layers < 2:
            raise CheckpointError("vit num_hidden_layers must be at least 2: BAGEL drops the last layer")

    @property
    def layers_used(self) -> int:
        """BAGEL takes the penultimate layer's output: one layer fewer than the config says."""
        return self.num_hidden_layers - 1

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @staticmethod
    def parse(path: Path, values: Any, prefix: str = "") -> ViTConfig:
        get = _Section(path, values, prefix)
        get.choice("hidden_act", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
        if get.flag("rope", False):
            raise CheckpointError(f"{path}: key '{prefix}rope' is true; only the ViT without RoPE is supported (false)")
        if get.integer("num_channels", 3) != 3:
            raise CheckpointError(f"{path}: key '{prefix}num_channels' is {values['num_channels']}; allowed: 3")
        return get.build(
            ViTConfig,
            hidden_size=get.integer("hidden_size"),
            intermediate_size=get.integer("intermediate_size"),
            num_hidden_layers=get.integer("num_hidden_layers", most=MOST_LAYERS),
            num_attention_heads=get.integer("num_attention_heads"),
            patch_size=get.integer("patch_size"),
            image_size=get.integer("image_size"),
            layer_norm_eps=get.number("layer_norm_eps", 1e-6),
        )


@dataclass(frozen=True)
class BagelConfig:
    """Everything needed to build the reference model. Sizes that only the stored tensors know are fields too."""

    llm: LLMConfig
    vit: ViTConfig
    max_latent_size: int = 64
    vit_max_num_patch_per_side: int = 70
    latent_patch_size: int = 2
    latent_channels: int = 16
    vae_base_width: int = 128
    visual_gen: bool = True
    timestep_shift: float = 1.0

    @property
    def latent_width(self) -> int:
        """Numbers in one latent token: patch x patch x channels."""
        return self.latent_patch_size**2 * self.latent_channels

    @property
    def patch_width(self) -> int:
        """Numbers in one ViT patch."""
        return self.vit.patch_size**2 * self.vit.num_channels

    def override(self, **values: Any) -> BagelConfig:
        """A copy with other top-level fields; an unknown name is refused."""
        known = {f.name for f in fields(self)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise CheckpointError(f"unknown config field {unknown[0]!r}; known: {', '.join(sorted(known))}")
        return BagelConfig(**{**{name: getattr(self, name) for name in known}, **values})


def _divides(part: int, whole: int, part_name: str, whole_name: str) -> None:
    if whole % part:
        raise CheckpointError(f"{whole_name} {whole} is not a multiple of {part_name} {part}")


def read_model_configs(folder: Path) -> tuple[LLMConfig, ViTConfig]:
    """llm_config.json and vit_config.json; config.json's sections only where both files are absent."""
    llm_path, vit_path, both = folder / "llm_config.json", folder / "vit_config.json", folder / "config.json"
    if llm_path.exists() or vit_path.exists():
        return LLMConfig.parse(llm_path, read_json(llm_path)), ViTConfig.parse(vit_path, read_json(vit_path))
    if not both.exists():
        raise CheckpointError(f"{llm_path}: file not found; a BAGEL checkpoint has llm_config.json and vit_config.json")
    values = _Section(both, read_json(both)).values
    for key in ("llm_config", "vit_config"):
        if key not in values:
            raise CheckpointError(f"{both}: key '{key}' is missing (and there is no {key}.json)")
    return (
        LLMConfig.parse(both, values["llm_config"], "llm_config."),
        ViTConfig.parse(both, values["vit_config"], "vit_config."),
    )
