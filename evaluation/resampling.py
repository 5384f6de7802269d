"""Confidence intervals by a paired bootstrap over runs.

Windows of one run are too alike to count as independent, so whole runs (blocks) are drawn with replacement, and the
same draw for everything compared, since two methods find the same cases hard. What is drawn are the runs' means, not
their fields: a resample is a row of counts, and a thousand of them one product of matrices,

    mean of a resample = sum_r counts_r w_r mean_r / sum_r counts_r w_r        counts ~ multinomial over R runs.

The percentile interval of Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; for data in
blocks, Field and Welsh (2007), doi:10.1111/j.1467-9868.2007.00593.x. With few runs it is too narrow, by a factor of
about sqrt((R - 1) / R) and more in the tails: below ten runs read it as a lower bound on the uncertainty.
"""

from collections.abc import Callable

import numpy as np
import xarray as xr

from .dims import match
from .errors import DimensionError, EvaluationError

Metric = Callable[[xr.Dataset], xr.DataArray]


def resampling_counts(blocks: int, resamples: int, seed: int) -> np.ndarray:
    """How often each block is drawn in each resample: int64 (resample, block), each row summing to `blocks`."""
    if blocks < 2:
        raise EvaluationError(f"a bootstrap needs at least 2 runs to draw from, got {blocks}")
    if resamples < 1:
        raise EvaluationError(f"a bootstrap needs at least 1 resample, got {resamples}")
    return np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples)


def resampled_means(
    run_means: xr.Dataset,
    counts: np.ndarray,
    *,
    block_dim: str = "trajectory",
    weights: xr.DataArray | None = None,
) -> xr.Dataset:
    """Means over runs, one for each row of counts: `block_dim` is replaced by `resample`, for all variables alike."""
    share = np.asarray(counts, np.float64) * _weights(run_means, block_dim, weights).values
    total = share.sum(axis=1, keepdims=True)
    share = np.divide(share, total, out=np.full_like(share, np.nan), where=total > 0)
    draws = xr.DataArray(share, dims=("resample", block_dim))
    return run_means.astype(np.float64).map(
        lambda means: xr.dot(draws, means.drop_vars(block_dim, errors="ignore"), dim=block_dim)
    )


def bootstrap(
    run_means: xr.Dataset,
    metric: Metric,
    *,
    block_dim: str = "trajectory",
    weights: xr.DataArray | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """A metric of the mean over runs, with its central interval.

    `run_means` holds the statistics that the metric needs, averaged within each run: variables on `block_dim` and
    whatever else is kept. `metric` takes a Dataset of means and returns a DataArray, and must keep other dimensions
    apart: it gets all resamples at once, on a dimension `resample`. For instance

        bootstrap(runs, lambda mean: skill_score(mean["crps"], mean["crps_of_persistence"]))

    `weights` (block_dim) are the numbers of cases in the runs, if they differ.

    Returns `estimate` (of the runs as they are), `lower`, `upper`, and `above_zero`, the share of resamples with a
    positive value. Needs memory for `resamples` results. Raises EvaluationError with fewer than 2 runs.
    """
    if not 0 < level < 1:
        raise EvaluationError(f"level is the probability of the interval, between 0 and 1, got {level}")
    if block_dim not in run_means.dims:
        raise DimensionError(f'no dimension "{block_dim}" to draw from, only {tuple(run_means.dims)}')
    lacking = [str(name) for name, array in run_means.items() if block_dim not in array.dims]
    if lacking:
        raise DimensionError(f'{", ".join(lacking)} has no dimension "{block_dim}": give the means of each run')
    run_means = run_means.compute()
    blocks = run_means.sizes[block_dim]
    counts = resampling_counts(blocks, resamples, seed)
    once = np.ones((1, blocks), np.int64)
    estimate = metric(resampled_means(run_means, once, block_dim=block_dim, weights=weights)).isel(resample=0)
    drawn = metric(resampled_means(run_means, counts, block_dim=block_dim, weights=weights))
    bounds = drawn.quantile([(1 - level) / 2, (1 + level) / 2], dim="resample", skipna=False)
    return xr.Dataset(
        {
            "estimate": estimate,
            "lower": bounds.isel(quantile=0, drop=True),
            "upper": bounds.isel(quantile=1, drop=True),
            "above_zero": (drawn > 0).mean("resample").where(drawn.notnull().all("resample")),
        },
        attrs={
            "level": level,
            "resamples": resamples,
            "seed": seed,
            "runs": blocks,
            "method": "percentile, runs drawn",
        },
    )


def _weights(run_means: xr.Dataset, block_dim: str, weights: xr.DataArray | None) -> xr.DataArray:
    if weights is None:
        return xr.DataArray(np.ones(run_means.sizes[block_dim]), dims=block_dim)
    if weights.dims != (block_dim,):
        raise DimensionError(f'weights of runs have only dimension "{block_dim}", got {weights.dims}')
    match(weights, run_means[next(iter(run_means))], [block_dim], "weights", "the run means")
    if not bool((np.isfinite(weights) & (weights >= 0)).all()) or not bool((weights > 0).any()):
        raise EvaluationError("weights of runs must be finite, not negative and not all zero")
    return weights
