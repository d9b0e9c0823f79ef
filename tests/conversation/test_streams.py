"""Streams: typed events whose pieces are the result, that can be cancelled anywhere and leave nothing behind."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from calls import FAST, same

import bagel_rt
from bagel_rt import Done, ImageReady, Progress, Step, TextPiece


def names(events) -> list[str]:
    return [type(event).__name__ for event in events]


def test_the_pieces_of_an_answer_are_the_answer(small_bagel, photo):
    how = {"do_sample": True, "text_temperature": 3.0, "seed": 1, "max_tokens": 60}
    *pieces, done = small_bagel.stream([photo, "what?"], output="text", **how)
    plain = small_bagel.ask("what?", photo, **how)
    assert names(pieces) == ["TextPiece"] * len(pieces)
    assert "".join(piece.text for piece in pieces) == plain.text == done.result.text
    assert plain.text == small_bagel._turns.codec.text(plain.token_ids)
    assert done.result.token_ids == plain.token_ids
    assert [p.done for p in pieces[: len(plain.token_ids)]] == list(range(len(plain.token_ids)))
    assert {(p.stage, p.total) for p in pieces} == {("answering", 59)}


def test_an_answer_ends_before_a_stop_string_wherever_it_is_met(small_bagel, photo):
    how = {"do_sample": True, "text_temperature": 3.0, "seed": 1, "max_tokens": 60}
    whole = small_bagel.ask("what?", photo, **how)
    for at in (1, len(whole.text) // 2, len(whole.text) - 3):
        stop = whole.text[at : at + 2]
        found = small_bagel.ask("what?", photo, stop=stop, **how)
        assert found.text == whole.text[: whole.text.index(stop)]
        assert found.token_ids == whole.token_ids[: len(found.token_ids)]
    with small_bagel.session(seed=1) as session, small_bagel.session(seed=1) as other:
        how.pop("seed")
        for one in (session, other):
            one.add_text("what?")
        long = session.generate_text(**how).text
        cut = other.generate_text(stop=[long[4:6], "never"], **how).text
        assert cut == long[: long.index(long[4:6])]


@pytest.mark.parametrize("bad", ["", [""], ["a"] * 17, [3], 3])
def test_what_cannot_be_stopped_at_is_refused(small_bagel, bad):
    with pytest.raises(bagel_rt.InputError, match="stop"):
        small_bagel.ask("what?", stop=bad)


def test_a_pictures_stream_has_its_plan_its_steps_the_picture_and_the_end(small_bagel):
    how = {"seed": 1, "think": True, "max_think_tokens": 5, **FAST}
    events = list(small_bagel.stream(["a"], **how))
    plain = small_bagel.interleave(["a"], **how)
    assert list(dict.fromkeys(names(events))) == ["TextPiece", "Step", "Progress", "ImageReady", "Done"]
    assert "".join(e.text for e in events if isinstance(e, TextPiece)) == plain.text
    steps = [e for e in events if isinstance(e, Step)]
    assert [(s.done, s.total) for s in steps] == [(1, 2), (2, 2)]
    assert np.array_equal(steps[-1].x, plain.latent)
    assert steps[-1].t == 0
    assert same(events[-2].result, plain)
    assert events[-1].result is events[-2].result


def test_a_step_can_be_looked_at_while_the_picture_is_drawn(small_bagel):
    steps = [e for e in small_bagel.stream(["a"], seed=1, **FAST) if isinstance(e, Step)]
    previews = [small_bagel.preview(step) for step in steps]
    assert [p.size for p in previews] == [(64, 64)] * 2
    wanted = small_bagel.interleave(["a"], seed=1, **FAST)
    assert np.array_equal(np.asarray(previews[-1]), np.asarray(wanted.image))


def test_a_preview_shows_the_clean_estimate_and_not_the_noise_that_is_left(small_bagel):
    step = next(e for e in small_bagel.stream(["a"], seed=1, **FAST) if isinstance(e, Step))
    assert step.t > 0.1

    def decoded(latents) -> np.ndarray:
        return np.asarray(small_bagel._turns.decode(latents, step.grid))

    shown = np.asarray(small_bagel.preview(step))
    assert np.array_equal(shown, decoded(step.x - np.float32(step.t) * step.velocity))
    assert not np.array_equal(shown, decoded(step.x))


def test_a_text_alone_is_a_list_of_one(small_bagel):
    *_, done = small_bagel.stream("a", output="text", max_tokens=4)
    assert done.result.text == small_bagel.ask("a", max_tokens=4).text


def test_other_calls_run_while_a_stream_waits(small_bagel):
    wanted, aside = small_bagel.interleave(["a"], seed=1, **FAST), small_bagel.ask("a", max_tokens=4).text
    first, second = small_bagel.stream(["a"], seed=1, **FAST), small_bagel.stream(["a"], seed=1, **FAST)
    results = []
    for event in first:
        other = next(second)
        assert type(event) is type(other)
        assert small_bagel.ask("a", max_tokens=4).text == aside
        results = [event, other]
    assert all(same(done.result, wanted) for done in results)


def test_bad_input_is_refused_when_the_stream_is_asked_for(small_bagel, tmp_path):
    for items, output, options, message in [
        ([], "image", {}, "nothing was given"),
        (3, "image", {}, "must be a list of texts and images, not int"),
        (["a"], "video", {}, "allowed: image, text"),
        ([tmp_path / "no.png"], "text", {}, "no such image file"),
        (["a"], "image", {"height": 100}, "nearest is height 96"),
        (["a"], "text", {"max_tokens": 0}, "max_tokens is 0"),
        (["a"], "image", {"preset": "gedit"}, "those for generate are"),
    ]:
        with pytest.raises(bagel_rt.InputError, match=message):
            small_bagel.stream(items, output=output, **options)


def test_closing_a_stream_stops_it_within_one_step(small_bagel):
    events = small_bagel.stream(["a"], seed=1, **{**FAST, "num_timesteps": 50, "cfg_text_scale": 1.0})
    next(events)
    small_bagel.graphs.calls.clear()
    assert next(events).done == 2
    events.close()
    assert small_bagel.graphs.calls["gen_step"] == 1
    assert small_bagel.free_tokens == bagel_rt.api.CACHE_TOKENS


def test_two_hundred_cancelled_streams_leave_no_page_and_no_thread_behind(small_bagel, photo):
    list(small_bagel.stream([photo, "a"], **FAST))  # whatever an engine starts once is there now
    threads = threading.active_count()
    with small_bagel.session(seed=1) as session:
        session.add_text("a")
        held = small_bagel.free_tokens
        makers = [
            lambda: small_bagel.stream(["a"], **FAST),
            lambda: small_bagel.stream(["a"], output="text", max_tokens=30),
            lambda: small_bagel.stream(["a"], think=True, max_think_tokens=4, **FAST),
            lambda: session.stream_image(**FAST),
            lambda: session.stream_text(max_tokens=30),
        ]
        for i in range(200):
            events = makers[i % len(makers)]()
            for _ in range(i % 4):
                next(events)
            if i % 3:
                events.close()
            else:
                del events  # forgotten rather than closed
                gc.collect(0)
            assert small_bagel.free_tokens == held
    small_bagel._turns.pool.table.check_integrity()
    assert small_bagel.free_tokens == bagel_rt.api.CACHE_TOKENS
    assert threading.active_count() == threads


def test_a_stream_read_in_another_thread_can_be_left_and_gives_everything_back(small_bagel):
    def read() -> None:
        for event in small_bagel.stream(["a"], **FAST):
            if isinstance(event, Step):
                return

    reader = threading.Thread(target=read)
    reader.start()
    reader.join()
    assert small_bagel.free_tokens == bagel_rt.api.CACHE_TOKENS


def test_a_stream_closed_inside_another_step_is_tidied_up_at_its_end(small_bagel):
    """The garbage collector may close a forgotten stream at any point of another call."""
    forgotten = small_bagel.stream(["a"], **FAST)
    next(forgotten)
    gate, held = small_bagel._gate, small_bagel.free_tokens
    with gate.enter():
        forgotten.close()
        assert small_bagel.free_tokens == held
    assert small_bagel.free_tokens == bagel_rt.api.CACHE_TOKENS


def test_on_progress_hears_a_stream_up_to_the_finished_picture(small_bagel):
    heard = []
    small_bagel.generate("a", seed=1, on_progress=heard.append, **FAST)
    assert names(heard) == ["Step", "Step", "Progress", "Progress"]
    assert not [e for e in heard if isinstance(e, ImageReady | Done)]
    assert heard[-1] == Progress("decoding", 1, 1)
