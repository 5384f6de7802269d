"""What a dataset says about itself: `lbm info`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lbm import console, dataset
from lbm.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

MAX_OBSTACLES = 10  # that are listed


def describe(path: Path | str, *, check: bool = False) -> dict[str, Any]:
    """Dimensions, variables, splits, parameters, provenance and completeness of a dataset, for JSON.

    An unfinished dataset is described too, with what is missing. `check` reads every chunk and compares
    checksums. Raises `DataError` when the dataset is missing or damaged.
    """
    path = Path(path)
    complete = dataset.read_attributes(path).get("complete") is True
    ds = dataset.open_dataset(path, allow_incomplete=True)
    if check:
        dataset.check(path)
    done, total, unit = dataset.progress(path)
    return {
        "path": str(path),
        "title": ds.attrs.get("title"),
        "complete": complete,
        "written": {"done": done, "total": total, "unit": unit},
        "checked": check,
        "digest": dataset.digest(path) if complete else None,
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "sizes": {str(name): int(size) for name, size in ds.sizes.items()},
        "variables": {name: _variable(ds[name]) for name in sorted(map(str, ds.data_vars))},
        "split": dict(Counter(ds["split"].values.tolist())) if "split" in ds.coords else {},
        "parameters": _parameters(ds),
        "config": _config(ds.attrs.get("config")),
        "attributes": {key: value for key, value in ds.attrs.items() if key not in ("config", "title", "complete")},
    }


def _variable(array: xr.DataArray) -> dict[str, Any]:
    chunks = array.encoding.get("chunks")
    return {
        "dims": [str(dim) for dim in array.dims],
        "dtype": str(array.dtype),
        "chunks": list(chunks) if chunks else None,
        "units": array.attrs.get("units"),
        "long_name": array.attrs.get("long_name"),
    }


def _parameters(ds: xr.Dataset) -> dict[str, Any]:
    """Numeric coordinates of each trajectory: one number where all agree, else [smallest, largest]."""
    result: dict[str, Any] = {}
    for name in sorted(map(str, ds.coords)):
        array = ds[name]
        if array.dims != ("trajectory",) or name == "trajectory" or array.dtype.kind not in "iuf":
            continue
        low, high = array.values.min(), array.values.max()
        same = low == high or bool(np.isnan(low) and np.isnan(high))
        result[name] = low.item() if same else [low.item(), high.item()]
    return result


def _config(text: Any) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        raise DataError("the attribute `config` is not valid JSON") from None


def text(report: dict[str, Any]) -> str:
    """The report of `describe` for people."""
    written = report["written"]
    state = "complete" if report["complete"] else "UNFINISHED"
    if not report["complete"]:
        state += f": {written['done']} of {written['total']} {written['unit']} written (go on with --resume)"
    if report["checked"]:
        state += ", every chunk intact"
    lines = [
        f"{report['path']}: {report['title'] or 'dataset'}",
        f"  state                 {state}",
        f"  size                  {console.size(report['bytes'])}",
        "  dimensions            " + ", ".join(f"{name} {size}" for name, size in report["sizes"].items()),
    ]
    for name, about in report["variables"].items():
        unit = f" [{about['units']}]" if about["units"] else ""
        lines.append(f"  {name:<21} ({', '.join(about['dims'])}) {about['dtype']}{unit}")
    if report["split"]:
        lines.append("  split                 " + ", ".join(f"{n} {name}" for name, n in report["split"].items()))
    for name, value in report["parameters"].items():
        shown = " to ".join(f"{v:g}" for v in value) if isinstance(value, list) else f"{value:g}"
        lines.append(f"  {name:<21} {shown}")
    try:
        lines += [f"  {name:<21} {value}" for name, value in _settings(report["config"])]
    except (TypeError, ValueError, KeyError, AttributeError):
        raise DataError("the attribute `config` holds no settings of a simulation") from None
    attributes = report["attributes"]
    if isinstance(attributes.get("strouhal"), float):
        error = attributes.get("strouhal_uncertainty")
        lines.append(
            f"  {'strouhal':<21} {attributes['strouhal']:.4f}"
            + (f" +- {error:.4f}" if isinstance(error, float) else "")
        )
    for key in ("method", "members", "frame_interval", "frame_interval_units", "source", "git_commit"):
        if attributes.get(key) is not None:
            lines.append(f"  {key:<21} {attributes[key]}")
    if attributes.get("versions"):
        lines.append(f"  versions              {attributes['versions']}")
    if report["digest"]:
        lines.append(f"  sha256                {report['digest']}")
    return "\n".join(lines)


def _settings(config: Any) -> list[tuple[str, str]]:
    """What a simulation's settings say beyond the numbers of each run: boundaries, obstacles, the sweep."""
    if not isinstance(config, dict) or not isinstance(config.get("obstacles"), list):
        return []
    lines = []
    bounds = [f"{config['ends']} ends" if "ends" in config else "", f"{config.get('sides')} sides"]
    lines.append(("boundaries", ", ".join(text for text in bounds if text)))
    lines += [("obstacle", _obstacle(one)) for one in config["obstacles"][:MAX_OBSTACLES] if isinstance(one, dict)]
    if len(config["obstacles"]) > MAX_OBSTACLES:
        lines.append(("", f"and {len(config['obstacles']) - MAX_OBSTACLES} more"))
    for name, values in (config.get("sweep") or {}).items():
        lines.append(("sweep", f"{name}: {len(values)} values, {min(values):g} to {max(values):g}"))
    for name, ranges in (config.get("held_out") or {}).items():
        lines.append(("held out", f"{name} " + ", ".join(f"{low:g} to {high:g}" for low, high in ranges)))
    return lines


def _obstacle(one: dict[str, Any]) -> str:
    words = [str(one.get("shape"))]
    if one.get("shape") == "naca":
        words.append(str(one.get("profile")))
    if one.get("centre"):
        words.append("at ({:g}, {:g})".format(*one["centre"]))
    words += [f"{name} {one[name]:g}" for name in ("size", "angle", "spin") if one.get(name)]
    return " ".join(words)
