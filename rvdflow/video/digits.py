"""The digits 0 to 9 as pen strokes, and their pictures at any place between pixels.

A digit is a few polylines drawn with a round pen, in units of its height, x to the right and y down. In a picture the
pixel of row i and column j lies at (y, x) = (i, j). The inked area is a fine square lattice of points, SAMPLES to a
pixel and each of mass SAMPLES^-2, that moves as one rigid body. A point shares its mass between the four pixels around
it, bilinearly: pixel (i, j) holds

    sum over points (y, x) of  SAMPLES^-2 tent(i - y) tent(j - x),       tent(d) = max(0, 1 - |d|).

Tents on whole numbers add up to 1, and their centre of mass is where the point is. Hence the picture has the mass and
the centre of mass of the ink wherever that lies (before it is rounded to grey levels), a pixel well inside a stroke is
exactly 1, and a picture changes smoothly as the digit moves. No ink is lost while it lies on 0 <= y <= rows - 1,
0 <= x <= columns - 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

PEN = 0.14  # width of the strokes
REACH = 0.6  # no ink is farther from the centre of mass of its digit than this, in y or in x
SAMPLES = 4


def _arc(x: float, y: float, across: float, down: float, start: float, stop: float) -> list[tuple[float, float]]:
    """Points (x, y) on an ellipse about (x, y) of half axes (across, down); degrees, 0 right, 90 below."""
    turn = np.radians(np.linspace(start, stop, 2 + round(abs(stop - start) / 12)))
    return [(float(a), float(b)) for a, b in zip(x + across * np.cos(turn), y + down * np.sin(turn), strict=True)]


_SIX = [_arc(0, 0.17, 0.25, 0.26, 0, 360), _arc(0.2, 0.17, 0.45, 0.6, -180, -90)]

STROKES: tuple[list[list[tuple[float, float]]], ...] = (
    [_arc(0, 0, 0.26, 0.43, 0, 360)],
    [[(-0.17, -0.24), (0.02, -0.43), (0.02, 0.43)], [(-0.15, 0.43), (0.19, 0.43)]],
    [[*_arc(0, -0.19, 0.25, 0.24, -170, 30), (-0.25, 0.43), (0.26, 0.43)]],
    [[*_arc(-0.02, -0.225, 0.22, 0.205, -150, 90), *_arc(-0.02, 0.205, 0.26, 0.225, -90, 150)]],
    [[(0.11, 0.43), (0.11, -0.43), (-0.27, 0.16), (0.28, 0.16)]],
    [[(0.22, -0.43), (-0.19, -0.43), (-0.22, 0), *_arc(-0.01, 0.15, 0.26, 0.28, -144, 150)]],
    _SIX,
    [[(-0.26, -0.43), (0.26, -0.43), (-0.06, 0.4)], [(-0.14, 0.02), (0.24, 0.02)]],
    [_arc(0, -0.22, 0.2, 0.21, 0, 360), _arc(0, 0.21, 0.25, 0.22, 0, 360)],
    [[(-x, -y) for x, y in stroke] for stroke in _SIX],
)


@dataclass(frozen=True, eq=False)
class Ink:
    """Ink (row, column), 1 or 0, and where its rows and columns lie, in pixels from its centre of mass."""

    mask: np.ndarray
    y: np.ndarray
    x: np.ndarray

    def picture(self, y: float, x: float, height: int, width: int) -> np.ndarray:
        """The digit with its centre of mass at (y, x): (height, width), from 0 to 1."""
        rows = _tent(np.arange(height)[:, None] - (y + self.y))
        columns = _tent(np.arange(width)[:, None] - (x + self.x))
        return rows @ self.mask @ columns.T / SAMPLES**2


def _tent(distance: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(distance))


@lru_cache(maxsize=256)
def ink(digit: int, side: float) -> Ink:
    """A digit of the size at which none leaves a square of `side` pixels about its centre of mass."""
    height = side / (2 * REACH)
    half = int(np.ceil(SAMPLES * height / 2))
    places = np.arange(-half, half + 1) / SAMPLES
    mask = _distance(digit, places[None, :] / height, places[:, None] / height) <= PEN / 2
    rows, columns = mask.any(1), mask.any(0)
    y, x = (np.average(places, weights=mask.sum(axis)) for axis in (1, 0))
    return Ink(mask[rows][:, columns].astype(float), places[rows] - y, places[columns] - x)


def _distance(digit: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance from the strokes of a digit."""
    nearest = np.full(np.broadcast(x, y).shape, np.inf)
    for stroke in STROKES[digit]:
        for (px, py), (qx, qy) in pairwise(stroke):
            ex, ey, wx, wy = qx - px, qy - py, x - px, y - py
            t = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, np.hypot(wx - t * ex, wy - t * ey))
    return nearest
