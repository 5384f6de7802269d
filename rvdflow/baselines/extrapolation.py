"""Linear extrapolation: the last change goes on, x_{t+k} = x_t + k (x_t - x_{t-1}). One member, deterministic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rvdflow.forecaster import Case, Forecaster, Seen, spans


class LinearExtrapolation(Forecaster):
    """x_{t+1} = 2 x_t - x_{t-1}, again and again."""

    method = "linear-extrapolation"
    deterministic = True
    needs = 2

    def roll(
        self, seen: Seen, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int
    ) -> Iterator[np.ndarray]:
        last = seen.frames[:, -1]
        change = last - seen.frames[:, -2]
        for first, stop in spans(lead):
            leads = np.arange(first + 1, stop + 1, dtype=np.float32)[:, None, None, None]
            drawn = last[:, None, None] + leads * change[:, None, None]
            yield np.broadcast_to(drawn, (len(cases), len(members), *drawn.shape[2:])).copy()

    def stamp(self) -> dict[str, str]:
        return {"fitted_on": "nothing"}
