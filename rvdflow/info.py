"""What a run folder, a checkpoint, an exported model or a store holds: a nested dict (in words: rvdflow.info_words)."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from lbm import dataset as store
from lbm.errors import DataError
from rvdflow import checkpoint, export_weights, runlog

Found = dict[str, Any]


def describe(path: Path, *, check: bool = False) -> Found:
    """A nested dict about the run folder, checkpoint file, exported model or store at `path`.

    `check` reads every byte. DataError when there is nothing, or it is damaged or not ours.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if export_weights.is_exported(path):
        return {"path": str(path), "kind": "exported model", **_checkpoint(export_weights.read(path))}
    if path.is_file():
        return {"path": str(path), "kind": "checkpoint", **_checkpoint(checkpoint.read(path))}
    if (path / "config.json").is_file() or (path / "checkpoints").is_dir():
        return _run(path, check)
    return _store(path, check)


# ------------------------------------------------------------------ runs


def _run(path: Path, check: bool) -> Found:
    folder = path / "checkpoints"
    named = [folder / name for name in ("final.pt", "best.pt") if (folder / name).is_file()]
    files = [*checkpoint.step_files(folder), *named]
    chosen = checkpoint.find(path) if files else None
    loaded = {file.name: checkpoint.read(file) for file in (files if check else [chosen] if chosen else [])}
    rows = runlog.read(path)
    found: Found = {
        "path": str(path),
        "kind": "run",
        "finished": (folder / "final.pt").is_file(),
        "writer": _writer(path),
        "checkpoints": [file.name for file in files],
        "checked": list(loaded),
        **(_checkpoint(loaded[chosen.name]) if chosen else {"step": 0, "config": _config(path)}),
        "last_log": rows[-1] if rows else None,
    }
    return found | {"training": _training(found, rows)}


def _config(run: Path) -> Found:
    """Settings of a run that has no checkpoint yet."""
    from rvdflow.run_folder import read_config

    return read_config(run).model_dump(mode="json") if (run / "config.json").is_file() else {}


def _writer(run: Path) -> str | None:
    """Who trains there at the moment, as `process 12 on host`; None when nobody does."""
    lock = store.store.Lock(run).file
    text = lock.read_text(errors="replace").strip()[:200] if lock.is_file() else ""
    words = text.split()
    if len(words) != 4 or not words[1].isdigit():
        return None
    if words[3] == socket.gethostname():
        try:
            os.kill(int(words[1]), 0)
        except (ProcessLookupError, OverflowError):
            return None  # killed: its lock is free, though the file is still there
        except PermissionError:
            pass
    return text


def _training(found: Found, rows: list[Found]) -> Found:
    """How far the training is, how fast it goes, and the best it has come to: from its log."""
    config = found["config"]
    train = config.get("train", {})
    last = rows[-1] if rows else {}
    speed = _speed(rows)
    best = _best(rows)
    memory = [row["memory_mib"] for row in rows if _number(row.get("memory_mib"))]
    return {
        "steps": last.get("step", found["step"]),
        "steps_wanted": None if train.get("minutes") else train.get("steps"),
        "minutes": _minutes(last),
        "minutes_wanted": train.get("minutes"),
        "skipped": last.get("skipped", found.get("skipped", 0)),
        "clips_per_second": speed,
        "frames_per_second": speed
        and speed * (found.get("clip_frames") or config["model"].get("clip_frames", math.nan)),
        "seconds_per_step": speed and train.get("batch_size", math.nan) / speed,
        "peak_memory_mib": max(memory, default=None),
        "validation": best,
    }


def _speed(rows: list[Found]) -> float | None:
    """Clips per second: the median over stretches between rows, so that validations do not count; None: no telling."""
    timed = [row for row in rows if _number(row.get("seconds")) and _number(row.get("samples"))]
    rates = [
        (b["samples"] - a["samples"]) / (b["seconds"] - a["seconds"])
        for a, b in pairwise([{"samples": 0, "seconds": 0.0}, *timed])
        if b["seconds"] > a["seconds"] and b["samples"] > a["samples"]
    ]
    return median(rates[1:] or rates) if rates else None  # the first stretch holds what is done once


def _best(rows: list[Found]) -> Found | None:
    """The validation with the smallest CRPS; the last one where no ensemble was run.

    Losses of different steps are not compared: their unit, the deviation of the residual, changes while it is learned.
    """
    for name in ("validation_crps", "validation_loss"):
        scored = [row for row in rows if _number(row.get(name))]
        if scored:
            row = min(scored, key=lambda r: r[name]) if name == "validation_crps" else scored[-1]
            return {
                "score": name,
                "value": row[name],
                "standard_error": row.get(f"{name}_error"),
                "step": row["step"],
                "minutes": _minutes(row),
                "validations": len(scored),
            }
    return None


def _minutes(row: Found) -> float | None:
    seconds = row.get("seconds")
    return None if seconds is None else round(seconds / 60, 3)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ------------------------------------------------------------------ checkpoints


def _checkpoint(loaded: checkpoint.Checkpoint) -> Found:
    meta = loaded.meta
    try:
        found = {
            "file": loaded.path.name,
            "sha256": loaded.sha256,
            "step": meta["optimiser"]["step"],
            "skipped": meta["optimiser"]["skipped"],
            **_network(meta),
            "numbers_in_weights": sum(v.numel() for v in loaded.state.get("weights", {}).values()),
            "data": meta["data"],
            "normalisation": meta["normalisation"],
            "software": meta["software"],
            "config": meta["config"],
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{loaded.path}: its description is not understood (no {error})") from error
    others = ("conditions", "threads", "device", "ranks", "inflation", "validation_spread_skill", "validation_crps",
              "validation_loss", "checkpoint")  # fmt: skip
    return found | {name: meta[name] for name in others if name in meta}


def _network(meta: Mapping[str, Any]) -> Found:
    """Parameters and training clips of the network described; None when this software cannot build it."""
    from rvdflow.build import describe_model
    from rvdflow.train_config import RunConfig
    from rvdflow.training_data import channel_count

    try:
        config, data = RunConfig.model_validate(meta["config"]), meta["data"]
        height, width = data["frame_size"]
        model = describe_model(config, (channel_count(data), height, width))
    except (ValueError, KeyError, TypeError, OSError):
        return {"parameters": None, "clip_frames": None}
    return {"parameters": sum(p.numel() for p in model.parameters()), "clip_frames": model.clip_frames}


# ------------------------------------------------------------------ stores


def _store(path: Path, check: bool) -> Found:
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
