"""Normalisation, fitted on the training runs alone and kept in the checkpoint: files hold physical values only.

Cells inside an obstacle are left out of the fit and given to the network as zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from lbm.errors import DataError
from rvdflow.frames import Frames

BLOCK = 64  # frames read at a time when passing over whole trajectories
MOST_FRAMES = 50_000  # of 8-bit video that mean and deviation are taken from


@dataclass(frozen=True)
class Normalisation:
    """normalised = (physical - shift) / scale, one shift and scale per variable, for all of its channels."""

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

    "standard" gives mean 0 and standard deviation 1, "minmax" maps the range to [-1, 1], per variable; the range of
    8-bit values is 0 to 255, whether or not all occur. Of many 8-bit clips `MOST_FRAMES` or so are read, evenly
    spread.
    DataError when a value outside the obstacle is not finite, or a variable never changes.
    """
    variables = len(frames.variables)
    if frames.eight_bit and kind == "minmax":
        return Normalisation(kind, frames.variables, (127.5,) * variables, (127.5,) * variables)
    if frames.eight_bit:
        trajectories = trajectories[:: max(1, int(frames.lengths[list(trajectories)].sum()) // MOST_FRAMES)]
    count, mean, squares = 0, np.zeros(variables), np.zeros(variables)
    low, high = np.full(variables, np.inf), np.full(variables, -np.inf)
    for trajectory in trajectories:
        fluid, length = ~frames.solid[trajectory], int(frames.lengths[trajectory])
        for start in range(0, length, BLOCK):
            block = frames.read(trajectory, start, min(start + BLOCK, length))[:, :, fluid]
            _require_finite(block, frames, trajectory, start)
            values = block.swapaxes(0, 1).reshape(variables, -1).astype(np.float64)
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


def _require_finite(block: np.ndarray, frames: Frames, trajectory: int, start: int) -> None:
    if np.isfinite(block).all():
        return
    frame, channel = (int(k[0]) for k in np.nonzero(~np.isfinite(block))[:2])
    raise DataError(
        f"{frames.label(channel)} of trajectory {trajectory} is not finite at frame {start + frame}: "
        "the dataset is unfinished or its flow diverged (check it with `lbm info --check`)"
    )
