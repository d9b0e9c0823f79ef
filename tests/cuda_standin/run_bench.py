"""bench/gpu.py over the stand-in, with its own arguments: run_bench.py --artefact DIR --only-forms ..."""

from __future__ import annotations

import bindings

from bench.gpu import main

if __name__ == "__main__":
    bindings.install()
    main()
