"""Made-up videos and forecasts of them, in the layout of a converted archive."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

RGB = ("red", "green", "blue")
TRUTH = ("trajectory", "time", "channel", "y", "x")
FORECAST = ("trajectory", "init_time", "member", "lead_time", "channel", "y", "x")


def truth_of(frames: np.ndarray, names: Sequence[str] = RGB, **series: Sequence) -> xr.Dataset:
    """A truth of clips (trajectory, time, channel, y, x); `series` are variables on trajectory, such as length."""
    data = {"frames": (TRUTH, frames)} | {name: ("trajectory", np.asarray(v)) for name, v in series.items()}
    return xr.Dataset(data, coords={"channel": list(names)})


def forecast_of(
    values: np.ndarray, inits: Sequence[int], names: Sequence[str] = RGB, runs: Sequence[int] | None = None
) -> xr.Dataset:
    """A forecast from values (trajectory, init_time, member, lead_time, channel, y, x)."""
    coords = {
        "trajectory": np.arange(len(values)) if runs is None else np.asarray(runs),
        "init_time": list(inits),
        "lead_time": np.arange(1, values.shape[3] + 1),
        "channel": list(names),
    }
    return xr.Dataset({"frames": (FORECAST, values)}, coords=coords)


def clips(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """8-bit clips (..., time, channel, y, x): smooth blobs that move to the right, channels alike but not equal."""
    *outer, time, channel, y, x = shape
    still = rng.standard_normal((*outer, 1, y, x)) + 0.5 * rng.standard_normal((*outer, channel, y, x))
    for axis in (-1, -2):
        for _ in range(3):
            still = still + np.roll(still, 1, axis)
    moved = np.stack([np.roll(still, t, -1) for t in range(time)], axis=-4)
    return np.clip(120 + 3 * moved, 0, 255).astype(np.uint8)


def guesses(rng: np.random.Generator, frames: np.ndarray, inits: Sequence[int], members: int, leads: int) -> np.ndarray:
    """Members (trajectory, init_time, member, lead_time, channel, y, x), the truth with noise of 20 grey levels."""
    valid = np.stack([frames[:, init + 1 : init + 1 + leads] for init in inits], axis=1)[:, :, None]
    noise = 20 * rng.standard_normal((*valid.shape[:2], members, *valid.shape[3:]))
    return np.clip(np.rint(valid + noise), 0, 255).astype(np.uint8)
