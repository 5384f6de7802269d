"""The interface every forecasting method has.

A *case* is (trajectory, init_time): the forecast starts from the frames up to and including init_time and says
frames init_time + 1 ... init_time + lead. What a method is shown of some cases is a `Seen`; it draws their members
lead after lead,

    roll(seen, cases, members, lead, seed) -> blocks (case, member, leads, channel, y, x), in order of lead time

in physical units. A member of a case is the same whatever else is drawn in the same call (beyond rounding), and a
method that yields as it steps needs no more memory for a thousand leads than for ten.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lbm.errors import UsageError
from rvdflow.frames import Frames, frame_variables

if TYPE_CHECKING:
    from rvdflow.baselines.training import Training

Case = tuple[int, int]
BLOCK = 16  # leads that a method yields at a time where it could yield any number


@dataclass(frozen=True, eq=False)
class Seen:
    """What a method is shown of some cases, and all it is shown.

    `frames` (case, time, channel, y, x) float32 are physical values up to init_time, the last one being init_time
    itself, with 0 inside obstacles; `solid` (case, y, x) is True there. `numbers` holds the numbers of the runs, such
    as the Reynolds number, by name: (case,) float64.
    """

    frames: np.ndarray
    solid: np.ndarray
    numbers: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, frames: np.ndarray, solid: np.ndarray | None = None, **numbers: np.ndarray) -> Seen:
        """Frames alone, or with an obstacle mask (y, x) or (case, y, x), and numbers."""
        mask = np.zeros(frames.shape[-2:], bool) if solid is None else solid
        return cls(frames, np.broadcast_to(mask, (len(frames), *frames.shape[-2:])), numbers)

    @property
    def context(self) -> int:
        return self.frames.shape[1]


class Forecaster(ABC):
    """A forecasting method: define `method` and `roll`, and `fit` where there is something to learn.

    `variables` are the channels it forecasts, None meaning whatever the data has; `needs` the fewest frames of
    context it can start from. A `deterministic` method is asked for one member.
    """

    method: str
    deterministic: bool = False
    needs: int = 1
    block: int = 1  # leads that are computed at one go
    variables: tuple[str, ...] | None = None

    @classmethod
    def fit(cls, data: Training) -> Self:
        """The method fitted on the training runs of a dataset. DataError when they do not suffice."""
        return cls()

    def size(self, members: int) -> int:
        """The members that an ensemble has of which `members` are asked for."""
        return 1 if self.deterministic else members

    @abstractmethod
    def roll(
        self, seen: Seen, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int
    ) -> Iterator[np.ndarray]:
        """Members of cases: blocks (case, member, leads, channel, y, x) float32 that together have `lead` leads."""

    def draw(self, seen: Seen, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int) -> np.ndarray:
        """All leads at once: (case, member, lead_time, channel, y, x) float32."""
        return np.concatenate(list(self.roll(seen, cases, members, lead, seed)), axis=2)

    def check(self, dataset: Any, frames: Frames) -> None:  # noqa: B027  (most methods take any data)
        """Raise DataError when this method cannot forecast `dataset`."""

    def stamp(self) -> dict[str, Any]:
        """What a report must say about this method: attributes for the forecast's file."""
        return {}

    def forecast(
        self,
        dataset: Any,
        *,
        members: int = 16,
        lead: int = 16,
        context: int = 4,
        split: str | None = "test",
        stride: int | None = None,
        init_times: Sequence[int] | None = None,
        cases: int | None = None,
        beyond: bool = False,
        seed: int = 0,
    ) -> Any:
        """Forecast an open flow dataset in memory; returns an xarray.Dataset laid out like forecast.zarr.

        Dims (trajectory, init_time, member, lead_time, [channel,] y, x). `stride` frames lie between init times
        (default: `lead`), `init_times` names them instead, `cases` is the most cases to forecast, spread evenly;
        `beyond` lets forecasts go on where the data end. For what does not fit into memory use
        `rvdflow.forecast.forecast`, which writes a store.
        """
        from rvdflow.forecast import forecast_in_memory
        from rvdflow.plan import plan

        frames = Frames(dataset, self.variables or frame_variables(dataset))
        chosen = plan(
            dataset, frames, members=self.size(members), lead=lead, context=context, split=split,
            stride=stride, init_times=init_times, cases=cases, beyond=beyond, seed=seed,
        )  # fmt: skip
        return forecast_in_memory(self, dataset, frames, chosen)


def spans(lead: int, most: int = BLOCK) -> Iterator[tuple[int, int]]:
    """(first, stop) of pieces of `lead` leads, at most `most` each."""
    return ((first, min(first + most, lead)) for first in range(0, lead, most))


def require_context(method: str, needs: int, context: int) -> None:
    """Raise UsageError when a method is given fewer frames than it needs."""
    if context < needs:
        raise UsageError(f"{method} needs {needs} frames of context, got {context}: use --context {needs} or more")
