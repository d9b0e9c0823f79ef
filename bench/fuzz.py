"""Does anything from a stranger get through?  python bench/fuzz.py [TARGET ...] [--minutes N] [--kept DIR] [--out F]

Each target of tests/helpers/fuzz_targets.py in turn for so many minutes, in a process of its own. Minutes are those
the process computed: a run beside other work counts for what it did. With atheris (pip install atheris) bytes are
changed by what they reach in our code; without it, at random. Inputs that reach something new are kept in a folder, and
the next run begins with them; what is neither read nor refused is kept in its folder `found`. Ends in one JSON line,
and with 1 where something was found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.timing import finish, kept_results, machine, save

ROOT = Path(__file__).parents[1]
HELPERS = str(ROOT / "tests" / "helpers")
OURS = ["bagel_rt", "bagel_engines", "bagel_export"]


class Watched:
    """A target that counts its calls and keeps what it finds, one of each place where it was raised."""

    def __init__(self, name: str, folder: Path):
        from fuzz_targets import TARGETS

        self._target, self._folder, self.calls = TARGETS[name], folder, 0
        self.found: dict[str, str] = {}
        self.seeds = self._target.seeds()

    def __call__(self, data: bytes) -> None:
        self.calls += 1
        try:
            self._target(data)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {str(error)[:200]}"
            key = place.split(": ")[0]
            if key not in self.found:
                self.found[key] = place
                self._folder.mkdir(parents=True, exist_ok=True)
                (self._folder / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)


def told(name: str, watched: Watched, began: float, guided: bool) -> dict[str, Any]:
    minutes = round((time.process_time() - began) / 60, 2)
    return {"minutes": minutes, "calls": watched.calls, "guided": guided, "found": [*watched.found.values()]}


def one(name: str, seconds: float, kept: Path) -> None:
    """A target in this process; its report is the last line."""
    sys.path.insert(0, HELPERS)
    guided = find_spec("atheris") is not None
    if guided:
        import atheris

        with atheris.instrument_imports(include=OURS):
            watched = _warm(name, kept)
    else:
        watched = _warm(name, kept)
    began = time.process_time()
    try:
        (_guided if guided else _random)(name, watched, began, seconds, kept)
    finally:
        print(json.dumps(told(name, watched, began, guided)), flush=True)


def _warm(name: str, kept: Path) -> Watched:
    """The target, with all that it imports."""
    watched = Watched(name, kept / "found" / name)
    for data in watched.seeds:
        watched(data)
    return watched


def _random(name: str, watched: Watched, began: float, seconds: float, kept: Path) -> None:
    from mutated import endless

    for data in endless(watched.seeds, random.Random()):
        if time.process_time() - began > seconds:
            return
        watched(data)


def _guided(name: str, watched: Watched, began: float, seconds: float, kept: Path) -> None:
    import atheris
    from mutated import changed

    corpus = kept / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for data in watched.seeds:
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

    def ours(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        half = atheris.Mutate(data, most) if chance.random() < 0.5 else changed(data, watched.seeds, chance)
        return half[:most]

    class Over(BaseException):
        pass

    def timed(data: bytes) -> None:
        if time.process_time() - began > seconds:
            raise Over
        watched(data)

    words = [
        sys.argv[0],
        "-max_len=20000",
        "-timeout=60",
        "-rss_limit_mb=3000",
        f"-artifact_prefix={kept}/ended-",
        str(corpus),
    ]
    atheris.Setup(words, timed, custom_mutator=ours)
    try:
        atheris.Fuzz()
    except Over:
        return


def main() -> None:
    sys.path.insert(0, HELPERS)
    from fuzz_targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "targets", nargs="*", default=[], metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all"
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target, of computing")
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "bagel-rt-fuzz")
    parser.add_argument("--alone", action="store_true", help="one target, in this process")
    parser.add_argument("--out", type=Path, help="also add the result to this file's, after each target")
    args = parser.parse_args()
    if args.alone:
        return one(args.targets[0], 60 * args.minutes, args.kept)
    report = {
        "question": "what of a stranger's bytes is neither read nor refused",
        "results": kept_results(args.out) or {},
    }
    for name in args.targets or TARGETS:
        report["results"][name] = added(report["results"].get(name), _apart(name, args.minutes, args.kept))
        if args.out:
            save(report | machine(), args.out)
    finish(report | machine(), args.out)
    return sys.exit(any(report["results"][name]["found"] for name in args.targets or TARGETS))


def added(before: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    """Minutes and calls of all runs; what was found, and whether it was guided, of this one."""
    earlier = before or {"minutes": 0.0, "calls": 0}
    return now | {key: round(earlier[key] + now[key], 2) for key in ("minutes", "calls")}


def _apart(name: str, minutes: float, kept: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.fuzz", name, "--alone", "--minutes", str(minutes), "--kept", str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:  # the interpreter itself ended
        return {"minutes": 0.0, "calls": 0, "found": [f"code {done.returncode}: {done.stderr[-500:]}"]}
    return json.loads(lines[-1])


if __name__ == "__main__":
    main()
