"""Allocating a dataset and filling it: `Variable`, `Writer`. Public names are those of `lbm.dataset`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from lbm import chunks, manifest, store
from lbm.errors import DataError
from lbm.provenance import provenance

if TYPE_CHECKING:
    import zarr

SCHEMA_VERSION = 1
Coordinate = tuple[str | Sequence[str], Any, Mapping[str, Any]]  # dimensions, values, attributes


@dataclass(frozen=True)
class Variable:
    """One array to allocate: its dimensions, dtype and attributes.

    `chunks` defaults to one chunk for the whole array; `fill` to NaN for floats, else 0. `values`, if
    given, are written at once (a mask, a table of parameters).
    """

    dims: tuple[str, ...]
    dtype: str
    attrs: Mapping[str, Any]
    chunks: tuple[int, ...] | None = None
    fill: Any = None
    values: Any = None


# A progress variable says what has been acknowledged: by its dimensions it is a counter of frames or a flag.
PROGRESS = {
    "frames_written": ("time", Variable(("trajectory",), "int32", {"long_name": "frames written so far"})),
    "cases_written": (
        "lead_time",
        Variable(("trajectory", "init_time"), "int8", {"long_name": "1 where the forecast is written"}),
    ),
    "clips_written": ("clip", Variable(("trajectory",), "int8", {"long_name": "1 where the clip is written"})),
}
CLIPS_PER_CHUNK = 1024  # of arrays with a number or a few for each clip; one process writes them


class Writer:
    """Fills a dataset region by region; a context manager that gives the lock back at its end.

    Threads and processes may write at the same time as long as their regions share no chunk. A worker of a
    cluster has no lock of its own: it works for the process that holds it.
    """

    def __init__(self, path: Path, lock: store.Lock | None = None) -> None:
        import zarr
        from zarr.storage import LocalStore

        self.path = path
        self._lock = lock
        self._group = zarr.open_group(LocalStore(path), mode="r+", zarr_format=3)
        self._arrays: dict[str, zarr.Array] = {}
        self._dims: dict[str, tuple[str, ...]] = {}
        self._encoders: dict[str, chunks.Encoder | None] = {}
        self._progress = next((name for name in PROGRESS if (path / name).is_dir()), None)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back. The dataset stays unfinished unless `finish` was called."""
        if self._lock is not None:
            self._lock.release()

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes of the dataset, as written by `create`."""
        return store.read_group(self.path)

    @property
    def scratch(self) -> Path:
        """A private folder inside the dataset for the state of an unfinished run; `finish` removes it."""
        folder = self.path / store.RESTART
        if not (folder / store.ROOT).exists():
            with store.disk_errors(folder):
                folder.mkdir(exist_ok=True)
            store.write_group(folder, {"description": "state of an unfinished run"})
        return folder

    def array(self, name: str) -> zarr.Array:
        """The Zarr array of a variable. `KeyError` when there is none."""
        if name not in self._arrays:
            array: Any = self._group[name]
            self._dims[name] = tuple(array.metadata.dimension_names or ())
            self._encoders[name] = chunks.encoder(self.path / name, array)
            # Chunks equal to the fill value are written too: a missing chunk always means a loss.
            self._arrays[name] = array.with_config({"write_empty_chunks": True})
        return self._arrays[name]

    def has(self, name: str) -> bool:
        """Whether the dataset has a variable."""
        return (self.path / name / store.ROOT).is_file()

    def write(self, name: str, values: Any, **region: int | slice) -> None:
        """Write `values` to `region` (dimension -> index or slice; left out = whole) of variable `name`.

        A region begins on a chunk boundary, so that two writers of neighbouring regions never touch
        one chunk; the shape must match exactly, nothing is broadcast (`ValueError`).
        """
        array = self.array(name)
        selection, shape = self._selection(name, region)
        values = np.asarray(values)
        if values.shape != shape:
            raise ValueError(f"{name}: region {region} has shape {shape}, the values have {values.shape}")
        with store.disk_errors(self.path / name, values.nbytes):
            encoder = self._encoders[name]
            index = None if encoder is None else encoder.index(selection)
            if encoder is not None and index is not None:
                encoder.write(index, values)
            else:  # part of a chunk, or several: Zarr reads, merges and writes
                array[selection] = values.astype(array.dtype, copy=False)

    def _selection(
        self, name: str, region: Mapping[str, int | slice]
    ) -> tuple[tuple[int | slice, ...], tuple[int, ...]]:
        array = self.array(name)
        dims = self._dims[name]
        if unknown := set(region) - set(dims):
            raise ValueError(f"{name} has the dimensions {dims}, not {sorted(unknown)}")
        selection: list[int | slice] = []
        shape = []
        for dim, length, chunk in zip(dims, array.shape, array.chunks, strict=True):
            part = region.get(dim, slice(None))
            start, stop, step = part.indices(length) if isinstance(part, slice) else (part, part + 1, 1)
            if step != 1 or start % chunk or not 0 <= start <= stop <= length:
                raise ValueError(f"{name}: {dim}={part} is outside 0:{length} or not aligned to chunks of {chunk}")
            if isinstance(part, slice):
                shape.append(stop - start)
                selection.append(slice(start, stop))
            else:
                selection.append(int(part))
        return tuple(selection), tuple(shape)

    def mark(self, **region: int | slice) -> None:
        """Acknowledge a unit AFTER its data: advance `frames_written`, or set `cases_written` or `clips_written`.

        `mark(trajectory=3, time=slice(20, 40))` says that frames 0 to 39 of run 3 are there.
        """
        if self._progress == "frames_written":
            time = region["time"]
            stop = time.stop if isinstance(time, slice) else time + 1
            self.write("frames_written", np.int32(stop), trajectory=region["trajectory"])
        elif self._progress is not None:
            dims = self.dims(self._progress)
            if missing := set(dims) - set(region):
                raise ValueError(f"mark needs {sorted(missing)}")
            with store.disk_errors(self.path / self._progress):
                self.array(self._progress)[tuple(region[d] for d in dims)] = 1
        else:
            raise ValueError(f"{self.path} has no progress variable")

    def dims(self, name: str) -> tuple[str, ...]:
        """Names of the dimensions of a variable."""
        self.array(name)
        return self._dims[name]

    def update_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add to the attributes of an unfinished dataset (atomically)."""
        store.write_group(self.path, {**self.attrs, **attributes})

    def finish(self) -> None:
        """Check that all is written, then add the manifest and, last, `complete`. `DataError` when not."""
        done, total, unit = progress(self.path)
        if done < total:
            raise DataError(f"{self.path} is not finished: {done} of {total} {unit} written")
        attributes = self.attrs
        store.remove_tree(self.path / store.RESTART)
        store.remove_leftovers(self.path)
        manifest.write_manifest(self.path, attributes)
        store.write_group(self.path, {**attributes, "complete": 1})


