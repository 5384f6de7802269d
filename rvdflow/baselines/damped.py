"""Damped persistence: each pixel returns to its mean as its own memory fades, with the Gaussian law of that.

    AR(1):  x_{t+1} - mu = phi (x_t - mu) + sigma sqrt(1 - phi^2) xi_t,    xi_t ~ N(0, 1)
    so      x_{t+k} given x_t  ~  N(mu + phi^k (x_t - mu), sigma^2 (1 - phi^{2k}))

with mu, sigma and phi (the correlation of successive frames) of the pixel over the training runs. Members run through
the leads with the same AR(1), so they are coherent in time. In space the noise is as coherent as what the AR(1) leaves
of training frames: xi is a normal combination of such fields, which are scaled so that every pixel has variance 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np

from rvdflow.baselines.reference import Reference
from rvdflow.baselines.training import Climate, Training
from rvdflow.forecaster import Case, Seen, spans
from rvdflow.frames import Places
from rvdflow.noise import numpy_generator

FIELDS = 256  # training fields that the noise is combined from
FIELD_BYTES = 256 * 2**20  # that they take at most


class DampedPersistence(Reference):
    """See the module. `memory` is phi, `innovations` (field, channel * y * x) what noise is made of."""

    method = "damped-persistence"

    def __init__(self, data: Training, climate: Climate, memory: np.ndarray, innovations: np.ndarray):
        super().__init__(data)
        self.climate, self.memory, self.innovations = climate, memory, innovations
        self.fitted |= {
            "noise": f"AR(1) per pixel; in space, normal combinations of {len(innovations)} training residuals"
        }

    @classmethod
    def fit(cls, data: Training) -> Self:
        climate = Climate(data)
        product = np.zeros((3, *climate.frame_shape))
        for run, block in data.blocks(data.segments, overlap=1):
            away = np.where(data.frames.solid[run], np.float32(0), block - climate.mean)
            for row, (a, b) in zip(product, ((0, 1), (0, 0), (1, 1)), strict=True):
                first, second = (away[k : len(away) - 1 + k] for k in (a, b))
                row += np.einsum("tcyx,tcyx->cyx", first, second, dtype=np.float64)
        scale = np.sqrt(product[1] * product[2])
        memory = np.divide(product[0], scale, out=np.zeros_like(scale), where=scale > 0).astype(np.float32)
        return cls(data, climate, memory, _innovations(data, climate, memory))

    def roll(
        self, seen: Seen, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int
    ) -> Iterator[np.ndarray]:
        kick = self.climate.deviation * np.sqrt(1 - self.memory**2)
        streams = [[numpy_generator(seed, self.method, *case, member) for member in members] for case in cases]
        away = np.repeat((seen.frames[:, -1] - self.climate.mean)[:, None], len(members), 1)
        for first, stop in spans(lead):
            drawn = np.empty((len(cases), len(members), stop - first, *self.frame_shape), dtype=np.float32)
            for i, of_case in enumerate(streams):
                shape = stop - first, len(self.innovations)
                weights = np.concatenate([rng.standard_normal(shape, dtype=np.float32) for rng in of_case])
                noise = (weights @ self.innovations).reshape(drawn.shape[1:])
                for k in range(stop - first):
                    away[i] = self.memory * away[i] + kick * noise[:, k]
                    drawn[i, :, k] = self.climate.mean + away[i]
            yield drawn


def _innovations(data: Training, climate: Climate, memory: np.ndarray) -> np.ndarray:
    """What the AR(1) leaves of training frames, a few evenly spread ones: (field, channel * y * x), unit variance.

    Columns have norm 1, so that a standard normal combination of rows has variance 1 in every pixel.
    """
    size = int(np.prod(climate.frame_shape))
    count = max(2, min(FIELDS, FIELD_BYTES // (4 * size)))
    places = Places(data.frames, data.runs, 2)
    fields = []
    for place in np.unique(np.linspace(0, len(places) - 1, count).round().astype(int)):
        run, t = places[int(place)]
        pair = np.where(data.frames.solid[run], np.float32(0), data.read(run, t, t + 2) - climate.mean)
        fields.append((pair[1] - memory * pair[0]).ravel())
    left = np.array(fields)
    norm = np.linalg.norm(left, axis=0)
    return np.divide(left, norm, out=np.full_like(left, len(left) ** -0.5), where=norm > 0)
