"""How much of a device that is not there a picture, an edit and an answer take: one JSON line, in GiB.

most_held.py ARTEFACT SIDE [graphs]      with CUDA_STANDIN_STILL=1 for an artefact of released_size.py

The sessions share one copy of the weights, as on a card that reads them in place. The cache has room for 16384 tokens.
"""

from __future__ import annotations

import json
import sys

import bindings
from PIL import Image

import bagel_rt
from bagel_engines.onnxruntime.shared_weights import SharedWeights
from bagel_rt.generation import flow_sampler, guided_flow, reader, text_decoder
from bagel_rt.model import vae_decoder

GIB = 1 << 30


def main(artefact: str, side: str, *words: str) -> None:
    bindings.install()
    SharedWeights._read_in_place = lambda self: True
    for module in (
        flow_sampler,
        guided_flow,
        reader,
        text_decoder,
        vae_decoder,
    ):  # what lies in the memory is no number
        for check in {"check_finite", "check_latent"} & vars(module).keys():
            setattr(module, check, lambda *_: None)
    size, told = int(side), {}
    graphs = "graphs" in words
    with bagel_rt.load(artefact, "onnxruntime", "cuda", cuda_graphs=graphs, cache_tokens=16384) as bagel:
        told["engine"] = bagel.engine
        bagel.generate("a red cube", seed=1, height=size, width=size, num_timesteps=4)
        told["picture"] = bindings.most()
        bagel.edit(Image.new("RGB", (size, size)), "make it blue", seed=1, num_timesteps=4)
        told["edit"] = bindings.most()
        bagel.ask("what is it?", Image.new("RGB", (size, size)), max_tokens=4)
        told |= {"answer": bindings.most(), "held": bindings.held()}
    told["left"] = bindings.held()
    print(json.dumps({name: n if isinstance(n, str) else round(n / GIB, 2) for name, n in told.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
