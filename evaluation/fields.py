"""Scores of whole fields: one number (or a few) for each field, whatever the arrays are backed by.

    forecast (..., member, y, x), truth (..., y, x)  ->  score (...)    fields one after the other, never all at once

The dimensions that make up a field (`space`) are reduced by the score itself; `dim` and `weights` are about the rest.
Cells without truth are walls under nan_policy="omit": they count in no score, and the members' values there do not
matter. A member that is NaN in a cell that does count is missing from that field, and M counts those that remain.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping

import numpy as np
import xarray as xr

from .dims import Dims, average, over, pair
from .errors import DimensionError, EvaluationError, MissingValueError
from .pointwise import POLICIES

FieldScore = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray | float]
"""(members (member, *space), truth (*space), fluid (*space)) -> score, an array if it has dimensions of its own."""


def per_field(
    score: FieldScore,
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    space: Iterable[str],
    member_dim: str | None,
    nan_policy: str,
    fewest: int,
    output: Mapping[Hashable, int] | None = None,
) -> xr.DataArray:
    """The score of every field, on the dimensions that are not in `space`, and then those of `output` (name: size).

    Under nan_policy "propagate" a field with a NaN has the score NaN; under "omit" one with fewer than `fewest`
    members or without a fluid cell. Raises DimensionError if forecast and truth do not match (`dims.pair`), or lack a
    dimension of space; EvaluationError for an ensemble of fewer than `fewest` members; MissingValueError for a NaN
    under "raise", when computed.
    """
    if nan_policy not in POLICIES:
        raise EvaluationError(f"unknown nan_policy {nan_policy!r}: choose one of {', '.join(POLICIES)}")
    forecast, truth, member_dim = pair(forecast, truth, member_dim)
    for name, array in (("forecast", forecast), ("truth", truth)):
        if array.dtype.kind not in "buif":
            raise EvaluationError(f"cannot score a {name} of {array.dtype}: real numbers are needed")
    axes = over(truth, [space] if isinstance(space, str) else list(space))
    if not axes or len(set(axes)) < len(axes):
        raise DimensionError(f"space needs the dimensions of a field, each once, got {tuple(axes)}")
    members = forecast.sizes[member_dim]
    if members < fewest:
        what = "the ensemble has no members" if fewest == 1 else 'the "fair" estimator needs at least 2 members'
        raise EvaluationError(f'{what}, got {members}: estimator="classical" is defined for 1')
    output = output or {}
    taken = [d for d in output if d in truth.dims]
    if taken:
        raise DimensionError(f'"{taken[0]}" is a dimension of the data, and of the score: rename it')
    if forecast.chunks is not None:
        forecast = forecast.chunk(dict.fromkeys((member_dim, *axes), -1))
    if truth.chunks is not None:
        truth = truth.chunk(dict.fromkeys(axes, -1))
    result = xr.apply_ufunc(
        _each_field,
        forecast,
        truth,
        input_core_dims=[[member_dim, *axes], axes],
        output_core_dims=[list(output)],
        join="exact",
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": dict(output)},
        kwargs={
            "score": score,
            "axes": len(axes),
            "nan_policy": nan_policy,
            "fewest": fewest,
            "output": tuple(output.values()),
        },
    )
    return result.assign_attrs(members=members)


def average_fields(
    scores: xr.DataArray,
    dim: Dims,
    weights: xr.DataArray | None,
    nan_policy: str,
    own: Iterable[Hashable] = (),
) -> xr.DataArray:
    """`dims.average` of scores of fields; None or ... means every dimension but the score's `own`."""
    own = list(own)
    if dim is None or dim is ...:
        dim = [str(d) for d in scores.dims if d not in own]
    elif set(own) & set(over(scores, dim)):
        raise DimensionError(f"{own} are of the score itself: no average over them")
    return average(scores, dim, weights, nan_policy)


def _each_field(
    forecast: np.ndarray,
    truth: np.ndarray,
    *,
    score: FieldScore,
    axes: int,
    nan_policy: str,
    fewest: int,
    output: tuple[int, ...],
) -> np.ndarray:
    outer = truth.shape[: truth.ndim - axes]
    result = np.full((*outer, *output), np.nan)
    for place in np.ndindex(outer):
        usable = _usable(forecast[place], truth[place], nan_policy)
        if usable is not None and len(usable[0]) >= fewest and usable[2].any():
            result[place] = score(*usable)
    return result


def _usable(
    members: np.ndarray, truth: np.ndarray, nan_policy: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Members, truth and fluid cells with no NaN left among them; None for a field that is not to be scored."""
    fluid = ~np.isnan(truth) if truth.dtype.kind == "f" else np.ones(truth.shape, bool)
    lost = np.isnan(members) if members.dtype.kind == "f" else np.zeros((1,), bool)
    if fluid.all() and not lost.any():
        return members, truth, fluid
    if nan_policy == "raise":
        bad = ~fluid | lost.any(0)
        raise MissingValueError(
            f'{bad.sum()} of {bad.size} cells of a field hold NaN: mask them, or use nan_policy="omit" or "propagate"'
        )
    if nan_policy == "propagate":
        return None
    if members.dtype.kind == "f":
        keep = ~lost[:, fluid].any(1)
        members = np.where(fluid & keep.reshape(-1, *[1] * fluid.ndim), members, 0)[keep]
    return members, np.where(fluid, truth, 0), fluid


def fit_together(members: np.ndarray, truth: np.ndarray, fluid: np.ndarray) -> None:
    """Raise EvaluationError unless members (member, lead, y, x), truth (lead, y, x) and fluid (y, x) fit together."""
    if members.ndim != 4 or members.shape[1:] != truth.shape or truth.shape[1:] != fluid.shape:
        raise EvaluationError(
            f"members {members.shape}, truth {truth.shape} and fluid {fluid.shape} do not fit together: "
            "(member, lead, y, x), (lead, y, x) and (y, x) are needed"
        )
