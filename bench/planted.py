"""Do tests notice what an engine's rewrite can do wrong?  python bench/planted.py [--in FILE] [--out F]

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
from bench.timing import finish, kept_results, machine

FAULTS = Path(__file__).with_suffix(".toml")


def run(place: Path, tests: str) -> bool:
    """Whether the tests pass in the copy."""
    environment = os.environ | {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", tests]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    if done.returncode > 1:  # what a signal ended is less than 0, and a failure of the tests
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


def _others(out: Path | None, listed: list[dict[str, str]], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the file of results has of faults that are still listed and were not tried now."""
    tried = [_name(one) for one in now]
    return [one for one in kept_results(out) or [] if _name(one) in map(_name, listed) and _name(one) not in tried]


def _name(fault: dict[str, Any]) -> tuple[str, str]:
    return fault["what"], fault["file"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--in", dest="inside", default="", metavar="PART", help="those alone in files so named")
    parser.add_argument("--out", type=Path, help="also write the result to this file, beside what it has of others")
    args = parser.parse_args()
    listed = tomllib.loads(FAULTS.read_text(encoding="utf-8"))["fault"]
    faults = [fault for fault in listed if args.inside in fault["file"]]
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
    kept = _others(args.out, listed, results)
    finish({"question": "which planted faults pass", "results": kept + results} | machine(), args.out)
    sys.exit(not all(one["noticed"] for one in results))


if __name__ == "__main__":
    main()