def progress(path: Path | str) -> tuple[int, int, str]:
    """(done, total, unit) of a dataset by its progress variable; (1, 1, "dataset") without one."""
    import zarr

    path = Path(path)
    for name, (along, _) in PROGRESS.items():
        if (path / name).is_dir():
            array = store.readable(path, lambda p, n=name: zarr.open_array(store.CheckedStore(p), path=n, mode="r"))
            values = np.asarray(store.readable(path, lambda _, a=array: a[...]))
            if along == "time":
                frames = frame_count(path)
                return int(np.clip(values, 0, frames).sum()), frames * values.size, "frames"
            return int((values == 1).sum()), values.size, f"{name.removesuffix('_written')}"
    return 1, 1, "dataset"


def frame_count(path: Path) -> int:
    """Length of the dimension `time`, from the metadata of any array that has it."""
    for name in store.array_names(path):
        metadata = store.read_metadata(path / name / store.ROOT)
        dims = metadata.get("dimension_names") or []
        if "time" in dims:
            return int(metadata["shape"][dims.index("time")])
    raise DataError(f"{path} has no array with a dimension time")


def with_progress(variables: Mapping[str, Variable]) -> dict[str, Variable]:
    result = dict(variables)
    used = {dim for variable in variables.values() for dim in variable.dims}
    if "length" in variables:
        counter = PROGRESS["clips_written"][1]
        return result | {"clips_written": replace(counter, chunks=(CLIPS_PER_CHUNK,), fill=0)}
    needed = {"cases_written": {"member", "init_time"}, "frames_written": {"trajectory", "time"}}
    for name in [name for name, dims in needed.items() if dims <= used or name in variables]:
        default = PROGRESS[name][1]
        # One chunk for each counter: threads acknowledge without touching each other's.
        result[name] = replace(result.get(name, default), chunks=(1,) * len(default.dims), fill=0)
    return result


