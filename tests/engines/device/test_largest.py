"""The likeliest token is found where the logits lie: no row of them comes to the host, and the text is the host's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from sum_graphs import largest_of
from tensorrt_standin import tensorrt

import bagel_rt
from bagel_engines import Largest
from bagel_engines.device.arrays import HostMemory
from bagel_engines.device.largest import LARGEST
from bagel_engines.onnxruntime.device_engine import on_host
from bagel_engines.tensorrt.lint import build, lint
from bagel_export.checkpoint.synthetic import SMALL_LLM
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.tensorrt.profiles import largest_profile

VOCABULARY = SMALL_LLM.vocab_size
LONG = {"max_tokens": 40, "seed": 1}


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt"])
def test_the_first_of_the_largest_is_found_and_a_row_that_is_not_finite(small_artefact, engine):
    there = on_host() if engine == "onnxruntime" else tensorrt(small_artefact)
    rows = np.random.default_rng(0).standard_normal((6, VOCABULARY), np.float32)
    rows[0, [3, 70, 200]] = rows[0].max() + 1
    rows[1, 9], rows[2, 9], rows[3, 9] = np.nan, np.inf, -np.inf
    found = Largest(there)(there.hold(rows))
    assert len(found) == 6
    assert found.columns[[0, 4, 5]].tolist() == [3, *rows[4:].argmax(1)]
    assert np.isfinite(found.sums).tolist() == [True, False, False, False, True, True]
    assert len(found[1:3]) == 2


@pytest.fixture
def fetched(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of what came from the device."""
    shapes, whole = [], HostMemory.download

    def download(self, array, source):
        shapes.append(array.shape)
        whole(self, array, source)

    monkeypatch.setattr(HostMemory, "download", download)
    return shapes


def logits_in(shapes) -> int:
    return sum(shape[-1:] == (VOCABULARY,) for shape in shapes)


@pytest.mark.parametrize("guesses", [0, 4])
def test_no_logits_come_from_the_device_for_the_likeliest_tokens(pair, fetched, guesses):
    mine, theirs = (b.ask("a b a b a b", prompt_lookup=guesses, **LONG).token_ids for b in pair)
    assert mine == theirs
    assert logits_in(fetched) == 0


def test_what_is_drawn_from_comes_whole(pair, fetched):
    device, host = pair
    how = {**LONG, "do_sample": True}
    assert device.ask("what?", **how).token_ids == host.ask("what?", **how).token_ids
    assert logits_in(fetched) > 30


@pytest.mark.parametrize("drawn", [False, True])
def test_texts_of_several_callers_are_those_of_each_alone(pair, drawn):
    device, host = pair
    prompts = ["a b a b", "what is it?", "one two three"]
    hows = [{**LONG, "do_sample": drawn and i == 1} for i in range(3)]
    wanted = [host.ask(prompt, **how).token_ids for prompt, how in zip(prompts, hows, strict=True)]
    with ThreadPoolExecutor(3) as pool:
        found = pool.map(lambda i: device.ask(prompts[i], **hows[i]).token_ids, range(3))
        assert [*found] == wanted


def test_logits_that_are_not_finite_end_the_call_with_their_token(pair, monkeypatch):
    whole = Largest.__call__

    def spoilt(self, rows):
        found = whole(self, rows)
        found.sums[-1] = np.nan
        return found

    monkeypatch.setattr(Largest, "__call__", spoilt)
    with pytest.raises(bagel_rt.NotFiniteError, match="token 1 of the text, the logits: not finite"):
        pair[0].ask("what?", **LONG)


def test_the_graph_that_is_shipped_is_that_of_the_recipe_and_builds_for_nvidia(small_artefact):
    assert onnx.load(LARGEST) == largest_of()
    assert lint(LARGEST) == []
    assert build(LARGEST, [largest_profile(read_manifest(small_artefact).model)]).built
