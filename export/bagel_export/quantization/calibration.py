"""What the weights of a checkpoint multiply: one pass over example texts and pictures, a layer in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from bagel_export.checkpoint.open import EMBEDDING, LM_HEAD, Checkpoint
from bagel_export.reference.bagel import BagelModel
from bagel_export.reference.language import DecoderLayer, rope_tables
from bagel_export.reference.masks import from_splits, packed_attention
from bagel_export.reference.streamed import Streamed
from bagel_export.reference.vae import DOWNSAMPLE
from bagel_rt.errors import ExportError
from bagel_rt.files.text_files import read_text
from bagel_rt.inputs.images import patchify, position_ids

PROMPTS = (
    "a red circle above a blue square on a white background",
    "a photo of two dogs running on a beach at sunset, waves behind them",
    "an oil painting of a harbour in the rain, umbrellas, reflections of yellow lamps on wet stone",
    "a cup of coffee and an open book on a wooden table, morning light, shallow depth of field",
    "three green apples and one pear in a bowl",
    "the words GOOD MORNING written on a blackboard with white chalk",
    "一只橘猫坐在窗台上，窗外下着雪",
    "a map of an imaginary island with mountains, forests and a river, drawn in ink",
    "make the sky purple and remove the car on the left",
    "What is shown in this picture? Answer in one sentence.",
    "How many people are there, and what are they wearing?",
    "请描述这张图片中的物体以及它们的位置关系。",
    "You should first think about the planning process in the mind and then generate the image.",
    "<think>The user asks for as many balloons as a cat has legs. A cat has four legs, so there are four balloons,"
    " each of another colour, against a clear sky.</think>",
    "a robot repairing a bicycle in a small workshop, tools on the wall, comic style",
    "The picture shows a street with tall buildings on both sides; a bus is waiting at a crossing.",
)
TIMES = (0.97, 0.9, 0.75, 0.55, 0.35, 0.15)  # times (1 is noise) of the noisy latents, one for each prompt in turn
LARGEST_GRID = 12  # an example picture has at most so many latents along a side
PICTURES = 4


@dataclass
class Range:
    """What one weight multiplied: over `rows` rows, the largest absolute value and the mean square of each input."""

    largest: np.ndarray
    mean_square: np.ndarray
    rows: int = 0

    def add(self, x: np.ndarray) -> None:
        self.largest = np.maximum(self.largest, np.abs(x).max(axis=0))
        total = self.rows + len(x)
        self.mean_square = (self.mean_square * self.rows + np.square(x, dtype=np.float64).sum(axis=0)) / total
        self.rows = total


def read_prompts(path: Path) -> tuple[str, ...]:
    """One prompt a line, empty lines left out. Raises ExportError naming the file."""
    lines = read_text(path, ExportError).split("\n")
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise ExportError(f"{path}: holds no prompt; give a file with one prompt a line")
    return found


def calibrate(
    checkpoint: Checkpoint, tokenizer: Tokenizer, special_ids: dict[str, int], prompts: Sequence[str] = PROMPTS
) -> Generator[tuple[int, int], None, dict[str, Range]]:
    """Yield (layers done, layers); return the ranges by the name of the weight.

    Every prompt is read as text before noisy latents; a few plain pictures are read as clean latents and by the ViT.
    """
    model, ranges = checkpoint.meta_model(), {}
    with torch.no_grad(), Streamed(model, checkpoint.by_parameter()), _Listening(model, ranges):
        batch = _Batch(checkpoint, model, tokenizer, special_ids)
        for i, prompt in enumerate(prompts):
            batch.drawing(prompt, TIMES[i % len(TIMES)])
        for picture in _pictures(batch.side):
            batch.reading(picture)
        last = yield from batch.run()
    # the head's range is noted without running it: in float32 its weights take 2 GiB
    ranges[LM_HEAD] = Range(np.zeros(last.shape[1], "f4"), np.zeros(last.shape[1]))
    ranges[LM_HEAD].add(last)
    return ranges


class _Batch:
    """Example sequences packed one behind the other: the rows for the understanding and for the generation expert."""

    def __init__(self, checkpoint: Checkpoint, model: BagelModel, tokenizer: Tokenizer, special_ids: dict[str, int]):
        self._checkpoint, self._model, self._tokenizer, self._ids = checkpoint, model, tokenizer, special_ids
        config = checkpoint.config
        self._draws = config.visual_gen
        self.side = min(LARGEST_GRID, config.max_latent_size if self._draws else config.vit_max_num_patch_per_side)
        self._random = torch.Generator().manual_seed(0)
        self._rows: list[Tensor] = []
        self._gen: list[bool] = []
        self._positions: list[int] = []
        self._samples: list[int] = []
        self._splits: list[tuple[int, str]] = []

    def drawing(self, prompt: str, time: float) -> None:
        """A prompt, and latents of a picture that is still mostly noise or mostly there."""
        parts = [self._text(prompt)]
        if self._draws:
            latents = torch.randn(self.side**2, self._checkpoint.config.latent_width, generator=self._random)
            parts.append(self._latents(latents, time, "noise"))
        self._add(parts)

    def reading(self, picture: np.ndarray) -> None:
        """A picture (side * 16, side * 16, 3) in 0..1 as the VAE and as the ViT sees it."""
        pixels = (2 * picture - 1).transpose(2, 0, 1).astype(np.float32)
        parts = []
        if self._draws:
            vae = self._checkpoint.meta_vae()
            tensors = {k.removeprefix("vae."): v for k, v in self._checkpoint.tensors.items() if k.startswith("vae.")}
            with Streamed(vae, tensors):
                latent = vae.encode(torch.from_numpy(pixels)[None], torch.zeros(()))[0].numpy()
            rows = torch.from_numpy(patchify(latent, self._checkpoint.config.latent_patch_size))
            parts.append(self._latents(rows, 0.0, "full"))
        parts.append(self._patches(pixels))
        self._add(parts)

    def run(self) -> Generator[tuple[int, int], None, np.ndarray]:
        """Yields (layers done, layers); returns rows (n, hidden) that the language model's head multiplies."""
        llm, stack = self._checkpoint.config.llm, self._model.language_model.model
        rows, is_gen = torch.cat(self._rows), torch.tensor(self._gen)
        und, gen = torch.nonzero(~is_gen)[:, 0], torch.nonzero(is_gen)[:, 0]
        lengths, modes = zip(*self._splits, strict=True)
        attention = packed_attention(from_splits(self._samples, lengths, modes), und, gen, len(rows))
        cos, sin = rope_tables(torch.tensor(self._positions), llm.head_dim, llm.rope_theta)
        of_und, of_gen = rows[und], rows[gen]
        ropes = (cos[und], sin[und]), (cos[gen], sin[gen])
        for i, layer in enumerate(stack.layers):
            assert isinstance(layer, DecoderLayer)
            yield i, len(stack.layers)
            if len(gen):
                of_und, of_gen = layer.packed(of_und, of_gen, *ropes, attention)
            else:
                of_und, _ = layer.packed(of_und, of_gen, *ropes, attention)
        yield len(stack.layers), len(stack.layers)
        return stack.final_norm(of_und[-8:], gen=False).numpy()

    def _add(self, parts: list[tuple[Tensor, list[bool], str, bool]]) -> None:
        position = 0
        for rows, gen, mode, is_image in parts:
            self._rows.append(rows)
            self._gen += gen
            count = len(rows)
            self._positions += [position] * count if is_image else range(position, position + count)
            position += 1 if is_image else count
            self._splits.append((count, mode))
        self._samples.append(sum(len(rows) for rows, *_ in parts))

    def _text(self, text: str) -> tuple[Tensor, list[bool], str, bool]:
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        rows = self._embedded([self._ids["im_start"], *ids, self._ids["im_end"]])
        return rows, [False] * len(rows), "causal", False

    def _latents(self, latents: Tensor, time: float, mode: str) -> tuple[Tensor, list[bool], str, bool]:
        side = math.isqrt(len(latents))
        places = torch.from_numpy(position_ids((side, side), self._checkpoint.config.max_latent_size))
        start, end = self._markers()
        rows = torch.cat([start, self._model.embed_latents(latents, torch.tensor([time]), places), end])
        return rows, [False, *[True] * len(latents), False], mode, True

    def _patches(self, pixels: np.ndarray) -> tuple[Tensor, list[bool], str, bool]:
        vit = self._checkpoint.config.vit
        side = min(self.side, self._checkpoint.config.vit_max_num_patch_per_side)
        cut = pixels[:, : side * vit.patch_size, : side * vit.patch_size]
        places = torch.from_numpy(position_ids((side, side), self._checkpoint.config.vit_max_num_patch_per_side))
        seen = self._model.embed_patches(torch.from_numpy(patchify(cut, vit.patch_size)), places)
        start, end = self._markers()
        rows = torch.cat([start, seen, end])
        return rows, [False] * len(rows), "full", True

    def _markers(self) -> tuple[Tensor, Tensor]:
        start, end = self._embedded([self._ids["vision_start"], self._ids["vision_end"]]).split(1)
        return start, end

    def _embedded(self, ids: list[int]) -> Tensor:
        """Rows of the embedding table; the table itself is not read."""
        return torch.from_numpy(self._checkpoint.tensors[EMBEDDING].picked(ids))


