"""The guided velocity of one picture at a time: its branches evaluated or forecast, and combined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bagel_engines import Sums, Tensor, fetched, repeating
from bagel_rt.artefact import contract
from bagel_rt.engine_errors import named_failures
from bagel_rt.errors import NotFiniteError
from bagel_rt.inputs.segments import Grid, Histories
from bagel_rt.model.context_tree import Context, Lease
from bagel_rt.model.finite import check_finite
from bagel_rt.model.graphs import Graphs
from bagel_rt.model.step_graphs import Experts
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.sampling.guidance import Momentum, similarity
from bagel_rt.sampling.step_cache import TAYLORSEER, TaylorSeer
from bagel_rt.sampling.velocity_cache import VelocityCache


class GuidedFlow:
    """What a model says of one picture: a function of latents and time, with what guidance and step caches remember."""

    def __init__(
        self,
        graphs: Graphs,
        branches: Branches,
        rows: Callable[[np.ndarray, np.float32], Tensor],
        options: ImageOptions,
    ):
        """rows: embeds latents (n, 64) at a time for the generation expert."""
        self._graphs, self._branches, self._rows, self._options = graphs, branches, rows, options
        self._guidance, self._momentum = options.guidance, Momentum()
        self._guides = True  # until its two velocities are alike
        self._step = self._steps = 0
        self.last = np.zeros(0, np.float32)  # the velocity that was found last

    def begin(self, step: int, steps: int, x: np.ndarray) -> None:
        """The step number `step` (from 0) of `steps` begins, with latents x."""
        self._step, self._steps = step, steps
        self._branches.begin(step, x)

    @property
    def stage(self) -> str:
        """For messages."""
        return f"step {self._step + 1} of {self._steps}"

    def velocity(self, x: np.ndarray, t: np.float32) -> np.ndarray:
        """The guided velocity (n, 64). Raises NotFiniteError for what is not finite."""
        self.last = np.zeros_like(x) if self._step < self._options.cfg_zero_steps else self._guided(x, t)
        return self.last

    def _guided(self, x: np.ndarray, t: np.float32) -> np.ndarray:
        rows = _Lazy(lambda: self._rows(x, t))
        with repeating(self._graphs.engine):  # every step runs the same graphs at the same sizes
            velocities = self._branches.evaluate(self._names(t), t, x, rows)
        for name, branch in velocities.items():
            what = f"{self.stage}, the model's velocity ({name}) for latents up to {np.abs(x).max():.3g}"
            check_finite(branch, what, self._graphs.engine.info)
        self._branches.end(x, velocities["cond"])
        self._judge(velocities)
        with np.errstate(over="ignore", invalid="ignore"):  # check_latent says what it was
            return self._guidance.combine(velocities, t, x, self._momentum)

    def _names(self, t: np.float32) -> tuple[str, ...]:
        return self._guidance.branches(t) if self._guides else ("cond",)

    def _judge(self, velocities: dict[str, np.ndarray]) -> None:
        """End guidance once it would change little (adaptive guidance, Castillo et al. 2023, arXiv 2312.12487)."""
        most = self._options.cfg_stop_similarity
        if most is not None and "cfg_text" in velocities:
            self._guides = similarity(velocities["cond"], velocities["cfg_text"]) < most


def check_latent(x: np.ndarray, step: str, options: ImageOptions) -> None:
    """Raise NotFiniteError for a latent that options led beyond float32: the model's own numbers were finite."""
    if not np.isfinite(x).all():
        raise NotFiniteError(
            f"{step}, the latent: not finite (NaN or infinity), though what the model computed is. Usually an option's"
            f" value is far too large: cfg_text_scale is {options.cfg_text_scale:g}, cfg_img_scale"
            f" {options.cfg_img_scale:g}, timestep_shift {options.timestep_shift:g}"
        )


class _Lazy:
    """A value computed when first asked for: a step whose rows are all forecast needs no embedding."""

    def __init__(self, make):
        self._make, self._value = make, None

    def __call__(self) -> Tensor:
        if self._value is None:
            self._value = self._make()
        return self._value


