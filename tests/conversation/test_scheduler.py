"""Several turns of one model at once: texts in common calls, pictures step by step, none disturbed by another."""

from __future__ import annotations

import random
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from calls import FAST, same
from golden_cases import names, read
from threads import at_once

import bagel_rt
from bagel_engines import EngineFailure
from bagel_rt.api import CACHE_TOKENS
from bagel_rt.asks import ALONE, TextRows
from bagel_rt.conversation import scheduler
from bagel_rt.conversation.gate import Gate
from bagel_rt.conversation.scheduler import Finished, Scheduler, Seat
from bagel_rt.events import Step, TextPiece
from bagel_rt.model import text_evaluator

CASES = names("t2i", "edit", "interleave", "text", "understand")
TEXTS = [name for name in CASES if read(name).wants_text]
PICTURES = [name for name in CASES if not read(name).wants_text][:3]
LONG = {"max_tokens": 40, "seed": 1}
QUESTIONS = [f"{n} tell" for n in range(8)]


@pytest.fixture
def patient(monkeypatch):
    """Leaders wait for every reader however slow this machine is."""
    monkeypatch.setattr(scheduler, "LEAST_PATIENCE", 20.0)
    monkeypatch.setattr(scheduler, "MOST_PATIENCE", 20.0)


def spied(bagel, monkeypatch, see):
    """`see` gets the inputs of every call of the graph that evaluates text, and may return other results."""
    for runner in bagel.graphs._runners.values():
        if "und" in runner.inputs:
            run = runner.run
            monkeypatch.setattr(runner, "run", lambda given, *how, run=run: see(given, lambda: run(given, *how)))


def test_eight_answers_at_once_take_about_a_call_for_each_token_and_are_those_they_are_alone(
    small_bagel, photo, patient, monkeypatch
):
    asks = [lambda q=q: small_bagel.ask(q, photo, **LONG).token_ids for q in QUESTIONS]
    small_bagel.graphs.calls.clear()
    alone = [ask() for ask in asks]
    one_by_one = small_bagel.graphs.calls["lm_head"]
    longest, widest = max(map(len, alone)), []

    def see(given, run):
        if len(given["und"]) == len(QUESTIONS):
            widest.append(len(given["slots"]))
            assert len(set(given["slots"].tolist())) == len(given["slots"])
        return run()

    spied(small_bagel, monkeypatch, see)
    small_bagel.graphs.calls.clear()
    assert at_once(asks) == alone
    assert one_by_one > 6 * longest
    assert small_bagel.graphs.calls["lm_head"] < 1.5 * longest
    with small_bagel.session(seed=1) as session:  # the photo is in each context, and named once in each call
        session.add_image(photo, vae=False)
        photo_tokens = session.mark().reading.histories.cond[0].tokens
    own = sum(len(small_bagel._turns.reader.text(q).ids) + LONG["max_tokens"] for q in QUESTIONS)
    assert own / 2 < max(widest) < photo_tokens + own
    assert small_bagel.free_tokens == CACHE_TOKENS


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_recorded_texts_and_pictures_are_the_same_beside_each_other(golden_artefact, backend):
    with bagel_rt.load(golden_artefact, backend) as bagel:

        def made(name, **how):
            case = read(name)
            return bagel.interleave(case.items, "text" if case.wants_text else "image", **case.options, **how)

        pictures = {name: made(name) for name in PICTURES}
        calls = [lambda name=name: made(name) for name in (*TEXTS, *PICTURES)]
        calls += [lambda name=name: made(name, prompt_lookup=3) for name in TEXTS]
        found = at_once(calls)
        texts = [*TEXTS, *[None] * len(PICTURES), *TEXTS]
        for name, text in zip(texts, found, strict=True):
            assert name is None or text.token_ids == read(name).arrays["text0.returned_ids"].tolist(), name
        for name, picture in zip(PICTURES, found[len(TEXTS) :], strict=False):
            assert same(picture, pictures[name]), name
        assert bagel.free_tokens == CACHE_TOKENS


