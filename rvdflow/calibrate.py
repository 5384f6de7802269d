"""Match the spread of roll-outs to their error, on validation runs.

A forecaster trained one step ahead does not learn that its errors persist, and a few-step sampler loses variance, so
the ensemble spreads too little. One number mends most of it: the drawn residual is multiplied by an `inflation`, chosen
so that the spread-skill ratio sqrt((M+1)/M mean variance / mean squared error) on validation cases departs from one as
little as possible at its worst lead time: its smallest and largest value lie equally far, as factors, from one.
Inflation in this sense is standard in ensemble forecasting (Anderson & Anderson 1999, Mon. Weather Rev. 127, 2741);
nothing is fitted on test runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rvdflow.config import CalibrationConfig
from rvdflow.model import ResidualVideoDiffusion
from rvdflow.networks import Given
from rvdflow.validate import roll_outs


@torch.no_grad()
def calibrate(
    model: ResidualVideoDiffusion, frames: Tensor, given: Given, config: CalibrationConfig, seed: int
) -> tuple[float, Sequence[float]]:
    """Set `model.inflation` from validation frames (case, time, channel, y, x), normalised.

    Returns it and the spread-skill ratio by lead that it reached. The ratio grows almost in proportion to the
    inflation, so a few corrections by its inverse settle it.
    """
    ratios = torch.ones(1)
    for k in range(config.rounds + 1):
        ratios = roll_outs(
            model, frames, given, members=config.members, context=config.context, sampler=model.config.sampler,
            seed=seed,
        ).spread_skill  # fmt: skip
        if k < config.rounds:
            model.inflation.div_(float((ratios.min() * ratios.max()).sqrt())).clamp_(0.5, 3.0)
    return float(model.inflation), ratios.tolist()
