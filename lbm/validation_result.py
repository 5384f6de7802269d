"""What one validation case hands back: numbers beside published ones, and curves for the figures.

A figure passes when it lies in the interval that was published, or else within a tolerance of the reference. The
tolerances are measured ones: what the case reaches at its resolution, with a little air, never what one would wish.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Result:
    """One number against its reference; `interval` (low, high) decides where given, else `tolerance`."""

    case: str
    quantity: str
    ours: float
    reference: float
    source: str
    tolerance: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def relative_error(self) -> float:
        """(ours - reference) / |reference|; the difference itself where the reference is 0."""
        return (self.ours - self.reference) / (abs(self.reference) or 1.0)

    @property
    def passed(self) -> bool:
        """Whether the number keeps its promise; False when it is not a number."""
        if self.interval is not None:
            return bool(self.interval[0] <= self.ours <= self.interval[1])
        return bool(abs(self.relative_error) <= (self.tolerance or 0.0))

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {
            "case": self.case,
            "quantity": self.quantity,
            "ours": self.ours,
            "reference": self.reference,
            "source": self.source,
            "relative_error": self.relative_error,
            "tolerance": self.tolerance,
            "interval": self.interval,
            "passed": self.passed,
        }


@dataclass(frozen=True)
class Outcome:
    """Results of a case and the curves that its figures are drawn from (any names, any shapes)."""

    results: list[Result]
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A case of the list: `seconds` on one core (roughly) orders the work, `full` keeps it out of the quick set."""

    name: str
    run: Callable[[], Outcome]
    seconds: float
    full: bool = False


def interpolate(x: np.ndarray, points: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Cubic Lagrange interpolation through the four nearest of the increasing `points`."""
    first = np.clip(np.searchsorted(points, x) - 2, 0, len(points) - 4)
    at = points[first[..., None] + np.arange(4)]
    weights = np.ones_like(at)
    for i in range(4):
        for j in range(4):
            if i != j:
                weights[..., i] *= (x - at[..., j]) / (at[..., i] - at[..., j])
    return (weights * values[first[..., None] + np.arange(4)]).sum(-1)


def fitted_order(sizes: np.ndarray, errors: np.ndarray) -> float:
    """Order p of errors that fall as sizes^-p, by least squares on logarithms."""
    return -float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])
