"""Published ways of scoring, by name.

`rvd`: the protocol of the residual video diffusion paper. Forecast and truth are quantised once, to grey levels
0 ... 255; 4 frames are seen and the 16 after them (12 for KTH) scored; the CRPS is the classical one, in grey levels,
averaged over everything, and by lead time as 1 / CRPS (its Figure 3) and as a map at lead 10 (its Figure 4). How many
members the paper used is published nowhere: a table of ours says how many it used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.errors import EvaluationError

PROTOCOLS = ("rvd",)
LEADS = 16


@dataclass(frozen=True)
class GreyLevels:
    """The value range (low, high) that grey levels 0 ... 255 stand for."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise EvaluationError(f"value range {self.low:g} to {self.high:g}: the first must be the smaller")

    def apply(self, values: np.ndarray) -> np.ndarray:
        """uint8, rounded to the nearest level; uint8 is left as it is. What is not finite becomes level 0."""
        if values.dtype == np.uint8:
            return values
        unit = np.nan_to_num((values - np.float32(self.low)) * np.float32(1 / (self.high - self.low)))
        return np.floor(np.clip(unit, 0, 1) * 255 + 0.5).astype(np.uint8)
