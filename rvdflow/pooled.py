"""Several forecasters as one ensemble, each of them drawing its share of the members.

Trainings of one deterministic network from different seeds make a *deep ensemble* (Lakshminarayanan, Pritzel & Blundell
2017, arXiv:1612.01474): as many members as there are trainings, whose differences say how little the data settle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lbm.errors import UsageError
from rvdflow.forecaster import Case, Forecaster, Seen
from rvdflow.frames import Frames


class Pooled(Forecaster):
    """Member m is drawn by part m mod k of `parts`. Deterministic parts have one member each, and no more.

    UsageError for fewer than two parts, parts that forecast different variables, or where only some are deterministic.
    """

    def __init__(self, parts: Sequence[Forecaster], method: str | None = None):
        if len(parts) < 2:
            raise UsageError("an ensemble of forecasters needs two or more of them")
        if len({part.variables for part in parts}) > 1:
            raise UsageError("forecasters of different variables make no ensemble")
        if len({part.deterministic for part in parts}) > 1:
            raise UsageError(
                "deterministic forecasters and ensembles make no ensemble: a member would stand twice in it"
            )
        self.parts, self.variables = tuple(parts), parts[0].variables
        self.needs = max(part.needs for part in parts)
        self.method = method or f"{parts[0].method}-ensemble"

    def size(self, members: int) -> int:
        return min(members, len(self.parts)) if self.parts[0].deterministic else members

    def roll(
        self, seen: Seen, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int
    ) -> Iterator[np.ndarray]:
        count = len(self.parts)
        shares = [[m for m in members if m % count == k] for k in range(count)]
        drawing = [
            _singly(part.roll(seen, cases, share, lead, seed))
            for part, share in zip(self.parts, shares, strict=True)
            if share
        ]
        order = np.argsort([m for share in shares for m in share])
        places = np.argsort(np.argsort(members))
        for frames in zip(*drawing, strict=True):
            yield np.concatenate(frames, axis=1)[:, order][:, places]

    def check(self, dataset: Any, frames: Frames) -> None:
        for part in self.parts:
            part.check(dataset, frames)

    def stamp(self) -> dict[str, Any]:
        """What the first part says, and of which checkpoints the ensemble is."""
        stamps = [part.stamp() for part in self.parts]
        several: dict[str, Any] = {
            key: ", ".join(str(stamp[key]) for stamp in stamps if key in stamp)
            for key in ("checkpoint", "checkpoint_sha256")
            if key in stamps[0]
        }
        if "parameters" in stamps[0]:
            several["parameters"] = sum(int(stamp["parameters"]) for stamp in stamps)
        return {**stamps[0], **several, "parts": len(self.parts)}


def _singly(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Blocks (case, member, leads, ...) one lead at a time: parts may yield different numbers of leads."""
    for block in blocks:
        for k in range(block.shape[2]):
            yield block[:, :, k : k + 1]
