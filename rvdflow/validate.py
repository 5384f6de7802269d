"""Roll-outs of a small ensemble against the truth, in normalised units: what validation and calibration look at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rvdflow.config import SamplerConfig
from rvdflow.model import ResidualVideoDiffusion, State
from rvdflow.networks import Given
from rvdflow.noise import Draws, MemberNoise, torch_generator
from rvdflow.objectives import almost_fair_crps
from rvdflow.ranks import Ranks
from rvdflow.train_config import TrainConfig, ValidationConfig
from rvdflow.windows import Windows

CELLS = 2**18  # frames drawn at once, in cells: bounds the memory, and keeps small ones worth a call


@dataclass(frozen=True)
class RollOuts:
    """Scores over the fluid by case and lead time, (case, lead) float64: fair CRPS, variance, square error of the mean.

    The variance is the unbiased one of the members.
    """

    case_crps: Tensor
    variance: Tensor
    square_error: Tensor
    members: int

    @property
    def crps(self) -> Tensor:
        """Fair CRPS (lead,), mean over cases."""
        return self.case_crps.mean(0)

    @property
    def spread_skill(self) -> Tensor:
        """sqrt((M+1)/M mean variance / mean square error) (lead,): 1 where the spread says how far off the mean is."""
        inflated = (self.members + 1) / self.members * self.variance.mean(0)
        return (inflated / self.square_error.mean(0)).sqrt()

    @property
    def rmse(self) -> Tensor:
        """Root mean square error of the ensemble's mean (lead,)."""
        return self.square_error.mean(0).sqrt()

    @property
    def crps_error(self) -> float:
        """Standard error of the CRPS over lead times, its cases taken as independent."""
        cases = self.case_crps.mean(1)
        return float(cases.std() / math.sqrt(len(cases))) if len(cases) > 1 else math.nan


@torch.no_grad()
def roll_outs(
    model: ResidualVideoDiffusion,
    frames: Tensor,
    given: Given,
    *,
    members: int,
    context: int,
    sampler: SamplerConfig,
    seed: int,
    ranks: Ranks | None = None,
) -> RollOuts:
    """Forecast frames (case, time, channel, y, x), normalised, from the first `context` of them, and score the rest.

    The noise of a member is a function of seed, case and member alone, so scores do not depend, beyond rounding, on
    how cases are divided into batches or among `ranks`.
    """
    ranks, (cases, length) = ranks or Ranks(), frames.shape[:2]
    table = torch.zeros(3, cases, length - context, dtype=torch.float64, device=frames.device)
    together = max(1, CELLS // (members * frames[0, 0].numel()))
    for first in range(ranks.rank * together, cases, ranks.size * together):
        rows = slice(first, min(first + together, cases))
        names = [(case, 0) for case in range(rows.start, rows.stop)]
        noise = MemberNoise(seed, names, range(members), model.frame_shape, frames.device)
        state = model.encode(frames[rows, :context], Given(*(x[rows] for x in given)))
        drawn = _rolled(model, model.repeat(state, members), noise, sampler)
        table[:, rows] = _scores(drawn, frames[rows, context:], given.fluid[rows], members)
    ranks.mean_(table)
    crps, variance, square_error = (table * ranks.size).cpu()
    return RollOuts(crps, variance, square_error, members)


def _rolled(
    model: ResidualVideoDiffusion, state: State, noise: MemberNoise, sampler: SamplerConfig
) -> Iterator[Tensor]:
    """Frame after frame (case x member, channel, y, x)."""
    while True:
        frame, state = model.step(state, noise, sampler)
        yield frame.float()


def _scores(drawn: Iterator[Tensor], truth: Tensor, fluid: Tensor, members: int) -> Tensor:
    """(score, case, lead) of drawn frames against truth (case, lead, channel, y, x)."""
    weight = fluid / (truth.shape[2] * fluid.sum((1, 2, 3), keepdim=True))
    found = []
    for true, frame in zip(truth.unbind(1), drawn, strict=False):  # as many as there is truth for
        ensemble = frame.unflatten(0, (len(truth), members)).transpose(0, 1)
        maps = (
            almost_fair_crps(ensemble, true, 1.0),
            ensemble.var(0, correction=1),
            (ensemble.mean(0) - true).square(),
        )
        found.append(torch.stack([(m * weight).sum((1, 2, 3)) for m in maps]))
    return torch.stack(found, -1)


def validation_crps(model: Any, windows: Windows, config: ValidationConfig, train: TrainConfig, ranks: Ranks) -> Tensor:
    """(mean, standard error) over lead times and cases of the fair CRPS of validation runs; NaN where too short."""
    lead = min(config.lead, windows.frames.longest(windows.trajectories) - config.context)
    if lead < 1:
        return torch.full((2,), math.nan)
    long = windows.longer(config.context + lead)
    batch = long.clip(long.spread(config.cases)).to(model.inflation.device)
    scores = roll_outs(
        model, *batch, members=config.members, context=config.context, sampler=model.config.sampler,
        seed=train.seed, ranks=ranks,
    )  # fmt: skip
    return torch.tensor([float(scores.crps.mean()), scores.crps_error])


@torch.no_grad()
def validation_loss(
    model: Any, windows: Windows, config: ValidationConfig, train: TrainConfig, progress: float, ranks: Ranks
) -> float:
    """Loss on fixed clips of the validation runs, with noise of its own, the same at each validation."""
    chosen, device = windows.spread(config.clips), model.inflation.device
    together = train.batch_size // train.accumulate
    total = torch.zeros((), dtype=torch.float64, device=device)
    for first in range(ranks.rank * together, len(chosen), ranks.size * together):
        part = chosen[first : first + together]
        draws = Draws(torch_generator(train.seed, "validation", first, device=device), len(part))
        losses = model.loss(*windows.clip(part).to(device), progress=progress, draws=draws)
        total += losses.values["loss"] * len(part)
    return float(ranks.mean_(total)) * ranks.size / len(chosen)
