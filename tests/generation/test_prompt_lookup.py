"""Guessing a text's next tokens from what was read: the same text, fewer calls, and no page left behind."""

from __future__ import annotations

import numpy as np
import pytest
from golden_cases import names, read

import bagel_rt
from bagel_rt.api import CACHE_TOKENS
from bagel_rt.generation import text_decoder
from bagel_rt.sampling.prompt_lookup import MOST, PromptLookup

TEXTS = [n for n in names("t2i", "edit", "interleave", "text", "understand") if read(n).wants_text]
LONG = {"max_tokens": 60, "seed": 1}


def test_a_guess_is_what_followed_the_last_tokens_the_last_time():
    lookup = PromptLookup([1, 2, 3, 4, 5, 9, 2, 3, 6, 7, 8, 2, 3], 7)
    assert lookup.guess(7) == (6, 7)  # two at first; no run of three is known
    lookup.judge((6, 7), [6, 7, 8])
    assert lookup.guess(7) == (2, 3, 6, 7)
    assert lookup.guess(1) == (2,)
    assert lookup.guess(0) == lookup.guess(-3) == ()
    lookup.judge((2, 3, 6, 7), [4])
    assert lookup.guess(7) == ()
    assert PromptLookup([1, 2, 1, 2], 0).guess(7) == ()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_recorded_texts_are_the_same_with_guesses(golden_artefact, backend):
    with bagel_rt.load(golden_artefact, backend) as bagel:
        for name in TEXTS:
            case = read(name)
            found = bagel.interleave(case.items, output="text", prompt_lookup=MOST, **case.options)
            assert found.token_ids == case.arrays["text0.returned_ids"].tolist(), name
            assert bagel.free_tokens == CACHE_TOKENS


def written(bagel, most: int, **how) -> tuple[list[int], int, int]:
    """Token ids, calls of the text's head, events."""
    bagel.graphs.calls.clear()
    events = list(bagel.stream(["a b a b a b"], "text", prompt_lookup=most, **{**LONG, **how}))
    return events[-1].result.token_ids, bagel.graphs.calls["lm_head"], len(events)


@pytest.mark.parametrize(
    "how", [{}, {"do_sample": True, "text_temperature": 0.05}, {"do_sample": True, "text_temperature": 2.0}]
)
def test_a_text_is_the_same_with_fewer_calls_and_an_event_for_each_token(small_bagel, how):
    plain, calls, events = written(small_bagel, 0, **how)
    assert calls in (len(plain), len(plain) - 1)  # one for every token behind im_start, and for im_end
    for most in (1, MOST):
        guessed, fewer, told = written(small_bagel, most, **how)
        assert (guessed, told) == (plain, events)
        assert fewer <= calls
    assert how or fewer < calls
    assert small_bagel.free_tokens == CACHE_TOKENS


@pytest.mark.parametrize("shift, share", [(0, 8), (1, 1)])
def test_right_guesses_make_a_call_of_eight_tokens_and_wrong_ones_change_nothing(
    small_bagel, monkeypatch, shift, share
):
    plain, calls, _ = written(small_bagel, 0)

    class Knowing:
        """Guesses the text that was written before, or always the token beside the right one."""

        def __init__(self, ids, most):
            self.at = 1

        def guess(self, room):
            return tuple(token + shift for token in plain[self.at :][: max(0, min(MOST, room))])

        def judge(self, guess, chosen):
            self.at += len(chosen)

    monkeypatch.setattr(text_decoder, "PromptLookup", Knowing)
    ids, made, _ = written(small_bagel, MOST)
    assert ids == plain
    assert made == -(-calls // share)
    assert small_bagel.free_tokens == CACHE_TOKENS


@pytest.mark.parametrize("tokens", [1, 2, 3, 9])
def test_the_limit_of_tokens_holds_and_later_random_numbers_are_the_same(small_bagel, tokens):
    marks = []
    for most in (0, MOST):
        with small_bagel.session(seed=7) as session:
            session.add_text("a b a b")
            text = session.generate_text(max_tokens=tokens, prompt_lookup=most, do_sample=True, text_temperature=0.05)
            marks.append((text.token_ids, session.mark().noise.normal(4, 64).tobytes()))
    assert marks[0] == marks[1]


def test_a_full_cache_ends_a_text_where_it_does_without_guesses(small_artefact):
    ends = []
    for most in (0, MOST):
        with bagel_rt.load(small_artefact, "onnxruntime", cache_tokens=48) as bagel:
            seen = []
            with pytest.raises(bagel_rt.CacheFullError):
                for event in bagel.stream(["a b a b"], "text", prompt_lookup=most, max_tokens=100, seed=1):
                    seen.append(event)
            assert bagel.free_tokens == 48
            ends.append(seen)
    assert ends[0] == ends[1]


@pytest.mark.parametrize("stop", [1, 2, 7, 20])
def test_closing_in_the_middle_of_a_guess_leaves_no_page(small_bagel, stop):
    with small_bagel.session(seed=1) as session:
        session.add_text("a b a b")
        mark, free = session.mark(), small_bagel.free_tokens
        events = session.stream_text(prompt_lookup=MOST, **{"max_tokens": 60})
        for _ in range(stop):
            next(events)
        small_bagel._turns.pool.table.check_integrity()
        events.close()
        assert small_bagel.free_tokens == free
        session.rollback(mark)
        small_bagel._turns.pool.table.check_integrity()
    assert small_bagel.free_tokens == CACHE_TOKENS


def test_a_row_of_a_guess_that_is_not_finite_is_told_behind_the_tokens_before_it(small_bagel, monkeypatch):
    whole, ends = text_decoder.TextDecoder._evaluated, []

    def spoiled(self, contexts, scratch, ids, likeliest):
        first = scratch.length
        logits = np.array((yield from whole(self, contexts, scratch, ids, likeliest=False)))
        logits[max(0, 30 - first) :] = np.nan  # from the context's 30th token on
        return logits

    monkeypatch.setattr(text_decoder.TextDecoder, "_evaluated", spoiled)
    for most in (0, MOST):
        seen = []
        with pytest.raises(bagel_rt.NotFiniteError, match="of the text, the logits") as error:
            for event in small_bagel.stream(["a b a b"], "text", prompt_lookup=most, **LONG):
                seen.append(event)
        ends.append((seen, str(error.value)))
        assert small_bagel.free_tokens == CACHE_TOKENS
    assert ends[0] == ends[1]


@pytest.mark.parametrize("bad", [-1, 8, 1.5, True])
def test_a_number_of_guesses_that_is_not_allowed_is_refused(small_bagel, bad):
    with pytest.raises(bagel_rt.InputError, match="prompt_lookup is"):
        small_bagel.ask("a", prompt_lookup=bad)
