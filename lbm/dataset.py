"""The file format shared by simulations, forecasts and scores (schema version 1).

`create` allocates a whole dataset, `Writer.write` fills aligned regions, `Writer.mark` acknowledges
them, `Writer.finish` adds the manifest and then `complete`. `open_dataset` refuses what is unfinished
or damaged. Axis order is (trajectory, time, y, x); values are float32 in lattice units; unwritten
floats are NaN. `docs/dataset-format.md` shows the tree.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from lbm import store
from lbm.errors import DataError, ResourceError, UsageError

if TYPE_CHECKING:
    import xarray as xr
    import zarr

SCHEMA_VERSION = 1
Coordinate = tuple[str | Sequence[str], Any, Mapping[str, Any]]


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
}


def create(
    path: Path | str,
    *,
    variables: Mapping[str, Variable],
    coords: Mapping[str, Coordinate],
    sizes: Mapping[str, int],
    attrs: Mapping[str, Any],
    overwrite: bool = False,
) -> Writer:
    """Allocate a dataset and return its `Writer`, which holds the lock.

    `coords` maps names to (dims, values, attributes) and is written at once. `attrs` gains
    `schema_version`, `complete`, and `versions` and `git_commit` where they are not given. A progress
    variable is added: `frames_written` where variables have a `time`, `cases_written` where they have
    a `member`. The dataset appears under its name only when all of this is on disk. Raises
    `UsageError` when the path exists (and `overwrite` is not set, or it is no dataset of ours),
    `ResourceError` when it cannot be written.
    """
    path = Path(path)
    lock = store.Lock(path)
    check_output(path, overwrite=overwrite)
    lock.acquire()
    partial = path.with_name(f".{path.name}.partial")
    try:
        check_output(path, overwrite=overwrite)  # once more, now that nobody else can create it
        store.remove_tree(partial)
        with store.disk_errors(path):
            _allocate(partial, _with_progress(variables), coords, sizes, attrs)
            if path.exists():
                retired = path.with_name(f".{path.name}.old.partial")
                store.remove_tree(retired)
                path.rename(retired)
                partial.rename(path)
                store.remove_tree(retired)
            else:
                partial.rename(path)
        return Writer(path, lock)
    except BaseException:
        if partial.exists():
            shutil.rmtree(partial, ignore_errors=True)
        lock.release()
        raise


def check_output(path: Path | str, *, overwrite: bool) -> None:
    """Refuse an output path that must not be touched: `UsageError`, or `ResourceError` for its folder."""
    path = Path(path)
    if path.is_symlink():
        raise UsageError(f"{path} is a symbolic link: give the path it points to, or another one")
    if not path.parent.is_dir():
        raise ResourceError(f"{path.parent} does not exist or is no folder: create it first")
    if not path.exists():
        return
    if not path.is_dir():
        raise UsageError(f"{path} exists and is a file: choose another output")
    if not is_ours(path):
        raise UsageError(f"{path} exists and is not a dataset of this software: choose another output")
    if not overwrite:
        raise UsageError(f"{path} exists: add --overwrite to replace it, or --resume to go on with it")


def is_ours(path: Path) -> bool:
    """Whether a directory is a dataset written by this module (finished or not)."""
    try:
        return "schema_version" in store.read_group(path)
    except (DataError, OSError):
        return False


def resume(path: Path | str) -> Writer:
    """The `Writer` of an unfinished dataset. `UsageError` when finished, `DataError` when there is none."""
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path} does not exist: there is nothing to resume")
    if read_attributes(path).get("complete") is True:
        raise UsageError(f"{path} is already complete: there is nothing to resume")
    lock = store.Lock(path)
    lock.acquire()
    try:
        if read_attributes(path).get("complete") is True:
            raise UsageError(f"{path} is already complete: there is nothing to resume")
        store.remove_leftovers(path)
        return Writer(path, lock)
    except BaseException:
        lock.release()
        raise


class Writer:
    """Fills a dataset region by region; a context manager that gives the lock back at its end.

    Threads may write at the same time as long as their regions share no chunk.
    """

    def __init__(self, path: Path, lock: store.Lock) -> None:
        import zarr
        from zarr.storage import LocalStore

        self.path = path
        self._lock = lock
        self._group = zarr.open_group(LocalStore(path), mode="r+", zarr_format=3)
        self._arrays: dict[str, zarr.Array] = {}
        self._dims: dict[str, tuple[str, ...]] = {}
        self._progress = next((name for name in PROGRESS if (path / name).is_dir()), None)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back. The dataset stays unfinished unless `finish` was called."""
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
            # Chunks equal to the fill value are written too: a missing chunk always means a loss.
            self._arrays[name] = array.with_config({"write_empty_chunks": True})
            self._dims[name] = tuple(array.metadata.dimension_names or ())
        return self._arrays[name]

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
                raise ValueError(
                    f"{name}: {dim}={part} is outside 0:{length} or not aligned to chunks of {chunk}"
                )
            if isinstance(part, slice):
                shape.append(stop - start)
                selection.append(slice(start, stop))
            else:
                selection.append(int(part))
        return tuple(selection), tuple(shape)

    def mark(self, **region: int | slice) -> None:
        """Acknowledge a unit AFTER its data: advance `frames_written`, or set `cases_written`.

        `mark(trajectory=3, time=slice(20, 40))` says that frames 0 to 39 of run 3 are there.
        """
        if self._progress == "frames_written":
            trajectory, time = region["trajectory"], region["time"]
            stop = time.stop if isinstance(time, slice) else time + 1
            with store.disk_errors(self.path / "frames_written"):
                self.array("frames_written")[trajectory] = stop
        elif self._progress == "cases_written":
            dims = self.dims("cases_written")
            if missing := set(dims) - set(region):
                raise ValueError(f"mark needs {sorted(missing)}")
            with store.disk_errors(self.path / "cases_written"):
                self.array("cases_written")[tuple(region[d] for d in dims)] = 1
        else:
            raise ValueError(f"{self.path} has no progress variable")

    def dims(self, name: str) -> tuple[str, ...]:
        """Names of the dimensions of a variable."""
        self.array(name)
        return self._dims[name]

    def finish(self) -> None:
        """Check that all is written, then add the manifest and, last, `complete`. `DataError` when not."""
        done, total, unit = progress(self.path)
        if done < total:
            raise DataError(f"{self.path} is not finished: {done} of {total} {unit} written")
        attributes = self.attrs
        store.remove_tree(self.path / store.RESTART)
        store.remove_leftovers(self.path)
        store.write_manifest(self.path, attributes)
        store.write_group(self.path, {**attributes, "complete": True})


