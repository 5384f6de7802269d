"""Linear inverse model: the flow as a linear system driven by noise, in the coefficients of its leading modes.

    z_{t+1} = B_1 z_t (+ B_2 z_{t-1}) + n_t,     n ~ N(0, Q) white in time

(Penland and Sardeshmukh 1995, doi:10.1175/1520-0442(1995)008<1999:TOGOTS>2.0.CO;2). B is the least-squares fit to
consecutive training frames, with a ridge in the units of each mode; Q the covariance that B does not make, so that
B and noise together keep the variance of the training frames, with or without ridge. What the leading modes do not
hold has its climatological variance: each member carries the rest of a random training window. Without noise it is
dynamic mode decomposition (Schmid 2010, doi:10.1017/S0022112010001217): one deterministic member, the mean the model
expects. Modes, lags and ridge are chosen on validation runs. An eigenvalue above one would blow up; all are then
divided by the largest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Self

import numpy as np

from lbm.errors import DataError
from rvdflow.baselines.choosing import choose, energy_score, horizon, judged_cases, past_and_future, record
from rvdflow.baselines.pod import Pod
from rvdflow.baselines.reference import Reference
from rvdflow.baselines.training import Climate, Training
from rvdflow.forecaster import Case, Seen, spans
from rvdflow.frames import Places
from rvdflow.noise import numpy_generator

MODES = (5, 10, 20, 40, 80, 120, 160, 200)
LAGS = (1, 2)
RIDGES = (1e-8, 1e-2)  # in variances of a mode
MEMBERS = 8  # that judge a candidate


@dataclass(frozen=True)
class Propagator:
    """`step` (lag * mode, mode) takes [z_t, z_{t-1}] to the mean of z_{t+1}; noise is standard normal @ `factor`."""

    step: np.ndarray
    factor: np.ndarray
    radius: float  # of the fit, before anything was divided by it

    @property
    def modes(self) -> int:
        return self.step.shape[1]

    @property
    def lags(self) -> int:
        return self.step.shape[0] // self.step.shape[1]

    def roll(self, past: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Members (case, member, lead, mode) from `past` (case, time, mode) and noise (case, member, lead, mode)."""
        members = noise.shape[1]
        state = [np.repeat(past[:, -1 - lag, None, : self.modes], members, 1) for lag in range(self.lags)]
        rolled = np.empty(noise.shape)
        kicks = noise @ self.factor
        for k in range(noise.shape[2]):
            rolled[:, :, k] = np.concatenate(state, -1) @ self.step + kicks[:, :, k]
            state = [rolled[:, :, k], *state[:-1]]
        return rolled


def companion(step: np.ndarray) -> np.ndarray:
    """The matrix that takes [z_t, z_{t-1}] to [z_{t+1}, z_t], from the left."""
    rows, modes = step.shape
    matrix = np.zeros((rows, rows))
    matrix[:modes] = step.T
    matrix[modes:, : rows - modes] = np.eye(rows - modes)
    return matrix


def fit_propagator(series: Sequence[np.ndarray], modes: int, lags: int, ridge: float) -> Propagator:
    """Fit to the coefficients (time, mode) of runs; DataError when there are fewer frames than unknowns."""
    after = np.concatenate([s[lags:, :modes] for s in series])
    before = np.concatenate(
        [np.concatenate([s[lags - 1 - j : len(s) - 1 - j, :modes] for j in range(lags)], 1) for s in series]
    )
    count, unknowns = before.shape
    if count <= unknowns:
        raise DataError(f"a linear model of {modes} modes and {lags} lags needs more than {unknowns} training frames")
    deviation = np.sqrt(np.concatenate(list(series))[:, :modes].var(0))
    weight = np.diag(ridge * count * np.tile(deviation, lags) ** 2)
    step = np.linalg.solve(before.T @ before + weight, before.T @ after)
    left = after.T @ after - step.T @ (before.T @ before) @ step
    values, vectors = np.linalg.eigh(left / (count - unknowns))
    factor = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    radius = float(abs(np.linalg.eigvals(companion(step))).max())
    if radius > 1:
        step = step / np.repeat(radius ** np.arange(1, lags + 1), modes)[:, None]
    return Propagator(step, factor, radius)


