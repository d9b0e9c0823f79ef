"""The reference's side of a proof: a case run in PyTorch, every stage kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import psutil
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from bagel_export.checkpoint.open import VAE_PREFIX, Checkpoint
from bagel_export.checkpoint.tensors import SourceTensor
from bagel_export.checkpoint.tokenizer import load_tokenizer
from bagel_export.proof.cases import Case, Trace
from bagel_export.reference.bagel import BagelModel
from bagel_export.reference.inference import TorchContext, TorchInference
from bagel_export.reference.sampling import guided, scales, schedule
from bagel_export.reference.streamed import Streamed
from bagel_export.reference.vae import AutoEncoder
from bagel_rt.artefact.manifest import SPECIAL_TOKENS
from bagel_rt.errors import InputError
from bagel_rt.inputs.images import patchify, position_ids, resize, to_image, to_pixels, unpatchify
from bagel_rt.inputs.pictures import open_image
from bagel_rt.inputs.system_prompts import THINK_THEN_ANSWER, THINK_THEN_DRAW

BRANCHES = {"cond": "v_cond", "cfg_text": "v_text", "cfg_img": "v_img"}  # contexts, and their velocities' keys


class Reference:
    """A checkpoint in PyTorch, float32, on the CPU."""

    def __init__(self, checkpoint: Checkpoint, model: BagelModel, vae: AutoEncoder | None):
        self.checkpoint, self.model, self.vae = checkpoint, model, vae
        self.tokenizer: Tokenizer
        self.tokenizer, ids = load_tokenizer(checkpoint.tokenizer, checkpoint.config.llm.vocab_size)
        self.run = TorchInference(model, **ids)
        self._im_start, self._im_end = ids["im_start"], ids["im_end"]

    def ids(self, text: str) -> list[int]:
        """A text segment's ids."""
        return [self._im_start, *self.tokenizer.encode(text, add_special_tokens=False).ids, self._im_end]

    def text(self, ids: list[int]) -> str:
        """The official reading of generated ids."""
        whole = self.tokenizer.decode(ids, skip_special_tokens=False).split(SPECIAL_TOKENS["im_end"])[0]
        return whole.split(SPECIAL_TOKENS["im_start"])[1]

    def trace(self, case: Case) -> Trace:
        """Run a case; what every stage took and gave."""
        with torch.no_grad():
            return _Run(self, case).trace()


@contextlib.contextmanager
def opened(checkpoint: Checkpoint, layers: bool) -> Iterator[Reference]:
    """The reference with its weights in memory, or with `layers` read from the checkpoint layer by layer as it runs.

    Raises InputError when the weights do not fit in memory.
    """
    model = checkpoint.meta_model()
    vae = checkpoint.meta_vae() if checkpoint.task == "full" else None
    tensors = checkpoint.by_parameter()
    vae_tensors = {k.removeprefix(VAE_PREFIX): t for k, t in tensors.items() if k.startswith(VAE_PREFIX)}
    with contextlib.ExitStack() as stack:
        if layers:
            stack.enter_context(Streamed(model, tensors))
            if vae is not None:
                stack.enter_context(Streamed(vae, vae_tensors))
        else:
            _check_memory(checkpoint)
            _fill(model, tensors)
            if vae is not None:
                _fill(vae, vae_tensors)
        yield Reference(checkpoint, model, vae)


def _check_memory(checkpoint: Checkpoint) -> None:
    needed = sum(4 * tensor.stored.count for tensor in checkpoint.tensors.values())
    free = psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"{checkpoint.folder}: the reference needs {needed / 2**30:.1f} GiB of memory in float32,"
            f" {free / 2**30:.1f} GiB are free; use --layers to stream it layer by layer"
        )


def _fill(module: nn.Module, tensors: Mapping[str, SourceTensor]) -> None:
    """Give a meta module its weights; a tensor that two parameters share is read once."""
    read: dict[str, Tensor] = {}
    state = {}
    for name in module.state_dict():
        source = tensors[name]
        if source.name not in read:
            read[source.name] = torch.from_numpy(source.array())
        state[name] = read[source.name]
    module.load_state_dict(state, assign=True)


