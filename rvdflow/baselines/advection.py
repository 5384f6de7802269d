"""Advection: the pattern of the last frames moves on as it has moved. One member, deterministic.

The displacement is estimated from the last three frames (two where there are no more), see `optical_flow`. The only
thing fitted is the width of its window, chosen on validation runs by the mean absolute error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np

from rvdflow.baselines.choosing import choose, horizon, judged_cases, record
from rvdflow.baselines.optical_flow import carry, displacement
from rvdflow.baselines.reference import Reference
from rvdflow.baselines.training import Climate, Training
from rvdflow.forecaster import Case, Seen

WINDOWS = (2.0, 4.0, 8.0, 16.0)  # pixels
SEEN = 3  # frames
JUDGED = 16  # forecasts that judge a window


class Advection(Reference):
    """See the module."""

    method = "advection"
    deterministic = True
    needs = 2

    def __init__(self, data: Training, scale: np.ndarray, window: float = 4.0):
        super().__init__(data)
        self.scale, self.window = scale, window
        self.fitted |= {"window_pixels": window}

    @classmethod
    def fit(cls, data: Training) -> Self:
        scale = Climate(data).scale
        _, held, judged_on = data.parts()
        lead = horizon(held, data.context, data.lead)
        places = judged_cases(held, data.context, lead)[:: max(1, 32 // JUDGED)] if lead else []
        cases = [(held[i].run, held[i].start + t) for i, t in places]
        widths = [w for w in WINDOWS if 4 * w <= max(data.frames.height, data.frames.width)] or [WINDOWS[0]]
        best = widths[0]
        if cases:
            seen = data.seen(cases, data.context)
            after = np.stack([data.read(k, t + 1, t + 1 + lead) for k, t in cases])
            fluid = ~seen.solid[:, None, None]

            def judge(width: float) -> float:
                drawn = cls(data, scale, width).draw(seen, cases, [0], lead, 0)[:, 0]
                return float((abs(drawn - after) * fluid / scale[:, None, None]).mean())

            best = choose(widths, judge)[0]
        made = cls(data, scale, best)
        made.fitted["chosen_by"] = "mean absolute error of " + record(
            judged_on, len(cases), lead, {"window_pixels": widths}
        )
        return made

    def roll(
        self, seen: Seen, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int
    ) -> Iterator[np.ndarray]:
        moved = displacement(seen.frames[:, -SEEN:] / self.scale[:, None, None], ~seen.solid, self.window)
        for frame in carry(seen.frames[:, -1], ~seen.solid, moved, lead):
            yield np.repeat(frame[:, None, None], len(members), 1)
