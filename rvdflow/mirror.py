"""Clips reflected across the axis of the flow: as many again, for nothing, where the equations allow it.

A solution of the Navier-Stokes equations reflected at y -> -y is one: density and streamwise velocity keep their sign,
transverse velocity and vorticity change it. Flows whose obstacle and inflow are symmetric have such reflections among
their own futures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rvdflow.frames import Frames
from rvdflow.networks import Batch, Given
from rvdflow.noise import numpy_generator
from rvdflow.normalisation import Normalisation

SIGNS = {"vorticity": -1.0, "velocity_x": 1.0, "velocity_y": -1.0, "density": 1.0}
TURNED = ("spin", "angle")  # numbers of runs that a reflection would change
ALIKE = 0.5  # least part of obstacle and reflection together that both cover: an axis half a cell off is no matter


@dataclass(frozen=True)
class Mirror:
    """Reflects normalised frames: x -> sign x + offset in each channel, 0 inside the reflected obstacles."""

    sign: tuple[float, ...]
    offset: tuple[float, ...]

    @classmethod
    def of(cls, normalisation: Normalisation) -> Mirror:
        """The reflection of normalised frames. KeyError for a variable that is none of a flow."""
        sign = tuple(SIGNS[name] for name in normalisation.variables)
        shifts = zip(sign, normalisation.shift, normalisation.scale, strict=True)
        return cls(sign, tuple((s - 1) * shift / scale for s, shift, scale in shifts))

    def reflect(self, batch: Batch, chosen: np.ndarray) -> Batch:
        """The batch with the clips reflected that are `chosen` (batch,) bool; the others are as they were."""
        sign, offset = (torch.tensor(x, dtype=torch.float32)[:, None, None] for x in (self.sign, self.offset))
        fluid = batch.given.fluid.flip(-2)
        frames = (sign * batch.frames.flip(-2) + offset) * fluid[:, None]
        rows = torch.from_numpy(chosen)
        return Batch(
            torch.where(rows[:, None, None, None, None], frames, batch.frames),
            Given(torch.where(rows[:, None, None, None], fluid, batch.given.fluid), batch.given.conditions),
        )

    def training(self, batch: Batch, *, seed: int, step: int, clips: int, rows: slice) -> Batch:
        """Training step `step`: each of its `clips` reflected with probability 1/2; `batch` holds `rows` of them."""
        return self.reflect(batch, numpy_generator(seed, "mirror", step).random(clips)[rows] < 0.5)


def obstruction(dataset: Any, frames: Frames, runs: Sequence[int]) -> str | None:
    """Why the reflected clips of `runs` would not be of the same flow; None where they would."""
    unknown = [name for name in frames.variables if name not in SIGNS]
    if unknown:
        return f"{unknown[0]} is no variable of a flow"
    for name in TURNED:
        if name in dataset.variables and np.any(np.asarray(dataset[name].values)[list(runs)] != 0):
            return f"runs have a {name}"
    solid = frames.solid[list(runs)]
    both, either = (np.sum(f(solid, solid[:, ::-1]), axis=(1, 2)) for f in (np.logical_and, np.logical_or))
    if np.any(both < ALIKE * either):
        return "obstacles do not lie symmetrically"
    return None
