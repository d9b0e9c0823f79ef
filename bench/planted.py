"""Do tests without a recorded run notice what an engine's rewrite can do wrong?  python bench/planted.py [--out F]

Each fault of bench/planted.toml (head order, scale, side of a mask ...) is planted in a copy of the packages, and the
tests that are named with it are run there; before, they are run without it. Ends in one JSON line, and with 1 where a
fault passed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.mutation import PACKAGES, ROOT, copied_packages
from bench.timing import finish, machine

FAULTS = Path(__file__).with_suffix(".toml")


def run(place: Path, tests: str) -> bool:
    """Whether the tests pass in the copy."""
    environment = os.environ | {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", tests]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout + done.stderr)
    return done.returncode == 0


def planted(place: Path, fault: dict[str, str]) -> Path:
    """The file that a fault was put into."""
    package = next(p for p, root in PACKAGES.items() if (ROOT / fault["file"]).is_relative_to(root / p))
    path = place / (ROOT / fault["file"]).relative_to(PACKAGES[package])
    text = path.read_text(encoding="utf-8")
    if text.count(fault["was"]) != 1:
        raise ValueError(f"{fault['file']}: {fault['was']!r} stands there {text.count(fault['was'])} times, not once")
    path.write_text(text.replace(fault["was"], fault["becomes"]), encoding="utf-8")
    return path


def noticed(place: Path, fault: dict[str, str]) -> bool:
    before = (ROOT / fault["file"]).read_text(encoding="utf-8")
    path = planted(place, fault)
    try:
        return not run(place, fault["tests"])
    finally:
        path.write_text(before, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    faults = tomllib.loads(FAULTS.read_text(encoding="utf-8"))["fault"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        copied_packages(place)
        for tests in sorted({fault["tests"] for fault in faults}):
            if not run(place, tests):
                raise SystemExit(f"{tests} fails without a fault")
        results: list[dict[str, Any]] = []
        for fault in tqdm(faults, desc="faults", disable=None):
            told = {key: fault[key] for key in ("what", "file", "tests")}
            results.append(told | {"noticed": noticed(place, fault)})
    finish({"question": "which faults of a rewrite pass", "results": results} | machine(), args.out)
    sys.exit(not all(one["noticed"] for one in results))


if __name__ == "__main__":
    main()
