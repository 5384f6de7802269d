"""Roll-outs of a small ensemble against the truth, in normalised units: what validation and calibration look at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rvdflow.networks import Given
from rvdflow.noise import Draws, MemberNoise, torch_generator
from rvdflow.objectives import almost_fair_crps
from rvdflow.ranks import Ranks
from rvdflow.train_config import TrainConfig, ValidationConfig
from rvdflow.trainable import State, Trainable
from rvdflow.windows import Windows

CELLS = 2**18  # frames drawn at once, in cells: bounds the memory, and keeps small ones worth a call


@dataclass(frozen=True)
class RollOuts:
    """Scores over the fluid by case and lead time, (case, lead) float64: fair CRPS, variance, square error of the mean.

    The variance is the unbiased one of the members, and 0 of one member, whose CRPS is its absolute error.
    `diversity`: standard deviation of first members over cases, at the last lead time, relative to the truth's.
    """

    case_crps: Tensor
    variance: Tensor
    square_error: Tensor
    members: int
    diversity: float

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
    model: Trainable,
    frames: Tensor,
    given: Given,
    *,
    members: int,
    context: int,
    seed: int,
    ranks: Ranks | None = None,
) -> RollOuts:
    """Forecast frames (case, time, channel, y, x), normalised, from the first `context` of them, and score the rest.

    The noise of a member is a function of seed, case and member alone, so scores do not depend, beyond rounding, on
    how cases are divided into batches or among `ranks`.
    """
    ranks, (cases, length) = ranks or Ranks(), frames.shape[:2]
    table = torch.zeros(3, cases, length - context, dtype=torch.float64, device=frames.device)
    last = torch.zeros_like(frames[:, 0])
    together = max(1, CELLS // (members * frames[0, 0].numel()))
    for first in range(ranks.rank * together, cases, ranks.size * together):
        rows = slice(first, min(first + together, cases))
        names = [(case, 0) for case in range(rows.start, rows.stop)]
        noise = MemberNoise(seed, names, range(members), model.frame_shape, frames.device)
        state = model.encode(frames[rows, :context], Given(*(x[rows] for x in given)))
        drawn = _rolled(model, model.repeat(state, members), noise)
        table[:, rows], last[rows] = _scores(drawn, frames[rows, context:], given.fluid[rows], members)
    ranks.mean_(table)
    ranks.mean_(last)
    crps, variance, square_error = (table * ranks.size).cpu()
    diversity = _diversity(last * ranks.size * given.fluid, frames[:, -1] * given.fluid)
    return RollOuts(crps, variance, square_error, members, diversity)


def _diversity(drawn: Tensor, truth: Tensor) -> float:
    """Standard deviation over cases of frames (case, channel, y, x), relative to that of the truth; NaN of one case."""
    if len(truth) < 2:
        return math.nan
    return float((drawn.var(0).mean() / truth.var(0).mean()).sqrt())


def _rolled(model: Trainable, state: State, noise: MemberNoise) -> Iterator[Tensor]:
    """Frame after frame (case x member, channel, y, x)."""
    while True:
        frame, state = model.step(state, noise)
        yield frame.float()


def _scores(drawn: Iterator[Tensor], truth: Tensor, fluid: Tensor, members: int) -> tuple[Tensor, Tensor]:
    """(score, case, lead) of drawn frames against truth (case, lead, channel, y, x), and the last first members."""
    weight = fluid / (truth.shape[2] * fluid.sum((1, 2, 3), keepdim=True))
    found = []
    for true, frame in zip(truth.unbind(1), drawn, strict=False):  # as many as there is truth for
        ensemble = frame.unflatten(0, (len(truth), members)).transpose(0, 1)
        maps = (
            almost_fair_crps(ensemble, true, 1.0) if members > 1 else (ensemble[0] - true).abs(),
            ensemble.var(0, correction=1) if members > 1 else torch.zeros_like(true),
            (ensemble.mean(0) - true).square(),
        )
        found.append(torch.stack([(m * weight).sum((1, 2, 3)) for m in maps]))
    return torch.stack(found, -1), ensemble[0]


def validation_scores(
    model: Trainable, windows: Windows, config: ValidationConfig, train: TrainConfig, ranks: Ranks
) -> dict[str, float]:
    """What a small ensemble makes of validation runs, by the name it has in the log; empty where these are too short.

    Fair CRPS over lead times and cases, and its standard error; the ensemble's standard deviation; and how much
    forecasts differ from case to case, in units of the truth's difference: 0 says that all forecasts are alike.
    """
    context = max(config.context, model.context)
    lead = min(config.lead, windows.frames.longest(windows.trajectories) - context)
    if lead < 1:
        return {}
    long = windows.longer(context + lead)
    batch = long.clip(long.spread(config.cases)).to(model.device)
    members = config.members if model.stochastic else 1
    scores = roll_outs(model, *batch, members=members, context=context, seed=train.seed, ranks=ranks)
    found = {"validation_crps": float(scores.crps.mean()), "validation_crps_error": scores.crps_error}
    if not math.isfinite(found["validation_crps"]):
        return {}
    found["validation_spread"] = float(scores.variance.mean().sqrt())
    return found | {"validation_diversity": scores.diversity}


@torch.no_grad()
def validation_loss(
    model: Trainable, windows: Windows, config: ValidationConfig, train: TrainConfig, progress: float, ranks: Ranks
) -> float:
    """Loss on fixed clips of the validation runs, with noise of its own, the same at each validation."""
    chosen, device = windows.spread(config.clips), model.device
    together = train.batch_size // train.accumulate
    total = torch.zeros((), dtype=torch.float64, device=device)
    for first in range(ranks.rank * together, len(chosen), ranks.size * together):
        part = chosen[first : first + together]
        draws = Draws(torch_generator(train.seed, "validation", first, device=device), len(part))
        batch = windows.clip(part).to(device)
        losses = model.loss(*batch, player=model.forecasting(), progress=progress, draws=draws)
        total += losses.values["loss"] * len(part)
    return float(ranks.mean_(total)) * ranks.size / len(chosen)
