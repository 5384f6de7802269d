"""Dressing: a deterministic forecast plus the errors it made elsewhere.

    member = forecast + (truth - forecast of the same method) at a random case of the validation runs

(Roulston and Smith 2003, doi:10.1034/j.1600-0870.2003.201378.x). Residuals are whole sequences, fields by lead, so
members are coherent in space and time, and have the method's bias taken off. They come from validation runs, from
training runs where there are none (then they are too small if the method was fitted closely), never from the run that
is forecast. Members of a case carry different residuals, as long as there are enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lbm.errors import DataError, UsageError
from rvdflow.baselines.training import Training
from rvdflow.forecaster import Case, Forecaster, Seen
from rvdflow.frames import Frames, Places
from rvdflow.noise import numpy_generator

POOL = 256  # residual sequences kept at most
POOL_BYTES = 512 * 2**20  # that they take at most


class Dressed(Forecaster):
    """`base`, a deterministic method, dressed with its residuals in `data`."""

    def __init__(self, base: Forecaster, data: Training):
        if not base.deterministic:
            raise UsageError(f"{base.method} is an ensemble already: only a deterministic method can be dressed")
        self.method = f"{base.method}-dressed"
        self.base, self.data, self.variables = base, data, base.variables or data.frames.variables
        self.needs = base.needs
        self.runs = data.validation or data.runs
        self.origin = "validation" if data.validation else "train (there is no validation run)"
        self._pool: tuple[tuple[int, int], np.ndarray, np.ndarray] | None = None

    def check(self, dataset: Any, frames: Frames) -> None:
        if frames.frame_shape != self.data.frames.frame_shape:
            raise DataError(f"{self.method} has residuals of frames {self.data.frames.frame_shape}, not of such data")
        self.base.check(dataset, frames)

    def stamp(self) -> dict[str, Any]:
        cases = len(self._places(self.data.context, self.data.lead))
        return self.base.stamp() | {"dressed_with": f"{cases} residual sequences of {self.origin}"}

    def roll(
        self, seen: Seen, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int
    ) -> Iterator[np.ndarray]:
        runs, pool = self._residuals(seen.context, lead)
        worn = np.empty((len(cases), len(members)), dtype=int)  # number of the residual that a member wears
        for i, (trajectory, init_time) in enumerate(cases):
            usable = np.flatnonzero(runs != trajectory)
            if not len(usable):
                raise DataError(
                    f"{self.method}: no residual for trajectory {trajectory}, which is the only run of them"
                )
            order = numpy_generator(seed, self.method, trajectory, init_time).permutation(usable)
            worn[i] = [order[member % len(order)] for member in members]
        first = 0
        for block in self.base.roll(seen, cases, [0], lead, 0):
            stop = first + block.shape[2]
            yield block + pool[worn, first:stop]
            first = stop

    def _places(self, context: int, lead: int) -> list[tuple[int, int]]:
        """(run, init time) of the residuals, evenly spread."""
        places = Places(self.data.frames, self.runs, context + lead)
        count = min(POOL, max(2, POOL_BYTES // (4 * lead * int(np.prod(self.data.frames.frame_shape)))))
        if not places:
            return []
        chosen = np.unique(np.linspace(0, len(places) - 1, count).round().astype(int))
        return [(run, start + context - 1) for run, start in (places[int(k)] for k in chosen)]

    def _residuals(self, context: int, lead: int) -> tuple[np.ndarray, np.ndarray]:
        """(run of each, residual sequences (case, lead, channel, y, x)), computed once for a context and lead."""
        if self._pool is None or self._pool[0] != (context, lead):
            places = self._places(context, lead)
            if not places:
                raise DataError(f"{self.method} needs {self.origin} runs of {context + lead} frames to dress with")
            pool = np.empty((len(places), lead, *self.data.frames.frame_shape), np.float32)
            for first in range(0, len(places), 8):
                some = places[first : first + 8]
                a = 0
                for block in self.base.roll(self.data.seen(some, context), some, [0], lead, 0):
                    b = a + block.shape[2]
                    after = np.stack([self.data.read(k, t + 1 + a, t + 1 + b) for k, t in some])
                    pool[first : first + 8, a:b] = after - block[:, 0]
                    a = b
            self._pool = (context, lead), np.array([k for k, _ in places]), pool
        return self._pool[1:]
