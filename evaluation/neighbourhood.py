"""Scores that forgive, or look for, displacement: of fractions in a neighbourhood, and of fields pooled over windows.

A pointwise score punishes a vortex one cell off twice, where it is and where it should be, and cannot tell a field with
the right texture from noise with the right histogram. Two remedies:

    fractions skill score   compares the fraction of a window around each cell in which an event happens
    pooled CRPS             scores averages (or maxima) over windows: only members that vary together have the right
                            spread there

Walls count neither as event nor as absence of it: fractions and pools are over the fluid cells of a window, and so is
a window that reaches beyond the edge of the domain.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr

from .dims import Dims
from .errors import EvaluationError
from .events import Tail, checked_thresholds, count_beyond
from .fields import average_fields, fit_together, per_field
from .pointwise import ensemble_scores
from .statistics import Estimator, NanPolicy

Pooling = Literal["mean", "max"]
WINDOWS = (1, 3, 5, 9, 17, 33)
SCALES = (1, 2, 4, 8, 16)
FLUID_SHARE = 0.5
"""A pool with a smaller share of fluid cells than this is left out."""


def fss_sums(
    members: np.ndarray,
    truth: np.ndarray,
    fluid: np.ndarray,
    thresholds: Sequence[float],
    windows: Sequence[int] = WINDOWS,
    absolute: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over fluid cells of (p - o)^2 and of p^2 + o^2, each float64 (lead, threshold, window).

    p and o are the fractions of a window in which the event |x| > threshold (x > threshold unless `absolute`) happens,
    in the mean over members and in the truth; FSS = 1 - error / reference, of sums over any number of cases.
    members (member, lead, y, x), truth (lead, y, x), fluid (y, x) bool.
    """
    fit_together(members, truth, fluid)
    tail = "both" if absolute else "above"
    wanted, sides = checked_thresholds(thresholds, tail), checked_windows(windows)
    error, reference = (np.zeros((len(truth), len(wanted), len(sides))) for _ in range(2))
    for lead in range(len(truth)):
        error[lead], reference[lead] = _fractions(members[:, lead], truth[lead], fluid, wanted, sides, tail)
    return error, reference


def _fractions(
    members: np.ndarray, truth: np.ndarray, fluid: np.ndarray, thresholds: np.ndarray, windows: np.ndarray, tail: str
) -> np.ndarray:
    """(2, threshold, window): error and reference of one field."""
    from .field_kernels import fraction_errors

    sums = np.empty((2, len(thresholds), len(windows)))
    beyond = count_beyond(members, thresholds, tail).astype(np.int64)
    event = count_beyond(truth[None], thresholds, tail).astype(np.int64)
    cells = np.array(fluid, bool)
    for i in range(len(thresholds)):
        fraction_errors(beyond[i], event[i], cells, windows, len(members), sums[0, i], sums[1, i])
    return sums


def checked_windows(windows: int | Sequence[int]) -> np.ndarray:
    """Sides of windows in cells. EvaluationError unless they are odd: a window has a cell in its middle."""
    sides = np.atleast_1d(np.asarray(windows))
    if sides.ndim != 1 or sides.dtype.kind not in "iu" or sides.size == 0 or (sides < 1).any() or (sides % 2 < 1).any():
        raise EvaluationError(f"windows must be odd whole numbers of cells (1, 3, 5...), got {windows!r}")
    return sides.astype(np.int64)


def pooled_crps(
    members: np.ndarray,
    truth: np.ndarray,
    fluid: np.ndarray,
    scales: Sequence[int] = SCALES,
    how: Pooling = "mean",
    estimator: Estimator = "fair",
) -> np.ndarray:
    """CRPS (lead, scale) of members and truth pooled over windows of scale x scale cells, averaged over windows.

    Windows tile the domain from its first cell, and pool their fluid cells; those with less than half of their cells
    fluid (or inside the domain) are left out, NaN if that is all of them. One member has its absolute error.
    members (member, lead, y, x), truth (lead, y, x), fluid (y, x) bool. See `crps_pooled`.
    """
    fit_together(members, truth, fluid)
    sides = checked_scales(scales, how)
    return np.stack([_pooled(members[:, k], truth[k], fluid, sides, how, estimator) for k in range(len(truth))])


def checked_scales(scales: int | Sequence[int], how: str) -> list[int]:
    sides = np.atleast_1d(np.asarray(scales))
    if sides.ndim != 1 or sides.dtype.kind not in "iu" or sides.size == 0 or (sides < 1).any():
        raise EvaluationError(f"scales must be whole numbers of cells (1, 2, 4...), got {scales!r}")
    if how not in ("mean", "max"):
        raise EvaluationError(f'unknown pooling {how!r}: choose "mean" or "max"')
    return [int(s) for s in sides]