def allocate(
    folder: Path,
    variables: Mapping[str, Variable],
    coords: Mapping[str, Coordinate | Variable],
    sizes: Mapping[str, int],
    attrs: Mapping[str, Any],
) -> None:
    import zarr
    from zarr.storage import LocalStore

    full = {"schema_version": SCHEMA_VERSION, **provenance(), **attrs, "complete": 0}
    # 0 and 1: netCDF, which xarray writes a store to as it is, knows no booleans
    full = {name: int(value) if isinstance(value, bool) else value for name, value in full.items()}
    axes = {name: part.dims if isinstance(part, Variable) else part[0] for name, part in coords.items()}
    extra = sorted(name for name, dims in axes.items() if tuple([dims] if isinstance(dims, str) else dims) != (name,))
    if extra:
        full["coordinates"] = " ".join(extra)  # the CF way of saying that these are coordinates
    group = zarr.create_group(LocalStore(folder), zarr_format=3)
    arrays = dict(variables)
    for name, part in coords.items():
        if isinstance(part, Variable):
            arrays[name] = part
            continue
        dims, values, attributes = part
        values = np.asarray(values)
        dtype = "str" if values.dtype.kind in "UOT" else values.dtype.name
        names = (dims,) if isinstance(dims, str) else tuple(dims)
        arrays[name] = Variable(names, dtype, attributes, values=values)
    for name, variable in arrays.items():
        _create_array(group, name, variable, sizes)
    store.write_group(folder, full)


def _create_array(group: zarr.Group, name: str, variable: Variable, sizes: Mapping[str, int]) -> None:
    from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec

    if missing := [dim for dim in variable.dims if dim not in sizes]:
        raise ValueError(f"{name}: no size given for {missing}")
    shape = tuple(int(sizes[dim]) for dim in variable.dims)
    text = variable.dtype == "str"
    fill = variable.fill
    if fill is None:
        fill = "" if text else np.nan if np.dtype(variable.dtype).kind == "f" else 0
    chunks = variable.chunks or shape
    array = group.create_array(
        name,
        shape=shape,
        chunks=tuple(max(1, min(c, n)) for c, n in zip(chunks, shape, strict=True)) if shape else "auto",
        dtype=variable.dtype,
        fill_value=fill,
        compressors=[
            # Measured on vorticity, 20 frames of 128x128, processor time to write / to read, share of the raw size:
            # lz4 at level 5 1.4 / 0.6 ms, 0.65 (byte shuffle: 0.67); zstd at level 1 4.0 / 2.5 ms, 0.60.
            BloscCodec(
                cname="lz4",
                clevel=5,
                shuffle=BloscShuffle.bitshuffle,
                typesize=None if text else np.dtype(variable.dtype).itemsize,
            ),
            Crc32cCodec(),
        ],
        dimension_names=variable.dims,
        attributes=dict(variable.attrs),
        config={"write_empty_chunks": True},
    )
    if variable.values is not None:
        values = np.asarray(variable.values)
        if values.shape != shape:
            raise ValueError(f"{name}: values of shape {values.shape}, its dimensions say {shape}")
        array[...] = values.astype(array.dtype)
