"""What a wheel holds: built twice it is the same bytes, everything in it is named, and nothing else is in it."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import sbom

ROOT = Path(__file__).parents[2]
PACKAGES = {"bagel_rt", "bagel_engines", "bagel_export"}
ENDINGS = {".py", ".json", ".onnx", ".safetensors", ".toml", ".html", ".css", ".js", ".svg", ".typed"}
LARGEST = 1_000_000  # bytes of a file beside the model's weights


def built(folder: Path) -> Path:
    from hatchling.builders.wheel import WheelBuilder

    return Path(next(WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return built(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def names(wheel) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_a_wheel_built_again_is_the_same_bytes(wheel, tmp_path, monkeypatch):
    for file in (ROOT / "bagel_rt").glob("*.py"):  # another time of change, as in another clone
        os.utime(file)
    assert built(tmp_path).read_bytes() == wheel.read_bytes()


def test_a_wheel_holds_the_three_packages_and_its_own_facts_alone(names):
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert len(tops) == len(PACKAGES) + 1


def test_every_module_that_is_in_the_repository_is_in_the_wheel(names):
    inside = {name for name in names if name.endswith(".py")}
    for package, folder in (("bagel_rt", ROOT), ("bagel_engines", ROOT / "engines"), ("bagel_export", ROOT / "export")):
        there = {f.relative_to(folder).as_posix() for f in (folder / package).rglob("*.py")}
        assert there == {name for name in inside if name.startswith(f"{package}/")}


def test_files_of_a_wheel_are_of_known_kinds_and_small_but_for_the_models_weights(wheel):
    with zipfile.ZipFile(wheel) as archive:
        for one in archive.infolist():
            if ".dist-info/" in one.filename or one.filename.endswith("/weights.safetensors"):
                continue
            assert Path(one.filename).suffix in ENDINGS, one.filename
            assert one.file_size < LARGEST, one.filename


def test_a_wheel_carries_its_licence_and_the_list_of_what_it_holds_and_needs(wheel, names):
    (licence,) = (name for name in names if name.endswith("/licenses/LICENSE"))
    (listed,) = (name for name in names if "/sboms/" in name)
    with zipfile.ZipFile(wheel) as archive:
        assert b"Apache License" in archive.read(licence)
        assert archive.read(listed).decode() == sbom.made()


def test_the_list_of_what_a_wheel_holds_and_needs_is_up_to_date():
    assert sbom.FILE.read_text(encoding="utf-8") == sbom.made(), "run: python tests/helpers/sbom.py"


def test_every_package_that_the_list_names_has_a_fixed_version():
    for one in sbom.document()["components"]:
        assert one["bom-ref"] == "bagel-nano" or one["version"], one["name"]