class _Listening:
    """Within this block the range of what every Linear of a module multiplies is recorded."""

    def __init__(self, module: nn.Module, ranges: dict[str, Range]):
        self._module, self._ranges, self._handles = module, ranges, []

    def __enter__(self) -> None:
        for name, part in self._module.named_modules():
            if isinstance(part, nn.Linear):
                self._handles.append(part.register_forward_pre_hook(self._note(f"{name}.weight", part.in_features)))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, name: str, inputs: int):
        def hook(_part: nn.Module, args: tuple[Tensor, ...]) -> None:
            if len(x := args[0].reshape(-1, inputs).numpy()):
                self._ranges.setdefault(name, Range(np.zeros(inputs, "f4"), np.zeros(inputs))).add(x)

        return hook


def _pictures(side: int) -> Iterator[np.ndarray]:
    """Plain pictures of side * 16 pixels: soft colours, edges, and a little texture."""
    random, size = np.random.default_rng(0), side * 2 * DOWNSAMPLE
    y, x = np.mgrid[0:size, 0:size] / size
    for _ in range(PICTURES):
        waves = random.uniform(0.5, 6, (3, 2)), random.uniform(0, 2 * math.pi, 3)
        picture = np.stack([0.5 + 0.4 * np.sin(a * 6 * x + b * 6 * y + p) for (a, b), p in zip(*waves, strict=True)], 2)
        for _ in range(3):
            (cx, cy), radius, colour = random.random(2), random.uniform(0.1, 0.3), random.random(3)
            picture[np.hypot(x - cx, y - cy) < radius] = colour
        yield np.clip(picture + random.normal(0, 0.03, picture.shape), 0, 1)
