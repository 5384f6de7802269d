"""Scoring of one portion: some leads of one case of one method. Arrays in, the statistics of `evaluation.layout` out.

`score` is a pure function of a `Portion` and a `Recipe`, both of which can be sent to another process. Which portions
there are, in which order, and how they add up is the business of `evaluation.verification`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from evaluation.background import Background
from evaluation.colour import Channels
from evaluation.errors import EvaluationError
from evaluation.pointwise import count_ranks, ensemble_scores
from evaluation.protocols import GreyLevels

NULL_CELLS = 1024  # cells per frame that the flatness band of the rank histogram is drawn from
CLIPS = 8  # members of a case that Fréchet distances choose from; they use one at a time
WINDOWS = (1, 3, 5, 9, 17)  # cells, of the fractions skill score
SCALES = (1, 2, 4, 8, 16)  # cells, of the pooled CRPS
SMALLEST = {"spectra": 8, "deterministic": 11}  # cells of the shorter side that a family needs
FEWEST_LEADS = {"probes": 8, "features": 4, "fvd": 10}
Case = tuple[int, int]  # trajectory, init_time


@dataclass(frozen=True)
class Portion:
    """Some leads of one case of one method, not read yet."""

    method: int
    name: str
    case: Case
    leads: slice  # which of the leads that are scored
    values: xr.DataArray  # (member, lead_time, [channel,] y, x)
    truth: xr.DataArray  # (lead_time, [channel,] y, x)
    fluid: np.ndarray  # (y, x) bool: the cells that count

    @property
    def of_truth(self) -> bool:
        """The statistics of the truth are taken with the first method."""
        return self.method == 0


@dataclass(frozen=True)
class Recipe:
    """What is the same for every portion."""

    background: Background
    families: frozenset[str]
    ranks: int  # members of the largest ensemble, plus one
    replicates: int
    seed: int
    lpips: Any = None  # evaluation.lpips.Lpips
    fvd: Any = None  # evaluation.fvd.FvdNetwork
    channels: Channels | None = None  # of a video; None where the variable is one field

    @property
    def value_range(self) -> tuple[float, float]:
        """Of the pictures that networks look at."""
        return (0.0, 255.0) if self.background.grey else self.background.value_range


def score(portion: Portion, recipe: Recipe) -> dict[str, np.ndarray]:
    """The statistics of a portion, by name, on the dimensions of `LAYOUT` that a portion has.

    Names beginning with "_" are raw material that the verification joins: `_series` (member, lead_time, probe),
    `_features` (member, feature), `_fvd` (member, feature), and the same of the truth.
    Raises EvaluationError for a value in a fluid cell that is not finite.
    """
    members, truth = _read(portion, recipe.background.grey)
    found: dict[str, np.ndarray] = {}
    seen: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for family in FAMILIES:
        if family in recipe.families:
            form = form_of(family)
            if form not in seen:
                seen[form] = _seen(members, form, recipe.channels), _seen(truth, form, recipe.channels)
            found |= FAMILIES[family](*seen[form], portion, recipe)
    return found


def form_of(family: str) -> str:
    """What a family sees of a video: the name of a method of `evaluation.colour.Channels`."""
    return {"points": "stacked", "lpips": "colours", "fvd": "colours"}.get(family, "picture")


def _seen(values: np.ndarray, form: str, channels: Channels | None) -> np.ndarray:
    return values if channels is None else getattr(channels, form)(values)


def _read(portion: Portion, grey: GreyLevels | None) -> tuple[np.ndarray, np.ndarray]:
    where = f"method {portion.name!r}, trajectory {portion.case[0]}, init time {portion.case[1]}"
    members, truth = portion.values.values, portion.truth.values
    members = _finite(members, portion.fluid, where)
    truth = _finite(truth, portion.fluid, f"truth of trajectory {portion.case[0]} after init time {portion.case[1]}")
    if grey is not None:
        members, truth = grey.apply(members), grey.apply(truth)
    return members, truth


def _finite(values: np.ndarray, fluid: np.ndarray, where: str) -> np.ndarray:
    """The values, zero in walls where they are not finite there."""
    finite = np.isfinite(values) if values.dtype.kind == "f" else np.ones((), bool)
    if finite.all():
        return values
    bad = int((~finite & fluid).sum())
    if bad:
        raise EvaluationError(
            f"{where}: {bad} of {values.size} values are NaN or infinite; a forecast that broke down is not scored "
            "(leaving such values out would flatter the method): forecast this case again or leave it out"
        )
    return np.where(finite, values, 0).astype(values.dtype)


# ------------------------------------------------------------------ families


def _points(members: np.ndarray, truth: np.ndarray, portion: Portion, recipe: Recipe) -> dict[str, np.ndarray]:
    """CRPS, errors, spread, their maps, and ranks with the band of a flat histogram.

    Of a video every channel of a cell is a point, and maps are means over channels.
    """
    depth = 1 if recipe.channels is None else len(recipe.channels.names)
    fluid = np.tile(portion.fluid, (depth, 1))  # (channel * y, x)
    fields = case_statistics(members, truth)
    if recipe.background.grey:
        fields["crps"] = fields["crps_classical"]  # as published
    rank, ties = fields.pop("rank", None), fields.pop("ties", None)
    found = {name: values[:, fluid].mean(-1) for name, values in fields.items()}
    for name in ("crps", "variance", "squared_error"):
        each = np.where(fluid, fields[name], 0)
        found[f"{name}_map"] = each.reshape(len(each), depth, *portion.fluid.shape).mean(1) if depth > 1 else each
    if portion.of_truth:
        observed = truth[:, fluid].astype(np.float64)
        found |= {"truth_mean": observed.mean(-1), "truth_mean_square": np.square(observed).mean(-1)}
        if portion.leads.start == 0:
            found["fluid_cases"] = portion.fluid
    if rank is not None and ties is not None:
        ranks = len(members) + 1
        counts = count_ranks(rank[:, fluid], ties[:, fluid], members=len(members))
        rng = np.random.default_rng([recipe.seed, *portion.case])  # draws nothing that depends on the leads
        cells = rng.permutation(np.flatnonzero(fluid))[:NULL_CELLS]
        pool = np.concatenate([a.reshape(-1, len(truth), fluid.size)[..., cells] for a in (members, truth[None])])
        table = exchanged_ranks(pool, rng)
        found["rank_count"] = _padded(counts, recipe.ranks)
        found["rank_null"] = _padded(table[rng.integers(ranks, size=recipe.replicates)], recipe.ranks)
    return found


def case_statistics(members: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Pointwise statistics (lead_time, y, x) of members (member, lead_time, y, x) against truth (lead_time, y, x).

    crps, crps_classical, variance, squared_error, absolute_error, bias, and of an ensemble also `rank` (members below
    the truth) and `ties` (equal to it). A method with a single member has no distribution: its CRPS is the absolute
    error (the CRPS of a step function), its variance is NaN.
    """
    if len(members) == 1:
        error = members[0].astype(np.float64) - truth
        size = np.abs(error)
        fields = {"crps": size, "crps_classical": size, "absolute_error": size, "squared_error": error**2}
        return fields | {"variance": np.full(size.shape, np.nan), "bias": error}
    names = {"crps": "crps_fair", "crps_classical": "crps"}
    names |= {n: n for n in ("variance", "squared_error", "absolute_error", "bias", "rank", "ties")}
    found = ensemble_scores(members, truth, axis=0, names=tuple(names.values()), threads=1)
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


