"""What is lost in a VAE by itself?  python -m bench.nano.through_vae AE.safetensors [--limit N] [--out RESULT.json]

Held-out pictures, drawn plainly, as training varies them and as people draw them, go through a VAE's weights and back;
the checker says which are still what they were. No model draws better than that. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bagel_export.reference.vae import AutoEncoder
from bagel_rt.inputs.images import to_image
from bench.nano.diagnose import REDRAWN, of_the_vae
from bench.nano.pack import pixels
from bench.nano.start import in_float32
from bench.nano.train import CONFIG
from bench.timing import finish, machine


def redraws(file: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A picture (side, side, 3) uint8 to what the VAE makes of it, by the middle of what its encoder says."""
    vae = AutoEncoder(tomllib.loads(CONFIG.read_text(encoding="utf-8"))["vae"]["base_width"]).eval()
    vae.load_state_dict(in_float32(file))

    @torch.no_grad()
    def redraw(picture: np.ndarray) -> np.ndarray:
        mean = vae.encoder(pixels(picture[None])).chunk(2, 1)[0]
        return np.asarray(to_image(vae.decoder(mean)[0].numpy()))

    return redraw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--limit", type=int, default=REDRAWN, help="pictures of each kind")
    parser.add_argument("--out", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    digest = hashlib.sha256(args.file.read_bytes()).hexdigest()[:16]
    found = of_the_vae(redraws(args.file), args.limit)
    report = {"question": "which pictures a VAE alone brings through", "file": args.file.name, "sha256": digest}
    finish(report | {"through the VAE": found} | machine(), args.out)


if __name__ == "__main__":
    main()
