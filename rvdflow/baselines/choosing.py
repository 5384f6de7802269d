"""Settings of the reference methods are chosen, not guessed: by forecasts of frames that the trial was not fitted on.

Judged is the energy score of the ensemble in the coefficients of the modes, averaged over leads,

    ES = E |X - y| - 1/2 E |X - X'|       (Gneiting and Raftery 2007, doi:10.1198/016214506000001437)

in its fair form, which is proper: it favours neither too little nor too much spread. With one member it is |x - y|.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rvdflow.baselines.training import Segment

CASES = 32  # forecasts that judge a candidate


def judged_cases(segments: Sequence[Segment], context: int, lead: int) -> list[tuple[int, int]]:
    """(segment, frame within it that the forecast starts from), evenly spread over all that have room for both."""
    places = [(i, t) for i, s in enumerate(segments) for t in range(context - 1, s.length - lead)]
    if len(places) <= CASES:
        return places
    return [places[round(k)] for k in np.linspace(0, len(places) - 1, CASES)]


def horizon(segments: Sequence[Segment], context: int, lead: int) -> int:
    """The leads that can be judged: `lead`, or what the segments have room for; 0 is none."""
    return max(0, min(lead, max(s.length for s in segments) - context))


def past_and_future(
    series: Sequence[np.ndarray], cases: Sequence[tuple[int, int]], context: int, lead: int
) -> tuple[np.ndarray, np.ndarray]:
    """(case, context, mode) up to and with the start, and (case, lead, mode) after it."""
    past = np.stack([series[i][t - context + 1 : t + 1] for i, t in cases])
    return past, np.stack([series[i][t + 1 : t + 1 + lead] for i, t in cases])


def energy_score(members: np.ndarray, truth: np.ndarray) -> float:
    """Fair energy score of (case, member, lead, mode) against (case, lead, mode), averaged over cases and leads."""
    count = members.shape[1]
    error = np.linalg.norm(members - truth[:, None], axis=-1).mean()
    if count == 1:
        return float(error)
    apart = sum(np.linalg.norm(members[:, i + 1 :] - members[:, i, None], axis=-1).sum() for i in range(count - 1))
    return float(error - apart / (count * (count - 1) * truth.shape[0] * truth.shape[1]))


def choose(candidates: Sequence[Any], judge: Callable[[Any], float]) -> tuple[Any, float]:
    """The candidate with the smallest score, and that score; a score that is not finite never wins."""
    scores = [s if np.isfinite(s) else np.inf for s in map(judge, candidates)]
    best = int(np.argmin(scores))
    return candidates[best], scores[best]


def record(judged_on: str, cases: int, leads: int, among: dict[str, Any]) -> str:
    """For the stamp: how settings were chosen."""
    if not cases:
        return "not chosen: the runs are too short to judge candidates; the first of each list"
    ranges = ", ".join(f"{name} {json.dumps(values)}" for name, values in among.items())
    return f"{cases} forecasts of leads 1-{leads} of {judged_on}; among {ranges}"
