"""Every format of pixels is scaled by its stated rule or refused by name; none is shown to the model as black."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

import bagel_rt
from bagel_rt.inputs.pictures import open_image

RAMP = np.linspace(0, 1, 256).reshape(16, 16)
GREY = np.rint(RAMP * 255).astype(int)


def saved(image: Image.Image, format: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def shown(source) -> np.ndarray:
    return np.asarray(open_image(source)).astype(int)


def refused(source, *words: str) -> None:
    with pytest.raises(bagel_rt.InputError) as caught:
        open_image(source)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


@pytest.mark.parametrize(
    "array",
    [RAMP.astype(t) for t in ("<f4", ">f4", "f2", "f8")]
    + [GREY.astype(t) for t in ("u1", "i8", "<i4", ">i4", "u4", "i2")]
    + [(GREY * 257).astype(t) for t in ("<u2", ">u2")],
    ids=lambda array: array.dtype.str,
)
def test_an_array_of_any_real_type_shows_the_same_ramp(array):
    near = 1 if array.dtype == np.float16 else 0
    assert np.abs(shown(array) - GREY[..., None]).max() <= near
    coloured = shown(np.stack([array, array[::-1], array], axis=-1))
    assert np.abs(coloured[..., 1] - GREY[::-1]).max() <= near


def test_booleans_are_black_and_white_and_a_fourth_channel_is_transparency():
    assert set(np.unique(shown(RAMP > 0.5))) == {0, 255}
    clear = np.stack([RAMP, RAMP, RAMP, np.zeros_like(RAMP)], axis=-1)
    assert (shown(clear) == 255).all()


@pytest.mark.parametrize(
    "array, words",
    [
        (RAMP * 255, ("float64", "from 0 to 255", "0 to 1")),
        (RAMP * 2 - 1, ("from -1 to 1", "0 to 1")),
        (np.full((4, 4), np.nan), ("not finite",)),
        (np.full((4, 4), np.inf, np.float32), ("not finite",)),
        (GREY - 1, ("from -1 to 254", "0 to 255")),
        (GREY * 257, ("65535", "uint16")),
        (RAMP.astype(complex), ("complex128",)),
        (np.full((4, 4), "x"), ("<U1",)),
        (np.full((4, 4), None), ("object",)),
        (np.zeros((4, 4, 2)), ("(4, 4, 2)", "(H, W, 3)")),
        (np.zeros((4, 0, 3), np.uint8), ("no pixels",)),
    ],
    ids=str,
)
def test_an_array_that_no_rule_covers_is_refused_with_what_it_holds(array, words):
    refused(array, *words)


def test_a_float_beyond_its_range_by_rounding_is_cut():
    assert shown(np.array([[-1e-7, 1 + 1e-6]])).reshape(2, 3).tolist() == [[0] * 3, [255] * 3]


DEEP = (GREY * 257).astype(np.uint16)


@pytest.mark.parametrize(
    "source",
    [
        saved(Image.fromarray(DEEP), "PNG"),
        saved(Image.fromarray(DEEP), "TIFF"),
        saved(Image.fromarray(DEEP.astype(">u2")), "TIFF"),
        saved(Image.fromarray(DEEP.astype(np.int32)), "TIFF"),
        b"P5 16 16 65535\n" + DEEP.astype(">u2").tobytes(),
        saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
        Image.fromarray(DEEP),
        Image.fromarray(DEEP.astype(">u2")),
        Image.fromarray(DEEP.astype(np.int32)),
        Image.fromarray(GREY.astype(np.int32)),
        Image.fromarray(RAMP.astype(np.float32)),
    ],
    ids=["png", "tiff", "tiff-big-endian", "tiff-I", "pgm", "tiff-F", "I;16", "I;16B", "I", "I-eight-bits", "F"],
)
def test_deep_grey_pictures_show_the_same_ramp(source):
    assert np.abs(shown(source) - GREY[..., None]).max() <= 0


def test_a_dark_sixteen_bit_picture_stays_dark_where_its_format_says_sixteen_bits():
    dark = np.full((4, 4), 200, np.uint16)
    assert shown(b"P5 4 4 65535\n" + dark.astype(">u2").tobytes()).max() == 0
    assert shown(saved(Image.fromarray(dark), "PNG")).max() == 0


@pytest.mark.parametrize(
    "image, words",
    [
        (Image.fromarray(GREY.astype(np.int32) - 300), ("from -300", "0 to 65535")),
        (Image.fromarray(GREY.astype(np.int32) * 1000), ("255000", "0 to 65535")),
        (Image.fromarray(RAMP.astype(np.float32) * 255), ("float32", "0 to 1")),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), ("not finite",)),
    ],
    ids=["negative", "beyond 16 bits", "F of 0 to 255", "NaN"],
)
def test_a_grey_picture_beyond_its_range_is_refused_by_its_name(image, words, tmp_path):
    image.save(tmp_path / "scan.tif")
    refused(tmp_path / "scan.tif", "scan.tif", *words)
    refused(image, "PIL image", *words)


def test_the_transparent_grey_of_a_sixteen_bit_png_is_laid_on_white():
    found = shown(saved(Image.fromarray(DEEP), "PNG", transparency=int(DEEP[3, 4])))
    assert (found[3, 4] == 255).all()
    found[3, 4] = GREY[3, 4]
    assert np.array_equal(found, np.repeat(GREY[..., None], 3, axis=-1))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_colour_is_laid_on_white_in_every_mode(mode):
    image = Image.new("RGB", (8, 8), "black").convert(mode)
    key = {"RGB": (0, 0, 0)}.get(mode, 0)
    assert (shown(saved(image, "PNG", transparency=key)) == 255).all()


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def linear_light() -> bytes:
    """The sRGB profile with its transfer curves replaced by the identity."""
    data = bytearray(SRGB)
    count = int.from_bytes(data[128:132], "big")
    for i in range(count):
        entry = data[132 + 12 * i : 144 + 12 * i]
        if entry[:4] in (b"rTRC", b"gTRC", b"bTRC"):
            at = int.from_bytes(entry[4:8], "big")
            data[at : at + 12] = b"curv" + bytes(8)  # no points: the identity
    return bytes(data)


LINEAR = linear_light()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_colour_profile_is_converted_to_srgb(mode):
    grey = Image.new("RGB", (8, 8), (55, 55, 55))
    picture = grey.quantize(2) if mode == "P" else grey.convert(mode)
    found = shown(saved(picture, "PNG", icc_profile=LINEAR))
    assert np.abs(found - 128).max() <= 2  # light of 55 / 255 is sRGB's 128


def test_an_srgb_profile_changes_no_pixel(photo):
    assert np.array_equal(shown(saved(photo, "PNG", icc_profile=SRGB)), np.asarray(photo))


@pytest.mark.parametrize("profile", [b"broken", LINEAR[:200], b"\0" * 400])
def test_a_broken_profile_is_ignored(photo, profile):
    assert np.array_equal(shown(saved(photo, "PNG", icc_profile=profile)), np.asarray(photo))


def test_a_profile_for_another_kind_of_picture_is_ignored(photo):
    grey = photo.convert("L")
    assert np.array_equal(shown(saved(grey, "PNG", icc_profile=LINEAR))[..., 0], np.asarray(grey))


def test_lab_pictures_are_seen_in_colour():
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    red = Image.new("RGB", (8, 8), (200, 30, 40))
    made = ImageCms.applyTransform(red, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    assert np.abs(shown(made) - [200, 30, 40]).max() <= 6
