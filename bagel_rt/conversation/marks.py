"""Where a session stands: a value that can be kept, gone back to and continued twice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from bagel_rt.errors import InputError
from bagel_rt.generation.reader import Reading
from bagel_rt.generation.turns import Turns
from bagel_rt.inputs.system_prompts import THINK_THEN_ANSWER, THINK_THEN_DRAW
from bagel_rt.options import checks
from bagel_rt.options.options import Encoding
from bagel_rt.options.seeds import draw_seed, text_random
from bagel_rt.sampling.torch_noise import TorchNoise

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["image", "text"] | None
Think = Kind | bool


@dataclass(frozen=True)
class Drawn:
    """A finished picture, which enters the contexts when they are next used: the last one costs nothing."""

    image: Image
    how: Encoding


@dataclass(frozen=True, eq=False)
class Mark:
    """What was said, and where the random numbers are. It holds no memory of the page pool."""

    turns: Turns
    reading: Reading
    seed: int
    noise: TorchNoise  # of the seed; copied before anything is drawn from it
    random: np.random.Generator  # of sampled text; likewise
    think: Kind = None
    drawn: Drawn | None = None  # said after everything in `reading`

    def with_seed(self, seed: int) -> Mark:
        """The same place, with random numbers that start afresh."""
        return replace(self, seed=int(seed), noise=TorchNoise(seed), random=text_random(seed))


def beginning(turns: Turns, seed: int | None, think: Think) -> Mark:
    """Nothing said yet. Raises InputError for an unknown `think`, or one that the artefact cannot do."""
    checks.whole("seed", seed, least=None, optional=True)
    kind, seed = _kind_of_thinking(think, turns), draw_seed(seed)
    system = {"image": THINK_THEN_DRAW, "text": THINK_THEN_ANSWER, None: None}[kind]
    return Mark(turns, turns.reader.start(system), seed, TorchNoise(seed), text_random(seed), kind)


def _kind_of_thinking(think: Think, turns: Turns) -> Kind:
    if isinstance(think, bool) or think is None:
        return None if not think else "image" if turns.manifest.task == "full" else "text"
    if think not in ("image", "text"):
        raise InputError(f'think is {think!r}; allowed: None, "image" (plan pictures), "text" (reason in answers)')
    if think == "image":
        turns.check_draws()
    return think
