"""How wide an interval from few resampled runs has to be.

A percentile interval of a mean of R runs is too narrow twice over: resampling underestimates the standard error by
sqrt((R - 1) / R), and normal quantiles stand where those of Student's t with R - 1 degrees of freedom should. Taking
the percentiles at a higher level mends both (the *expanded percentile interval*, Hesterberg 2015,
doi:10.1080/00031305.2015.1089789): for a central interval of probability 1 - a,

    tail of the percentiles = Phi(-sqrt(R / (R - 1)) t(1 - a/2; R - 1)).

With ten runs the 95 % interval is read off at 0.9 and 99.1 %; with a hundred at 2.4 and 97.6 %.
"""

from __future__ import annotations

import math

import numpy as np

from evaluation.errors import EvaluationError


def expanded_level(level: float, runs: int) -> float:
    """The level at which percentiles over resampled means of `runs` runs give an interval of probability `level`.

    Raises EvaluationError for a level outside (0, 1) or fewer than 2 runs.
    """
    if not 0 < level < 1:
        raise EvaluationError(f"level is the probability of the interval, between 0 and 1, got {level}")
    if runs < 2:
        raise EvaluationError(f"an interval needs at least 2 runs, got {runs}")
    z = math.sqrt(runs / (runs - 1)) * student_quantile((1 + level) / 2, runs - 1)
    return math.erf(z / math.sqrt(2))


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t, for a probability of at least one half; to about six digits.

    With x = sqrt(n) tan(a) the density becomes proportional to cos(a)^(n - 1) on [0, pi/2): summed by the midpoint
    rule, inverted by interpolation.
    """
    cells = 200_000
    angle = (np.arange(cells) + 0.5) * (math.pi / 2 / cells)
    mass = np.cumsum(np.cos(angle) ** (freedom - 1))
    wanted = (2 * probability - 1) * mass[-1]
    edge = np.interp(wanted, np.concatenate([[0.0], mass]), np.arange(cells + 1)) * (math.pi / 2 / cells)
    return math.sqrt(freedom) * math.tan(edge)
