"""Greedy texts on a device: a token's call is begun before the host has read the token, and the text is the host's."""

from __future__ import annotations

import gc
from itertools import zip_longest

import numpy as np
import onnx
import pytest
from fake_cuda import FakeCuda
from sum_graphs import row_of

import bagel_rt
from bagel_engines import Places, TokenChain
from bagel_engines.device import cuda, token_chain
from bagel_engines.device.arrays import HostLanding, HostMemory
from bagel_engines.device.token_chain import ROW_GRAPHS
from bagel_engines.number_formats import narrowed, widened
from bagel_engines.onnxruntime.device_engine import ROOMY, DeviceRunner, on_host
from bagel_engines.protocol import OutOfDeviceMemory
from bagel_rt.api import Bagel
from bagel_rt.artefact.contract import UND_STEP
from bagel_rt.artefact.manifest import read_manifest
from bagel_rt.asks import TextRows
from bagel_rt.events import TextPiece
from bagel_rt.model.graphs import Graphs

LONG = {"max_tokens": 24, "seed": 1}
pytestmark = pytest.mark.usefixtures("roomy")


@pytest.fixture
def roomy(monkeypatch):
    monkeypatch.setattr(HostMemory, "room", lambda self: 1 << 40)


@pytest.fixture
def done(monkeypatch) -> list[str]:
    """Graphs that ran and tokens that were read, in order."""
    found, run, read = [], DeviceRunner.run, HostLanding.read
    monkeypatch.setattr(DeviceRunner, "run", lambda self, *args: found.append(self._name) or run(self, *args))
    monkeypatch.setattr(HostLanding, "read", lambda self: found.append("read") or read(self))
    return found


@pytest.mark.parametrize("dtype", ROW_GRAPHS)
def test_the_row_of_the_first_largest_logit_is_made_where_the_logits_lie(dtype):
    engine, random = on_host(), np.random.default_rng(0)
    table = narrowed(random.standard_normal((300, 16), np.float32), dtype)
    chain = TokenChain.on(engine, table, dtype)
    begun = []
    for place in (7, 299):
        logits = random.standard_normal((1, 300), np.float32)
        logits[0, [place, 299]] = 9
        begun.append(chain.begin(engine.hold(logits)))
    assert [one.places().columns.tolist() for one in begun] == [[7], [299]]
    for one, place in zip(begun, (7, 299), strict=True):
        assert np.array_equal(one.row.numpy()[0], widened(table[place], dtype))
    assert onnx.load(ROW_GRAPHS[dtype]) == row_of(dtype)


