"""How far a training has come: by its steps, or by the minutes it has taken."""

from __future__ import annotations

import time
from collections.abc import Callable

from lbm.console import duration
from rvdflow.ranks import Ranks
from rvdflow.train_config import TrainConfig

Clock = Callable[[], float]


class Budget:
    """`progress` rises from 0 to 1, with the steps or with the time of rank 0's clock; it is the same on all ranks.

    `elapsed` is the time in seconds that the training has taken so far, earlier parts of a resumed run included.
    """

    def __init__(
        self, train: TrainConfig, ranks: Ranks, *, step: int = 0, elapsed: float = 0.0, clock: Clock = time.monotonic
    ):
        self.steps, self.minutes, self.ranks, self.clock = train.steps, train.minutes, ranks, clock
        self.step, self.elapsed = step, elapsed
        self._began = clock() - elapsed

    @property
    def progress(self) -> float:
        if self.minutes is None:
            return min(1.0, self.step / self.steps)
        return min(1.0, self.elapsed / (60 * self.minutes))

    @property
    def used(self) -> bool:
        return self.progress >= 1

    @property
    def last_step(self) -> int | None:
        """The step a training ends with; None where its time decides."""
        return self.steps if self.minutes is None else None

    def update(self, step: int, signal: int = 0) -> int:
        """Take note of the time after `step` steps; returns the signal (0: none) that any rank was sent."""
        self.step = step
        now = self.clock() - self._began if self.ranks.first else 0.0
        self.elapsed, sent = self.ranks.max([now, signal])
        return int(sent)

    def describe(self) -> str:
        return f"{self.steps} steps" if self.minutes is None else f"{duration(60 * self.minutes)}, however many steps"
