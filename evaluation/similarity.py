"""Structural similarity: do two pictures agree in local mean, contrast and pattern?

    SSIM = (2 m_a m_b + C1)(2 c_ab + C2) / ((m_a^2 + m_b^2 + C1)(v_a + v_b + C2)),   C1 = (0.01 R)^2, C2 = (0.03 R)^2

with means m, variances v and covariance c under a Gaussian window of 11 x 11 cells, sigma 1.5, and the range R of the
data (Wang, Bovik, Sheikh and Simoncelli 2004, doi:10.1109/TIP.2003.819861). Only windows that lie within the frame
count. Walls take no part: weights of fluid cells are scaled to sum to one, and only windows about a fluid cell count.

The first factor compares brightness and is meant for values from 0 to R: give `minimum` where they begin elsewhere, as
vorticity does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np

from .errors import EvaluationError

WIDTH, SIGMA = 11, 1.5


def _cached(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(function, nogil=True, cache=True, error_model="numpy")
    except RuntimeError:  # no folder to cache in can be written
        return numba.njit(function, nogil=True, error_model="numpy")


def ssim_field(
    a: np.ndarray, b: np.ndarray, fluid: np.ndarray, data_range: float, *, minimum: float = 0.0
) -> np.ndarray:
    """Mean SSIM of each field of a (..., y, x) and its fellow in b; NaN where no window counts.

    b may lack leading dimensions of a (members against one truth): its windows are then computed once. Values lie
    between -1 and 1, 1 only for equal fields. Raises EvaluationError for a range that is not positive, and for fields
    narrower than the window.
    """
    check(fluid.shape, data_range)
    targets = b.reshape(-1, *b.shape[-2:])
    groups = a.reshape(-1, len(targets), *a.shape[-2:])
    kernel = np.exp(-0.5 * ((np.arange(WIDTH) - WIDTH // 2) / SIGMA) ** 2)
    kernel /= kernel.sum()
    mask = fluid.astype(np.float64)
    edge = WIDTH // 2
    counted = np.ascontiguousarray(fluid[edge:-edge, edge:-edge])
    out = np.full(groups.shape[:2], np.nan)
    if not counted.any():
        return out.reshape(a.shape[:-2])
    norm = np.empty(counted.shape)
    room = np.empty((3, fluid.shape[0], counted.shape[1]))
    _smooth(mask, kernel, room[0], norm)
    inverse = np.divide(1.0, norm, out=np.zeros(norm.shape), where=norm > 0)
    constants = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    for j, target in enumerate(targets):
        other = np.where(fluid, target - np.float64(minimum), 0.0)
        for i in range(len(groups)):
            field = np.where(fluid, groups[i, j] - np.float64(minimum), 0.0)
            if i == 0:
                mean, variance = np.empty(norm.shape), np.empty(norm.shape)
                _moments(other, kernel, inverse, room[0], mean, variance)
            out[i, j] = _similarity(field, other, mean, variance, inverse, counted, kernel, room, *constants)
    return out.reshape(a.shape[:-2])


def check(shape: Sequence[int], data_range: float) -> None:
    """Raise EvaluationError for a range that is not positive, or a field (y, x) without room for a window."""
    if not data_range > 0:
        raise EvaluationError(f"SSIM needs the range of the data, above 0, got {data_range}")
    if min(shape, default=WIDTH) < WIDTH:
        raise EvaluationError(f"SSIM needs fields of at least {WIDTH} x {WIDTH} cells, got {tuple(shape)}")


@_cached
def _smooth(field, kernel, room, out):
    """Windowed sums, first along rows; `room` holds what is between."""
    room[:] = 0.0
    for y in range(field.shape[0]):
        source, target = field[y], room[y]
        for t in range(kernel.size):
            for x in range(target.size):
                target[x] += kernel[t] * source[x + t]
    out[:] = 0.0
    for y in range(out.shape[0]):
        target = out[y]
        for t in range(kernel.size):
            source = room[y + t]
            for x in range(target.size):
                target[x] += kernel[t] * source[x]


@_cached
def _moments(field, kernel, inverse, room, mean, variance):
    _smooth(field, kernel, room, mean)
    _smooth(field * field, kernel, room, variance)
    mean *= inverse
    variance *= inverse
    variance -= mean * mean


@_cached
def _similarity(field, other, mean, variance, inverse, counted, kernel, room, c1, c2):
    """Mean SSIM of a field, of which only sums over windows are not known yet."""
    room[:] = 0.0
    for y in range(field.shape[0]):
        a, b = field[y], other[y]
        first, square, product = room[0, y], room[1, y], room[2, y]
        for t in range(kernel.size):
            for x in range(first.size):
                value = a[x + t]
                weighted = kernel[t] * value
                first[x] += weighted
                square[x] += weighted * value
                product[x] += weighted * b[x + t]
    columns = counted.shape[1]
    sums = np.empty((3, columns))
    total, windows = 0.0, 0
    for y in range(counted.shape[0]):
        sums[:] = 0.0
        for row in range(3):
            target = sums[row]
            for t in range(kernel.size):
                source = room[row, y + t]
                for x in range(columns):
                    target[x] += kernel[t] * source[x]
        for x in range(columns):
            if counted[y, x]:
                m = sums[0, x] * inverse[y, x]
                v = sums[1, x] * inverse[y, x] - m * m
                c = sums[2, x] * inverse[y, x] - m * mean[y, x]
                top = (2 * m * mean[y, x] + c1) * (2 * c + c2)
                total += top / ((m * m + mean[y, x] * mean[y, x] + c1) * (v + variance[y, x] + c2))
                windows += 1
    return total / windows
