"""Reference forecasts, behind the same interface and in the same file format as the learned ones.

`fit(name, dataset)` makes any of `METHODS`, fitted on the training runs of a dataset.
"""

from rvdflow.baselines.advection import Advection
from rvdflow.baselines.analog import Analog
from rvdflow.baselines.climatology import Climatology
from rvdflow.baselines.damped import DampedPersistence
from rvdflow.baselines.dressing import Dressed
from rvdflow.baselines.extrapolation import LinearExtrapolation
from rvdflow.baselines.linear_inverse import DynamicModes, LinearInverse
from rvdflow.baselines.methods import METHODS, dress, fit, names
from rvdflow.baselines.persistence import Persistence

__all__ = [
    "METHODS",
    "Advection",
    "Analog",
    "Climatology",
    "DampedPersistence",
    "Dressed",
    "DynamicModes",
    "LinearExtrapolation",
    "LinearInverse",
    "Persistence",
    "dress",
    "fit",
    "names",
]
