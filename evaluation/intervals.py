"""Central intervals of an ensemble: how often they hold the truth, how wide they are, and the score of both.

The interval of level 1 - a lies between the quantiles at a/2 and 1 - a/2 of the distribution that members come from.
From M members the quantile at q is read at rank q (M + 1), linearly between the order statistics: if the truth is one
more draw, it is below x_(i) with probability i / (M + 1), whatever the distribution, so that a reliable ensemble of any
size has the nominal coverage. (Other definitions of sample quantiles give intervals that are too narrow.) The extremes
of the ensemble hold (M - 1) / (M + 1): no interval of a higher level can be read from it.
"""

from collections.abc import Callable

import numpy as np
import xarray as xr

from .dims import Dims, average, pair
from .errors import EvaluationError, MissingValueError
from .pointwise import POLICIES
from .statistics import NanPolicy

_BLOCK = 1 << 20
"""Values that are sorted at a time."""


def interval_coverage(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    level: float = 0.8,
    member_dim: str = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Fraction of points at which the truth lies within the central interval of the members, ends included.

    Dimensionless, 0 to 1; `level` is best. Lower: the ensemble is too sure (or biased); higher: not sure enough.
    Rewards calibration alone: read it beside `interval_width`. Values with many ties (8-bit) are covered too often.
    Makkonen (2006), doi:10.1175/JAM2349.1, on ranks and probabilities.

    Raises EvaluationError unless 0 < level <= (M - 1) / (M + 1).
    """

    def statistic(low: np.ndarray, high: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(low + y), np.nan, (low <= y) & (y <= high))

    score = _interval(statistic, forecast, truth, level, member_dim, nan_policy)
    attrs = {"long_name": f"coverage of central {level:.0%} intervals", "units": "1", "level": level}
    return average(score.rename("interval_coverage").assign_attrs(attrs), dim, weights, nan_policy)


def interval_width(
    forecast: xr.DataArray,
    *,
    level: float = 0.8,
    member_dim: str = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Mean width of the central interval of the members, in their unit. Small is sharp, which is good only where
    `interval_coverage` is right; a property of the forecast alone.

    Gneiting, Balabdaoui and Raftery (2007), doi:10.1111/j.1467-9868.2007.00587.x.
    Raises EvaluationError unless 0 < level <= (M - 1) / (M + 1).
    """

    def statistic(low: np.ndarray, high: np.ndarray, y: np.ndarray) -> np.ndarray:
        return high - low

    bare = xr.zeros_like(forecast.isel({member_dim: 0}, drop=True)) if member_dim in forecast.dims else forecast
    score = _interval(statistic, forecast, bare, level, member_dim, nan_policy)
    attrs = {"long_name": f"width of central {level:.0%} intervals", "level": level}
    if "units" in forecast.attrs:
        attrs["units"] = forecast.attrs["units"]
    return average(score.rename("interval_width").assign_attrs(attrs), dim, weights, nan_policy)


def interval_score(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    level: float = 0.8,
    member_dim: str = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Width of the central interval, plus 2 / a for each unit by which the truth misses it (a = 1 - level).

    Unit of the truth, at least 0, 0 is best. Proper for the pair of quantiles: rewards intervals that are narrow and
    cover the truth as often as they say. Gneiting and Raftery (2007), doi:10.1198/016214506000001437, equation 43.

    Raises EvaluationError unless 0 < level <= (M - 1) / (M + 1).
    """

    def statistic(low: np.ndarray, high: np.ndarray, y: np.ndarray) -> np.ndarray:
        return high - low + 2 / (1 - level) * (np.maximum(low - y, 0) + np.maximum(y - high, 0))

    score = _interval(statistic, forecast, truth, level, member_dim, nan_policy)
    attrs = {"long_name": f"score of central {level:.0%} intervals", "level": level}
    if "units" in truth.attrs:
        attrs["units"] = truth.attrs["units"]
    return average(score.rename("interval_score").assign_attrs(attrs), dim, weights, nan_policy)


def _interval(
    statistic: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    forecast: xr.DataArray,
    truth: xr.DataArray,
    level: float,
    member_dim: str,
    nan_policy: str,
) -> xr.DataArray:
    """statistic(low, high, truth) at every point; NaN under "omit" where the members left are too few for the level."""
    if nan_policy not in POLICIES:
        raise EvaluationError(f"unknown nan_policy {nan_policy!r}: choose one of {', '.join(POLICIES)}")
    forecast, truth, member_dim = pair(forecast, truth, member_dim)
    for name, array in (("forecast", forecast), ("truth", truth)):
        if array.dtype.kind not in "buif":
            raise EvaluationError(f"cannot score a {name} of {array.dtype}: real numbers are needed")
    members = forecast.sizes[member_dim]
    if not 0 < level <= _highest_level(members):
        raise EvaluationError(
            f"the central interval of level {level} cannot be read from {members} members: "
            f"choose a level above 0, up to (M - 1) / (M + 1) = {_highest_level(members):.4g}"
        )
    if forecast.chunks is not None:
        forecast = forecast.chunk({member_dim: -1})
    score = xr.apply_ufunc(
        _points,
        forecast,
        truth,
        input_core_dims=[[member_dim], []],
        join="exact",
        dask="parallelized",
        output_dtypes=[np.float64],
        kwargs={"statistic": statistic, "level": level, "nan_policy": nan_policy},
    )
    return score.assign_attrs(members=members)


def _highest_level(members: int) -> float:
    return (members - 1) / (members + 1)


def _points(
    forecast: np.ndarray,
    truth: np.ndarray,
    *,
    statistic: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    level: float,
    nan_policy: str,
) -> np.ndarray:
    """forecast (..., member), truth (...): one part after the other, for sorting needs a copy."""
    result = np.empty(truth.shape)
    if truth.ndim > 1 and forecast.size > _BLOCK:
        for i in range(len(truth)):
            result[i] = _points(forecast[i], truth[i], statistic=statistic, level=level, nan_policy=nan_policy)
        return result
    ordered = np.sort(forecast, axis=-1)  # NaN last
    members = forecast.shape[-1]
    present = (members - np.isnan(ordered).sum(-1)) if forecast.dtype.kind == "f" else np.full(truth.shape, members)
    y = truth.astype(np.float64)
    incomplete = np.isnan(y) | (present < members)
    if nan_policy == "raise" and incomplete.any():
        raise MissingValueError(
            f"{incomplete.sum()} of {incomplete.size} points hold NaN: mask them, "
            'or use nan_policy="omit" or "propagate"'
        )
    usable = ~np.isnan(y) & (level <= (present - 1) / (present + 1) + 1e-12)
    if nan_policy != "omit":
        usable &= ~incomplete
    low, high = (_quantile(ordered, present, q) for q in ((1 - level) / 2, (1 + level) / 2))
    return np.where(usable, statistic(low, high, y), np.nan)


def _quantile(ordered: np.ndarray, present: np.ndarray, q: float) -> np.ndarray:
    """The value at rank q (present + 1) of members in order (..., member), the lowest having rank 1."""
    rank = np.clip(q * (present + 1), 1, np.maximum(present, 1))
    below = np.floor(rank).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(present, 1))
    a, b = (np.take_along_axis(ordered, (r - 1)[..., None], -1)[..., 0].astype(np.float64) for r in (below, above))
    return a + (rank - below) * (b - a)
