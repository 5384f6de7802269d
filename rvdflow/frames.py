"""Frames of a dataset as arrays: (time, channel, y, x) float32 in physical units.

A flow has one channel per variable; natural video has one variable with channels of its own, 8-bit values, and clips of
unequal `length`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lbm.errors import DataError, UsageError

FRAME_DIMS = ("trajectory", "time", "y", "x")
VIDEO_DIMS = ("trajectory", "time", "channel", "y", "x")
FIELDS = ("vorticity", "velocity_x", "velocity_y", "density")


def frame_variables(dataset: Any) -> tuple[str, ...]:
    """Names of the variables of `dataset` that hold frames: fields of flow in the order of FIELDS, others by name.

    A store has no order of its own: a copy of it may list its variables in another one.
    """
    found = [str(name) for name, array in dataset.data_vars.items() if array.dims in (FRAME_DIMS, VIDEO_DIMS)]
    return tuple(sorted(found, key=lambda name: (FIELDS.index(name) if name in FIELDS else len(FIELDS), name)))


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

    Open the dataset with `chunks=None` (lazy, without dask) where many windows are read one by one. DataError for
    variables that hold no frames, and for one with channels beside others.
    """

    def __init__(self, dataset: Any, variables: Sequence[str]):
        known = frame_variables(dataset)
        for name in variables:
            if name not in known:
                raise DataError(
                    f"the dataset has no frames of {name!r}; it has {', '.join(known) or 'no frames at all'}"
                )
        self.variables = tuple(variables)
        self.arrays = [dataset[name].variable for name in variables]
        self.coloured = self.arrays[0].dims == VIDEO_DIMS
        if len(self.arrays) > 1 and any(array.dims == VIDEO_DIMS for array in self.arrays):
            raise DataError(f"{', '.join(variables)}: a variable with channels is learned alone, name one")
        self.trajectories, self.times = (int(n) for n in self.arrays[0].shape[:2])
        self.height, self.width = (int(n) for n in self.arrays[0].shape[-2:])
        self.channel_names = _channel_names(dataset, self.arrays[0].sizes["channel"]) if self.coloured else None
        self.lengths = _lengths(dataset, self.trajectories, self.times)
        self.solid = _solid(dataset, (self.trajectories, self.height, self.width))

    @property
    def channels(self) -> int:
        return len(self.channel_names or self.variables)

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    @property
    def eight_bit(self) -> bool:
        """Whether values are 0 to 255, as stored."""
        return all(array.dtype == np.uint8 for array in self.arrays)

    def label(self, channel: int) -> str:
        """A channel in words."""
        return f"{self.variables[0]} ({self.channel_names[channel]})" if self.channel_names else self.variables[channel]

    def split(self, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Each variable's part of values (..., channel, y, x), as it is stored: 8-bit values rounded and clipped."""
        if self.eight_bit:
            values = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        if self.coloured:
            yield self.variables[0], values
        else:
            yield from ((name, values[..., i, :, :]) for i, name in enumerate(self.variables))

    def longest(self, trajectories: Sequence[int]) -> int:
        """Frames of the longest of some trajectories."""
        return int(self.lengths[list(trajectories)].max(initial=0))

    def read(self, trajectory: int, start: int, stop: int) -> np.ndarray:
        """Frames start..stop-1 of one trajectory: (time, channel, y, x) float32, as stored."""
        return self.stored(trajectory, start, stop).astype(np.float32, copy=False)

    def stored(self, trajectory: int, start: int, stop: int) -> np.ndarray:
        """The same in the type they are stored in. UsageError beyond the trajectory's length."""
        if not 0 <= start < stop <= self.lengths[trajectory]:
            raise UsageError(
                f"frames {start}..{stop - 1} asked for, trajectory {trajectory} has 0..{self.lengths[trajectory] - 1}"
            )
        parts = [np.asarray(array[trajectory, start:stop]) for array in self.arrays]
        return parts[0] if self.coloured else np.stack(parts, axis=1)


class Places(Sequence[tuple[int, int]]):
    """All places of `length` frames in a row in some trajectories, in order: (trajectory, first frame) of each."""

    def __init__(self, frames: Frames, trajectories: Sequence[int], length: int):
        self.trajectories = tuple(trajectories)
        room = frames.lengths[list(self.trajectories)] - length + 1
        self._ends = np.cumsum(np.maximum(0, room))  # places up to and with each trajectory

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: Any) -> Any:
        number = range(len(self))[index]
        if isinstance(number, range):
            return [self[k] for k in number]
        row = int(np.searchsorted(self._ends, number, side="right"))
        return self.trajectories[row], number - (int(self._ends[row - 1]) if row else 0)


def _channel_names(dataset: Any, count: int) -> tuple[str, ...]:
    names = dataset["channel"].values if "channel" in dataset.coords else range(count)
    return tuple(str(name) for name in names)


def _lengths(dataset: Any, trajectories: int, times: int) -> np.ndarray:
    """Frames of each trajectory, (trajectory,) int64. DataError for more than there is room for."""
    if "length" not in dataset.variables:
        return np.full(trajectories, times)
    lengths = np.asarray(dataset["length"].values, dtype=np.int64)
    if lengths.shape != (trajectories,) or lengths.min(initial=0) < 0 or lengths.max(initial=0) > times:
        raise DataError(f"the dataset's `length` is not a number of frames from 0 to {times} for each trajectory")
    return lengths


def _solid(dataset: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Obstacle mask (trajectory, y, x) bool; nothing solid when the dataset names no obstacle."""
    if "solid" not in dataset.variables:
        return np.zeros(shape, dtype=bool)
    return np.asarray(dataset["solid"].values, dtype=bool).reshape(shape)
