"""Metrics of means: what is divided or rooted after averaging, never before.

Each takes means (`evaluation.statistics`, or their bootstrap resamples) and returns an array on the same dimensions.
"""

import xarray as xr

from .dims import match
from .errors import DimensionError


def skill_score(score: xr.DataArray, reference_score: xr.DataArray) -> xr.DataArray:
    """1 - score / reference score, for scores whose best value is 0: 1 is perfect, 0 no better than the reference.

    Both are averages over the same points; a mean of skill scores is not the skill of the means. The CRPS gives the
    CRPSS, the squared error the mean square skill score (Murphy 1988,
    doi:10.1175/1520-0493(1988)116<2417:SSBOTM>2.0.CO;2). NaN where the reference is 0 or NaN.
    Raises DimensionError unless both have the same dimensions and coordinates.
    """
    _same(score, reference_score, "the score", "the reference score")
    divisor = reference_score.where(reference_score != 0)
    result = 1.0 - score / divisor
    return result.rename("skill_score").assign_attrs(long_name="skill score", units="1")


def spread_skill(variance: xr.DataArray, squared_error: xr.DataArray, *, members: int | None = None) -> xr.DataArray:
    """sqrt((M + 1) / M mean variance / mean squared error of the ensemble mean); see `spread_skill_ratio`.

    Without `members` the variance already holds the factor. NaN where the error is 0.
    """
    _same(variance, squared_error, "the variance", "the squared error")
    factor = 1.0 if members is None else (members + 1) / members
    return (factor * variance / squared_error.where(squared_error > 0)) ** 0.5


def _same(a: xr.DataArray, b: xr.DataArray, name_a: str, name_b: str) -> None:
    if set(a.dims) != set(b.dims):
        raise DimensionError(f"{name_a} is on {a.dims}, {name_b} on {b.dims}: average both over the same dimensions")
    match(a, b, a.dims, name_a, name_b)
