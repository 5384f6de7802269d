"""Does a forecast move like a fluid? Divergence of its velocity, and how long its statistics stay those of the flow.

Other properties of this kind have modules of their own: spectra in space (`evaluation.spectra`) and in time
(`evaluation.temporal`), coherent motions (`evaluation.pod`), distributions of values (`evaluation.distributions`).
"""

from collections.abc import Iterable

import numpy as np
import xarray as xr

from .dims import Dims, average, match, over
from .errors import DimensionError, EvaluationError, MissingValueError
from .pointwise import POLICIES
from .statistics import NanPolicy


def rms_divergence(velocity_x: np.ndarray, velocity_y: np.ndarray, fluid: np.ndarray) -> np.ndarray:
    """Root mean square of du/dx + dv/dy of fields (..., y, x), float64 (...), in velocity per cell.

    Central differences, at fluid cells whose four neighbours are fluid and in the frame; NaN where there is none.
    """
    inner = fluid[1:-1, 1:-1] & fluid[1:-1, 2:] & fluid[1:-1, :-2] & fluid[2:, 1:-1] & fluid[:-2, 1:-1]
    out = np.full(velocity_x.shape[:-2], np.nan)
    if not inner.any():
        return out
    for where in np.ndindex(out.shape):
        u, v = velocity_x[where].astype(np.float64), velocity_y[where].astype(np.float64)
        divergence = (u[1:-1, 2:] - u[1:-1, :-2] + v[2:, 1:-1] - v[:-2, 1:-1]) / 2
        out[where] = np.sqrt(np.square(divergence[inner]).mean())
    return out


def divergence(
    velocity_x: xr.DataArray,
    velocity_y: xr.DataArray,
    *,
    space: tuple[str, str] = ("y", "x"),
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Root of the mean over space and `dim` of (du/dx + dv/dy)^2, in velocity per cell, >= 0.

    Best is what the truth has: 0 for an incompressible flow up to the error of central differences (second order in the
    cell, so that a flow that is exact on the grid need not be at 0), a little more for a compressible one. It rewards
    mass conservation of single fields: give members as a dimension like any other and name it in `dim`. Under
    nan_policy="omit" NaN cells are walls, and cells next to them do not count. Mean squares are averaged, the root is
    last. Raises DimensionError unless both velocities have the same dimensions.
    """
    if nan_policy not in POLICIES:
        raise EvaluationError(f"unknown nan_policy {nan_policy!r}: choose one of {', '.join(POLICIES)}")
    core = over(velocity_x, space)
    if set(velocity_x.dims) != set(velocity_y.dims) or len(core) != 2:
        raise DimensionError(f"velocity_x is on {velocity_x.dims}, velocity_y on {velocity_y.dims}: they must be alike")
    match(velocity_x, velocity_y, velocity_x.dims, "velocity_x", "velocity_y")

    def each(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        out = np.full(u.shape[:-2], np.nan)
        for where in np.ndindex(out.shape):
            fluid = ~(np.isnan(u[where]) | np.isnan(v[where]))
            if nan_policy == "raise" and not fluid.all():
                raise MissingValueError('a velocity is NaN: use nan_policy="omit" where that marks walls')
            if fluid.all() or nan_policy == "omit":
                x, y = (np.where(fluid, a[where], 0) for a in (u, v))
                out[where] = rms_divergence(x, y, fluid) ** 2
        return out

    arrays = [a.chunk(dict.fromkeys(core, -1)) if a.chunks is not None else a for a in (velocity_x, velocity_y)]
    square = xr.apply_ufunc(
        each,
        *arrays,
        input_core_dims=[core, core],
        join="exact",
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    result = average(square, dim, weights, nan_policy) ** 0.5
    attrs = {"long_name": "root mean square divergence"}
    if (unit := velocity_x.attrs.get("units")) is not None:
        attrs["units"] = f"{unit} per cell"
    return result.rename("divergence").assign_attrs(attrs)


def first_departure(inside: np.ndarray, *, patience: int = 1) -> np.ndarray:
    """Index along the last axis from which on nothing is inside any more, float64 (...); inf if that is not so.

    `patience` is how many entries at the end must be outside for a departure to count.
    """
    length = inside.shape[-1]
    last = np.where(inside.any(axis=-1), length - np.argmax(inside[..., ::-1], axis=-1), 0)
    return np.where(length - last >= patience, last.astype(np.float64), np.inf)


def stability_time(
    statistic: xr.DataArray,
    climate: xr.DataArray,
    *,
    lead_dim: str = "lead_time",
    climate_dim: str | Iterable[str] | None = None,
    level: float = 0.99,
    margin: float = 0.1,
    patience: int = 1,
) -> xr.DataArray:
    """Lead time at which a statistic of a long roll-out leaves the truth's climatological range for good.

    `statistic` is a number per frame (enstrophy, a variance, energy in a band) along `lead_dim`, of single members;
    `climate` is the same of many frames of the truth, best of training runs. The range holds the central `level` of
    it over `climate_dim` (None: all dimensions that the statistic lacks), widened by `margin` of its width on both
    sides. The result, on the other dimensions, is the first value of `lead_dim` from which on the statistic is
    outside, NaN counting as outside; inf where it is inside at the end, or outside for fewer than `patience` leads
    there: the roll-out was too short to tell. Longer is better; a damped or frozen forecast may be stable and wrong.

    Raises EvaluationError for a level not between 0 and 1, a negative margin, or fewer than 2 values of climate.
    """
    if not 0 < level < 1 or margin < 0 or patience < 1:
        raise EvaluationError(f"needs 0 < level < 1, margin >= 0, patience >= 1; got {level}, {margin}, {patience}")
    if lead_dim not in statistic.dims:
        raise DimensionError(f'no dimension "{lead_dim}" in the statistic, only {statistic.dims}')
    gone = (
        over(climate, climate_dim) if climate_dim is not None else [d for d in climate.dims if d not in statistic.dims]
    )
    kept = [d for d in climate.dims if d not in gone]
    extra = [d for d in kept if d not in statistic.dims]
    if extra:
        raise DimensionError(f"the climate keeps {extra}, which the statistic, on {statistic.dims}, has not")
    match(climate, statistic, kept, "the climate", "the statistic")
    if int(np.prod([climate.sizes[d] for d in gone])) < 2:
        raise EvaluationError("a climatological range needs several values of the truth: say climate_dim=...")
    climate = climate.reset_coords(drop=True)
    bounds = climate.chunk(dict.fromkeys(gone, -1)) if climate.chunks is not None else climate
    bounds = bounds.quantile([(1 - level) / 2, (1 + level) / 2], dim=gone, skipna=True)
    low, high = bounds.isel(quantile=0, drop=True), bounds.isel(quantile=1, drop=True)
    extra_width = margin * (high - low)
    inside = (statistic >= low - extra_width) & (statistic <= high + extra_width)
    leads = statistic[lead_dim].values.astype(np.float64)

    def departure(rows: np.ndarray) -> np.ndarray:
        index = first_departure(rows, patience=patience)
        known = np.isfinite(index)
        return np.where(known, leads[np.where(known, index, 0).astype(np.int64)], np.inf)

    if inside.chunks is not None:
        inside = inside.chunk({lead_dim: -1})
    result = xr.apply_ufunc(
        departure, inside, input_core_dims=[[lead_dim]], dask="parallelized", output_dtypes=[np.float64]
    )
    attrs = {"long_name": "lead time at which the statistic leaves its range for good", "level": level}
    if (unit := statistic[lead_dim].attrs.get("units")) is not None:
        attrs["units"] = unit
    return result.rename("stability_time").assign_attrs(attrs)
