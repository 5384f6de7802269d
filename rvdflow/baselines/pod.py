"""Proper orthogonal decomposition of the training frames: few numbers for a frame.

    anomaly a = sum_i c_i phi_i + rest,     phi_i orthonormal, the directions of largest variance

(Berkooz, Holmes and Lumley 1993, doi:10.1146/annurev.fl.25.010193.002543). The modes come from a randomised subspace
iteration (Halko, Martinsson and Tropp 2011, doi:10.1137/090771806), which passes over the frames block by block: all
training frames count, and memory holds one block, the modes and the coefficients, whatever the size of the data.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        size = int(np.prod(climate.frame_shape))
        count = data.frames_in(data.segments)
        width = min(rank + SPARE, size, count)
        basis = numpy_generator(0, "pod").standard_normal((size, width)).astype(np.float32)
        for _ in range(PASSES):
            basis = np.linalg.qr(basis)[0]
            image = np.zeros_like(basis)
            for run, block in data.blocks(data.segments):
                away = climate.anomalies(block, data.frames.solid[run])
                image += away.T @ (away @ basis)
            basis = image
        basis = np.linalg.qr(basis)[0]
        square, self.total = np.zeros((width, width)), 0.0
        for run, block in data.blocks(data.segments):
            away = climate.anomalies(block, data.frames.solid[run])
            part = (away @ basis).astype(np.float64)
            square += part.T @ part
            self.total += float(np.vdot(away, away))
        variance, turn = np.linalg.eigh(square / count)
        order = np.argsort(variance)[::-1]
        order = order[variance[order] > NEGLIGIBLE * variance.max()][:rank]
        self.total /= count
        self.variance = variance[order]
        self.modes = np.ascontiguousarray((basis @ turn[:, order].astype(np.float32)).T)

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
