"""From flow.zarr to normalised clips.

A *frame* is (channel, y, x), one channel per variable; a *window* is `length` consecutive frames of one trajectory;
a batch of windows is a *clip* tensor (batch, time, channel, y, x), float32. Runs are split, never windows of one
run, so every window belongs to exactly one split. The normalisation is fitted on the training runs alone and
travels in the checkpoint. Cells inside an obstacle are left out of the fit and given to the network as zero.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lbm.errors import DataError, UsageError
from rvdflow.noise import numpy_generator

BLOCK = 64  # frames read at a time when passing over whole trajectories
READ_AHEAD = 4  # clips prepared in advance when the dataset is read from disk
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


@dataclass(frozen=True)
class Normalisation:
    """normalised = (physical - shift) / scale, one shift and scale per variable."""

    kind: str
    variables: tuple[str, ...]
    shift: tuple[float, ...]
    scale: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Normalisation:
        try:
            shift, scale = (tuple(float(v) for v in values[name]) for name in ("shift", "scale"))
            variables = tuple(str(v) for v in values["variables"])
            usable = all(np.isfinite(shift)) and all(np.isfinite(scale)) and min(scale) > 0
            if not usable or not len(shift) == len(scale) == len(variables):
                raise ValueError("numbers out of range")
            return cls(str(values["kind"]), variables, shift, scale)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"normalisation not understood ({error}): {str(values)[:200]}") from error

    def apply(self, frames: np.ndarray, solid: np.ndarray | None = None) -> np.ndarray:
        """Normalised frames (..., channel, y, x) float32; cells of `solid` (broadcast against y, x) become 0."""
        values = (frames - _column(self.shift)) / _column(self.scale)
        return values if solid is None else np.where(solid, np.float32(0), values)

    def invert(self, frames: np.ndarray) -> np.ndarray:
        """Physical values of normalised frames (..., channel, y, x)."""
        return frames * _column(self.scale) + _column(self.shift)


def _column(values: Sequence[float]) -> np.ndarray:
    """One number per channel, shaped to multiply frames (..., channel, y, x)."""
    return np.asarray(values, dtype=np.float32)[:, None, None]


def fit_normalisation(
    frames: Frames, trajectories: Sequence[int], kind: Literal["standard", "minmax"] = "standard"
) -> Normalisation:
    """Fit on `trajectories` only, reading a block at a time.

    "standard" gives mean 0 and standard deviation 1, "minmax" maps the range to [-1, 1], per variable.
    DataError when a value outside the obstacle is not finite, or a variable never changes.
    """
    count, mean, squares = 0, np.zeros(frames.channels), np.zeros(frames.channels)
    low, high = np.full(frames.channels, np.inf), np.full(frames.channels, -np.inf)
    for trajectory in trajectories:
        fluid = ~frames.solid[trajectory]
        for start in range(0, frames.times, BLOCK):
            block = frames.read(trajectory, start, min(start + BLOCK, frames.times))[:, :, fluid]
            _require_finite(block, frames.variables, trajectory, start)
            values = block.swapaxes(0, 1).reshape(frames.channels, -1).astype(np.float64)
            # Chan et al. (1983): means and sums of squares of two sets combine without cancellation.
            n, part = values.shape[1], values.mean(1)
            squares += values.var(1) * n + (part - mean) ** 2 * (count * n / (count + n))
            mean += (part - mean) * (n / (count + n))
            count += n
            low, high = np.minimum(low, values.min(1)), np.maximum(high, values.max(1))
    if kind == "standard":
        shift, scale = mean, np.sqrt(squares / count)
    else:
        shift, scale = (low + high) / 2, (high - low) / 2
    for name, s in zip(frames.variables, scale, strict=True):
        if not s > 0:
            raise DataError(f"{name} has the same value everywhere in the training runs: nothing to learn from it")
    return Normalisation(kind, frames.variables, tuple(map(float, shift)), tuple(map(float, scale)))


def _require_finite(block: np.ndarray, variables: Sequence[str], trajectory: int, start: int) -> None:
    if np.isfinite(block).all():
        return
    frame, channel = (int(k[0]) for k in np.nonzero(~np.isfinite(block))[:2])
    raise DataError(
        f"{variables[channel]} of trajectory {trajectory} is not finite at frame {start + frame}: "
        "the dataset is unfinished or its flow diverged (check it with `lbm info --check`)"
    )


class Windows:
    """All windows of `length` frames of some trajectories, normalised.

    Held in memory when they take at most `budget` bytes (default: a quarter of the free memory), else read when
    asked for; `in_memory` says which.
    """

    def __init__(
        self,
        frames: Frames,
        trajectories: Sequence[int],
        length: int,
        normalisation: Normalisation,
        *,
        budget: int | None = None,
    ):
        self.frames, self.trajectories, self.length = frames, tuple(trajectories), length
        self.normalisation = normalisation
        self.starts = frames.times - length + 1
        if self.starts < 1:
            raise DataError(f"a window takes {length} frames, the dataset has {frames.times} per trajectory")
        per_run = frames.times * frames.channels * frames.height * frames.width * 4
        self.nbytes = per_run * len(self.trajectories)
        self.in_memory = self.nbytes <= (free_memory() // 4 if budget is None else budget)
        self._runs = [self._run(k, 0, frames.times) for k in self.trajectories] if self.in_memory else None

    def __len__(self) -> int:
        return self.starts * len(self.trajectories)

    def _run(self, trajectory: int, start: int, stop: int) -> np.ndarray:
        read = self.frames.read(trajectory, start, stop)
        return self.normalisation.apply(read, self.frames.solid[trajectory])

    def window(self, index: int) -> np.ndarray:
        """Window number `index`: (time, channel, y, x) float32, normalised."""
        run, start = divmod(int(index), self.starts)
        if self._runs is not None:
            return self._runs[run][start : start + self.length]
        return self._run(self.trajectories[run], start, start + self.length)

    def clip(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Windows as one tensor (batch, time, channel, y, x)."""
        return torch.from_numpy(np.stack([self.window(int(index)) for index in indices]))

    def describe(self) -> str:
        """One line for the log: how many windows, and where they are kept."""
        where = "in memory" if self.in_memory else "read from disk as needed"
        return f"{len(self)} windows of {self.length} frames, {self.nbytes / 2**20:.0f} MiB, {where}"


