"""Obstacles as signed distances: which cells are solid, from a shape's exact position and size.

Coordinates (x, y) in cells: the centre of the cell in row j, column i lies at (i, j), so the flow occupies
-1/2 <= x <= nx - 1/2. A cell is solid when its centre lies inside the shape; half-way bounce-back then puts the
wall half a cell outside the solid cells, which makes a cylinder of diameter D act about as its own size.
A further shape is one more function in `SHAPES`.
"""

from collections.abc import Callable

import numpy as np

Distance = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def _cylinder(x: np.ndarray, y: np.ndarray, diameter: float) -> np.ndarray:
    return np.hypot(x, y) - diameter / 2


SHAPES: dict[str, Distance] = {"cylinder": _cylinder}  # distance from the shape centred at 0, negative inside
OBSTACLES = ("none", *SHAPES)


def mask(obstacle: str, ny: int, nx: int, *, centre: tuple[float, float], diameter: float) -> np.ndarray:
    """Solid cells of a named obstacle, (ny, nx) bool; `centre` is (x, y)."""
    if obstacle == "none":
        return np.zeros((ny, nx), bool)
    y, x = np.mgrid[:ny, :nx].astype(float)
    return SHAPES[obstacle](x - centre[0], y - centre[1], diameter) < 0


def coarsen_mask(solid: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Solid mask of box-filtered frames: a coarse cell is solid when at least half of its cells are."""
    ny, nx = shape
    boxes = solid.reshape(ny, solid.shape[0] // ny, nx, solid.shape[1] // nx)
    return boxes.mean((1, 3)) >= 0.5


def parted_flow(
    obstacle: str, ny: int, nx: int, *, centre: tuple[float, float], diameter: float
) -> tuple[np.ndarray, np.ndarray]:
    """Smooth start: velocities (ny, nx) of unit flow that parts before the obstacle, at rest on its wall.

    Stream function psi = (y - y_c) s(d) with d the distance from the wall and s a smooth step from 0 at the wall to 1
    two diameters away (or at the nearer side): divergence-free, without the vortex sheet of potential flow.
    """
    if obstacle == "none":
        return np.ones((ny, nx)), np.zeros((ny, nx))
    (xc, yc), radius = centre, diameter / 2
    room = min(yc, ny - 1 - yc) + 0.5 - radius  # less than half a diameter of it would make a jet
    reach = min(2 * diameter, max(room, radius))

    def psi(x, y):
        s = np.clip(SHAPES[obstacle](x - xc, y - yc, diameter) / reach, 0, 1)
        return (y - yc) * s * s * (3 - 2 * s)

    y, x = np.mgrid[:ny, :nx].astype(float)
    return psi(x, y + 0.5) - psi(x, y - 0.5), psi(x - 0.5, y) - psi(x + 0.5, y)
