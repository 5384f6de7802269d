"""What a verification must know before its pass: the climate of the truth, from its training runs alone.

Anomalies need a mean, events a threshold, histograms a range, mode coefficients their modes. Were these taken from
the cases that are verified, a change of the test set would change the question. Frames are read one run at a time, and
only so many that they fit into `BYTES`; of archives of many clips some are taken, evenly spread (`clips_taken`). Of
frames in colour it is the climate of one picture, see `evaluation.colour`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from evaluation.alignment import lengths, lighter
from evaluation.colour import DIM, Channels
from evaluation.errors import EvaluationError
from evaluation.protocols import GreyLevels

FRAMES, BYTES = 512, 2**26  # at most, of the training runs
MOST_BYTES = 2**29  # of one frame from each run, at 8 bytes a cell: with more, some runs are left out
MODES = 20
BINS = 64
QUANTILES = (0.8, 0.95)  # of the magnitude: the default thresholds of events
PROBE_DISTANCES = (1.5, 3.0, 5.0)  # diameters behind the obstacle


@dataclass(frozen=True)
class Background:
    """Climate of a variable (y, x), and the choices that follow from it."""

    climatology: np.ndarray  # (y, x), mean of the frames
    pod: object | None  # evaluation.pod.Pod of the fluid cells; None where there are too few frames
    thresholds: tuple[float, ...]
    absolute: bool  # thresholds are of the magnitude, for a variable of both signs
    deviation: float  # standard deviation of all values
    lowest: float  # nearly the smallest value
    data_range: float  # from there to nearly the largest value
    edges: np.ndarray  # of the bins of the histogram; what lies outside counts in the first and last bin
    probes: tuple[tuple[int, int], ...]  # (y, x) of the places whose time series are looked at
    value_range: tuple[float, float]  # of the values before they were made grey levels
    grey: GreyLevels | None
    frames: int
    runs: str  # "train", or which runs else
    sampled: str = ""  # which of them, where not all were read


def background(
    truth: xr.Dataset,
    frames: xr.DataArray,
    *,
    thresholds: Sequence[float] | None = None,
    probes: Sequence[tuple[int, int]] | None = None,
    mask_walls: bool = True,
    value_range: tuple[float, float] | None = None,
    grey: bool = False,
) -> Background:
    """The background of `frames` (trajectory, time, [channel,] y, x) of `truth`, from its runs of split "train" (else
    all); of clips of unequal length (`alignment.lengths`) only from frames that exist.

    thresholds: of events, in the unit of the variable; default: quantiles .8 and .95 of its magnitude.
    value_range: what black and white stand for; default: smallest and largest value (8-bit: 0 and 255).
    grey: everything is in grey levels of that range.
    probes: (y, x) cells; default: 1.5, 3 and 5 diameters behind the obstacle, half a diameter off its axis.
    """
    channels = Channels.of(frames)
    frames = frames.transpose("trajectory", "time", *([DIM] if channels else []), "y", "x")
    shape = frames.shape[-2:]
    walls = _walls(truth, frames, mask_walls)
    runs, which = _training(truth, frames.sizes["trajectory"])
    frame_counts = lengths(truth)
    if frame_counts is None:
        frame_counts = np.full(frames.sizes["trajectory"], frames.sizes["time"])
    runs = [k for k in runs if frame_counts[k] > 0]
    if not runs:
        raise EvaluationError("no clip of the truth to take the climatology from has a frame (length 0)")
    taken = clips_taken(runs, shape)
    if channels is not None and frames.chunks is not None:
        frames, frame_counts = lighter(frames.isel(trajectory=taken)), frame_counts[taken]
        taken = list(range(len(taken)))
    sample, extremes = _sample(frames, taken, frame_counts, channels)
    sample[:, walls.any(0)] = 0
    fluid = np.asarray(~walls.any(0))
    if not fluid.any():
        raise EvaluationError("no cell is fluid in every run: nothing to verify")
    if not np.isfinite(sample).all():
        raise EvaluationError(
            "the training runs of the truth hold values that are not finite in fluid cells: where that is land or a "
            "wall, mark it by a variable `solid` (y, x) of the truth, which is True there"
        )
    if value_range is None:
        value_range = (
            (0.0, 255.0) if frames.dtype == np.uint8 else extremes or (float(sample.min()), float(sample.max()))
        )
    levels = GreyLevels(*value_range) if grey else None
    if levels is not None and frames.dtype != np.uint8:
        sample = levels.apply(sample).astype(np.float32)
        sample[:, ~fluid] = 0
    values = sample[:, fluid]
    absolute = bool(values.min() < 0 < values.max())
    low, high = (float(q) for q in np.quantile(values, (0.001, 0.999)))
    if thresholds is None:
        magnitude = np.abs(values) if absolute else values
        thresholds = sorted({float(f"{q:.2g}") for q in np.quantile(magnitude, QUANTILES)})
    spare = 0.25 * (high - low) or 1.0
    edges = np.linspace(low - spare, high + spare, BINS + 1)
    eight_bit = grey or (channels is not None and frames.dtype == np.uint8)
    if channels is not None and eight_bit:  # the same number of grey levels in each bin
        edges = np.linspace(-0.5, 255.5, BINS + 1)
    return Background(
        climatology=sample.mean(0, dtype=np.float64),
        pod=_pod(sample, fluid),
        thresholds=tuple(float(t) for t in thresholds),
        absolute=absolute,
        deviation=float(values.std(dtype=np.float64)) or 1.0,
        lowest=0.0 if eight_bit else low,
        data_range=255.0 if eight_bit else (high - low) or 1.0,
        edges=edges,
        probes=tuple(probes) if probes is not None else _behind(walls, shape),
        value_range=value_range,
        grey=levels,
        frames=len(sample),
        runs=which,
        sampled=f"{len(taken)} of {len(runs)} clips, evenly spread" if len(taken) < len(runs) else "",
    )


def _walls(truth: xr.Dataset, frames: xr.DataArray, mask_walls: bool) -> np.ndarray:
    """(trajectory or 1, y, x) bool."""
    if not mask_walls or "solid" not in truth:
        return np.zeros((1, *frames.shape[-2:]), bool)
    solid = truth["solid"]
    solid = solid if "trajectory" in solid.dims else solid.expand_dims("trajectory")
    return solid.transpose("trajectory", "y", "x").values.astype(bool)


def _training(truth: xr.Dataset, runs: int) -> tuple[list[int], str]:
    if "split" in truth:
        train = np.flatnonzero(truth["split"].values.astype(object) == "train")
        if len(train):
            return [int(k) for k in train], "train"
    return list(range(runs)), "all runs: the truth names no training runs"


def clips_taken(runs: Sequence[int], shape: tuple[int, ...]) -> list[int]:
    """All of the runs, or so many of them, evenly spread, that a frame (y, x) of each fits into `MOST_BYTES`.

    At most `FRAMES`. No chance is in it: the same truth has the same background.
    """
    most = max(1, min(FRAMES, MOST_BYTES // (8 * shape[0] * shape[1])))
    if len(runs) <= most:
        return list(runs)
    return [runs[(k * len(runs) + len(runs) // 2) // most] for k in range(most)]


def _sample(
    frames: xr.DataArray, runs: Sequence[int], frame_counts: np.ndarray, channels: Channels | None
) -> tuple[np.ndarray, tuple[float, float] | None]:
    """(sample, y, x), and of a video in floats the smallest and largest value of any channel.

    Evenly spread over the frames of each run, so that few chunks are read.
    """
    wanted = max(1, min(FRAMES, BYTES // (8 * frames.shape[-2] * frames.shape[-1])) // len(runs))
    kind = np.float32 if frames.dtype.itemsize <= 4 else np.float64
    parts, extremes = [], []
    for k in runs:
        times = int(frame_counts[k])
        step = max(1, times // wanted)
        part = frames.isel(trajectory=k, time=slice(step // 2, times, step))[:wanted].values
        if channels is not None:
            extremes += [float(part.min()), float(part.max())]
            part = channels.picture(part)
        parts.append(part)
    sample = np.concatenate(parts).astype(kind)
    there = np.isfinite(sample).any((1, 2))  # frames that an unfinished run has not reached are missing
    known = [v for v in extremes if np.isfinite(v)]
    return sample[there], (min(known), max(known)) if known else None


def _pod(sample: np.ndarray, fluid: np.ndarray) -> object | None:
    if len(sample) < 4 or fluid.sum() < 4:
        return None
    from evaluation.pod import Pod

    return Pod.fit(sample, fluid, modes=min(MODES, len(sample) - 2, int(fluid.sum()) - 1))


def _behind(walls: np.ndarray, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Places in the wake of a single obstacle; along the middle where there is none (or several)."""
    height, width = shape
    solid = walls[0] & (walls == walls[0]).all()
    solid[[0, -1]] = False  # walls of a channel
    found = [(height // 2, width * k // 4) for k in (1, 2, 3)]
    if solid.any():
        y, x = np.nonzero(solid)
        size = int(np.ptp(y)) + 1
        if solid.sum() > 0.5 * size * (np.ptp(x) + 1):  # one body
            row = round(float(y.mean()) + size / 2)
            found = [(row, round(float(x.mean()) + k * size)) for k in PROBE_DISTANCES]
    inside = [p for p in found if 0 <= p[0] < height and 0 <= p[1] < width and not walls[:, p[0], p[1]].any()]
    return tuple(dict.fromkeys(inside))
