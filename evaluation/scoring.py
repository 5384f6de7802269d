"""Scoring of one case, and the sums that a verification builds up from cases.

`allocate` makes an empty Dataset of scores, `add_case` puts one case of one method into it, `finish` turns the sums of
its maps into means. Which case, which file, which order is the business of `evaluation.verification`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from evaluation.errors import EvaluationError
from evaluation.pointwise import count_ranks, ensemble_scores

MAP_BLOCKS = 16  # maps keep at most this many groups of runs apart: memory stays bounded for any number of runs
NULL_CELLS = 1024  # cells per frame that the flatness band of the rank histogram is drawn from
CASE_STATISTICS = {
    "crps": "continuous ranked probability score, fair estimator",
    "crps_classical": "continuous ranked probability score, classical estimator",
    "variance": "variance of the members",
    "squared_error": "squared error of the ensemble mean",
    "absolute_error": "absolute error of the ensemble mean",
    "bias": "ensemble mean minus truth",
}
MAPS = ("variance", "squared_error")
Case = tuple[int, int]  # trajectory, init_time


def allocate(
    members: Mapping[str, int],
    cases: Sequence[Case],
    leads: Sequence[int],
    axes: Mapping[str, np.ndarray],
    replicates: int,
) -> xr.Dataset:
    """Scores of no case yet. `members` says how many each method has; `axes` holds the coordinates of y and x."""
    runs = sorted({run for run, _ in cases})
    inits = sorted({init for _, init in cases})
    blocks = min(len(runs), MAP_BLOCKS)
    ranks = max(members.values()) + 1
    case_dims, sizes = ("method", "trajectory", "init_time", "lead_time"), (len(runs), len(inits), len(leads))
    image = (len(leads), len(axes["y"]), len(axes["x"]))
    count = len(members)
    data: dict[str, Any] = {name: (case_dims, np.full((count, *sizes), np.nan)) for name in CASE_STATISTICS}
    for name in ("truth_mean", "truth_mean_square"):
        data[name] = (case_dims[1:], np.full(sizes, np.nan))
    data["rank_count"] = (
        ("method", "trajectory", "lead_time", "rank"),
        np.zeros((count, len(runs), len(leads), ranks)),
    )
    data["rank_null"] = (
        ("method", "replicate", "lead_time", "rank"),
        np.zeros((count, replicates, len(leads), ranks), np.int64),
    )
    map_dims = ("method", "block", "lead_time", "y", "x")
    data["crps_map"] = (map_dims, np.zeros((count, blocks, *image)))
    for name in MAPS:
        data[f"{name}_map"] = (map_dims[:1] + map_dims[2:], np.zeros((count, *image)))
    data["fluid_cases"] = (("block", "y", "x"), np.zeros((blocks, *image[1:]), np.int64))
    data["members"] = (("method",), np.array(list(members.values())))
    coords = {
        "method": np.array(list(members), object),
        "trajectory": runs,
        "init_time": inits,
        "lead_time": list(leads),
        "rank": np.arange(ranks),
        "block": ("trajectory", np.arange(len(runs)) * blocks // len(runs)),
        **axes,
    }
    return xr.Dataset(data, coords=coords)


def add_case(
    scores: xr.Dataset,
    m: int,
    case: Case,
    members: np.ndarray,
    truth: np.ndarray,
    fluid: np.ndarray,
    seed: int,
) -> None:
    """Add one case of method number `m` to `scores`.

    `members` (member, lead_time, y, x), `truth` (lead_time, y, x), `fluid` (y, x) bool: the cells that count. Raises
    `EvaluationError` for a value there that is not finite.
    """
    where = f"method {str(scores['method'].values[m])!r}, trajectory {case[0]}, init time {case[1]}"
    _finite(members, fluid, where)
    _finite(truth, fluid, f"truth of trajectory {case[0]} after init time {case[1]}")
    i = scores.indexes["trajectory"].get_loc(case[0])
    j = scores.indexes["init_time"].get_loc(case[1])
    block = int(scores["block"].values[i])
    fields = case_statistics(members, truth)
    rank, ties = fields.pop("rank", None), fields.pop("ties", None)
    for name, values in fields.items():
        scores[name].values[m, i, j] = values[:, fluid].mean(-1)
    scores["crps_map"].values[m, block] += np.where(fluid, fields["crps"], 0)
    for name in MAPS:
        scores[f"{name}_map"].values[m] += np.where(fluid, fields[name], 0)
    if m == 0:
        observed = truth[:, fluid].astype(np.float64)
        scores["truth_mean"].values[i, j] = observed.mean(-1)
        scores["truth_mean_square"].values[i, j] = np.square(observed).mean(-1)
        scores["fluid_cases"].values[block] += fluid
    if rank is not None and ties is not None:
        ranks = len(members) + 1
        counts = count_ranks(rank[:, fluid], ties[:, fluid], members=len(members))
        scores["rank_count"].values[m, i, :, :ranks] += counts
        rng = np.random.default_rng([seed, case[0], case[1]])
        cells = rng.permutation(np.flatnonzero(fluid))[:NULL_CELLS]
        pool = np.concatenate([a.reshape(-1, len(truth), fluid.size)[..., cells] for a in (members, truth)])
        table = exchanged_ranks(pool, rng)
        null = scores["rank_null"].values
        null[m, :, :, :ranks] += table[rng.integers(ranks, size=null.shape[1])]


def _finite(values: np.ndarray, fluid: np.ndarray, where: str) -> None:
    bad = 0 if np.isfinite(values).all() else int((~np.isfinite(values) & fluid).sum())
    if bad:
        raise EvaluationError(
            f"{where}: {bad} of {values.size} values are NaN or infinite; a forecast that broke down is not scored "
            "(leaving such values out would flatter the method): forecast this case again or leave it out"
        )


def case_statistics(members: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Pointwise statistics (lead_time, y, x) of members (member, lead_time, y, x) against truth (lead_time, y, x).

    Those of `CASE_STATISTICS`, and of an ensemble also `rank` (members below the truth) and `ties` (equal to it).
    """
    if len(members) == 1:
        error = members[0].astype(np.float64) - truth
        size = np.abs(error)
        fields = {"crps": size, "crps_classical": size, "absolute_error": size, "squared_error": error**2}
        return fields | {"variance": np.full(size.shape, np.nan), "bias": error}
    names = {"crps": "crps_fair", "crps_classical": "crps"}
    names |= {n: n for n in ("variance", "squared_error", "absolute_error", "bias", "rank", "ties")}
    found = ensemble_scores(members, truth, axis=0, names=tuple(names.values()))
    return dict(zip(names, found, strict=True))


