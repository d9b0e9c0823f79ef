"""Decoding in tiles: exact where a decoder looks no further than the margin, without seams where it does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bagel_rt
from bagel_rt.contract import VAE_DECODER
from bagel_rt.decoding import Decoder
from bagel_rt.tiles import Tiling, decode_in_tiles

SCALE = 8
SMALL = Tiling(tile=24, overlap=16, margin=4)
DRAW = {"seed": 3, "height": 256, "width": 192, "num_timesteps": 3}


def in_tiles(decode, latent, how) -> np.ndarray:
    *_, (done, total, pixels) = decode_in_tiles(decode, latent, SCALE, how)
    assert done == total
    return pixels


def enlarge(cells: np.ndarray) -> np.ndarray:
    return cells.repeat(SCALE, axis=2).repeat(SCALE, axis=3)


def local_decoder(latent: np.ndarray) -> np.ndarray:
    """Each pixel is the mean of the cells at most three away, which a tile's border cuts off like a picture's."""
    padded = np.pad(latent[:, :3], ((0, 0), (0, 0), (3, 3), (3, 3)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), axis=(2, 3))
    return enlarge(windows.mean(axis=(4, 5)))


@given(length=st.integers(1, 300), tile=st.integers(8, 90), share=st.floats(0.1, 0.5), cut=st.floats(0, 0.4))
def test_tiles_cover_everything_once(length, tile, share, cut):
    overlap = max(2, int(tile * share))
    how = Tiling(tile, overlap, int(overlap * cut))
    spans, total = how.spans(length), np.zeros(SCALE * length)
    for (start, stop), weights in zip(spans, how.weights(length, SCALE), strict=True):
        assert 0 <= start < stop <= length
        assert stop - start == min(tile, length)
        assert weights.min() >= 0
        total[SCALE * start : SCALE * stop] += weights
    assert np.allclose(total, 1, atol=1e-5)


@pytest.mark.parametrize("grid", [(24, 24), (25, 60), (41, 7), (128, 72)])
def test_a_decoder_that_looks_no_further_than_the_margin_gives_the_whole_picture(grid):
    latent = np.random.default_rng(0).standard_normal((1, 16, *grid)).astype(np.float32)
    assert np.allclose(in_tiles(local_decoder, latent, SMALL), local_decoder(latent), atol=1e-5)


def test_tiles_of_different_brightness_fade_into_each_other():
    brightness = iter((0.0, 1.0, 0.5, -0.5))
    pixels = in_tiles(lambda latent: enlarge(latent[:, :3]) + next(brightness), np.zeros((1, 16, 32, 32), "f4"), SMALL)
    fade = SCALE * (SMALL.overlap - 2 * SMALL.margin)
    assert pixels.max() - pixels.min() > 1
    for axis in (2, 3):
        assert np.abs(np.diff(pixels, axis=axis)).max() <= 1.5 / fade + 1e-6


@pytest.mark.parametrize(
    "cells, how, least", [(32, SMALL, 27), pytest.param(128, Tiling(), 34, marks=pytest.mark.slow)]
)
def test_a_detailed_picture_is_close_to_the_whole_and_has_no_seams(small_bagel, cells, how, least):
    decode = lambda latent: small_bagel.graphs(VAE_DECODER, latent=latent)[0]  # noqa: E731
    latent = np.random.default_rng(1).standard_normal((1, 16, cells, cells)).astype(np.float32)
    whole, tiled = (np.clip(p, -1, 1) for p in (decode(latent), in_tiles(decode, latent, how)))
    psnr = 10 * np.log10(4 / np.mean((whole - tiled) ** 2))
    assert psnr > least
    for axis in (2, 3):  # steps from line to line are no larger where tiles meet than in the whole picture
        steps = [np.abs(np.diff(p, axis=axis)).mean(axis=(0, 1, 5 - axis)) for p in (whole, tiled)]
        assert np.all(steps[1] < 1.25 * steps[0])


def test_a_result_says_whether_it_was_decoded_in_tiles(small_bagel, monkeypatch):
    monkeypatch.setattr(
        small_bagel._turns, "_decoder", Decoder(small_bagel.manifest, small_bagel.graphs, Tiling(16, 8, 2))
    )
    seen = []
    tiled = small_bagel.generate("a", vae_tile=True, on_progress=seen.append, **DRAW)
    whole = small_bagel.generate("a", **DRAW)
    assert tiled.metadata()["options"]["vae_tile"] is True
    assert whole.metadata()["options"]["vae_tile"] is False
    assert np.array_equal(tiled.latent, whole.latent)
    assert not np.array_equal(np.asarray(tiled.image), np.asarray(whole.image))
    assert [e.done for e in seen if e.stage == "decoding"] == list(range(seen[-1].total + 1))
    assert seen[-1].total == 2 * 3  # 24 x 32 cells in tiles of 16 that meet in 8


def test_a_picture_of_one_tile_is_decoded_whole(small_bagel):
    decoder = Decoder(small_bagel.manifest, small_bagel.graphs, Tiling(16, 8, 2))
    assert decoder.in_tiles(True, (16, 12))
    assert not decoder.in_tiles(True, (8, 8))
    assert not decoder.in_tiles(False, (16, 12))


def test_vae_tile_is_a_flag():
    with pytest.raises(bagel_rt.InputError, match="vae_tile"):
        bagel_rt.api.options.ImageOptions(vae_tile="yes")
