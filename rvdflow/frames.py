"""Frames of a dataset as arrays: (time, channel, y, x) float32 in physical units, one channel per variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lbm.errors import DataError, UsageError

FRAME_DIMS = ("trajectory", "time", "y", "x")


def frame_variables(dataset: Any) -> tuple[str, ...]:
    """Names of the variables of `dataset` that hold frames, in the order they are stored."""
    return tuple(str(name) for name, array in dataset.data_vars.items() if array.dims == FRAME_DIMS)


def split_trajectories(dataset: Any, split: str) -> list[int]:
    """Indices of the trajectories that belong to `split`. DataError when there are none."""
    if "split" not in dataset.variables:
        raise DataError("the dataset has no variable 'split', so training and test runs cannot be told apart")
    names = np.asarray(dataset["split"].values).astype(str)
    chosen = np.flatnonzero(names == split)
    if not len(chosen):
        there = ", ".join(f"{n} {name}" for name, n in zip(*np.unique(names, return_counts=True), strict=True))
        raise DataError(f"the dataset has no trajectory in split {split!r}; it has {there or 'none at all'}")
    return [int(k) for k in chosen]


class Frames:
    """Reads frames of some variables of an open dataset as (time, channel, y, x) float32 in physical units.

    Open the dataset with `chunks=None` (lazy, without dask) where many windows are read one by one.
    """

    def __init__(self, dataset: Any, variables: Sequence[str]):
        for name in variables:
            if name not in dataset.data_vars or dataset[name].dims != FRAME_DIMS:
                there = ", ".join(frame_variables(dataset)) or "no frames at all"
                raise DataError(f"the dataset has no frames of {name!r}; it has {there}")
        self.variables = tuple(variables)
        self.arrays = [dataset[name].variable for name in variables]
        self.trajectories, self.times, self.height, self.width = (int(n) for n in self.arrays[0].shape)
        self.solid = _solid(dataset, (self.trajectories, self.height, self.width))

    @property
    def channels(self) -> int:
        return len(self.variables)

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    def read(self, trajectory: int, start: int, stop: int) -> np.ndarray:
        """Frames start..stop-1 of one trajectory: (time, channel, y, x) float32, as stored."""
        if not 0 <= start < stop <= self.times:
            raise UsageError(f"frames {start}..{stop - 1} asked for, the dataset has 0..{self.times - 1}")
        parts = [np.asarray(array[trajectory, start:stop], dtype=np.float32) for array in self.arrays]
        return np.stack(parts, axis=1)


def _solid(dataset: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Obstacle mask (trajectory, y, x) bool; nothing solid when the dataset names no obstacle."""
    if "solid" not in dataset.variables:
        return np.zeros(shape, dtype=bool)
    return np.asarray(dataset["solid"].values, dtype=bool).reshape(shape)
