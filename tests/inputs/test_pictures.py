"""Opening pictures: what is damaged beside the pixels does not decide, what cannot be shown is refused by name."""

from __future__ import annotations

import io
import struct
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

import bagel_rt
from bagel_rt.inputs.pictures import ORIENTATION, open_image

SOUND = (ORIENTATION, 3, 1, b"\6\0")
ODD = {
    "a denominator of 0": (0x11A, 10, 1, struct.pack("<ll", -1, 0)),
    "a resolution as text": (0x11A, 2, 3, b"72\0"),
    "a resolution that is NaN": (0x11A, 11, 1, b"\0\0\xc0\x7f"),
    "a date as a number": (0x132, 5, 1, struct.pack("<LL", 1, 1)),
    "a unit beyond 16 bits": (0x128, 4, 1, struct.pack("<L", 70000)),
    "a type nobody knows": (0x110, 99, 1, b"\1\0\0\0"),
    "an IFD beyond the end": (0x8769, 4, 1, struct.pack("<L", 10**6)),
    "a count beyond the end": (0x10F, 2, 2**31, b"\1\0\0\0"),
}


def exif(*entries, cut: int = 0) -> bytes:
    head, extra = b"Exif\0\0II*\0" + struct.pack("<LH", 8, len(entries)), b""
    for tag, kind, count, data in entries:
        place = 14 + 12 * len(entries) + len(extra)
        head += struct.pack("<HHL", tag, kind, count) + (
            data.ljust(4, b"\0") if len(data) < 5 else struct.pack("<L", place)
        )
        extra += data if len(data) > 4 else b""
    whole = head + bytes(4) + extra
    return whole[: len(whole) - cut]


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore")  # Pillow's own, of damaged EXIF
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("entry", ODD.values(), ids=ODD)
def test_an_odd_exif_entry_beside_the_orientation_changes_nothing(format, entry):
    given = Image.new("RGB", (64, 48), "red")
    assert open_image(encoded(given, format, exif=exif(SOUND, entry))).size == (48, 64)
    assert open_image(encoded(given, format, exif=exif(SOUND, entry, cut=3))).size == (48, 64)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "damaged", [b"", b"Exif\0\0", b"Exif\0\0II*\0", b"nonsense", exif((ORIENTATION, 2, 2, b"6\0")), exif(SOUND, cut=16)]
)
def test_an_exif_without_a_readable_orientation_leaves_the_picture_as_it_lies(damaged):
    picture = Image.new("RGB", (64, 48), "red")
    picture.info["exif"] = damaged
    assert open_image(picture).size == (64, 48)


@pytest.mark.parametrize("value", range(1, 9))
def test_every_orientation_puts_the_marked_corner_where_the_camera_s_top_left_was(value):
    picture = np.zeros((16, 32, 3), np.uint8)
    row, column = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (-1, 0), 7: (-1, -1), 8: (0, -1)}[
        value
    ]
    picture[row, column] = 255
    data = encoded(Image.fromarray(picture), exif=exif((ORIENTATION, 3, 1, struct.pack("<H", value))))
    seen = np.asarray(open_image(data))
    assert seen.shape == ((16, 32, 3) if value < 5 else (32, 16, 3))
    assert seen[0, 0].tolist() == [255, 255, 255]


def test_a_picture_without_pixels_is_refused_by_name():
    with pytest.raises(bagel_rt.InputError, match="PIL image: the image has no pixels: it is 0 x 5"):
        open_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize(
    "error", [struct.error("x"), TypeError("x"), AttributeError(), ZeroDivisionError(), KeyError(3)]
)
def test_whatever_pillow_raises_is_an_input_error_that_names_the_source(error, monkeypatch, tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(path)

    def fail(*_, **__):
        raise error

    for broken, source in ((Image.Image, Image.new("L", (8, 8))), (Image, path)):
        with monkeypatch.context() as patch:
            patch.setattr(broken, "convert" if broken is Image.Image else "open", fail)
            with pytest.raises(bagel_rt.InputError, match=r"photo\.png|PIL image"):
                open_image(source)


def test_a_path_that_is_no_picture_is_refused_for_what_it_is(tmp_path):
    for given, words in ((tmp_path, "is a folder"), (tmp_path / "gone.png", "no such"), (tmp_path / ("x" * 300), "x")):
        with pytest.raises(bagel_rt.InputError, match=words):
            open_image(given)


def test_of_several_frames_the_first_is_shown():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(open_image(data))[0, 0].tolist() == [255, 0, 0]


def test_threads_that_open_pictures_leave_the_process_s_warning_filters_alone():
    data, before = encoded(Image.new("RGB", (400, 400))), list(warnings.filters)
    looks: list[bool] = []

    def work() -> None:
        for _ in range(20):
            open_image(data)
            looks.append(list(warnings.filters) == before)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(looks) == 80
    assert all(looks)
    assert list(warnings.filters) == before


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [100, 60])
def test_a_decompression_bomb_is_refused_from_its_header(limit, monkeypatch):
    data = encoded(Image.new("RGB", (11, 11)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("memory was taken"))
    with pytest.raises(bagel_rt.InputError, match=f"more than {limit} pixels, refused as a decompression bomb"):
        open_image(data)
