"""A trained model as files that any program can read: `model.safetensors` and `model.json`, in a folder of their own.

`model.json` holds what goes with the weights: configuration (and in it the sampler), normalisation, conditions,
identity of the training data, scores, inflation, software versions, and the SHA-256 of the checkpoint they come from.
It also holds the SHA-256 of `model.safetensors`, and of itself (`description_sha256`: over its other entries, as JSON
with sorted keys and no spaces), for neither format notices a flipped bit. Numbers that are not finite are null.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lbm import dataset as store
from lbm.errors import DataError, ResourceError, UsageError
from rvdflow import checkpoint
from rvdflow.checkpoint import Checkpoint

WEIGHTS, DESCRIPTION = "model.safetensors", checkpoint.EXPORTED
FORMAT, VERSION = "rvdflow exported model", 1
OURS = ("format", "version", "weights", "checkpoint", "sampler", "inflation", "exported_with", "description_sha256")


def export(run: Path, folder: Path, *, overwrite: bool = False) -> Path:
    """Write the averaged weights of `run` (run folder, checkpoint file or exported model) into `folder`; returns it.

    The folder is there whole or not at all. Raises DataError for a checkpoint that is missing or damaged, UsageError
    where `folder` exists (`overwrite` replaces an exported model, and nothing else), ResourceError on a full disk.
    """
    _require_free(folder, overwrite)
    loaded = checkpoint.read(checkpoint.find(run))
    content = _serialised(loaded)
    description = json.dumps(_description(loaded, content), indent=2) + "\n"
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        for name, octets in ((WEIGHTS, content), (DESCRIPTION, description.encode())):
            checkpoint.replace_file(temporary / name, octets)
        _put(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _require_free(folder: Path, overwrite: bool) -> None:
    if not os.path.lexists(folder):
        return
    held = {p.name for p in folder.iterdir()} if folder.is_dir() and not folder.is_symlink() else None
    if held is None or held not in (set(), {WEIGHTS, DESCRIPTION}):
        raise UsageError(f"{folder} exists and is not an exported model: name another folder with -o")
    if held and not overwrite:
        raise UsageError(f"{folder} holds an exported model already: replace it with --overwrite")


def _put(temporary: Path, folder: Path) -> None:
    """Move the finished folder to its place; one that is replaced is put aside first, and back if that fails."""
    aside = temporary.with_suffix(".old")
    replaced = folder.exists()
    if replaced:
        os.rename(folder, aside)
    try:
        os.rename(temporary, folder)
    except OSError:
        if replaced:
            os.rename(aside, folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _serialised(loaded: Checkpoint) -> bytes:
    from safetensors.torch import save

    try:
        return save({name: value.detach().clone().contiguous() for name, value in loaded.state["weights"].items()})
    except (KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{loaded.path}: it holds no weights") from error
    except MemoryError as error:
        raise ResourceError(f"{loaded.path}: not enough memory to convert its weights") from error


def _description(loaded: Checkpoint, content: bytes) -> dict[str, Any]:
    weights = loaded.state["weights"]
    described: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "weights": {
            "file": WEIGHTS,
            "sha256": hashlib.sha256(content).hexdigest(),
            "tensors": len(weights),
            "numbers": sum(value.numel() for value in weights.values()),
        },
        "checkpoint": loaded.meta.get("checkpoint") or {"file": loaded.path.name, "sha256": loaded.sha256},
        "sampler": loaded.meta["config"].get("model", {}).get("sampler"),
        "inflation": float(weights["inflation"]) if "inflation" in weights else None,
        "exported_with": store.provenance("torch", "safetensors"),
    }
    described |= {name: _plain(value) for name, value in loaded.meta.items() if name not in OURS}
    return described | {"description_sha256": _digest(described)}


def _plain(value: Any) -> Any:
    """`value` without NaN and infinities, which JSON has not."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _digest(described: Mapping[str, Any]) -> str:
    others = {name: value for name, value in described.items() if name != "description_sha256"}
    text = json.dumps(others, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# ------------------------------------------------------------------ reading


def is_exported(place: Path) -> bool:
    """Whether `place` is a folder with an exported model, or its description."""
    return (place / DESCRIPTION).is_file() or (place.name == DESCRIPTION and place.is_file())


def read(place: Path) -> Checkpoint:
    """The model exported to the folder `place`, verified, as the checkpoint it was: `state` holds "weights".

    Its `path` is the description; name and SHA-256 of the checkpoint it comes from are `meta["checkpoint"]`, and
    `sha256` is that SHA-256: forecasts of an exported model say which checkpoint they are of. DataError when a file is
    missing or damaged, or the two do not belong together.
    """
    folder = place.parent if place.name == DESCRIPTION and not place.is_dir() else place
    described = _described(folder / DESCRIPTION)
    content = _bytes(folder / WEIGHTS)
    got, wanted = hashlib.sha256(content).hexdigest(), described["weights"]["sha256"]
    if got != wanted:
        raise DataError(
            f"{folder / WEIGHTS}: damaged, or not the file that {DESCRIPTION} describes: its SHA-256 is {got[:16]}... "
            f"and should be {str(wanted)[:16]}...: export the run again"
        )
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"{folder / WEIGHTS}: not a safetensors file ({str(error)[:120]})") from error
    meta = {name: value for name, value in described.items() if name not in OURS or name == "checkpoint"}
    return Checkpoint(folder / DESCRIPTION, described["checkpoint"]["sha256"], meta, {"weights": weights})


def _described(path: Path) -> dict[str, Any]:
    """`model.json` once it is known to be whole. DataError when it is not, or of another format."""
    try:
        described = json.loads(_bytes(path))
        kind = (described["format"], described["version"])
        stored, got = described["description_sha256"], _digest(described)
        _ = described["weights"]["sha256"], described["checkpoint"]["sha256"], described["config"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not the description of an exported model ({str(error)[:120]})") from error
    if kind != (FORMAT, VERSION):
        raise DataError(f"{path}: {kind[0]} version {kind[1]}, this software reads {FORMAT} version {VERSION}")
    if got != stored:
        raise DataError(
            f"{path}: damaged or edited, the SHA-256 of its entries is {got[:16]}... and should be "
            f"{str(stored)[:16]}...: export the run again"
        )
    return described


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
            raise DataError(f"{path}: no such file: an exported model is {WEIGHTS} and {DESCRIPTION}") from error
        raise
