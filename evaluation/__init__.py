"""Verification of ensemble forecasts of fields, the way weather forecasts are verified.

Plain functions on xarray: pointwise statistic -> average -> metric (see `evaluation.statistics`). Importing the package
is cheap; each name loads its module when first used.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "errors": ("DimensionError", "EvaluationError", "MissingValueError"),
    "alignment": ("align",),
    "foreign": ("conform", "open_any"),
    "statistics": (
        "bias",
        "crps",
        "ensemble_statistics",
        "mae",
        "rank_histogram",
        "ranks_to_histogram",
        "rmse",
        "spread_skill_ratio",
        "squared_error",
        "variance",
    ),
    "crps_variants": ("crps_components", "threshold_weighted_crps"),
    "intervals": ("interval_coverage", "interval_score", "interval_width"),
    "events": ("brier_decomposition", "brier_score", "event_histogram", "reliability_curve", "roc_curve"),
    "neighbourhood": ("crps_pooled", "fractions_skill_score"),
    "multivariate": ("energy_score", "variogram_score"),
    "deterministic": ("anomaly_correlation", "psnr", "ssim"),
    "spectral_scores": (
        "band_energy_ratio",
        "effective_resolution",
        "log_spectral_distance",
        "power_spectra",
        "spectral_coherence",
    ),
    "energy_spectra": ("enstrophy_spectrum", "kinetic_energy_spectrum"),
    "temporal": ("strouhal_number", "temporal_spectrum"),
    "pod": ("Pod",),
    "modal_scores": ("pod_coefficients", "pod_crps", "pod_energy"),
    "flow_physics": ("divergence", "stability_time"),
    "distributions": ("wasserstein",),
    "comparison": ("diebold_mariano",),
    "lpips": ("Lpips",),
    "fvd": ("FvdNetwork",),
    "weights": ("Unavailable",),
    "frechet": ("clip_distance", "frechet_distance", "frechet_physics_distance", "mmd"),
    "flow_features": ("physics_features",),
    "skill": ("skill_score", "spread_skill"),
    "resampling": ("bootstrap",),
    "verification": ("verify",),
    "summary": ("difference", "metric"),
    "scores": ("read_scores", "write_scores"),
    "report": ("write_report",),
    "viewer": ("films",),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
