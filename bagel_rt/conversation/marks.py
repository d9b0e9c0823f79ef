"""A `Mark` is the state of a session as an immutable value: what was read, and where its random numbers are.

Session.mark() hands it out, rollback() goes back to it, fork() begins a second session at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from bagel_rt.errors import InputError
from bagel_rt.generation.reader import Reading
from bagel_rt.generation.turns import Turns
from bagel_rt.inputs.system_prompts import THINK_THEN_ANSWER, THINK_THEN_DRAW, first_of
from bagel_rt.options import checks
from bagel_rt.options.encoding import Encoding
from bagel_rt.options.seeds import draw_seed
from bagel_rt.sampling.torch_noise import TorchNoise

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["image", "text"] | None
Think = Kind | bool


@dataclass(frozen=True)
class Drawn:
    """A picture the session drew and has not encoded as an input image yet.

    That happens when the session goes on, so that the last picture of a session is never encoded for nothing.
    """

    image: Image
    how: Encoding


@dataclass(frozen=True, eq=False)
class Mark:
    """A session's state. It names the contexts by their content and holds no memory in the key-value cache: going back
    to an old mark computes again what was given back meanwhile."""

    turns: Turns
    reading: Reading  # texts and images so far
    seed: int
    noise: TorchNoise  # its random numbers; copied before anything is drawn from them, so that the mark stays as it is
    think: Kind = None
    system: str | None = None  # the system prompt as it was asked for
    adapter: Mapping[str, float] | None = None  # checked
    drawn: Drawn | None = None  # comes after everything in `reading`

    def __repr__(self) -> str:
        return f"Mark({len(self.reading.texts)} texts, {len(self.reading.histories.cond)} segments, seed {self.seed})"

    def with_seed(self, seed: int) -> Mark:
        """The same state, with random numbers that start afresh."""
        return replace(self, seed=int(seed), noise=TorchNoise(seed))


def beginning(turns: Turns, seed: int | None, think: Think, system: str | None = None, adapter: Any = None) -> Mark:
    """The mark of a new session. Raises InputError for an unknown `think`, or one that the artefact cannot do,
    and for an adapter that was not loaded."""
    system = checks.text("system", system, optional=True)
    adapter = checks.adapters("adapter", adapter)
    turns.graphs.adapters.check(adapter)
    seed = checks.whole("seed", seed, least=None, optional=True)
    kind, seed = _kind_of_thinking(think, turns), draw_seed(seed)
    official = {"image": THINK_THEN_DRAW, "text": THINK_THEN_ANSWER, None: None}[kind]
    reading = turns.reader.start(first_of(system, turns.manifest.system, official))
    return Mark(turns, reading, seed, TorchNoise(seed), kind, system=system, adapter=adapter)


def _kind_of_thinking(think: Think, turns: Turns) -> Kind:
    think = checks.plain(think)
    if isinstance(think, bool) or think is None:
        return None if not think else "image" if turns.manifest.task == "full" else "text"
    if not isinstance(think, str) or think not in ("image", "text"):
        seen = checks.shown(think)
        raise InputError(f'think is {seen}; allowed: None, "image" (plan pictures), "text" (reason in answers)')
    if think == "image":
        turns.check_draws()
    return think
