"""The inlet velocity of each tick: Ornstein-Uhlenbeck noise, symmetry-breaking pulse, smooth ramps.

    u(t) = U s(t) (1 + r(t) sigma_u n_u(t))      v(t) = U s(t) (r(t) sigma_v n_v(t) + pulse(t))

s rises smoothly from 0 to 1 during `startup` (is 1 without one), r during the noise's ramp; n are independent
stationary Ornstein-Uhlenbeck processes of unit variance and one correlation time. Their normals come from Philox keyed
by (seed, trajectory) in blocks numbered by tick, so that no generator state has to be kept.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from lbm import kernels

if TYPE_CHECKING:
    from lbm.flow import FlowParameters

BLOCK = 4096  # ticks whose normals are drawn together
AHEAD = 2048  # ticks computed together
PURPOSE = {"start": 0, "noise": 1}


def generator(seed: int, trajectory: int, purpose: str, block: int = 0) -> np.random.Generator:
    """Independent stream of random numbers for a (seed, trajectory, purpose, block)."""
    key, counter = np.array([seed, trajectory], np.uint64), np.array([0, block, PURPOSE[purpose], 0], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


class Inflow:
    """Inlet velocities of one trajectory; `noise` (2,) is the process' present value and the only state."""

    def __init__(self, p: "FlowParameters"):
        self.p = p
        rng = generator(p.seed, p.trajectory, "start")
        self.noise = rng.standard_normal(2)  # stationary from the first tick
        self.pulse_height = rng.choice([-1, 1]) * rng.uniform(0.2, 0.4) if p.obstacles else 0.0
        self.pulse_start = p.startup + rng.uniform(0.3, 0.9) * p.ramp_ticks
        self.pulse_length = 5 * p.reference_length / p.inflow_velocity  # about a shedding period
        self._block, self._normals = -1, np.empty((0, 2))
        self._from, self._path, self._noises = 0, np.empty((0, 3)), np.empty((0, 2))

    def next(self, tick: int, ticks: int) -> np.ndarray:
        """(ticks, 3) from tick `tick` on: velocities u, v and the outflow speed U s; call with consecutive ticks.

        Zeros where the ends are not open. Computed ahead, since each call costs as much as hundreds of ticks of it.
        """
        if self.p.ends != "open":
            return np.zeros((ticks, 3))
        first = tick - self._from
        known = 0 <= first <= len(self._path) - ticks and tuple(self.noise) == tuple(self._noises[first])
        if not known:  # the first call, the end of what is known, or a restart
            self._noises = np.empty((max(ticks, AHEAD) + 1, 2))
            self._noises[0] = self.noise
            self._from, self._path, first = tick, self._compute(tick, max(ticks, AHEAD)), 0
        self.noise[:] = self._noises[first + ticks]
        return self._path[first : first + ticks]

    def _compute(self, tick: int, ticks: int) -> np.ndarray:
        p, t = self.p, np.arange(tick, tick + ticks) + 0.5
        ramp, mean = _step(t / max(p.ramp_ticks, 0.5)), _step(t / max(p.startup, 0.5))
        s = np.clip((t - self.pulse_start) / self.pulse_length, 0, 1)
        pulse = self.pulse_height * (16 * s * s * (1 - s) * (1 - s))
        noise = self._noise(tick, ticks)
        u, v = 1 + ramp * p.noise_streamwise * noise[:, 0], ramp * p.noise_transverse * noise[:, 1] + pulse
        speed = p.inflow_velocity * mean
        return np.stack([speed * u, speed * v, speed], axis=1)

    def _noise(self, tick: int, ticks: int) -> np.ndarray:
        """(ticks, 2) of unit variance, remembered behind the present value."""
        path = self._noises[1:]
        if self.p.noise_streamwise == 0 and self.p.noise_transverse == 0:
            path[:] = self.noise
            return np.zeros((ticks, 2))
        done, state = 0, self.noise.copy()
        while done < ticks:
            block, first = divmod(tick + done, BLOCK)
            if block != self._block:
                self._normals = generator(self.p.seed, self.p.trajectory, "noise", block).standard_normal((BLOCK, 2))
                self._block = block
            n = min(BLOCK - first, ticks - done)
            decay = math.exp(-1 / self.p.noise_time)
            kernels.ornstein_uhlenbeck(state, self._normals[first : first + n], decay, path[done : done + n])
            done += n
        return path


def _step(s: np.ndarray) -> np.ndarray:
    """0 at s = 0, 1 from s = 1 on. A polynomial: numpy's vector sine gives other bits at other places of an array."""
    s = np.minimum(s, 1)
    return s * s * (3 - 2 * s)
