"""Which versions are installed: the newest, with the hash of every file, and the oldest that pyproject.toml allows."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from sbom import pinned

ROOT = Path(__file__).parents[2]
LOCK, OLDEST = ROOT / "requirements.lock", ROOT / "constraints-oldest.txt"
LOCKED_EXTRAS = ("cpu", "serve")
OLDEST_EXTRAS = ("cpu", "openvino", "gguf", "completion", "sign", "serve")  # of the runtime
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
KNOWN_LARGE = {  # bagel-nano, and the checkpoint it is made of
    "bagel_rt/models/bagel-nano/weights.safetensors",
    "bench/nano/bagel-nano/ema.safetensors",
    "bench/nano/bagel-nano/ae.safetensors",
    "bench/nano/lesson/ema.safetensors",  # what its lesson in reasoning changed
    "bench/nano/lesson/ae.safetensors",  # the VAE it was taught with, which shipped before
}


def asked(extras: tuple[str, ...]) -> list[Requirement]:
    more = [text for extra in extras for text in PROJECT["optional-dependencies"][extra]]
    return [Requirement(text) for text in (*PROJECT["dependencies"], *more)]


def versions(text: str) -> dict[str, str]:
    """Names and versions of the lines that name a package."""
    found = re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


@pytest.fixture(scope="module")
def locked() -> dict[str, str]:
    return versions(LOCK.read_text(encoding="utf-8"))


def test_what_is_locked_has_the_versions_that_the_tests_run_with(locked):
    text = LOCK.read_text(encoding="utf-8")
    elsewhere = {
        canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==\S+ ;", text, re.MULTILINE)
    }  # other systems
    known = pinned()
    assert {name for name in locked if known.get(name) != locked[name]} <= elsewhere - known.keys(), "run: make lock"
    assert len(elsewhere) < 6


def test_every_locked_package_has_hashes_of_its_files():
    text = LOCK.read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[A-Za-z0-9])", text[re.search(r"^[A-Za-z0-9]", text, re.MULTILINE).start() :])  # type: ignore[union-attr]
    assert len(entries) > 25
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
    assert "://" not in text  # no address that is one machine's own


def test_what_is_locked_is_all_that_the_runtime_and_its_server_install(locked):
    wanted = {canonicalize_name(one.name) for one in asked(LOCKED_EXTRAS)}
    assert wanted <= locked.keys()
    missing = set()
    for name in locked:
        try:
            stated = requires(name) or []
        except PackageNotFoundError:  # of another system
            continue
        needed = [Requirement(text) for text in stated]
        missing |= {
            f"{one.name} of {name}"
            for one in needed
            if (one.marker is None or one.marker.evaluate({"extra": ""})) and canonicalize_name(one.name) not in locked
        }
    assert missing == set(), "run: make lock"


def test_the_oldest_versions_are_the_lower_bounds_that_are_stated():
    oldest = versions(OLDEST.read_text(encoding="utf-8"))
    for one in asked(OLDEST_EXTRAS):
        bounds = [Version(part.version) for part in one.specifier if part.operator == ">="]
        assert len(bounds) == 1, f"{one}: one lower bound is expected"
        found = oldest.get(canonicalize_name(one.name))
        assert found is not None, one
        assert Version(found) in one.specifier, one
        others = [r for r in asked(OLDEST_EXTRAS) if canonicalize_name(r.name) == canonicalize_name(one.name)]
        highest = max(Version(p.version) for r in others for p in r.specifier if p.operator == ">=")
        assert Version(found).release[: len(highest.release)] == highest.release, f"{one}: the file has {found}"


def test_no_new_file_of_the_repository_is_larger_than_a_megabyte():
    try:
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a clone")
    sizes = {name: (ROOT / name).stat().st_size for name in names.split("\0") if name and (ROOT / name).is_file()}
    assert {name for name, size in sizes.items() if size > 1_000_000} == KNOWN_LARGE
