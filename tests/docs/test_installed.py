"""What README says of installing."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

import pytest
from documents import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = (
    "cpu",
    "openvino",
    "export",
    "dev",
    "docs",
)  # what make installs, for all of its targets


def wanted(lines: list[str], extra: str = "") -> list[Requirement]:
    requirements = map(Requirement, lines)
    return [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": extra})]


def installed_with(requirements: list[Requirement]) -> dict[str, str]:
    """Name and version of the packages, and of all that they need on this machine."""
    found, seen = {}, set()
    waiting = [(one, extra) for one in requirements for extra in ("", *one.extras)]
    while waiting:
        one, extra = waiting.pop()
        key = canonicalize_name(one.name), extra
        if key in seen:
            continue
        seen.add(key)
        found[key[0]] = metadata.version(one.name)
        needed = wanted(metadata.requires(one.name) or [], extra)
        waiting += [(other, more) for other in needed for more in ("", *other.extras)]
    return found


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_package_that_is_installed_has_its_version_fixed(extra):
    if extra == "docs":
        pytest.importorskip("mkdocs", reason="make docs installs it")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = installed_with(wanted(project["dependencies"] + project["optional-dependencies"][extra]))
    pairs = (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    fixed = {canonicalize_name(package): version for package, version in pairs}
    assert len(found) > 15
    assert {name: v for name, v in found.items() if fixed.get(name) != re.sub(r"\+.*", "", v)} == {}
