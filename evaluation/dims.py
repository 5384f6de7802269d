"""Names of dimensions: aliases on input, strict matching of forecast and truth, averages.

Nothing is broadcast silently: a forecast of 5 leads never meets a truth of 3, nor a forecast on (y, x) a truth on
(latitude,). The one exception is asked for by name: `weights` may lack dimensions of what they weigh.
"""

from collections.abc import Hashable, Iterable, Sequence
from types import EllipsisType

import numpy as np
import xarray as xr

from .errors import DimensionError, EvaluationError

ALIASES = {
    "prediction_timedelta": "lead_time",
    "step": "lead_time",
    "number": "member",
    "realization": "member",
    "sample": "member",
    "ensemble": "member",
    "forecast_reference_time": "init_time",
    "latitude": "y",
    "lat": "y",
    "longitude": "x",
    "lon": "x",
}
"""Names understood on input; results carry the name on the right."""

Dims = str | Iterable[str] | EllipsisType | None


def pair(forecast: xr.DataArray, truth: xr.DataArray, member_dim: str | None) -> tuple[xr.DataArray, xr.DataArray, str]:
    """Forecast and truth under canonical names, dimensions of the truth in the forecast's order, and the member dim.

    `member_dim=None` says that the forecast is a single one: it gets a member dimension of size 1.
    Raises DimensionError unless truth has exactly the forecast's dimensions (without members), with equal sizes and
    equal index coordinates.
    """
    for name, array in (("forecast", forecast), ("truth", truth)):
        if not isinstance(array, xr.DataArray):
            raise EvaluationError(
                f"{name} is a {type(array).__name__}: a DataArray is needed (choose one variable of a Dataset)"
            )
    if member_dim is None:
        member_dim = "member"
        if member_dim in forecast.dims:
            raise DimensionError('the forecast has dimension "member": member_dim=None is for single forecasts')
        forecast = forecast.expand_dims(member_dim)
    names = _renaming(forecast.dims, truth.dims, member_dim)
    forecast, truth, member_dim = _rename(forecast, names), _rename(truth, names), names.get(member_dim, member_dim)
    if member_dim not in forecast.dims:
        raise DimensionError(
            f'the forecast has no dimension "{member_dim}", only {_list(forecast.dims)}: say member_dim=...'
        )
    points = [d for d in forecast.dims if d != member_dim]
    if set(points) != set(truth.dims):
        raise DimensionError(
            f"forecast has {_list(points)} beside members, truth has {_list(truth.dims)}: they must be the same"
        )
    match(forecast, truth, points, "forecast", "truth")
    return forecast, truth.transpose(*points), member_dim


def _renaming(forecast: Sequence[Hashable], truth: Sequence[Hashable], member_dim: str) -> dict[str, str]:
    """Aliases in use; not where the right name is taken, nor a member alias that is a dimension of the truth."""
    present = set(forecast) | set(truth)
    names: dict[str, str] = {}
    for alias, name in ALIASES.items():
        members_of_truth = name == "member" and (alias in truth or member_dim not in (alias, name))
        if alias in present and name not in present and not members_of_truth:
            if name in names.values():
                raise DimensionError(f'two dimensions mean "{name}": {_list(present)}; rename one of them')
            names[alias] = name
    return names


def _rename(array: xr.DataArray, names: dict[str, str]) -> xr.DataArray:
    return array.rename({old: new for old, new in names.items() if old in array.dims})


def match(a: xr.DataArray, b: xr.DataArray, dims: Iterable[Hashable], name_a: str, name_b: str) -> None:
    """Raise DimensionError unless sizes, and index coordinates where both have one, are equal along dims."""
    for dim in dims:
        if a.sizes[dim] != b.sizes[dim]:
            raise DimensionError(
                f'dimension "{dim}" has {a.sizes[dim]} points in {name_a} and {b.sizes[dim]} in {name_b}: '
                "select the same points in both"
            )
        if dim in a.indexes and dim in b.indexes and not a.indexes[dim].equals(b.indexes[dim]):
            raise DimensionError(
                f'coordinate "{dim}" differs between {name_a} and {name_b}: select the same points in both'
            )


def over(array: xr.DataArray, dim: Dims) -> list[Hashable]:
    """The dimensions that `dim` names: None or ... all of them, () none."""
    if dim is None or dim is ...:
        return list(array.dims)
    chosen = [dim] if isinstance(dim, str) else list(dim)
    names: list[Hashable] = [d if d in array.dims else ALIASES.get(d, d) for d in chosen]
    for d in names:
        if d not in array.dims:
            raise DimensionError(f'no dimension "{d}" to average over, only {_list(array.dims)}')
    return names


def average(
    statistic: xr.DataArray, dim: Dims = None, weights: xr.DataArray | None = None, nan_policy: str = "propagate"
) -> xr.DataArray:
    """Mean of a pointwise statistic over `dim` (None: all), weighted if weights are given.

    nan_policy "omit" leaves NaN points out, else one of them makes the mean NaN. Points of weight zero never enter.
    Weights (any of the statistic's dimensions; finite, >= 0) of sum zero give NaN.
    """
    dims = over(statistic, dim)
    omit = nan_policy == "omit"
    if weights is None:
        return statistic.mean(dims, skipna=omit, keep_attrs=True) if dims else statistic
    weights = fitting_weights(weights, statistic, dims)
    valid = weights > 0
    if omit:
        valid = valid & statistic.notnull()
    total = (statistic * weights).where(valid, 0.0).sum(dims, skipna=False)
    norm = (weights * xr.ones_like(statistic)).where(valid, 0.0).sum(dims)
    result = total / norm.where(norm > 0)
    return result.assign_attrs(statistic.attrs)


def fitting_weights(weights: xr.DataArray, statistic: xr.DataArray, dims: list[Hashable]) -> xr.DataArray:
    """Weights as float64, checked against the statistic that they weigh."""
    if not isinstance(weights, xr.DataArray):
        raise EvaluationError(f"weights are a {type(weights).__name__}: a DataArray with named dimensions is needed")
    names = _renaming(weights.dims, (), "member")
    weights = _rename(weights, {k: v for k, v in names.items() if v in statistic.dims}).astype(np.float64)
    extra = [d for d in weights.dims if d not in statistic.dims]
    if extra:
        raise DimensionError(f"weights have {_list(extra)}, which the scores, on {_list(statistic.dims)}, have not")
    if not dims:
        raise DimensionError("weights need dimensions to average over: dim=() keeps every point")
    match(weights, statistic, weights.dims, "weights", "scores")
    if not bool((np.isfinite(weights) & (weights >= 0)).all()):
        raise EvaluationError("weights must be finite and not negative")
    return weights


def _list(names: Iterable[Hashable]) -> str:
    return "(" + ", ".join(str(n) for n in names) + ")"
