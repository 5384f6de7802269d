"""Climatology: each member is a coherent piece of a training run, drawn at random, whatever the context shows.

It knows what the flow looks like and how it moves, and nothing of its present state: the reference against which
skill is skill. Members of a case are different windows of the training runs (as long as there are enough), and
other cases draw anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lbm.errors import DataError
from rvdflow.forecaster import Case, Forecaster
from rvdflow.frames import Frames
from rvdflow.noise import numpy_generator


class Climatology(Forecaster):
    """Windows of `frames`, of the trajectories `training` alone; `read` reads them from elsewhere, as from memory."""

    method = "climatology"

    def __init__(
        self,
        frames: Frames,
        training: Sequence[int],
        read: Callable[[int, int, int], np.ndarray] | None = None,
    ):
        self.frames, self.training, self.read = frames, tuple(training), read or frames.read
        self.variables = frames.variables

    def stamp(self) -> dict[str, Any]:
        return {"fitted_on": f"train: {len(self.training)} runs, {len(self.training) * self.frames.times} frames"}

    def draw(
        self, context: np.ndarray, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int
    ) -> np.ndarray:
        drawn = np.empty((len(cases), len(members), lead, *self.frames.frame_shape), dtype=np.float32)
        for i, (trajectory, init_time) in enumerate(cases):
            windows = self.windows(trajectory, init_time, members, lead, seed)
            for j, (run, start) in enumerate(windows):
                drawn[i, j] = self.read(run, start, start + lead)
        return drawn

    def windows(
        self, trajectory: int, init_time: int, members: Sequence[int], lead: int, seed: int
    ) -> list[tuple[int, int]]:
        """(training run, first frame) of each member of one case: places in one permutation of all windows."""
        starts = self.frames.times - lead + 1
        if starts < 1:
            raise DataError(f"a climatology of lead {lead} needs runs as long; they have {self.frames.times} frames")
        count = starts * len(self.training)
        order = numpy_generator(seed, "climatology", trajectory, init_time).permutation(count)
        places = (divmod(int(order[member % count]), starts) for member in members)
        return [(self.training[run], start) for run, start in places]
