"""Packs what a machine with a CUDA card and no network has to be given: one folder of at most 64 MiB (make gpu-pack).

gpu_pack.py OUT [--artefact DIR ...] [--without-released]
                                          without artefacts: the recorded checkpoint as fp16, bf16 and int8 (fp16)

In it: the project as committed, of its tests the recorded cases; artefacts; the graphs of the released size in bf16,
whose numbers are made on the card (bench/released.py); `run.sh`, which unpacks them and runs bench/gpu.py in at most 8
minutes. The machine must have PyTorch, the onnx package, cuda-python and onnxruntime-gpu (or its folder:
SITE=... ./run.sh), and 30 GB of memory for the released size's weights.
"""

from __future__ import annotations

import argparse
import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
MOST = 64 << 20  # bytes
PACKED = ("bagel_rt", "engines", "export", "bench", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")
PACKED += ("tests/golden/cases", "tests/helpers/golden_cases.py")
LEFT_OUT = (":!bench/nano/bagel-nano", ":!bench/nano/*.safetensors")  # what training goes on from: 37 MB
PRECISIONS: dict[str, dict] = {
    "fp16": {"precision": "fp16"},
    "bf16": {"precision": "bf16"},
    "int8": {"precision": "int8", "arithmetic": "fp16"},
}
RUN = """#!/bin/sh
# bench/gpu.py in one call of at most 8 minutes; OUT.json is whole after every measurement
# [SITE=DIR] ./run.sh [OUT.json]
set -e
here=$(cd "$(dirname "$0")" && pwd); out=${1:-$here/gpu.json}; work=${WORK:-/dev/shm/bagel-gpu}
mkdir -p "$work" && cd "$work"
tar -xJf "$here/project.tar.xz" && tar -xJf "$here/artefacts.tar.xz"
export PYTHONPATH="$work:$work/engines:$work/export:$PYTHONPATH"
given=""; for folder in "$work"/artefacts/*; do given="$given --artefact $folder"; done
if [ -f "$here/released.tar.xz" ]; then tar -xJf "$here/released.tar.xz"; given="$given --released $work/released"; fi
exec timeout 470 python3 bench/gpu.py --out "$out" --work "$work/weights" --seconds 400 --no-compile \
    ${SITE:+--ort-site "$SITE"} $given
"""


def exported(folder: Path) -> list[Path]:
    from bagel_export.artefact.export import export

    checkpoint = Path(shutil.copytree(GOLDEN / "checkpoint", folder / "checkpoint"))
    subprocess.run([sys.executable, GOLDEN / "make_checkpoint.py", checkpoint], check=True)
    for name, how in PRECISIONS.items():
        for _ in export(checkpoint, folder / name, verify=False, **how):
            pass
    return [folder / name for name in PRECISIONS]


def of_released_size(folder: Path) -> Path:
    from bench.released import exported as made

    return made(folder)


def commit() -> str:
    told = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return told.stdout.strip() or "unknown"


def archive(out: Path, files: dict[str, Path]) -> None:
    """files: by their names in the archive."""
    with lzma.open(out, "wb", preset=6) as stream, tarfile.open(fileobj=stream, mode="w") as made:
        for name, file in files.items():
            made.add(file, arcname=name)


def pack(out: Path, artefacts: list[Path], released: Path | None = None) -> int:
    """released: graphs of the released size without numbers. Returns the folder's bytes. Raises SystemExit where they
    are more than MOST, and leaves nothing then."""
    out.mkdir(parents=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", *PACKED, *LEFT_OUT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = [name for name in listed.stdout.split("\0") if name]
    (kept := out / "COMMIT").write_text(commit() + "\n", encoding="utf-8")
    archive(out / "project.tar.xz", {"COMMIT": kept, **{name: ROOT / name for name in names}})
    files = [file for folder in artefacts for file in sorted(folder.iterdir()) if file.is_file()]
    archive(out / "artefacts.tar.xz", {f"artefacts/{file.parent.name}/{file.name}": file for file in files})
    if released is not None:
        archive(out / "released.tar.xz", {f"released/{file.name}": file for file in sorted(released.iterdir())})
    run = out / "run.sh"
    run.write_text(RUN, encoding="utf-8")
    run.chmod(0o755)
    sizes = {file.name: file.stat().st_size for file in out.iterdir()}
    if (size := sum(sizes.values())) > MOST:
        shutil.rmtree(out)
        parts = ", ".join(f"{name} {part / 2**20:.1f}" for name, part in sizes.items())
        raise SystemExit(
            f"the folder would have {size / 2**20:.1f} MiB ({parts}), allowed are 64: give fewer --artefact"
        )
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--artefact", type=Path, action="append", default=[])
    parser.add_argument("--without-released", action="store_true", help="recorded checkpoints alone: made in seconds")
    args = parser.parse_args()
    if args.out.exists():
        raise SystemExit(f"{args.out} is there already: name a new folder, or remove it")
    with tempfile.TemporaryDirectory() as scratch:
        released = None if args.without_released else of_released_size(Path(scratch))
        size = pack(args.out, args.artefact or exported(Path(scratch)), released)
    print(f"{args.out}: {size / 2**20:.1f} MiB; on the machine with the card: ./run.sh RESULTS.json")


if __name__ == "__main__":
    main()
