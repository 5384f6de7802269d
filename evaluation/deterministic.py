"""Scores of a single forecast, or of the mean of an ensemble: anomaly correlation, PSNR, SSIM.

Shapes and common arguments are those of `evaluation.statistics`, where RMSE, MAE and bias are. Averages are taken
first; the correlation's ratio and the logarithm of the PSNR last.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import xarray as xr

from .dims import ALIASES, Dims, average, match, pair
from .errors import DimensionError, EvaluationError
from .fields import average_fields, per_field
from .pointwise import ensemble_scores
from .statistics import NanPolicy, bias, squared_error


def anomaly_products(
    members: np.ndarray, truth: np.ndarray, climatology: np.ndarray, fluid: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over fluid cells of f o, f^2 and o^2, each (lead,): f, o anomalies of the ensemble mean and the truth.

    `members` (member, lead, y, x), `truth` (lead, y, x), `climatology` (y, x) or (lead, y, x), `fluid` (y, x).
    """
    out = np.empty((3, len(truth)))
    usual = np.broadcast_to(climatology, truth.shape)
    for lead in range(len(truth)):
        f = members[:, lead].mean(axis=0, dtype=np.float64)[fluid] - usual[lead][fluid]
        o = truth[lead][fluid].astype(np.float64) - usual[lead][fluid]
        out[:, lead] = f @ o, f @ f, o @ o
    out /= fluid.sum()
    return out[0], out[1], out[2]