def read_attributes(path: Path | str) -> dict[str, Any]:
    """Attributes of a dataset, finished or not, after checking its schema version. Raises `DataError`."""
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if not path.is_dir():
        raise DataError(f"{path} is a file; a dataset is a directory")
    attributes = store.read_group(path)
    version = attributes.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path}: schema version {version!r}, this software reads {SCHEMA_VERSION}"
            if version is not None
            else f"{path} is not a dataset of this software (no schema_version)"
        )
    return attributes


def progress(path: Path | str) -> tuple[int, int, str]:
    """(done, total, unit) of a dataset by its progress variable; (1, 1, "dataset") without one."""
    import zarr

    path = Path(path)
    for name, (along, _) in PROGRESS.items():
        if (path / name).is_dir():
            array = _readable(
                path, lambda p, n=name: zarr.open_array(store.CheckedStore(p), path=n, mode="r")
            )
            values = np.asarray(_readable(path, lambda _, a=array: a[...]))
            if along == "time":
                frames = _frame_count(path)
                return int(np.clip(values, 0, frames).sum()), frames * values.size, "frames"
            return int((values == 1).sum()), values.size, "cases"
    return 1, 1, "dataset"


def _frame_count(path: Path) -> int:
    """Length of the dimension `time`, from the metadata of any array that has it."""
    for name in store.array_names(path):
        metadata = store.read_metadata(path / name / store.ROOT)
        dims = metadata.get("dimension_names") or []
        if "time" in dims:
            return int(metadata["shape"][dims.index("time")])
    raise DataError(f"{path} has no array with a dimension time")


def open_dataset(path: Path | str, *, allow_incomplete: bool = False, chunks: Any = "stored") -> xr.Dataset:
    """Open a dataset lazily; small arrays (coordinates, masks) are in memory at once.

    `chunks` goes to xarray: by default dask arrays with the chunks on disk, None for lazy arrays
    without dask. Raises `DataError` when the dataset is missing, unfinished (unless
    `allow_incomplete`; what is unwritten then reads as NaN), of another schema version, or lacks a
    file of its manifest; a damaged chunk raises it when read, by name.
    """
    import xarray as xr

    path = Path(path)
    attributes = read_attributes(path)
    required: frozenset[str] = frozenset()
    if attributes.get("complete") is True:
        files, _ = store.read_manifest(path)
        store.check_presence(path, files)
        required = frozenset(files)
    elif not allow_incomplete:
        done, total, unit = progress(path)
        raise DataError(
            f"{path} is unfinished ({done} of {total} {unit} written): finish it by running its command "
            "with --resume, or read what is there with --allow-incomplete"
        )
    for name in store.array_names(path):
        next(store.chunk_keys(path, name), None)  # a hostile shape is refused before dask plans its chunks
    checked = store.CheckedStore(path, required=required)
    lazily = {} if chunks == "stored" or chunks == {} else chunks
    dataset = _readable(
        path, lambda _: xr.open_zarr(checked, consolidated=False, chunks=lazily, decode_times=False)
    )
    dataset = _readable(path, lambda _: _load_small(dataset))
    dataset.encoding["source"] = str(path)
    return dataset


