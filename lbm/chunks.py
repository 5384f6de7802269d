"""Whole chunks of a Zarr array, encoded and written directly: Zarr's bytes without Zarr's event loop.

    values -> padded with the fill value to a full chunk -> blosc -> CRC-32C -> <array>/c/<i>/<j>/...

A chunk written through `zarr.Array` costs about a millisecond of Python, which is more than it takes to compress
twenty frames of 128x128. Only the codecs that `lbm.writer` allocates are known here; `encoder` answers None for
anything else, and for regions that are not exactly one chunk, and Zarr itself writes those.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numcodecs import Blosc  # type: ignore[import-untyped]

from lbm import store

if TYPE_CHECKING:
    import zarr

_SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}
_serial = itertools.count()


@dataclass(frozen=True)
class Encoder:
    """How the chunks of one array are made; `encode` gives the bytes Zarr would write."""

    folder: Path
    dtype: np.dtype[Any]
    fill: Any
    shape: tuple[int, ...]  # of the array
    chunks: tuple[int, ...]
    codec: Blosc

    def index(self, selection: tuple[int | slice, ...]) -> tuple[int, ...] | None:
        """Grid index of the chunk that a selection fills, up to the end of the array; None when it fills none."""
        found = []
        for part, length, chunk in zip(selection, self.shape, self.chunks, strict=True):
            start, stop = (part.start, part.stop) if isinstance(part, slice) else (part, part + 1)
            if start % chunk or stop != min(start + chunk, length):
                return None
            found.append(start // chunk)
        return tuple(found)

    def encode(self, index: tuple[int, ...], values: np.ndarray) -> bytes:
        """The bytes of chunk `index` from the values it has inside the array (any shape of that many elements)."""
        inside = [min(c, n - i * c) for i, c, n in zip(index, self.chunks, self.shape, strict=True)]
        chunk = np.ascontiguousarray(values, self.dtype.newbyteorder("<")).reshape(inside)
        if tuple(inside) != self.chunks:
            whole = np.full(self.chunks, self.fill, chunk.dtype)
            whole[tuple(slice(n) for n in inside)] = chunk
            chunk = whole
        data = self.codec.encode(chunk)
        return data + google_crc32c.value(data).to_bytes(4, "little")

    def write(self, index: tuple[int, ...], values: np.ndarray) -> None:
        """Put one chunk on disk; a reader sees the old chunk or the new one. Raises `OSError`."""
        data = self.encode(index, values)
        file = self.folder.joinpath("c", *map(str, index))
        partial = file.with_name(f".{file.name}.{os.getpid()}-{next(_serial)}.partial")
        try:
            try:
                partial.write_bytes(data)
            except FileNotFoundError:  # the first chunk of its row
                file.parent.mkdir(parents=True, exist_ok=True)
                partial.write_bytes(data)
            os.replace(partial, file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def encoder(folder: Path, array: zarr.Array) -> Encoder | None:
    """The `Encoder` of an array in its folder, or None when Zarr has to write it."""
    metadata = store.read_metadata(folder / store.ROOT)
    names = [codec.get("name") for codec in metadata.get("codecs", ())]
    plain = metadata.get("chunk_key_encoding") == {"name": "default", "configuration": {"separator": "/"}}
    if names != ["bytes", "blosc", "crc32c"] or not plain or metadata.get("storage_transformers"):
        return None
    settings = metadata["codecs"][1]["configuration"]
    if array.dtype.kind not in "biuf" or settings["shuffle"] not in _SHUFFLES:
        return None
    codec = Blosc(
        cname=settings["cname"],
        clevel=settings["clevel"],
        shuffle=_SHUFFLES[settings["shuffle"]],
        blocksize=settings["blocksize"],
        typesize=settings["typesize"],
    )
    return Encoder(folder, np.dtype(array.dtype), array.fill_value, tuple(array.shape), tuple(array.chunks), codec)
