"""What is read becomes segments, with graphs that compute something simple: sizes, noise, order, refusals."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sizes import dims

import bagel_rt
from bagel_engines import EngineInfo
from bagel_rt.artefact.contract import VAE_ENCODER
from bagel_rt.artefact.manifest import ResizeRule
from bagel_rt.generation.reader import Reader, Reading, open_items, skip_encoding
from bagel_rt.inputs.images import patchify, resize, to_pixels
from bagel_rt.inputs.segments import Histories, Latents, Patches, Text
from bagel_rt.options.encoding import Encoding
from bagel_rt.sampling.torch_noise import TorchNoise

SCALE, SHIFT = 0.3611, 0.1159
LOGVAR = np.float32(-1.5)
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 32, 3)).astype(np.uint8))


@dataclass
class Graphs:
    """A VAE encoder whose means are the pixels of each 8 x 8 square's corner, and whose variances are all alike."""

    broken: bool = False
    given: list[np.ndarray] = field(default_factory=list)
    engine: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(info=EngineInfo("fake", "1", "cpu", "float32"))
    )

    def __call__(self, graph: str, *, pixels: np.ndarray) -> list[np.ndarray]:
        assert graph == VAE_ENCODER
        self.given.append(pixels)
        moments = np.concatenate([means(pixels), np.full_like(means(pixels), LOGVAR)], axis=1)
        return [moments * np.float32("nan") if self.broken else moments]


def means(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[:, :1, ::8, ::8], 16, axis=1) * np.arange(1, 17, dtype=np.float32)[:, None, None]


class Codec:
    def segment(self, text: str) -> tuple[int, ...]:
        return (1, *map(ord, text), 2)


@pytest.fixture
def graphs():
    return Graphs()


@pytest.fixture
def reader(graphs):
    manifest = SimpleNamespace(
        model=dims(), vae_transform=ResizeRule(64, 16, 16), vit_transform=ResizeRule(56, 28, 14, 10_000)
    )
    return Reader(manifest, graphs, Codec())  # type: ignore[arg-type]


def test_latents_are_the_posteriors_mean_or_a_draw_from_it_scaled_and_shifted(reader, graphs):
    pixels = to_pixels(PICTURE)
    mean, noise = means(pixels[None]), TorchNoise(7).normal(1, 16, 6, 4)
    for given, wanted in ((None, mean), (TorchNoise(7), mean + np.exp(0.5 * LOGVAR) * noise)):
        found = reader.latents(pixels, given)
        assert found.grid == (3, 2)
        assert found.rows.dtype == np.float32
        assert np.allclose(found.rows, patchify((SCALE * (wanted - SHIFT))[0].astype("f4"), 2), rtol=1e-5, atol=1e-6)
    assert np.array_equal(graphs.given[0], pixels[None])


def test_patches_are_pixels_in_squares(reader):
    pixels = to_pixels(PICTURE.resize((42, 28)))
    found = reader.patches(pixels)
    assert found.grid == (2, 3)
    assert np.array_equal(found.rows, patchify(pixels, 14))


def test_an_image_is_its_latents_and_then_its_patches_each_at_its_own_size(reader):
    segments, size = reader.encoded(PICTURE, Encoding(), TorchNoise(1))
    small = resize(reader._manifest.vae_transform, PICTURE)
    assert size == (small.height, small.width) == (48, 32)
    latents, patches = segments
    assert latents == reader.latents(to_pixels(small), TorchNoise(1))
    assert patches == reader.patches(to_pixels(resize(reader._manifest.vit_transform, small)))


def test_either_encoder_may_be_left_out_and_the_posteriors_mean_be_taken(reader):
    mean = reader.latents(to_pixels(PICTURE), None)
    assert reader.encoded(PICTURE, Encoding(vit=False, vae_sample=False), TorchNoise(1))[0] == [mean]
    (patches,), _ = reader.encoded(PICTURE, Encoding(vae=False), TorchNoise(1))
    assert isinstance(patches, Patches)


