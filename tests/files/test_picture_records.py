"""A picture carries its settings in every format that can."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

import bagel_rt
from bagel_rt.results import ImageResult, read_metadata

PICTURE = Image.new("RGB", (32, 16), "red")


def result(prompt: str = "a red cube 红 \u2028 \ud800", text: str | None = None) -> ImageResult:
    options = {"num_timesteps": 3, "cfg_interval": [0.4, 1.0], "noise": None}
    return ImageResult(PICTURE, text, np.zeros((2, 64), np.float32), 7, options, prompt, "m 1", "e 1")


@pytest.mark.parametrize("ending", [".png", ".jpg", ".JPEG", ".webp", ".tif", ".tiff"])
def test_settings_are_kept_and_read_back(tmp_path, ending):
    result().save(tmp_path / f"a{ending}")
    assert read_metadata(tmp_path / f"a{ending}") == result().metadata()
    assert Image.open(tmp_path / f"a{ending}").size == (32, 16)
    result().save(tmp_path / f"b{ending}", metadata=False)
    with pytest.raises(bagel_rt.InputError, match="holds no bagel-rt record"):
        read_metadata(tmp_path / f"b{ending}")


def test_a_format_that_keeps_none_says_so(tmp_path):
    with pytest.warns(UserWarning, match=r"a\.bmp: BMP keeps no settings; PNG, JPEG, WEBP, TIFF do"):
        result().save(tmp_path / "a.bmp")
    with pytest.raises(bagel_rt.InputError, match="a BMP, which keeps none"):
        read_metadata(tmp_path / "a.bmp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result().save(tmp_path / "b.bmp", metadata=False)


def test_settings_that_are_too_long_for_a_jpeg_are_left_out_and_the_picture_stays(tmp_path):
    with pytest.warns(UserWarning, match=r"a\.jpg: the settings, plan included, are too long for a JPEG"):
        result(text="word " * 14_000).save(tmp_path / "a.jpg")
    assert Image.open(tmp_path / "a.jpg").size == (32, 16)
    result(text="word " * 12_000).save(tmp_path / "b.jpg")
    assert read_metadata(tmp_path / "b.jpg")["seed"] == 7
    result(text="word " * 14_000).save(tmp_path / "a.webp")
    assert read_metadata(tmp_path / "a.webp")["seed"] == 7


@pytest.mark.parametrize("comment", [b"ASCII\0\0\0made by hand", b"UNICODE\0\0h\0i", b"", b'{"other": 1}'])
def test_another_programs_comment_is_no_record(tmp_path, comment):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    PICTURE.save(tmp_path / "a.jpg", exif=exif.tobytes())
    with pytest.raises(bagel_rt.InputError, match="holds no bagel-rt record"):
        read_metadata(tmp_path / "a.jpg")


def test_a_damaged_record_is_named(tmp_path):
    result("x").save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    assert data.count(b'"prompt"') == 1
    (tmp_path / "a.jpg").write_bytes(data.replace(b'"prompt"', b"{prompt{"))
    with pytest.raises(bagel_rt.InputError, match=r"a\.jpg: its bagel-rt record is damaged"):
        read_metadata(tmp_path / "a.jpg")


def test_broken_exif_is_no_record(tmp_path):
    PICTURE.save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with pytest.raises(bagel_rt.InputError, match="holds no bagel-rt record"):
        read_metadata(tmp_path / "a.jpg")


def test_a_record_that_could_not_be_written_leaves_the_old_picture(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(Image.Image, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(bagel_rt.OutputError, match="No space left"):
        result().save(tmp_path / "a.png")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.png", b"old")]


def test_save_reads_a_path_as_it_is_typed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    result().save("~/my cube.png")
    assert (tmp_path / "my cube.png").is_file()
