"""Scores of an ensemble forecast against the truth: pointwise statistic -> average -> metric.

A *statistic* has a value at every point (case, lead time, place) and a mean that means something; a *metric* is a
function of such means (the root of a mean square, a ratio). All functions here take `dim`, the dimensions to average
over, and keep the rest, so that a number (`dim=None`), a curve over lead time (`dim=["trajectory", "y", "x"]`), a map
and the statistic itself (`dim=()`) are the same call. Averages are taken first, roots and ratios last.

Notation: x_1..x_M members, y truth, xm ensemble mean, s^2 unbiased ensemble variance, all at one point.

Common arguments:
    forecast, truth  DataArrays; truth has the forecast's dimensions without the members: same names, sizes and index
                     coordinates in any order, else DimensionError (see `evaluation.dims` for names understood).
    member_dim       dimension of the members; None scores a single forecast as an ensemble of one.
    dim              what to average over: a name, several, None or ... (everything), () (nothing).
    weights          of points, in the average: cell areas, or a mask. May lack dimensions of the score.
    nan_policy       "propagate": a NaN in a member or the truth makes the point NaN, and each average that it enters;
                     "omit": missing members are left out, M counting those that remain, and points without truth (or
                     with too few members) do not enter averages; "raise": MissingValueError (when computed).

Arrays may be NumPy- or dask-backed (the result is then lazy, and no block holds more than the forecast's own chunks,
members in one), or read from a file as they are needed (`xr.open_zarr(path, chunks=None)`: an average then takes one
chunk of the file at a time). Where an average is asked for, nothing of the
size of a statistic is made: each block gives its sums, and these are added up. Numbers do not depend on chunks, but
for the last digits of an average. Results are float64, in the order of the forecast's dimensions.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr

from .averages import Request, averages
from .dims import Dims, average, fitting_weights, over, pair
from .errors import EvaluationError
from .pointwise import INTEGER_NAMES, THRESHOLD_NAMES, count_ranks, ensemble_scores
from .skill import spread_skill

NanPolicy = Literal["propagate", "omit", "raise"]
Estimator = Literal["fair", "classical"]

_LONG_NAMES = {
    "crps": "CRPS (classical)",
    "crps_fair": "CRPS (fair)",
    "variance": "ensemble variance",
    "bias": "error of the ensemble mean",
    "squared_error": "squared error of the ensemble mean",
    "absolute_error": "absolute error of the ensemble mean",
    "rank": "members below the truth",
    "ties": "members equal to the truth",
    "present": "members present",
    "brier": "Brier score (classical)",
    "brier_fair": "Brier score (fair)",
    "exceeding": "members beyond the threshold",
}
_SQUARED = ("variance", "squared_error")


def ensemble_statistics(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    member_dim: str | None = "member",
    dim: Dims = (),
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
    thresholds: Sequence[float] = (),
    absolute: bool = True,
) -> xr.Dataset:
    """Every statistic in one pass over the data, at each point (`dim=()`) or averaged in the same pass.

    Returns crps (classical), crps_fair, variance (unbiased), squared_error, absolute_error and bias of the ensemble
    mean (mean - truth), all float64. Attribute `members` holds M; with one member crps_fair and variance are NaN.

    At each point also rank (members below the truth; -1 at a NaN) and ties (members equal to it), int32; averaged,
    rank_histogram (..., rank) instead, as `rank_histogram` has it.

    With `thresholds`, for the events x > threshold (|x| > threshold if `absolute`): brier and brier_fair
    (..., threshold), (k/M - o)^2 and (k/M - o)^2 - k (M - k) / (M^2 (M - 1)), k members and the truth (o = 1) beyond;
    dimensionless, 0 is best; fair: Ferro (2014), doi:10.1002/qj.2270. At each point also `exceeding`, which is k (-1
    at a NaN); averaged, event_forecast and event_observed (..., threshold, exceeding): (weights of) points by k, and
    those of them with the truth beyond, points with a NaN left out.

    Raises EvaluationError for a threshold that is no number.
    """
    limits = tuple(float(t) for t in thresholds)
    briers = ("brier", "brier_fair") if limits else ()
    names = ("crps", "crps_fair", "variance", "squared_error", "absolute_error", "bias")
    if over(pair(forecast, truth, member_dim)[1], dim):
        request = Request((*names, *briers), nan_policy, True, limits, absolute)
        found, members = _averaged(forecast, truth, request, member_dim, dim, weights)
        variables = {name: found[name] for name in request.names}
        variables["rank_histogram"] = _histogram(found, members, nan_policy)
        if limits:
            variables["event_forecast"] = found["events"].isel(role=0)
            variables["event_observed"] = found["events"].isel(role=1)
    else:
        names = (*names, "rank", "ties", *briers, *(("exceeding",) if limits else ()))
        arrays, members = _pointwise(forecast, truth, names, member_dim, nan_policy, limits, absolute)
        variables = {n: average(a, dim, weights) for n, a in zip(names, arrays, strict=True)}
    result = xr.Dataset(variables, attrs={"members": members})
    if limits:
        result = result.assign_coords(threshold=np.array(limits)).assign_attrs(event_absolute=int(absolute))
    return result


def crps(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    member_dim: str | None = "member",
    estimator: Estimator = "fair",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Continuous ranked probability score, in the unit of the truth; 0 is best (fair: best in expectation).

        mean_m |x_m - y| - sum_m sum_n |x_m - x_n| / (2 D),    D = M^2 (classical) or M (M - 1) (fair)

    Classical is the score of the ensemble's empirical distribution; on integers it equals the sum over grey levels z
    of (F(z) - 1{y <= z})^2. It falls with M even if the members are perfect: only the fair one, which estimates the
    score of the distribution that members are drawn from, compares ensembles of different size (and may be slightly
    negative at a point). Hersbach (2000), doi:10.1175/1520-0434(2000)015<0559:DOTCRP>2.0.CO;2; Gneiting and Raftery
    (2007), doi:10.1198/016214506000001437; fair: Ferro (2014), doi:10.1002/qj.2270.

    Raises EvaluationError for the fair estimator of a single member (the classical one is then |x - y|).
    """
    if estimator not in ("fair", "classical"):
        raise EvaluationError(f'unknown estimator {estimator!r}: choose "fair" or "classical"')
    name = "crps_fair" if estimator == "fair" else "crps"
    score, members = _mean(forecast, truth, name, member_dim, dim, weights, nan_policy)
    if estimator == "fair" and members < 2:
        raise EvaluationError('the fair CRPS needs at least 2 members, got 1: use estimator="classical"')
    return score.rename("crps").assign_attrs(estimator=estimator)


