"""Mechanics under a dataset: locks, atomic files, checksums, the manifest.

Nothing here knows what a flow is. A store is a Zarr (format 3) group in a directory:

    flow.zarr/
      zarr.json            attributes of the dataset; `complete` becomes true last
      <variable>/zarr.json, <variable>/c/...      metadata and chunks, each chunk ending in a CRC-32C
      manifest/zarr.json   size and SHA-256 of every file above (written just before `complete`)
      restart/             private state of an unfinished run, removed when it finishes
    flow.zarr.lock         exists while a process writes

`manifest` and `restart` are Zarr groups, so any Zarr reader walks past them without a word.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
from zarr.storage import LocalStore

from lbm.errors import DataError, ResourceError

try:
    import fcntl
except ImportError:  # no advisory locks (Windows): the text of the lock file still warns people
    fcntl = None  # type: ignore[assignment]

ROOT = "zarr.json"
MANIFEST = "manifest"
RESTART = "restart"
MAX_METADATA_BYTES = 256 * 2**20  # of one JSON file; a manifest needs about 120 bytes a chunk
MAX_CHUNKS = 20_000_000  # of one array; more is a damaged or hostile shape


class Lock:
    """Exclusive right to write one store: `<path>.lock`, holding the pid and host of the owner.

    The operating system's lock on that file decides, so a lock whose owner died (even by SIGKILL) is
    free at once; the text inside is for the message to the second writer.
    """

    def __init__(self, target: Path) -> None:
        self.file = target.with_name(target.name + ".lock")
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or raise `ResourceError` naming its owner."""
        with disk_errors(self.file):
            while True:
                descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
                if not self._lock(descriptor):
                    owner = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
                    os.close(descriptor)
                    raise ResourceError(
                        f"{self.file.with_suffix('')} is being written by {owner}: "
                        "wait for it, or choose another output"
                    )
                # Its previous owner may have removed the file between our open and our lock.
                with contextlib.suppress(FileNotFoundError):
                    if os.stat(self.file).st_ino == os.fstat(descriptor).st_ino:
                        break
                os.close(descriptor)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        self._descriptor = descriptor

    @staticmethod
    def _lock(descriptor: int) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
                raise  # the file system has no locks: go on without
        return True

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                self.file.unlink()
            os.close(self._descriptor)
            self._descriptor = None


@contextlib.contextmanager
def disk_errors(path: Path, octets: int | None = None) -> Iterator[None]:
    """Turn an `OSError` into a `ResourceError` with the path and, when known, the bytes needed."""
    try:
        yield
    except ResourceError:
        raise
    except OSError as error:
        need = f" ({octets:,} bytes needed)" if octets else ""
        raise ResourceError(f"{path}: {error.strerror or error}{need}") from error


