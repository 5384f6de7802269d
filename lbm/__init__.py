"""Lattice-Boltzmann simulation of two-dimensional flow, written to documented Zarr datasets.

    import lbm
    path = lbm.simulate(reynolds=150, frames=200, trajectories=2, output="flow.zarr")
    ds = lbm.open_dataset(path)
    lbm.animate(path, "flow.webp")

Importing this package is cheap: numba, xarray and zarr are loaded by the first thing that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lbm.animation import animate
    from lbm.config import SimulateConfig
    from lbm.dataset import check, digest, open_dataset
    from lbm.errors import DataError, FlowError, NumericalError, ResourceError, UsageError
    from lbm.flow import FlowParameters, Simulation
    from lbm.info import describe
    from lbm.runner import simulate

__all__ = [
    "DataError",
    "FlowError",
    "FlowParameters",
    "NumericalError",
    "ResourceError",
    "SimulateConfig",
    "Simulation",
    "UsageError",
    "animate",
    "check",
    "describe",
    "digest",
    "open_dataset",
    "simulate",
]

_HOME = {
    "animate": "animation",
    "SimulateConfig": "config",
    "check": "dataset",
    "digest": "dataset",
    "open_dataset": "dataset",
    "FlowParameters": "flow",
    "Simulation": "flow",
    "describe": "info",
    "simulate": "runner",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
