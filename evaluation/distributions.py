"""Distributions of values, place and time set aside: are there as many strong vortices as there should be?

    W_1(F, G) = integral |F(z) - G(z)| dz        in the unit of the variable; 0 if the distributions are equal

the least mean distance by which the values of one have to be moved to become the other (Vallender 1974,
doi:10.1137/1118101).
"""

from collections.abc import Iterable

import numpy as np
import xarray as xr

from .dims import fitting_weights, over, pair
from .errors import EvaluationError, MissingValueError
from .pointwise import POLICIES
from .statistics import NanPolicy


def value_histogram(fields: np.ndarray, fluid: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Fraction of fluid cells of each field (..., y, x) in bins of equal width between `edges`, float64 (..., bin).

    Values beyond the edges count in the first and the last bin, so that fractions add up to 1.
    """
    from .field_kernels import count_values

    bins = len(edges) - 1
    width = (edges[-1] - edges[0]) / bins
    if bins < 1 or not width > 0 or not np.allclose(np.diff(edges), width):
        raise EvaluationError("a histogram needs edges of bins of one width, rising")
    out = np.zeros((*fields.shape[:-2], bins))
    counted = np.array(fluid, bool).ravel()
    for where in np.ndindex(fields.shape[:-2]):
        field = np.array(fields[where], np.float64).ravel()
        count_values(field, counted, float(edges[0]), float(1 / width), out[where])
    return out / max(int(fluid.sum()), 1)


def wasserstein_from_histograms(pdf_a: np.ndarray, pdf_b: np.ndarray, width: float) -> np.ndarray:
    """W_1 of two histograms of fractions (..., bin) on the same bins of this width, (...).

    That of values in the middle of their bins: off by at most a width, and blind to what happens within a bin.
    """
    difference = np.cumsum(pdf_a - pdf_b, axis=-1)[..., :-1]
    return np.abs(difference).sum(axis=-1) * width


def wasserstein_distance(
    a: np.ndarray, b: np.ndarray, weights_a: np.ndarray | None = None, weights_b: np.ndarray | None = None
) -> float:
    """W_1 of two samples (n,) and (m,), each value of weight 1 or as given. NaN where a sample has no weight."""
    values = np.concatenate([a, b]).astype(np.float64)
    masses = []
    for sample, weights in ((a, weights_a), (b, weights_b)):
        mass = np.ones(len(sample)) if weights is None else np.asarray(weights, np.float64)
        if not mass.sum() > 0:
            return np.nan
        masses.append(mass / mass.sum())
    signed = np.concatenate([masses[0], -masses[1]])
    order = np.argsort(values, kind="stable")
    return float(np.abs(np.cumsum(signed[order])[:-1]) @ np.diff(values[order]))


def wasserstein(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    *,
    member_dim: str | None = "member",
    dim: str | Iterable[str] | None = None,
    weights: xr.DataArray | None = None,
    nan_policy: NanPolicy = "propagate",
) -> xr.DataArray:
    """Wasserstein-1 distance of the values of all members from those of the truth, unit of the truth, >= 0; 0 is best.

    The values along `dim` (None: all), and all members, make one sample; what is kept is compared by itself. It
    rewards the right distribution of values, wherever and whenever they occur, and is no proper score of a forecast.
    A statistic of samples, not a mean: from n values of one distribution it is not 0 but of order n^(-1/2), more for
    correlated ones; compare with that of two halves of the truth. `weights` are those of points.

    nan_policy "omit" leaves points without truth (walls), and missing values of members, out of the samples. Needs the
    values of one distance in one chunk. Raises EvaluationError for dim=().
    """
    if nan_policy not in POLICIES:
        raise EvaluationError(f"unknown nan_policy {nan_policy!r}: choose one of {', '.join(POLICIES)}")
    forecast, truth, member_dim = pair(forecast, truth, member_dim)
    gone = over(truth, dim)
    if not gone:
        raise EvaluationError("a distance of distributions needs samples: dim=() leaves one value of the truth")
    share = xr.ones_like(truth, dtype=np.float64)
    if weights is not None:
        share = share * fitting_weights(weights, truth, gone)

    def each(members: np.ndarray, observed: np.ndarray, mass: np.ndarray) -> np.ndarray:
        kept = observed.shape[: observed.ndim - len(gone)]
        out = np.full(kept, np.nan)
        for where in np.ndindex(kept):
            x, y, w = members[where].reshape(len(members[where]), -1), observed[where].ravel(), mass[where].ravel()
            out[where] = _one(x, y, w, nan_policy)
        return out

    whole = dict.fromkeys([member_dim, *gone], -1)
    chunked = [
        a if a.chunks is None else a.chunk({d: n for d, n in whole.items() if d in a.dims})
        for a in (forecast, truth, share)
    ]
    result = xr.apply_ufunc(
        each,
        *chunked,
        input_core_dims=[[member_dim, *gone], gone, gone],
        join="exact",
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    attrs = {"long_name": "Wasserstein-1 distance of the values of members and truth"}
    if (unit := truth.attrs.get("units")) is not None:
        attrs["units"] = unit
    return result.rename("wasserstein").assign_attrs(attrs)


def _one(members: np.ndarray, observed: np.ndarray, mass: np.ndarray, nan_policy: str) -> float:
    """Members (member, point), truth (point,), weights of points."""
    absent = np.isnan(members) if members.dtype.kind == "f" else np.zeros(members.shape, bool)
    lacking = np.isnan(observed) if observed.dtype.kind == "f" else np.zeros(observed.shape, bool)
    lacking = lacking & (mass > 0)
    absent = absent & (mass > 0)
    if nan_policy == "raise" and (absent.any() or lacking.any()):
        raise MissingValueError('values are NaN: mask them, or use nan_policy="omit" or "propagate"')
    if nan_policy != "omit" and (absent.any() or lacking.any()):
        return np.nan
    use = (mass > 0) & ~lacking
    present = ~absent & use
    shares = np.broadcast_to(mass, members.shape)[present]
    return wasserstein_distance(members[present], observed[use], shares, mass[use])
