"""Channels of natural video: what is scored channel by channel, as one picture, and in colour.

    frames (..., channel, y, x)  --stacked-->  (..., channel * y, x)   every channel as it is, one below the other
                                 --picture-->  (..., y, x)             one picture: see below
                                 --colours-->  (..., y, x[, 3])        red, green, blue last, or the one picture

The one picture is the luma of ITU-R BT.601, Y = .299 R + .587 G + .114 B, of channels named red, green and blue in any
order; the channel itself where there is one; the mean of the channels where they are named otherwise. Luma of 8-bit
frames is float32 and not rounded: three equal channels have exactly their common value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

LUMA = (299, 587, 114)  # thousandths of red, green, blue
RGB = ("red", "green", "blue")
DIM = "channel"


@dataclass(frozen=True)
class Channels:
    """The channels of a video, by name, in the order of the data."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, frames: xr.DataArray) -> Channels | None:
        """The channels of an array; None where it has no dimension `channel`. Unnamed ones are "0", "1", ..."""
        return cls(tuple(map(str, frames[DIM].values.tolist()))) if DIM in frames.dims else None

    @property
    def rgb(self) -> tuple[int, int, int] | None:
        """Where red, green and blue stand; None unless these three are the channels."""
        if sorted(self.names) != sorted(RGB):
            return None
        red, green, blue = (self.names.index(name) for name in RGB)
        return red, green, blue

    @property
    def title(self) -> str:
        """What `picture` gives, in few words."""
        if len(self.names) == 1:
            return "brightness" if self.names[0] in ("gray", "grey", "0") else self.names[0]
        return "luma" if self.rgb else "mean of the channels"

    @property
    def described(self) -> str:
        """What `picture` gives, with its formula."""
        if len(self.names) == 1:
            return f"the one channel ({self.names[0]})"
        return "luma of Rec. 601 (.299 red + .587 green + .114 blue)" if self.rgb else "the mean of the channels"

    def stacked(self, values: np.ndarray) -> np.ndarray:
        """(..., channel, y, x) as (..., channel * y, x)."""
        return values.reshape(*values.shape[:-3], -1, values.shape[-1])

    def picture(self, values: np.ndarray) -> np.ndarray:
        """One picture (..., y, x) of frames (..., channel, y, x); float32 or float64 where it is computed."""
        if len(self.names) == 1:
            return values[..., 0, :, :]
        kind: Any = np.float32 if values.dtype.itemsize <= 2 or values.dtype == np.float32 else np.float64
        if self.rgb is None:
            return values.mean(-3, dtype=kind)
        red, green, blue = (values[..., k, :, :].astype(kind, copy=False) for k in self.rgb)
        luma: np.ndarray = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue) / sum(LUMA)
        return luma

    def colours(self, values: np.ndarray) -> np.ndarray:
        """Frames (..., y, x, 3) in red, green, blue; (..., y, x) of other channels, their `picture`."""
        if self.rgb is None:
            return self.picture(values)
        ordered = values if self.rgb == (0, 1, 2) else values[..., list(self.rgb), :, :]
        return np.moveaxis(ordered, -3, -1)