def _pooled(
    members: np.ndarray, truth: np.ndarray, fluid: np.ndarray, scales: list[int], how: str, estimator: str
) -> np.ndarray:
    """CRPS (scale) of one field. Each scale is pooled from the largest one done before that divides it."""
    from .field_kernels import pool

    largest = how == "max"
    values = np.concatenate([members, truth[None]], dtype=np.float64)
    if not fluid.all():
        np.copyto(values, -np.inf if largest else 0.0, where=~fluid)
    done = {1: (values, fluid.astype(np.float64))}
    scores = {}
    for scale in sorted(set(scales)):
        base = max(s for s in done if scale % s == 0)
        fields, cells = done[base]
        step = scale // base
        if step > 1:
            shape = [-(-side // step) for side in cells.shape]
            sums, number = np.empty((len(fields), *shape)), np.empty((1, *shape))
            pool(fields, step, largest, sums)
            pool(cells[None], step, False, number)
            fields, cells = done[scale] = sums, number[0]
        pools = fields if largest or scale == 1 else np.divide(fields, np.maximum(cells, 1))
        kept = (cells >= FLUID_SHARE * scale**2).ravel()
        pools = pools.reshape(len(pools), -1)
        pools = pools if kept.all() else pools.compress(kept, axis=1)
        scores[scale] = _mean_crps(pools[:-1], pools[-1], estimator)
    return np.array([scores[s] for s in scales])


def _mean_crps(members: np.ndarray, truth: np.ndarray, estimator: str) -> float:
    if truth.size == 0:
        return np.nan
    name = "crps_fair" if estimator == "fair" and len(members) > 1 else "crps"
    (score,) = ensemble_scores(members, truth, axis=0, names=[name], threads=1)
    return float(score.mean())


def fractions_skill_score(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    threshold: float | Sequence[float],
    window: int | Sequence[int] = WINDOWS,
    tail: Tail = "above",
    space: Sequence[str] = ("y", "x"),
    member_dim: str | None = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Fractions skill score of an event: 1 - <(p - o)^2> / <p^2 + o^2>; dimensionless; 1 is best, 0 worst.

    p and o are the fractions of a window of `window` x `window` cells in which the event happens: in the members, all
    together, and in the truth. Rewards events at the right place within half a window; with one window of the size of
    the domain it only sees how many there are. A forecast is called useful at windows where FSS > 0.5 + f / 2, with f
    the frequency of the event. Not proper: with sharp forecasts of uncertain events hedging can pay, so read it as a
    measure of displacement beside the Brier score. It has no fair estimator: compare ensembles of equal size.
    Sums over cells and `dim` are taken before dividing. Returns (..., threshold, window). NaN where neither has events.
    Roberts and Lean (2008), doi:10.1175/2007MWR2123.1; of ensembles: Schwartz et al. (2010),
    doi:10.1175/2009WAF2222267.1.

    Raises EvaluationError for windows that are not odd.
    """
    wanted, sides = checked_thresholds(threshold, tail), checked_windows(window)

    def score(members: np.ndarray, observed: np.ndarray, fluid: np.ndarray) -> np.ndarray:
        return _fractions(members, observed, fluid, wanted, sides, tail)

    _two(space)
    sums = per_field(
        score,
        forecast,
        truth,
        space=space,
        member_dim=member_dim,
        nan_policy=nan_policy,
        fewest=1,
        output={"_sum": 2, "threshold": len(wanted), "window": len(sides)},
    )
    mean = average_fields(sums, dim, weights, nan_policy, own=("_sum", "threshold", "window"))
    error, reference = mean.isel(_sum=0), mean.isel(_sum=1)
    result = 1 - error / reference.where(reference > 0)
    attrs = {"long_name": "fractions skill score", "units": "1", "members": sums.attrs["members"]}
    limits = xr.DataArray(wanted, dims="threshold", attrs=unit_of(truth))
    result = result.assign_coords(threshold=limits, window=sides).rename("fractions_skill_score").assign_attrs(attrs)
    if np.ndim(threshold) == 0:
        result = result.isel(threshold=0)
    return result.isel(window=0) if np.ndim(window) == 0 else result


def crps_pooled(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    scale: int | Sequence[int] = SCALES,
    how: Pooling = "mean",
    estimator: Estimator = "fair",
    space: Sequence[str] = ("y", "x"),
    member_dim: str | None = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """CRPS of fields pooled over windows of `scale` x `scale` cells, by their mean or maximum; unit of the truth.

    0 is best (fair: best in expectation). At scale 1 it is the CRPS; at larger ones it is proper for sums (or extremes)
    over an area, and so rewards members whose cells vary together as those of the truth do: independent noise in each
    cell has too little spread there. Windows tile the domain; see `pooled_crps` about walls. Returns (..., scale).
    Average and maximum pooling as in Price et al. (2025), doi:10.1038/s41586-024-08252-9.

    Raises EvaluationError for the fair estimator of a single member.
    """
    sides = checked_scales(scale, how)
    fewest = fewest_members(estimator)

    def score(members: np.ndarray, observed: np.ndarray, fluid: np.ndarray) -> np.ndarray:
        return _pooled(members, observed, fluid, sides, how, estimator)

    _two(space)
    fields = per_field(
        score,
        forecast,
        truth,
        space=space,
        member_dim=member_dim,
        nan_policy=nan_policy,
        fewest=fewest,
        output={"scale": len(sides)},
    )
    attrs = {"long_name": f"CRPS ({estimator}) of the {how} over windows", "estimator": estimator, **unit_of(truth)}
    fields = fields.assign_coords(scale=sides).rename("crps_pooled").assign_attrs(attrs)
    result = average_fields(fields, dim, weights, nan_policy, own=("scale",))
    return result.isel(scale=0) if np.ndim(scale) == 0 else result


def fewest_members(estimator: str) -> int:
    """Members that an estimator needs; EvaluationError for an unknown one."""
    if estimator not in ("fair", "classical"):
        raise EvaluationError(f'unknown estimator {estimator!r}: choose "fair" or "classical"')
    return 2 if estimator == "fair" else 1


def unit_of(truth: xr.DataArray) -> dict[str, str]:
    return {"units": truth.attrs["units"]} if "units" in truth.attrs else {}


def _two(space: Sequence[str]) -> None:
    if isinstance(space, str) or len(tuple(space)) != 2:
        raise EvaluationError(f'windows need two dimensions of space, such as ("y", "x"), got {space!r}')