def test_answers_that_are_cancelled_or_whose_reader_fails_disturb_no_neighbour(small_bagel, photo):
    alone = [small_bagel.ask(q, photo, **LONG).token_ids for q in QUESTIONS]

    def broken(q, after):
        for event in small_bagel.stream([photo, q], "text", **LONG):
            if event.done == after:
                raise RuntimeError("the reader fails")

    def cancelled(q, after):
        events = small_bagel.stream([photo, q], "text", **LONG)
        for _ in range(after):
            next(events)
        events.close()

    calls = [lambda q=q: small_bagel.ask(q, photo, **LONG).token_ids for q in QUESTIONS[:4]]
    calls += [lambda n=n: cancelled(QUESTIONS[n], n) for n in range(4, 6)]
    calls += [lambda n=n: broken(QUESTIONS[n], n) for n in range(6, 8)]
    *whole, none, nothing, error, other = at_once(calls)
    assert whole == alone[:4]
    assert (none, nothing) == (None, None)
    assert str(error) == str(other) == "the reader fails"
    small_bagel._turns.pool.table.check_integrity()
    assert small_bagel.free_tokens == CACHE_TOKENS


@pytest.mark.parametrize("fault", ["the engine fails", "not finite"])
def test_a_fault_of_the_engine_meets_the_one_whose_it_is_alone(small_bagel, patient, monkeypatch, fault):
    alone = [small_bagel.ask(q, **LONG).token_ids for q in QUESTIONS]
    victim = small_bagel._turns.reader.text("~~~").ids[1]
    row = small_bagel._turns._vocabulary.embeddings.rows([victim])[0]

    def see(given, run):
        hit = (given["und"] == row).all(1)
        if hit.any() and fault == "the engine fails":
            raise EngineFailure("planted")
        out = run()
        if hit.any() and "und_out" in out:
            out["und_out"] = np.full_like(out["und_out"], np.nan)  # of the neighbours in the call, too
        return out

    spied(small_bagel, monkeypatch, see)
    calls = [lambda q=q: small_bagel.ask(q, **LONG).token_ids for q in QUESTIONS]
    calls.insert(4, lambda: small_bagel.ask("~~~", **LONG).token_ids)  # not the first to come, which would be alone
    found = at_once(calls)
    error = found.pop(4)
    assert found == alone
    if fault == "the engine fails":
        assert isinstance(error, bagel_rt.EngineError), error
        assert "planted" in str(error)
    assert small_bagel.ask(QUESTIONS[0], **LONG).token_ids == alone[0]
    small_bagel._turns.pool.table.check_integrity()
    assert small_bagel.free_tokens == CACHE_TOKENS


def test_a_token_that_is_not_finite_ends_its_own_answer_alone(small_bagel, patient, monkeypatch):
    alone = [small_bagel.ask(q, **LONG).token_ids for q in QUESTIONS]
    first = small_bagel._turns._vocabulary.embeddings.rows([alone[0][1]])[0]
    others = [ids for ids in alone if ids[1] != alone[0][1]]

    def see(given, run):
        out = run()
        if len(given["und"]) != 3 and "und_out" in out and (given["und"] == first).all(1).any():
            out["und_out"] = np.full_like(out["und_out"], np.inf)
        return out

    spied(small_bagel, monkeypatch, see)
    found = at_once([lambda q=q: small_bagel.ask(q, **LONG).token_ids for q in QUESTIONS])
    assert isinstance(found[0], bagel_rt.NotFiniteError)
    assert all(ids in found for ids in others if alone[0][1] not in ids)
    assert small_bagel.free_tokens == CACHE_TOKENS


def test_a_full_cache_ends_the_answers_that_do_not_fit_and_no_other(small_artefact):
    with bagel_rt.load(small_artefact, "onnxruntime", cache_tokens=96) as bagel:
        found = at_once([lambda q=q: bagel.ask(q, max_tokens=12, seed=1) for q in QUESTIONS])
        full = [one for one in found if isinstance(one, bagel_rt.CacheFullError)]
        assert 0 < len(full) < len(found)
        wanted = [bagel.ask(q, max_tokens=12, seed=1).token_ids for q in QUESTIONS]
        kept = [(a.token_ids, b) for a, b in zip(found, wanted, strict=True) if a not in full]
        assert [a for a, _ in kept] == [b for _, b in kept]
        bagel._turns.pool.table.check_integrity()
        assert bagel.free_tokens == 96


