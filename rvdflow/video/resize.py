"""Frames of one size -> frames of another size, and colour -> gray.

Frames are uint8 (time, y, x, channel) with 1 or 3 channels, in and out. Two choices say how a size is reached:

`fit`, which part of the frame is kept
    "stretch": all of it; the two axes may be scaled differently.
    "crop": the largest centred window with the aspect ratio of the target (`window` says how it is rounded).
    (y, x, height, width): this window.

`method`, how the window is scaled. A pixel is a square, so pixel centres lie at k + 1/2 in both sizes.
    "area": the mean over the part of the window that a new pixel covers. Where the sizes divide, the exact mean of
        a block, rounded half to even; elsewhere Pillow's BOX, in two passes with 8 bits between them.
    "bilinear", "bicubic", "lanczos": Pillow's, whose kernel widens with the scale, so that they do not alias.
    "aliased-bilinear": the four pixels around the new pixel's centre, whatever the scale; beyond the outermost
        centres the outermost pixel. Exact, rounded half to even. It is the formula of OpenCV's INTER_LINEAR, which
        rounds its weights to 11 bits: results may differ from it by one level.

Cropping comes first: pixels outside the window never enter. A window that has the target's size is copied as it is.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from lbm.errors import UsageError

Window = tuple[int, int, int, int]  # y, x, height, width

_FILTERS = {
    "area": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
METHODS = (*_FILTERS, "aliased-bilinear")
FITS = ("stretch", "crop")


def resize(
    frames: np.ndarray, size: tuple[int, int], *, method: str = "area", fit: str | Window = "crop"
) -> np.ndarray:
    """Frames with (height, width) = `size`, a new array. UsageError for an option that cannot be honoured."""
    _check(frames)
    if method not in METHODS:
        raise UsageError(f"resizing method {method!r} is unknown: choose one of {', '.join(METHODS)}")
    y, x, height, width = window(frames.shape[1:3], size, fit)
    frames = frames[:, y : y + height, x : x + width]
    if (height, width) == tuple(size):
        return frames.copy()
    scaled = np.empty((len(frames), *size, frames.shape[3]), dtype=np.uint8)
    whole = height % size[0] == 0 and width % size[1] == 0
    for frame, target in zip(frames, scaled, strict=True):
        if method == "aliased-bilinear":
            target[...] = _aliased_bilinear(frame, *size)
        elif method == "area" and whole:
            target[...] = _block_mean(frame, *size)
        else:
            target[...] = _pillow(frame, *size, _FILTERS[method])
    return scaled


def window(native: tuple[int, int], size: tuple[int, int], fit: str | Window) -> Window:
    """The part (y, x, height, width) of frames of size `native` that becomes frames of size `size`.

    With "crop" one side is the frame's own and the other rounded down to whole pixels, at least one; where the
    margins differ, the smaller one is at the top or left. UsageError when the window does not lie in the frame.
    """
    (height, width), (rows, columns) = native, size
    if rows < 1 or columns < 1:
        raise UsageError(f"frames of {rows} x {columns} pixels wanted: both must be at least 1")
    if fit == "stretch":
        return 0, 0, height, width
    if fit == "crop":
        high = min(height, max(1, width * rows // columns))
        wide = min(width, max(1, height * columns // rows))
        return (height - high) // 2, (width - wide) // 2, high, wide
    if isinstance(fit, str) or len(fit) != 4:
        raise UsageError(f"fit {fit!r} is unknown: choose {', '.join(FITS)} or a window (y, x, height, width)")
    y, x, high, wide = (int(number) for number in fit)
    if min(y, x) < 0 or min(high, wide) < 1 or y + high > height or x + wide > width:
        raise UsageError(f"the window {high} x {wide} at ({y}, {x}) does not lie in frames of {height} x {width}")
    return y, x, high, wide


def with_channels(frames: np.ndarray, channels: int) -> np.ndarray:
    """Frames with 1 or 3 channels: red, green, blue -> gray by `luma`, gray -> colour by repetition."""
    _check(frames)
    if channels not in (1, 3):
        raise UsageError(f"{channels} channels wanted: frames have 1 (gray) or 3 (red, green, blue)")
    if channels == frames.shape[3]:
        return frames
    return luma(frames) if channels == 1 else np.repeat(frames, 3, axis=3)


def luma(frames: np.ndarray) -> np.ndarray:
    """(time, y, x, 3) -> (time, y, x, 1): 0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601).

    In Pillow's fixed point, so that the result is that of `Image.convert("L")`: weights of 16 bits, halves up.
    """
    gray = np.empty((*frames.shape[:3], 1), dtype=np.uint8)
    for frame, target in zip(frames, gray, strict=True):  # one by one: the sum takes four times the memory
        red, green, blue = np.moveaxis(frame, 2, 0).astype(np.uint32)
        target[..., 0] = (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16
    return gray


def _block_mean(frame: np.ndarray, rows: int, columns: int) -> np.ndarray:
    height, width, channels = frame.shape
    blocks = frame.reshape(rows, height // rows, columns, width // columns, channels)
    return _quotient(blocks.sum(axis=(1, 3), dtype=np.int64), (height // rows) * (width // columns))


def _aliased_bilinear(frame: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Sums of whole numbers, divided once at the end: with weights of denominators 2 rows and 2 columns."""
    above, below, down = _neighbours(frame.shape[0], rows)
    left, right, along = _neighbours(frame.shape[1], columns)
    down, along = down[:, None, None], along[None, :, None]
    wide = frame.astype(np.int64)
    upper = wide[above][:, left] * (2 * columns - along) + wide[above][:, right] * along
    lower = wide[below][:, left] * (2 * columns - along) + wide[below][:, right] * along
    return _quotient(upper * (2 * rows - down) + lower * down, 4 * rows * columns)


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Along one axis: the pixels before and after each new centre, and 2 new times the weight of the second.

    The centre of new pixel k lies at (k + 1/2) old / new - 1/2 = ((2 k + 1) old - new) / (2 new) old pixels.
    """
    place = (2 * np.arange(new, dtype=np.int64) + 1) * old - new
    before, weight = np.divmod(np.clip(place, 0, 2 * new * (old - 1)), 2 * new)
    return before, np.minimum(before + 1, old - 1), weight


def _quotient(total: np.ndarray, divisor: int) -> np.ndarray:
    """total / divisor, rounded half to even."""
    whole, rest = np.divmod(total, divisor)
    return (whole + (2 * rest + (whole & 1) > divisor)).astype(np.uint8)


def _pillow(frame: np.ndarray, rows: int, columns: int, resample: Image.Resampling) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(frame[..., 0] if frame.shape[2] == 1 else frame))
    return np.asarray(image.resize((columns, rows), resample)).reshape(rows, columns, -1)


def _check(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] not in (1, 3) or 0 in frames.shape[1:3]:
        raise UsageError(
            f"frames of type {frames.dtype} and shape {frames.shape}: uint8 (time, y, x, channel) with 1 or 3 wanted"
        )
