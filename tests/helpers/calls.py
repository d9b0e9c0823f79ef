"""Short calls of a small model, from Python and from the command line, and what their results are compared by."""

from __future__ import annotations

import numpy as np

from bagel_rt.cli import main

FAST = {"height": 64, "width": 64, "num_timesteps": 3}


def same(a, b) -> bool:
    return np.array_equal(a.latent, b.latent)


def run(capsys, *arguments) -> tuple[int, str, str]:
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as end:  # argparse
        code = end.code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def instead(usual: list, given) -> list:
    """Usual arguments, pairs of an option and its value, with those left out that are given otherwise."""
    pairs = zip(usual[::2], usual[1::2], strict=True)
    return [*(word for pair in pairs if pair[0] not in given for word in pair), *given]
