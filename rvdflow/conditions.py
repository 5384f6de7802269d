"""What is known of a run besides its frames, as the networks are given it: the obstacle mask, and a few numbers.

Numbers, such as the Reynolds number, are coordinates of a dataset along `trajectory`. They are standardised with the
mean and deviation of the training runs, which are kept in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from lbm.errors import DataError
from rvdflow.networks import Given


@dataclass(frozen=True)
class Conditions:
    """Standardised = (number - shift) / scale, for each of `names`."""

    names: tuple[str, ...] = ()
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Conditions:
        try:
            shift, scale = (tuple(float(v) for v in values[name]) for name in ("shift", "scale"))
            names = tuple(str(v) for v in values["names"])
            if not all(np.isfinite([*shift, *scale])) or not len(names) == len(shift) == len(scale):
                raise ValueError("numbers out of range")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"conditions not understood ({error}): {str(values)[:200]}") from error
        return cls(names, shift, scale)

    @classmethod
    def fit(cls, dataset: Any, names: Sequence[str], trajectories: Sequence[int]) -> Conditions:
        """Mean and deviation over the runs `trajectories`; a number that is the same in all of them is only shifted."""
        values = cls.read(dataset, names)[list(trajectories)]
        scale = values.std(0)
        return cls(tuple(names), tuple(map(float, values.mean(0))), tuple(float(s) if s > 0 else 1.0 for s in scale))

    @staticmethod
    def read(dataset: Any, names: Sequence[str]) -> np.ndarray:
        """Numbers of all runs, (trajectory, name) float64. DataError when one is missing or not finite."""
        runs = dataset.sizes["trajectory"]
        values = np.zeros((runs, len(names)))
        for k, name in enumerate(names):
            if name not in dataset.variables or dataset[name].dims != ("trajectory",):
                there = [
                    str(n) for n, v in dataset.variables.items() if v.dims == ("trajectory",) and v.dtype.kind in "fi"
                ]
                raise DataError(f"the dataset has no number {name!r} of each run; it has {', '.join(sorted(there))}")
            values[:, k] = np.asarray(dataset[name].values, dtype=np.float64)
            if not np.isfinite(values[:, k]).all():
                raise DataError(f"{name} is not finite for every run of the dataset")
        return values

    def given(self, solid: np.ndarray, values: np.ndarray) -> Given:
        """For runs with obstacle masks solid (batch, y, x) bool and numbers values (batch, name)."""
        numbers = (values - np.asarray(self.shift)) / np.asarray(self.scale)
        return Given(
            torch.from_numpy(~solid[:, None]).to(torch.float32),
            torch.from_numpy(np.asarray(numbers, dtype=np.float32).reshape(len(solid), len(self.names))),
        )
