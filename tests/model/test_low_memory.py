"""With low_memory the same results come with less memory held."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bagel_rt
from bagel_rt.artefact.contract import LM_HEAD, VAE_DECODER, VAE_ENCODER, VIT

ENGINES = ["onnxruntime", "openvino"]
DRAW = {"seed": 3, "height": 256, "width": 256, "num_timesteps": 3}
HELD = """
import json, sys
import bagel_rt
import re
from pathlib import Path
anonymous_bytes = lambda: 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
model, backend, low = sys.argv[1:]
with bagel_rt.load(model, backend, threads=1, low_memory=low == "low") as bagel:
    held = []
    for _ in range(2):
        bagel.generate("a red cube", seed=3, height=256, width=256, num_timesteps=3)
        held.append(anonymous_bytes())
print(json.dumps(held))
"""


def held_after_calls(model: Path, backend: str, how: str) -> list[int]:
    """Bytes of anonymous memory after a picture, and after the next, in a process of their own."""
    done = subprocess.run([sys.executable, "-c", HELD, model, backend, how], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("backend", ENGINES)
def test_results_are_the_same_to_the_last_bit(small_artefact, photo, backend):
    with (
        bagel_rt.load(small_artefact, backend) as plain,
        bagel_rt.load(small_artefact, backend, low_memory=True) as frugal,
    ):
        for draw in (
            lambda bagel: bagel.generate("a red cube", **DRAW),
            lambda bagel: bagel.edit(photo, "make it green", seed=3, num_timesteps=3),
        ):
            one, other = draw(plain), draw(frugal)
            assert np.array_equal(one.latent, other.latent)
            assert np.array_equal(np.asarray(one.image), np.asarray(other.image))
        question = {"max_tokens": 12, "do_sample": True, "text_temperature": 3.0, "seed": 1}
        assert plain.ask("what?", photo, **question) == frugal.ask("what?", photo, **question)


@pytest.mark.parametrize("backend", ENGINES)
def test_the_vae_and_the_vit_are_given_back_after_each_use_and_the_rest_stays(small_artefact, photo, backend):
    with bagel_rt.load(small_artefact, backend, low_memory=True) as bagel:
        bagel.edit(photo, "green", seed=1, num_timesteps=3)
        bagel.ask("what?", photo, max_tokens=3)
        assert bagel.graphs.calls[VIT] == 2
        assert bagel.graphs.calls[VAE_ENCODER] == 1
        open_now = bagel.graphs.opened
        assert not open_now & {VIT, VAE_ENCODER, VAE_DECODER}
        assert LM_HEAD in open_now
        with bagel.graphs.lent(VAE_DECODER):
            bagel.graphs(VAE_DECODER, latent=np.zeros((1, 16, 2, 2), np.float32))
            assert VAE_DECODER in bagel.graphs.opened
        assert VAE_DECODER not in bagel.graphs.opened


def test_a_graph_that_fails_is_given_back_too(small_artefact):
    with bagel_rt.load(small_artefact, "onnxruntime", low_memory=True) as bagel:
        with pytest.raises(bagel_rt.EngineError, match="vae_decoder"):
            bagel.graphs(VAE_DECODER, latent=np.zeros((1, 3, 2, 2), np.float32))
        assert not bagel.graphs.opened


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("backend", ENGINES)
def test_memory_really_goes_back_to_the_system(small_artefact, backend):
    plain, frugal = (held_after_calls(small_artefact, backend, how) for how in ("plain", "low"))
    assert plain[1] - frugal[1] > 60 << 20  # the decoder's activations for 256 x 256 are 80 MiB
    assert abs(frugal[1] - frugal[0]) < 8 << 20