class Branches:
    """The guidance branches of one picture: cond, cfg_text and cfg_img, each a context. Equal contexts share one
    evaluation.

    With TaylorSeer a branch forecasts from the steps it was evaluated at itself, and guidance may leave branches out
    of a step. So two branches share an evaluation only while their contexts and their numbers of calls are equal:
    then both have been evaluated at the same steps.
    """

    def __init__(
        self,
        contexts: Lease,
        histories: Histories,
        graphs: Graphs,
        experts: Experts,
        latents: int,
        sums: Sums | None,
        cache: VelocityCache | None,
    ):
        """sums: for TaylorSeer; cache: another step cache. None of them: every step is evaluated."""
        self._contexts, self._histories, self._graphs, self._experts = contexts, histories, graphs, experts
        self._latents, self._sums, self._cache = latents, sums, cache
        self._seers: dict[str, TaylorSeer] = {}
        self._frames: dict[int, dict[str, Tensor]] = {}

    def begin(self, step: int, x: np.ndarray) -> None:
        """A step of the picture begins, with latents x."""
        if self._cache is not None:
            self._cache.begin(step, x)

    def end(self, x: np.ndarray, cond: np.ndarray) -> None:
        """The step's latents and conditional velocity."""
        if self._cache is not None:
            self._cache.end(x, cond)

    def evaluate(self, names: tuple[str, ...], t: np.float32, x: np.ndarray, rows: _Lazy) -> dict[str, np.ndarray]:
        """Velocity (n, 64) of each named branch; `rows` are the embedded latents."""
        done: dict[tuple[int, int], tuple[Tensor, TaylorSeer | None]] = {}
        out = dict[str, Tensor]()
        for name in names:
            context = self._contexts.open(getattr(self._histories, name))
            seer = self._seers.setdefault(name, TaylorSeer(self._sums)) if self._sums else None
            key = (id(context), seer.calls if seer else 0)
            if key not in done:
                done[key] = (self._velocity(context, t, x, rows, seer), seer)
            elif seer:
                self._seers[name] = done[key][1].fork()  # type: ignore[union-attr]
            out[name] = done[key][0]
        with named_failures():
            return dict(zip(out, fetched(list(out.values())), strict=True))

    def _velocity(
        self, context: Context, t: np.float32, x: np.ndarray, latents: _Lazy, seer: TaylorSeer | None
    ) -> Tensor:
        """On the engine's device, where no step cache keeps velocities: another branch need not wait for it."""

        def evaluate(held: tuple[str, ...] = ()) -> Any:
            return self._graphs(contract.FLOW_HEAD, held=held, gen_out=self._rows(context, latents, seer))[0]

        if self._cache is None:
            return evaluate(("velocity",))
        return self._cache.velocity(id(context), t, x, evaluate)

    def _rows(self, context: Context, latents: _Lazy, seer: TaylorSeer | None) -> Tensor:
        frame = self._frame(context)
        if seer is None:
            return self._experts.held_rows(latents(), frame)
        with named_failures():  # the sums run on the engine, too
            return seer.step(lambda: self._experts.held_rows(latents(), frame))

    def _frame(self, context: Context) -> dict[str, Tensor]:
        if id(context) not in self._frames:
            self._contexts.check_position(context.position)
            self._frames[id(context)] = self._experts.frame(
                context.position, self._latents, self._contexts.pool, context.sequence, context.adapter
            )
        return self._frames[id(context)]


def branches_for(
    options: ImageOptions, steps: int, contexts: Lease, histories: Histories, graphs: Graphs, experts: Experts,
    grid: Grid, sums: Sums,
) -> Branches:  # fmt: skip
    """The branches of a picture of a grid drawn in `steps` steps, with the step cache that the options name."""
    kind, cache = options.step_cache, None
    if kind not in (None, TAYLORSEER):
        cache = VelocityCache(kind, steps, options.step_mask, options.step_cache_threshold)
    seers = sums if kind == TAYLORSEER else None
    return Branches(contexts, histories, graphs, experts, grid[0] * grid[1], seers, cache)
