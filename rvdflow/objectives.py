"""What a network is trained for: to denoise residuals (Eq. 9), or to draw members of small CRPS in one step.

Both are functions of a model, a batch of clips, how far the training has come (`progress`, from 0 to 1) and the step's
random numbers; both return scalars by name, of which `loss` is minimised, and as a statistic the mean square of the
residual, which the model follows. Losses are averaged over the fluid of each target first and over targets then, so
they do not depend on how a batch is divided.

Sources: diffusion: Yang, Srivastava & Mandt (2023), arXiv:2203.09481, Eq. 9. Almost fair CRPS: Lang et al. (2024),
AIFS-CRPS, arXiv:2412.15832, Eq. 4; fair: Ferro (2014), doi:10.1002/qj.2270.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rvdflow.diffusion import add_noise, target
from rvdflow.networks import Given, Outlook
from rvdflow.noise import Draws
from rvdflow.trainable import Losses

if TYPE_CHECKING:
    from rvdflow.model import ResidualVideoDiffusion


class Clips(NamedTuple):
    """A batch as the networks are shown it: context frames with noise on them, and the level (b,) of that noise."""

    seen: Tensor
    previous: Tensor
    level: Tensor


def shown(model: ResidualVideoDiffusion, frames: Tensor, draws: Draws) -> Clips:
    """All frames of a clip but the last, with the noise of a random level put on them."""
    seen, limit = frames[:, :-1], model.config.context_noise
    level = torch.zeros(len(frames), device=frames.device)
    if limit:
        level = limit * draws.uniform()
        seen = seen + level[:, None, None, None, None] * draws.normal(*seen.shape[1:])
    return Clips(seen, torch.cat([seen[:, :1], seen[:, :-1]], 1), level)


def over_fluid(values: Tensor, fluid: Tensor | None) -> Tensor:
    """Mean over channels and fluid cells of values (rows, c, y, x), then over rows."""
    if fluid is None:
        return values.mean()
    return ((values * fluid).sum((1, 2, 3)) / (values.shape[1] * fluid.sum((1, 2, 3)))).mean()


def diffusion_loss(
    model: ResidualVideoDiffusion, frames: Tensor, given: Given, progress: float, draws: Draws
) -> Losses:
    """Loss of the denoiser on teacher-forced frames, and of the mean there and over the frames it is unrolled."""
    c = model.config
    ahead = c.unroll - 1 if progress >= c.unroll_from else 0
    clips = shown(model, frames, draws)
    first, stop = c.context_frames, frames.shape[1] - ahead
    outlook, state = model.look(
        clips.seen[:, : stop - 1], clips.previous[:, : stop - 1], clips.level, given, None, skip=first - 1
    )
    count = stop - first
    fluid = given.fluid.repeat_interleave(count, 0) if c.masked_loss else None
    residual = frames[:, first:stop].flatten(0, 1) - outlook.mean
    if fluid is not None:
        residual = residual * fluid
    mean_square = over_fluid(residual.square(), fluid)
    values = {"mean_rmse": mean_square.sqrt().detach()}
    mean_term = mean_square
    if ahead:
        unrolled = _unrolled(model, frames, given, clips, outlook, state, stop)
        values["unrolled_rmse"] = unrolled.sqrt().detach()
        mean_term = (count * mean_square + ahead * unrolled) / (count + ahead)
    total = (c.mean_loss or float(c.mean_first > 0)) * mean_term / model.residual_variance.mean()
    if progress >= c.mean_first:
        values["diffusion"] = _denoising(model, residual, outlook, fluid, len(frames), draws)
        total = values["diffusion"] + (total if c.mean_loss and not c.mean_first else 0.0)
    return Losses({"loss": total, **values}, model.mean_square(residual.detach(), fluid))


def _unrolled(
    model: ResidualVideoDiffusion,
    frames: Tensor,
    given: Given,
    clips: Clips,
    outlook: Outlook,
    state: object,
    stop: int,
) -> Tensor:
    """Mean square error of the mean where it sees its own forecasts, from frame `stop` of the clips on."""
    rows = len(frames)
    quiet = torch.zeros_like(clips.level)
    fluid = given.fluid if model.config.masked_loss else None
    mean = outlook.mean.unflatten(0, (rows, -1))[:, -1]
    before, errors = clips.seen[:, stop - 2], []
    for k in range(stop, frames.shape[1]):
        if fluid is not None:
            mean = mean * fluid
        outlook, state = model.look(mean[:, None], before[:, None], quiet, given, state, skip=0)
        before, mean = mean, outlook.mean
        errors.append(over_fluid((frames[:, k] - mean).square(), fluid))
    return torch.stack(errors).mean()


def _denoising(
    model: ResidualVideoDiffusion, residual: Tensor, outlook: Outlook, fluid: Tensor | None, clips: int, draws: Draws
) -> Tensor:
    """|| eps - f(y_n, n, x^{<t}) || or the like, for residuals (clips * targets, c, y, x)."""
    c = model.config
    count = len(residual) // clips
    clean, mean = residual / model.sigma, outlook.mean
    if not c.mean_gradient:
        clean, mean = clean.detach(), mean.detach()
    level = model.levels.draw(draws, 1 if c.noise_level_per == "clip" else count)
    if c.noise_level_per == "clip":
        level = type(level)(*(x.repeat_interleave(count) for x in level))
    noise = draws.normal(count, *residual.shape[1:]).flatten(0, 1)
    noisy = add_noise(clean, noise, level)
    answer = model.networks.denoise(noisy, level.position, Outlook(mean, outlook.conditioning))
    wrong = answer - target(clean, noise, level, c.prediction)
    return over_fluid(wrong.square() if c.loss == "l2" else wrong.abs(), fluid)


def crps_loss(model: ResidualVideoDiffusion, frames: Tensor, given: Given, progress: float, draws: Draws) -> Losses:
    """Almost fair CRPS of members drawn in one step: of every target at first, of roll-outs of their own later."""
    c = model.config
    lead = c.rollout if progress >= c.rollout_from else 1
    clips = shown(model, frames, draws)
    b, stop = len(frames), frames.shape[1] - lead
    first = c.context_frames if lead == 1 else stop
    outlook, state = model.look(
        clips.seen[:, :stop], clips.previous[:, :stop], clips.level, given, None, skip=first - 1
    )
    count = stop - first + 1  # forecasts begun in each clip
    given = given.repeat(count)
    truth = frames[:, first : stop + 1].flatten(0, 1)
    fluid = given.fluid if c.masked_loss else None
    residual = (truth - outlook.mean) * (1 if fluid is None else fluid)
    mean_square = over_fluid(residual.square(), fluid)
    values = {"mean_rmse": mean_square.sqrt().detach()}
    mean_term = mean_square / model.residual_variance.mean()
    if progress < c.mean_first:
        return Losses({"loss": (c.mean_loss or 1.0) * mean_term, **values}, model.mean_square(residual.detach(), fluid))

    m, scores = c.members, []
    outlook = model.repeat(outlook, m)
    drawn = last = clips.seen[:, stop - 1].repeat_interleave(m, 0)
    quiet = torch.zeros(b * m, device=frames.device)
    if lead > 1:
        state, given = model.repeat(state, m), given.repeat(m)
    for k in range(lead):
        if k:
            truth = frames[:, stop + k]
            outlook, state = model.look(drawn[:, None], last[:, None], quiet, given, state, skip=0)
            last = drawn
        shape = outlook.mean.shape[1:]
        noise = draws.normal(count * m, *shape).flatten(0, 1)
        vector = draws.normal(count * m, width).flatten(0, 1) if (width := model.networks.noise_width) else None
        drawn = outlook.mean + model.sigma * model.one_step(noise, vector, outlook)
        if c.clamp:
            drawn = drawn.clamp(-1, 1)
        if fluid is not None:
            drawn = drawn * fluid.repeat_interleave(m, 0)
        members = drawn.unflatten(0, (-1, m)).transpose(0, 1)
        scores.append(over_fluid(almost_fair_crps(members, truth, c.almost_fair), fluid))
    values["crps"] = torch.stack(scores).mean().detach()
    total = torch.stack(scores).mean() / model.residual_variance.mean().sqrt()
    if c.mean_loss and not c.mean_first:
        total = total + c.mean_loss * mean_term
    return Losses({"loss": total, **values}, model.mean_square(residual.detach(), fluid))


def almost_fair_crps(members: Tensor, truth: Tensor, alpha: float) -> Tensor:
    """Score (...) of members (member, ...) against truth (...): mean |x_i - y| minus nearly the fair spread term.

    alpha = 1 is the fair CRPS, alpha = 0 the CRPS of the ensemble as it is. A little below 1 the score cannot be
    cheated by one member far away while all others agree with the truth.
    """
    m = len(members)
    skill = (members - truth).abs().mean(0)
    spread = torch.stack([(members[i] - members[j]).abs() for i in range(m) for j in range(i)]).sum(0)
    return skill - (1 - (1 - alpha) / m) * spread / (m * (m - 1))
