"""Proper orthogonal decomposition of the training frames: few numbers for a frame.

    anomaly a = sum_i c_i phi_i + rest,     phi_i orthonormal, the directions of largest variance

(Berkooz, Holmes and Lumley 1993, doi:10.1146/annurev.fl.25.010193.002543). The modes come from a randomised subspace
iteration (Halko, Martinsson and Tropp 2011, doi:10.1137/090771806), which passes over the frames block by block: all
training frames count, and memory holds one block, the modes and the coefficients, whatever the size of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rvdflow.baselines.training import Climate, Segment, Training
from rvdflow.noise import numpy_generator

RANK = 200  # modes kept at most; methods choose among them
SPARE = 20  # directions carried beyond those during the iteration
PASSES = 3  # powers of the covariance applied to the random start
NEGLIGIBLE = 1e-10  # of the largest variance: what float32 cannot hold


class Pod:
    """Modes of the training runs: `modes` (mode, channel * y * x) float32, `variance` (mode,) of the coefficients.

    `total` is the variance of all anomalies together, so that variance.sum() / total is the part the modes hold.
    """

    def __init__(self, data: Training, climate: Climate, rank: int = RANK):
        self.climate = climate

        def anomalies() -> Iterator[np.ndarray]:
            for run, block in data.blocks(data.segments):
                yield climate.anomalies(block, data.frames.solid[run])

        size, count = int(np.prod(climate.frame_shape)), data.frames_in(data.segments)
        self.modes, self.variance, self.total = leading_modes(anomalies, size, count, rank)

    @property
    def rank(self) -> int:
        return len(self.modes)

    def fraction(self, modes: int) -> float:
        """Part of the variance that the first `modes` hold."""
        return float(self.variance[:modes].sum() / self.total)

    def project(self, frames: np.ndarray, solid: np.ndarray) -> np.ndarray:
        """Coefficients (..., mode) of frames (..., channel, y, x)."""
        return self.climate.anomalies(frames, solid) @ self.modes.T

    def frames(self, coefficients: np.ndarray, rest: np.ndarray | None = None) -> np.ndarray:
        """Frames (..., channel, y, x) float32 of the coefficients of the first modes (..., mode).

        What the other modes would add is nothing, or what they hold of the anomalies `rest` (..., channel * y * x).
        """
        modes = self.modes[: coefficients.shape[-1]]
        if rest is None:
            return self.climate.frames(coefficients.astype(np.float32) @ modes)
        return self.climate.frames((coefficients.astype(np.float32) - rest @ modes.T) @ modes + rest)

    def series(self, data: Training, segments: Sequence[Segment]) -> list[np.ndarray]:
        """Coefficients (time, mode) of each segment, float64."""
        found = []
        for segment in segments:
            parts = [self.project(block, data.frames.solid[segment.run]) for _, block in data.blocks([segment])]
            found.append(np.concatenate(parts).astype(np.float64))
        return found


def leading_modes(
    anomalies: Callable[[], Iterator[np.ndarray]], size: int, count: int, rank: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """(modes (mode, size) float32, variance (mode,) of their coefficients, variance of everything).

    `anomalies()` goes through `count` anomalies, blocks (time, size), and is called several times. There are at most
    `rank` modes, and none whose variance float32 cannot hold.
    """
    width = min(rank + SPARE, size, count)
    basis = numpy_generator(0, "pod").standard_normal((size, width)).astype(np.float32)
    for _ in range(PASSES):
        basis = np.linalg.qr(basis)[0]
        image = np.zeros_like(basis)
        for away in anomalies():
            image += away.T @ (away @ basis)
        basis = image
    basis = np.linalg.qr(basis)[0]
    square, total = np.zeros((width, width)), 0.0
    for away in anomalies():
        part = (away @ basis).astype(np.float64)
        square += part.T @ part
        total += float(np.vdot(away, away))
    variance, turn = np.linalg.eigh(square / count)
    order = np.argsort(variance)[::-1]
    order = order[variance[order] > NEGLIGIBLE * variance.max()][:rank]
    return np.ascontiguousarray((basis @ turn[:, order].astype(np.float32)).T), variance[order], total / count
