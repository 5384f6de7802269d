"""Reference methods by name, and how one is made: `fit("analog", dataset).forecast(dataset)`."""

from __future__ import annotations

from typing import Any

from lbm.errors import UsageError
from rvdflow.baselines.advection import Advection
from rvdflow.baselines.analog import Analog
from rvdflow.baselines.climatology import Climatology
from rvdflow.baselines.damped import DampedPersistence
from rvdflow.baselines.dressing import Dressed
from rvdflow.baselines.extrapolation import LinearExtrapolation
from rvdflow.baselines.linear_inverse import DynamicModes, LinearInverse
from rvdflow.baselines.persistence import Persistence
from rvdflow.baselines.training import Training
from rvdflow.forecaster import Forecaster, require_context

DRESSED = "-dressed"
METHODS: dict[str, type[Forecaster]] = {
    "persistence": Persistence,
    "climatology": Climatology,
    "damped-persistence": DampedPersistence,
    "linear-extrapolation": LinearExtrapolation,
    "analog": Analog,
    "linear-inverse": LinearInverse,
    "dmd": DynamicModes,
    "advection": Advection,
}


def names() -> list[str]:
    """Every method there is, the dressed ones included."""
    return [*METHODS, *(name + DRESSED for name, kind in METHODS.items() if kind.deterministic)]


def fit(method: str, dataset: Any, *, context: int = 4, lead: int = 16, dress: bool = False) -> Forecaster:
    """The reference forecaster called `method`, fitted on the training runs of an open dataset.

    Settings are chosen on its validation runs, for forecasts of `lead` frames from `context` frames; test runs are
    never read. `dress` makes an ensemble of a deterministic method by adding residuals of validation runs to it;
    the name `METHOD-dressed` does the same. Open the dataset with `chunks=None`: frames are read in many pieces.

    Raises `UsageError` (no such method, an ensemble cannot be dressed, `context` is shorter than the method needs)
    and `DataError` (no training runs, values that are not finite, runs too short).
    """
    plain = method.removesuffix(DRESSED)
    dress = dress or plain != method
    if plain not in METHODS:
        raise UsageError(f"method {method!r} is not known: use {', '.join(names())}")
    kind = METHODS[plain]
    if dress and not kind.deterministic:
        raise UsageError(f"{plain} is an ensemble already: only a deterministic method can be dressed")
    require_context(plain, kind.needs, context)
    data = Training(dataset, context=context, lead=lead)
    made = kind.fit(data)
    return Dressed(made, data) if dress else made


def dress(forecaster: Forecaster, dataset: Any, *, context: int = 4, lead: int = 16) -> Dressed:
    """An ensemble of a deterministic forecaster: it wears residuals of its own forecasts of the validation runs.

    `dress(rvdflow.load(run).mean(), dataset)` is the mean of a trained network so dressed. `UsageError` when the
    forecaster is an ensemble already.
    """
    return Dressed(forecaster, Training(dataset, context=context, lead=lead, variables=forecaster.variables))
