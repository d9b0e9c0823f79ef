"""The rectified-flow sampler: noise to latent, guided by up to three contexts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from bagel_engines import Sums, Tensor, repeating
from bagel_rt.artefact import contract
from bagel_rt.engine_errors import named_failures
from bagel_rt.errors import NotFiniteError
from bagel_rt.events import Step
from bagel_rt.inputs.segments import Grid, Histories
from bagel_rt.model.context_tree import Context, Lease
from bagel_rt.model.finite import check_finite
from bagel_rt.model.graphs import Graphs
from bagel_rt.model.prefill import Prefill
from bagel_rt.model.step_graphs import Experts
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.sampling.schedule import timesteps
from bagel_rt.sampling.step_cache import TaylorSeer


class FlowSampler:
    def __init__(self, graphs: Graphs, experts: Experts, prefill: Prefill):
        self._graphs, self._experts, self._prefill = graphs, experts, prefill
        self._sums = Sums(graphs.engine)

    def draw(
        self, contexts: Lease, histories: Histories, x: np.ndarray, grid: Grid, options: ImageOptions
    ) -> Iterator[Step]:
        """Integrate from noise x (h * w, 64) to the latent by Euler steps, yielding after each of num_timesteps - 1."""
        guidance = options.guidance
        times = timesteps(options.num_timesteps, options.timestep_shift)
        branches = _Branches(contexts, histories, self._experts, len(x), self._sums if options.step_cache else None)
        for i, (t, after) in enumerate(pairwise(times)):
            rows = _Lazy(lambda x=x, t=t: self._prefill.latent_rows(x, t, grid))
            with repeating(self._graphs.engine):  # every step runs the same graphs at the same sizes
                velocities = branches.evaluate(guidance.branches(t), rows, self._velocity)
            step = f"step {i + 1} of {len(times) - 1}"
            for name, branch in velocities.items():
                what = f"{step}, the model's velocity ({name}) for latents up to {np.abs(x).max():.3g}"
                check_finite(branch, what, self._graphs.engine.info)
            with np.errstate(over="ignore", invalid="ignore"):  # said below, by what it was
                velocity = guidance.combine(velocities, t)
                x = x - velocity * (t - after)
            _check_latent(x, step, options)
            yield Step(i + 1, len(times) - 1, float(after), x, velocity, grid)

    def _velocity(self, rows: Tensor) -> np.ndarray:
        (velocity,) = self._graphs(contract.FLOW_HEAD, gen_out=rows)
        return velocity


def _check_latent(x: np.ndarray, step: str, options: ImageOptions) -> None:
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


class _Branches:
    """The guidance branches of one picture: cond, cfg_text and cfg_img, each a context. Equal contexts share one
    evaluation.

    With step caching a branch forecasts from the steps it was evaluated at itself, and guidance may leave branches out
    of a step. So two branches share an evaluation only while their contexts and their numbers of calls are equal:
    then both have been evaluated at the same steps.
    """

    def __init__(self, contexts: Lease, histories: Histories, experts: Experts, latents: int, sums: Sums | None):
        self._contexts, self._histories, self._experts = contexts, histories, experts
        self._latents, self._sums = latents, sums  # None: no step cache
        self._seers: dict[str, TaylorSeer] = {}
        self._frames: dict[int, dict[str, Tensor]] = {}

    def evaluate(self, names: tuple[str, ...], rows: _Lazy, velocity) -> dict[str, np.ndarray]:
        """Velocity (n, 64) of each named branch; `rows` are the embedded latents, `velocity` the flow head."""
        done: dict[tuple[int, int], tuple[np.ndarray, TaylorSeer | None]] = {}
        out = {}
        for name in names:
            context = self._contexts.open(getattr(self._histories, name))
            seer = self._seers.setdefault(name, TaylorSeer(self._sums)) if self._sums else None
            key = (id(context), seer.calls if seer else 0)
            if key not in done:
                done[key] = (velocity(self._rows(context, rows, seer)), seer)
            elif seer:
                self._seers[name] = done[key][1].fork()  # type: ignore[union-attr]
            out[name] = done[key][0]
        return out

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
                context.position, self._latents, self._contexts.pool, context.sequence
            )
        return self._frames[id(context)]
