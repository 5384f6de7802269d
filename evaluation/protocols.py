"""Published ways of scoring, by name.

`rvd`: the protocol of the residual video diffusion paper. Forecast and truth are quantised once, to grey levels
0 ... 255; 4 frames are seen and the 16 after them (12 for KTH) scored; the CRPS is the classical one, in grey levels,
averaged over everything, and by lead time as 1 / CRPS (its Figure 3) and as a map at lead 10 (its Figure 4). How many
members the paper used is published nowhere: a table of ours says how many it used.

`rvd-kth`, `rvd-bair`, `rvd-cityscapes`: the same on the clips of these datasets, which also say after which frame
(`init_time`) a forecast begins and which leads are scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from evaluation.errors import EvaluationError


@dataclass(frozen=True)
class Protocol:
    """Which cases and leads are scored."""

    leads: int  # 1 ... leads
    init_time: int | None = None  # the last frame seen; None: any, and fewer leads will do
    context: int = 4  # frames seen

    def cases(self, name: str, forecasts: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
        """The forecasts after the init time that this protocol, called `name`, scores.

        Raises EvaluationError, naming what a forecast holds, if one lacks the init time or any of the leads.
        """
        if self.init_time is None:
            return dict(forecasts)
        for method, forecast in forecasts.items():
            inits, leads = (forecast[d].values.tolist() for d in ("init_time", "lead_time"))
            if self.init_time not in inits or not set(range(1, self.leads + 1)) <= set(leads):
                raise EvaluationError(
                    f"protocol {name} scores leads 1 to {self.leads} after init time {self.init_time}; the forecast of "
                    f"{method} has leads {_listed(leads)} after init times {_listed(inits)}: forecast that case "
                    f"(--init-times {self.init_time} --lead {self.leads})"
                )
        return {
            method: f if f.sizes["init_time"] == 1 else f.sel(init_time=[self.init_time])
            for method, f in forecasts.items()
        }

    def kept(self, name: str, leads: list[int]) -> list[int]:
        """Those of the leads that are scored. EvaluationError if there are none."""
        found = [lead for lead in leads if lead <= self.leads]
        if not found:
            raise EvaluationError(f"protocol {name} scores leads up to {self.leads}; the forecasts begin at {leads[0]}")
        return found


PROTOCOLS = {
    "rvd": Protocol(16),
    "rvd-kth": Protocol(12, 15),
    "rvd-bair": Protocol(16, 3),
    "rvd-cityscapes": Protocol(16, 3),
}


def chosen(name: str) -> Protocol:
    """The protocol of that name. EvaluationError if there is none."""
    if name not in PROTOCOLS:
        raise EvaluationError(f"protocol {name!r} is not known; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def _listed(numbers: list[int]) -> str:
    """Up to six numbers, or the first and the last."""
    return ", ".join(map(str, numbers)) if len(numbers) <= 6 else f"{min(numbers)} to {max(numbers)}"


@dataclass(frozen=True)
class GreyLevels:
    """The value range (low, high) that grey levels 0 ... 255 stand for."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise EvaluationError(f"value range {self.low:g} to {self.high:g}: the first must be the smaller")

    def apply(self, values: np.ndarray) -> np.ndarray:
        """uint8, rounded to the nearest level; uint8 is left as it is. What is not finite becomes level 0."""
        if values.dtype == np.uint8:
            return values
        unit = np.nan_to_num((values - np.float32(self.low)) * np.float32(1 / (self.high - self.low)))
        return np.floor(np.clip(unit, 0, 1) * 255 + 0.5).astype(np.uint8)
