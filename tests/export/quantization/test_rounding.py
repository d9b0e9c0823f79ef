"""Rounding on small arrays, each number by hand: no checkpoint, no engine."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from bagel_export.quantization import quantize as q
from bagel_export.quantization.formats import FORMATS
from bagel_export.quantization.quantize import Layout, dequantize, layout_for, packed, packed_bytes, quantize


def test_layouts_state_the_shapes_of_values_and_scales():
    assert Layout("int8", 32).shapes((5, 96)) == ((96, 5), (3, 5))
    assert Layout("w8a8").shapes((5, 96)) == ((96, 5), (5,))
    assert Layout("conv8").shapes((5, 4, 3, 3)) == ((5, 4, 3, 3), (5,))
    assert Layout("int8") == Layout("int8", 0)


@pytest.mark.parametrize(
    "form, shape, layout",
    [
        ("int8", (5, 4, 3, 3), Layout("conv8")),
        ("w8a8", (5, 4, 3, 3), None),
        ("int4", (5, 4, 3, 3), None),
        ("float", (5, 96), None),
        ("int8", (5,), None),
        ("int8", (5, 96, 2), None),
        ("w8a8", (5, 96), Layout("w8a8")),
        ("fp8", (5, 7), Layout("fp8")),
        ("int8", (5, 256), Layout("int8", 128)),
        ("int8", (5, 64), Layout("int8", 64)),
        ("int4", (256, 32), Layout("int4", 32)),
        ("int4", (128, 33), Layout("int8")),
    ],
)
def test_a_weights_layout_follows_from_its_form_and_shape(form, shape, layout):
    assert layout_for(form, shape) == layout


def test_eight_bits_round_each_block_to_127_levels_of_its_largest():
    weight = np.zeros((2, 64), np.float32)
    weight[0, :4] = [127, -127, 63.4, 63.6]
    weight[0, 32:34] = [1.27, -0.624]
    weight[1, 0] = -254
    values, scale = quantize(weight, Layout("int8", 32))
    assert values.dtype == np.int8
    assert values.T[0, :4].tolist() == [127, -127, 63, 64]
    assert values.T[0, 32:34].tolist() == [127, -62]
    assert values.T[1, 0] == -127
    assert scale.dtype == np.float32
    assert np.allclose(scale, [[1, 2], [0.01, 1]])  # a block of zeros has scale 1
    back = dequantize(values, scale, Layout("int8", 32))
    assert back.shape == (2, 64)
    assert back.flags.c_contiguous
    assert np.allclose(back[0, [0, 1, 2, 3, 32]], [127, -127, 63, 64, 1.27])


@pytest.mark.parametrize("form", ["int8", "int4", "w8a8", "fp8"])
@pytest.mark.parametrize("weighed", [False, True])
def test_a_large_weight_is_rounded_in_pieces_to_the_same_numbers(monkeypatch, form, weighed):
    weight = np.random.default_rng(0).standard_normal((5, 7 * 32)).astype(np.float32)
    layout, importance = layout_for(form, weight.shape), np.arange(7 * 32, dtype=np.float64) if weighed else None
    whole = quantize(weight, layout, importance)
    for size in (1, 5 * 32 * 3):  # a block at a time; three blocks, of which the last piece has one
        monkeypatch.setattr(q, "PIECE", size)
        parts = quantize(weight, layout, importance)
        assert all(
            np.array_equal(a.astype(np.float32), b.astype(np.float32)) for a, b in zip(whole, parts, strict=True)
        )
    if form == "int4":
        assert (whole[0].astype(int).min(), whole[0].astype(int).max()) == (-8, 7)


def test_a_row_of_w8a8_has_one_scale_whatever_its_length():
    weight = np.array([[3.0, -1.4, 0.0], [0.5, 0.24, 0.127]], np.float32)
    values, scale = quantize(weight, Layout("w8a8"))
    assert values.T.tolist() == [[127, -59, 0], [127, 61, 32]]
    assert np.allclose(scale, [3 / 127, 0.5 / 127])
    assert np.allclose(dequantize(values, scale, Layout("w8a8")), values.T * scale[:, None])


def test_a_convolutions_channels_have_a_scale_each_and_keep_their_order():
    weight = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2) - 3
    weight[0, 0, 0, 0] = -12.7
    values, scale = quantize(weight, Layout("conv8"))
    assert values.shape == weight.shape
    assert values.dtype == np.int8
    assert np.allclose(scale, [0.1, 12 / 127])
    assert values[0].reshape(-1).tolist() == [-127, -20, -10, 0, 10, 20, 30, 40]
    assert np.allclose(dequantize(values, scale, Layout("conv8")), weight, atol=0.05)


@pytest.mark.parametrize("layout", [Layout("int8", 32), Layout("w8a8"), Layout("int4", 32), Layout("fp8")])
@pytest.mark.parametrize("kept", ["float32", "float16", "bfloat16"])
def test_values_are_rounded_with_the_scale_as_it_is_kept(layout, kept):
    weight = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    values, scale = quantize(weight, layout, None, kept)
    assert scale.dtype == FORMATS[kept].dtype
    steps = np.broadcast_to(scale.astype(np.float32).reshape(-1, 3), (1, 3))[0][:, None]
    if layout.form == "fp8":
        assert values.dtype == ml_dtypes.float8_e4m3fn
        assert np.array_equal(values.T.astype("f4"), (weight / steps).astype(ml_dtypes.float8_e4m3fn).astype("f4"))
    else:
        least, most = {"int4": (-8, 7)}.get(layout.form, (-127, 127))
        assert np.array_equal(values.T.astype("f4"), np.rint(weight / steps).clip(least, most))


def test_eight_bit_floats_reach_to_their_largest_number():
    values, scale = quantize(np.array([[896.0, -448.0, 1.0]], np.float32), Layout("fp8"))
    assert values.T.astype("f4").tolist() == [[448.0, -224.0, 0.5]]
    assert scale.tolist() == [2.0]


def searched(block: np.ndarray, importance: np.ndarray) -> float:
    """The scale of an int4 block with the smallest weighed squared error, tried one after another."""
    scales = [np.float32(np.float32(np.abs(block).max() * share) / 7) for share in np.linspace(0.65, 1, 15, dtype="f4")]
    error = lambda s: float((importance * np.square(np.rint(block / s).clip(-8, 7) * s - block)).sum())  # noqa: E731
    return float(min(scales, key=error))


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("at_once", [q.PIECE, 1, 64 * 3])
def test_four_bits_take_the_best_of_the_scales_that_are_tried_also_in_pieces(monkeypatch, weighed, at_once):
    monkeypatch.setattr(q, "PIECE", at_once)
    random = np.random.default_rng(1)
    weight = random.standard_t(3, (3, 128)).astype(np.float32)
    importance = np.exp(random.standard_normal(128)).astype(np.float32)
    layout = Layout("int4", 32)
    values, scale = quantize(weight, layout, importance if weighed else None)
    assert values.dtype == ml_dtypes.int4
    assert scale.shape == (4, 3)
    for n in range(4):
        part = slice(32 * n, 32 * n + 32)
        for row in range(3):
            weights = importance[part] if weighed else np.ones(32, np.float32)
            assert np.isclose(scale[n, row], searched(weight[row, part], weights), rtol=1e-6), (n, row)
    assert values.astype(int).min() >= -8


def test_a_four_bit_block_may_use_the_level_minus_eight():
    weight = np.full((1, 32), 0.0, np.float32)
    weight[0, :9] = [-8, 7, 7, 7, 7, 7, 7, 6, 5]
    values, scale = quantize(weight, Layout("int4", 32))
    assert -8 in values.astype(int)
    assert np.allclose(dequantize(values, scale, Layout("int4", 32)), weight, atol=0.3)


def test_bytes_of_values_are_themselves_or_two_in_one_the_first_in_the_low_half():
    assert packed(np.array([[1, -1]], np.int8)).tolist() == [1, 255]
    four = np.array([1, -1, 7, -8, 3]).astype(ml_dtypes.int4)
    assert packed(four).tolist() == [0xF1, 0x87, 0x03]
    assert packed(four[:4].reshape(2, 2)).tolist() == [0xF1, 0x87]
    assert packed(four).dtype == np.uint8


@pytest.mark.parametrize(
    "form, shape, size",
    [("int4", (3, 3), 5), ("int4", (2, 4), 4), ("int8", (3, 3), 9), ("float16", (3, 3), 18), ("float32", (), 4)],
)
def test_an_entry_takes_as_many_bytes_as_its_numbers(form, shape, size):
    assert packed_bytes(form, shape) == size
