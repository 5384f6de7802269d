"""What a run folder, a checkpoint or a store holds, in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lbm import dataset as store
from lbm.errors import DataError
from rvdflow import checkpoint, runlog


def describe(path: Path, *, check: bool = False) -> dict[str, Any]:
    """A nested dict about the run folder, checkpoint file or store at `path`; `check` reads every byte.

    DataError when there is nothing, or it is damaged or not ours.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.is_file():
        return {"path": str(path), "kind": "checkpoint", **_checkpoint(checkpoint.read(path))}
    if (path / "config.json").is_file() or (path / "checkpoints").is_dir():
        return _run(path, check)
    return _store(path, check)


def _run(path: Path, check: bool) -> dict[str, Any]:
    folder = path / "checkpoints"
    files = [*checkpoint.step_files(folder), *(p for p in [folder / "final.pt"] if p.is_file())]
    loaded = {file.name: checkpoint.read(file) for file in (files if check else files[-1:])}
    rows = runlog.read(path)
    return {
        "path": str(path),
        "kind": "run",
        "finished": (folder / "final.pt").is_file(),
        "checkpoints": [file.name for file in files],
        "checked": list(loaded),
        **(_checkpoint(loaded[files[-1].name]) if files else {"step": 0}),
        "last_log": rows[-1] if rows else None,
    }


def _checkpoint(loaded: checkpoint.Checkpoint) -> dict[str, Any]:
    meta = loaded.meta
    weights = loaded.state.get("weights", {})
    return {
        "file": loaded.path.name,
        "sha256": loaded.sha256,
        "step": meta["optimiser"]["step"],
        "skipped": meta["optimiser"]["skipped"],
        "numbers_in_weights": sum(v.numel() for v in weights.values()),
        "data": meta["data"],
        "normalisation": meta["normalisation"],
        "threads": meta["threads"],
        "software": meta["software"],
        "config": meta["config"],
    }


def _store(path: Path, check: bool) -> dict[str, Any]:
    attributes = store.read_attributes(path)
    done, total, unit = store.progress(path)
    opened = store.open_dataset(path, allow_incomplete=True)
    if check:
        store.check(path)
    return {
        "path": str(path),
        "kind": "store",
        "title": attributes.get("title"),
        "complete": attributes.get("complete") is True,
        "written": f"{done} of {total} {unit}",
        "checked": check,
        "sha256": store.digest(path) if attributes.get("complete") is True else None,
        "sizes": {str(k): v for k, v in opened.sizes.items()},
        "variables": {str(n): " ".join(map(str, v.dims)) for n, v in opened.data_vars.items()},
        "attributes": {k: _parsed(v) for k, v in attributes.items() if k not in ("complete", "title")},
    }


def _parsed(value: Any) -> Any:
    """Attributes such as `config` are JSON inside a string."""
    if isinstance(value, str) and value[:1] == "{":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def lines(found: dict[str, Any], indent: str = "") -> list[str]:
    """`describe`'s answer as indented text."""
    width = max((len(str(key)) for key in found), default=0)
    text = []
    for key, value in found.items():
        if isinstance(value, dict) and value:
            text += [f"{indent}{key}", *lines(value, indent + "  ")]
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            text.append(f"{indent}{key!s:{width}}  {shown}")
    return text
