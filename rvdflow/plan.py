"""Which cases a forecast consists of, and in which portions they are drawn.

The cases are a rectangle, trajectories x init times. They are gone through in groups of a few cases and, within a
group, in chunks of members; one portion (a chunk of members of a group of cases) is drawn at a time, lead after lead,
and written in chunks of leads. Only that many leads of a portion are in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lbm.errors import UsageError
from rvdflow.forecaster import Case
from rvdflow.frames import Frames, split_trajectories

DRAW = 32  # members drawn in one call, over all its cases, unless told otherwise
LEADS = 48  # most leads in a chunk of a store, unless told otherwise
CHUNK_BYTES = 64 * 2**20  # largest chunk of a store, unless told otherwise


@dataclass(frozen=True)
class Plan:
    """Which cases are forecast, how, and in which portions."""

    trajectories: tuple[int, ...]
    init_times: tuple[int, ...]
    members: int
    lead: int
    context: int
    seed: int
    cases_per_batch: int
    members_per_batch: int
    leads_per_chunk: int

    @property
    def cases(self) -> list[Case]:
        return [(k, t) for k in self.trajectories for t in self.init_times]

    def groups(self) -> list[list[Case]]:
        """Cases that are drawn together."""
        cases = self.cases
        return [cases[i : i + self.cases_per_batch] for i in range(0, len(cases), self.cases_per_batch)]

    def member_chunks(self) -> list[range]:
        """Members that are drawn together, and lie in one chunk of the store."""
        return [
            range(first, min(first + self.members_per_batch, self.members))
            for first in range(0, self.members, self.members_per_batch)
        ]

    @property
    def lead_chunks(self) -> int:
        return -(-self.lead // self.leads_per_chunk)

    def nbytes(self, frames: Frames) -> int:
        """Size of the whole forecast, uncompressed."""
        return len(self.trajectories) * len(self.init_times) * self.members * self.lead * frame_bytes(frames)

    def block_bytes(self, frames: Frames) -> int:
        """Size of what is written at once: some leads of a portion."""
        return self.cases_per_batch * self.members_per_batch * self.leads_per_chunk * frame_bytes(frames)


def frame_bytes(frames: Frames) -> int:
    """Bytes of a frame that is drawn; 8-bit ones take a quarter in a store."""
    return 4 * frames.channels * frames.height * frames.width


def plan(
    dataset: Any,
    frames: Frames,
    *,
    members: int,
    lead: int,
    context: int,
    split: str | None = "test",
    stride: int | None = None,
    init_times: Sequence[int] | None = None,
    cases: int | None = None,
    beyond: bool = False,
    seed: int = 0,
    cases_per_batch: int | None = None,
    members_per_batch: int | None = None,
    leads_per_chunk: int | None = None,
    processes: int = 1,
) -> Plan:
    """Choose the cases: all trajectories of `split` (None: of the dataset) at common init times.

    Init times are `init_times`, else every `stride` frames (default `lead`, so that targets do not overlap) wherever
    `context` frames lie before and `lead` frames after (`beyond`: or fewer, so that a forecast may go on where the
    data end, and cannot be verified there). Trajectories too short for that are left out; the shortest of the others
    says which init times there are. `cases` bounds trajectories x init times; both are then thinned evenly.
    Portions are chosen so that each of `processes` has one, where none are given. UsageError when a number is out of
    range or no case is left.
    """
    given = {
        "members": members, "lead": lead, "context": context, "stride": stride, "cases": cases,
        "cases per batch": cases_per_batch, "members per batch": members_per_batch, "leads per chunk": leads_per_chunk,
    }  # fmt: skip
    for name, value in given.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}: at least 1")
    if seed < 0:
        raise UsageError(f"seed is {seed}: at least 0")
    runs = split_trajectories(dataset, split) if split is not None else list(range(frames.trajectories))
    longest, after = frames.longest(runs), 0 if beyond else lead
    first, last = context - 1, longest - 1 - after
    if last < first:
        raise UsageError(
            f"context {context} needs more than the {longest} frames of a run"
            if beyond
            else f"context {context} and lead {lead} need {context + lead} frames, a run has {longest} "
            "(--beyond forecasts past the end of the truth)"
        )
    if init_times is None:
        runs = [k for k in runs if frames.lengths[k] >= context + after]
        times = list(range(first, int(frames.lengths[runs].min()) - after, stride or lead))
    else:
        times = sorted(set(init_times))
        wrong = [str(t) for t in times if not first <= t <= last] if times else ["none"]
        if wrong:
            raise UsageError(f"init time {wrong[0]}: with context {context} and lead {lead} use {first}..{last}")
        runs = [k for k in runs if frames.lengths[k] > times[-1] + after]
    if cases is not None and cases < len(runs) * len(times):
        runs = _evenly(runs, min(len(runs), cases))
        times = _evenly(times, cases // len(runs))
    count, octets = len(runs) * len(times), frame_bytes(frames)
    leads = lead if lead <= LEADS else max(1, min(LEADS, CHUNK_BYTES // (min(members, DRAW) * octets)))
    leads = min(lead, leads_per_chunk or leads)
    together = members_per_batch or max(1, min(DRAW, CHUNK_BYTES // (leads * octets), members * count // processes))
    together = min(members, together)
    return Plan(
        trajectories=tuple(runs),
        init_times=tuple(times),
        members=members,
        lead=lead,
        context=context,
        seed=seed,
        cases_per_batch=cases_per_batch or max(1, min(DRAW // together, count // processes)),
        members_per_batch=together,
        leads_per_chunk=leads,
    )


def published_cases(protocol: str) -> dict[str, Any]:
    """`context`, `lead` and `init_times` of a published protocol. UsageError when it does not say them."""
    from evaluation.protocols import PROTOCOLS

    known = {name: each for name, each in PROTOCOLS.items() if each.init_time is not None}
    if protocol not in known:
        raise UsageError(f"protocol {protocol!r} names no cases: use {', '.join(known)}")
    found = known[protocol]
    return {"context": found.context, "lead": found.leads, "init_times": [found.init_time]}


def too_short(dataset: Any, frames: Frames, chosen: Plan, split: str | None, beyond: bool) -> str:
    """How many trajectories of `split` a plan leaves out because they end too early, in words; "" if none."""
    runs = split_trajectories(dataset, split) if split is not None else range(frames.trajectories)
    needed = chosen.init_times[-1] + 1 + (0 if beyond else chosen.lead)
    short = sum(int(frames.lengths[k] < needed) for k in runs)
    return f"left out: {short} of {len(runs)} clips with fewer than {needed} frames" if short else ""


def _evenly(values: list[int], count: int) -> list[int]:
    """`count` of `values`, first and last included, evenly spread."""
    if count >= len(values):
        return values
    return [values[round(k * (len(values) - 1) / max(1, count - 1))] for k in range(count)]
