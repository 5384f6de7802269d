"""Is one forecast better than another, or was it luck? The test of Diebold and Mariano on paired scores.

    d_t = a_t - b_t,  t = 1..n       scores of the same cases, smaller being better: d < 0 speaks for a
    DM  = mean(d) / sqrt(V),         V = variance of the mean, from the autocovariances c_k of d up to lag q:
                                     n V = c_0 + 2 sum_k w_k c_k

with w_k = 1 - k/(q + 1) (Newey and West 1987, doi:10.2307/1913610: never negative) or w_k = 1 (Diebold and Mariano
1995, doi:10.1080/07350015.1995.10524599: exact for forecasts of h steps, whose errors are correlated over q = h - 1
cases). In few cases the test finds too much; Harvey, Leybourne and Newbold (1997),
doi:10.1016/S0169-2070(96)00719-4, multiply DM by sqrt((n + 1 - 2h + h(h - 1)/n) / n), h = q + 1, and compare it with
Student's t of n - 1 degrees of freedom.

Cases of one run are alike, in ways that a few lags do not exhaust; runs are independent. With `run_dim` the differences
are averaged within each run and the runs are the cases, with no lag: the paired t-test over runs. Prefer it where there
are five runs or more.
"""

import math
from typing import Literal

import numpy as np
import xarray as xr

from .dims import match, over
from .errors import DimensionError, EvaluationError

TERMS = 120  # pairs of the continued fraction: enough for 1e-12 up to 20000 degrees of freedom
Kernel = Literal["newey-west", "rectangular"]


def diebold_mariano(
    score_a: xr.DataArray,
    score_b: xr.DataArray,
    *,
    dim: str = "init_time",
    run_dim: str | None = None,
    lags: int | None = None,
    kernel: Kernel = "newey-west",
) -> xr.Dataset:
    """Test of equal expected scores: `difference`, `standard_error`, `statistic`, `p_value` (two-sided), `cases`.

    `score_a` and `score_b` hold paired scores, in order along `dim`; other dimensions (lead_time, y, x) are kept.
    `lags` q is how many cases apart differences are still correlated: leads / spacing of the init times, rounded up
    (None: 4 (n/100)^(2/9), rounded down, the rule of Newey and West). `run_dim` names the dimension of independent
    runs: scores are averaged over `dim` within each (missing cases left out, if `dim` is there at all), and each run
    is a case.

    Cases without a score in one of the two count in neither; the statistic is NaN with fewer than 2 cases left, or
    where all differences are equal. "rectangular" falls back to "newey-west" where it makes V negative. The difference
    is in the unit of the scores. Of many tests some are significant by chance: 1 in 20 at p < 0.05.

    Raises DimensionError unless both have the same dimensions and coordinates; EvaluationError for lags < 0 or >= n.
    """
    if kernel not in ("newey-west", "rectangular"):
        raise EvaluationError(f'unknown kernel {kernel!r}: choose "newey-west" or "rectangular"')
    if set(score_a.dims) != set(score_b.dims):
        raise DimensionError(f"score_a is on {score_a.dims}, score_b on {score_b.dims}: they must be the same")
    match(score_a, score_b, score_a.dims, "score_a", "score_b")
    difference = (score_a - score_b).astype(np.float64)
    if run_dim is not None:
        over(difference, run_dim)
        if dim in difference.dims:
            difference = difference.mean(dim, skipna=True)
        dim, lags = run_dim, 0
    over(difference, dim)
    n = difference.sizes[dim]
    q = math.floor(4 * (n / 100) ** (2 / 9)) if lags is None else int(lags)
    q = min(q, max(n - 1, 0)) if lags is None else q
    if not 0 <= q < max(n, 1):
        raise EvaluationError(f"lags must be at least 0 and fewer than the {n} cases, got {q}")
    if difference.chunks is not None:
        difference = difference.chunk({dim: -1})
    outputs = xr.apply_ufunc(
        paired_test,
        difference,
        input_core_dims=[[dim]],
        output_core_dims=[[]] * 5,
        dask="parallelized",
        output_dtypes=[np.float64] * 5,
        kwargs={"lags": q, "kernel": kernel},
    )
    names = ("difference", "standard_error", "statistic", "p_value", "cases")
    data = xr.Dataset(dict(zip(names, outputs, strict=True)))
    unit = score_a.attrs.get("units")
    if unit is not None:
        for name in names[:2]:
            data[name].attrs["units"] = unit
    for name in names[2:]:
        data[name].attrs["units"] = "1"
    return data.assign_attrs(lags=q, kernel=kernel, over=dim)


