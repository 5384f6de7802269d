"""The file format shared by simulations, forecasts and scores (schema version 1).

`create` allocates a whole dataset, `Writer.write` fills aligned regions, `Writer.mark` acknowledges
them, `Writer.finish` adds the manifest and then `complete`. `open_dataset` refuses what is unfinished
or damaged. Axis order is (trajectory, time, y, x); values are float32 in lattice units; unwritten
floats are NaN. `docs/dataset-format.md` shows the tree.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lbm import manifest, store
from lbm.errors import DataError, ResourceError, UsageError
from lbm.provenance import provenance
from lbm.writer import CLIPS_PER_CHUNK, SCHEMA_VERSION, Coordinate, Variable, Writer, allocate, progress, with_progress

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "CLIPS_PER_CHUNK",
    "SCHEMA_VERSION",
    "Coordinate",
    "Variable",
    "Writer",
    "check",
    "check_output",
    "create",
    "digest",
    "is_ours",
    "open_dataset",
    "progress",
    "provenance",
    "read_attributes",
    "resume",
]


def create(
    path: Path | str,
    *,
    variables: Mapping[str, Variable],
    coords: Mapping[str, Coordinate | Variable],
    sizes: Mapping[str, int],
    attrs: Mapping[str, Any],
    overwrite: bool = False,
) -> Writer:
    """Allocate a dataset and return its `Writer`, which holds the lock.

    `coords` maps names to (dims, values, attributes) and is written at once; a `Variable` among them may
    be filled later. `attrs` gains `schema_version`, `complete`, and `versions` and `git_commit` where they
    are not given. A progress variable is added: `clips_written` where `length` is a variable, else
    `frames_written` where variables have a `time`, `cases_written` where they have a `member`. The dataset
    appears under its name only when all of this is on disk. Raises `UsageError` when the path exists (and
    `overwrite` is not set, or it is no dataset of ours), `ResourceError` when it cannot be written.
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
            allocate(partial, with_progress(variables), coords, sizes, attrs)
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
    if path.parent.exists() and not path.parent.is_dir():
        raise UsageError(f"{path.parent} is a file, not a folder: choose another output")
    if not path.parent.is_dir():
        raise ResourceError(f"the folder {path.parent} does not exist: create it first")
    if not path.exists():
        return
    if not path.is_dir():
        raise UsageError(f"{path} exists and is a file: choose another output")
    if not is_ours(path):
        raise UsageError(f"{path} exists and is not a dataset of this software: choose another output")
    if not overwrite:
        raise UsageError(
            f"{path} exists: add --overwrite to replace it, or, where it is unfinished, go on with --resume"
        )


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
    return {**attributes, "complete": attributes.get("complete") in (True, 1)}


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
        files, _ = manifest.read_manifest(path)
        manifest.check_presence(path, files)
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

    def open_with(how: Any) -> xr.Dataset:
        return store.readable(path, lambda _: xr.open_zarr(checked, consolidated=False, chunks=how, decode_times=False))

    dataset, direct = open_with(lazily), open_with(None)
    dataset = store.readable(path, lambda _: _load_small(dataset, direct))
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
                if chunk.is_file() and chunk.suffix != ".partial" and not store.crc_matches(chunk.read_bytes()):
                    raise DataError(f"{chunk} is damaged (checksum)")
        return
    files, attributes_sha256 = manifest.read_manifest(path)
    manifest.check_presence(path, files)
    if manifest.attributes_digest(attributes) != attributes_sha256:
        raise DataError(f"{path / store.ROOT} is damaged: its attributes differ from the manifest")
    for key, (_, sha) in files.items():
        if hashlib.sha256((path / key).read_bytes()).hexdigest() != sha:
            raise DataError(f"{path / key} is damaged: its SHA-256 differs from the manifest")


def digest(path: Path | str) -> str:
    """SHA-256 (hex) of the manifest: it identifies the content. `DataError` for an unfinished dataset."""
    path = Path(path)
    if read_attributes(path).get("complete") is not True:
        raise DataError(f"{path} is unfinished: it has no digest yet (finish it with --resume)")
    files, _ = manifest.read_manifest(path)
    return hashlib.sha256(store.canonical(files)).hexdigest()


def _load_small(dataset: xr.Dataset, direct: xr.Dataset, limit: int = 2**24) -> xr.Dataset:
    """Read small arrays, through the view without dask: a task for each of 10,000 one-number chunks takes a minute."""
    for name, variable in list(dataset.variables.items()):
        if variable.dtype.kind == "T":
            values = np.array(variable.values.tolist(), dtype=str)  # a dtype every library knows
            dataset[name] = (variable.dims, values, variable.attrs)
        elif name in dataset.dims:
            continue  # an index, in memory already
        elif name in dataset.coords or (variable.nbytes <= limit and not {"time", "state_time"} & set(variable.dims)):
            dataset[name].data = direct[name].values
    return dataset
