"""Scores of events, such as |vorticity| beyond a threshold, whose probability is a fraction of the members.

    members beyond the threshold k of M  ->  probability p = k / M;     the truth beyond it: o = 1, else 0

Since p takes M + 1 values only, every score of many points is a function of two rows of M + 1 counts:

    n_k   points at which k members are beyond the threshold          o_k   of these, points at which the truth is

`event_counts` makes them from the arrays of one case, and counts of cases are added up; `brier_from_counts`,
`brier_components`, `reliability_from_counts` and `roc_from_counts` are what follows from the sums. The functions on
DataArrays (`brier_score` and below) are the same for any dimensions, and take the arguments of
`evaluation.statistics`.

Which side of a threshold t is the event is said by `tail`: "above" x > t, "below" x < t, "both" |x| > t.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from .dims import Dims, average, fitting_weights, over, pair
from .errors import DimensionError, EvaluationError, MissingValueError
from .fields import fit_together
from .pointwise import POLICIES
from .statistics import Estimator, NanPolicy

Tail = Literal["above", "below", "both"]
TAILS = ("above", "below", "both")
_MISSING = -1
_PART = 1 << 20
"""Values of a part that temporaries are made for."""


def event_counts(
    members: np.ndarray, truth: np.ndarray, fluid: np.ndarray, thresholds: Sequence[float], absolute: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Counts (n_k, o_k) of one case over its fluid cells, each float64 (lead, threshold, k = 0..M).

    members (member, lead, y, x), truth (lead, y, x), fluid (y, x) bool; the event is |x| > threshold, or x > threshold
    unless `absolute`. Compared in the arrays' own type, and exactly: a threshold that the type cannot hold is rounded
    so that no value changes sides.
    """
    fit_together(members, truth, fluid)
    tail = "both" if absolute else "above"
    wanted = checked_thresholds(thresholds, tail)
    sizes = len(members) + 1
    forecast, observed = (np.zeros((len(truth), len(wanted), sizes)) for _ in range(2))
    for lead in range(len(truth)):
        beyond = count_beyond(members[:, lead], wanted, tail)[:, fluid]
        event = count_beyond(truth[None, lead], wanted, tail)[:, fluid] > 0
        for i in range(len(wanted)):
            forecast[lead, i] = np.bincount(beyond[i], minlength=sizes)
            observed[lead, i] = np.bincount(beyond[i][event[i]], minlength=sizes)
    return forecast, observed


def checked_thresholds(thresholds: float | Sequence[float], tail: str) -> np.ndarray:
    """Thresholds as a float64 vector. EvaluationError for one that has no meaning."""
    if tail not in TAILS:
        raise EvaluationError(f"unknown tail {tail!r}: choose one of {', '.join(TAILS)}")
    wanted = np.atleast_1d(np.asarray(thresholds, np.float64))
    if wanted.ndim != 1 or wanted.size == 0 or not np.isfinite(wanted).all():
        raise EvaluationError(f"thresholds must be one or more finite numbers, got {thresholds!r}")
    if tail == "both" and (wanted < 0).any():
        raise EvaluationError(f'a threshold of |x| cannot be negative, got {wanted.min():g}: tail="above" is for x > t')
    return wanted


def count_beyond(members: np.ndarray, thresholds: np.ndarray, tail: str) -> np.ndarray:
    """How many members (member, ...) are beyond each threshold: (threshold, ...), of an unsigned integer type.

    A NaN is beyond no threshold.
    """
    counts = np.zeros((len(thresholds), *members.shape[1:]), np.uint8 if len(members) < 256 else np.uint32)
    limits = [_representable(t, members.dtype, tail) for t in thresholds]
    compare = np.less if tail == "below" else np.greater
    beyond = np.empty(members.shape[1:], bool)
    for member in members:
        values = _absolute(member) if tail == "both" else member
        for limit, count in zip(limits, counts, strict=True):
            compare(values, limit, out=beyond)
            np.add(count, beyond.view(np.uint8), out=count)
    return counts


