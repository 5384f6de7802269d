"""Linear extrapolation: the last change goes on, x_{t+k} = x_t + k (x_t - x_{t-1}). One member, deterministic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rvdflow.baselines.reference import require_context
from rvdflow.forecaster import Case, Forecaster


class LinearExtrapolation(Forecaster):
    """x_{t+1} = 2 x_t - x_{t-1}, again and again."""

    method = "linear-extrapolation"
    deterministic = True
    needs = 2

    def draw(
        self, context: np.ndarray, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int
    ) -> np.ndarray:
        require_context(self.method, self.needs, context.shape[1])
        last = context[:, -1].astype(np.float32)
        change = last - context[:, -2]
        leads = np.arange(1, lead + 1, dtype=np.float32)[:, None, None, None]
        drawn = last[:, None, None] + leads * change[:, None, None]
        return np.broadcast_to(drawn, (len(cases), len(members), *drawn.shape[2:])).copy()

    def stamp(self) -> dict[str, str]:
        return {"fitted_on": "nothing"}