def paired_test(
    difference: np.ndarray, *, lags: int = 0, kernel: Kernel = "newey-west"
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean, its standard error, statistic, p value and number of cases of differences (..., case); NaN are left out.

    A missing case leaves a gap: those about it keep their distance in lags.
    """
    known = ~np.isnan(difference)
    n = known.sum(axis=-1)
    some = np.maximum(n, 1)
    mean = np.where(n > 0, np.where(known, difference, 0).sum(axis=-1) / some, np.nan)
    rest = np.where(known, difference - mean[..., None], 0)
    c = [(rest[..., k:] * rest[..., : rest.shape[-1] - k]).sum(axis=-1) / some for k in range(lags + 1)]
    bartlett = c[0] + 2 * sum(((1 - k / (lags + 1)) * c[k] for k in range(1, lags + 1)), np.zeros(mean.shape))
    variance = bartlett
    if kernel == "rectangular":
        plain = c[0] + 2 * sum(c[1:], np.zeros(mean.shape))
        variance = np.where(plain > 0, plain, bartlett)
    h = lags + 1
    correction = (n + 1 - 2 * h + h * (h - 1) / some) / some
    size = np.abs(np.where(known, difference, 0)).max(axis=-1, initial=0)
    usable = (n > h) & (correction > 0) & (variance > (1e-14 * size) ** 2)
    error = np.sqrt(np.divide(variance, some * correction, out=np.full(mean.shape, np.nan), where=usable))
    statistic = mean / error
    return mean, error, statistic, two_sided(statistic, n - 1), n.astype(np.float64)


def two_sided(statistic: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Probability that Student's t of these degrees of freedom is larger in size than the statistic.

    The regularised incomplete beta function I_x(nu/2, 1/2), x = nu/(nu + t^2), by its continued fraction (Abramowitz
    and Stegun, 26.5.8, 26.7.1).
    """
    t, nu = np.broadcast_arrays(np.asarray(statistic, np.float64), np.asarray(degrees, np.float64))
    known = np.isfinite(t) & (nu >= 1)
    t, nu = np.where(known, t, 0.0), np.where(known, nu, 1.0)
    half = np.full(t.shape, 0.5)
    x = nu / (nu + t**2)
    direct = x <= (nu / 2 + 1) / (nu / 2 + 2.5)  # where not, the fraction converges fast on the other side
    beta = np.where(direct, _beta(nu / 2, half, np.where(direct, x, 0.5)), 1.0)
    other = 1 - _beta(half, nu / 2, np.where(direct, 0.5, t**2 / (nu + t**2)))
    return np.where(known, np.where(direct, beta, other), np.nan)


def _beta(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """I_x(a, b) for x below about a / (a + b)."""
    gamma = np.vectorize(math.lgamma, otypes=[np.float64])
    with np.errstate(divide="ignore"):
        front = np.exp(gamma(a + b) - gamma(a) - gamma(b) + a * np.log(x) + b * np.log1p(-x))
    fraction = np.zeros(x.shape)  # from the tail inwards: 1/(1 + d_1/(1 + d_2/(1 + ...)))
    for m in range(TERMS, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        fraction = odd / (1 + even / (1 + fraction))
    return front / (a * (1 + fraction))
