"""Image files -> frames uint8 (time, y, x, channel), by Pillow.

What is read: PNG, JPEG, BMP, TIFF and WebP with 8 bits (or 1 bit) per channel, told by their content, one picture a
file. Alpha is dropped (not blended with a background), a palette is looked up, EXIF is ignored: a picture that says
it should be turned is not. 16-bit images, floats and CMYK are refused: how they become 8 bits is not for us to guess.
Checksums of a PNG are verified, which Pillow alone does not do. A JPEG has none: damage that decodes goes unseen.

Everything that is wrong with a file is a DataError of one line.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lbm.errors import DataError
from rvdflow.video.files import reading, regular_size
from rvdflow.video.resize import with_channels
from rvdflow.video.source import Shrink, unchanged

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MAX_PIXELS = 2**26  # of one image, e.g. 8192 x 8192: below the size at which Pillow starts to warn
MAX_BYTES = 4 * MAX_PIXELS + 2**20  # of one file: four channels that are not compressed, and some metadata
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_GRAY, _COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "RGBX")


def read_image(path: Path, *, colour: bool) -> np.ndarray:
    """One image (y, x, channel) uint8: red, green and blue, or gray. DataError when it cannot be read."""
    if (size := regular_size(path)) > MAX_BYTES:
        raise DataError(f"{path}: {size} bytes, more than {MAX_BYTES} for one image: refused")
    with reading(path, "an image"):
        content = path.read_bytes()
        _open(path, content).verify()
        image = _open(path, content)
        pixels = np.asarray(image.convert("L" if image.mode in _GRAY else "RGB"))
    pixels = pixels.reshape(1, *pixels.shape[:2], -1)
    return with_channels(pixels, 3 if colour else 1)[0]


def read_images(paths: Sequence[Path], *, colour: bool, shrink: Shrink = unchanged) -> np.ndarray:
    """Images of one size as frames (time, y, x, channel), each put through `shrink`.

    DataError names the file that differs or is damaged.
    """
    if not paths:
        raise DataError("a clip without images: at least one is needed")
    first = read_image(paths[0], colour=colour)
    shrunk = shrink(first[None])
    frames = np.empty((len(paths), *shrunk.shape[1:]), dtype=np.uint8)
    frames[:1] = shrunk
    for k, path in enumerate(paths[1:], start=1):
        image = read_image(path, colour=colour)
        if image.shape != first.shape:
            got, wanted = (f"{shape[0]} x {shape[1]}" for shape in (image.shape, first.shape))
            raise DataError(f"{path}: {got} pixels, {paths[0].name} has {wanted}: images of a clip have one size")
        frames[k : k + 1] = shrink(image[None])
    return frames


def _open(path: Path, content: bytes) -> Image.Image:
    """The image with its header read and its pixels not yet decoded; refused when they would not be 8-bit."""
    image = Image.open(io.BytesIO(content), formats=_FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{path}: {image.width} x {image.height} pixels, more than {MAX_PIXELS} in all: refused")
    if (pictures := getattr(image, "n_frames", 1)) != 1:
        raise DataError(f"{path}: holds {pictures} pictures, one per file wanted")
    # Pillow cuts colour of 16 bits down to 8 without a word: only the decoder's arguments tell
    if image.mode not in _GRAY + _COLOUR or ";16" in repr([tile[3] for tile in image.tile]):
        raise DataError(f"{path}: pixels of kind {image.mode!r} or of 16 bits: 8-bit gray or colour wanted")
    return image
