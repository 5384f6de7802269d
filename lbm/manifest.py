"""The manifest of a finished store: what must be there, byte for byte.

It is the attribute table of the Zarr group `manifest/`, written just before `complete`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lbm import store
from lbm.errors import DataError

Files = dict[str, tuple[int, str]]  # key -> (bytes, sha256)


def build_manifest(root: Path) -> Files:
    """Size and SHA-256 of every array's metadata and chunks. `DataError` for a chunk missing or damaged."""
    files: Files = {}
    lengths = clip_lengths(root)
    for name in store.array_names(root):
        for key in (f"{name}/{store.ROOT}", *store.chunk_keys(root, name, lengths)):
            try:
                data = (root / key).read_bytes()
            except FileNotFoundError:
                raise DataError(f"{root / key} was never written: the dataset is not finished") from None
            if not key.endswith(store.ROOT) and not store.crc_matches(data):
                raise DataError(f"{root / key} is damaged (checksum): write the dataset again")
            files[key] = (len(data), hashlib.sha256(data).hexdigest())
    return dict(sorted(files.items()))


def clip_lengths(root: Path) -> list[int] | None:
    """Frames of each clip of a store of clips; None for other stores, whose chunks must all be there."""
    import zarr

    if not (root / "clips_written").is_dir():
        return None
    opened = store.readable(root, lambda _: zarr.open_array(store.CheckedStore(root), path="length", mode="r"))
    found: list[int] = store.readable(root, lambda _: [int(n) for n in opened[...]])
    return found


def attributes_digest(attributes: Mapping[str, Any]) -> str:
    """SHA-256 of the dataset's attributes; `complete`, which changes last, left out."""
    return hashlib.sha256(store.canonical({k: v for k, v in attributes.items() if k != "complete"})).hexdigest()


def write_manifest(root: Path, attributes: Mapping[str, Any]) -> None:
    """Write `manifest/zarr.json` for the store as it lies on disk."""
    files = build_manifest(root)
    with store.disk_errors(root):
        (root / store.MANIFEST).mkdir(exist_ok=True)
    table = {
        "description": "size and SHA-256 of every file of the dataset",
        "attributes_sha256": attributes_digest(attributes),
        "files": {key: list(entry) for key, entry in files.items()},
    }
    store.write_group(root / store.MANIFEST, table)


def read_manifest(root: Path) -> tuple[Files, str]:
    """The manifest and the digest of the attributes. Raises `DataError`."""
    table = store.read_group(root / store.MANIFEST)
    try:
        files = {str(key): (int(size), str(sha)) for key, (size, sha) in table["files"].items()}
        return files, str(table["attributes_sha256"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(f"{root / store.MANIFEST / store.ROOT} is damaged") from None


def check_presence(root: Path, files: Files) -> None:
    """Every file of the manifest is there with its size, and metadata is unchanged; else `DataError`.

    Costs one `stat` a file: it finds what is missing or truncated. Flipped bits are found on reading.
    """
    for key, (size, sha) in files.items():
        file = root / key
        try:
            found = file.stat().st_size
        except OSError:
            raise DataError(f"{file} is missing: restore it, or write the dataset again") from None
        if found != size:
            raise DataError(f"{file} is damaged: {found:,} bytes, written were {size:,}")
        if key.endswith(store.ROOT) and hashlib.sha256(file.read_bytes()).hexdigest() != sha:
            raise DataError(f"{file} is damaged: its SHA-256 differs from the manifest")
