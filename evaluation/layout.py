"""What a verification stores: the dimensions of every statistic, and how cases add up to it.

A statistic on `init_time` has a value for each case; one on `trajectory` alone is a sum over the cases of a run (a
mean, where `MEANS` says so); any other is a sum over all cases. Without `method` it belongs to the truth.
"""

from __future__ import annotations

CASE = ("method", "trajectory", "init_time", "lead_time")
RUN = ("method", "trajectory", "lead_time")
MAP = ("method", "block", "lead_time", "y", "x")

FAMILIES: dict[str, dict[str, tuple[str, ...]]] = {
    "points": {
        "crps": CASE,
        "crps_classical": CASE,
        "variance": CASE,
        "squared_error": CASE,
        "absolute_error": CASE,
        "bias": CASE,
        "truth_mean": CASE[1:],
        "truth_mean_square": CASE[1:],
        "rank_count": (*RUN, "rank"),
        "rank_null": ("method", "replicate", "lead_time", "rank"),
        "crps_map": MAP,
        "variance_map": ("method", "lead_time", "y", "x"),
        "squared_error_map": ("method", "lead_time", "y", "x"),
        "fluid_cases": ("block", "y", "x"),
    },
    "events": {
        "event_forecast": (*RUN, "threshold", "exceeding"),
        "event_observed": (*RUN, "threshold", "exceeding"),
    },
    "neighbourhood": {
        "fss_error": (*RUN, "threshold", "window"),
        "fss_reference": (*RUN, "threshold", "window"),
        "crps_pooled": (*CASE, "scale"),
        "crps_pooled_max": (*CASE, "scale"),
    },
    "multivariate": {"energy_score": CASE, "variogram_score": CASE},
    "deterministic": {
        "anomaly_product": CASE,
        "anomaly_forecast_square": CASE,
        "anomaly_truth_square": CASE,
        "ssim": CASE,
    },
    "spectra": {
        "power": (*RUN, "wavenumber"),
        "power_truth": (*RUN[1:], "wavenumber"),
        "cross_power": (*RUN, "wavenumber"),
    },
    "pod": {
        "pod_energy": (*RUN, "mode"),
        "pod_energy_truth": (*RUN[1:], "mode"),
        "pod_crps": (*RUN, "mode"),
    },
    "pdf": {"pdf": (*RUN, "bin"), "pdf_truth": (*RUN[1:], "bin")},
    "probes": {
        "probe_power": ("method", "trajectory", "probe", "frequency"),
        "probe_power_truth": ("trajectory", "probe", "frequency"),
    },
    "features": {},
    "lpips": {"lpips": CASE},
    "fvd": {},
}
"""The statistics of each family of `evaluation.scoring`, with their dimensions."""

LAYOUT = {name: dims for family in FAMILIES.values() for name, dims in family.items()}

MEANS = frozenset(
    {"power", "power_truth", "cross_power", "pod_energy", "pod_energy_truth", "pod_crps", "pdf", "pdf_truth"}
    | {"probe_power", "probe_power_truth"}
)
"""Means over the cases of a run, rather than sums."""

LONG_NAMES = {
    "crps": "continuous ranked probability score, fair estimator",
    "crps_classical": "continuous ranked probability score, classical estimator",
    "variance": "variance of the members",
    "squared_error": "squared error of the ensemble mean",
    "absolute_error": "absolute error of the ensemble mean",
    "bias": "ensemble mean minus truth",
    "truth_mean": "truth",
    "truth_mean_square": "squared truth",
    "rank_count": "cells by the number of members below the truth",
    "rank_null": "the same, had a member been the truth",
    "crps_map": "continuous ranked probability score, fair estimator",
    "variance_map": "variance of the members",
    "squared_error_map": "squared error of the ensemble mean",
    "fluid_cases": "cases in which a cell is fluid",
    "anomaly_product": "product of the anomalies of ensemble mean and truth",
    "anomaly_forecast_square": "squared anomaly of the ensemble mean",
    "anomaly_truth_square": "squared anomaly of the truth",
    "ssim": "structural similarity of a member and the truth",
    "energy_score": "energy score of the frame, fair estimator",
    "variogram_score": "variogram score of the frame",
    "crps_pooled": "fair CRPS of means over windows",
    "crps_pooled_max": "fair CRPS of maxima over windows",
    "event_forecast": "cells by the number of members beyond the threshold",
    "event_observed": "those of them where the truth was beyond it",
    "fss_error": "sum of squared differences of event fractions",
    "fss_reference": "sum of squared event fractions",
    "power": "variance by wavenumber, members",
    "power_truth": "variance by wavenumber, truth",
    "cross_power": "covariance of members and truth by wavenumber",
    "pod_energy": "squared coefficient of a mode, members",
    "pod_energy_truth": "squared coefficient of a mode, truth",
    "pod_crps": "fair CRPS of the coefficient of a mode",
    "pdf": "fraction of cells, members",
    "pdf_truth": "fraction of cells, truth",
    "probe_power": "variance by frequency at a place, members",
    "probe_power_truth": "variance by frequency at a place, truth",
    "lpips": "learned perceptual distance of a member and the truth",
    "frechet_physics": "Fréchet distance of members and truth in physics features",
    "frechet_physics_floor": "the same between truths, at these numbers of clips",
    "fvd": "Fréchet video distance of members and truth",
    "fvd_floor": "the same between truths, at these numbers of clips",
}

LINEAR = frozenset(
    {"crps", "crps_classical", "absolute_error", "bias", "truth_mean", "crps_map", "energy_score", "crps_pooled"}
    | {"crps_pooled_max", "pod_crps"}
)
SQUARED = frozenset(
    {"variance", "squared_error", "truth_mean_square", "variance_map", "squared_error_map", "power", "power_truth"}
    | {"cross_power", "pod_energy", "pod_energy_truth", "probe_power", "probe_power_truth"}
    | {"anomaly_product", "anomaly_forecast_square", "anomaly_truth_square"}
)


def units_of(name: str, units: str) -> str:
    """The unit of a statistic of a variable in `units`."""
    if name in LINEAR:
        return units
    if name == "variogram_score":  # |difference|^(2p) with p = 1/2
        return units
    return f"({units})^2" if name in SQUARED and units != "1" else "1"
