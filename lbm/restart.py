"""The state a stopped run continues from, in one checksummed file.

    32 bytes SHA-256 of the rest | NumPy archive: the arrays of `Simulation.state()` and `frames`

The file is replaced atomically; nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from lbm import store

State = dict[str, np.ndarray]


def save(file: Path, state: State, frames: int) -> None:
    """Write a simulation's state, with the number of frames that were written before it."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, frames=np.int64(frames), **{f"s.{k}": v for k, v in state.items()})
    body = stream.getbuffer()
    # No fsync: losing the newest state to a power cut only repeats work, and the SHA-256 finds it.
    store.write_atomically(file, hashlib.sha256(body).digest() + body, durable=False)


def load(file: Path) -> tuple[State, int] | None:
    """(state, frames) as saved; None when there is no file, or when it is damaged."""
    try:
        raw = file.read_bytes()
    except OSError:
        return None
    if len(raw) < 32 or hashlib.sha256(raw[32:]).digest() != raw[:32]:
        return None
    try:
        with np.load(io.BytesIO(raw[32:]), allow_pickle=False) as archive:
            state = {name[2:]: archive[name] for name in archive.files if name.startswith("s.")}
            return state, int(archive["frames"])
    except (ValueError, KeyError, OSError, BadZipFile):
        return None
