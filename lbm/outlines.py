"""Outlines of obstacles: corner lists, distances and crossings of polygons, pictures.

Pure geometry on arrays, no grid. A polygon is its corners (n, 2), in order, either way round; the last one joins the
first. Aerofoils are polygons of cosine-spaced points on the NACA four-digit formula,

    y_t(x) = 5 t (0.2969 sqrt x - 0.1260 x - 0.3516 x^2 + 0.2843 x^3 - 0.1036 x^4)        half the thickness
    y_c(x) = m (2 p x - x^2) / p^2 for x < p,  m (1 - 2 p + 2 p x - x^2) / (1 - p)^2 beyond     camber line

for profile "mptt" (m in hundredths, p in tenths, t in hundredths of the chord): Jacobs, Ward & Pinkerton, NACA Report
460 (1933), with the last coefficient, there 0.1015, that closes the trailing edge.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

from lbm.errors import UsageError

NACA_STATIONS = 128  # along each side; the chords between them leave the curve by less than 5e-5 of the chord
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")  # none that runs a program, as PostScript would
IMAGE_PIXELS = 4096 * 4096
DARK = 128  # grey level below which a pixel, laid on white, is solid
ON_CORNER = 1e-9  # relative slack at the ends of an edge: a link through a corner crosses one of its two edges


def regular(corners: int) -> np.ndarray:
    """Corners (n, 2) of a regular polygon on the circle of diameter 1; the first one at (1/2, 0)."""
    turn = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(turn), np.sin(turn)], axis=1) / 2


def naca(profile: str) -> np.ndarray:
    """Corners (n, 2) of a NACA four-digit aerofoil of chord 1 about its middle, leading edge at the left."""
    m, p, t = int(profile[0]) / 100, int(profile[1]) / 10, int(profile[2:]) / 100
    x = (1 - np.cos(np.linspace(0, np.pi, NACA_STATIONS + 1))) / 2
    half = 5 * t * (0.2969 * np.sqrt(x) - 0.1260 * x - 0.3516 * x**2 + 0.2843 * x**3 - 0.1036 * x**4)
    camber, slope = np.zeros_like(x), np.zeros_like(x)
    if m > 0:
        scale = m / np.where(x < p, p, 1 - p) ** 2
        camber = scale * (np.where(x < p, 0, 1 - 2 * p) + 2 * p * x - x**2)
        slope = 2 * scale * (p - x)
    normal = np.stack([-slope, np.ones_like(x)], axis=1) / np.hypot(1, slope)[:, None]
    middle = np.stack([x - 0.5, camber], axis=1)
    upper, lower = middle + half[:, None] * normal, middle - half[:, None] * normal
    return np.concatenate([upper[::-1], lower[1:-1]])  # over the top to the nose, back below; both ends once


def polygon_distance(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Exact signed distance from a polygon, negative inside; broadcasts x and y."""
    nearest = np.full(np.broadcast(x, y).shape, np.inf)
    odd = np.zeros(nearest.shape, bool)
    for (px, py), (qx, qy) in _edges(corners):
        ex, ey, wx, wy = qx - px, qy - py, x - px, y - py
        t = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (wx - t * ex) ** 2 + (wy - t * ey) ** 2)
        between = (y >= py) != (y >= qy)  # each corner compared alike in both its edges: no streaks behind corners
        if ey != 0:
            odd ^= between & (wx < wy / ey * ex)  # the ray from the point to the right crosses this edge
    return np.where(odd, -1.0, 1.0) * np.sqrt(nearest)


def polygon_crossing(corners: np.ndarray, x: np.ndarray, y: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Smallest t > 0, rounding apart, at which (x, y) + t (dx, dy) meets a polygon; inf where none does."""
    first = np.full(np.broadcast(x, y, dx, dy).shape, np.inf)
    for (px, py), (qx, qy) in _edges(corners):
        ex, ey, wx, wy = qx - px, qy - py, px - x, py - y
        across = dx * ey - dy * ex
        with np.errstate(divide="ignore", invalid="ignore"):  # parallel: inf or nan, neither is a hit
            t = (wx * ey - wy * ex) / across
            along = (wx * dy - wy * dx) / across
        hit = (along > -ON_CORNER) & (along < 1 + ON_CORNER) & (t > -ON_CORNER)
        first = np.where(hit, np.minimum(first, t), first)
    return first


def _edges(corners: np.ndarray) -> list[tuple[list[float], list[float]]]:
    """Both ends of every edge that has a length."""
    ends = zip(corners.tolist(), np.roll(corners, -1, axis=0).tolist(), strict=True)
    return [(start, end) for start, end in ends if start != end]


def crosses_itself(corners: np.ndarray) -> bool:
    """Whether two edges of a polygon that are not neighbours meet."""
    a, e = corners, np.roll(corners, -1, axis=0) - corners
    n = len(a)
    i, j = np.triu_indices(n, 2)
    keep = ~((i == 0) & (j == n - 1))
    i, j = i[keep], j[keep]

    def side(k, point):
        w = point - a[k]
        return np.sign(e[k, 0] * w[:, 1] - e[k, 1] * w[:, 0])

    ends = np.roll(a, -1, axis=0)
    parted = (side(i, a[j]) * side(i, ends[j]) <= 0) & (side(j, a[i]) * side(j, ends[i]) <= 0)
    low, high = np.minimum(a, ends), np.maximum(a, ends)  # on one line only when their boxes meet
    return bool((parted & (low[i] <= high[j]).all(1) & (low[j] <= high[i]).all(1)).any())


def picture(file: str) -> np.ndarray:
    """Solid pixels (rows from the top, columns) bool of an image file: dark once it is laid on white.

    Raises `UsageError` for a file that is missing, no picture, too large, or has no dark pixel.
    """
    try:
        return _picture(file, Path(file).stat().st_mtime_ns)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        if isinstance(error, UsageError):
            raise
        what = getattr(error, "strerror", None) or "not a readable " + ", ".join(IMAGE_FORMATS)
        raise UsageError(f"the obstacle's image {file}: {what}: give a PNG whose dark pixels are solid") from None


def picture_box(file: str) -> np.ndarray:
    """Corners (4, 2) of the rectangle around a picture's solid pixels, in units of its width, about its middle."""
    solid = picture(file)
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    (height, width) = solid.shape
    left, right = columns[0] - width / 2, columns[-1] + 1 - width / 2
    top, bottom = height / 2 - rows[0], height / 2 - rows[-1] - 1
    return np.array([(left, bottom), (right, bottom), (right, top), (left, top)]) / width


@lru_cache(maxsize=8)
def _picture(file: str, _changed: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(file, formats=IMAGE_FORMATS) as opened:
            if opened.width * opened.height > IMAGE_PIXELS:
                raise UsageError(
                    f"the obstacle's image {file} has {opened.width} x {opened.height} pixels: "
                    f"wanted at most {IMAGE_PIXELS:,}, a few per cell are enough"
                )
            rgba = opened.convert("RGBA")
    except (SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UsageError(f"the obstacle's image {file} is damaged or too large: {error}") from None
    paper = Image.new("RGBA", rgba.size, "white")
    solid = np.asarray(Image.alpha_composite(paper, rgba).convert("L")) < DARK
    if not solid.any():
        raise UsageError(f"the obstacle's image {file} has no dark pixel: nothing would be solid")
    solid.flags.writeable = False
    return solid
