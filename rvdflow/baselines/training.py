"""What reference methods are fitted on: the training runs, and validation runs to choose settings and dress with.

Test runs are never read. Frames are (time, channel, y, x) float32 with 0 inside obstacles; they are kept in memory
where they take at most a quarter of what is free, else read again, a block at a time, in every pass.

An *anomaly* is a frame minus the mean of its pixels over the training runs, in standard deviations of its variable,
as a vector of channel x y x x numbers; cells inside an obstacle have none (0).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lbm.errors import DataError
from rvdflow.forecaster import Case, Seen
from rvdflow.frames import Frames, frame_variables, split_trajectories
from rvdflow.portions import run_numbers
from rvdflow.windows import free_memory

BLOCK_BYTES = 32 * 2**20  # frames read at a time


class Segment(NamedTuple):
    """Frames start..stop-1 of a run."""

    run: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


class Training:
    """The training and validation runs of an open dataset.

    `context` and `lead` are those of the forecasts to come: settings are chosen for them. `budget` is how many bytes
    of frames may be kept in memory. `runs` raises `DataError` where there are no training runs.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        context: int = 4,
        lead: int = 16,
        variables: Sequence[str] | None = None,
        budget: int | None = None,
    ):
        self.frames = Frames(dataset, variables or frame_variables(dataset))
        self.context, self.lead = context, lead
        self._dataset, self._budget = dataset, budget
        self._kept: dict[int, np.ndarray] = {}

    @cached_property
    def runs(self) -> list[int]:
        """The training runs."""
        return split_trajectories(self._dataset, "train")

    @cached_property
    def validation(self) -> list[int]:
        """The validation runs; there may be none."""
        names = np.asarray(self._dataset["split"].values if "split" in self._dataset.variables else []).astype(str)
        return [int(k) for k in np.flatnonzero(names == "validation")]

    @cached_property
    def in_memory(self) -> bool:
        nbytes = 4 * int(self.frames.lengths.sum()) * int(np.prod(self.frames.frame_shape))
        return nbytes <= (free_memory() // 4 if self._budget is None else self._budget)

    @property
    def segments(self) -> list[Segment]:
        """All training runs, whole."""
        return self._whole(self.runs)

    def _whole(self, runs: Sequence[int]) -> list[Segment]:
        return [Segment(k, 0, int(self.frames.lengths[k])) for k in runs if self.frames.lengths[k]]

    def parts(self) -> tuple[list[Segment], list[Segment], str]:
        """(what settings are tried on, what they are judged on, in words): validation runs judge where there are any.

        Else the last quarter of the training runs does, or of the frames of the only one.
        """
        if self.validation:
            return self.segments, self._whole(self.validation), "validation runs"
        whole, held = self.segments, -(-len(self.runs) // 4)
        if len(whole) > 1:
            return whole[:-held], whole[-held:], "the last quarter of the training runs"
        run, _, length = whole[0]
        cut = length * 3 // 4
        return [Segment(run, 0, cut)], [Segment(run, cut, length)], "the last quarter of the only training run"

    def read(self, run: int, start: int, stop: int) -> np.ndarray:
        """Frames start..stop-1 of a run (not to be written to): (time, channel, y, x) float32, 0 in obstacles."""
        if not self.in_memory:
            return self._read(run, start, stop)
        if run not in self._kept:
            self._kept[run] = self._read(run, 0, int(self.frames.lengths[run]))
        return self._kept[run][start:stop]

    def _read(self, run: int, start: int, stop: int) -> np.ndarray:
        values = np.where(self.frames.solid[run], np.float32(0), self.frames.read(run, start, stop))
        if not np.isfinite(values).all():
            frame, channel = (int(k[0]) for k in np.nonzero(~np.isfinite(values))[:2])
            raise DataError(
                f"{self.frames.label(channel)} of trajectory {run} is not finite at frame {start + frame}: the "
                "dataset is unfinished or its flow diverged (check it with `lbm info --check`)"
            )
        return values

    @cached_property
    def numbers(self) -> dict[str, np.ndarray]:
        """Numbers of the runs by name, (trajectory,)."""
        return run_numbers(self._dataset)

    def seen(self, cases: Sequence[Case], context: int) -> Seen:
        """What a method is shown of cases of these runs."""
        runs = [k for k, _ in cases]
        frames = np.stack([self.read(k, t - context + 1, t + 1) for k, t in cases])
        return Seen(frames, self.frames.solid[runs], {name: values[runs] for name, values in self.numbers.items()})

    def blocks(self, segments: Sequence[Segment], overlap: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """(run, frames) pieces of segments that fit in memory; a piece begins with the last `overlap` frames before."""
        size = overlap + max(1, BLOCK_BYTES // (4 * int(np.prod(self.frames.frame_shape))))
        for run, first, stop in segments:
            for start in range(first, max(first + 1, stop - overlap), size - overlap):
                yield run, self.read(run, start, min(start + size, stop))

    def frames_in(self, segments: Sequence[Segment]) -> int:
        return sum(s.length for s in segments)

    def describe(self) -> str:
        """For the stamp: what a method was fitted on."""
        return f"train: {len(self.runs)} runs, {self.frames_in(self.segments)} frames"


class Climate:
    """Means and deviations of the training runs: what an anomaly is relative to.

    `mean` and `deviation` (channel, y, x) of each pixel, `scale` (channel,) of each variable over all its pixels.
    """

    def __init__(self, data: Training):
        self.frame_shape = data.frames.frame_shape
        total, count = np.zeros(self.frame_shape), np.zeros(self.frame_shape[1:])
        for run, block in data.blocks(data.segments):
            total += block.sum(0, dtype=np.float64)
            count += len(block) * ~data.frames.solid[run]
        self.count = np.maximum(count, 1)
        self.mean = (total / self.count).astype(np.float32)
        squares = np.zeros(self.frame_shape)
        for run, block in data.blocks(data.segments):
            away = np.where(data.frames.solid[run], np.float32(0), block - self.mean)
            squares += np.einsum("tcyx,tcyx->cyx", away, away, dtype=np.float64)
        self.deviation = np.sqrt(squares / self.count).astype(np.float32)
        self.scale = np.sqrt(squares.sum((1, 2)) / self.count[count > 0].sum()).astype(np.float32)
        for channel, s in enumerate(self.scale):
            if not s > 0:
                raise DataError(
                    f"{data.frames.label(channel)} never changes in the training runs: nothing to fit a reference to"
                )

    def anomalies(self, frames: np.ndarray, solid: np.ndarray) -> np.ndarray:
        """(..., channel, y, x) to (..., channel * y * x) float32; `solid` broadcasts against (..., y, x)."""
        away = (frames - self.mean) / self.scale[:, None, None]
        away = np.where(np.expand_dims(solid, -3), np.float32(0), away)
        return away.reshape(*away.shape[:-3], -1)

    def frames(self, anomalies: np.ndarray) -> np.ndarray:
        """(..., channel * y * x) to (..., channel, y, x) in physical units, float32."""
        fields = anomalies.reshape(*anomalies.shape[:-1], *self.frame_shape)
        return (fields * self.scale[:, None, None] + self.mean).astype(np.float32, copy=False)