def test_the_vit_sees_the_original_or_the_resized_image_by_its_own_rule_or_the_callers(reader):
    large = PICTURE.resize((200, 120))
    rule = reader._manifest.vit_transform

    def seen(image=large, **how) -> Patches:
        (patches,), _ = reader.encoded(image, Encoding(vae=False, **how), TorchNoise(1))
        assert isinstance(patches, Patches)
        return patches

    raw, twice = (
        reader.patches(to_pixels(resize(rule, one))) for one in (large, resize(ResizeRule(64, 16, 16), large))
    )
    assert seen(vit_raw=True) == raw
    assert seen() == twice
    assert raw != twice
    assert seen(vit_min_size=14, vit_max_pixels=600).grid != seen(vit_min_size=14).grid
    assert (seen(PICTURE).grid, seen(PICTURE, vit_min_size=42).grid) == ((3, 2), (4, 3))


@pytest.mark.parametrize(
    "read, height, width, told",
    [
        (lambda r, p: r.latents(p, None), 80, 64, "64x80 pixels, the position table of latents ends at 64x64"),
        (lambda r, p: r.latents(p, None), 64, 80, "80x64 pixels, the position table of latents"),
        (lambda r, p: r.patches(p), 70, 56, "56x70 pixels, the position table of ViT patches ends at 56x56"),
        (lambda r, p: r.patches(p), 56, 70, "70x56 pixels, the position table of ViT patches"),
    ],
)
def test_a_side_beyond_the_position_table_is_refused(reader, read, height, width, told):
    with pytest.raises(bagel_rt.InputError, match=told):
        read(reader, np.zeros((3, height, width), np.float32))
    limit = 64 if "latents" in told else 56
    assert read(reader, np.zeros((3, limit, limit), np.float32)).grid == (4, 4)


def test_what_the_encoder_computes_is_looked_at(reader, graphs):
    graphs.broken = True
    with pytest.raises(bagel_rt.BagelError, match="an input image, encoded by the VAE: not finite"):
        reader.latents(to_pixels(PICTURE), None)


def test_items_are_read_in_order_behind_the_system_prompt(reader):
    text = lambda words: Text(Codec().segment(words))  # noqa: E731
    noise = TorchNoise(3)
    found = reader.read(["look", PICTURE, "what?"], "be brief", Encoding(), noise)
    image, size = reader.encoded(PICTURE, Encoding(), TorchNoise(3))
    wanted = (
        Histories().with_system(text("be brief")).with_text(text("look")).with_image(*image).with_text(text("what?"))
    )
    assert found.histories == wanted
    assert (found.size, found.image, found.texts, found.prompt) == (size, PICTURE, ("look", "what?"), "look\nwhat?")
    assert reader.start(None) == Reading()


def test_the_stream_of_noise_can_be_moved_past_what_an_image_takes(reader):
    noise, passed = TorchNoise(3), TorchNoise(3)
    reading = reader.read([PICTURE, "a"], None, Encoding(), noise)
    skip_encoding(passed, reading)
    assert np.array_equal(noise.normal(16), passed.normal(16))
    unmoved = TorchNoise(3)
    skip_encoding(unmoved, reader.read(["a"], None, Encoding(), TorchNoise(1)))
    assert np.array_equal(unmoved.normal(16), TorchNoise(3).normal(16))


def test_items_are_a_list_of_texts_and_images_and_not_empty():
    text, image = open_items(["a", np.zeros((2, 3, 3), np.uint8)])
    assert (text, image.size) == ("a", (3, 2))  # type: ignore[union-attr]
    with pytest.raises(bagel_rt.InputError, match="nothing was given: at least one text or image is needed"):
        open_items([])
    for wrong, kind in ((b"bytes", "bytes"), (3, "int"), (None, "NoneType")):
        with pytest.raises(bagel_rt.InputError, match=f"items must be a list of texts and images, not {kind}"):
            open_items(wrong)  # type: ignore[arg-type]


def test_an_images_noise_is_drawn_after_those_before_it(reader):
    noise = TorchNoise(5)
    first, second = (reader.encoded(PICTURE, Encoding(vit=False), noise)[0][0] for _ in range(2))
    assert isinstance(first, Latents)
    assert first != second
