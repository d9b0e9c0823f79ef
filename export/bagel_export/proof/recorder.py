"""Records one run of the official code: its methods are wrapped to note what they take and give, and change nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bagel_export.proof.official import Official

MOST_CACHE = 384 << 20  # bytes of a context's keys and values that are kept; a longer context keeps its length
BRANCHES = {"cond": "past_key_values", "cfg_text": "cfg_text_past_key_values", "cfg_img": "cfg_img_past_key_values"}
VELOCITIES = ("v_cond", "v_text", "v_img")


class Recorder:
    """`arrays` and `events` of a run, in the layout of proof/records.py, filled while `listening` is open."""

    def __init__(self, official: Official):
        self._official = official
        self.arrays: dict[str, np.ndarray] = {}
        self.events: list[dict[str, Any]] = []
        self._passes = self._images = self._encodes = self._draws = self._texts = self._written = 0
        self._seen = False  # the connector has run, and its rows have not entered the decoder yet
        self._unpaired: list[int] | None = None  # ids of a prompt that entered cond and may enter cfg_img next
        self._logits: list[Tensor] | None = None  # a list while text is written
        self._velocities: list[Tensor] | None = None  # a list while a step is evaluated
        self._steps: dict[str, list[Tensor]] = {}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block every call of the official objects is recorded; afterwards they are as they were."""
        model, vae = self._official.model, self._official.vae
        with contextlib.ExitStack() as stack:
            for owner, name, wrapper in (
                (model, "prepare_prompts", self._prompts),
                (model, "prepare_vae_latent", self._initial_noise),
                (model, "generate_text", self._text),
                (model, "generate_image", self._image),
                (model, "_forward_flow", self._step),
                (model.language_model, "forward_inference", self._pass),
                (vae, "encode", self._encode),
                (vae, "decode", self._decode),
            ):
                stack.enter_context(_wrapped(owner, name, wrapper))
            for module, hook in (
                (model.vit_model, self._vit),
                (model.connector, self._connector),
                (vae.encoder, self._moments),
                (model.llm2vae, self._velocity),
                (model.language_model.lm_head, self._token),
            ):
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            yield

    def _keep(self, key: str, value: Any) -> None:
        self.arrays[key] = _array(value)

    def _draw(self, name: str, noise: Tensor) -> None:
        self._keep(f"noise{self._draws}.{name}", noise)
        self._draws += 1

    # Contexts

    def _prompts(self, call: Callable, *args: Any, **kwargs: Any) -> Any:
        made = call(*args, **kwargs)
        ids = made[0]["packed_text_ids"].tolist()
        if ids == self._unpaired:  # the same text on its way into cfg_img
            self._unpaired = None
        else:
            self._keep(f"text_ids{self._texts}", np.array(ids))
            self._unpaired, self._texts = ids, self._texts + 1
        return made

    def _pass(self, call: Callable, *args: Any, **kwargs: Any) -> Any:
        out = call(*args, **kwargs)
        if kwargs.get("update_past_key_values") and self._logits is None:
            name = f"ctx{self._passes:02d}"
            self._passes += 1
            self._keep(f"{name}.hidden_in", kwargs["packed_query_sequence"])
            self._keep(f"{name}.hidden_out", out.packed_query_sequence)
            self._keep(f"{name}.positions", kwargs["packed_query_position_ids"])
            said = {"mode": kwargs.get("mode", "und"), "is_causal": bool(kwargs["is_causal"])}
            lengths = {"query_lens": kwargs["query_lens"].tolist(), "past": kwargs["key_values_lens"].tolist()}
            self.events.append({"event": name, **said, **lengths})
            if self._seen:  # a ViT image between its two markers
                self._keep(f"vit{self._images - 1}.rows", kwargs["packed_query_sequence"][1:-1])
                self._seen = False
        return out

    def _cache(self, key: str, cache: Any) -> None:
        """A context's length, and its keys and values [layers, tokens, KV heads, dim] where they are not too large."""
        layers = [(cache.key_cache[i], cache.value_cache[i]) for i in sorted(cache.key_cache)]
        if any(k is None for k, _ in layers):
            self._keep(f"{key}.len", np.array(0))
            return
        self._keep(f"{key}.len", np.array(len(layers[0][0])))
        if 2 * len(layers) * layers[0][0].numel() * 4 <= MOST_CACHE:
            self._keep(f"{key}.k", torch.stack([k.float().cpu() for k, _ in layers]))
            self._keep(f"{key}.v", torch.stack([v.float().cpu() for _, v in layers]))

    # Encoders

    def _vit(self, module: Any, args: Any, kwargs: dict[str, Any], out: Tensor) -> None:
        self._keep(f"vit{self._images}.pixels", kwargs["packed_pixel_values"])
        self._keep(f"vit{self._images}.pos_ids", kwargs["packed_flattened_position_ids"])
        self._keep(f"vit{self._images}.out", out)

    def _connector(self, module: Any, args: Any, kwargs: dict[str, Any], out: Tensor) -> None:
        self._keep(f"vit{self._images}.connector", out)
        self._images += 1
        self._seen = True

    def _encode(self, call: Callable, pixels: Tensor) -> Tensor:
        self._keep(f"vae_encode{self._encodes}.in", pixels)
        with _wrapped(torch, "randn_like", self._encode_noise):
            latent = call(pixels)
        self._keep(f"vae_encode{self._encodes}.latent", latent)
        self._encodes += 1
        return latent

    def _encode_noise(self, call: Callable, *args: Any, **kwargs: Any) -> Tensor:
        noise = call(*args, **kwargs)
        self._draw("vae_encode_noise", noise)
        return noise

    def _moments(self, module: Any, args: Any, kwargs: dict[str, Any], out: Tensor) -> None:
        self._keep(f"vae_encode{self._encodes}.moments", out)

    # Text

    def _text(self, call: Callable, *args: Any, **kwargs: Any) -> Tensor:
        name = f"text{self._written}"
        self._cache(f"{name}.kv_before", kwargs["past_key_values"])
        self._logits = []
        ids = call(*args, **kwargs)
        logits, self._logits = torch.stack(self._logits), None
        self._keep(f"{name}.returned_ids", ids[:, 0])
        self._keep(f"{name}.logits", logits)
        self._keep(f"{name}.argmax", logits.argmax(dim=-1))
        self._written += 1
        return ids

    def _token(self, module: Any, args: Any, kwargs: dict[str, Any], out: Tensor) -> None:
        if self._logits is not None:
            self._logits.append(out[-1].float().cpu())

    # Pictures

    def _initial_noise(self, call: Callable, *args: Any, **kwargs: Any) -> Any:
        made = call(*args, **kwargs)
        self._draw("init_noise", made["packed_init_noises"])
        return made

    def _image(self, call: Callable, *args: Any, **kwargs: Any) -> Any:
        for branch, key in BRANCHES.items():
            self._cache(f"kv.{branch}", kwargs[key])
        latents = call(*args, **kwargs)
        self._keep("final_latent", latents[0])
        for key, values in self._steps.items():
            self._keep(f"flow.{key}", torch.stack(values))
        return latents

    def _step(self, call: Callable, *args: Any, **kwargs: Any) -> Tensor:
        self._velocities = []
        velocity = call(*args, **kwargs)
        rows, self._velocities = self._velocities, None
        x, t = kwargs["x_t"], kwargs["timestep"][0]
        scales = (float(kwargs["cfg_text_scale"]), float(kwargs["cfg_img_scale"]))
        ran = [True, scales[0] > 1, scales[1] > 1]  # the branches of a step, in the order they are run
        found = iter(rows)
        of = [next(found)[kwargs["packed_vae_token_indexes"]] if on else torch.full_like(x, torch.nan) for on in ran]
        kept = {
            "x_t": x,
            "t": t,
            "v": velocity,
            "scales": torch.tensor(scales),
            **dict(zip(VELOCITIES, of, strict=True)),
        }
        for key, value in kept.items():
            self._steps.setdefault(key, []).append(value.detach().float().cpu())
        return velocity

    def _velocity(self, module: Any, args: Any, kwargs: dict[str, Any], out: Tensor) -> None:
        if self._velocities is not None:
            self._velocities.append(out)

    def _decode(self, call: Callable, latent: Tensor) -> Tensor:
        pixels = call(latent)
        self._keep("vae_decode.in", latent)
        self._keep("vae_decode.out", pixels)
        return pixels


@contextlib.contextmanager
def _wrapped(owner: Any, name: str, wrapper: Callable) -> Iterator[None]:
    """`owner.name(...)` becomes wrapper(original, ...) within the block."""
    own, original = vars(owner).get(name), getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: wrapper(original, *args, **kwargs))
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def _array(value: Any) -> np.ndarray:
    """NumPy, in float32 where it was any float."""
    if not torch.is_tensor(value):
        return np.asarray(value)
    value = value.detach().cpu()
    return (value.float() if value.is_floating_point() else value).numpy().copy()
