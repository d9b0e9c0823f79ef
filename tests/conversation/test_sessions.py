"""Sessions as a caller meets them, on a small random model."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace

import numpy as np
import pytest
from calls import FAST, same
from PIL import Image

import bagel_rt
from bagel_engines.onnxruntime import cpu_engine
from bagel_rt.inputs.segments import Latents, Patches, Text
from bagel_rt.options.defaults import INTERLEAVE
from bagel_rt.options.image_options import ImageOptions


@pytest.fixture
def session(small_bagel):
    with small_bagel.session(seed=7) as opened:
        yield opened


def kinds(session) -> str:
    """What the cond context is made of: T(ext), L(atents), P(atches)."""
    return "".join({Text: "T", Latents: "L", Patches: "P"}[type(s)] for s in session.mark().reading.histories.cond)


def test_the_first_turns_are_interleave_on_the_same_inputs(small_bagel, photo):
    other = photo.rotate(90, expand=True)
    plain = small_bagel.interleave(["a", photo, "b", other, "c"], seed=7, num_timesteps=3)
    with small_bagel.session(seed=7) as session:
        for item in ("a", photo, "b", other, "c"):
            session.add_text(item) if isinstance(item, str) else session.add_image(item)
        assert same(session.generate_image(num_timesteps=3), plain)
    plain = small_bagel.interleave(["a", photo, "b"], "text", seed=7, max_tokens=9, do_sample=True, text_temperature=2)
    with small_bagel.session(seed=7) as session:
        session.add_text("a")
        session.add_image(photo, vae=False)
        session.add_text("b")
        answer = session.generate_text(max_tokens=9, do_sample=True, text_temperature=2)
        assert answer.token_ids == plain.token_ids


def test_a_thinking_sessions_first_turns_are_interleaves(small_bagel):
    how = {"max_think_tokens": 6, "do_sample": True, "text_temperature": 2, **FAST}
    plain = small_bagel.interleave(["a"], seed=7, think=True, **how)
    with small_bagel.session(seed=7, think=True) as session:
        session.add_text("a")
        drawn = session.generate_image(**how)
    assert (drawn.text, same(drawn, plain)) == (plain.text, True)
    plain = small_bagel.interleave(["a"], "text", seed=7, think=True, max_tokens=6)
    with small_bagel.session(seed=7, think="text") as session:
        session.add_text("a")
        assert session.generate_text(max_tokens=6).token_ids == plain.token_ids


def test_the_system_prompt_is_there_from_the_beginning(small_bagel):
    with small_bagel.session(think="text") as session:
        assert kinds(session) == "T"
        assert small_bagel.free_tokens < bagel_rt.api.CACHE_TOKENS


def test_an_answer_stays_as_text_and_a_picture_as_an_image(session):
    session.add_text("a")
    answer = session.generate_text(max_tokens=6)
    drawn = session.generate_image(**FAST)
    assert kinds(session) == "TT"  # the picture enters when it is needed
    session.add_text("b")
    assert kinds(session) == "TTLPT"
    histories = session.mark().reading.histories
    assert histories.cond[1] == session._turns.reader.text(answer.text)
    assert histories.cfg_text == histories.cond[:-1]
    assert histories.cfg_img == tuple(s for s in histories.cond if isinstance(s, Text))
    assert session.generate_image(num_timesteps=3).image.size == (64, 64)  # the size follows the picture drawn before
    assert drawn.seed == 7


def test_the_next_turn_sees_the_picture_as_an_input_image_of_the_same_noise_stream(small_bagel, session):
    from bagel_rt.sampling.torch_noise import TorchNoise

    session.add_text("a")
    first = session.generate_image(**FAST)
    session.add_text("b")
    second = session.generate_image(num_timesteps=3)
    noise = TorchNoise(7)
    noise.normal(16, 64)  # the first picture's beginning
    reader = small_bagel._turns.reader
    reading = reader.add_text(reader.start(None), "a")
    reading = reader.add_image(reading, first.image, INTERLEAVE.encoding, noise)
    with small_bagel._turns.tree.lease() as contexts:
        histories = reader.add_text(reading, "b").histories
        opts = ImageOptions(cfg_text_scale=3.0, cfg_img_scale=1.5, num_timesteps=3)
        (*_, last) = small_bagel._turns.painter._sampler.draw(contexts, histories, noise.normal(16, 64), (4, 4), opts)
    assert np.array_equal(second.latent, last.x)


def test_a_plan_stays_in_cond_and_reaches_the_other_contexts_with_the_picture(small_bagel):
    with small_bagel.session(seed=1, think="image") as session:
        session.add_text("a")
        session.generate_image(max_think_tokens=4, **FAST)
        session.add_text("b")
        histories = session.mark().reading.histories
    assert [type(s) for s in histories.cond] == [Text, Text, Text, Latents, Patches, Text]
    assert histories.cfg_text == histories.cond[:-1]
    assert histories.cfg_img == (histories.cond[0], histories.cond[1], histories.cond[5])


def test_the_ablations_leave_one_encoder_out(session, photo):
    session.add_image(photo, vae=False)
    session.add_image(photo, vit=False)
    assert kinds(session) == "PL"
    with pytest.raises(bagel_rt.InputError, match="both False"):
        session.add_image(photo, vae=False, vit=False)
    with pytest.raises(bagel_rt.InputError, match="vae is 1"):
        session.add_image(photo, vae=1)


def test_the_same_photo_edited_five_ways_is_encoded_once(small_artefact, photo, monkeypatch):
    monkeypatch.setattr(cpu_engine, "possible", lambda: False)  # und rows have a graph of their own
    ways = ["red", "blue", "older", "at night", "as a sketch"]
    with bagel_rt.load(small_artefact, backend="onnxruntime") as bagel:
        with bagel.session(seed=3) as session:
            session.add_image(photo)
            prefilled = dict(bagel.graphs.calls)
            for way in ways:
                with session.fork() as edit:
                    edit.add_text(way)
                    assert same(
                        edit.generate_image(num_timesteps=3), bagel_interleave(bagel, photo, way, num_timesteps=3)
                    )
        assert bagel.free_tokens == bagel_rt.api.CACHE_TOKENS
    assert (prefilled["vae_encoder"], prefilled["vit"]) == (1, 1)
    calls = bagel.graphs.calls
    assert (calls["vae_encoder"], calls["vit"]) == (1, 1)
    # the photo's two segments once, then per way: the text behind the photo, and alone for image guidance
    assert calls["und_step"] == 1 + 2 * len(ways)


def bagel_interleave(bagel, *items, **values):
    """The same edit from scratch, without leaving a trace in the counts of engine calls."""
    before = dict(bagel.graphs.calls)
    result = bagel.interleave(list(items), seed=3, **values)
    bagel.graphs.calls.clear()
    bagel.graphs.calls.update(before)
    return result


def test_a_fork_shares_pages_until_it_says_something_else(small_bagel, session, photo):
    session.add_image(photo)
    free = small_bagel.free_tokens
    with session.fork() as twin:
        assert small_bagel.free_tokens == free
        twin.add_text("a")
        assert small_bagel.free_tokens < free
    assert small_bagel.free_tokens == free


def test_a_fork_draws_what_its_parent_would_have_drawn_and_another_seed_something_else(session):
    session.add_text("a")
    with session.fork() as twin, session.fork(seed=8) as stranger:
        drawn = session.generate_image(**FAST)
        assert same(drawn, twin.generate_image(**FAST))
        other = stranger.generate_image(**FAST)
    assert not same(drawn, other)
    assert (drawn.seed, other.seed) == (7, 8)


def test_a_fork_outlives_its_parent(small_bagel):
    parent = small_bagel.session(seed=7)
    parent.add_text("a")
    with parent.fork() as twin:
        parent.close()
        assert twin.generate_text(max_tokens=4).text == small_bagel.ask("a", max_tokens=4).text
    assert small_bagel.free_tokens == bagel_rt.api.CACHE_TOKENS


def test_rolling_back_undoes_texts_pictures_and_random_numbers(small_bagel, session):
    session.add_text("a")
    mark, free = session.mark(), small_bagel.free_tokens
    how = {"max_tokens": 8, "do_sample": True, "text_temperature": 3.0}
    first = session.generate_image(**FAST), session.generate_text(**how)
    session.rollback(mark)
    assert (kinds(session), small_bagel.free_tokens) == ("T", free)
    again = session.generate_image(**FAST), session.generate_text(**how)
    assert same(first[0], again[0])
    assert first[1].token_ids == again[1].token_ids


def test_one_can_go_forward_again_to_what_was_undone(session):
    session.add_text("a")
    early = session.mark()
    session.generate_image(**FAST)
    late = session.mark()
    answer = session.generate_text(max_tokens=6)
    session.rollback(early)
    session.add_text("something else")
    session.rollback(late)
    assert session.generate_text(max_tokens=6).token_ids == answer.token_ids


def test_a_cancelled_or_failed_turn_leaves_the_session_as_it_was(small_bagel, session):
    session.add_text("a")
    with session.fork() as twin:
        free = small_bagel.free_tokens
        for stop in (1, 2):
            events = session.stream_image(**FAST)
            for _ in range(stop):
                next(events)
            events.close()
        with pytest.raises(bagel_rt.InputError, match="max_position_embeddings"):
            session.add_text("word " * 2000)
        with pytest.raises(bagel_rt.InputError, match="noise has shape"):
            session.generate_image(noise=np.zeros((3, 64), np.float32), **FAST)
        assert small_bagel.free_tokens == free
        assert same(session.generate_image(**FAST), twin.generate_image(**FAST))


def test_a_session_in_the_middle_of_a_turn_refuses_another(session):
    session.add_text("a")
    events = session.stream_image(**FAST)
    next(events)
    for attempt in (lambda: session.add_text("b"), session.fork, session.generate_text):
        with pytest.raises(bagel_rt.BagelError, match="in the middle of a turn"):
            attempt()
    events.close()
    session.add_text("b")


def test_a_closed_session_says_so_ends_its_stream_and_gives_everything_back(small_bagel):
    session = small_bagel.session()
    session.add_text("a")
    events = session.stream_image(**FAST)
    next(events)
    session.close()
    session.close()
    with pytest.raises(bagel_rt.BagelError, match="this session was closed"):
        next(events)
    with pytest.raises(bagel_rt.BagelError, match="this session was closed"):
        session.add_text("b")
    assert small_bagel.free_tokens == bagel_rt.api.CACHE_TOKENS


def test_a_forgotten_session_keeps_no_memory(small_bagel):
    session = small_bagel.session()
    session.add_text("a")
    session.fork()
    del session
    gc.collect()
    assert small_bagel.free_tokens == bagel_rt.api.CACHE_TOKENS


def test_sessions_of_a_closed_model_say_so(small_artefact):
    bagel = bagel_rt.load(small_artefact, backend="onnxruntime")
    with bagel.session() as session:
        session.add_text("a")
        events = session.stream_image(**FAST)
        next(events)
        bagel.close()
        for attempt in (lambda: next(events), lambda: session.add_text("b"), bagel.session):
            with pytest.raises(bagel_rt.BagelError, match="this model was closed"):
                attempt()
    assert bagel.free_tokens == bagel_rt.api.CACHE_TOKENS


@pytest.mark.parametrize(
    "attempt, message",
    [
        (lambda s, b: s.generate_text(), "nothing was said"),
        (lambda s, b: s.generate_image(seed=3), "seed is chosen once for a session"),
        (lambda s, b: s.generate_text(think=True), "think is chosen once"),
        (lambda s, b: s.generate_image(think=True), 'open the session with think="image"'),
        (lambda s, b: s.generate_image(height=100), "nearest is height 96"),
        (lambda s, b: s.generate_image(cfg_text_scal=1), "did you mean"),
        (lambda s, b: s.add_text(3), "must be a str, not int"),
        (lambda s, b: s.add_image("no.png"), "no such image file"),
        (lambda s, b: s.rollback("mark"), r"what mark\(\)"),
        (lambda s, b: s.fork(seed="a"), "seed is 'a'"),
        (lambda s, b: b.session(seed=1.5), "integer"),
        (lambda s, b: b.session(think="loud"), "think is 'loud'; allowed"),
    ],
)
def test_what_a_session_cannot_do_is_refused_by_name(small_bagel, session, attempt, message):
    with pytest.raises(bagel_rt.InputError, match=message):
        attempt(session, small_bagel)
    assert kinds(session) == ""


def test_a_session_of_a_model_that_only_understands_answers_and_draws_nothing(small_artefact, photo):
    with bagel_rt.load(small_artefact, backend="onnxruntime") as bagel:
        bagel._turns.manifest = replace(bagel.manifest, task="understand")
        with bagel.session(think=True) as session:
            assert session.think == "text"
            with pytest.raises(bagel_rt.InputError, match="add images with vae=False"):
                session.add_image(photo)
            session.add_image(photo, vae=False)
            assert isinstance(session.generate_text(max_tokens=3).text, str)
            with pytest.raises(bagel_rt.InputError, match="cannot draw"):
                session.generate_image(**FAST)
        with pytest.raises(bagel_rt.InputError, match="cannot draw"):
            bagel.session(think="image")


def test_a_mark_of_another_model_is_refused(small_artefact, session):
    with bagel_rt.load(small_artefact, backend="onnxruntime") as other, other.session() as stranger:
        with pytest.raises(bagel_rt.InputError, match="a session of this model"):
            session.rollback(stranger.mark())


def test_sessions_in_several_threads_do_not_disturb_each_other(small_bagel):
    def talk(seed: int) -> list:
        with small_bagel.session(seed=seed) as session:
            session.add_text("a")
            drawn = session.generate_image(**FAST)
            session.add_text("b")
            return [drawn.latent.tobytes(), session.generate_text(max_tokens=5).token_ids]

    wanted, got = {s: talk(s) for s in range(4)}, {}
    threads = [threading.Thread(target=lambda s=s: got.__setitem__(s, talk(s))) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == wanted
    assert small_bagel.free_tokens == bagel_rt.api.CACHE_TOKENS


def test_a_picture_that_does_not_fit_any_more_is_not_lost(small_artefact):
    with bagel_rt.load(small_artefact, backend="onnxruntime", cache_tokens=48) as bagel:
        with bagel.session(seed=1) as session:
            session.add_text("a")
            mark = session.mark()
            assert isinstance(session.generate_image(**FAST).image, Image.Image)
            with pytest.raises(bagel_rt.CacheFullError, match="larger cache_tokens"):
                session.add_text("b")
            session.rollback(mark)
            session.add_text("b")
        assert bagel.free_tokens == 48
