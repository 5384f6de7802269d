"""How far the pattern in successive frames has moved, and where it goes if it moves on like that.

The displacement u (pixels per frame; u[0] along y, u[1] along x) minimises, in a Gaussian window around every pixel,

    sum over window and pairs of frames of   w (I_{n+1}(p) - I_n(p - u))^2

(Lucas and Kanade 1981), linearised about the last estimate and solved again, from blurred images to sharp ones; w
leaves out obstacles. Where an image says nothing about a direction, the neighbourhood's estimate stands in (after
Horn and Schunck 1981, doi:10.1016/0004-3702(81)90024-2). Blurs are products with banded matrices, so everything works
on a batch at once. Images are (batch, channel, y, x), weights and displacements (batch, y, x) and (batch, 2, y, x).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

BLURS = (4.0, 2.0, 1.0, 0.0)  # widths of the images' blur, pixels
ROUNDS = 4  # linearisations at each
TRUST = 0.05  # weight of the neighbourhood's estimate, in mean gradient energies
NEIGHBOURHOOD = 3.0  # its width, in windows
FAINT = 1e-6  # gradient energy that counts for nothing, in variances of the image per square pixel


@lru_cache(maxsize=64)
def _kernel(size: int, width: float) -> np.ndarray:
    """Gaussian blur along one axis as a matrix (size, size)."""
    place = np.arange(size)
    return np.exp(-0.5 * ((place[:, None] - place) / width) ** 2).astype(np.float32)


def blur(images: np.ndarray, width: float) -> np.ndarray:
    """Sums of (..., y, x) under a Gaussian window: not divided by the window's own sum."""
    if width == 0:
        return images
    ny, nx = images.shape[-2:]
    return _kernel(ny, width) @ images @ _kernel(nx, width)


def _mean(images: np.ndarray, weight: np.ndarray, width: float) -> np.ndarray:
    """Weighted mean in a window."""
    return blur(images * weight, width) / np.maximum(blur(weight, width), 1e-12)


def sample(images: np.ndarray, weight: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images (batch, channel, y, x) at points (batch, 2, y, x), between cells of weight > 0; and the weight there.

    Points beyond the edge take the value at the edge. The weight is the part of the four cells that counts.
    """
    batch, channels, ny, nx = images.shape
    y, x = np.clip(points[:, 0], 0, ny - 1), np.clip(points[:, 1], 0, nx - 1)
    low_y, low_x = np.minimum(y.astype(int), max(0, ny - 2)), np.minimum(x.astype(int), max(0, nx - 2))
    dy, dx = (y - low_y).astype(np.float32), (x - low_x).astype(np.float32)
    which = np.arange(batch)[:, None, None]
    total, share = np.zeros((batch, channels, *points.shape[2:]), np.float32), np.zeros(y.shape, np.float32)
    for step_y, step_x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        cell_y, cell_x = np.minimum(low_y + step_y, ny - 1), np.minimum(low_x + step_x, nx - 1)
        part = np.where(step_y, dy, 1 - dy) * np.where(step_x, dx, 1 - dx) * weight[which, cell_y, cell_x]
        total += part[:, None] * np.moveaxis(images[which, :, cell_y, cell_x], -1, 1)
        share += part
    return total / np.maximum(share, 1e-6)[:, None], share


def grid(ny: int, nx: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(ny), np.arange(nx), indexing="ij")).astype(np.float32)


def _gradient(images: np.ndarray) -> np.ndarray:
    """Central differences, (batch, 2, channel, y, x); one-sided at the edges."""
    return np.stack(
        [np.gradient(images, axis=axis) if images.shape[axis] > 1 else np.zeros_like(images) for axis in (-2, -1)], 1
    )


def displacement(frames: np.ndarray, fluid: np.ndarray, window: float) -> np.ndarray:
    """Displacement (batch, 2, y, x), pixels per frame, of frames (batch, time, channel, y, x) with fluid (batch, y, x).

    Channels should be of comparable size. `window` is the width of the Gaussian window.
    """
    weight = fluid.astype(np.float32)
    ny, nx = frames.shape[-2:]
    moved, here = np.zeros((len(frames), 2, ny, nx), np.float32), grid(ny, nx)
    for width in BLURS:
        smooth = _mean(frames, weight[:, None, None], width)
        slope = [_gradient(smooth[:, n]) for n in range(frames.shape[1])]
        for _ in range(ROUNDS):
            square, cross = np.zeros((3, *weight.shape), np.float32), np.zeros((2, *weight.shape), np.float32)
            for n in range(frames.shape[1] - 1):
                both = np.concatenate([smooth[:, n, None], slope[n]], 1)
                warped, there = sample(both.reshape(len(frames), -1, ny, nx), weight, here - moved)
                image, *towards = np.moveaxis(warped.reshape(both.shape), 1, 0)
                g = [(a + b) / 2 for a, b in zip(towards, np.moveaxis(slope[n + 1], 1, 0), strict=True)]
                inside = ((here - moved >= 0) & (here - moved <= np.array([ny - 1, nx - 1])[:, None, None])).all(1)
                w = (weight * there * inside)[:, None]
                error = smooth[:, n + 1] - image
                for row, (a, b) in zip(square, ((0, 0), (0, 1), (1, 1)), strict=True):
                    row += (w * g[a] * g[b]).sum(1)
                for row, a in zip(cross, (0, 1), strict=True):
                    row -= (w * g[a] * error).sum(1)
            moved = moved + _solve(blur(square, window), blur(cross, window), moved, window)
    return moved


def _solve(square: np.ndarray, cross: np.ndarray, moved: np.ndarray, window: float) -> np.ndarray:
    """The change of `moved` that fits best, drawn towards the neighbourhood's mean where little is seen."""
    yy, yx, xx = square
    energy = yy + xx
    trust = TRUST * energy.mean((-2, -1), keepdims=True) + FAINT
    width = NEIGHBOURHOOD * window
    around = _mean(moved, energy[:, None] + FAINT, width) - moved
    yy, xx = yy + trust, xx + trust
    by, bx = cross[0] + trust * around[:, 0], cross[1] + trust * around[:, 1]
    determinant = yy * xx - yx**2
    return np.stack([(xx * by - yx * bx) / determinant, (yy * bx - yx * by) / determinant], 1)


def carry(frame: np.ndarray, fluid: np.ndarray, moved: np.ndarray, steps: int) -> Iterator[np.ndarray]:
    """`steps` frames (batch, channel, y, x): `frame`, carried further and further along by a steady displacement.

    Semi-Lagrangian (Germann and Zawadzki 2002, doi:10.1175/1520-0493(2002)130<2859:SDOTPO>2.0.CO;2): every cell is
    followed back along the displacements to where its value is now, so that it is interpolated once. A path that
    would lead into an obstacle ends at it.
    """
    weight = fluid.astype(np.float32)
    batch, _, ny, nx = frame.shape
    origin = np.broadcast_to(grid(ny, nx), (batch, 2, ny, nx)).copy()
    everywhere = np.ones_like(weight)
    for _ in range(steps):
        back = origin - sample(moved, everywhere, origin)[0]
        open_there = sample(frame, weight, back)[1] > 0
        origin = np.where(open_there[:, None], back, origin)
        yield sample(frame, weight, origin)[0]
