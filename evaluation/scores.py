"""Scores on disk, for those who use `evaluation` without the command line (which adds checksums and a manifest)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import xarray as xr


def write_scores(scores: xr.Dataset, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write `scores` as a Zarr store, all or nothing: a temporary folder beside `path`, then renamed.

    Raises `FileExistsError` if `path` exists and is not a Zarr store, or exists and `overwrite` is not set.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already: choose another name or give --overwrite")
    if path.exists() and not (path / "zarr.json").is_file():
        raise FileExistsError(f"{path} is not a Zarr store and will not be replaced: choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        scores.to_zarr(temporary, mode="w", consolidated=False, zarr_format=3)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return path


def read_scores(path: str | Path) -> xr.Dataset:
    """The scores written by `write_scores`, in memory."""
    with xr.open_zarr(path, consolidated=False) as stored:
        return stored.load()