def test_every_token_but_the_first_is_read_when_the_next_ones_call_has_begun(pair, done):
    mine, theirs = (b.ask("a b a b", **LONG).token_ids for b in pair)
    assert mine == theirs
    begun = done.index("read")
    order = [one for one in done[begun:] if one in (UND_STEP, "read")]
    assert order == ["read", UND_STEP] * (len(order) // 2) + ["read"]
    assert order.count("read") == len(mine) - (len(mine) == LONG["max_tokens"])
    assert done[:begun].count(UND_STEP) >= 2  # of the first token, and of the one behind it


def test_no_row_of_a_token_is_sent_but_the_first_ones(pair, monkeypatch):
    sent, upload = [], HostMemory.upload
    monkeypatch.setattr(HostMemory, "upload", lambda self, to, rows: sent.append(rows.shape) or upload(self, to, rows))
    pair[0].ask("a b a b", **LONG)
    assert sent.count((1, pair[0].manifest.model.hidden_size)) == 1


def test_what_nobody_asked_for_leaves_no_trace(pair):
    """Texts that end or are left, several at once, pictures between two tokens."""
    device, host = pair
    free = device.free_tokens
    for _ in range(2):
        assert device.ask("what?", **LONG).text == host.ask("what?", **LONG).text
    for bagel in pair:
        left = bagel.stream("left", "text", **LONG)
        next(left), next(left)
        left.close()
    streams = [[bagel.stream(text, "text", **LONG) for text in ("one two", "a b")] for bagel in pair]
    pieces = [[[e.text for e in both if isinstance(e, TextPiece)] for both in zip_longest(*two)] for two in streams]
    assert pieces[0] == pieces[1]
    size = {"height": 64, "width": 64, "num_timesteps": 3}
    how = {"max_tokens": LONG["max_tokens"]}
    sessions = [bagel.session(seed=2) for bagel in pair]
    texts = []
    for session in sessions:
        session.add_text("a b")
        texts.append([session.generate_text(**how).text])
        session.generate_image(**size)
        texts[-1].append(session.generate_text(**how).text)
        session.close()
    assert texts[0] == texts[1]
    assert device.free_tokens == free


@pytest.mark.parametrize("other", ["text", "token", "nothing"])
def test_a_call_is_only_taken_for_the_token_and_the_text_it_was_begun_for(pair, other):
    kept = []
    for bagel in pair:
        evaluator, pool = bagel._turns._evaluator, bagel._turns.pool
        texts = [pool.table.new() for _ in range(2)]
        ask = lambda ids, text, wanted=True, to=evaluator: to.alone(  # noqa: E731
            TextRows(to, tuple(ids), text, text.length, wanted, likeliest=wanted)
        )
        ask([1, 2, 3], texts[0], False)
        ask([7, 8, 9, 10], texts[1], False)
        behind = ask([4], texts[0])
        token = int(behind.columns[0] if isinstance(behind, Places) else behind.argmax())
        text = texts[other == "text"]
        ask([(token + 1) % 100 if other == "token" else token], text)
        kept.append(pool.read(text))
        for one in texts:
            pool.table.release(one)
    assert np.allclose(*kept, atol=1e-5)


def test_a_call_that_is_begun_too_early_may_fail_without_a_word(pair, monkeypatch):
    device, host = pair
    run, calls = DeviceRunner.run, []

    def full(self, *args):
        if self._name == UND_STEP:
            calls.append(1)
            if len(calls) % 3 == 0:
                raise OutOfDeviceMemory("no room")
        return run(self, *args)

    wanted = host.ask("a b a b", **LONG).token_ids
    device.ask("a", max_tokens=2)  # loads what is needed
    monkeypatch.setattr(DeviceRunner, "run", full)
    assert device.ask("a b a b", **LONG).token_ids == wanted  # each third call is one that nobody has asked for
    assert len(calls) > len(wanted)


def test_logits_that_are_not_finite_end_the_call_with_their_token(pair, monkeypatch):
    whole, count = token_chain.places, []

    def spoilt(found) -> Places:
        count.append(1)
        return whole(np.array([[3, np.nan]], np.float32) if len(count) == 4 else found)

    monkeypatch.setattr(token_chain, "places", spoilt)
    with pytest.raises(bagel_rt.NotFiniteError, match="token 4 of the text, the logits: not finite"):
        pair[0].ask("what?", **LONG)


def test_without_much_room_the_table_stays_where_it_is(small_artefact, monkeypatch):
    manifest = read_manifest(small_artefact)
    sent, upload = [], HostMemory.upload
    with Bagel(manifest, Graphs(manifest, on_host()), 4096) as bagel:
        table = bagel._turns._vocabulary.embeddings.table
        monkeypatch.setattr(HostMemory, "room", lambda self: ROOMY * table.nbytes - 1)
        monkeypatch.setattr(HostMemory, "upload", lambda self, to, array: sent.append(array) or upload(self, to, array))
        bagel.ask("a b", max_tokens=3)
        assert len(sent) > 5
        assert not any(np.shares_memory(array, table) for array in sent)


def test_a_closed_model_keeps_nothing_on_the_device(small_artefact):
    manifest, engine = read_manifest(small_artefact), on_host()
    with Bagel(manifest, Graphs(manifest, engine), 4096) as bagel:
        bagel.ask("a b", max_tokens=5)
        table = bagel._turns._vocabulary.embeddings.table.nbytes
        assert sum(len(b) for b in engine._memory._taken.values()) > table
    gc.collect()
    assert sum(len(b) for b in engine._memory._taken.values()) < table


def test_a_landing_waits_for_its_download_and_not_for_what_came_after(monkeypatch):
    device = FakeCuda()
    monkeypatch.setattr(cuda, "runtime", lambda: device)
    memory, sent = cuda.CudaMemory(0), np.arange(8, dtype=np.uint8)
    address = memory.take(8)
    memory.upload(address, sent)
    first, second = memory.landing(8), memory.landing(8)
    first.begin(address)
    memory.clear(address, 8)
    second.begin(address)
    assert first.read().tolist() == [*range(8)]
    assert len(device.going) == 1
    assert second.read().tolist() == [0] * 8
    assert device.counts["cudaStreamSynchronize"] == 0
    del first, second
    assert device.counts["cudaFreeHost"] == device.counts["cudaEventDestroy"] == 2
