"""The folder of a run: made, reopened or replaced, never anybody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lbm.errors import DataError, UsageError
from rvdflow import checkpoint
from rvdflow.train_config import RunConfig


def prepare_folder(folder: Path, data: Path, config: RunConfig | None, *, resume: bool, overwrite: bool) -> RunConfig:
    """Make (or reopen) a run folder and write its config.json; returns the configuration that holds.

    Never deletes anything but a run's own files, and those only with `overwrite`.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: name another folder with -o")
    stored = read_config(folder) if (folder / "config.json").is_file() else None
    if resume:
        if not folder.exists():
            raise DataError(f"{folder}: nothing to resume there; leave out --resume to start")
        return _agreed(folder, stored, config) if stored else _begin(folder, data, config)
    if stored is None and folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} exists and is not a run folder: name another one with -o")
    if stored is not None and not overwrite:
        raise UsageError(f"{folder} holds a run already: go on with --resume, or replace it with --overwrite")
    return _begin(folder, data, config)


def _begin(folder: Path, data: Path, config: RunConfig | None) -> RunConfig:
    if config is None:
        raise UsageError(f"{folder} holds no configuration yet: leave out --resume to start")
    checkpoints = folder / "checkpoints"
    (folder / "config.json").unlink(missing_ok=True)  # first: what is left of an old run must not look like one
    for pattern in ("*.pt", "*.pt.sha256", "*.tmp"):
        for old in checkpoints.glob(pattern):
            old.unlink()
    for old in (folder / "tensorboard").glob("events.out.tfevents.*"):
        old.unlink()
    for name in ("log.csv", "log.jsonl", "latest"):
        (folder / name).unlink(missing_ok=True)
    checkpoints.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"config": config.model_dump(mode="json"), "data": str(data)}, indent=2)
    checkpoint.replace_file(folder / "config.json", text.encode())
    return config


def _agreed(folder: Path, stored: RunConfig, config: RunConfig | None) -> RunConfig:
    if config is not None and config != stored:
        differing = differences(stored.model_dump(), config.model_dump())
        raise UsageError(
            f"{folder} was begun with other settings ({'; '.join(differing[:3])}): leave them out to resume"
        )
    return stored


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Settings in which two configurations differ, as `key: old, now new`."""
    found: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a}, now {b}")
    return found


def read_config(folder: Path) -> RunConfig:
    """The configuration of a run folder. DataError when its config.json is damaged."""
    path = folder / "config.json"
    try:
        return RunConfig.model_validate(json.loads(path.read_text())["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        line = " ".join(str(error).split())[:160]
        raise DataError(f"{path}: not the configuration of a run ({line})") from error


def next_run_folder(preset: str, root: Path = Path("runs")) -> Path:
    """runs/<preset>-<n> with the smallest n that is free."""
    n = 1
    while (root / f"{preset}-{n}").exists():
        n += 1
    return root / f"{preset}-{n}"
