"""Spectra of forecasts and truth on labelled arrays, and the scores made of them; see `evaluation.spectra`.

`power_spectra` gives the statistics (power, power_truth, cross_power by wavenumber), averaged over members and `dim`;
the scores are functions of these averages: `spectral_coherence`, `effective_resolution`, `log_spectral_distance`,
`band_energy_ratio`. Common arguments are those of `evaluation.statistics`, and

    space    the two dimensions of a field, which the result has no more. `dim` speaks of the others.
    window   "hann", "mirror" or "none", for periodic frames.

Wavenumbers are in cycles per cell, wavelengths in cells. Under nan_policy="omit" cells without truth are walls.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
import xarray as xr

from . import spectra
from .dims import over, pair
from .errors import EvaluationError
from .fields import average_fields, per_field
from .spectra import BANDS, Window
from .statistics import NanPolicy


def power_spectra(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    window: Window = "hann",
    space: tuple[str, str] = ("y", "x"),
    member_dim: str | None = "member",
    dim: str | Iterable[str] | None = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.Dataset:
    """Variance of forecast and truth by wavenumber, and their covariance: power, power_truth, cross_power.

    In the unit of the variable, squared; the sum over wavenumbers is the variance within a frame. Spectra are taken of
    single members, then averaged, over members and over `dim`. A forecast is realistic where power equals power_truth,
    and right where cross_power does too.
    """
    sizes = shape_in(pair(forecast, truth, member_dim)[1], space)
    k = spectra.wavenumbers(sizes)

    def one(members: np.ndarray, observed: np.ndarray, fluid: np.ndarray) -> np.ndarray:
        return np.stack(spectra.case_spectra(members[:, None], observed[None], fluid, window=window))[:, 0]

    output: dict[Hashable, int] = {"_statistic": 3, "wavenumber": k.size}
    found = per_field(
        one, forecast, truth, space=space, member_dim=member_dim, nan_policy=nan_policy, fewest=1, output=output
    )
    means = average_fields(found, dim, weights, nan_policy, own=output)
    unit = truth.attrs.get("units")
    described = {"units": f"({unit})^2" if unit != "1" else "1"} if unit is not None else {}
    names = {"power": "variance of members", "power_truth": "variance of truth", "cross_power": "covariance of both"}
    data = {
        name: means.isel(_statistic=i).assign_attrs(described, long_name=f"{what} by wavenumber", window=window)
        for i, (name, what) in enumerate(names.items())
    }
    return xr.Dataset(data).assign_coords(wavenumber=labelled(k))


def spectral_coherence(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    window: Window = "hann",
    space: tuple[str, str] = ("y", "x"),
    member_dim: str | None = "member",
    dim: str | Iterable[str] | None = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Squared correlation of members and truth by wavenumber, 0 to 1; 1 is best, no unit.

        <cross_power>^2 / (<power> <power_truth>),   0 where <cross_power> < 0

    It rewards structures in their right place at each scale, whatever their amplitude. Averages over modes, members
    and `dim` are taken before the ratio; of n modes in all it is too high by about 1/(2n). Bendat and Piersol,
    Random Data (2010), doi:10.1002/9781118032428, chapter 5.
    """
    means = _means(forecast, truth, window, space, member_dim, dim, weights, nan_policy)
    names = ("power", "power_truth", "cross_power")
    result = _metric(spectra.coherence, means, names, "spectral_coherence", ("wavenumber",))
    return result.assign_attrs(long_name="squared coherence of members and truth", units="1")


