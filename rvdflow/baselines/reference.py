"""What all fitted references share: the data they may forecast, and what their stamp says."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from lbm.errors import DataError
from rvdflow.baselines.training import Training
from rvdflow.forecaster import Forecaster
from rvdflow.frames import Frames


class Reference(Forecaster):
    """A forecaster fitted on training runs."""

    def __init__(self, data: Training):
        self.variables, self.solid, self.frame_shape = data.frames.variables, data.frames.solid, data.frames.frame_shape
        self.fitted: dict[str, Any] = {"fitted_on": data.describe()}

    @classmethod
    def fit(cls, data: Training) -> Self:
        return cls(data)

    def check(self, dataset: Any, frames: Frames) -> None:
        if frames.variables != self.variables or frames.frame_shape != self.frame_shape:
            raise DataError(
                f"{self.method} was fitted to frames of {', '.join(self.variables or ())} {self.frame_shape}, the data "
                f"has {', '.join(frames.variables)} {frames.frame_shape}: fit it to data like these"
            )
        alike = frames.solid.shape == self.solid.shape and np.array_equal(frames.solid, self.solid)
        if not alike and not ((frames.solid == self.solid[0]).all() and (self.solid == self.solid[0]).all()):
            raise DataError(f"{self.method} was fitted to a flow around other obstacles: fit it to this dataset")

    def stamp(self) -> dict[str, Any]:
        return self.fitted
