"""From flow.zarr, or video.zarr, to normalised clips.

A *window* is `length` consecutive frames of one trajectory. Several make a *batch*: frames (batch, time, channel, y,
x), float32, with the obstacle mask and the numbers of the run that each is from. Runs are split, never windows of one
run, so every window belongs to one split.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from lbm.errors import DataError
from rvdflow.conditions import Conditions
from rvdflow.frames import Frames, Places
from rvdflow.networks import Batch
from rvdflow.noise import numpy_generator
from rvdflow.normalisation import Normalisation

READ_AHEAD = 4  # clips prepared in advance when the dataset is read from disk
BLOCK = 64  # frames that are gone through at a time


class Windows:
    """All windows of `length` frames of some trajectories, normalised.

    `numbers` (trajectory, name) of all runs of the dataset are what `conditions` standardises.
    Held in memory when they take at most `budget` bytes (default: a quarter of the free memory), else read when
    asked for; `in_memory` says which.
    """

    def __init__(
        self,
        frames: Frames,
        trajectories: Sequence[int],
        length: int,
        normalisation: Normalisation,
        conditions: Conditions | None = None,
        numbers: np.ndarray | None = None,
        *,
        budget: int | None = None,
    ):
        self.frames, self.trajectories, self.length = frames, tuple(trajectories), length
        self.normalisation, self.conditions = normalisation, conditions or Conditions()
        self.numbers = np.zeros((frames.trajectories, 0)) if numbers is None else numbers
        self.places = Places(frames, self.trajectories, length)
        if not self.places:
            longest = frames.longest(self.trajectories)
            raise DataError(f"a window takes {length} frames, the dataset has {longest} per trajectory")
        pixels = int(frames.lengths[list(self.trajectories)].sum()) * frames.height * frames.width
        self.nbytes = pixels * frames.channels * (1 if frames.eight_bit else 4)
        self.in_memory = self.nbytes <= (free_memory() // 4 if budget is None else budget)
        self._runs: dict[int, np.ndarray] | None = None
        if self.in_memory:
            whole = frames.stored if frames.eight_bit else self._run
            self._runs = {k: whole(k, 0, int(frames.lengths[k])) for k in self.trajectories if frames.lengths[k]}

    def __len__(self) -> int:
        return len(self.places)

    def _run(self, trajectory: int, start: int, stop: int) -> np.ndarray:
        return self._normalised(self.frames.read(trajectory, start, stop), trajectory)

    def _normalised(self, frames: np.ndarray, trajectory: int) -> np.ndarray:
        return self.normalisation.apply(frames, self.frames.solid[trajectory])

    def window(self, index: int) -> np.ndarray:
        """Window number `index`: (time, channel, y, x) float32, normalised."""
        trajectory, start = self.places[int(index)]
        return self.part(trajectory, start, start + self.length)

    def part(self, trajectory: int, start: int, stop: int) -> np.ndarray:
        """Frames start..stop-1 of a run: (time, channel, y, x) float32, normalised; not to be written to."""
        if self._runs is None:
            return self._run(trajectory, start, stop)
        kept = self._runs[trajectory][start:stop]
        return self._normalised(kept, trajectory) if self.frames.eight_bit else kept

    def blocks(self) -> Iterator[np.ndarray]:
        """All frames of these runs once, a block of a run at a time."""
        for trajectory in self.trajectories:
            length = int(self.frames.lengths[trajectory])
            for start in range(0, length, BLOCK):
                yield self.part(trajectory, start, min(start + BLOCK, length))

    def clip(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """Windows as one batch."""
        runs = [self.places[int(index)][0] for index in indices]
        frames = torch.from_numpy(np.stack([self.window(int(index)) for index in indices]))
        return Batch(frames, self.conditions.given(self.frames.solid[runs], self.numbers[runs]))

    def longer(self, length: int) -> Windows:
        """Windows of another length of the same runs, read when asked for: a few are wanted."""
        others = self.normalisation, self.conditions, self.numbers
        return Windows(self.frames, self.trajectories, length, *others, budget=0)

    def spread(self, count: int) -> list[int]:
        """At most `count` windows, spread evenly over all."""
        count = min(count, len(self))
        return [round((k + 0.5) * len(self) / count - 0.5) for k in range(count)]

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


def clips(
    windows: Windows, batch: int, *, seed: int, first: int, last: int | None, rows: slice = slice(None)
) -> Generator[Batch]:
    """Batches of the training steps first..last-1 (None: without end), of which `rows` are this process's.

    They are read ahead by two threads when they come from disk.
    """
    steps = itertools.count(first) if last is None else range(first, last)
    wanted = (draw(len(windows), batch, seed=seed, step=step)[rows] for step in steps)
    if windows.in_memory:
        yield from map(windows.clip, wanted)
        return
    with ThreadPoolExecutor(2) as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for indices in wanted:
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
