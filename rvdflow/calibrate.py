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

from rvdflow.config import CalibrationConfig, SamplerConfig
from rvdflow.model import ResidualVideoDiffusion
from rvdflow.noise import MemberNoise


@torch.no_grad()
def spread_skill_by_lead(
    model: ResidualVideoDiffusion, clips: Tensor, members: int, context: int, sampler: SamplerConfig, seed: int
) -> Tensor:
    """Spread-skill ratio (lead,) of forecasts of clips (case, time, channel, y, x) from their first frames."""
    cases, length = clips.shape[:2]
    names = [(case, 0) for case in range(cases)]
    noise = MemberNoise(seed, names, range(members), model.frame_shape, clips.device)
    state = model.expand(model.encode(clips[:, :context]), members)
    ratios = []
    for k in range(context, length):
        frame, state = model.step(state, noise, sampler)
        frame = frame.unflatten(0, (cases, members))
        variance = frame.var(1, correction=1).mean()
        error = (frame.mean(1) - clips[:, k]).square().mean()
        ratios.append(((members + 1) / members * variance / error).sqrt())
    return torch.stack(ratios)


def calibrate(
    model: ResidualVideoDiffusion, clips: Tensor, config: CalibrationConfig, seed: int
) -> tuple[float, Sequence[float]]:
    """Set `model.inflation` from validation clips; returns it and the spread-skill ratio by lead that it reached.

    The ratio grows almost in proportion to the inflation, so a few corrections by its inverse settle it.
    """
    ratios = torch.ones(1)
    for k in range(config.rounds + 1):
        args = (clips, config.members, config.context, model.config.sampler, seed)
        ratios = spread_skill_by_lead(model, *args)
        if k < config.rounds:
            model.inflation.div_((ratios.min() * ratios.max()).sqrt()).clamp_(0.5, 3.0)
    return float(model.inflation), ratios.tolist()