def test_a_long_text_is_read_in_pieces_beside_others(small_bagel, patient, monkeypatch):
    prompts = ["a b c d " * 20, *QUESTIONS[:3]]
    alone = [small_bagel.ask(p, **LONG).token_ids for p in prompts]
    monkeypatch.setattr(text_evaluator, "PIECE", 16)
    most = []
    spied(small_bagel, monkeypatch, lambda given, run: most.append(len(given["und"])) or run())
    assert at_once([lambda p=p: small_bagel.ask(p, **LONG).token_ids for p in prompts]) == alone
    assert max(most) < 16 + len(prompts) or most.count(max(most)) == 1  # one may have begun alone


def test_sessions_go_on_at_once_as_each_does_alone(small_bagel, photo):
    with small_bagel.session(seed=3) as session:
        session.add_image(photo, vae=False)
        forks = [session.fork() for _ in range(5)]

        def talk(fork, n):
            fork.add_text(QUESTIONS[n])
            first = fork.generate_text(max_tokens=12).text
            fork.add_text("more")
            return first, fork.generate_text(max_tokens=12).text

        found = at_once([lambda n=n: talk(forks[n], n) for n in range(4)])
        assert talk(forks[4], 2) == found[2]
        for n in (0, 1, 3):
            with session.fork() as fork:
                assert talk(fork, n) == found[n]
        for fork in forks:
            fork.close()
    assert small_bagel.free_tokens == CACHE_TOKENS


def test_closing_the_model_ends_everybody_who_waits(small_artefact):
    bagel = bagel_rt.load(small_artefact, "onnxruntime")
    began = threading.Barrier(5)

    def read(output):
        events = bagel.stream(["a b a b"], output, **({"max_tokens": 900} if output == "text" else {"seed": 1}))
        next(events)
        began.wait()
        for _ in events:
            pass

    def close():
        began.wait()
        bagel.close()

    found = at_once([*[lambda o=o: read(o) for o in ("text", "text", "image", "image")], close])
    assert [str(one) for one in found] == ["this model was closed; load it again"] * 4 + ["None"]


def test_a_few_seconds_of_everything_at_once_leave_nothing_behind(small_bagel, photo):
    makers = [
        lambda: small_bagel.stream(["a ring"], seed=1, **FAST),
        lambda: small_bagel.stream([photo, "what?"], "text", **LONG),
        lambda: small_bagel.stream(["a b a b"], "text", prompt_lookup=5, **LONG),
        lambda: small_bagel.stream(["a ring"], seed=2, think=True, max_think_tokens=6, **FAST),
    ]

    def result(events):
        done = list(events)[-1].result
        return done.token_ids if hasattr(done, "token_ids") else (done.text, done.latent.tobytes())

    alone, until = [result(make()) for make in makers], time.monotonic() + 4

    def client(seed):
        chance = random.Random(seed)
        while time.monotonic() < until:
            n, events = chance.randrange(len(makers)), None
            events = makers[n]()
            if chance.random() < 0.4:
                for _ in range(chance.randrange(6)):
                    next(events)
                events.close()
            else:
                assert result(events) == alone[n]

    threads = threading.active_count()
    assert at_once([lambda seed=seed: client(seed) for seed in range(6)]) == [None] * 6
    small_bagel._turns.pool.table.check_integrity()
    assert small_bagel.free_tokens == CACHE_TOKENS
    assert threading.active_count() == threads


# The scheduler alone, with turns that compute nothing


