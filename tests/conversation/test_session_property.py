"""Whatever was said, forked and undone: a session is what a fresh one on the same history is."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import bagel_rt

WORDS = ("a", "red cube", "树", "")
PICTURES = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (64, 80, 3)).astype(np.uint8)) for n in range(2)]
ENCODERS = ({}, {"vae": False}, {"vit": False}, {"vae_sample": False})
TURNS = {  # each with a way to choose how
    "text": lambda s, n: s.add_text(WORDS[n % len(WORDS)]),
    "image": lambda s, n: s.add_image(PICTURES[n % 2], **ENCODERS[n % len(ENCODERS)]),
    "answer": lambda s, n: s.generate_text(max_tokens=1 + n % 5, do_sample=bool(n % 2), text_temperature=3.0),
    "draw": lambda s, n: s.generate_image(
        height=32, width=48, num_timesteps=3, max_think_tokens=4, negative_prompt=(None, "b")[n % 2]
    ),
}
MOVES = st.lists(
    st.tuples(
        st.sampled_from([*TURNS, "mark", "rollback", "fork", "cancel", "close"]), st.integers(0, 5), st.integers(0, 7)
    ),
    min_size=4,
    max_size=14,
)


@dataclass
class Followed:
    """A session, the turns that led to where it stands, and what they returned."""

    session: bagel_rt.Session
    turns: list[tuple[str, int]] = field(default_factory=list)
    results: list[bytes] = field(default_factory=list)
    marks: list[tuple] = field(default_factory=list)

    def take(self, name: str, n: int) -> None:
        self.results.append(outcome(TURNS[name](self.session, n)))
        self.turns.append((name, n))

    def fork(self) -> Followed:
        return Followed(self.session.fork(), self.turns[:], self.results[:], self.marks[:])

    def mark(self) -> None:
        self.marks.append((self.session.mark(), self.turns[:], self.results[:]))

    def rollback(self, n: int) -> None:
        if self.marks:
            mark, turns, results = self.marks[n % len(self.marks)]
            self.session.rollback(mark)
            self.turns, self.results = turns[:], results[:]

    def cancel(self, n: int) -> None:
        events = self.session.stream_text(max_tokens=8) if n % 2 else self.session.stream_image(height=32, width=32)
        for _ in range(n % 3):
            next(events)
        events.close()


def outcome(result) -> bytes:
    if isinstance(result, bagel_rt.ImageResult):
        return result.latent.tobytes() + (result.text or "").encode()
    return repr(result.token_ids).encode() if isinstance(result, bagel_rt.TextResult) else b""


def replayed(bagel, turns, think) -> list[bytes]:
    with bagel.session(seed=5, think=think) as fresh:
        return [outcome(TURNS[name](fresh, n)) for name, n in turns]


def perform(bagel, moves, think) -> list[Followed]:
    alive = [Followed(bagel.session(seed=5, think=think))]
    alive[0].take("text", 0)
    for name, which, n in moves:
        if not alive:
            break
        one = alive[which % len(alive)]
        if name in TURNS:
            one.take(name, n)
        elif name == "fork":
            alive.append(one.fork())
        elif name == "close":
            alive.remove(one)
            one.session.close()
        elif name == "mark":
            one.mark()
        else:
            getattr(one, name)(n)
    return alive


@pytest.fixture(scope="module")
def fresh_bagel(small_artefact):
    with bagel_rt.load(small_artefact, backend="onnxruntime") as bagel:
        yield bagel


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=MOVES, think=st.sampled_from([None, "image"]))
def test_turns_forks_and_rollbacks_equal_a_fresh_run_on_the_same_history(small_bagel, fresh_bagel, moves, think):
    alive = perform(small_bagel, moves, think)
    table = small_bagel._turns.pool.table
    table.check_integrity()
    for one in alive:
        assert one.results == replayed(fresh_bagel, one.turns, think)
    for one in alive:
        one.session.close()
    table.check_integrity()
    assert table.free_tokens == table.total_tokens