def _absolute(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "ub":
        return values
    return np.abs(values.astype(np.int64) if values.dtype.kind == "i" else values)


def _representable(threshold: float, dtype: np.dtype, tail: str) -> np.generic | int:
    """A number of the given type (or a Python integer) that the same values of the type are beyond."""
    below = tail == "below"
    if dtype.kind != "f":
        return int(np.ceil(threshold) if below else np.floor(threshold))
    kind = dtype.newbyteorder("=").type
    with np.errstate(over="ignore"):
        near = kind(threshold)
    wrong_side = near < threshold if below else near > threshold
    return np.nextafter(near, kind(np.inf if below else -np.inf)) if wrong_side else near


def brier_from_counts(
    forecast: np.ndarray, observed: np.ndarray, estimator: Literal["fair", "classical"] = "fair"
) -> np.ndarray:
    """Brier score (...) of counts (..., k = 0..M), see `brier_score`. NaN where nothing was counted.

    Raises EvaluationError for the fair estimator of one member.
    """
    members, share, total = _checked(forecast, observed)
    squares = forecast * share**2 - 2 * share * observed + observed
    if estimator == "fair":
        _needs_two(members)
        squares = squares - forecast * share * (1 - share) / (members - 1)
    return squares.sum(-1) / total


def brier_components(forecast: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reliability, resolution and uncertainty (...) of counts (..., k = 0..M), see `brier_decomposition`."""
    _, share, total = _checked(forecast, observed)
    frequency = np.divide(observed, forecast, out=np.zeros(np.shape(forecast)), where=np.asarray(forecast) > 0)
    overall = observed.sum(-1) / total
    reliability = (forecast * (share - frequency) ** 2).sum(-1) / total
    resolution = (forecast * (frequency - overall[..., None]) ** 2).sum(-1) / total
    return reliability, resolution, overall * (1 - overall)


def reliability_from_counts(forecast: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probability (k), observed frequency (..., k; NaN where never forecast) and share of points (..., k)."""
    _, share, total = _checked(forecast, observed)
    frequency = np.divide(observed, forecast, out=np.full(np.shape(forecast), np.nan), where=np.asarray(forecast) > 0)
    return share, frequency, forecast / total[..., None]


def roc_from_counts(forecast: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False alarm rate and hit rate (..., M + 2), from "never warn" to "always warn", and the area (...) below.

    NaN where the event always, or never, happened.
    """
    _checked(forecast, observed)
    rates = []
    for counts in (np.subtract(forecast, observed), np.asarray(observed, np.float64)):
        warned = np.cumsum(counts[..., ::-1], -1)
        warned = np.concatenate([np.zeros_like(warned[..., :1]), warned], -1)
        rates.append(warned / np.where(warned[..., -1:] > 0, warned[..., -1:], np.nan))
    false_alarm, hit = rates
    area = (np.diff(false_alarm, axis=-1) * (hit[..., 1:] + hit[..., :-1]) / 2).sum(-1)
    return false_alarm, hit, area


def _checked(forecast: np.ndarray, observed: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """M, the probabilities k / M, and the number of points (NaN for none)."""
    if np.shape(forecast) != np.shape(observed) or np.shape(forecast)[-1] < 2:
        raise EvaluationError(
            f"counts {np.shape(forecast)} and {np.shape(observed)}: two of the same shape (..., members + 1) are needed"
        )
    members = np.shape(forecast)[-1] - 1
    total = np.asarray(forecast).sum(-1, dtype=np.float64)
    return members, np.arange(members + 1) / members, np.where(total > 0, total, np.nan)


def _needs_two(members: int) -> None:
    if members < 2:
        raise EvaluationError('the fair Brier score needs at least 2 members, got 1: use estimator="classical"')


def brier_score(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    threshold: float | Sequence[float],
    tail: Tail = "above",
    estimator: Estimator = "fair",
    member_dim: str | None = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Mean of (p - o)^2, the squared error of the probability of an event; dimensionless; 0 is best, 1 worst.

        classical  (k/M - o)^2          fair  (k/M - o)^2 - k (M - k) / (M^2 (M - 1))

    The fair one estimates the score of the distribution that members are drawn from: only it compares ensembles of
    different size (and it may be slightly negative at a point). Proper: it rewards probabilities that are reliable and
    as sharp as can be; the uncertainty of the event itself sets its scale, so that rare events have small scores.
    Several thresholds give a dimension `threshold`. The integral of the score over all thresholds is the CRPS.
    Brier (1950), doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2; fair: Ferro (2014), doi:10.1002/qj.2270.

    Raises EvaluationError for a threshold that is not finite (or negative, for tail="both") and for the fair estimator
    of a single member.
    """
    if estimator not in ("fair", "classical"):
        raise EvaluationError(f'unknown estimator {estimator!r}: choose "fair" or "classical"')
    (score,), members = _events(forecast, truth, threshold, tail, member_dim, nan_policy, estimator)
    what = {"above": "x > t", "below": "x < t", "both": "|x| > t"}[tail]
    attrs = {"long_name": f"Brier score of {what}", "units": "1", "estimator": estimator, "members": members}
    score = score.rename("brier_score").assign_attrs(attrs)
    return average(score, _but_threshold(score, dim), weights, nan_policy)


def event_histogram(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    threshold: float | Sequence[float],
    tail: Tail = "above",
    member_dim: str | None = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.Dataset:
    """The counts that reliability, ROC and Brier score follow from, over `dim`: `forecast` and `observed`.

    `forecast` (..., exceeding): points at which that many members (0..M) are beyond the threshold; `observed`: of
    these, points at which the truth is. Both float64, weighted if weights are given. They may be added up over cases
    (and over runs: that is how to bootstrap a curve). Under "omit" only points with all of their members count.
    """
    (beyond, event), members = _events(forecast, truth, threshold, tail, member_dim, nan_policy, None)
    dims = over(beyond, _but_threshold(beyond, dim))
    if not dims:
        beyond, event, dims = beyond.expand_dims("_point"), event.expand_dims("_point"), ["_point"]
    share = xr.ones_like(beyond, dtype=np.float64)
    if weights is not None:
        share = share * fitting_weights(weights, beyond, dims)
    arrays = xr.apply_ufunc(
        _tabulate,
        beyond,
        event,
        share,
        input_core_dims=[dims] * 3,
        output_core_dims=[["exceeding"]] * 2,
        dask="parallelized",
        output_dtypes=[np.float64] * 2,
        dask_gufunc_kwargs={"output_sizes": {"exceeding": members + 1}, "allow_rechunk": True},
        kwargs={"members": members, "axes": len(dims)},
    )
    if nan_policy != "omit":
        lost = ((beyond == _MISSING) & (share > 0)).any(dims)
        arrays = tuple(a.where(~lost) for a in arrays)
    names = {"forecast": "points with that many members beyond the threshold", "observed": "of these, with the truth"}
    data = {n: a.assign_attrs(long_name=text, units="1") for (n, text), a in zip(names.items(), arrays, strict=True)}
    attrs = {"members": members, "tail": tail}
    return xr.Dataset(data, attrs=attrs).assign_coords(exceeding=np.arange(members + 1))


def brier_decomposition(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    threshold: float | Sequence[float],
    tail: Tail = "above",
    member_dim: str | None = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.Dataset:
    """Classical Brier score = reliability - resolution + uncertainty, exactly, over `dim`; all dimensionless.

        reliability  sum_k n_k (k/M - f_k)^2 / n     0 is best: an event forecast with probability p happens so often
        resolution   sum_k n_k (f_k - f)^2 / n       high is best: forecasts tell occasions apart; at most uncertainty
        uncertainty  f (1 - f)                       of the event, not of the forecast

    with f_k = o_k / n_k the frequency of the event where k members forecast it, and f the overall frequency. Over few
    points both reliability and resolution come out too large (f_k is itself uncertain). Murphy (1973),
    doi:10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2.
    """
    counts = event_histogram(
        forecast,
        truth,
        threshold=threshold,
        tail=tail,
        member_dim=member_dim,
        dim=dim,
        weights=weights,
        nan_policy=nan_policy,
    )
    names = ("reliability", "resolution", "uncertainty")
    arrays = _of_counts(brier_components, counts, [[], [], []], {})
    data = {n: a.assign_attrs(long_name=f"{n} of the event", units="1") for n, a in zip(names, arrays, strict=True)}
    return xr.Dataset(data, attrs=counts.attrs)


def reliability_curve(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    threshold: float | Sequence[float],
    tail: Tail = "above",
    member_dim: str | None = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.Dataset:
    """How often an event happened when it was forecast with probability k / M: the diagonal is best.

    Returns `frequency` (..., probability), NaN where that probability was never forecast, and `share`, the fraction of
    points that it was forecast for (sharp forecasts have most of them at both ends). Rewards calibration alone:
    climatology is on the diagonal too. Under the diagonal the event is forecast too often. A reliable finite ensemble
    is slightly flatter than the diagonal, for k / M is itself a sample. Murphy and Winkler (1977), doi:10.2307/2346866.
    """
    counts = event_histogram(
        forecast,
        truth,
        threshold=threshold,
        tail=tail,
        member_dim=member_dim,
        dim=dim,
        weights=weights,
        nan_policy=nan_policy,
    )
    members = int(counts.attrs["members"])
    counts = counts.rename(exceeding="probability").assign_coords(probability=np.arange(members + 1) / members)
    frequency, share = _of_counts(_reliability, counts, [["probability"]] * 2, {"probability": members + 1})
    data = {
        "frequency": frequency.assign_attrs(long_name="observed frequency of the event", units="1"),
        "share": share.assign_attrs(long_name="share of points with this probability", units="1"),
    }
    return xr.Dataset(data, attrs=counts.attrs).assign_coords(probability=counts["probability"])


def roc_curve(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    threshold: float | Sequence[float],
    tail: Tail = "above",
    member_dim: str | None = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.Dataset:
    """Hits against false alarms of warnings "at least j members are beyond the threshold", j = M + 1 (never) ... 0.

    Returns `false_alarm_rate` (of points without the event, those warned) and `hit_rate` (of points with it), both
    (..., least_members), and `area` below the curve: 1 is best, 0.5 no better than chance, NaN where the event always
    or never happened. Rewards telling events from others apart and does not see calibration: any increasing function
    of the probability has the same curve. Mason (1982), Aust. Met. Mag. 30, 291-303; Fawcett (2006),
    doi:10.1016/j.patrec.2005.10.010.
    """
    counts = event_histogram(
        forecast,
        truth,
        threshold=threshold,
        tail=tail,
        member_dim=member_dim,
        dim=dim,
        weights=weights,
        nan_policy=nan_policy,
    )
    members = int(counts.attrs["members"])
    own = ["least_members"]
    arrays = _of_counts(roc_from_counts, counts, [own, own, []], {"least_members": members + 2})
    names = {
        "false_alarm_rate": "warned, of points without the event",
        "hit_rate": "warned, of points with the event",
        "area": "area below the ROC curve",
    }
    data = {n: a.assign_attrs(long_name=text, units="1") for (n, text), a in zip(names.items(), arrays, strict=True)}
    return xr.Dataset(data, attrs=counts.attrs).assign_coords(least_members=np.arange(members + 1, -1, -1))


def _reliability(forecast: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return reliability_from_counts(forecast, observed)[1:]


def _of_counts(
    function: Callable[..., Any], counts: xr.Dataset, outputs: list[list[str]], sizes: dict[str, int]
) -> tuple[xr.DataArray, ...]:
    """A function of counts, applied along their last dimension."""
    own = str(counts["forecast"].dims[-1])
    return xr.apply_ufunc(
        function,
        counts["forecast"].drop_vars(own),
        counts["observed"].drop_vars(own),
        input_core_dims=[[own]] * 2,
        output_core_dims=outputs,
        exclude_dims={own},
        dask="parallelized",
        output_dtypes=[np.float64] * len(outputs),
        dask_gufunc_kwargs={"output_sizes": sizes, "allow_rechunk": True},
    )


def _but_threshold(array: xr.DataArray, dim: Dims) -> Dims:
    """The dimensions to average over: all of them never includes that of the thresholds."""
    if dim is None or dim is ...:
        return [str(d) for d in array.dims if d != "threshold"]
    if "threshold" in over(array, dim):
        raise DimensionError("no average over thresholds: choose one, or average the result")
    return dim


def _events(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    threshold: float | Sequence[float],
    tail: str,
    member_dim: str | None,
    nan_policy: str,
    estimator: str | None,
) -> tuple[tuple[xr.DataArray, ...], int]:
    """Pointwise Brier score, or without an estimator members beyond the threshold (-1 at a NaN) and the event; M."""
    if nan_policy not in POLICIES:
        raise EvaluationError(f"unknown nan_policy {nan_policy!r}: choose one of {', '.join(POLICIES)}")
    wanted = checked_thresholds(threshold, tail)
    forecast, truth, member_dim = pair(forecast, truth, member_dim)
    if "threshold" in truth.dims:
        raise DimensionError('"threshold" is a dimension of the data: rename it')
    for name, array in (("forecast", forecast), ("truth", truth)):
        if array.dtype.kind not in "buif":
            raise EvaluationError(f"cannot score a {name} of {array.dtype}: real numbers are needed")
    members = forecast.sizes[member_dim]
    if members == 0:
        raise EvaluationError("the ensemble has no members: at least one is needed")
    if estimator == "fair":
        _needs_two(members)
    if forecast.chunks is not None:
        forecast = forecast.chunk({member_dim: -1})
    dtypes = [np.float64] if estimator else [np.int32, np.int8]
    arrays = xr.apply_ufunc(
        _event_points,
        forecast,
        truth,
        input_core_dims=[[member_dim], []],
        output_core_dims=[["threshold"]] * len(dtypes),
        join="exact",
        dask="parallelized",
        output_dtypes=dtypes,
        dask_gufunc_kwargs={"output_sizes": {"threshold": len(wanted)}},
        kwargs={"thresholds": wanted, "tail": tail, "nan_policy": nan_policy, "estimator": estimator},
    )
    arrays = arrays if len(dtypes) > 1 else (arrays,)
    unit = {"units": truth.attrs["units"]} if "units" in truth.attrs else {}
    labels = xr.DataArray(wanted, dims="threshold", attrs=unit)
    arrays = tuple(a.assign_coords(threshold=labels) for a in arrays)
    return (tuple(a.isel(threshold=0) for a in arrays) if np.ndim(threshold) == 0 else arrays), members


def _event_points(
    forecast: np.ndarray,
    truth: np.ndarray,
    *,
    thresholds: np.ndarray,
    tail: str,
    nan_policy: str,
    estimator: str | None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """(..., threshold) from forecast (..., member) and truth (...), part by part: temporaries stay small."""
    if nan_policy == "raise":
        lost = int(_incomplete(forecast, truth).sum())
        if lost:
            raise MissingValueError(
                f'{lost} of {truth.size} points hold NaN: mask them, or use nan_policy="omit" or "propagate"'
            )
    shape = (*truth.shape, len(thresholds))
    omit = nan_policy == "omit"
    if estimator is None:
        beyond, event = np.empty(shape, np.int32), np.empty(shape, np.int8)
        for part in _parts(forecast):
            k, o, known, present = _counted(forecast[part], truth[part], thresholds, tail)
            beyond[part] = np.moveaxis(
                np.where(known & (present == forecast.shape[-1]), k.astype(np.int32), _MISSING), 0, -1
            )
            event[part] = np.moveaxis(o, 0, -1)
        return beyond, event
    score = np.empty(shape)
    for part in _parts(forecast):
        k, o, known, present = _counted(forecast[part], truth[part], thresholds, tail)
        score[part] = np.moveaxis(_brier(k, o, known, present, forecast.shape[-1], estimator == "fair", omit), 0, -1)
    return score


def _parts(forecast: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Indices that cut an array along its first axes into parts that fit the cache (or cannot be cut)."""
    axes, size = 0, forecast.size
    while axes < forecast.ndim - 2 and size > _PART:
        size //= max(forecast.shape[axes], 1)
        axes += 1
    return np.ndindex(forecast.shape[:axes])


def _incomplete(forecast: np.ndarray, truth: np.ndarray) -> np.ndarray:
    lost = np.isnan(truth) if truth.dtype.kind == "f" else np.zeros(truth.shape, bool)
    if forecast.dtype.kind == "f":
        for member in np.moveaxis(forecast, -1, 0):
            lost |= np.isnan(member)
    return lost


def _counted(
    forecast: np.ndarray, truth: np.ndarray, thresholds: np.ndarray, tail: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Members beyond each threshold, the truth beyond it (threshold, ...); is there a truth, members present (...)."""
    members = np.moveaxis(forecast, -1, 0)
    beyond, event = count_beyond(members, thresholds, tail), count_beyond(truth[None], thresholds, tail)
    known = ~np.isnan(truth) if truth.dtype.kind == "f" else np.ones(truth.shape, bool)
    present = np.full(truth.shape, len(members))
    if forecast.dtype.kind == "f":
        lost = np.isnan(members)
        if lost.any():
            present -= lost.sum(0)
    return beyond, event, known, present


def _brier(
    beyond: np.ndarray,
    event: np.ndarray,
    known: np.ndarray,
    present: np.ndarray,
    members: int,
    fair: bool,
    omit: bool,
) -> np.ndarray:
    complete = present == members
    usable = known & (present >= 1 + fair if omit else complete)
    if complete.all() and members > fair:  # two values for each k: a table has them all
        k = np.arange(members + 1) / members
        table = np.stack([k**2, (k - 1) ** 2]) - (k * (1 - k) / (members - 1) if fair else 0)
        score = table.ravel()[beyond + np.intp(members + 1) * event]
        return score if usable.all() else np.where(usable, score, np.nan)
    count = np.where(usable, present, np.nan)
    share = beyond / count
    score = (share - event) ** 2
    return score - share * (1 - share) / (count - 1) if fair else score


def _tabulate(
    beyond: np.ndarray, event: np.ndarray, share: np.ndarray, *, members: int, axes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted counts (..., k) over the last `axes` axes: of all points, and of those with the event."""
    shape = beyond.shape[: beyond.ndim - axes]
    rows = [a.reshape(int(np.prod(shape)), -1) for a in (beyond, event, share)]
    forecast, observed = (np.zeros((len(rows[0]), members + 1)) for _ in range(2))
    for i, (k, o, w) in enumerate(zip(*rows, strict=True)):
        counted = (k != _MISSING) & (w > 0)
        forecast[i] = np.bincount(k[counted], w[counted], members + 1)
        observed[i] = np.bincount(k[counted], (w * o)[counted], members + 1)
    return forecast.reshape(*shape, members + 1), observed.reshape(*shape, members + 1)