def draw(count: int, batch: int, *, seed: int, step: int) -> np.ndarray:
    """Windows of training step `step` (counted from 0): a pure function of its arguments.

    All `count` windows are gone through in a fresh random order each epoch; a batch may straddle two epochs.
    """
    indices = np.empty(batch, dtype=np.int64)
    places = np.arange(step * batch, (step + 1) * batch)
    epochs, offsets = np.divmod(places, count)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _epoch_order(count, seed, int(epoch))[offsets[here]]
    return indices


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    return numpy_generator(seed, "epoch", epoch).permutation(count)


def clips(windows: Windows, batch: int, *, seed: int, first: int, last: int) -> Iterator[torch.Tensor]:
    """Clips of the training steps first..last-1, read ahead by two threads when they come from disk."""
    if windows.in_memory:
        for step in range(first, last):
            yield windows.clip(draw(len(windows), batch, seed=seed, step=step))
        return
    with ThreadPoolExecutor(2) as pool:
        waiting: deque[Future[torch.Tensor]] = deque()
        try:
            for step in range(first, last):
                indices = draw(len(windows), batch, seed=seed, step=step)
                waiting.append(pool.submit(windows.clip, indices))
                if len(waiting) > READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def free_memory() -> int:
    """Bytes this process may still take: the machine's available memory, or what its control group leaves."""
    limits = []
    try:
        with open("/proc/meminfo") as lines:
            limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    except OSError:  # not Linux: count the free pages
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        limits += [] if limit == "max" else [int(limit) - int((group / "memory.current").read_text())]
    except (OSError, ValueError):
        pass
    return max(0, min(limits, default=2**30))