def squared_error(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    member_dim: str | None = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Mean of (xm - y)^2, the squared error of the ensemble mean; unit of the truth, squared; 0 is best."""
    score, _ = _mean(forecast, truth, "squared_error", member_dim, dim, weights, nan_policy)
    return score


def rmse(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    member_dim: str | None = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Root of the mean of (xm - y)^2 over `dim`; unit of the truth; 0 is best. It rewards the ensemble mean alone.

    Not a mean itself: averaging it again over what was kept gives something else. Average `squared_error` instead.
    """
    mean = squared_error(forecast, truth, member_dim=member_dim, dim=dim, weights=weights, nan_policy=nan_policy)
    return _metric(mean**0.5, "rmse", "root mean square error of the ensemble mean", truth)


def mae(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    member_dim: str | None = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Mean of |xm - y|, the absolute error of the ensemble mean; unit of the truth; 0 is best.

    For a single forecast (`member_dim=None`) this is its classical CRPS.
    """
    score, _ = _mean(forecast, truth, "absolute_error", member_dim, dim, weights, nan_policy)
    return score.rename("mae")


def bias(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    member_dim: str | None = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Mean of xm - y; unit of the truth; 0 is best, positive where the forecast is too high."""
    score, _ = _mean(forecast, truth, "bias", member_dim, dim, weights, nan_policy)
    return score


def variance(
    forecast: xr.DataArray,
    *,
    member_dim: str = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Mean of s^2 = sum_m (x_m - xm)^2 / (M - 1), the unbiased ensemble variance (spread squared).

    Raises EvaluationError for a single member.
    """
    zero = xr.zeros_like(forecast.isel({member_dim: 0}, drop=True)) if member_dim in forecast.dims else forecast
    score, members = _mean(forecast, zero, "variance", member_dim, dim, weights, nan_policy)
    _needs_two(members, "the ensemble variance")
    return score


def spread_skill_ratio(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    member_dim: str = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Spread over error: sqrt(mean((M + 1) / M s^2) / mean((xm - y)^2)), both means over `dim`.

    1 if truth and members are drawn alike, whatever M is (the factor is what the finite ensemble adds to the error
    of its mean), below 1 if the ensemble is too sure. Fortin et al. (2014), doi:10.1175/JHM-D-14-0008.1.
    NaN where the error is zero. Raises EvaluationError for a single member.
    """
    if nan_policy == "omit" or not over(pair(forecast, truth, member_dim)[1], dim):
        names = ("variance", "squared_error", "present")
        (spread, error, present), members = _pointwise(forecast, truth, names, member_dim, nan_policy)
        spread = spread * (present + 1) / present.where(present > 0)
        error = error.where(spread.notnull())
        means = [average(s, dim, weights, nan_policy) for s in (spread, error)]
    else:  # all points that count have the same members
        request = Request(("variance", "squared_error"), nan_policy)
        found, members = _averaged(forecast, truth, request, member_dim, dim, weights)
        means = [found["variance"] * (members + 1) / max(members, 1), found["squared_error"]]
    _needs_two(members, "the spread-skill ratio")
    result = spread_skill(means[0], means[1])
    return result.rename("spread_skill_ratio").assign_attrs(long_name="spread-skill ratio", units="1", members=members)


def rank_histogram(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    member_dim: str = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """How often the truth has each of the M + 1 possible ranks among the members, counted over `dim`.

    Returns counts (float64; weighted if weights are given) over what is kept and a last dimension `rank`, 0 meaning
    below all members. Flat if truth and members are drawn alike; U-shaped if the ensemble is too narrow; sloping if it
    is biased. A truth equal to t members counts 1 / (t + 1) in each rank it could have: no random numbers, so that the
    result depends on neither a seed nor chunks. Hamill (2001),
    doi:10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2.

    Under "omit" only points with all of their members count. Neighbouring points are not independent: judge flatness
    by the number of runs, not of points.
    """
    if over(pair(forecast, truth, member_dim)[1], dim):
        found, members = _averaged(forecast, truth, Request((), nan_policy, True), member_dim, dim, weights)
        return _histogram(found, members, nan_policy)
    (rank, ties), members = _pointwise(forecast, truth, ("rank", "ties"), member_dim, nan_policy)
    return ranks_to_histogram(rank, ties, members=members, dim=dim, weights=weights, nan_policy=nan_policy)


def ranks_to_histogram(
    rank: xr.DataArray,
    ties: xr.DataArray,
    *,
    members: int,
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """`rank_histogram` from the rank and ties of `ensemble_statistics`, so that one pass serves both."""
    dims = over(rank, dim)
    if not dims:
        rank, ties, dims = rank.expand_dims("_point"), ties.expand_dims("_point"), ["_point"]
    share = xr.ones_like(rank, dtype=np.float64)
    if weights is not None:
        share = share * fitting_weights(weights, rank, dims)
    counts = xr.apply_ufunc(
        _count_last_axes,
        rank,
        ties,
        share,
        input_core_dims=[dims] * 3,
        output_core_dims=[["rank"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"rank": members + 1}, "allow_rechunk": True},
        kwargs={"members": members, "axes": len(dims)},
    )
    if nan_policy != "omit":
        counts = counts.where(~((rank < 0) & (share > 0)).any(dims))
    return _described_histogram(counts, members)


def _histogram(found: dict[str, xr.DataArray], members: int, nan_policy: str) -> xr.DataArray:
    counts = found["histogram"]
    return _described_histogram(counts if nan_policy == "omit" else counts.where(found["missing"] == 0), members)


def _described_histogram(counts: xr.DataArray, members: int) -> xr.DataArray:
    attrs = {"long_name": "rank of the truth among the members", "units": "1", "members": members}
    return counts.assign_coords(rank=np.arange(members + 1)).rename("rank_histogram").assign_attrs(attrs)


def _count_last_axes(rank: np.ndarray, ties: np.ndarray, share: np.ndarray, *, members: int, axes: int) -> np.ndarray:
    flat = [a.reshape(*a.shape[: a.ndim - axes], -1) for a in (rank, ties, share)]
    return count_ranks(flat[0], flat[1], members=members, weights=flat[2])


def _mean(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    name: str,
    member_dim: str | None,
    dim: Dims,
    weights: xr.DataArray | None,
    nan_policy: NanPolicy,
) -> tuple[xr.DataArray, int]:
    """The average of one statistic over `dim` (nothing: the statistic), and M."""
    if over(pair(forecast, truth, member_dim)[1], dim):
        found, members = _averaged(forecast, truth, Request((name,), nan_policy), member_dim, dim, weights)
        return found[name], members
    (score,), members = _pointwise(forecast, truth, (name,), member_dim, nan_policy)
    return average(score, dim, weights, nan_policy), members


def _averaged(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    request: Request,
    member_dim: str | None,
    dim: Dims,
    weights: xr.DataArray | None,
) -> tuple[dict[str, xr.DataArray], int]:
    """What is requested (see `averages.averages`) with names and units, and M."""
    forecast, truth, member_dim = pair(forecast, truth, member_dim)
    dims = over(truth, dim)
    if weights is not None:
        weights = fitting_weights(weights, truth, dims)
    found = averages(forecast, truth, member_dim, dims, weights, request)
    members = forecast.sizes[member_dim]
    named = {n: _metric(found[n], n, _LONG_NAMES[n], truth).assign_attrs(members=members) for n in request.names}
    return found | named, members


def _pointwise(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    names: Sequence[str],
    member_dim: str | None,
    nan_policy: NanPolicy,
    thresholds: tuple[float, ...] = (),
    absolute: bool = True,
) -> tuple[list[xr.DataArray], int]:
    """The named statistics on the truth's dimensions, and M."""
    forecast, truth, member_dim = pair(forecast, truth, member_dim)
    lazy = forecast.chunks is not None or truth.chunks is not None
    if forecast.chunks is not None:
        forecast = forecast.chunk({member_dim: -1})
    options = {"names": tuple(names), "nan_policy": nan_policy, "threads": 1 if lazy else None}
    arrays = xr.apply_ufunc(
        _scores,
        forecast,
        truth,
        input_core_dims=[[member_dim], []],
        output_core_dims=[["threshold"] if n in THRESHOLD_NAMES else [] for n in names],
        join="exact",
        dask="parallelized",
        output_dtypes=[np.int32 if n in INTEGER_NAMES else np.float64 for n in names],
        dask_gufunc_kwargs={"output_sizes": {"threshold": len(thresholds)}} if thresholds else None,
        kwargs=options | {"thresholds": thresholds, "absolute": absolute},
    )
    members = forecast.sizes[member_dim]
    named = zip(names, arrays if len(names) > 1 else (arrays,), strict=True)
    return [_metric(a, n, _LONG_NAMES[n], truth).assign_attrs(members=members) for n, a in named], members


def _scores(
    forecast: np.ndarray,
    truth: np.ndarray,
    *,
    names: tuple[str, ...],
    nan_policy: str,
    threads: int | None,
    thresholds: tuple[float, ...],
    absolute: bool,
) -> np.ndarray | tuple[np.ndarray, ...]:
    found = ensemble_scores(
        forecast,
        truth,
        axis=-1,
        names=names,
        nan_policy=nan_policy,
        threads=threads,
        thresholds=thresholds,
        absolute=absolute,
    )
    out = tuple(np.moveaxis(a, 0, -1) if n in THRESHOLD_NAMES else a for n, a in zip(names, found, strict=True))
    return out if len(names) > 1 else out[0]


def _metric(array: xr.DataArray, name: str, long_name: str, truth: xr.DataArray) -> xr.DataArray:
    """Name, description and unit of a result."""
    unit = truth.attrs.get("units")
    attrs = {"long_name": long_name}
    if name in INTEGER_NAMES or name in THRESHOLD_NAMES:
        attrs["units"] = "1"
    elif unit is not None:
        attrs["units"] = f"({unit})^2" if name in _SQUARED and unit != "1" else unit
    return array.rename(name).assign_attrs(attrs)


def _needs_two(members: int, what: str) -> None:
    if members < 2:
        raise EvaluationError(f"{what} needs at least 2 members, got {members}")
