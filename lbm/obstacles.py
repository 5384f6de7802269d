"""Obstacles on the grid: the cells they fill, a start flow parted around them, and what cannot work.

Coordinates (x, y) in cells: the centre of the cell in row j, column i lies at (i, j), so the flow occupies
-1/2 <= x <= nx - 1/2. A cell is solid when its centre lies inside a shape. Walls are known exactly:
`wall_fraction` is what interpolated walls need; half-way walls need only the mask. See `lbm.shapes` for one obstacle.
"""

import math
from collections.abc import Sequence

import numpy as np

from lbm import outlines
from lbm.errors import UsageError
from lbm.shapes import SHAPES, Obstacle, bounds, distance, inside, outline, wall_fraction
from lbm.units import mach

__all__ = [
    "SHAPES",
    "Obstacle",
    "bodies",
    "bounds",
    "coarsen_mask",
    "distance",
    "inside",
    "outline",
    "parted_flow",
    "problems",
    "wall_fraction",
]


def bodies(obstacles: Sequence[Obstacle], ny: int, nx: int) -> np.ndarray:
    """Which obstacle fills each cell, (ny, nx) int16: its index, the first one where they overlap; -1 is fluid."""
    body = np.full((ny, nx), -1, np.int16)
    x, y = np.arange(nx, dtype=float), np.arange(ny, dtype=float)
    for index, o in reversed(list(enumerate(obstacles))):
        rows, columns = _box(o, 1, x, y)
        body[rows, columns][inside(o, x[None, columns], y[rows, None])] = index
    return body


