"""The list of what a wheel holds and needs, in CycloneDX's form: python tests/helpers/sbom.py writes sbom.cdx.json.

It is made of pyproject.toml, of the versions that constraints.txt fixes, and of what is bundled.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FILE = ROOT / "sbom.cdx.json"
NANO = ROOT / "bagel_rt" / "models" / "bagel-nano"
OURS = "Apache-2.0"


def made() -> str:
    return json.dumps(document(), indent=1) + "\n"


def document() -> dict[str, Any]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [dependency(text, "required") for text in project["dependencies"]]
    extras = project["optional-dependencies"]
    wanted = {text for name in ("cpu", "openvino", "export", "serve", "sign") for text in extras.get(name, ())}
    optional = [dependency(text, "optional") for text in sorted(wanted)]
    components = {one["bom-ref"]: one for one in (*optional, *needed)}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "library", "bom-ref": "bagel-rt", "name": project["name"], **licensed()}},
        "components": [bundled(), *sorted(components.values(), key=lambda one: one["bom-ref"])],
        "dependencies": [{"ref": "bagel-rt", "dependsOn": sorted(one["bom-ref"] for one in needed)}],
    }


def dependency(text: str, scope: str) -> dict[str, Any]:
    """A package that is installed beside the wheel, at the version the tests run with."""
    name = canonicalize_name(Requirement(text).name)
    version = pinned().get(name)
    where = f"pkg:pypi/{name}" + (f"@{version}" if version else "")
    stated = {"version": version} if version else {}
    return {"type": "library", "bom-ref": name, "name": name, **stated, "scope": scope, "purl": where}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = (re.fullmatch(r"([\w.-]+)==(\S+)", line.partition("#")[0].strip()) for line in lines)
    return {canonicalize_name(one[1]): one[2] for one in found if one}


def bundled() -> dict[str, Any]:
    """The small model in the wheel: trained by this project, on pictures that it draws itself."""
    digest = hashlib.sha256((NANO / "weights.safetensors").read_bytes()).hexdigest()
    return {
        "type": "machine-learning-model",
        "bom-ref": "bagel-nano",
        "name": "bagel-nano",
        "hashes": [{"alg": "SHA-256", "content": digest}],
        **licensed(),
    }


def licensed() -> dict[str, Any]:
    return {"licenses": [{"license": {"id": OURS}}]}


if __name__ == "__main__":
    FILE.write_text(made(), encoding="utf-8")
