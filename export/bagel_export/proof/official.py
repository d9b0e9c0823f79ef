"""The official code, built from a checkout and a checkpoint the way its app builds it."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bagel_export.checkpoint.open import Checkpoint
from bagel_export.checkpoint.shards import VAE_WEIGHTS
from bagel_export.config import read_json
from bagel_rt.errors import InputError

FILES = ("inferencer.py", "modeling/bagel", "modeling/autoencoder.py", "modeling/qwen2", "data/transforms.py")
PREPARING = (  # the methods that make a call's tensors, all of them on the CPU
    "prepare_prompts",
    "prepare_vit_images",
    "prepare_vae_images",
    "prepare_vae_latent",
    "prepare_vae_latent_cfg",
    "prepare_start_tokens",
)
ON_CPU = ("padded_images", "packed_init_noises")


@dataclass(frozen=True)
class Official:
    """The official objects, ready to run."""

    inferencer: Any
    model: Any
    vae: Any


def load_official(checkout: Path, checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> Official:
    """Build the official model with a checkpoint's weights on a device; its VAE stays on the CPU in float32, as there.

    Raises InputError for a folder that is no checkout, and names what its imports miss.
    """
    for name in FILES:
        if not (checkout / name).exists():
            raise InputError(f"{checkout}: not a checkout of the official code: {name} is missing")
    with _importing(checkout) as load:
        bagel, coder = load("modeling.bagel"), load("modeling.autoencoder")
        inferencer, transforms = load("inferencer"), load("data.transforms")
        tokens, qwen = load("data.data_utils"), load("modeling.qwen2")
    folder, config = checkpoint.folder, checkpoint.config
    vae, vae_config = coder.load_ae(local_path=str(folder / VAE_WEIGHTS))
    llm = bagel.Qwen2Config.from_json_file(str(folder / "llm_config.json"))
    llm.qk_norm, llm.tie_word_embeddings = config.llm.qk_norm, False
    llm.layer_module, llm.vocab_size = config.llm.layer_module, config.llm.vocab_size
    vit = bagel.SiglipVisionConfig.from_json_file(str(folder / "vit_config.json"))
    vit.rope = False
    vit.num_hidden_layers -= 1
    whole = bagel.BagelConfig(
        visual_gen=True,
        visual_und=True,
        llm_config=llm,
        vit_config=vit,
        vae_config=vae_config,
        vit_max_num_patch_per_side=config.vit_max_num_patch_per_side,
        connector_act="gelu_pytorch_tanh",
        latent_patch_size=config.latent_patch_size,
        max_latent_size=config.max_latent_size,
    )
    with _parameters_on_meta():
        model = bagel.Bagel(bagel.Qwen2ForCausalLM(llm), bagel.SiglipVisionModel(vit), whole)
        model.vit_model.vision_model.embeddings.convert_conv2d_to_linear(vit, meta=True)
    _fill(model, checkpoint, device, dtype)
    _run_on(model, vae, device)
    tokenizer, new_token_ids, _ = tokens.add_special_tokens(qwen.Qwen2Tokenizer.from_pretrained(str(folder)))
    rules = checkpoint.vae_transform, checkpoint.vit_transform
    for_vae, for_vit = (transforms.ImageTransform(r.max_size, r.min_size, r.stride) for r in rules)
    built = inferencer.InterleaveInferencer(
        model=model,
        vae_model=vae,
        tokenizer=tokenizer,
        vae_transform=for_vae,
        vit_transform=for_vit,
        new_token_ids=new_token_ids,
    )
    return Official(built, model, vae)


def check_official_config(folder: Path) -> None:
    """Raise InputError where the official code cannot be built from a checkpoint that bagel-rt can read."""
    for name in ("llm_config.json", "vit_config.json", VAE_WEIGHTS):
        if not (folder / name).exists():
            raise InputError(f"{folder / name}: file not found; the official code needs it")
    if read_json(folder / "llm_config.json").get("tie_word_embeddings"):
        raise InputError(f"{folder / 'llm_config.json'}: 'tie_word_embeddings' is true; the official code unties them")


@contextlib.contextmanager
def _importing(checkout: Path) -> Iterator[Callable[[str], Any]]:
    """A function that imports the checkout's modules; what they need and is not installed is named."""

    def load(name: str) -> Any:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise InputError(
                f"{checkout}: importing {name} fails: {error}; install the official requirements.txt in this Python"
            ) from error

    sys.path.insert(0, str(checkout.resolve()))
    try:
        yield load
    finally:
        sys.path.remove(str(checkout.resolve()))


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules are built without memory for parameters; buffers, which no checkpoint holds, are computed as ever."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def _fill(model: nn.Module, checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> None:
    """Give a model its weights, one after the other; its buffers move to the device too."""
    tensors = checkpoint.by_parameter()
    state = {}
    for name in model.state_dict():
        if name not in tensors:
            raise InputError(f"{checkpoint.folder}: the official model asks for tensor '{name}', which is not there")
        state[name] = torch.from_numpy(tensors[name].array()).to(device, dtype)
    model.load_state_dict(state, assign=True)
    model.to(device).eval()


def _run_on(model: Any, vae: Any, device: str) -> None:
    """Bring what the preparing methods make to the model's device, as the app's accelerate hooks do.

    The VAE and the picture being drawn stay on the CPU, there as here: the schedule and the Euler steps follow them.
    """

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: v.to(device) if torch.is_tensor(v) and k not in ON_CPU else v for k, v in value.items()}
        return tuple(moved(part) for part in value) if isinstance(value, tuple) else value

    for name in PREPARING:
        prepare = getattr(model, name)
        setattr(model, name, lambda *args, prepare=prepare, **kwargs: moved(prepare(*args, **kwargs)))
    for module in (model.vae2llm, model.time_embedder):
        module.register_forward_pre_hook(lambda module, args: tuple(arg.to(device) for arg in args))
    vae.eval()
    home = next(vae.parameters())
    encode, decode = vae.encode, vae.decode
    vae.encode = lambda pixels: encode(pixels.to(home.device, home.dtype)).to(device)
    vae.decode = lambda latent: decode(latent.to(home.device, home.dtype))
