"""Kinetic energy and enstrophy of a flow by wavenumber: which scales carry the motion, and which the rotation.

Of every field by itself; other dimensions, members too, are kept (average them afterwards, never before). Shells,
windows and walls are those of `evaluation.spectra`; under nan_policy="omit" NaN cells are walls, else a NaN makes the
spectrum of its field NaN ("raise": MissingValueError). The result may be lazy.
"""

import numpy as np
import xarray as xr

from . import spectra
from .dims import match, over
from .errors import DimensionError, EvaluationError, MissingValueError
from .spectra import Window
from .spectral_scores import labelled, shape_in
from .statistics import NanPolicy


def enstrophy_spectrum(
    vorticity: xr.DataArray,
    *,
    window: Window = "hann",
    space: tuple[str, str] = ("y", "x"),
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Half the variance of vorticity by wavenumber; every other dimension is kept (members too)."""
    return _single(vorticity, window, space, nan_policy, 0, "enstrophy")


def kinetic_energy_spectrum(
    velocity_x: xr.DataArray | None = None,
    velocity_y: xr.DataArray | None = None,
    *,
    vorticity: xr.DataArray | None = None,
    window: Window = "hann",
    space: tuple[str, str] = ("y", "x"),
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Kinetic energy per mass by wavenumber, 1/2 (power of u + power of v), of the flow without its mean.

    From the vorticity w of a flow without divergence, its power over (2 pi k)^2 per mode: exact for periodic frames,
    elsewhere good for waves much shorter than the frame. Every other dimension is kept (members too).
    Raises EvaluationError unless either both velocities or the vorticity are given.
    """
    given = [a for a in (velocity_x, velocity_y) if a is not None]
    if (len(given) == 2) == (vorticity is not None) or len(given) == 1:
        raise EvaluationError("a kinetic energy spectrum is of velocity_x and velocity_y, or of vorticity alone")
    if vorticity is not None:
        return _single(vorticity, window, space, nan_policy, -1, "kinetic energy")
    u, v = (_single(a, window, space, nan_policy, 0, "kinetic energy") for a in given)
    if set(u.dims) != set(v.dims):
        raise DimensionError(f"velocity_x is on {u.dims}, velocity_y on {v.dims}: they must be the same")
    match(u, v, u.dims, "velocity_x", "velocity_y")
    return (u + v).rename("spectrum").assign_attrs(u.attrs)


def _single(
    field: xr.DataArray,
    window: Window,
    space: tuple[str, str],
    nan_policy: NanPolicy,
    gradient: int,
    what: str,
) -> xr.DataArray:
    core = over(field, space)
    k = spectra.wavenumbers(shape_in(field, space))

    def blocks(values: np.ndarray) -> np.ndarray:
        out = np.full((*values.shape[:-2], k.size), np.nan)
        for where in np.ndindex(values.shape[:-2]):
            frame = values[where]
            fluid = ~np.isnan(frame) if frame.dtype.kind == "f" else np.ones(frame.shape, bool)
            if nan_policy == "raise" and not fluid.all():
                raise MissingValueError('a field holds NaN: use nan_policy="omit" where it marks walls')
            if fluid.all() or (nan_policy == "omit" and fluid.any()):
                clean = np.where(fluid, frame, 0)
                out[where] = 0.5 * spectra.shell_spectra(clean, fluid, window=window, gradient=gradient)
        return out

    if field.chunks is not None:
        field = field.chunk(dict.fromkeys(core, -1))
    result = xr.apply_ufunc(
        blocks,
        field,
        input_core_dims=[list(core)],
        output_core_dims=[["wavenumber"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"wavenumber": k.size}},
    )
    unit = field.attrs.get("units")
    attrs = {"long_name": f"{what} by wavenumber", "window": window}
    if unit is not None:
        square = f"({unit})^2" if unit != "1" else "1"
        attrs["units"] = square if gradient == 0 else f"{square} cells^2"
    return result.rename("spectrum").assign_attrs(attrs).assign_coords(wavenumber=labelled(k))
