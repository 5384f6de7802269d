"""Analog ensemble: what followed in the training runs when the flow last looked like this.

    distance(t) = sum_{j < frames} |c_{t - j} - c^now_{-j}|^2        c: coefficients of the leading modes
    member m    = the frames after the m-th nearest training window

(Lorenz 1969, doi:10.1175/1520-0469(1969)26<636:APARBN>2.0.CO;2; as an ensemble, Delle Monache et al. 2013,
doi:10.1175/MWR-D-12-00281.1.) All members weigh the same. Windows that overlap a nearer one are left out, or an
ensemble would hold one event many times; a forecast of a training run leaves out that run. Members beyond the number
of windows begin again with the nearest. Nothing is random: the seed changes nothing, and members are whole pieces of
training runs, on the attractor of the flow in every pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np

from lbm.errors import DataError
from rvdflow.baselines.choosing import choose, energy_score, horizon, judged_cases, past_and_future, record
from rvdflow.baselines.pod import Pod
from rvdflow.baselines.reference import Reference
from rvdflow.baselines.training import Climate, Segment, Training
from rvdflow.forecaster import Case, Seen, spans

MODES = (5, 10, 20, 40, 80, 160)
FRAMES = (1, 2, 3, 4)
NEIGHBOURS = 16  # members that judge a candidate


class Library:
    """Coefficients (time, mode) of training segments, to be searched."""

    def __init__(self, segments: Sequence[Segment], series: Sequence[np.ndarray]):
        self.segments, self.series = list(segments), [s.astype(np.float32) for s in series]

    def nearest(
        self, past: np.ndarray, count: int, lead: int, *, modes: int, without: int = -1
    ) -> list[tuple[int, int]]:
        """(segment, last frame of the window within it) of the `count` nearest windows, nearest first.

        `past` (frames, mode); windows have `lead` frames after them; those of run `without` are left out.
        """
        frames = len(past)
        now = past[:, :modes].astype(np.float32)
        distances, places = [], []
        for i, (segment, known) in enumerate(zip(self.segments, self.series, strict=True)):
            starts = segment.length - lead - frames + 1
            if segment.run == without or starts < 1:
                continue
            some = known[:, :modes]
            each = (some**2).sum(1)[:, None] - 2 * some @ now.T + (now**2).sum(1)  # (time, frame of the window)
            distances.append(sum(each[j : j + starts, j] for j in range(frames)))
            places += [(i, t) for t in range(frames - 1, frames - 1 + starts)]
        if not places:
            raise DataError(f"analogs of {frames} frames with {lead} after them need training runs as long")
        chosen: list[tuple[int, int]] = []
        for k in np.argsort(np.concatenate(distances), kind="stable"):
            i, t = places[int(k)]
            if all(i != j or abs(t - s) >= frames for j, s in chosen):
                chosen.append((i, t))
                if len(chosen) == count:
                    break
        return chosen


class Analog(Reference):
    """See the module; `modes` and `frames` are chosen on validation runs."""

    method = "analog"

    def __init__(self, data: Training, pod: Pod, library: Library, modes: int, frames: int):
        super().__init__(data)
        self.data, self.pod, self.library = data, pod, library
        self.modes, self.frames = modes, frames
        self.needs = frames
        self.fitted |= {
            "pod_modes": modes, "pod_fraction": round(pod.fraction(modes), 4), "analog_frames": frames,
            "analog_members": "the nearest windows that do not overlap, equally likely",
        }  # fmt: skip

    @classmethod
    def fit(cls, data: Training) -> Self:
        pod = Pod(data, Climate(data))
        trial, held, judged_on = data.parts()
        modes = sorted({min(m, pod.rank) for m in MODES})
        frames = [f for f in FRAMES if f <= data.context]
        library, truth = Library(trial, pod.series(data, trial)), pod.series(data, held)
        lead = horizon(held, data.context, data.lead)
        lead = min(lead, min(s.length for s in trial) - frames[-1])
        cases = judged_cases(held, data.context, lead) if lead > 0 else []
        best = modes[0], frames[0]
        if cases:
            past, future = past_and_future(truth, cases, data.context, lead)

            def judge(candidate: tuple[int, int]) -> float:
                m, f = candidate
                found = [library.nearest(p[-f:], NEIGHBOURS, lead, modes=m) for p in past]
                if min(map(len, found)) < 2:
                    return np.inf
                few = min(map(len, found))
                after = [[library.series[i][t + 1 : t + 1 + lead] for i, t in near[:few]] for near in found]
                return energy_score(np.array(after), future)

            best = choose([(m, f) for m in modes for f in frames], judge)[0]
        full = library if trial == data.segments else Library(data.segments, pod.series(data, data.segments))
        made = cls(data, pod, full, *best)
        among = {"modes": modes, "frames": frames}
        made.fitted["chosen_by"] = "energy score of " + record(judged_on, len(cases), lead, among)
        return made

    def roll(
        self, seen: Seen, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int
    ) -> Iterator[np.ndarray]:
        past = self.pod.project(seen.frames[:, -self.frames :], seen.solid[:, None])
        windows = []  # of each case: (run, first frame) of each member
        for now, (trajectory, _) in zip(past, cases, strict=True):
            near = self.library.nearest(now, max(members) + 1, lead, modes=self.modes, without=trajectory)
            found = [near[member % len(near)] for member in members]
            windows.append([(self.library.segments[segment].run, t + 1) for segment, t in found])
        for first, stop in spans(lead):
            yield np.array([[self.data.read(run, t + first, t + stop) for run, t in of_case] for of_case in windows])