class LinearInverse(Reference):
    """See the module."""

    method = "linear-inverse"
    noisy: ClassVar[bool] = True

    def __init__(self, data: Training, pod: Pod, model: Propagator):
        super().__init__(data)
        self.data, self.pod, self.model = data, pod, model
        self.needs = model.lags
        self.fitted |= {
            "pod_modes": model.modes, "pod_fraction": round(pod.fraction(model.modes), 4), "lags": model.lags,
            "largest_eigenvalue": round(model.radius, 4),
        }  # fmt: skip

    @classmethod
    def fit(cls, data: Training) -> Self:
        pod = Pod(data, Climate(data))
        trial, held, judged_on = data.parts()
        known, truth = pod.series(data, trial), pod.series(data, held)
        count = sum(len(s) for s in known)
        lags = [lag for lag in LAGS if lag <= data.context]
        settings = [
            (m, lag, ridge)
            for m, lag, ridge in product(sorted({min(m, pod.rank) for m in MODES}), lags, RIDGES)
            if 2 * m * lag < count - lag * len(trial)
        ]
        if not settings:
            raise DataError(f"{cls.method} cannot be fitted to {count} training frames")
        lead = horizon(held, data.context, data.lead)
        cases = judged_cases(held, data.context, lead) if lead else []
        best = settings[0]
        if cases:
            past, future = past_and_future(truth, cases, data.context, lead)
            best = choose(settings, lambda s: cls._judge(fit_propagator(known, *s), known, past, future))[0]
        full = known if trial == data.segments else pod.series(data, data.segments)
        made = cls(data, pod, fit_propagator(full, *best))
        among = {"modes": sorted({s[0] for s in settings}), "lags": lags, "ridge": list(RIDGES)}
        score = "energy score of " if cls.noisy else "distance to the truth of "
        made.fitted |= {"ridge": best[2], "chosen_by": score + record(judged_on, len(cases), lead, among)}
        return made

    @classmethod
    def _judge(cls, model: Propagator, known: Sequence[np.ndarray], past: np.ndarray, future: np.ndarray) -> float:
        """The score of the forecasts of a candidate; the modes it leaves out come from random training windows."""
        members = np.zeros((len(past), MEMBERS if cls.noisy else 1, *future.shape[1:]))
        rng, lead = numpy_generator(0, "judge"), future.shape[1]
        noise = np.zeros((*members.shape[:3], model.modes))
        if cls.noisy:
            noise[...] = rng.standard_normal(noise.shape)
            longest = [s for s in known if len(s) >= lead]
            for case, member in np.ndindex(*members.shape[:2]) if longest else ():
                run = longest[rng.integers(len(longest))]
                start = rng.integers(len(run) - lead + 1)
                members[case, member] = run[start : start + lead]
        with np.errstate(over="ignore", invalid="ignore"):
            members[..., : model.modes] = model.roll(past, noise)
            return energy_score(members, future)

    def roll(
        self, seen: Seen, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int
    ) -> Iterator[np.ndarray]:
        past = self.pod.project(seen.frames[:, -self.needs :], seen.solid[:, None])
        places = Places(self.data.frames, self.data.runs, lead)
        if self.noisy and not places:
            raise DataError(f"{self.method} of lead {lead} needs training runs as long")
        rolled, windows = [], []  # of each case: coefficients, few numbers; and (run, first frame) for each member
        for i, case in enumerate(cases):
            noise = np.zeros((1, len(members), lead, self.model.modes))
            if self.noisy:
                streams = [numpy_generator(seed, self.method, *case, member) for member in members]
                noise[0] = np.stack([rng.standard_normal(noise.shape[2:]) for rng in streams])
                windows.append([places[int(rng.integers(len(places)))] for rng in streams])
            rolled.append(self.model.roll(past[i : i + 1], noise)[0].astype(np.float32))
        for first, stop in spans(lead):
            drawn = np.empty((len(cases), len(members), stop - first, *self.frame_shape), dtype=np.float32)
            for i, coefficients in enumerate(rolled):
                rest = np.stack([self._rest(k, t + first, t + stop) for k, t in windows[i]]) if self.noisy else None
                drawn[i] = self.pod.frames(coefficients[:, first:stop], rest)
            yield drawn

    def _rest(self, run: int, first: int, stop: int) -> np.ndarray:
        """Anomalies (time, channel * y * x) of frames first..stop-1 of a training run."""
        return self.pod.climate.anomalies(self.data.read(run, first, stop), self.data.frames.solid[run])


class DynamicModes(LinearInverse):
    """The linear inverse model without noise."""

    method = "dmd"
    deterministic = True
    noisy = False
