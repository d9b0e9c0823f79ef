"""Which changes of the core do its tests not notice?  python bench/mutation.py [GROUP ...] [--work DIR] [--out F]

Groups of modules and their tests are in bench/mutation.toml. For each, mutmut (pip install mutmut) changes one place
at a time, in a copy of the packages, and runs the tests that call the changed function, in a process forked for it.
What the tests do not notice is printed as a difference. A score is the share of mutants that made a test fail or run
for ever; those in the words of error messages are counted apart. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.timing import finish, kept_results, machine

ROOT = Path(__file__).parents[1]
GROUPS = Path(__file__).with_suffix(".toml")
PACKAGES = {"bagel_rt": ROOT, "bagel_engines": ROOT / "engines", "bagel_export": ROOT / "export"}
BYTECODE = shutil.ignore_patterns("*.pyc")
NOTICED = {"killed", "timeout", "segfault", "suspicious"}
# workers are forked by a process that has imported what takes long, and computed nothing: thread pools die in a fork
SETTINGS = """
[tool.mutmut]
source_paths = {packages}
only_mutate = {mutate}
also_copy = ["README.md", "bench", "docs"]
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["-m", "not slow and not bench and not matrix", "-p", "no:cacheprovider", "-p", "no:xdist",
    "-p", "bagel_export.onnx.tracing"]
process_isolation = "forkserver"
timeout_constant = 2.0
timeout_multiplier = 2.0
"""


def copied_packages(work: Path) -> None:
    """The packages side by side, as they are installed, with their tests."""
    work.mkdir(parents=True, exist_ok=True)
    for package, folder in PACKAGES.items():
        shutil.copytree(folder / package, work / package, dirs_exist_ok=True, ignore=BYTECODE)
    for part in ("tests", "bench", "docs"):
        shutil.copytree(ROOT / part, work / part, dirs_exist_ok=True, ignore=BYTECODE)
    for file in ("README.md", "pyproject.toml"):
        shutil.copy2(ROOT / file, work)


def copied(work: Path, group: Mapping[str, Any]) -> None:
    """The packages, and mutmut's settings for a group."""
    copied_packages(work)
    settings = SETTINGS.format(
        packages=json.dumps([*PACKAGES]), mutate=json.dumps(group["mutate"]), tests=json.dumps(group["tests"])
    )
    (work / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8") + settings)


def mutmut(work: Path, *arguments: str, quiet: bool = True) -> str:
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and not _holds_ours(Path(p))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, cwd=work, env=environment, check=True, text=True, capture_output=quiet).stdout or ""


def _holds_ours(folder: Path) -> bool:
    return any((folder / package).is_dir() for package in PACKAGES)


def told(difference: str) -> bool:
    """Whether only the words of a message were changed."""
    lines = [line[1:] for line in difference.splitlines() if re.match(r"[+-](?![+-])", line)]
    bare = {re.sub(r"\s+", "", line.lower().replace("xx", "")) for line in lines}
    return len(bare) == 1 and all('"' in line for line in lines)


def found(work: Path, group: Mapping[str, Any]) -> dict[str, Any]:
    """By module: how many mutants there are, how many were noticed, and the others' differences."""
    report = {}
    for module in group["mutate"]:
        results = json.loads((work / "mutants" / f"{module}.meta").read_text())["exit_code_by_key"]
        status = {name: status_of(code) for name, code in results.items()}
        left = {n: mutmut(work, "show", n) for n, s in status.items() if s not in NOTICED}
        words = [name for name, difference in left.items() if told(difference)]
        noticed = len(status) - len(left)
        report[module] = {
            "mutants": len(status),
            "noticed": noticed,
            "score": round(noticed / max(1, len(status) - len(words)), 3),
            "by_time_limit": sum(s == "timeout" for s in status.values()),
            "words_of_messages": len(words),
            "survivors": {n: trimmed(left[n]) for n in left if n not in words},
        }
    return report


def status_of(code: int | None) -> str:
    from mutmut.stats import status_by_exit_code

    return status_by_exit_code[code]


def trimmed(difference: str) -> list[str]:
    """The lines that differ."""
    return [line for line in difference.splitlines() if re.match(r"[+-](?![+-])", line)]


def run(name: str, group: Mapping[str, Any], work: Path, children: int) -> dict[str, Any]:
    copied(work / name, group)
    mutmut(work / name, "run", "--max-children", str(children), quiet=False)
    return found(work / name, group)


def main() -> None:
    groups = tomllib.loads(GROUPS.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", default=[], metavar="GROUP", help=f"of {', '.join(groups)}; default: all")
    parser.add_argument("--work", type=Path, help="where the copies go; kept, so that only what changed is run again")
    parser.add_argument("--children", type=int, default=1, help="processes at once")
    parser.add_argument("--out", type=Path, help="also write the result to this file, beside that of the first time")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        work = args.work or Path(place)
        results = {name: run(name, groups[name], work, args.children) for name in args.groups or groups}
    modules = {module: one for found in results.values() for module, one in found.items()}
    for module, one in modules.items():
        for survivor, lines in one["survivors"].items():
            print(module, survivor, *lines, sep="\n  ", file=sys.stderr)
    report = {"question": "which changes of the core no test notices", "mutmut": version("mutmut")}
    finish(report | {"results": beside_before(modules, args.out)} | machine(), args.out)


def beside_before(modules: Mapping[str, Any], out: Path | None) -> dict[str, Any]:
    """What was found now, beside what a file of results has of the first time; other modules of it stay."""
    known = kept_results(out) or {}
    first = {
        module: {key: value for key, value in one.items() if key != "survivors"} for module, one in modules.items()
    }
    return known | {
        m: {"before": known.get(m, {"before": first[m]})["before"], "after": one} for m, one in modules.items()
    }


if __name__ == "__main__":
    main()
