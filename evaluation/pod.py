"""Proper orthogonal decomposition: a few numbers for a field, those that vary most, and scores of them.

    x = mean + sum_i c_i phi_i + rest        <phi_i phi_j> = 1 if i = j, else 0;  < > the mean over fluid cells
    c_i = <(x - mean) phi_i>                 variance of c_1 >= that of c_2 >= ... over the snapshots of the fit

so that a coefficient is in the unit of the variable, and the energies (mean c_i^2 of the snapshots) of all modes add up
to the variance in a cell, averaged over cells. Berkooz, Holmes and Lumley (1993),
doi:10.1146/annurev.fl.25.010193.002543; from few snapshots by their matrix of products, Sirovich (1987),
doi:10.1090/qam/910462.

A pixel is scored by itself everywhere else; the coefficients say whether the large coherent motions are forecast, each
of which moves many pixels at once. Fit on training data: modes of the cases scored would know the answer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import EvaluationError, MissingValueError
from .pointwise import ensemble_scores

LARGEST_MATRIX = 4096  # rows of a matrix of products that is kept (128 MiB); beyond it the modes are iterated
CHUNK = 256  # snapshots in memory at a time
SPARE, PASSES = 16, 4  # of the iteration: directions beyond those wanted, applications of the covariance
NEGLIGIBLE = 1e-12  # energy, relative to the first mode's, that rounding leaves


@dataclass(frozen=True)
class Pod:
    """Modes of a sample of fields; see the module's text for what they are."""

    mean: np.ndarray
    """(y, x), of the snapshots; 0 in walls."""
    modes: np.ndarray
    """(mode, y, x), 0 in walls; the entry of largest size is positive."""
    energy: np.ndarray
    """(mode,), mean square coefficient of the snapshots."""
    total: float
    """Variance of the snapshots, mean over fluid cells: what the energies of all modes would add up to."""
    fluid: np.ndarray
    """(y, x) bool, the cells that count."""

    @property
    def fraction(self) -> np.ndarray:
        """Share of the variance that each mode holds, (mode,)."""
        return self.energy / self.total if self.total > 0 else np.zeros_like(self.energy)

    @classmethod
    def fit(cls, snapshots: Any, fluid: np.ndarray | None = None, *, modes: int = 20, chunk: int = CHUNK) -> "Pod":
        """Modes of `snapshots` (sample, y, x): a NumPy, dask or zarr array, read `chunk` snapshots at a time.

        `fluid` (y, x) are the cells that count (default all): what is NaN or arbitrary elsewhere does not matter; of
        runs with different walls, give the cells that are fluid in all of them. Fewer than `modes` are returned where
        the snapshots do not have them. Exact where cells or snapshots are at most 4096; beyond, by a subspace iteration
        (Halko, Martinsson and Tropp 2011, doi:10.1137/090771806), good to rounding for modes that stand out.
        Raises EvaluationError for fewer than 2 snapshots or modes < 1, MissingValueError for a NaN in a fluid cell.
        """
        count, shape = snapshots.shape[0], tuple(snapshots.shape[-2:])
        if len(snapshots.shape) != 3 or count < 2 or modes < 1:
            raise EvaluationError(f"POD needs snapshots (sample, y, x), 2 or more, and a mode; got {snapshots.shape}")
        fluid = np.ones(shape, bool) if fluid is None else np.asarray(fluid, bool)
        if fluid.shape != shape or not fluid.any():
            raise EvaluationError(
                f"POD needs fluid cells (y, x) on the grid {shape} of the snapshots, got {fluid.shape}"
            )
        source = _Rows(snapshots, fluid, chunk)
        cells = int(fluid.sum())
        if cells <= min(count, LARGEST_MATRIX):
            vectors = _from_covariance(source, cells)
        elif count <= LARGEST_MATRIX:
            vectors = _from_products(source, cells, modes)
        else:
            vectors = _iterated(source, cells, modes)
        vectors = vectors[:, :modes]
        energy = sum(np.square(rows @ vectors).sum(axis=0) for rows in source) / (count * cells)
        kept = energy > NEGLIGIBLE * max(source.total, 1e-300)
        vectors, energy = vectors[:, kept], energy[kept]
        sign = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
        fields = np.zeros((vectors.shape[1], *shape))
        fields[:, fluid] = (vectors * sign).T * np.sqrt(cells)
        mean = np.zeros(shape)
        mean[fluid] = source.mean
        return cls(mean, fields, energy, source.total, fluid)

    def project(self, fields: np.ndarray) -> np.ndarray:
        """Coefficients (..., mode) of fields (..., y, x), float64; walls do not matter."""
        if fields.shape[-2:] != self.fluid.shape:
            raise EvaluationError(f"the modes are on a grid {self.fluid.shape}, the fields on {fields.shape[-2:]}")
        modes = self.modes[:, self.fluid]
        offset = modes @ self.mean[self.fluid] / modes.shape[1]
        values = fields[..., self.fluid].astype(np.float64, copy=False)
        return values @ modes.T / modes.shape[1] - offset

    def reconstruct(self, coefficients: np.ndarray) -> np.ndarray:
        """Fields (..., y, x) with these coefficients (..., mode); the mean in place of what other modes hold."""
        return self.mean + np.tensordot(coefficients, self.modes[: coefficients.shape[-1]], axes=1)