class _Run:
    """One case, walked as the official code does; equal passes over one context are computed once."""

    def __init__(self, reference: Reference, case: Case):
        self._ref, self._case, self._out = reference, case, Trace()
        self._random = torch.Generator().manual_seed(int(case.options["seed"]) & 0xFFFFFFFFFFFFFFFF)
        self._cond = self._cfg_text = self._cfg_img = reference.run.empty()
        # by id() of a context; the context is kept too, so that no other object can get its id
        self._passes: dict[tuple[int, tuple[int, ...]], tuple[TorchContext, TorchContext]] = {}
        self._texts = self._images = self._draws = 0
        self._size: tuple[int, int] | None = None

    def trace(self) -> Trace:
        case = self._case
        if case.think:
            self._text(THINK_THEN_ANSWER if case.output == "text" else THINK_THEN_DRAW)
        for item in case.items:
            if isinstance(item, str):
                self._cfg_text = self._cond
                self._text(item)
            else:
                self._image(item)
        if case.output == "text" or case.think:
            written = self._write()
            if case.output == "text":
                return self._out
            self._cond = self._prefill(self._cond, self._ids(written))
        for branch in BRANCHES:
            self._keep_cache(f"kv.{branch}", getattr(self, f"_{branch}"))
        self._draw()
        return self._out

    def _ids(self, text: str) -> tuple[int, ...]:
        ids = self._ref.ids(text)
        self._out[f"text_ids{self._texts}"] = np.array(ids)
        self._texts += 1
        return tuple(ids)

    def _text(self, text: str) -> None:
        ids = self._ids(text)
        self._cond, self._cfg_img = self._prefill(self._cond, ids), self._prefill(self._cfg_img, ids)

    def _prefill(self, context: TorchContext, ids: tuple[int, ...]) -> TorchContext:
        key = (id(context), ids)
        if key not in self._passes:
            self._passes[key] = context, self._ref.run.text(context, list(ids))[0]
        return self._passes[key][1]

    def _image(self, image: np.ndarray) -> None:
        checkpoint, model, n = self._ref.checkpoint, self._ref.model, self._images
        picture = resize(checkpoint.vae_transform, open_image(image))
        self._size = (picture.height, picture.width)
        if self._case.output == "image":
            self._cond = self._latents(to_pixels(picture))
        pixels = to_pixels(resize(checkpoint.vit_transform, picture))
        patch = checkpoint.config.vit.patch_size
        grid = (pixels.shape[1] // patch, pixels.shape[2] // patch)
        patches = torch.from_numpy(patchify(pixels, patch))
        ids = torch.from_numpy(position_ids(grid, checkpoint.config.vit_max_num_patch_per_side))
        features = model.vit_model(patches, ids)
        connected = model.connector(features)
        self._keep(f"vit{n}.pixels", patches)
        self._keep(f"vit{n}.out", features)
        self._keep(f"vit{n}.connector", connected)
        self._keep(f"vit{n}.rows", connected + model.vit_pos_embed(ids))
        self._cond, _ = self._ref.run.patches(self._cond, patches, ids)
        self._cfg_text = self._cond
        self._images += 1

    def _latents(self, pixels: np.ndarray) -> TorchContext:
        """The context with an image as the VAE sees it."""
        config, vae, n = self._ref.checkpoint.config, self._ref.vae, self._images
        assert vae is not None
        batch = torch.from_numpy(pixels)[None]
        moments = vae.encoder(batch)
        shape = (1, config.latent_channels, *moments.shape[2:])
        drawn = self._case.image_options.vae_sample
        latent = vae.sample(moments, self._noise("vae_encode_noise", *shape) if drawn else torch.zeros(shape))
        for key, value in (("in", batch), ("moments", moments), ("latent", latent)):
            self._keep(f"vae_encode{n}.{key}", value)
        rows = patchify(latent[0].numpy(), config.latent_patch_size)
        grid = tuple(side // config.latent_patch_size for side in latent.shape[2:])
        ids = position_ids((grid[0], grid[1]), config.max_latent_size)
        return self._ref.run.latents(self._cond, torch.from_numpy(rows), torch.from_numpy(ids))[0]

    def _noise(self, name: str, *shape: int) -> Tensor:
        noise = torch.randn(*shape, generator=self._random)
        self._keep(f"noise{self._draws}.{name}", noise)
        self._draws += 1
        return noise

    def _write(self) -> str:
        self._keep_cache("text0.kv_before", self._cond)
        ids, logits = self._ref.run.write(self._cond, self._case.text_options.max_tokens)
        self._out["text0.returned_ids"] = np.array(ids)
        self._keep("text0.logits", torch.stack(logits))
        return self._ref.text(ids)

    def _draw(self) -> None:
        config, options = self._ref.checkpoint.config, self._case.image_options
        largest = self._ref.checkpoint.vae_transform.max_size
        height, width = self._size or (largest, largest)
        stride = 8 * config.latent_patch_size
        grid = ((options.height or height) // stride, (options.width or width) // stride)
        ids = torch.from_numpy(position_ids(grid, config.max_latent_size))
        x = self._noise("init_noise", grid[0] * grid[1], config.latent_width)
        times = schedule(options.num_timesteps, options.timestep_shift)
        kept: dict[str, list[Tensor]] = {key: [] for key in ("x_t", "t", "v", *BRANCHES.values())}
        for t, after in pairwise(times):
            of = self._velocities(x, t, ids)
            missing = torch.full_like(x, torch.nan)
            v = guided(of["v_cond"], of.get("v_text"), of.get("v_img"), options, t)
            for key, value in (("x_t", x), ("t", t), ("v", v), *((k, of.get(k, missing)) for k in BRANCHES.values())):
                kept[key].append(value)
            x = x - v * (t - after)
        for key, values in kept.items():
            self._keep(f"flow.{key}", torch.stack(values))
        self._keep("final_latent", x)
        self._decode(x, grid)

    def _velocities(self, x: Tensor, t: Tensor, ids: Tensor) -> dict[str, Tensor]:
        text, image = scales(self._case.image_options, t)
        wanted = {"cond": True, "cfg_text": text > 1, "cfg_img": text > 1 and image > 1}
        found: dict[int, Tensor] = {}  # branches over one context share a velocity
        of = {}
        for branch in (branch for branch, run in wanted.items() if run):
            context: TorchContext = getattr(self, f"_{branch}")
            if id(context) not in found:
                found[id(context)] = self._ref.run.velocity(context, x, float(t), ids)
            of[BRANCHES[branch]] = found[id(context)]
        return of

    def _decode(self, x: Tensor, grid: tuple[int, int]) -> None:
        assert self._ref.vae is not None
        planes = torch.from_numpy(unpatchify(x.numpy(), grid, self._ref.checkpoint.config.latent_patch_size))[None]
        pixels = self._ref.vae.decode(planes)
        self._keep("vae_decode.in", planes)
        self._keep("vae_decode.out", pixels)
        self._out["image"] = np.asarray(to_image(pixels[0].numpy()))

    def _keep(self, key: str, value: Tensor) -> None:
        self._out[key] = value.numpy().copy()

    def _keep_cache(self, key: str, context: TorchContext) -> None:
        self._out[f"{key}.len"] = np.array(context.length)
        self._keep(f"{key}.k", torch.stack(context.keys))
        self._keep(f"{key}.v", torch.stack(context.values))
