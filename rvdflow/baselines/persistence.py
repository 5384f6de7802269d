"""Persistence: every lead repeats the last frame seen. One member, deterministic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rvdflow.forecaster import Case, Forecaster, Seen, spans


class Persistence(Forecaster):
    """x^{t+k} = x^t for every lead k."""

    method = "persistence"
    deterministic = True

    def roll(
        self, seen: Seen, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int
    ) -> Iterator[np.ndarray]:
        last = seen.frames[:, -1]
        for first, stop in spans(lead):
            yield np.broadcast_to(last[:, None, None], (len(cases), len(members), stop - first, *last.shape[1:])).copy()

    def stamp(self) -> dict[str, str]:
        return {"fitted_on": "nothing"}
