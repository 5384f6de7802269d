"""Checkpoints: written whole or not at all, verified before use, never unpickled.

A run folder holds `config.json`, `log.csv`, `log.jsonl` and `checkpoints/` with files `step-000123.pt` (everything
needed to go on training), `best.pt` (the weights that forecast the validation runs best so far, where training
validates) and, after training, `final.pt` (the weights it ended with). Beside each lies `NAME.pt.sha256`. A file is
written under a temporary name, flushed to disk and renamed; its checksum is there before it is, so a file without a
checksum, or one that disagrees, is damaged and refused by name.

Content: tensors, numbers and one JSON string called `meta`. Loading uses torch's restricted reader
(`weights_only=True`), which builds nothing else: a checkpoint is untrusted input.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lbm.console import warn
from lbm.errors import DataError, ResourceError

FORMAT, VERSION = "rvdflow checkpoint", 1
EXPORTED = "model.json"  # of a model exported by rvdflow.export_weights
STEP_NAME = re.compile(r"step-(\d+)\.pt")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: `meta` from JSON, `state` with tensors by part ("weights", "training", ...)."""

    path: Path
    sha256: str
    meta: dict[str, Any]
    state: dict[str, Any]


def write(path: Path, meta: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """Write a checkpoint so that `path` is at every moment absent, or whole; returns its SHA-256.

    ResourceError names the file and the bytes needed when the disk is full.
    """
    buffer = io.BytesIO()
    header = {"format": FORMAT, "version": VERSION, **meta}
    torch.save({"meta": json.dumps(header, sort_keys=True, allow_nan=True), **state}, buffer)
    content = buffer.getbuffer()
    digest = hashlib.sha256(content).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    replace_file(checksum_path(path), f"{digest}  {path.name}\n".encode())
    try:
        replace_file(path, content)
    except OSError:
        checksum_path(path).unlink(missing_ok=True)
        raise
    return digest


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Put `content` at `path` in one step: temporary file, flush to disk, rename."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            need = f"{len(content):,} bytes needed"
            raise ResourceError(f"{path}: cannot be written, {need} ({error.strerror}): free some space") from error
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def checksum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def read(path: Path) -> Checkpoint:
    """Load `path` on the CPU after comparing its SHA-256. DataError when it is damaged, or not a checkpoint.

    The description of an exported model is read with its weights.
    """
    if path.name == EXPORTED:
        from rvdflow import export_weights

        return export_weights.read(path)
    content = _verified(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a foreign file; what it holds is judged below
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the reader fails in many ways on foreign bytes, all meaning the same
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{path}: not a checkpoint of rvdflow, refused ({reason[0][:120]})") from error
    return Checkpoint(path, hashlib.sha256(content).hexdigest(), _meta(path, loaded), loaded)


def _verified(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"{path}: no such checkpoint file") from error
    try:
        wanted = checksum_path(path).read_text(errors="replace").split()
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: its checksum file {checksum_path(path).name} is missing: copy both files together"
        ) from error
    got = hashlib.sha256(content).hexdigest()
    if not wanted or got != wanted[0]:
        raise DataError(
            f"{path}: damaged, its SHA-256 is {got[:16]}... and should be {(wanted or ['missing'])[0][:16]}...: "
            f"use another checkpoint{_others(path)}"
        )
    return content


def _others(path: Path) -> str:
    named = [p for p in (path.with_name("best.pt"), path.with_name("final.pt")) if p.is_file()]
    names = [p.name for p in [*named, *step_files(path.parent)] if p != path]
    return f" (there is {', '.join(names)})" if names else ""


def _meta(path: Path, loaded: Any) -> dict[str, Any]:
    try:
        meta = json.loads(loaded["meta"])
        kind, version = meta["format"], meta["version"]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{path}: not a checkpoint of rvdflow (no description inside)") from error
    if kind != FORMAT or version != VERSION:
        raise DataError(f"{path}: {kind} version {version}, this software reads {FORMAT} version {VERSION}")
    return meta


def load_weights(module: torch.nn.Module, weights: Any, path: Path) -> None:
    """Copy `weights` into `module`; DataError when names, shapes or types differ or a number is not finite."""
    try:
        module.load_state_dict(weights)
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: weights do not fit the network it describes ({line})") from error
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise DataError(f"{path}: {name} holds numbers that are not finite")


# ------------------------------------------------------------------ run folders


def step_files(folder: Path) -> list[Path]:
    """Training checkpoints in a checkpoints folder, oldest first."""
    found = [(int(match[1]), p) for p in folder.glob("step-*.pt") if (match := STEP_NAME.fullmatch(p.name))]
    return [p for _, p in sorted(found)]


def save_step(run: Path, step: int, meta: Mapping[str, Any], state: Mapping[str, Any], *, keep: int = 2) -> Path:
    """Save the training state after `step` steps, point `latest` at it, and delete all but the last `keep`."""
    folder = run / "checkpoints"
    path = folder / f"step-{step:06d}.pt"
    digest = write(path, meta, state)
    point_latest(run, path, digest)
    for old in step_files(folder)[:-keep]:
        old.unlink(missing_ok=True)  # the file first: a checksum alone claims nothing
        checksum_path(old).unlink(missing_ok=True)
    return path


def point_latest(run: Path, path: Path, digest: str) -> None:
    """Write `run/latest`, two lines: the newest checkpoint, relative to the run, and its SHA-256."""
    replace_file(run / "latest", f"{path.relative_to(run)}\n{digest}\n".encode())


def newest_step(run: Path) -> Path | None:
    """The newest training checkpoint of a run, None when there is none yet."""
    files = step_files(run / "checkpoints")
    return files[-1] if files else None


def newest_whole(run: Path) -> Path | None:
    """The newest training checkpoint of a run that is not damaged, None when there is none yet.

    Warns of each damaged one that is passed over; DataError when all are damaged.
    """
    failure = None
    for path in reversed(step_files(run / "checkpoints")):
        try:
            read(path)
        except DataError as error:
            failure = failure or error
            continue
        if failure:
            warn(f"{failure}; going on from {path.name}")
        return path
    if failure:
        raise failure
    return None


def find(place: Path) -> Path:
    """The file that `place` means: itself, the best, else final, else newest checkpoint of a run, an exported model."""
    if place.is_file():
        return place
    if (place / EXPORTED).is_file():
        return place / EXPORTED
    if not place.exists():
        raise DataError(f"{place}: no such run folder or checkpoint (train one with `rvdflow train`)")
    for name in ("best.pt", "final.pt"):
        if (path := place / "checkpoints" / name).is_file():
            return path
    newest = newest_step(place)
    if newest is None:
        raise DataError(f"{place}: not a run folder, or no checkpoint in it yet (train with `rvdflow train`)")
    return newest


def newest_run(folder: Path = Path("runs")) -> Path:
    """The run folder under `folder` whose newest checkpoint is the youngest."""
    runs = []
    for place in folder.iterdir() if folder.is_dir() else ():
        files = list((place / "checkpoints").glob("*.pt"))
        if files:
            runs.append((max(p.stat().st_mtime_ns for p in files), place))
    if not runs:
        raise DataError(f"no trained run under {folder}/: train one with `rvdflow train`, or name it: --checkpoint")
    return max(runs)[1]