def write_atomically(file: Path, data: bytes, *, durable: bool = True) -> None:
    """Put `data` at `file` so that a reader (or a crash) sees the old content or the new, nothing between.

    `durable` waits for the disk, so that this holds for a power cut too.
    """
    with disk_errors(file, len(data)):
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".partial")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
            os.chmod(name, 0o644)
            os.replace(name, file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def read_group(directory: Path) -> dict[str, Any]:
    """Attributes of the Zarr group in a directory. Raises `DataError` when it is none or is damaged."""
    attributes = read_metadata(directory / ROOT).get("attributes", {})
    if not isinstance(attributes, dict):
        raise DataError(f"{directory / ROOT}: its attributes are no table")
    return attributes


def read_metadata(file: Path) -> dict[str, Any]:
    """A `zarr.json` as a dictionary. Raises `DataError`."""
    try:
        if file.stat().st_size > MAX_METADATA_BYTES:
            raise DataError(f"{file} is too large for metadata ({file.stat().st_size:,} bytes)")
        table = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{file} is missing: {file.parent} is not a complete Zarr dataset") from None
    except NotADirectoryError:
        raise DataError(f"{file.parent} is a file; a Zarr dataset is a directory") from None
    except (ValueError, RecursionError):
        raise DataError(f"{file} is damaged: it is not valid JSON") from None
    if not isinstance(table, dict) or table.get("zarr_format") != 3:
        raise DataError(f"{file} is damaged, or not Zarr format 3")
    return table


def write_group(directory: Path, attributes: Mapping[str, Any]) -> None:
    """Write (atomically) the `zarr.json` of a group."""
    table = {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}
    write_atomically(directory / ROOT, json.dumps(table, indent=2).encode())


def array_names(root: Path) -> list[str]:
    """Names of the arrays of a store, sorted. Raises `DataError` for damaged metadata."""
    names = []
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and entry.name not in (MANIFEST, RESTART):
            if read_metadata(entry / ROOT).get("node_type") != "array":
                raise DataError(f"{entry / ROOT} is damaged: it describes no array")
            names.append(entry.name)
    return names


def chunk_keys(root: Path, name: str, lengths: Sequence[int] | None = None) -> Iterator[str]:
    """Every chunk key array `name` has when it is full, from its metadata. Raises `DataError`.

    With `lengths`, the number of frames of each trajectory, chunks of (trajectory, time, ...) arrays that lie beyond
    the end of all their trajectories are left out.
    """
    metadata = read_metadata(root / name / ROOT)
    try:
        shape = [int(n) for n in metadata["shape"]]
        chunks = [int(n) for n in metadata["chunk_grid"]["configuration"]["chunk_shape"]]
        counts = [-(-n // c) for n, c in zip(shape, chunks, strict=True)]
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise DataError(f"{root / name / ROOT} is damaged: no usable shape and chunk grid") from None
    total = 1
    for count in counts:
        total *= count
    if min(counts, default=1) < 0 or total > MAX_CHUNKS:
        raise DataError(f"{root / name / ROOT} is damaged: shape {shape} in chunks of {chunks}")
    if lengths is None or (metadata.get("dimension_names") or [])[:2] != ["trajectory", "time"]:
        indices: Iterable[tuple[int, ...]] = product(*(range(count) for count in counts))
    else:
        longest = [max(lengths[k * chunks[0] : (k + 1) * chunks[0]], default=0) for k in range(counts[0])]
        rest = [range(count) for count in counts[2:]]
        indices = (index for k, n in enumerate(longest) for index in product([k], range(-(-n // chunks[1])), *rest))
    for index in indices:
        yield "/".join([name, "c", *map(str, index)])


def crc_matches(data: bytes | memoryview) -> bool:
    """Whether the last four bytes of an encoded chunk are the CRC-32C of the others."""
    if len(data) < 4:
        return False
    return google_crc32c.value(bytes(data[:-4])) == int.from_bytes(data[-4:], "little")


class CheckedStore(LocalStore):
    """A read-only Zarr store whose errors name the chunk.

    A chunk whose CRC-32C is wrong raises `DataError`, and so does a chunk of the manifest that has
    vanished, which plain Zarr would read as its fill value without a word.
    """

    def __init__(self, root: Path | str, *, read_only: bool = True, required: frozenset[str] = frozenset()) -> None:
        super().__init__(root, read_only=read_only)
        self.required = required

    def with_read_only(self, read_only: bool = False) -> CheckedStore:
        return type(self)(self.root, read_only=read_only, required=self.required)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        return self._checked(key, await super().get(key, prototype, byte_range), byte_range)

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        return self._checked(key, super().get_sync(key, prototype=prototype, byte_range=byte_range), byte_range)

    def _checked(self, key: str, value: Any, byte_range: Any) -> Any:
        if "/c" not in key:
            return value
        if value is None:
            if key in self.required:
                raise DataError(f"{self.root / key} is missing: restore it, or write the dataset again")
        elif byte_range is None and not crc_matches(value.to_bytes()):
            raise DataError(f"{self.root / key} is damaged (checksum): restore it, or write the dataset again")
        return value


def remove_leftovers(root: Path) -> None:
    """Delete the temporary files a killed writer left behind; call it with the lock held."""
    for leftover in root.rglob("*.partial"):
        leftover.unlink(missing_ok=True)


def remove_tree(directory: Path) -> None:
    """Delete a directory we made; its absence is fine."""
    with disk_errors(directory):
        shutil.rmtree(directory, ignore_errors=False) if directory.exists() else None


def readable(path: Path, action: Any) -> Any:
    """Run a reading action; whatever zarr or xarray make of damaged metadata becomes a `DataError`."""
    try:
        return action(path)
    except DataError:
        raise
    except Exception as error:  # zarr raises KeyError, TypeError, ... from anywhere on hostile metadata
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read: {first[:200]}") from error
