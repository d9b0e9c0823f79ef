"""Trains bagel-nano in calls of some minutes on a machine that is lent: python -m bench.nano.card --state DIR --out DIR

A call goes on from what DIR (--state) has; where the machine is another one, from a checkpoint that an earlier call
brought back (--from). At its end OUT has the averaged weights as a checkpoint, cut into pieces that a narrow door lets
through. At home `python -m bench.nano.card --join OUT --checkpoint DIR` makes the checkpoint of them: it is exported as
any, or the next call begins with it, at the step where it stopped.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import tomllib
from pathlib import Path

from bench.nano import train
from bench.nano.snapshot import write_snapshot
from bench.nano.start import BEGUN
from bench.nano.state import Stopped

PIECE = 15 << 20  # bytes
NAME = "nano.tar"
LOGS = ("model.jsonl", "vae.jsonl")


def bring(state: Path, out: Path, config: dict, done: bool) -> list[Path]:
    """The checkpoint and the logs in pieces; none where the model has not begun."""
    if not (state / "model.pt").exists():
        return []
    with tempfile.TemporaryDirectory() as scratch:
        write_snapshot(state, Path(scratch), config, done)
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as made:
            for file in (*sorted(Path(scratch).iterdir()), *(state / name for name in LOGS)):
                if file.exists():
                    made.add(file, arcname=file.name)
    return cut(stream.getvalue(), out)


def cut(data: bytes, out: Path) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob(f"{NAME}.*"):
        old.unlink()
    starts = range(0, len(data), PIECE)
    pieces = [out / f"{NAME}.{i:02}" for i, _ in enumerate(starts)]
    for piece, at in zip(pieces, starts, strict=True):
        piece.write_bytes(data[at : at + PIECE])
    return pieces


def join(pieces: Path, checkpoint: Path) -> None:
    """Raises SystemExit where there are none."""
    found = sorted(pieces.glob(f"{NAME}.*"))
    if not found:
        raise SystemExit(f"{pieces} has no {NAME}.00: name the folder that a call of bench.nano.card left")
    data = io.BytesIO(b"".join(piece.read_bytes() for piece in found))
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / BEGUN).unlink(missing_ok=True)
    with tarfile.open(fileobj=data) as packed:
        packed.extractall(checkpoint, filter="data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--join", type=Path, metavar="OUT", help="at home: pieces that a call left")
    parser.add_argument("--checkpoint", dest="joined", type=Path, metavar="DIR", help="what --join makes of them")
    joining, rest = parser.parse_known_args()
    if joining.join:
        join(joining.join, joining.joined)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    train.add_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="what goes home")
    args = parser.parse_args(rest)
    try:
        train.run_as_told(args)
        done = True
    except Stopped as stopped:
        print(stopped)
        done = False
    pieces = bring(args.state, args.out, tomllib.loads(args.config.read_text(encoding="utf-8")), done)
    print(f"{'done' if done else 'not done'}; {len(pieces)} pieces in {args.out}", flush=True)


if __name__ == "__main__":
    main()
