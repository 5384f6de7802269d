"""Persistence: every lead repeats the last frame seen. One member, deterministic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rvdflow.forecaster import Case, Forecaster


class Persistence(Forecaster):
    """x^{t+k} = x^t for every lead k."""

    method = "persistence"
    deterministic = True

    def draw(
        self, context: np.ndarray, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int
    ) -> np.ndarray:
        last = context[:, -1].astype(np.float32, copy=False)
        return np.broadcast_to(last[:, None, None], (len(cases), len(members), lead, *last.shape[1:])).copy()

    def stamp(self) -> dict[str, str]:
        return {"fitted_on": "nothing"}
