"""The three contexts of guidance as plain data, and the tree that computes each segment once."""

from __future__ import annotations

import numpy as np
import pytest
from sizes import dims

import bagel_rt
from bagel_rt.inputs.segments import Gap, Histories, Latents, Patches, Text
from bagel_rt.kv_cache.page_pool import PagePool
from bagel_rt.model.context_tree import ContextTree

SYSTEM, PROMPT, MORE, THOUGHT = (Text((1, n, 2)) for n in range(10, 14))
VAE = Latents(np.zeros((6, 64), np.float32), (2, 3))
VIT = Patches(np.zeros((4, 588), np.float32), (2, 2))


def test_text_to_image_guides_against_nothing_and_its_image_context_is_the_prompt():
    h = Histories().with_text(PROMPT)
    assert (h.cond, h.cfg_text, h.cfg_img) == ((PROMPT,), (), (PROMPT,))


def test_an_edit_guides_against_the_image_alone_and_against_the_text_alone():
    h = Histories().with_image(VAE, VIT).with_text(PROMPT)
    assert (h.cond, h.cfg_text, h.cfg_img) == ((VAE, VIT, PROMPT), (VAE, VIT), (PROMPT,))


def test_the_text_context_drops_only_the_last_text_that_no_image_follows():
    h = Histories().with_text(PROMPT).with_image(VAE, VIT).with_text(MORE)
    assert h.cfg_text == (PROMPT, VAE, VIT)
    assert h.cfg_img == (PROMPT, MORE)
    last = Histories().with_text(PROMPT).with_image(VAE, VIT)
    assert last.cfg_text == last.cond


def test_thinking_puts_the_system_prompt_everywhere_and_the_thought_into_cond_alone():
    h = Histories().with_system(SYSTEM).with_text(PROMPT).with_thought(THOUGHT)
    assert (h.cond, h.cfg_text, h.cfg_img) == ((SYSTEM, PROMPT, THOUGHT), (SYSTEM,), (SYSTEM, PROMPT))


def test_a_system_prompt_alone_is_no_text_that_guidance_leads_away_from():
    assert Histories().with_system(SYSTEM) == Histories((SYSTEM,), (), (SYSTEM,))


def test_a_text_may_be_added_to_the_image_branch_alone_or_be_what_guidance_leads_away_from():
    h = Histories().with_text(PROMPT)
    assert h.with_cfg_img_text(THOUGHT) == Histories((PROMPT,), (), (PROMPT, THOUGHT))
    assert h.with_negative(MORE) == Histories((PROMPT,), (MORE,), (PROMPT,))


def test_the_system_prompt_leaves_its_positions_in_the_text_branch_where_it_is_taken_out():
    h = Histories().with_system(SYSTEM).with_text(PROMPT).with_text(MORE)
    assert h.without_system_in_cfg_text() == Histories(h.cond, (Gap(3), PROMPT), h.cfg_img)
    for without in (Histories(), Histories().with_text(PROMPT), Histories().with_image(VAE, VIT)):
        assert without.without_system_in_cfg_text() is without  # nothing to take out


def test_segments_are_equal_when_their_content_is():
    same = Latents(np.zeros((6, 64), np.float32), (2, 3))
    other = Latents(np.ones((6, 64), np.float32), (2, 3))
    assert same == VAE
    assert hash(same) == hash(VAE)
    assert other != VAE
    assert Patches(np.zeros((6, 64), np.float32), (2, 3)) != VAE


class FakePrefill:
    """Keys and values that say which segment, behind how many tokens, at which position."""

    def __init__(self):
        self.calls = []

    def run(self, segment, pool, past, position, adapter=()):
        self.calls.append((segment, past.length, position))
        return np.full((6, segment.tokens, 2, 4), len(self.calls), np.float32)


class FakeEvaluator:
    """Evaluates texts as the prefill computes images."""

    def __init__(self, prefill, pool):
        self._prefill, self._pool = prefill, pool

    def alone(self, ask):
        self._pool.append(ask.sequence, self._prefill.run(Text(ask.ids), self._pool, ask.sequence, ask.position))

    def together(self, asks):
        return {ask: self.alone(ask) for ask in asks}


def tree(pool, prefill, positions=100) -> ContextTree:
    return ContextTree(pool, prefill, FakeEvaluator(prefill, pool), positions)


@pytest.fixture
def pool():
    return PagePool(dims(), 128, page_size=4)


def test_equal_histories_are_one_context_and_nothing_is_computed_twice(pool):
    prefill = FakePrefill()
    with tree(pool, prefill).lease() as contexts:
        h = Histories().with_text(PROMPT)
        assert contexts.open(h.cond) is contexts.open(h.cfg_img)
        h = Histories().with_image(VAE, VIT).with_text(PROMPT)
        cond, text = contexts.open(h.cond), contexts.open(h.cfg_text)
        assert [c[0] for c in prefill.calls] == [PROMPT, VAE, VIT, PROMPT]
        assert prefill.calls[1:] == [(VAE, 0, 0), (VIT, 8, 1), (PROMPT, 14, 2)]
        assert (cond.length, cond.position) == (17, 5)  # images take one position, text one per token
        assert (text.length, text.position) == (14, 2)
        assert contexts.pool.read(cond.sequence)[0, :, 0, 0].tolist() == [2] * 8 + [3] * 6 + [4] * 3


def test_a_branch_continues_without_changing_what_it_came_from(pool):
    with tree(pool, FakePrefill()).lease() as contexts:
        context = contexts.open((PROMPT,))
        scratch = contexts.branch(context)
        pool.append(scratch.sequence, np.full((6, 2, 2, 4), 9, np.float32))
        assert context.length == 3
        assert pool.read(context.sequence)[0, :, 0, 0].tolist() == [1] * 3


def test_every_page_comes_back_also_after_an_error(pool):
    class Failing(FakePrefill):
        def run(self, segment, pool, past, position, adapter=()):
            if segment == MORE:
                raise RuntimeError("engine failed")
            return super().run(segment, pool, past, position)

    with pytest.raises(RuntimeError, match="engine failed"), tree(pool, Failing()).lease() as contexts:
        contexts.open((PROMPT, MORE))
    pool.table.check_integrity()
    assert pool.table.free_tokens == pool.table.total_tokens


def test_a_context_that_does_not_fit_says_so_and_gives_everything_back(pool):
    big = Latents(np.zeros((200, 64), np.float32), (10, 20))
    with pytest.raises(bagel_rt.CacheFullError, match=r"room for 12\d more tokens of 128, 202 were asked for"):
        with tree(pool, FakePrefill()).lease() as contexts:
            contexts.open((PROMPT, big))
    assert pool.table.free_tokens == 128


def test_a_position_beyond_the_models_last_is_refused(pool):
    with tree(pool, FakePrefill(), 5).lease() as contexts:
        with pytest.raises(bagel_rt.InputError, match="max_position_embeddings is 5"):
            contexts.open((PROMPT, MORE))
        assert contexts.open((PROMPT, VIT)).position == 4
