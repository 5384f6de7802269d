"""Verification of ensemble forecasts of fields, the way weather forecasts are verified.

Plain functions on xarray: pointwise statistic -> average -> metric (see `evaluation.statistics`). Importing the package
is cheap; each name loads its module when first used.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "EvaluationError": "errors",
    "DimensionError": "errors",
    "MissingValueError": "errors",
    "align": "alignment",
    "bias": "statistics",
    "bootstrap": "resampling",
    "crps": "statistics",
    "ensemble_statistics": "statistics",
    "mae": "statistics",
    "metric": "summary",
    "rank_histogram": "statistics",
    "ranks_to_histogram": "statistics",
    "read_scores": "scores",
    "rmse": "statistics",
    "skill_score": "skill",
    "spread_skill": "skill",
    "spread_skill_ratio": "statistics",
    "squared_error": "statistics",
    "variance": "statistics",
    "verify": "verification",
    "write_report": "report",
    "write_scores": "scores",
}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
