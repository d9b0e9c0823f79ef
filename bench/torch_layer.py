"""PyTorch's decoder layer, in a process of its own: the peer of bench/layers.py (see peer.py)."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from bagel_export.artefact.export import model_dims
from bagel_export.checkpoint.open import open_checkpoint
from bench.layers import SMALL_WORKS, WORKS, Torch, arrays
from bench.peer import Run, serve


def main() -> None:
    checkpoint = open_checkpoint(Path(sys.argv[1]))
    works = {work.name: work for work in (SMALL_WORKS if "--small" in sys.argv else WORKS)}
    dims = model_dims(checkpoint)

    @cache
    def layer(name: str) -> Torch:
        return Torch(checkpoint, name)

    @cache
    def prepared(work: str, name: str, compiled: bool) -> Run:
        run = layer(name).prepared(arrays(works[work], dims), compiled)
        return lambda: run()[-1]

    serve(prepared)


if __name__ == "__main__":
    main()
