"""Climatology: each member is a coherent piece of a training run, drawn at random, whatever the context shows.

It knows what the flow looks like and how it moves, and nothing of its present state: the reference against which
skill is skill. Members of a case are different windows of the training runs (as long as there are enough), and
other cases draw anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lbm.errors import DataError
from rvdflow.forecaster import Case, Forecaster, Seen, spans
from rvdflow.frames import Frames, Places
from rvdflow.noise import numpy_generator

if TYPE_CHECKING:
    from rvdflow.baselines.training import Training


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

    @classmethod
    def fit(cls, data: Training) -> Self:
        return cls(data.frames, data.runs, data.read)

    def stamp(self) -> dict[str, Any]:
        count = int(self.frames.lengths[list(self.training)].sum())
        return {"fitted_on": f"train: {len(self.training)} runs, {count} frames"}

    def roll(
        self, seen: Seen, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int
    ) -> Iterator[np.ndarray]:
        windows = [self.windows(*case, members, lead, seed) for case in cases]
        for first, stop in spans(lead):
            yield np.array([[self.read(run, t + first, t + stop) for run, t in of_case] for of_case in windows])

    def windows(
        self, trajectory: int, init_time: int, members: Sequence[int], lead: int, seed: int
    ) -> list[tuple[int, int]]:
        """(training run, first frame) of each member of one case: places in one permutation of all windows."""
        places = Places(self.frames, self.training, lead)
        if not places:
            longest = self.frames.longest(self.training)
            raise DataError(f"a climatology of lead {lead} needs runs as long; they have {longest} frames")
        order = numpy_generator(seed, "climatology", trajectory, init_time).permutation(len(places))
        return [places[int(order[member % len(places)])] for member in members]
