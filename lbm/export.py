"""A dataset as one netCDF-4 file that follows the CF conventions, for tools that do not read Zarr.

    flow.zarr, forecast.zarr, scores.zarr  ->  flow.nc, forecast.nc, scores.nc

Values, names, dimensions and chunks stay; attributes become those of `lbm.cf`, masks become bytes with flag meanings.
One chunk is in memory at a time, and the file appears under its name only when it is whole. It holds no date: equal
datasets give equal files.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lbm import cf, dataset
from lbm.errors import ResourceError, UsageError

if TYPE_CHECKING:
    import xarray as xr

STATE = re.compile(r"populations|state_\w+")  # of the solver: exported only when asked for by name
LEVEL = 4  # of zlib; measured on vorticity and density: 1 is 2 % larger, 6 is 1 % smaller


def export(
    path: Path | str,
    output: Path | str | None = None,
    *,
    variables: Sequence[str] | None = None,
    trajectories: Sequence[int] | None = None,
    overwrite: bool = False,
    compress: bool = True,
) -> Path:
    """Write the dataset `path` (simulation, forecast or scores) as netCDF-4; returns the path of the file.

    `output` defaults to the name of the dataset with ".nc". `variables` are all but the solver's saved states,
    `trajectories` (their numbers, as the coordinate has them) all; coordinates and masks come along. Raises
    `UsageError` (the file exists, unknown names), `DataError` (the dataset is unfinished or damaged) and
    `ResourceError` (it cannot be written; no file is left then).
    """
    source = Path(path)
    target = Path(output) if output is not None else source.with_suffix(".nc")
    opened = dataset.open_dataset(source, chunks=None)
    _check_target(target, overwrite)
    names = _choose_variables(opened, variables, source)
    chosen = _choose_trajectories(opened, trajectories, source)
    with _partial(target) as file:
        _write(opened, names, chosen, file, compress)
    return target


def _check_target(target: Path, overwrite: bool) -> None:
    if target.suffix not in (".nc", ".nc4"):
        raise UsageError(f"{target}: a netCDF file is named .nc")
    if not target.parent.is_dir():
        raise ResourceError(f"the folder {target.parent} does not exist: create it first")
    if target.is_dir() or target.is_symlink():
        raise UsageError(f"{target} is a {'folder' if target.is_dir() else 'symbolic link'}: choose another output")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists: add --overwrite to replace it")


def _choose_variables(opened: xr.Dataset, wanted: Sequence[str] | None, path: Path) -> list[str]:
    """Names of data variables to write; a mask goes with every field."""
    there = sorted(str(name) for name in opened.data_vars if name not in cf.PROGRESS)
    if wanted is None:
        return [name for name in there if not STATE.fullmatch(name)]
    if not wanted or (unknown := [name for name in wanted if name not in there]):
        got = repr(unknown[0]) if wanted else "''"
        raise UsageError(f"{path} has no variable {got}: choose from {', '.join(there)}")
    return [name for name in there if name in wanted or name == "solid"]


def _choose_trajectories(opened: xr.Dataset, wanted: Sequence[int] | None, path: Path) -> list[int]:
    """Positions along `trajectory` of the numbers asked for, in the order of the dataset."""
    if "trajectory" not in opened.dims:
        if wanted is not None:
            raise UsageError(f"{path} has no trajectories to choose from: leave them out")
        return []
    there = opened["trajectory"].values.tolist()
    numbers = there if wanted is None else list(wanted)
    if not numbers or (unknown := [k for k in numbers if k not in there]):
        raise UsageError(f"trajectory {unknown[0] if numbers else 'none'}: {path} has {_span(there)}")
    return [position for position, number in enumerate(there) if number in numbers]


def _span(numbers: list[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 8 else ", ".join(map(str, numbers))


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A file beside the target that takes its place at the end, or vanishes."""
    name = ""
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial")
        os.close(descriptor)
        yield Path(name)
        with open(name, "rb") as stream:
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, target)
    except (OSError, RuntimeError) as error:  # the netCDF library reports a full disk as RuntimeError
        if isinstance(error, ResourceError):
            raise
        raise ResourceError(f"{target}: {getattr(error, 'strerror', None) or error}: is the disk full?") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name)


def _write(opened: xr.Dataset, names: list[str], trajectories: list[int], file: Path, compress: bool) -> None:
    import netCDF4

    described = cf.with_axes(opened[names])
    order = [*sorted(map(str, described.coords)), *names]
    with netCDF4.Dataset(file, "w", format="NETCDF4") as nc:
        nc.setncatts(cf.global_attributes(opened))
        for dim, size in described.sizes.items():
            nc.createDimension(str(dim), len(trajectories) if dim == "trajectory" else size)
        for name in order:
            _define(nc, described, name, compress)
        for name in order:
            _copy(nc, described[name], trajectories)


def _define(nc: Any, data: xr.Dataset, name: str, compress: bool) -> None:
    variable = data[name]
    text, is_data = variable.dtype.kind in "UOT", name in data.data_vars
    dims = [str(dim) for dim in variable.dims]
    sizes = [len(nc.dimensions[dim]) for dim in dims]
    chunks = [max(1, min(n)) for n in zip(_chunks(variable), sizes, strict=True)]
    packing: dict[str, Any] = {"compression": "zlib", "complevel": LEVEL, "shuffle": True}
    target = nc.createVariable(
        name,
        str if text else {"b": "i1"}.get(variable.dtype.kind, variable.dtype.str[1:]),
        dims,
        # Coordinates have no missing values; a mask neither.
        fill_value=np.array(np.nan, variable.dtype) if is_data and variable.dtype.kind == "f" else None,
        chunksizes=chunks if is_data and dims else None,
        **(packing if compress and is_data and not text else {}),
    )
    target.setncatts(cf.attributes(data, name))
    target.set_auto_maskandscale(False)


def _chunks(variable: xr.DataArray) -> list[int]:
    """Shape of its chunks in the store."""
    return [max(1, c) for c in variable.encoding.get("chunks") or variable.shape]


def _copy(nc: Any, variable: xr.DataArray, trajectories: list[int]) -> None:
    """Copy a variable chunk by chunk, and trajectory by trajectory."""
    parts = [
        [(slice(new, new + 1), slice(old, old + 1)) for new, old in enumerate(trajectories)]
        if dim == "trajectory"
        else [(slice(a, min(a + c, n)),) * 2 for a in range(0, n, c)]
        for dim, n, c in zip(variable.dims, variable.shape, _chunks(variable), strict=True)
    ]
    target = nc.variables[str(variable.name)]
    for region in product(*parts):
        values = variable[tuple(old for _, old in region)].values
        if values.dtype.kind == "b":
            values = values.astype(np.int8)
        target[tuple(new for new, _ in region) or ...] = values.astype(object) if values.dtype.kind in "UT" else values