def check(path: Path | str) -> None:
    """Read every byte; `DataError` names the file that is missing or damaged.

    An unfinished dataset is checked as far as it goes: the chunks that are there must be intact.
    """
    path = Path(path)
    attributes = read_attributes(path)
    if attributes.get("complete") is not True:
        for name in store.array_names(path):
            for chunk in sorted((path / name / "c").rglob("*")):
                if (
                    chunk.is_file()
                    and chunk.suffix != ".partial"
                    and not store.crc_matches(chunk.read_bytes())
                ):
                    raise DataError(f"{chunk} is damaged (checksum)")
        return
    files, attributes_sha256 = store.read_manifest(path)
    store.check_presence(path, files)
    if store.attributes_digest(attributes) != attributes_sha256:
        raise DataError(f"{path / store.ROOT} is damaged: its attributes differ from the manifest")
    for key, (_, sha) in files.items():
        if hashlib.sha256((path / key).read_bytes()).hexdigest() != sha:
            raise DataError(f"{path / key} is damaged: its SHA-256 differs from the manifest")


def digest(path: Path | str) -> str:
    """SHA-256 (hex) of the manifest: it identifies the content. `DataError` for an unfinished dataset."""
    path = Path(path)
    if read_attributes(path).get("complete") is not True:
        raise DataError(f"{path} is unfinished: it has no digest yet (finish it with --resume)")
    files, _ = store.read_manifest(path)
    return hashlib.sha256(store.canonical(files)).hexdigest()


@functools.cache
def _git_commit() -> str | None:
    """The commit of the checkout this package runs from; None when installed from a wheel."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def provenance(*extra: str) -> dict[str, Any]:
    """Attributes saying which software wrote a dataset: `versions` and `git_commit`.

    `extra` names further distributions (such as "torch"). There is no date in it: a dataset resumed
    tomorrow equals one written today to the bit.
    """
    names = ("rvdflow", "numpy", "numba", "zarr", "numcodecs", "xarray", *extra)
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"versions": versions, "git_commit": _git_commit()}


def _with_progress(variables: Mapping[str, Variable]) -> dict[str, Variable]:
    result = dict(variables)
    used = {dim for variable in variables.values() for dim in variable.dims}
    needed = {"cases_written": {"member", "init_time"}, "frames_written": {"trajectory", "time"}}
    for name in [name for name, dims in needed.items() if dims <= used or name in variables]:
        default = PROGRESS[name][1]
        # One chunk for each counter: threads acknowledge without touching each other's.
        result[name] = replace(result.get(name, default), chunks=(1,) * len(default.dims), fill=0)
    return result


def _allocate(
    folder: Path,
    variables: Mapping[str, Variable],
    coords: Mapping[str, Coordinate],
    sizes: Mapping[str, int],
    attrs: Mapping[str, Any],
) -> None:
    import zarr
    from zarr.storage import LocalStore

    full = {"schema_version": SCHEMA_VERSION, **provenance(), **attrs, "complete": False}
    extra = sorted(
        name
        for name, (dims, _, _) in coords.items()
        if tuple([dims] if isinstance(dims, str) else dims) != (name,)
    )
    if extra:
        full["coordinates"] = " ".join(extra)  # the CF way of saying that these are coordinates
    group = zarr.create_group(LocalStore(folder), zarr_format=3)
    arrays = dict(variables)
    for name, (dims, values, attributes) in coords.items():
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
            # Level 1: on float fields higher levels gain 1-2 % of size for several times the cost.
            BloscCodec(
                cname="zstd",
                clevel=1,
                shuffle=BloscShuffle.shuffle,
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


def _load_small(dataset: xr.Dataset, limit: int = 2**24) -> xr.Dataset:
    for name, variable in list(dataset.variables.items()):
        if variable.dtype.kind == "T":
            values = np.array(variable.values.tolist(), dtype=str)  # a dtype every library knows
            dataset[name] = (variable.dims, values, variable.attrs)
        elif name in dataset.coords or (variable.nbytes <= limit and "time" not in variable.dims):
            dataset[name].load()
    return dataset


def _readable(path: Path, action: Any) -> Any:
    """Run a reading action; whatever zarr or xarray make of damaged metadata becomes a `DataError`."""
    try:
        return action(path)
    except DataError:
        raise
    except Exception as error:  # zarr raises KeyError, TypeError, ... from anywhere on hostile metadata
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read: {first[:200]}") from error