def effective_resolution(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    window: Window = "hann",
    space: tuple[str, str] = ("y", "x"),
    member_dim: str | None = "member",
    dim: str | Iterable[str] | None = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Wavelength in cells at which the squared coherence first falls below 1/2, from large scales to small.

    Smaller is better: 2 where every wave is resolved, inf where none is. Half of the variance of the forecast at that
    scale is explained by the truth. See `evaluation.spectra.effective_resolution` and `spectral_coherence`; the usual
    definition for altimeter maps, Ballarotta et al. (2019), doi:10.5194/os-15-1091-2019.
    """
    means = _means(forecast, truth, window, space, member_dim, dim, weights, nan_policy)
    k = means["wavenumber"].values
    names = ("power", "power_truth", "cross_power")
    result = _metric(lambda p, t, c: spectra.effective_resolution(p, t, c, k), means, names, "effective_resolution")
    return result.assign_attrs(long_name="wavelength where coherence^2 falls below 1/2", units="cells")


def log_spectral_distance(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    window: Window = "hann",
    space: tuple[str, str] = ("y", "x"),
    member_dim: str | None = "member",
    dim: str | Iterable[str] | None = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Root mean square over wavenumbers of 10 log10(<power> / <power_truth>), in dB, >= 0; 0 is best.

    It rewards the right variance at each scale, every shell alike, and does not ask for it in the right place.
    Rabiner and Juang, Fundamentals of Speech Recognition (1993), section 4.5; shells below 1e-10 of the strongest
    count as that.
    """
    means = _means(forecast, truth, window, space, member_dim, dim, weights, nan_policy)
    names = ("power", "power_truth")
    result = _metric(spectra.log_spectral_distance, means, names, "log_spectral_distance")
    return result.assign_attrs(long_name="log-spectral distance", units="dB")


def band_energy_ratio(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    bands: Sequence[tuple[float, float]] = BANDS,
    window: Window = "hann",
    space: tuple[str, str] = ("y", "x"),
    member_dim: str | None = "member",
    dim: str | Iterable[str] | None = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Variance of members over that of the truth in bands [long, short) of wavelengths in cells, >= 0; 1 is best.

    Below 1 the forecast is too smooth in that band, above it too rough. The result has a dimension `band`, with
    coordinates `longest` and `shortest`. NaN in bands that hold no shell.
    """
    means = _means(forecast, truth, window, space, member_dim, dim, weights, nan_policy)
    k = means["wavenumber"].values
    result = _metric(
        lambda p, t: spectra.band_energy_ratio(p, t, k, bands),
        means,
        ("power", "power_truth"),
        "band_energy_ratio",
        ("band",),
        len(bands),
    )
    edges = {"longest": ("band", [b[0] for b in bands]), "shortest": ("band", [b[1] for b in bands])}
    return result.assign_coords(edges).assign_attrs(long_name="variance in a band, members over truth", units="1")


def shape_in(field: xr.DataArray, space: Sequence[str]) -> list[int]:
    """Sizes of the two dimensions of space."""
    names = over(field, space)
    if len(set(names)) != 2:
        raise EvaluationError(f"a spectrum of fields needs the two dimensions of space, got {tuple(space)}")
    return [field.sizes[d] for d in names]


def labelled(k: np.ndarray) -> xr.DataArray:
    """Wavenumbers as a coordinate."""
    return xr.DataArray(k, dims="wavenumber", attrs={"long_name": "wavenumber", "units": "cycles per cell"})


def _means(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    window: Window,
    space: tuple[str, str],
    member_dim: str | None,
    dim: str | Iterable[str] | None,
    weights: xr.DataArray | None,
    nan_policy: NanPolicy,
) -> xr.Dataset:
    return power_spectra(
        forecast,
        truth,
        window=window,
        space=space,
        member_dim=member_dim,
        dim=dim,
        weights=weights,
        nan_policy=nan_policy,
    )


def _metric(
    function: Callable[..., np.ndarray],
    means: xr.Dataset,
    names: Sequence[str],
    name: str,
    core: Sequence[str] = (),
    size: int = 0,
) -> xr.DataArray:
    sizes = dict.fromkeys(core, size or means.sizes["wavenumber"])
    result = xr.apply_ufunc(
        function,
        *(means[n] for n in names),
        input_core_dims=[["wavenumber"]] * len(names),
        output_core_dims=[list(core)],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": sizes},
    )
    return result.rename(name)