class Log:
    """An evaluator that notes what it was asked at once, and a place for what turns note."""

    def __init__(self, seconds=0.0):
        self.calls, self.seconds = [], seconds

    def alone(self, ask):
        raise AssertionError("the scheduler calls together")

    def together(self, asks):
        asks = list(asks)
        self.calls.append(("texts", len(asks)))
        time.sleep(self.seconds)
        return dict.fromkeys(asks)

    def writing(self, tokens):
        for n in range(tokens):
            yield TextRows(self, (1,), None, n, logits=True)
            yield TextPiece("answering", n, tokens, "")

    def drawing(self, steps, name=""):
        yield ALONE
        for n in range(steps):
            self.calls.append(("step", name))
            time.sleep(self.seconds)
            yield Step(n + 1, steps, 0.0, np.zeros(0), np.zeros(0), (0, 0))


def read_all(shared, turn, writes):
    seat = Seat(turn, writes)
    while not isinstance(outcome := shared.outcome(seat), Finished):
        assert isinstance(outcome, TextPiece | Step), outcome
    return outcome


def tokens_between_steps(priority, seconds=0.01):
    """What two pictures and an answer do at once."""
    log, shared = Log(seconds), Scheduler(Gate(), priority)
    turns = [(log.writing(30), True), (log.drawing(20, "a"), False), (log.drawing(20, "b"), False)]
    at_once([lambda t=t, w=w: read_all(shared, t, w) for t, w in turns])
    return log.calls


@pytest.mark.parametrize("priority", ["tokens", "pictures", "arrival"])
def test_a_token_waits_for_one_denoising_step_at_most_and_pictures_take_turns(patient, priority):
    calls = tokens_between_steps(priority)
    written = [place for place, call in enumerate(calls) if call[0] == "texts"]
    assert len(written) == 30
    assert written[0] < 10  # steps that began before the answer's thread did
    assert all(after - before <= 2 for before, after in pairwise(written))
    between = [call[1] for call in calls[written[2] :] if call[0] == "step"]
    both = between[: 2 * min(between.count("a"), between.count("b"))]
    assert all(one != other for one, other in pairwise(both))


def test_tokens_have_half_of_the_time_unless_pictures_come_first(patient):
    def share(priority):
        calls = tokens_between_steps(priority)
        last = max(place for place, call in enumerate(calls) if call[0] == "texts")
        return sum(call[0] == "step" for call in calls[:last]) / 30

    assert share("pictures") > 0.9
    assert share("tokens") < 1.05


def test_one_thread_that_reads_several_streams_waits_for_nobody():
    log, shared = Log(), Scheduler(Gate())
    seats = [Seat(log.writing(50), True) for _ in range(3)]
    began = time.perf_counter()
    for _ in range(50):
        for seat in seats:
            assert isinstance(shared.outcome(seat), TextPiece)
    assert time.perf_counter() - began < 150 * scheduler.LEAST_PATIENCE
    assert log.calls == [("texts", 1)] * 150


def test_the_main_thread_where_interrupts_arrive_advances_no_turn_of_another():
    log, shared = Log(0.002), Scheduler(Gate())
    advanced = set()

    def turn():
        for _ in range(20):
            yield ALONE
            advanced.add((id(threading.current_thread()), name))
            time.sleep(0.002)
            yield TextPiece("answering", 1, 1, "")

    name = "other"
    others = [threading.Thread(target=read_all, args=(shared, turn(), True)) for _ in range(2)]
    for thread in others:
        thread.start()
    seen = []

    def own():
        for _ in range(20):
            seen.append(threading.current_thread() is threading.main_thread())
            yield from log.writing(1)

    read_all(shared, own(), True)
    for thread in others:
        thread.join()
    assert id(threading.main_thread()) not in {thread for thread, _ in advanced}
    assert len(seen) == 20


def test_an_interrupt_while_waiting_leaves_the_others_at_work(monkeypatch):
    log, shared = Log(0.001), Scheduler(Gate())
    seat = Seat(log.writing(3), True)

    class Interrupted:
        def acquire(self):
            raise KeyboardInterrupt

        def release(self): ...

    seat.woken = Interrupted()
    shared._led = True  # another leads, and makes this one the next
    with pytest.raises(KeyboardInterrupt):
        shared.outcome(seat)
    shared._led = False
    assert isinstance(read_all(shared, log.writing(3), True), Finished)
    assert log.calls == [("texts", 1)] * 3