def pod_scores(members: np.ndarray, truth: np.ndarray, pod: Pod) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energy of members, energy of truth, fair CRPS of the coefficients (one member: classical), each (lead, mode).

    `members` (member, lead, y, x), `truth` (lead, y, x). Energies are mean squares of single members' coefficients.
    """
    observed = pod.project(truth)
    found = np.stack([pod.project(members[:, lead]) for lead in range(len(truth))], axis=1)
    name = "crps_fair" if len(members) > 1 else "crps"
    (score,) = ensemble_scores(found, observed, axis=0, names=(name,), threads=1)
    return np.square(found).mean(axis=0), np.square(observed), score


class _Rows:
    """Anomalies (sample, cell) of the snapshots, block by block, as often as they are asked for."""

    def __init__(self, snapshots: Any, fluid: np.ndarray, chunk: int):
        self.snapshots, self.fluid, self.chunk = snapshots, fluid, max(1, chunk)
        count = snapshots.shape[0]
        self.mean = np.zeros(int(fluid.sum()))
        self.mean = sum(rows.sum(axis=0) for rows in self) / count
        self.total = float(sum(np.square(rows).sum() for rows in self)) / (count * self.mean.size)

    def __len__(self) -> int:
        return -(-self.snapshots.shape[0] // self.chunk)

    def __getitem__(self, i: int) -> np.ndarray:
        if i >= len(self):
            raise IndexError(i)
        block = np.asarray(self.snapshots[i * self.chunk : (i + 1) * self.chunk])
        rows = block[:, self.fluid].astype(np.float64)
        if np.isnan(rows).any():
            raise MissingValueError("a snapshot holds NaN in a fluid cell: give `fluid` without it, or leave it out")
        return rows - self.mean

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))


def _from_covariance(source: _Rows, cells: int) -> np.ndarray:
    """Eigenvectors (cell, mode) of the covariance between cells, in one pass."""
    covariance = np.zeros((cells, cells))
    for rows in source:
        covariance += rows.T @ rows
    return np.linalg.eigh(covariance)[1][:, ::-1]


def _from_products(source: _Rows, cells: int, modes: int) -> np.ndarray:
    """The same from the products of snapshots: two blocks in memory at a time, and the modes."""
    blocks = range(len(source))
    values, vectors = np.linalg.eigh(np.block([[source[i] @ source[j].T for j in blocks] for i in blocks]))
    best = np.flatnonzero(values > NEGLIGIBLE * values[-1])[::-1][:modes]
    found = np.zeros((cells, best.size))
    for i, rows in enumerate(source):
        found += rows.T @ vectors[i * source.chunk : i * source.chunk + len(rows), best]
    return np.linalg.qr(found)[0]


def _iterated(source: _Rows, cells: int, modes: int) -> np.ndarray:
    """Leading eigenvectors by subspace iteration from a fixed random start."""
    basis = np.random.default_rng(0).normal(size=(cells, min(modes + SPARE, cells)))
    for _ in range(PASSES):
        basis = np.linalg.qr(basis)[0]
        basis = np.asarray(sum(rows.T @ (rows @ basis) for rows in source))
    basis = np.linalg.qr(basis)[0]
    inner = np.asarray(sum((rows @ basis).T @ (rows @ basis) for rows in source))
    return basis @ np.linalg.eigh(inner)[1][:, ::-1]
