"""Relatives of the CRPS: its two terms apart, and the CRPS of one tail of the distribution.

Both are made of `evaluation.statistics`, and take its arguments.
"""

import numpy as np
import xarray as xr

from .dims import Dims, average, pair
from .errors import EvaluationError
from .events import Tail, checked_thresholds
from .pointwise import ensemble_scores
from .statistics import Estimator, NanPolicy, crps


def threshold_weighted_crps(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    threshold: float,
    tail: Tail = "above",
    member_dim: str | None = "member",
    estimator: Estimator = "fair",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """CRPS of the part of the distribution beyond a threshold; unit of the truth; 0 is best (fair: in expectation).

        integral over z beyond t of (F(z) - 1{y <= z})^2

    beyond meaning z > t ("above"), z < t ("below") or |z| > t ("both"). Proper: rewards the distribution of strong
    events without the fallacy of scoring only the cases in which one happened. Above and below of one threshold add up
    to the CRPS; a threshold that nothing reaches gives 0. Computed as the CRPS of v(x): max(x, t), min(x, t), or x
    moved towards zero by t, at most to zero. Gneiting and Ranjan (2011), doi:10.1198/jbes.2010.08110; Allen,
    Ginsbourger and Ziegel (2023), doi:10.1137/22M1532184.

    Values keep their type where v(x) fits it (8-bit values with a whole threshold), else become floats.
    Raises EvaluationError for a threshold that is not finite (or negative, for "both"), and for the fair estimator of
    a single member.
    """
    limit = checked_thresholds(threshold, tail)
    if np.ndim(threshold):
        raise EvaluationError("one threshold is needed: call once for each of several")
    forecast, truth, member_dim = pair(forecast, truth, member_dim)
    chained = [_chained(a, float(limit[0]), tail) for a in (forecast, truth)]
    score = crps(*chained, member_dim=member_dim, estimator=estimator, dim=dim, weights=weights, nan_policy=nan_policy)
    what = {"above": "above", "below": "below", "both": "beyond +-"}[tail]
    name = f"CRPS ({estimator}) {what} {threshold:g}"
    return score.rename("threshold_weighted_crps").assign_attrs(long_name=name, threshold=threshold, tail=tail)


def _chained(array: xr.DataArray, threshold: float, tail: str) -> xr.DataArray:
    """v(x), with v(a) - v(b) the length of what lies between a and b beyond the threshold."""
    dtype = array.dtype
    if dtype.kind not in "buif":
        raise EvaluationError(f"cannot score {dtype}: real numbers are needed")
    fits = (
        dtype.kind in "ui" and threshold == int(threshold) and np.iinfo(dtype).min <= threshold <= np.iinfo(dtype).max
    )
    if dtype.kind != "f" and (not fits or (tail == "both" and dtype.kind == "i")):
        dtype = np.dtype(np.float32 if dtype.itemsize == 1 and fits else np.float64)
    limit = dtype.type(threshold)
    return xr.apply_ufunc(
        _chain,
        array,
        dask="parallelized",
        output_dtypes=[dtype],
        kwargs={"limit": limit, "tail": tail},
        keep_attrs=True,
    )


def _chain(values: np.ndarray, *, limit: np.number, tail: str) -> np.ndarray:
    if tail == "above":
        return np.maximum(values, limit, dtype=limit.dtype)
    if tail == "below":
        return np.minimum(values, limit, dtype=limit.dtype)
    if limit.dtype.kind == "u":
        return np.maximum(values, limit, dtype=limit.dtype) - limit
    values = values.astype(limit.dtype, copy=False)
    return values - np.clip(values, -limit, limit)


def crps_components(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    member_dim: str | None = "member",
    estimator: Estimator = "fair",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.Dataset:
    """The two terms of the CRPS, `skill` - `spread`; both in the unit of the truth, neither negative.

        skill   mean_m |x_m - y|                        distance of members from the truth, lower is better
        spread  sum_m sum_n |x_m - x_n| / (2 D)         half the mean distance of members, D as in `crps`

    Not a score each: they say where a CRPS comes from. If truth and members are drawn alike the fair spread is half
    of skill (both expectations are over the same kind of pair); below it the ensemble is too sure.
    Gneiting and Raftery (2007), doi:10.1198/016214506000001437, equation 21.

    Raises EvaluationError for the fair estimator of a single member.
    """
    if estimator not in ("fair", "classical"):
        raise EvaluationError(f'unknown estimator {estimator!r}: choose "fair" or "classical"')
    forecast, truth, member_dim = pair(forecast, truth, member_dim)
    members = forecast.sizes[member_dim]
    if estimator == "fair" and members < 2:
        raise EvaluationError('the fair CRPS needs at least 2 members, got 1: use estimator="classical"')
    lazy = forecast.chunks is not None or truth.chunks is not None
    if forecast.chunks is not None:
        forecast = forecast.chunk({member_dim: -1})
    terms = xr.apply_ufunc(
        _terms,
        forecast,
        truth,
        input_core_dims=[[member_dim], []],
        output_core_dims=[[], []],
        join="exact",
        dask="parallelized",
        output_dtypes=[np.float64] * 2,
        kwargs={"estimator": estimator, "nan_policy": nan_policy, "threads": 1 if lazy else None},
    )
    texts = {"skill": "mean distance of members from the truth", "spread": "half the mean distance of members"}
    attrs = {"units": truth.attrs["units"]} if "units" in truth.attrs else {}
    data = {
        n: average(t.assign_attrs(long_name=f"{text} ({estimator})", **attrs), dim, weights, nan_policy)
        for (n, text), t in zip(texts.items(), terms, strict=True)
    }
    return xr.Dataset(data, attrs={"members": members, "estimator": estimator})


def _terms(
    forecast: np.ndarray, truth: np.ndarray, *, estimator: str, nan_policy: str, threads: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Skill and spread at every point, from the difference of both estimators, which is G (1/(M^2 (M-1)))."""
    names = ("crps", "crps_fair", "present")
    classical, fair, members = ensemble_scores(
        forecast, truth, axis=-1, names=names, nan_policy=nan_policy, threads=threads
    )
    spread = np.where(members > 1, (classical - fair) * (members - 1), classical * 0)
    skill = classical + spread
    if estimator == "fair":
        more = np.divide(members, members - 1, out=np.full(members.shape, np.nan), where=members > 1)
        spread = spread * more
        skill = np.where(members > 1, skill, np.nan)
    return skill, spread
