"""Residual video diffusion: train on flow.zarr, forecast ensembles, verify them.

    forecaster = rvdflow.load("runs/small-1")
    forecast = forecaster.forecast(dataset, members=32, lead=16)      # an xarray.Dataset

The command line's work is one function each: `rvdflow.train.train`, `rvdflow.forecast.forecast`,
`rvdflow.verify.verify`. Importing this package imports none of torch, xarray or numba.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rvdflow.baselines import Climatology, Persistence
    from rvdflow.forecaster import Forecaster
    from rvdflow.model import ResidualVideoDiffusion
    from rvdflow.network_forecaster import load
    from rvdflow.pooled import Pooled

_HOME = {
    "load": "rvdflow.network_forecaster",
    "Pooled": "rvdflow.pooled",
    "Forecaster": "rvdflow.forecaster",
    "Seen": "rvdflow.forecaster",
    "Climatology": "rvdflow.baselines",
    "Persistence": "rvdflow.baselines",
    "ResidualVideoDiffusion": "rvdflow.model",
}
__all__ = ["Climatology", "Forecaster", "Persistence", "Pooled", "ResidualVideoDiffusion", "Seen", "load"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'rvdflow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