def coarsen_mask(solid: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Solid mask of box-filtered frames: a coarse cell is solid when at least half of its cells are."""
    ny, nx = shape
    boxes = solid.reshape(ny, solid.shape[0] // ny, nx, solid.shape[1] // nx)
    return boxes.mean((1, 3)) >= 0.5


def parted_flow(obstacles: Sequence[Obstacle], ny: int, nx: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth start: velocities (ny, nx) of unit flow that parts before the obstacles, at rest on their walls.

    Stream function psi = (y + sum_k a_k y_k) / (1 + sum_k a_k), a_k = (1 - s_k) / s_k: y far away and y_k, the middle
    of its height, on obstacle k. s_k is a smooth step of the distance from 0 at the wall to 1 two heights away, or at
    the nearer side, or half-way to the next obstacle. Divergence-free, without the vortex sheet of potential flow.
    """
    pulls = [_pull(o, obstacles, ny) for o in obstacles]

    def psi(x, y):
        weight, pulled = np.zeros((2, y.size, x.size))
        for o, (middle, reach) in zip(obstacles, pulls, strict=True):
            rows, columns = _box(o, reach, x, y)
            t = np.clip(distance(o, x[None, columns], y[rows, None]) / reach, 0, 1)
            s = np.maximum(t * t * (3 - 2 * t), 1e-12)
            weight[rows, columns] += (1 - s) / s
            pulled[rows, columns] += (1 - s) / s * middle
        return (y[:, None] + pulled) / (1 + weight)

    x, y = np.arange(nx, dtype=float), np.arange(ny, dtype=float)
    edges_x, edges_y = np.arange(nx + 1) - 0.5, np.arange(ny + 1) - 0.5
    return np.diff(psi(x, edges_y), axis=0), -np.diff(psi(edges_x, y), axis=1)


def _pull(o: Obstacle, obstacles: Sequence[Obstacle], ny: int) -> tuple[float, float]:
    """Stream function on an obstacle, and how far from its wall it bends the flow."""
    _, _, y_min, y_max = bounds(o)
    room = min(y_min, ny - 1 - y_max) + 0.5
    for other in obstacles:
        if other is not o:
            room = min(room, _box_gap(bounds(o), bounds(other)) / 2)
    height = y_max - y_min
    return (y_min + y_max) / 2, min(2 * height, max(room, height / 2))  # less than half a height would make a jet


def _box_gap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Distance of two boxes (x_min, x_max, y_min, y_max), 0 where they meet."""
    return math.hypot(max(a[0] - b[1], b[0] - a[1], 0), max(a[2] - b[3], b[2] - a[3], 0))


def _box(o: Obstacle, margin: float, x: np.ndarray, y: np.ndarray) -> tuple[slice, slice]:
    """The parts of sorted ordinates y and abscissae x that lie within `margin` of an obstacle's bounds."""
    x_min, x_max, y_min, y_max = bounds(o)
    first, last = np.searchsorted(y, y_min - margin), np.searchsorted(y, y_max + margin, "right")
    left, right = np.searchsorted(x, x_min - margin), np.searchsorted(x, x_max + margin, "right")
    return slice(int(first), int(last)), slice(int(left), int(right))


MOST = 256  # obstacles
SMALLEST, GAP = 4.0, 2.0  # cells: size, fluid between two obstacles
BLOCKAGE_LIMIT, BLOCKAGE_WARNING = 0.5, 0.2
LOST_WARNING = 0.1  # part of an outline without a solid cell nearby
MOST_VERTICES = 1000
RESOLVED = 4e6  # cells: the box around an obstacle beyond which nothing of it is too thin to bother
SPIN_MACH_LIMIT = 0.3


def problems(
    obstacles: Sequence[Obstacle], ny: int, nx: int, ends: str = "open", sides: str = "periodic"
) -> tuple[list[str], list[str]]:
    """Reasons to refuse and reasons to warn, each a sentence: got, wanted, what to do. Costs no memory of the grid."""
    if len(obstacles) > MOST:
        return [f"{len(obstacles)} obstacles are too many (limit {MOST}): leave some out"], []
    errors = [sentence for o in obstacles for sentence in _wrong_values(o)]
    if errors:
        return errors, []
    warnings: list[str] = []
    for o in obstacles:
        errors += _outside(o, ny, nx, ends, sides)
        if not errors:
            wrong, doubtful = _lost(o)
            errors, warnings = errors + wrong, warnings + doubtful
    errors += _too_close(obstacles)
    filled = blockage(obstacles, ny)
    what = "the obstacle fills" if len(obstacles) == 1 else "the obstacles beside each other fill"
    fills = f"{what} {filled:.0%} of the channel"
    if filled > BLOCKAGE_LIMIT:
        errors.append(f"{fills} (limit {BLOCKAGE_LIMIT:.0%}): lower --diameter or the obstacle's size")
    elif filled > BLOCKAGE_WARNING:
        warnings.append(f"{fills}: flow beside is noticeably faster")
    return errors, warnings


def _wrong_values(o: Obstacle) -> list[str]:
    """What no obstacle may be, whatever the grid."""
    if o.shape not in SHAPES:
        return [f"the obstacle's shape is {o.shape!r}, wanted one of {', '.join(SHAPES)}"]
    numbers = {"centre": o.centre, "size": (o.size,), "angle": (o.angle,), "aspect": (o.aspect,), "spin": (o.spin,)}
    numbers["vertices"] = tuple(n for vertex in o.vertices for n in vertex)
    errors = [
        f"{name} of {o.shape} is {getattr(o, name)}, wanted finite numbers"
        for name, values in numbers.items()
        if not all(math.isfinite(v) for v in values)
    ]
    if errors:
        return errors
    if not o.size >= SMALLEST:
        errors.append(f"{o}: size {o.size:g} is below {SMALLEST:g} cells: an obstacle that small has no shape")
    if o.shape == "ellipse" and not 0 < o.aspect <= 1000:
        errors.append(f"{o}: aspect {o.aspect:g}, wanted second axis / first axis, above 0")
    if o.spin and o.shape != "cylinder":
        errors.append(f"{o} cannot spin: it would sweep cells, only a cylinder turns in its place")
    elif mach(abs(o.spin) * o.size / 2) > SPIN_MACH_LIMIT:
        most = SPIN_MACH_LIMIT / mach(1) / (o.size / 2)
        errors.append(
            f"{o}: its surface moves at Mach {mach(abs(o.spin) * o.size / 2):.2f} (limit {SPIN_MACH_LIMIT}): "
            f"lower spin to {most:.2g} rad/tick"
        )
    return errors + _wrong_outline(o)


def _wrong_outline(o: Obstacle) -> list[str]:
    if o.shape == "naca":
        digits = o.profile if len(o.profile) == 4 and o.profile.isascii() and o.profile.isdigit() else ""
        if not digits or digits[2:] == "00" or (digits[0] == "0") != (digits[1] == "0"):
            return [
                f"{o}: profile {o.profile[:20]!r}, wanted four NACA digits: camber in hundredths, its place in "
                "tenths, thickness in hundredths, such as 0012 or 4412"
            ]
    if o.shape == "polygon" and not o.vertices and not 3 <= o.corners <= MOST_VERTICES:
        return [f"{o}: {o.corners} corners, wanted 3 to {MOST_VERTICES}"]
    if o.shape == "polygon" and o.vertices:
        if not 3 <= len(o.vertices) <= MOST_VERTICES or any(len(vertex) != 2 for vertex in o.vertices):
            return [f"{o}: {len(o.vertices)} vertices, wanted 3 to {MOST_VERTICES} pairs x, y"]
        if outlines.crosses_itself(np.array(o.vertices, float)):
            return [f"{o}: its outline crosses itself: give the vertices in order around it"]
    if o.shape == "image":
        try:
            outlines.picture(o.file)
        except UsageError as error:
            return [str(error)]
    return []


def _outside(o: Obstacle, ny: int, nx: int, ends: str, sides: str) -> list[str]:
    """Links from a wall must find two cells of fluid, the inlet and the outlet some more."""
    x_min, x_max, y_min, y_max = bounds(o)
    before, behind = (2, 4) if ends == "open" else (1, 2)
    errors = []
    if not (x_min >= before and x_max <= nx - behind):
        room = "2 cells from the inlet and 4 from the outlet of" if ends == "open" else "inside the"
        errors.append(
            f"{o}: the obstacle reaches from x = {x_min:g} to {x_max:g}, wanted {room} {nx} cells along: "
            "move its centre or lower its size (--diameter)"
        )
    if not (y_min >= 1 and y_max <= ny - 2):
        errors.append(
            f"{o}: the obstacle reaches from y = {y_min:g} to {y_max:g}, wanted inside the {ny} cells across: "
            "move its centre or lower its size (--diameter)"
        )
    return errors


def blockage(obstacles: Sequence[Obstacle], ny: int) -> float:
    """Largest part of a column that obstacles fill, from their bounds."""
    boxes = [bounds(o) for o in obstacles]
    return max((sum(b[3] - b[2] for b in boxes if b[0] <= a[0] < b[1]) / ny for a in boxes), default=0.0)


def _too_close(obstacles: Sequence[Obstacle]) -> list[str]:
    boxes, errors = [bounds(o) for o in obstacles], []
    for j, (b, later) in enumerate(zip(boxes, obstacles, strict=True)):
        for a, earlier in zip(boxes[:j], obstacles, strict=False):
            if _box_gap(a, b) > GAP:
                continue
            gaps = (distance(one, *outline(other)).min() for one, other in ((earlier, later), (later, earlier)))
            gap = min(float(g) for g in gaps)  # both ways: one may stand within the other
            if gap < GAP:
                errors.append(
                    f"{later} {'overlaps' if gap < 0 else f'is {gap:.1f} cells from'} {earlier}, "
                    f"wanted {GAP:g} cells of fluid between them: move one of them"
                )
    return errors[:3]


def _lost(o: Obstacle) -> tuple[list[str], list[str]]:
    """Errors and warnings about parts too thin for cells: a thick outline has a solid cell within a diagonal."""
    x_min, x_max, y_min, y_max = bounds(o)
    if (x_max - x_min) * (y_max - y_min) > RESOLVED:
        return [], []
    first_x, first_y = math.floor(x_min) - 2, math.floor(y_min) - 2
    x, y = np.arange(first_x, math.ceil(x_max) + 3.0), np.arange(first_y, math.ceil(y_max) + 3.0)
    solid = inside(o, x[None], y[:, None])
    if not solid.any():
        return [f"{o} is so thin that no cell centre lies inside: raise its size (--diameter)"], []
    if o.shape == "image":
        return [], []
    px, py = outline(o)
    column, row = np.rint(px).astype(int), np.rint(py).astype(int)
    found = np.zeros(len(px), bool)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            near = np.hypot(column + i - px, row + j - py) <= 1.42
            found |= near & solid[row + j - first_y, column + i - first_x]
    lost = 1 - found.mean()
    if lost <= LOST_WARNING:
        return [], []
    return [], [f"{o}: {lost:.0%} of its outline is thinner than a cell and lost on the grid: raise its size"]
