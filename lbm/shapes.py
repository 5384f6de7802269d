"""One obstacle: its exact shape, and how far a point or a link is from its wall.

Coordinates (x, y) in cells: the centre of the cell in row j, column i lies at (i, j). A shape is what its own axes
see: points are moved to its centre and turned back by its angle, corners are turned forward.
"""

import math
from dataclasses import dataclass

import numpy as np

from lbm import outlines

SHAPES = ("cylinder", "ellipse", "square", "polygon", "naca", "image")
ON_WALL = 1e-9  # cells: a centre this close to a wall is fluid, whichever way rounding went
SMALLEST_FRACTION = 1e-12


@dataclass(frozen=True)
class Obstacle:
    """A body in the flow. Lengths in cells, angles in degrees, counter-clockwise."""

    shape: str  # one of SHAPES
    centre: tuple[float, float]  # (x, y); of an aerofoil: the middle of its chord
    size: float  # diameter; ellipse: first axis (along x at angle 0); square: side; polygon: diameter of the circle
    # through its corners; naca: chord; image: width
    angle: float = 0.0  # the angle of attack of an aerofoil is -angle, the flow coming from the left
    aspect: float = 1.0  # of an ellipse: second axis / first axis
    corners: int = 6  # of a regular polygon, the first one at angle 0; or
    vertices: tuple[tuple[float, float], ...] = ()  # its own corners about the centre, in units of `size`
    profile: str = "0012"  # NACA four-digit
    file: str = ""  # image: its dark pixels are solid, the first row at the top
    spin: float = 0.0  # angular velocity of a cylinder's surface, rad/tick, counter-clockwise

    def __str__(self) -> str:
        return f"the {self.shape} at ({self.centre[0]:g}, {self.centre[1]:g})"


def inside(o: Obstacle, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points (x, y) lie inside an obstacle, bool; any shapes that broadcast."""
    if o.shape != "image":
        return distance(o, x, y) < -ON_WALL
    px, py = _own_frame(o, np.asarray(x), np.asarray(y))
    solid = outlines.picture(o.file)
    (rows, columns), pixel = solid.shape, o.size / solid.shape[1]
    row, column = np.floor(rows / 2 - py / pixel).astype(int), np.floor(columns / 2 + px / pixel).astype(int)
    seen = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    return seen & solid[np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)]


def distance(o: Obstacle, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance of points from an obstacle's wall (cells), negative inside.

    Exact for cylinders and polygons. Of an ellipse to first order near the wall, the sign being exact; of an image
    it is the distance from the smallest upright rectangle, in the picture, around its solid pixels.
    """
    x, y = np.asarray(x), np.asarray(y)
    if o.shape == "cylinder":
        return np.hypot(x - o.centre[0], y - o.centre[1]) - o.size / 2
    if o.shape != "ellipse":
        return outlines.polygon_distance(corners_of(o), x, y)
    px, py = _own_frame(o, x, y)
    a, b = o.size / 2, o.size / 2 * o.aspect
    k = np.hypot(px / a, py / b)  # f / |grad f| of f = k (k - 1)
    slope = np.hypot(px / a**2, py / b**2)
    return np.where(slope > 0, k * (k - 1) / np.maximum(slope, 1e-300), -min(a, b))


def bounds(o: Obstacle) -> tuple[float, float, float, float]:
    """(x_min, x_max, y_min, y_max) of an obstacle, exact."""
    if o.shape in ("cylinder", "ellipse"):
        (a, b), turn = _axes(o), math.radians(o.angle)
        c, s = math.cos(turn), math.sin(turn)
        half_x, half_y = math.hypot(a * c, b * s), math.hypot(a * s, b * c)
        return o.centre[0] - half_x, o.centre[0] + half_x, o.centre[1] - half_y, o.centre[1] + half_y
    (x_min, y_min), (x_max, y_max) = corners_of(o).min(0).tolist(), corners_of(o).max(0).tolist()
    return x_min, x_max, y_min, y_max


def outline(o: Obstacle) -> tuple[np.ndarray, np.ndarray]:
    """Points (x, y) along an obstacle's wall, at most half a cell apart, 10^5 at most."""
    if o.shape in ("cylinder", "ellipse"):
        a, b = _axes(o)
        turn = np.arange(0, 2 * np.pi, max(0.5 / max(a, b), 1e-4))
        edge = np.stack([a * np.cos(turn), b * np.sin(turn)], axis=1) @ _turn(o).T + np.array(o.centre)
        return edge[:, 0], edge[:, 1]
    corners = corners_of(o)
    edges = np.roll(corners, -1, axis=0) - corners
    pieces = np.clip(np.ceil(2 * np.hypot(*edges.T)), 1, max(1, 100_000 // len(edges))).astype(int)
    edge = np.concatenate([c + e * (np.arange(n) / n)[:, None] for c, e, n in zip(corners, edges, pieces, strict=True)])
    return edge[:, 0], edge[:, 1]


def wall_fraction(o: Obstacle, x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Where the wall cuts links from fluid cells (x, y) to solid cells (x + dx, y + dy): q in (0, 1], link lengths.

    In closed form: the smaller root of a quadratic for cylinder and ellipse, the first of the cut edges for
    polygons; 1/2 for images, whose pixels know no better.
    """
    x, y, dx, dy = np.broadcast_arrays(*(np.asarray(v, float) for v in (x, y, dx, dy)))
    if o.shape == "image":
        return np.full(x.shape, 0.5)
    if o.shape in ("cylinder", "ellipse"):
        (a, b), (px, py), (ex, ey) = _axes(o), _own_frame(o, x, y), _turned_back(o, dx, dy)
        px, py, ex, ey = px / a, py / b, ex / a, ey / b  # on the unit circle
        square, mixed, power = ex**2 + ey**2, px * ex + py * ey, px**2 + py**2 - 1
        q = power / (np.sqrt(np.maximum(mixed**2 - square * power, 0)) - mixed)  # no difference of near numbers
    else:
        q = outlines.polygon_crossing(corners_of(o), x, y, dx, dy)
    return np.clip(q, SMALLEST_FRACTION, 1)


def _axes(o: Obstacle) -> tuple[float, float]:
    return o.size / 2, o.size / 2 * (o.aspect if o.shape == "ellipse" else 1.0)


def _turn(o: Obstacle) -> np.ndarray:
    """Matrix (2, 2) that turns vectors by the obstacle's angle; right angles are exact."""
    c, s = round(math.cos(math.radians(o.angle)), 15), round(math.sin(math.radians(o.angle)), 15)
    return np.array([(c, -s), (s, c)])


def _turned_back(o: Obstacle, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Components of a vector along the obstacle's own axes."""
    (c, _), (s, _) = _turn(o)
    return c * x + s * y, c * y - s * x


def _own_frame(o: Obstacle, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _turned_back(o, x - o.centre[0], y - o.centre[1])


def corners_of(o: Obstacle) -> np.ndarray:
    """Corners (n, 2) in cells of an obstacle that has some; of an image: of the rectangle around its solid pixels."""
    if o.shape == "image":
        unit = outlines.picture_box(o.file)
    elif o.shape == "naca":
        unit = outlines.naca(o.profile)
    elif o.shape == "square":
        unit = outlines.regular(4) @ np.array([[1, 1], [-1, 1]])
    else:
        unit = np.array(o.vertices, float) if o.vertices else outlines.regular(o.corners)
    return np.array(o.centre) + o.size * unit @ _turn(o).T
