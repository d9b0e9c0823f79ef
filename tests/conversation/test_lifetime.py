"""A model's end: what close gives back, what a forked child may do, and how a program ends that is still drawing."""

from __future__ import annotations

import gc
import subprocess
import sys
import traceback
import weakref

import numpy as np
import psutil
import pytest
from calls import FAST

import bagel_rt
from bagel_engines import EngineFailure
from bagel_rt import Step
from bagel_rt.inputs.segments import Text

ENGINES = ("onnxruntime", "openvino")


def drawing(bagel):
    """A stream in the middle of a picture."""
    events = bagel.stream(["a ring"], seed=1, **FAST)
    assert isinstance(next(events), Step)
    return events


@pytest.mark.parametrize("engine", ENGINES)
def test_closing_gives_pool_weights_and_what_was_read_back_while_everything_still_has_its_name(
    small_artefact, photo, engine
):
    bagel = bagel_rt.load(small_artefact, engine)
    session = bagel.session(seed=1)
    session.add_text("hello")
    session.add_image(photo)
    events, turns = drawing(bagel), bagel._turns
    read = [segment.rows for segment in session.mark().reading.histories.cond if not isinstance(segment, Text)]
    held = {
        "page pool": weakref.ref(turns.pool._cache._by_half),
        "token table": weakref.ref(turns._vocabulary.embeddings.table),
        **{f"picture read {n}": weakref.ref(rows) for n, rows in enumerate(read)},
        **{graph: weakref.ref(runner) for (graph, _), runner in bagel.graphs._runners.items()},
    }
    assert {"vit", "gen_step", "picture read 1"} <= set(held)
    del read
    bagel.close()
    gc.collect()
    assert {name for name, ref in held.items() if ref() is not None} == set()
    assert turns.codec._open is None
    del events, session


@pytest.mark.parametrize("call", ["generate", "edit", "ask", "stream", "session", "preview", "next", "close"])
def test_everything_of_a_closed_model_says_that_it_was_closed(small_artefact, photo, call):
    with bagel_rt.load(small_artefact, "onnxruntime") as bagel:
        session, events = bagel.session(), bagel.stream(["a ring"], seed=1, **FAST)
        session.add_text("hello")
        step = next(events)
    calls = {
        "generate": lambda: bagel.generate("a ring", **FAST),
        "edit": lambda: bagel.edit(photo, "green", **FAST),
        "ask": lambda: bagel.ask("what?", photo),
        "stream": lambda: bagel.stream(["a ring"]),
        "session": bagel.session,
        "preview": lambda: bagel.preview(step),
        "next": lambda: next(events),
        "close": session.mark,
    }
    with pytest.raises(bagel_rt.BagelError, match="this model was closed; load it again"):
        calls[call]()
    session.close()
    assert bagel.free_tokens
    assert "onnxruntime" in bagel.engine


def test_a_sessions_calls_after_the_model_was_closed_say_so_and_its_facts_stay(small_artefact, photo):
    bagel = bagel_rt.load(small_artefact, "onnxruntime")
    session = bagel.session(seed=7, think="text")
    session.add_image(photo)
    mark = session.mark()
    bagel.close()
    for call in (
        lambda: session.add_text("a"),
        lambda: session.add_image(photo),
        session.generate_text,
        session.generate_image,
        session.stream_text,
        session.fork,
        lambda: session.rollback(mark),
    ):
        with pytest.raises(bagel_rt.BagelError, match="this model was closed; load it again"):
            call()
    assert (session.seed, session.think) == (7, "text")
    session.close()


def test_a_stream_that_is_inside_a_callback_when_its_model_is_closed_says_so(small_artefact):
    bagel = bagel_rt.load(small_artefact, "onnxruntime")
    with pytest.raises(bagel_rt.BagelError, match="this model was closed"):
        bagel.generate("a ring", seed=1, on_progress=lambda _: bagel.close(), **FAST)


