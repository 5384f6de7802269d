"""Arrays in .npy, .npz and HDF5 files -> clips uint8 (time, y, x, channel).

`Layout.axes` names the dimensions as they are stored, each letter once: N clips, T time, H rows (y), W columns (x),
C channels. T, H and W must be there; without N the array is one clip, without C it is gray. "TNHW" is Moving MNIST.

Values: uint8 is taken as it is. Other numbers need a `value_range`, which is mapped to 0..255 and rounded half to
even; a value that would not round into 0..255 (or is no number) is refused.

Shapes in headers are checked against the size of the file before anything is allocated. .npy and uncompressed .npz
members are memory-mapped and HDF5 is read in slices, so one clip is in memory at a time; a compressed .npz member is
unpacked whole for each clip, and only up to 1 GiB. Python objects (pickle), HDF5 data in other files and HDF5 chunks
that were never written are refused.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from lbm.errors import DataError, UsageError
from rvdflow.video.files import reading, regular_size

SUFFIXES = (".npy", ".npz", ".h5", ".hdf5")
RANGES = {"0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0), "0..255": (0.0, 255.0)}
MAX_CLIP = 2**32  # bytes of one clip as stored
MAX_UNPACKED = 2**30  # bytes of a compressed .npz member
_HEADER = 2**16  # bytes of a .npy file in which its header must end


@dataclass(frozen=True)
class Layout:
    """How arrays are to be understood; `key` is the name of the array where a file holds several."""

    axes: str = "NTHWC"
    key: str = ""
    value_range: str | None = None

    def __post_init__(self) -> None:
        if len(set(self.axes)) < len(self.axes) or not set("THW") <= set(self.axes) <= set("NTHWC"):
            raise UsageError(f"axes {self.axes!r}: T, H, W and if need be N and C wanted, each once, e.g. 'NTHWC'")
        if self.value_range is not None and self.value_range not in RANGES:
            raise UsageError(f"value range {self.value_range!r} is unknown: choose one of {', '.join(RANGES)}")

    def lengths(self, path: Path, array: Any) -> dict[str, int]:
        """Length of each axis, 1 for N and C where there is none. DataError when the array cannot be such clips."""
        shape, dtype = tuple(array.shape or ()), array.dtype
        if len(shape) != len(self.axes):
            raise DataError(
                f"{path}: an array of shape {shape}, axes {self.axes!r} wanted: name the axes as they are stored, "
                "e.g. 'NTHW' or 'THWC'"
            )
        lengths = {"N": 1, "C": 1, **dict(zip(self.axes, (int(n) for n in shape), strict=True))}
        if min(lengths.values()) < 1 or lengths["C"] not in (1, 3):
            raise DataError(f"{path}: shape {shape} as axes {self.axes!r}: nothing may be empty, C must be 1 or 3")
        if dtype.kind not in "buif" or (self.value_range is None and dtype != np.uint8):
            raise DataError(f"{path}: values of type {dtype}: uint8 wanted, or numbers and their range as an option")
        if (size := math.prod(lengths[axis] for axis in "THWC") * dtype.itemsize) > MAX_CLIP:
            raise DataError(f"{path}: a clip of {size} bytes (shape {shape}), more than {MAX_CLIP}: refused")
        return lengths


def describe(path: Path, layout: Layout) -> dict[str, int]:
    """Lengths by axis (N, T, H, W, C) of the array in a file, from its header. DataError when it is none."""
    with _opened(path, layout.key) as array:
        return layout.lengths(path, array)


def read_clip(path: Path, layout: Layout, index: int) -> np.ndarray:
    """Clip number `index` of a file as frames (time, y, x, channel) uint8. DataError when it cannot be read."""
    with _opened(path, layout.key) as array:
        if not 0 <= index < layout.lengths(path, array)["N"]:
            raise DataError(f"{path}: no clip {index}, the shape is {tuple(array.shape)}")
        place = tuple(index if axis == "N" else slice(None) for axis in layout.axes)
        values = np.array(array[place])  # a copy: the file is closed below
    axes = layout.axes.replace("N", "")
    values = values.transpose([axes.index(axis) for axis in "THWC" if axis in axes])
    values = values if "C" in axes else values[..., None]
    if layout.value_range is None:
        return np.ascontiguousarray(values)
    return _levels(values, *RANGES[layout.value_range], f"{path}, clip {index}")


def _levels(values: np.ndarray, low: float, high: float, place: str) -> np.ndarray:
    """Values in low..high as grey levels 0..255."""
    levels = np.empty(values.shape, dtype=np.uint8)
    for k, frame in enumerate(values):  # one by one: float64 takes up to eight times the memory
        scaled = (frame.astype(np.float64) - low) * (255 / (high - low))
        if not (scaled.min() >= -0.5 and scaled.max() <= 255.5):  # so written because NaN compares as false
            got = f"{frame.min():.6g} to {frame.max():.6g}"
            raise DataError(f"{place}: values of frame {k} are {got}, the value range is {low:g} to {high:g}")
        levels[k] = np.clip(np.rint(scaled), 0, 255)
    return levels


@contextmanager
def _opened(path: Path, key: str) -> Iterator[Any]:
    """Something with shape, dtype and slices; whatever goes wrong while it is open is a DataError."""
    size = regular_size(path)
    kind = path.suffix.lower()
    with reading(path, f"an array of {kind}"):
        if kind == ".npy":
            with path.open("rb") as file:
                yield _mapped(path, file, 0, size)
        elif kind == ".npz":
            yield _npz_member(path, key)
        else:
            yield from _hdf5_dataset(path, key)


def _npy_header(path: Path, file: IO[bytes], size: int) -> tuple[tuple[int, ...], str, Any, int]:
    """(shape, order, dtype, offset of the values) of a .npy of `size` bytes, of which it must not promise more."""
    start = io.BytesIO(file.read(_HEADER))
    version = np.lib.format.read_magic(start)
    if version not in ((1, 0), (2, 0)):  # 3.0 is for records with names beyond Latin-1
        raise DataError(f"{path}: version {version} of the .npy format, 1.0 or 2.0 wanted")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(start)
    if dtype.hasobject:
        raise DataError(f"{path}: holds Python objects (pickle), refused: uint8 or numbers wanted")
    wanted, there = math.prod(shape) * dtype.itemsize, size - start.tell()
    if min(shape, default=0) < 1 or wanted > there:
        raise DataError(f"{path}: shape {shape} of {dtype} takes {wanted} bytes, the file holds {there}")
    return shape, "F" if fortran else "C", dtype, start.tell()


def _mapped(path: Path, file: IO[bytes], start: int, size: int) -> np.ndarray:
    """The .npy that lies at `start` of an open file, memory-mapped."""
    file.seek(start)
    shape, order, dtype, offset = _npy_header(path, file, size)
    return np.memmap(file, dtype=dtype, mode="r", offset=start + offset, shape=shape, order=order)  # type: ignore[call-overload]


def _npz_member(path: Path, key: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        info = archive.getinfo(f"{_chosen(path, names, key)}.npy")
        if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
            archive.open(info).close()  # compares the member's own header with the directory
            with path.open("rb") as file:
                file.seek(info.header_offset + 26)
                skip = 30 + sum(int.from_bytes(file.read(2), "little") for _ in range(2))  # name, extra field
                end = info.header_offset + skip + info.file_size
                if info.file_size != info.compress_size or end > regular_size(path):
                    raise DataError(f"{path}: {info.filename} ends behind the end of the file: truncated")
                return _mapped(path, file, info.header_offset + skip, info.file_size)
        if info.file_size > MAX_UNPACKED:
            raise DataError(f"{path}: {info.file_size} bytes to unpack, more than {MAX_UNPACKED}: save it as .npy")
        with archive.open(info) as member:
            shape, order, dtype, offset = _npy_header(path, member, info.file_size)
        with archive.open(info) as member:
            content = member.read(info.file_size)  # grows as it is unpacked; the checksum is verified at the end
    if len(content) < info.file_size:
        raise DataError(f"{path}: {info.filename} is {len(content)} bytes long, {info.file_size} were promised")
    return np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape, order=order)  # type: ignore[call-overload]


def _hdf5_dataset(path: Path, key: str) -> Iterator[Any]:
    try:
        import h5py
    except ImportError:
        raise UsageError(f"{path}: reading HDF5 takes h5py: pip install h5py") from None
    with h5py.File(path, "r") as file:
        here = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
        names = [name for name in here if isinstance(file[name], h5py.Dataset)]
        dataset = file.get(key or _chosen(path, names, ""))
        if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
            raise DataError(f"{path}: no dataset {key!r}; it has {', '.join(names) or 'none at its root'}")
        if dataset.is_virtual or dataset.external or not os.path.samefile(dataset.file.filename, path):
            raise DataError(f"{path}: the values of {dataset.name!r} lie in another file: refused")
        if dataset.chunks is None:
            wanted, there = dataset.nbytes, dataset.id.get_storage_size()
        else:
            wanted = math.prod(-(-n // chunk) for n, chunk in zip(dataset.shape, dataset.chunks, strict=True))
            there = dataset.id.get_num_chunks()
        if there < wanted:
            unit = "bytes" if dataset.chunks is None else "chunks"
            raise DataError(f"{path}: {there} of {wanted} {unit} of {dataset.name!r} were written: unfinished")
        yield dataset


def _chosen(path: Path, names: Sequence[str], key: str) -> str:
    if key and key not in names:
        raise DataError(f"{path}: no array {key!r}; it has {', '.join(names) or 'none'}")
    if not key and len(names) != 1:
        raise DataError(f"{path}: {len(names)} arrays ({', '.join(names)}): name one as the dataset key")
    return key or names[0]
