"""Do the members of a forecast of moving glyphs go all the ways that the glyph may go?

After a bounce with K possible directions there are K futures, and where each glyph is in each of them is known
(`glyphs.all_futures`). At the last frame before the next bounce a member is counted for the future whose picture is
nearest to it, if that is nearer than half of what the nearest two futures are apart; else it is undecided: a blur, or
something that cannot be. For an ensemble drawn from the truth every future has its probability, and of K equally likely
ones K (1 - (1 - 1/K)^M) are met by M members.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rvdflow.video.glyphs import Glyphs, all_futures, render
from rvdflow.video.motion import Trajectory

APART = 3  # frames between the bounce and the picture that is judged


@dataclass(frozen=True, eq=False)
class Ways:
    """The futures of one case: `frames` (future, lead, y, x, channel) uint8, of which the last lead is judged."""

    frames: np.ndarray
    probabilities: tuple[float, ...]
    bounce: float  # time of the bounce, in frames after the last one seen

    @property
    def lead(self) -> int:
        """The lead time that is judged, from 1."""
        return self.frames.shape[1]

    def taken(self, members: np.ndarray) -> np.ndarray:
        """Which future each of members (member, lead, y, x, channel) shows at that lead; -1: undecided."""
        pictures = self.frames[:, -1].astype(float).reshape(len(self.frames), -1)
        drawn = members[:, self.lead - 1].astype(float).reshape(len(members), -1)
        between = _distance(pictures, pictures)
        limit = 0.5 * between[~np.eye(len(pictures), dtype=bool)].min()
        distance = _distance(drawn, pictures)
        return np.where(distance.min(1) < limit, distance.argmin(1), -1)


def ways(settings: Glyphs, path: Trajectory, init: int, frames: int) -> Ways | None:
    """The futures of a clip after frame `init` that differ in one bounce; None where none comes in time.

    The bounce must come within `frames` and leave `APART` frames before any future meets the next wall. For clips of
    one glyph with a number of modes; UsageError for others.
    """
    futures = all_futures(settings, path.at(init), frames, bounces=1)
    if len(futures) < 2:
        return None
    lead = min(len(future.trajectory) for future in futures)
    bounce = futures[0].trajectory.bounces[0].time
    if lead - math.ceil(bounce) < APART:
        return None
    pictures = np.stack([render(settings, future.trajectory)[:lead] for future in futures])
    return Ways(pictures, tuple(future.probability for future in futures), bounce)


def expected_ways(probabilities: tuple[float, ...], members: int) -> float:
    """Futures that `members` draws from the truth meet, on average."""
    return sum(1 - (1 - p) ** members for p in probabilities)


def _distance(these: np.ndarray, those: np.ndarray) -> np.ndarray:
    """Root mean square differences (these, those) of pictures (row, number)."""
    return np.sqrt(np.mean((these[:, None] - those[None]) ** 2, axis=2))