def anomaly_correlation(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    climatology: xr.DataArray,
    *,
    member_dim: str | None = "member",
    centred: bool = False,
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Correlation of forecast and truth as departures from `climatology`; -1 to 1, 1 is best, no unit.

        <f o> / sqrt(<f^2> <o^2>),    f = xm - c, o = y - c,    < > the mean over `dim`

    It rewards the pattern of the ensemble mean, right place and sign, whatever its amplitude; 0.6 is the usual limit
    of a useful forecast. `centred` subtracts <f> and <o> first. `climatology` may lack dimensions of the truth, as
    weights may, and must come from other data than those scored. The products are averaged before the ratio is taken:
    it is not the mean of correlations. Murphy and Epstein (1989),
    doi:10.1175/1520-0493(1989)117<0572:SSACCI>2.0.CO;2.

    NaN where forecast or truth has no anomaly. Raises DimensionError for a climatology that does not fit, and
    MissingValueError under nan_policy="raise", as all scores do.
    """
    error = bias(forecast, truth, member_dim=member_dim, dim=(), nan_policy=nan_policy)
    _, truth, _ = pair(forecast, truth, member_dim)
    observed = (truth.astype(np.float64) - _fitting(climatology, truth)).transpose(*truth.dims).where(error.notnull())
    predicted = error + observed
    means = [average(s, dim, weights, nan_policy) for s in (predicted * observed, predicted**2, observed**2)]
    if centred:
        f, o = (average(s, dim, weights, nan_policy) for s in (predicted, observed))
        means = [m - part for m, part in zip(means, (f * o, f**2, o**2), strict=True)]
    product = means[1] * means[2]
    result = means[0] / product.where(product > 0) ** 0.5
    attrs = {"long_name": "anomaly correlation of the ensemble mean", "units": "1"}
    return result.rename("anomaly_correlation").assign_attrs(attrs)


def psnr(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    data_range: float,
    of: Literal["mean", "members"] = "mean",
    member_dim: str | None = "member",
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Peak signal-to-noise ratio in dB, 10 log10(R^2 / mean squared error over `dim`); higher is better, inf if exact.

    R is `data_range`, the largest difference that the variable can show (255 in 8 bits). `of="mean"` scores the
    ensemble mean, which is rewarded for being smooth; `of="members"` the mean squared error of single members, which
    punishes an honest spread. The error is averaged before the logarithm is taken; papers on video prediction average
    the dB of frames instead, psnr(..., dim=("y", "x")).mean(), which is never lower. Huynh-Thu and Ghanbari (2008),
    doi:10.1049/el:20080522, on what it can say.

    Raises EvaluationError for a range that is not positive.
    """
    if not data_range > 0:
        raise EvaluationError(f"PSNR needs the range of the data, above 0, got {data_range}")
    if of not in ("mean", "members"):
        raise EvaluationError(f'PSNR is of the "mean" or of the "members", got {of!r}')
    if of == "mean":
        squared = squared_error(forecast, truth, member_dim=member_dim, dim=(), nan_policy=nan_policy)
    else:
        squared = _members(forecast, truth, member_dim, nan_policy)
    error = average(squared, dim, weights, nan_policy)
    result = xr.apply_ufunc(_decibel, error / data_range**2, dask="parallelized", output_dtypes=[np.float64])
    attrs = {"long_name": f"peak signal-to-noise ratio of the {'ensemble mean' if of == 'mean' else 'members'}"}
    return result.rename("psnr").assign_attrs(attrs | {"units": "dB", "data_range": float(data_range)})


def ssim(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    data_range: float,
    minimum: float = 0.0,
    space: tuple[str, str] = ("y", "x"),
    member_dim: str | None = "member",
    dim: str | Iterable[str] | None = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Structural similarity of each member and the truth, averaged over members; -1 to 1, 1 is best, no unit.

    It rewards local mean, contrast and pattern of single members, and so, unlike the RMSE, sharpness in the right
    place. Not a proper score: it compares pictures, not distributions. `data_range` and `minimum` say what values the
    variable can take. Formula, window and walls: `evaluation.similarity`; Wang et al. (2004),
    doi:10.1109/TIP.2003.819861.

    Raises EvaluationError for fields of fewer than 11 cells on a side and a range that is not positive.
    """
    from .similarity import check, ssim_field

    check((), data_range)

    def similarity(members: np.ndarray, observed: np.ndarray, fluid: np.ndarray) -> float:
        return float(ssim_field(members, observed[None], fluid, data_range, minimum=minimum).mean())

    score = per_field(similarity, forecast, truth, space=space, member_dim=member_dim, nan_policy=nan_policy, fewest=1)
    attrs = {"long_name": "structural similarity of a member and the truth", "units": "1", "data_range": data_range}
    return average_fields(score.rename("ssim").assign_attrs(attrs), dim, weights, nan_policy)


def _fitting(climatology: xr.DataArray, truth: xr.DataArray) -> xr.DataArray:
    """The climatology under the truth's names, its coordinates checked against those of the truth."""
    if not isinstance(climatology, xr.DataArray):
        raise EvaluationError(f"the climatology is a {type(climatology).__name__}: a DataArray is needed")
    names = {d: name for d, name in ALIASES.items() if d in climatology.dims and d not in truth.dims}
    climatology = climatology.rename(names).astype(np.float64)
    extra = [d for d in climatology.dims if d not in truth.dims]
    if extra:
        raise DimensionError(f"the climatology has {extra}, which the truth, on {truth.dims}, has not")
    match(climatology, truth, climatology.dims, "the climatology", "the truth")
    return climatology.reset_coords(drop=True)


def _members(
    forecast: xr.DataArray, truth: xr.DataArray, member_dim: str | None, nan_policy: NanPolicy
) -> xr.DataArray:
    """Mean over members of (x_m - y)^2 at each point."""
    forecast, truth, member_dim = pair(forecast, truth, member_dim)
    if forecast.chunks is not None:
        forecast = forecast.chunk({member_dim: -1})
    return xr.apply_ufunc(
        _squared_errors,
        forecast,
        truth,
        input_core_dims=[[member_dim], []],
        join="exact",
        dask="parallelized",
        output_dtypes=[np.float64],
        kwargs={"nan_policy": nan_policy},
    )


def _squared_errors(forecast: np.ndarray, truth: np.ndarray, *, nan_policy: str) -> np.ndarray:
    names = ("squared_error", "variance", "present")
    squared, variance, present = ensemble_scores(
        forecast, truth, axis=-1, names=names, nan_policy=nan_policy, threads=1
    )
    spread = np.where(present > 1, variance, 0.0) * (1 - 1 / np.maximum(present, 1))
    return squared + spread


def _decibel(ratio: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return -10 * np.log10(ratio)