FORKED = """
import gc, os, sys
import bagel_rt
bagel = bagel_rt.load(sys.argv[1], sys.argv[2], low_memory=sys.argv[3] == "low")
how = {"seed": 1, "num_timesteps": 3, "height": 64, "width": 64}
first = bagel.generate("x", **how).latent
session = bagel.session()
session.add_text("hello")
events = bagel.stream(["x"], **how)
while not isinstance(next(events), bagel_rt.Progress): pass  # inside the decoding

def refused(call):
    try: call()
    except bagel_rt.BagelError as error: assert "after the fork" in str(error) and "spawn" in str(error), error
    else: raise AssertionError(call)

child = os.fork()
if not child:
    try:
        for call in (lambda: bagel.generate("x"), lambda: bagel.ask("x"), bagel.session, lambda: session.add_text("x"),
                     session.mark, session.fork, lambda: next(events), lambda: bagel.stream(["x"])):
            refused(call)
        session.close()
        with bagel: pass
        bagel.close()
        events.close()
        del bagel, session, events
        gc.collect()
    except BaseException as error:
        print(type(error), error, flush=True)
        os._exit(1)
    os._exit(7)  # as multiprocessing's children end
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert (bagel.generate("x", **how).latent == first).all()
"""


@pytest.mark.skipif(not hasattr(sys, "getdlopenflags"), reason="needs fork")
@pytest.mark.parametrize("how", ["plain", "low"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_forked_child_is_refused_by_name_and_lets_go_without_hanging_while_the_parent_draws_on(
    small_artefact, engine, how
):
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(small_artefact), engine, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "7"), done.stdout + done.stderr


ENDING = """
import sys, threading
import bagel_rt
bagel = bagel_rt.load(sys.argv[1], sys.argv[2])
begun = threading.Event()
def draw():
    bagel.generate("x", seed=1, num_timesteps=100_000, height=64, width=64, on_progress=lambda _: begun.set())
for _ in range(2):
    threading.Thread(target=draw, daemon=True).start()
begun.wait()
sys.exit(5)
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_program_that_ends_while_daemon_threads_draw_ends_with_its_own_exit_code_and_no_word(small_artefact, engine):
    for _ in range(3):
        command = [sys.executable, "-c", ENDING, str(small_artefact), engine]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (5, "")


def test_a_program_that_ends_may_still_use_the_model_in_its_own_last_calls(small_artefact):
    code = (
        "import atexit, sys, bagel_rt\n"
        "atexit.register(lambda: print(bagel.ask('x', max_tokens=2).token_ids, bagel.close()))\n"
        "bagel = bagel_rt.load(sys.argv[1], 'onnxruntime')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(small_artefact)], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("None\n"), done.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_that_is_kept_holds_no_model_no_arrays_and_no_file(
    small_artefact, tmp_path, photo, monkeypatch, engine
):
    photo.save(tmp_path / "photo.png")
    bagel = bagel_rt.load(small_artefact, engine)
    bagel.generate("a ring", seed=1, **FAST)
    runner, held = (
        bagel.graphs._runners["gen_step", False],
        [weakref.ref(bagel), weakref.ref(bagel._turns.pool._cache._by_half)],
    )

    def fail(inputs, outputs, kept=()):
        scratch = np.zeros(1000)
        held.extend([weakref.ref(scratch), weakref.ref(inputs["und"])])
        raise RuntimeError("planted") from ValueError(len(scratch))

    monkeypatch.setattr(runner, "run", lambda *given: _as_engine(fail, *given))
    given, kept = np.zeros((80, 80, 3), np.uint8), []
    held.append(weakref.ref(given))
    pictures = [given, tmp_path / "photo.png"]
    for name, args in [("generate", ["x"]), *(("edit", [picture, "x"]) for picture in pictures), ("stream", ["x"])]:
        with pytest.raises(bagel_rt.EngineError, match="planted") as told:
            list(getattr(bagel, name)(*args, seed=1, **FAST))
        kept.append(told.value)
    opened = [file.path for file in psutil.Process().open_files()]
    monkeypatch.undo()
    del bagel, runner, given, pictures, name, args, told
    gc.collect()
    assert [ref() for ref in held if ref() is not None] == []
    assert str(tmp_path / "photo.png") not in opened
    assert all("in fail" in "".join(traceback.format_exception(error)) for error in kept)


def _as_engine(fail, *given):
    try:
        fail(*given)
    except RuntimeError as error:
        raise EngineFailure(str(error)) from error
