"""What every archive of video clips offers to the converter: a list of clips, and the frames of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lbm.errors import DataError

GRAY = ("gray",)
COLOUR = ("red", "green", "blue")

Shrink = Callable[[np.ndarray], np.ndarray]  # frames (time, y, x, channel) -> the same of another size, one by one


@dataclass(frozen=True)
class Clip:
    """Frames first..stop-1 of a file of an archive, and what the archive says of them.

    `clip_id` is unique and the same wherever the archive lies; `source_file` is relative to its folder.
    """

    clip_id: str
    split: str
    source_file: str
    first: int
    stop: int
    numbers: Mapping[str, int | float | str] = field(default_factory=dict)


@dataclass
class Read:
    """A decoded clip: frames (time, y, x, channel) uint8, further series (time, k) float32 by name, and a remark.

    There may be fewer frames than the clip promised, where the source is damaged; the remark says so.
    """

    frames: np.ndarray
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    note: str = ""


def unchanged(frames: np.ndarray) -> np.ndarray:
    return frames


@dataclass(frozen=True)
class Series:
    """A further series of a source, (time, `length`) float32 in every clip; `dim` is the name of the second axis."""

    dim: str
    length: int
    about: str


@dataclass(frozen=True)
class Protocol:
    """How a paper tests: `context` frames up to frame `init_time` are seen, the next `lead` frames are forecast."""

    name: str
    context: int
    lead: int
    init_time: int


class Source(ABC):
    """An archive of clips as it was published. Picklable, and without open files: workers read from it."""

    name: str
    title: str
    channels: tuple[str, ...]
    split_policy: str  # who decided which clip is in which split
    size: tuple[int, int] = (64, 64)  # of the frames it is usually converted to: height, width
    resize: str = "area"  # and how: the words of `rvdflow.video.resize`
    crop: str = "crop"
    protocol: Protocol | None = None
    interval: float | None = None  # seconds between frames
    published: Mapping[str, int] = {}  # clips by split, as published
    series: Mapping[str, Series] = {}  # what `Read.extras` holds

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []  # what was odd about the archive, one line each

    @abstractmethod
    def clips(self) -> list[Clip]:
        """All clips, in the archive's order. DataError when the folder is not such an archive."""

    @abstractmethod
    def read(self, clip: Clip, shrink: Shrink = unchanged) -> Read:
        """The frames of a clip. DataError when they cannot be read.

        `shrink` is applied to frames as they are decoded, so that a long clip is never held at its native size.
        """

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What decides which clips there are and what `read` returns, besides the folder; plain values for JSON."""

    def files(self, clip: Clip) -> list[Path]:
        """The files that a clip is decoded from; none where nothing lies on disk."""
        return [self.path(clip)]

    def path(self, clip: Clip) -> Path:
        """The file of a clip. DataError when it leads out of the archive."""
        return inside(self.folder, clip.source_file)


def inside(folder: Path, name: str) -> Path:
    """The file `name` of `folder`, links followed. DataError when it lies elsewhere, or a link leads in a circle."""
    try:
        path = (folder / name).resolve()
        circle = path.is_symlink()  # Python 3.13 gives up quietly, earlier ones with a RuntimeError
    except (RuntimeError, OSError):
        circle = True
    if circle:
        raise DataError(f"{folder / name}: a link that leads in a circle")
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"{folder / name}: leads out of {folder}, refused")
    return path
