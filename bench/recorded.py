"""How near are both CPU engines to the recorded runs of the official code?  python bench/recorded.py [--out FILE.json]

Every picture and text case in tests/golden, on the checkpoint of those runs exported in float32: the worst relative L2
of latents, the largest difference of a pixel, and how many texts are the same to the last character. Ends in one JSON
line. The limits are in tests/helpers/golden_cases.py.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import bagel_rt
from bagel_engines import installed
from bagel_export.artefact.export import export
from bench.timing import finish, machine

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "helpers"))
MODES = ("t2i", "edit", "interleave", "text", "understand")


def artefact(folder: Path) -> Path:
    """The recorded runs' checkpoint, exported."""
    checkpoint = folder / "checkpoint"
    shutil.copytree(ROOT / "tests" / "golden" / "checkpoint", checkpoint)
    subprocess.run([sys.executable, ROOT / "tests" / "golden" / "make_checkpoint.py", checkpoint], check=True)
    for _ in export(checkpoint, folder / "artefact", verify=False):
        pass
    return folder / "artefact"


def compared(folder: Path, backend: str) -> tuple[str, dict[str, Any]]:
    """The engine's name, and how far it is from the recorded runs."""
    from golden_cases import distance, names, read

    plain, cached, pixels, texts = [], [], [], []
    with bagel_rt.load(folder, backend) as bagel:
        for case in map(read, names(*MODES)):
            if case.wants_text:
                texts.append(bagel.interleave(case.items, output="text", **case.options).text == case.meta["texts"][0])
                continue
            result = bagel.interleave(case.items, **case.options)
            (cached if case.options.get("step_cache") else plain).append(
                distance(result.latent, case.arrays["final_latent"])
            )
            pixels.append(int(np.abs(np.asarray(result.image).astype(int) - case.arrays["image"].astype(int)).max()))
        return bagel.engine, {
            "pictures": len(pixels),
            "relative_l2": float(f"{max(plain):.3g}"),
            "relative_l2_step_cache": float(f"{max(cached):.3g}"),
            "pixels": max(pixels),
            "texts": len(texts),
            "texts_same": sum(texts),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = artefact(Path(folder))
        found = dict(compared(made, backend) for backend in installed())
    finish(
        {"question": "distance from the recorded runs of the official code", "engines": found, **machine()}, args.out
    )


if __name__ == "__main__":
    main()
