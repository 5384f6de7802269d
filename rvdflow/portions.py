"""Portions of a forecast: what a method is shown, and what it draws, checked and cut into what is written at once."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lbm.errors import DataError, NumericalError
from rvdflow.forecaster import Case, Forecaster, Seen
from rvdflow.frames import Frames
from rvdflow.plan import Plan

TRIAL_SECONDS = 20.0  # that measuring a whole portion may take


def run_numbers(dataset: Any) -> dict[str, np.ndarray]:
    """Numbers of each run, such as its Reynolds number, by name: (trajectory,) float64."""
    found = {str(n): v for n, v in dataset.variables.items() if v.dims == ("trajectory",) and v.dtype.kind in "fi"}
    return {name: np.asarray(variable.values, dtype=np.float64) for name, variable in found.items()}


@dataclass(frozen=True)
class Truth:
    """What forecasts start from: the frames of a dataset, and the numbers of its runs."""

    frames: Frames
    numbers: dict[str, np.ndarray]

    @classmethod
    def of(cls, dataset: Any, frames: Frames) -> Truth:
        return cls(frames, run_numbers(dataset))

    def show(self, cases: Sequence[Case], context: int) -> Shown:
        """What a method is shown of `cases`. Later frames are not touched. DataError when a value is not finite."""
        runs = [k for k, _ in cases]
        stored = np.stack([self.frames.read(k, t - context + 1, t + 1) for k, t in cases])
        solid = self.frames.solid[runs]
        seen = np.where(solid[:, None, None], np.float32(0), stored)
        if not np.isfinite(seen).all():
            case, frame, channel = (int(k[0]) for k in np.nonzero(~np.isfinite(seen))[:3])
            trajectory, init_time = cases[case]
            raise DataError(
                f"{self.frames.label(channel)} of trajectory {trajectory} is not finite at frame "
                f"{init_time - context + 1 + frame}: no forecast can start from it (check with `lbm info --check`)"
            )
        numbers = {name: values[runs] for name, values in self.numbers.items()}
        return Shown(list(cases), Seen(seen, solid, numbers), stored[:, -1])


@dataclass(frozen=True)
class Shown:
    """Some cases, what a method is shown of them, and the `last` frame (case, channel, y, x) as it is stored."""

    cases: list[Case]
    seen: Seen
    last: np.ndarray


def blocks(
    forecaster: Forecaster,
    shown: Shown,
    members: Sequence[int],
    chosen: Plan,
    pause: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, np.ndarray]]:
    """One portion of a forecast: (first lead, (case, member, leads, channel, y, x) float32), in physical units.

    Each block is a chunk of leads. Inside obstacles every lead repeats the last frame seen. `pause` is called between
    what the method yields. NumericalError when a value elsewhere is not finite, TypeError for an array that is none
    of the above.
    """
    solid = shown.seen.solid[:, None, None, None]
    last = shown.last[:, None, None]
    pieces = _rolled(forecaster, shown, members, chosen, pause)
    for first, drawn in _regrouped(pieces, chosen.lead, chosen.leads_per_chunk):
        np.copyto(drawn, last, where=solid)
        finite = np.isfinite(drawn) | solid
        if not finite.all():
            case, member, lead = (int(k[0]) for k in np.nonzero(~finite)[:3])
            trajectory, init_time = shown.cases[case]
            raise NumericalError(
                f"{forecaster.method}: member {members[member]} of trajectory {trajectory}, init time {init_time} is "
                f"not finite at lead {first + lead + 1}: try more --steps, or train longer"
            )
        yield first, drawn


def _rolled(
    forecaster: Forecaster, shown: Shown, members: Sequence[int], chosen: Plan, pause: Callable[[], None]
) -> Iterator[np.ndarray]:
    """What the method yields, in the shape it should have."""
    frame, done = shown.seen.frames.shape[2:], 0
    for piece in forecaster.roll(shown.seen, shown.cases, members, chosen.lead, chosen.seed):
        leads = piece.shape[2] if piece.ndim == 6 else 0
        wanted = (len(shown.cases), len(members), leads, *frame)
        done += leads
        if piece.shape != wanted or piece.dtype != np.float32 or not leads > 0 or done > chosen.lead:
            raise TypeError(
                f"{forecaster.method} drew {piece.dtype} {piece.shape}, wanted float32 (case, member, leads, channel, "
                f"y, x) = ({len(shown.cases)}, {len(members)}, leads, {', '.join(map(str, frame))}), in all "
                f"{chosen.lead} leads"
            )
        yield piece
        pause()
    if done != chosen.lead:
        raise TypeError(f"{forecaster.method} drew {done} leads, wanted {chosen.lead}")


def _regrouped(pieces: Iterator[np.ndarray], lead: int, most: int) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces of any numbers of leads as blocks of `most` leads, with the first lead of each; the last may be less."""
    first = filled = 0
    block: np.ndarray | None = None
    for piece in pieces:
        taken = 0
        while taken < piece.shape[2]:
            if block is None:
                block = np.empty((*piece.shape[:2], min(most, lead - first), *piece.shape[3:]), dtype=np.float32)
            count = min(piece.shape[2] - taken, block.shape[2] - filled)
            block[:, :, filled : filled + count] = piece[:, :, taken : taken + count]
            taken, filled = taken + count, filled + count
            if filled == block.shape[2]:
                yield first, block
                first, filled, block = first + filled, 0, None


# ------------------------------------------------------------------ how long it will take


@dataclass(frozen=True)
class Trial:
    """What drawing a few frames of one portion took: `seconds` for the whole portion, and the peak of memory, bytes."""

    seconds: float
    memory: int
    gpu_memory: int
    on: str


def trial(forecaster: Forecaster, truth: Truth, chosen: Plan) -> Trial:
    """Draw the first frames of one member, then of one portion if that is quick, and scale to a whole portion."""
    group, chunk = chosen.groups()[0], chosen.member_chunks()[0]
    members = len(group) * len(chunk)
    first, later = _timed(forecaster, truth.show(group[:1], chosen.context), chunk[:1], chosen)
    on, scale = "one member", members
    if members == 1 or (first + later) * members < TRIAL_SECONDS:
        first, later = _timed(forecaster, truth.show(group, chosen.context), chunk, chosen)
        on, scale = f"{len(group)} cases x {len(chunk)} members", 1
    return Trial(scale * (first + later * (chosen.lead - 1)), *_peak_memory(), f"the first frames of {on}")


def _timed(forecaster: Forecaster, shown: Shown, members: Sequence[int], chosen: Plan) -> tuple[float, float]:
    """Seconds for the first lead, and for each further one."""
    began, done = time.perf_counter(), 0
    took: list[tuple[float, int]] = []
    for piece in forecaster.roll(shown.seen, shown.cases, members, chosen.lead, chosen.seed):
        done += piece.shape[2]
        took.append((time.perf_counter() - began, done))
        if len(took) == max(3, 2 * forecaster.block):
            break
    if len(took) <= forecaster.block:
        return took[-1][0] / done, took[-1][0] / done
    (start, seen), (end, done) = took[forecaster.block - 1], took[-1]
    later = (end - start) / (done - seen)
    return max(0.0, start - later * (seen - 1)), later


def _peak_memory() -> tuple[int, int]:
    """Most memory this process has held on the host and on its GPU, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return int(peak if sys.platform == "darwin" else peak * 1024), on_gpu
