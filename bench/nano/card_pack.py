"""Packs what a lent machine needs to train bagel-nano: python -m bench.nano.card_pack OUT [--from DIR] (make nano-pack)

In OUT, of at most 64 MiB: the code as it is here, the checkpoint to begin with (--from; else training begins with
nothing), and run.sh, which trains in calls of at most ten minutes. The machine must have PyTorch, NumPy, Pillow,
tokenizers and safetensors.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

from bench.gpu_pack import LEFT_OUT, MOST, ROOT, archive

PACKED = ("bagel_rt", "engines", "export", "bench/__init__.py", "bench/timing.py", "bench/nano", "LICENSE")
WITHOUT = (":!bagel_rt/models", *LEFT_OUT)
RUN = """#!/bin/sh
# one call: MINUTES of training (8.5), then OUT has what was learnt, in pieces; the next call goes on from STATE, which
# lasts as long as the machine does. Arguments are those of bench.nano.train
set -e
here=$(cd "$(dirname "$0")" && pwd)
work=${STATE:-/dev/shm/bagel-nano}; out=${OUT:-$here/out}; mkdir -p "$work/code"
tar -xJf "$here/project.tar.xz" -C "$work/code"
export PYTHONPATH="$work/code:$work/code/engines:$work/code/export:$PYTHONPATH"
test -d "$here/checkpoint" && set -- --from "$here/checkpoint" "$@"
cd "$work/code" && exec "${PYTHON:-python3}" -m bench.nano.card --state "$work/state" --out "$out" \\
    --minutes "${MINUTES:-8.5}" "$@"
"""


def pack(out: Path, checkpoint: Path | None) -> int:
    """Returns the folder's bytes. Raises SystemExit where they are more than MOST, and leaves nothing then."""
    out.mkdir(parents=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *PACKED, *WITHOUT]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    names = [name for name in listed if name and (ROOT / name).exists()]
    archive(out / "project.tar.xz", {name: ROOT / name for name in names})
    if checkpoint:
        shutil.copytree(checkpoint, out / "checkpoint")
    run = out / "run.sh"
    run.write_text(RUN, encoding="utf-8")
    run.chmod(0o755)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    if size > MOST:
        shutil.rmtree(out)
        raise SystemExit(f"the folder would have {size / 2**20:.1f} MiB, allowed are {MOST / 2**20:.0f}")
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--from", dest="checkpoint", type=Path)
    args = parser.parse_args()
    if args.out.exists():
        raise SystemExit(f"{args.out} is there already: name a new folder, or remove it")
    size = pack(args.out, args.checkpoint)
    print(f"{args.out}: {size / 2**20:.1f} MiB; on the machine with the card: ./run.sh, again until it says done")


if __name__ == "__main__":
    main()
