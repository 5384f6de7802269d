"""Reference forecasts, behind the same interface and in the same file format as the learned ones."""

from rvdflow.baselines.climatology import Climatology
from rvdflow.baselines.persistence import Persistence

__all__ = ["Climatology", "Persistence"]
