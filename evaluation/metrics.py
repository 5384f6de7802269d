"""What can be said of a method from averaged statistics: one formula for each metric, applied after averaging.

    statistics of a run  --`reduce` (linear)-->  less of them  --mean over runs-->  --`formula`-->  metric

`reduce` may only add, scale and weigh, so that it commutes with the mean over runs: it exists to make what a bootstrap
draws from small. Whatever divides, roots or takes logarithms is in `formula`, which gets means and comes last.
Statistics are those of `evaluation.layout`; each is here a mean over the cases of a run, or a sum divided by their
number. Dimensions that a formula does not name are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from evaluation import spectra
from evaluation.skill import spread_skill

Statistics = xr.Dataset
Formula = Callable[[Statistics, xr.Dataset], xr.DataArray]  # (means, scores) -> metric
Reduce = Callable[[Statistics, xr.Dataset], Statistics]
VARIABLE = "variable"  # stands for the unit of the verified variable
NOMINAL = (0.5, 0.8, 0.9)  # the central intervals whose coverage is counted


@dataclass(frozen=True)
class Metric:
    """A metric: what it is called, which statistics it needs, how it follows from their means, what is best.

    `best` is "low", "high", "0" or "1". `needs_ensemble`: NaN for a method with one member.
    """

    title: str
    uses: tuple[str, ...]
    formula: Formula
    best: str
    units: str = VARIABLE
    reduce: Reduce | None = None
    needs_ensemble: bool = False


def mean_of(name: str) -> Formula:
    """The statistic itself."""
    return lambda means, scores: means[name]


def inflation(scores: xr.Dataset) -> xr.DataArray:
    """(M + 1) / M of each method: what makes the variance of M members comparable with the error of their mean."""
    return (scores["members"] + 1) / scores["members"]


def spread_skill_of(means: Statistics, scores: xr.Dataset) -> xr.DataArray:
    """sqrt((M + 1)/M variance / squared error)."""
    return spread_skill(inflation(scores) * means["variance"], means["squared_error"])


def brier_sums(runs: Statistics, scores: xr.Dataset) -> Statistics:
    """Sum of the fair Brier scores of all cells, and the cells, from event counts.

    A cell where k of M members are beyond the threshold has p = k/M and scores (p - o)^2 - p (1 - p) / (M - 1), the
    classical score less what the finite ensemble costs (Ferro 2014, doi:10.1002/qj.2270); one member: (p - o)^2.
    """
    forecast, observed = runs["event_forecast"], runs["event_observed"]
    members = scores["members"].astype(float)
    p = forecast["exceeding"] / members
    cost = p * (1 - p) / (members - 1).clip(min=1)
    sums = xr.dot(forecast, p**2 - cost, dim="exceeding") + xr.dot(observed, 1 - 2 * p, dim="exceeding")
    return xr.Dataset({"sum": sums, "cells": forecast.sum("exceeding")})


def brier(means: Statistics, scores: xr.Dataset) -> xr.DataArray:
    """Brier score from `brier_sums`."""
    return means["sum"] / means["cells"].where(means["cells"] > 0)


def roc_area(means: Statistics, scores: xr.Dataset) -> xr.DataArray:
    """Area below the ROC curve; counts beyond the members of a method are zero and add nothing to it."""
    from evaluation.events import roc_from_counts  # brings compiled kernels along: not for every use of a metric

    return xr.apply_ufunc(
        lambda forecast, observed: roc_from_counts(forecast, observed)[2],
        means["event_forecast"],
        means["event_observed"],
        input_core_dims=[["exceeding"], ["exceeding"]],
    )


def coverage_sums(runs: Statistics, scores: xr.Dataset) -> Statistics:
    """Cells where the truth is inside the central interval of probability `nominal`, and all cells, from rank counts.

    A truth of rank r among M members has its probability integral transform spread evenly over
    [r, r + 1] / (M + 1); what of this lies in [(1 - nominal)/2, (1 + nominal)/2] counts as inside. Reliable members
    then give exactly the nominal coverage, whatever M is.
    """
    ranks = scores.sizes["rank"]
    share = np.zeros((scores.sizes["method"], len(NOMINAL), ranks))
    for m, members in enumerate(scores["members"].values):
        edges = np.arange(members + 2) / (members + 1)
        for i, nominal in enumerate(NOMINAL):
            inside = np.clip(edges, (1 - nominal) / 2, (1 + nominal) / 2)
            share[m, i, : members + 1] = np.diff(inside) * (members + 1)
    weights = xr.DataArray(share, dims=("method", "nominal", "rank"), coords={"nominal": list(NOMINAL)})
    counts = runs["rank_count"]
    return xr.Dataset({"inside": xr.dot(counts, weights, dim="rank"), "cells": counts.sum("rank")})


def coverage(means: Statistics, scores: xr.Dataset) -> xr.DataArray:
    """Coverage from `coverage_sums`."""
    return means["inside"] / means["cells"].where(means["cells"] > 0)


def fractions_skill(means: Statistics, scores: xr.Dataset) -> xr.DataArray:
    """1 - error / reference; NaN where neither forecast nor truth has the event."""
    return 1 - means["fss_error"] / means["fss_reference"].where(means["fss_reference"] > 0)


def anomaly_correlation(means: Statistics, scores: xr.Dataset) -> xr.DataArray:
    """Mean product of anomalies over the root of the product of their mean squares; NaN for a constant anomaly."""
    square = means["anomaly_forecast_square"] * means["anomaly_truth_square"]
    return means["anomaly_product"] / square.where(square > 0) ** 0.5


def peak_signal_to_noise(means: Statistics, scores: xr.Dataset) -> xr.DataArray:
    """10 log10(range^2 / mean squared error of the ensemble mean), in dB."""
    error = means["squared_error"]
    ratio = float(scores.attrs["data_range"]) ** 2 / error.where(error > 0)
    return ratio.copy(data=10 * np.log10(ratio.values))


def log_spectral_distance(means: Statistics, scores: xr.Dataset) -> xr.DataArray:
    """`spectra.log_spectral_distance`, in dB."""
    return _of_spectra(spectra.log_spectral_distance, means["power"], means["power_truth"])


def coherence(means: Statistics, scores: xr.Dataset) -> xr.DataArray:
    """`spectra.coherence`: squared correlation of members and truth by wavenumber."""
    arrays = (means["power"], means["power_truth"], means["cross_power"])
    return _of_spectra(spectra.coherence, *arrays, keep=True)


def _of_spectra(function: Callable[..., np.ndarray], *arrays: xr.DataArray, keep: bool = False) -> xr.DataArray:
    wide = xr.broadcast(*arrays)
    result = xr.apply_ufunc(
        function,
        *wide,
        input_core_dims=[["wavenumber"]] * len(arrays),
        output_core_dims=[["wavenumber"] if keep else []],
    )
    return result


def band_sums(runs: Statistics, scores: xr.Dataset) -> Statistics:
    """Power of members and truth in each band (long, short] of wavelengths of `spectra.BANDS`."""
    length = 1 / scores["wavenumber"]
    inside = [(length <= long * (1 + 1e-12)) & (length > short * (1 + 1e-12)) for long, short in spectra.BANDS]
    names = [f"over {short:g}" if np.isinf(long) else f"{short:g} to {long:g}" for long, short in spectra.BANDS]
    member = xr.concat(inside, dim="band").astype(float).assign_coords(band=names)
    return runs.map(lambda power: xr.dot(power.fillna(0), member, dim="wavenumber"))


def band_energy_ratio(means: Statistics, scores: xr.Dataset) -> xr.DataArray:
    """Power of the members over power of the truth, in bands of wavelength."""
    ratio = means["power"] / means["power_truth"].where(means["power_truth"] > 0)
    return ratio.where(ratio > 0)


def effective_resolution(means: Statistics, scores: xr.Dataset) -> xr.DataArray:
    """`spectra.effective_resolution` in cells, of all resamples at once.

    The first shell is left out: the window of the spectra takes most of its variance away. Where even the next one is
    not resolved it is that wave, instead of infinity: differences stay finite.
    """
    squared = coherence(means, scores)
    squared = squared.sel(wavenumber=squared["wavenumber"] <= 0.5 * (1 + 1e-12)).transpose(..., "wavenumber")
    squared = squared.isel(wavenumber=slice(1, None)) if squared.sizes["wavenumber"] > 1 else squared
    k = squared["wavenumber"].values
    values = squared.values
    below = values < spectra.COHERENT
    first = np.argmax(below, axis=-1)
    before = np.maximum(first - 1, 0)
    high, low = (np.take_along_axis(values, i[..., None], -1)[..., 0] for i in (before, first))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(first > before, (high - spectra.COHERENT) / (high - low), 0.0)
    length = np.where(below.any(-1), 1 / (k[before] + share * (k[first] - k[before])), 2.0)
    length = np.where(np.isnan(values).all(-1), np.nan, length)
    return squared.isel(wavenumber=0, drop=True).copy(data=length)


def wasserstein(means: Statistics, scores: xr.Dataset) -> xr.DataArray:
    """Distance of the distributions of values: integral of |difference of distribution functions|, in the unit."""
    width = float(np.diff(scores["bin"].values).mean()) if scores.sizes["bin"] > 1 else 1.0
    return abs((means["pdf"] - means["pdf_truth"]).cumsum("bin")).sum("bin", skipna=False) * width


def mode_energy_ratio(means: Statistics, scores: xr.Dataset) -> xr.DataArray:
    """Mean square coefficient of the members over that of the truth, by mode."""
    return means["pod_energy"] / means["pod_energy_truth"].where(means["pod_energy_truth"] > 0)


METRICS: dict[str, Metric] = {
    "crps": Metric("CRPS", ("crps",), mean_of("crps"), "low"),
    "crps_classical": Metric("CRPS, classical estimator", ("crps_classical",), mean_of("crps_classical"), "low"),
    "inverse_crps": Metric(
        "1 / CRPS (classical)", ("crps_classical",), lambda m, s: 1 / m["crps_classical"], "high", "1/variable"
    ),
    "crpss": Metric("CRPSS", ("crps",), mean_of("crps"), "high", "1"),
    "rmse": Metric("RMSE of the ensemble mean", ("squared_error",), lambda m, s: m["squared_error"] ** 0.5, "low"),
    "mae": Metric("MAE of the ensemble mean", ("absolute_error",), mean_of("absolute_error"), "low"),
    "spread": Metric(
        "spread", ("variance",), lambda m, s: (inflation(s) * m["variance"]) ** 0.5, "", needs_ensemble=True
    ),
    "spread_skill_ratio": Metric(
        "spread / RMSE", ("variance", "squared_error"), spread_skill_of, "1", "1", needs_ensemble=True
    ),
    "bias": Metric("bias", ("bias",), mean_of("bias"), "0"),
    "coverage": Metric("coverage", ("rank_count",), coverage, "", "1", coverage_sums, needs_ensemble=True),
    "brier": Metric("Brier score", ("event_forecast", "event_observed"), brier, "low", "1", brier_sums),
    "brier_skill": Metric("Brier skill", ("event_forecast", "event_observed"), brier, "high", "1", brier_sums),
    "roc_area": Metric("ROC area", ("event_forecast", "event_observed"), roc_area, "high", "1"),
    "fss": Metric("fractions skill score", ("fss_error", "fss_reference"), fractions_skill, "high", "1"),
    "crps_pooled": Metric("CRPS of means over windows", ("crps_pooled",), mean_of("crps_pooled"), "low"),
    "crps_pooled_max": Metric("CRPS of maxima over windows", ("crps_pooled_max",), mean_of("crps_pooled_max"), "low"),
    "energy_score": Metric("energy score", ("energy_score",), mean_of("energy_score"), "low"),
    "variogram_score": Metric("variogram score", ("variogram_score",), mean_of("variogram_score"), "low"),
    "acc": Metric(
        "anomaly correlation",
        ("anomaly_product", "anomaly_forecast_square", "anomaly_truth_square"),
        anomaly_correlation,
        "high",
        "1",
    ),
    "psnr": Metric("PSNR of the ensemble mean", ("squared_error",), peak_signal_to_noise, "high", "dB"),
    "ssim": Metric("SSIM of members", ("ssim",), mean_of("ssim"), "high", "1"),
    "lpips": Metric("LPIPS of members", ("lpips",), mean_of("lpips"), "low", "1"),
    "log_spectral_distance": Metric(
        "log-spectral distance", ("power", "power_truth"), log_spectral_distance, "low", "dB"
    ),
    "band_energy_ratio": Metric(
        "power / power of the truth", ("power", "power_truth"), band_energy_ratio, "1", "1", band_sums
    ),
    "coherence": Metric("squared coherence", ("power", "power_truth", "cross_power"), coherence, "high", "1"),
    "effective_resolution": Metric(
        "effective resolution", ("power", "power_truth", "cross_power"), effective_resolution, "low", "cells"
    ),
    "pod_crps": Metric("CRPS of POD coefficients", ("pod_crps",), mean_of("pod_crps"), "low"),
    "mode_energy_ratio": Metric(
        "POD energy / that of the truth", ("pod_energy", "pod_energy_truth"), mode_energy_ratio, "1", "1"
    ),
    "wasserstein": Metric("distance of distributions", ("pdf", "pdf_truth"), wasserstein, "low"),
}
SKILL = {"crpss": "crps", "brier_skill": "brier"}  # 1 - metric / metric of a reference


def units_of(name: str, units: str) -> str:
    """The unit of metric `name` of a variable in `units`."""
    own = METRICS[name].units
    if own == VARIABLE:
        return units
    return own if own != "1/variable" else ("1" if units in ("", "1") else f"1/({units})")


def available(scores: xr.Dataset, name: str) -> bool:
    """Whether `scores` hold what metric `name` needs, and at least one number of it."""
    metric = METRICS[name]
    if not all(n in scores and scores[n].size for n in metric.uses):
        return False
    if name == "psnr" and "data_range" not in scores.attrs:
        return False
    return all(bool(scores[n].notnull().any()) for n in metric.uses)