def exchanged_ranks(pool: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rank counts (element, lead_time, rank) that each element of `pool` (element, lead_time, cell) would get as truth.

    In a reliable ensemble the truth is exchangeable with the members: any of them could have been the truth.
    Letting each play that part in turn gives rank histograms that are flat up to sampling, with the correlation
    between neighbouring cells and leads that the fields really have; counting cells as if they were independent
    would give a band many times too narrow. Ties are broken by a random order of the elements.
    """
    elements, leads, _ = pool.shape
    shuffle = rng.permutation(elements)
    columns = np.ascontiguousarray(np.moveaxis(pool[shuffle], 0, -1))
    order = shuffle[np.argsort(columns, axis=-1)]  # (lead_time, cell, rank) -> element
    flat = (order * leads + np.arange(leads)[:, None, None]) * elements + np.arange(elements)
    return np.bincount(flat.ravel(), minlength=elements * leads * elements).reshape(elements, leads, elements)


def finish(scores: xr.Dataset) -> None:
    """Turn the sums of the maps into means over the cases in which a cell is fluid (NaN where it never is)."""
    cases = scores["fluid_cases"].values.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores["crps_map"] = (scores["crps_map"] / cases[None, :, None]).where(cases[None, :, None] > 0)
        total = cases.sum(0)
        for name in MAPS:
            scores[f"{name}_map"] = (scores[f"{name}_map"] / total).where(total > 0)
