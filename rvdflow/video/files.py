"""Files and folders that others wrote: opened with suspicion, listed in a fixed order."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lbm.errors import DataError, FlowError
from rvdflow.video.source import inside


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Whatever a library raises over a damaged file becomes a DataError; its warnings are dropped.

    Libraries raise what their parts happen to meet (SyntaxError, struct.error, zlib.error, IndexError, MemoryError).
    Lack of permission stays what it is.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (FlowError, PermissionError):
            raise
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            said = f"{type(error).__name__}: {first}" if first else type(error).__name__
            raise DataError(f"{path}: cannot be read as {kind} ({said})") from error


def regular_size(path: Path) -> int:
    """Bytes of an ordinary file. DataError when there is none, or something else (opening a pipe would hang)."""
    with reading(path, "a file"):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: not an ordinary file")
    return status.st_size


def entries(folder: Path, root: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, by name. DataError when a link leads out of `root`, or a name cannot be printed."""
    with reading(folder, "a folder"), os.scandir(folder) as found:
        listed = sorted(found, key=lambda entry: entry.name)
    for entry in listed:
        if not entry.name.isprintable():  # bytes that are no UTF-8, line breaks: no label for a clip
            raise DataError(f"{folder}: the name {entry.name!r} holds characters that cannot be printed: rename it")
        if entry.is_symlink():
            with reading(Path(entry.path), "a link"):
                inside(root, os.path.relpath(entry.path, root))
    return listed


def natural_order(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sorting key by which "frame9" comes before "frame10"; equal numbers written differently sort as text."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", name)
    return [(not number, int(number or 0), text) for number, text in parts], name


def counted(number: int, one: str, many: str, example: str) -> str:
    """A count for a note, e.g. `3 links skipped (the first: a/b)`."""
    return f"{number} {one if number == 1 else many} (the first: {example})"