def _events(members: np.ndarray, truth: np.ndarray, portion: Portion, recipe: Recipe) -> dict[str, np.ndarray]:
    from evaluation.events import event_counts

    b = recipe.background
    forecast, observed = event_counts(members, truth, portion.fluid, b.thresholds, absolute=b.absolute)
    return {"event_forecast": _padded(forecast, recipe.ranks), "event_observed": _padded(observed, recipe.ranks)}


def _neighbourhood(members: np.ndarray, truth: np.ndarray, portion: Portion, recipe: Recipe) -> dict[str, np.ndarray]:
    from evaluation.neighbourhood import fss_sums, pooled_crps

    b, fluid = recipe.background, portion.fluid
    shape = truth.shape[1:]
    error, reference = fss_sums(members, truth, fluid, b.thresholds, windows(shape), absolute=b.absolute)
    return {
        "fss_error": error,
        "fss_reference": reference,
        "crps_pooled": pooled_crps(members, truth, fluid, scales(shape), how="mean"),
        "crps_pooled_max": pooled_crps(members, truth, fluid, scales(shape), how="max"),
    }


def windows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Windows of the fractions skill score that fit into a frame."""
    return tuple(w for w in WINDOWS if w <= max(1, min(shape) // 2))


def scales(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Windows of the pooled CRPS that fit into a frame."""
    return tuple(s for s in SCALES if s <= max(1, min(shape) // 2))


def _multivariate(members: np.ndarray, truth: np.ndarray, portion: Portion, recipe: Recipe) -> dict[str, np.ndarray]:
    from evaluation.multivariate import energy_score_field, variogram_score_field

    return {
        "energy_score": energy_score_field(members, truth, portion.fluid),
        "variogram_score": variogram_score_field(members, truth, portion.fluid),
    }


def _deterministic(members: np.ndarray, truth: np.ndarray, portion: Portion, recipe: Recipe) -> dict[str, np.ndarray]:
    from evaluation.deterministic import anomaly_products
    from evaluation.similarity import ssim_field

    b, fluid = recipe.background, portion.fluid
    names = ("anomaly_product", "anomaly_forecast_square", "anomaly_truth_square")
    found = dict(zip(names, anomaly_products(members, truth, b.climatology, fluid), strict=True))
    return found | {"ssim": ssim_field(members, truth, fluid, b.data_range, minimum=b.lowest).mean(0)}


def _spectra(members: np.ndarray, truth: np.ndarray, portion: Portion, recipe: Recipe) -> dict[str, np.ndarray]:
    from evaluation.spectra import case_spectra

    power, of_truth, cross = case_spectra(members, truth, portion.fluid)
    return {"power": power, "cross_power": cross} | ({"power_truth": of_truth} if portion.of_truth else {})


def _pod(members: np.ndarray, truth: np.ndarray, portion: Portion, recipe: Recipe) -> dict[str, np.ndarray]:
    pod: Any = recipe.background.pod
    ours, real = pod.project(members), pod.project(truth)  # (member, lead_time, mode), (lead_time, mode)
    if len(members) == 1:
        crps = np.abs(ours[0] - real)
    else:
        (crps,) = ensemble_scores(ours, real, axis=0, names=("crps_fair",), threads=1)
    found = {"pod_crps": crps, "pod_energy": np.square(ours).mean(0)}
    return found | ({"pod_energy_truth": np.square(real)} if portion.of_truth else {})


def _pdf(members: np.ndarray, truth: np.ndarray, portion: Portion, recipe: Recipe) -> dict[str, np.ndarray]:
    from evaluation.distributions import value_histogram

    edges, fluid = recipe.background.edges, portion.fluid
    found = {"pdf": value_histogram(members, fluid, edges).mean(0)}
    return found | ({"pdf_truth": value_histogram(truth, fluid, edges)} if portion.of_truth else {})


def _probes(members: np.ndarray, truth: np.ndarray, portion: Portion, recipe: Recipe) -> dict[str, np.ndarray]:
    rows, columns = np.array(recipe.background.probes).T
    found = {"_series": members[:, :, rows, columns].astype(np.float64)}
    return found | ({"_series_truth": truth[:, rows, columns].astype(np.float64)} if portion.of_truth else {})


def _features(members: np.ndarray, truth: np.ndarray, portion: Portion, recipe: Recipe) -> dict[str, np.ndarray]:
    if len(truth) < FEWEST_LEADS["features"]:  # the remainder of a case that was cut
        return {}
    from evaluation.frechet import physics_features

    scale = recipe.background.deviation
    found = {"_features": physics_features(members[:CLIPS], portion.fluid, scale)}
    return found | (
        {"_features_truth": physics_features(truth[None], portion.fluid, scale)} if portion.of_truth else {}
    )


def _lpips(members: np.ndarray, truth: np.ndarray, portion: Portion, recipe: Recipe) -> dict[str, np.ndarray]:
    found = recipe.lpips.ensemble(members, truth, value_range=recipe.value_range, fluid=portion.fluid)
    return {"lpips": found.mean(0)}


def _fvd(members: np.ndarray, truth: np.ndarray, portion: Portion, recipe: Recipe) -> dict[str, np.ndarray]:
    if len(truth) < FEWEST_LEADS["fvd"]:  # the remainder of a case that was cut
        return {}
    options: dict[str, Any] = {"value_range": recipe.value_range, "fluid": portion.fluid}
    found = {"_fvd": recipe.fvd.features(members[:CLIPS], **options)}
    return found | ({"_fvd_truth": recipe.fvd.features(truth[None], **options)} if portion.of_truth else {})


FAMILIES: dict[str, Callable[[np.ndarray, np.ndarray, Portion, Recipe], dict[str, np.ndarray]]] = {
    "points": _points,
    "events": _events,
    "neighbourhood": _neighbourhood,
    "multivariate": _multivariate,
    "deterministic": _deterministic,
    "spectra": _spectra,
    "pod": _pod,
    "pdf": _pdf,
    "probes": _probes,
    "features": _features,
    "lpips": _lpips,
    "fvd": _fvd,
}
"""Groups of statistics, each from the members (member, lead_time, y, x) and truth (lead_time, y, x) of a portion;
of a video, in the form of `form_of`."""


def applicable(shape: tuple[int, ...], leads: int, background: Background) -> frozenset[str]:
    """The families that frames (y, x) of this size, and so many leads, allow."""
    names = {n for n in FAMILIES if min(shape) >= SMALLEST.get(n, 1) and leads >= FEWEST_LEADS.get(n, 1)}
    names -= set() if background.probes else {"probes"}
    return frozenset(names - (set() if background.pod is not None else {"pod"}))


def _padded(counts: np.ndarray, length: int) -> np.ndarray:
    """The last axis filled with zeros up to `length`: ensembles of different size share one array."""
    return np.pad(counts, [(0, 0)] * (counts.ndim - 1) + [(0, length - counts.shape[-1])])
