"""The rectified-flow sampler: noise to latent, guided by up to three contexts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from bagel_engines import Sums
from bagel_rt.events import Step
from bagel_rt.generation.guided_flow import GuidedFlow, branches_for, check_latent
from bagel_rt.inputs.segments import Grid, Histories
from bagel_rt.model.context_tree import Lease
from bagel_rt.model.graphs import Graphs
from bagel_rt.model.prefill import Prefill
from bagel_rt.model.step_graphs import Experts
from bagel_rt.options.image_options import ImageOptions
from bagel_rt.sampling.keeping import Kept
from bagel_rt.sampling.schedule import timesteps
from bagel_rt.sampling.solvers import SOLVERS


class FlowSampler:
    def __init__(self, graphs: Graphs, experts: Experts, prefill: Prefill):
        self._graphs, self._experts, self._prefill = graphs, experts, prefill
        self._sums = Sums(graphs.engine)

    def draw(
        self,
        contexts: Lease,
        histories: Histories,
        x: np.ndarray,
        grid: Grid,
        options: ImageOptions,
        first: int = 0,
        kept: Kept | None = None,
    ) -> Iterator[Step]:
        """Integrate latents x (h * w, 64) to time 0, yielding after each step of the options' schedule.

        first: the step, counted from 0, that x stands at; before it x is noise. kept: what stays of another picture.
        """
        times = timesteps(options.num_timesteps, options.timestep_shift)[first:]
        steps, solver = len(times) - 1, SOLVERS[options.solver]()
        branches = branches_for(options, steps, contexts, histories, self._graphs, self._experts, grid, self._sums)
        flow = GuidedFlow(self._graphs, branches, self._prefill.row_embedder(grid, self._sums), options)
        for i, (t, after) in enumerate(pairwise(times)):
            flow.begin(i, steps, x)
            with np.errstate(over="ignore", invalid="ignore"):  # said below, by what it was
                there = solver.advance(x, t, after, flow.velocity)
            check_latent(there, flow.stage, options)
            velocity = flow.last if options.solver == "euler" else (x - there) / (t - after)
            x = there if kept is None else kept.restored(there, after)
            yield Step(i + 1, steps, float(after), x, velocity, grid)
