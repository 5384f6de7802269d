"""Match the spread of roll-outs to their error, on validation runs.

A forecaster trained one step ahead does not learn that its errors persist: drawn anew in each frame, residuals average
out where real errors add up, and the ensemble spreads too little at later leads. Two numbers mend most of it, both
common in ensemble weather forecasting:

- `memory`, the correlation of a member's noise from one frame to the next, which makes its residuals persist as model
  errors do (stochastic perturbations with a decorrelation time: Palmer et al. 2009, ECMWF Technical Memorandum 598);
- `inflation`, by which drawn residuals are multiplied (Anderson & Anderson 1999, Mon. Weather Rev. 127, 2741).

They are chosen so that the spread-skill ratio sqrt((M+1)/M mean variance / mean square error) of validation cases
departs from one, as a factor, as little as possible at its worst lead time. Nothing is fitted on test runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from rvdflow.config import CalibrationConfig
from rvdflow.model import ResidualVideoDiffusion
from rvdflow.networks import Given
from rvdflow.validate import roll_outs

INFLATIONS = (0.5, 3.0)  # no scale beyond these: such a model needs training, not calibration


@dataclass(frozen=True)
class Calibration:
    """What was chosen, and the spread-skill ratio by lead time that it reached on the validation cases."""

    inflation: float
    memory: float
    spread_skill: list[float]

    @property
    def departure(self) -> float:
        """The largest |ln ratio| over lead times."""
        return max(abs(math.log(ratio)) for ratio in self.spread_skill)


def calibrate(
    model: ResidualVideoDiffusion, frames: Tensor, given: Given, config: CalibrationConfig, seed: int
) -> Calibration:
    """Set `model.inflation` and `model.memory` from validation clips frames (case, time, channel, y, x), normalised.

    The ratio grows almost in proportion to the inflation. So one roll-out for each memory in `config.memories` says
    how evenly it would spread over lead times were its scale right; the most even is kept, and its inflation corrected
    until the smallest and the largest ratio lie equally far from one.
    """

    def ratios() -> Tensor:
        scores = roll_outs(
            model,
            frames,
            given,
            members=config.members,
            context=config.context,
            seed=seed,
        )
        return scores.spread_skill.clamp(min=1e-6)

    uneven = {}
    for memory in config.memories:
        model.memory.fill_(memory)
        now = ratios()
        uneven[memory] = float(now.max() / now.min())
        # The next memory starts from about the right scale.
        model.inflation.div_((now.min() * now.max()).sqrt()).clamp_(*INFLATIONS)
    memory = min(uneven, key=uneven.__getitem__)
    model.memory.fill_(memory)
    for _ in range(config.rounds):
        now = ratios()
        model.inflation.div_((now.min() * now.max()).sqrt()).clamp_(*INFLATIONS)
    return Calibration(float(model.inflation), memory, ratios().tolist())
