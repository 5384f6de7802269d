"""The store of converted clips: what it has room for, and the numbers of each clip as they come in.

    frames (trajectory, time, channel, y, x) uint8     clip by clip, written by the workers
    length (trajectory) int32                          frames that a clip has; those beyond are 0 or were never written
    everything else (trajectory[, time, k])            small, written by one process: `Columns`

Chunks of `frames` hold about 1 MiB of one clip. Where that would make more than FILES files, several clips share a
chunk row. A chunk that lies beyond the end of all its clips is never written and is no loss.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lbm import dataset
from lbm.errors import DataError, UsageError
from rvdflow.video.resize import resize
from rvdflow.video.source import Clip, Source

CHUNK = 2**20  # bytes of a chunk of frames, at most, where a frame is smaller
LARGEST = 2**22  # bytes of a chunk that several clips share
FILES = 80_000  # of frames in a store, before clips share chunks
GRID = 10_000_000  # chunks there is room for
LONGEST = 2**20  # frames of a clip; more is a slip in a list
FLUSH_EVERY = 1.0  # seconds
ABOUT = {
    "clip_id": "name of the clip in its archive",
    "split": "what the clip is for",
    "source_file": "file of the archive that the clip is from, or the first of them",
    "first_frame": "first frame of the clip in the archive's own count",
    "listed": "frames that the archive promises",
}


@dataclass(frozen=True)
class Preparation:
    """How frames become those of the store: `size` (height, width), and the options of `rvdflow.video.resize`."""

    size: tuple[int, int]
    resize: str
    crop: str | tuple[int, int, int, int]

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return resize(frames, self.size, method=self.resize, fit=self.crop)


@dataclass(frozen=True)
class Shape:
    """Numbers of clips, frames, channels and pixels, and of clips and frames in a chunk."""

    clips: int
    frames: int
    channels: int
    size: tuple[int, int]
    row: int
    part: int

    @classmethod
    def of(cls, clips: Sequence[Clip], channels: int, size: tuple[int, int]) -> Shape:
        """The shape for some clips. DataError where a clip promises absurdly many frames, or all take too much room."""
        listed = [clip.stop - clip.first for clip in clips]
        frames, octets = max(listed), channels * size[0] * size[1]
        if frames > LONGEST:
            clip = clips[listed.index(frames)]
            raise DataError(f"clip {clip.clip_id} promises {frames} frames, more than {LONGEST}: {clip.source_file}")
        parts = -(-frames // max(1, CHUNK // octets))
        part = -(-frames // parts)
        files = sum(-(-n // part) for n in listed)
        row = min(-(-files // FILES), max(1, LARGEST // (part * octets)))
        if -(-len(clips) // row) * parts > GRID:
            raise DataError(f"{len(clips)} clips of up to {frames} frames need more than {GRID} chunks: too many")
        return cls(len(clips), frames, channels, size, row, part)


@dataclass
class Done:
    """What a worker says of the clips of one chunk row, whose frames are on disk."""

    first: int  # the number of the first clip
    lengths: list[int]
    extras: list[Mapping[str, np.ndarray]]
    digests: Mapping[str, str]  # source_file -> SHA-256
    remarks: Mapping[int, str] = field(default_factory=dict)  # number of the clip -> what is wrong with it


def coordinates(source: Source, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
    """What is known of each clip before it is read, by name of the coordinate (trajectory)."""
    table: dict[str, list[Any]] = {
        "clip_id": [clip.clip_id for clip in clips],
        "split": [clip.split for clip in clips],
        "source_file": [clip.source_file for clip in clips],
        "first_frame": [clip.first for clip in clips],
        "listed": [clip.stop - clip.first for clip in clips],
    }
    table |= {name: [clip.numbers[name] for clip in clips] for name in clips[0].numbers}
    return {name: np.array(values) for name, values in table.items()}


def configuration(source: Source, preparation: Preparation, limit: int | None) -> dict[str, Any]:
    """Every setting that decides what is in the store, as plain values."""
    plain = {"dataset": source.name, **asdict(preparation), "limit": limit, **{"options": source.options()}}
    copy: dict[str, Any] = json.loads(json.dumps(plain))
    return copy


def attributes(source: Source, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the store says of itself from the start."""
    interval = {} if source.interval is None else {"frame_interval": source.interval, "frame_interval_units": "s"}
    return {
        "title": source.title,
        "source": "video files" if source.name == "video" else source.title,
        "history": f"created by rvdflow convert {source.name}",
        "config": json.dumps(config),
        "value_range": "0 255",
        "split_policy": source.split_policy,
        **interval,
        **({"protocol": json.dumps(asdict(source.protocol))} if source.protocol else {}),
        **({"published_clips": json.dumps(dict(source.published))} if source.published else {}),
        **dataset.provenance("pillow", "av"),
    }


def create(
    path: Path, source: Source, clips: Sequence[Clip], shape: Shape, attrs: Mapping[str, Any], overwrite: bool
) -> dataset.Writer:
    """Allocate the store. Raises `UsageError`, `ResourceError`."""
    height, width = shape.size
    coords: dict[str, Any] = {
        "trajectory": ("trajectory", np.arange(shape.clips), {"long_name": "clip"}),
        "time": ("time", np.arange(shape.frames), {"long_name": "frame of the clip"}),
        "channel": ("channel", np.array(source.channels), {"long_name": "channel"}),
        "source_sha256": _per_clip("str", "SHA-256 of the file, or of the SHA-256 of the files"),
    }
    for name, values in coordinates(source, clips).items():
        coords[name] = ("trajectory", values, {"long_name": ABOUT[name]} if name in ABOUT else {})
    variables = {
        "frames": dataset.Variable(
            ("trajectory", "time", "channel", "y", "x"),
            "uint8",
            {"long_name": "brightness", "units": "1"},
            (shape.row, shape.part, shape.channels, height, width),
        ),
        "length": _per_clip("int32", "frames that the clip has"),
    }
    sizes = {"trajectory": shape.clips, "time": shape.frames, "channel": shape.channels, "y": height, "x": width}
    for name, series in source.series.items():
        octets = 4 * shape.frames * series.length
        rows = min(dataset.CLIPS_PER_CHUNK, max(1, LARGEST // octets))
        dims = ("trajectory", "time", series.dim)
        chunks = (rows, shape.frames, series.length)
        variables[name] = dataset.Variable(dims, "float32", {"long_name": series.about}, chunks)
        sizes[series.dim] = series.length
    return dataset.create(path, variables=variables, coords=coords, sizes=sizes, attrs=attrs, overwrite=overwrite)


def _settings(text: str) -> dict[str, Any]:
    """The settings of a configuration, those of the source among the others."""
    config = json.loads(text)
    return {**{name: value for name, value in config.items() if name != "options"}, **config["options"]}


def _per_clip(dtype: str, about: str) -> dataset.Variable:
    return dataset.Variable(("trajectory",), dtype, {"long_name": about}, (dataset.CLIPS_PER_CHUNK,))


def require_agreement(path: Path, source: Source, clips: Sequence[Clip], attrs: Mapping[str, Any]) -> None:
    """Raise UsageError unless the store at `path` was begun with the same settings and the same clips."""
    stored = dataset.read_attributes(path)
    try:
        ours, theirs = (_settings(str(one.get("config"))) for one in (attrs, stored))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"{path} has no settings of a conversion: it was not begun by rvdflow convert") from None
    anew = "resume with the same settings and the same archive, or begin anew with --overwrite"
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        if ours.get(name) != theirs.get(name):
            raise UsageError(f"{path} was begun with {name} = {theirs.get(name)}, now it is {ours.get(name)}: {anew}")
    if stored.get("frame_interval") != attrs.get("frame_interval"):
        got = f"{stored.get('frame_interval')} s between frames, now {attrs.get('frame_interval')} s"
        raise UsageError(f"{path} was begun with {got}: {anew}")
    opened = dataset.open_dataset(path, allow_incomplete=True, chunks=None)
    for name, values in coordinates(source, clips).items():
        before = opened[name].values if name in opened.variables else np.array([])
        if len(before) != len(values):
            raise UsageError(f"{path} was begun with {len(before)} clips, now there are {len(values)}: {anew}")
        if len(where := np.flatnonzero(before != values)):
            k = where[0]
            got = f"{name} {before[k]} of clip {k}, now {values[k]}"
            raise UsageError(f"{path} was begun with {got} ({clips[k].clip_id}): {anew}")


class Columns:
    """The numbers of each clip, in memory, and on disk about a second later; `clips_written` follows its data.

    length, written (trajectory), digests (trajectory) text, extras: name -> (trajectory, time, k) float32.
    """

    def __init__(self, writer: dataset.Writer, source: Source, clips: Sequence[Clip]) -> None:
        opened = dataset.open_dataset(writer.path, allow_incomplete=True, chunks=None)
        self._writer = writer
        self.length = np.array(opened["length"].values)
        self.written = np.array(opened["clips_written"].values)
        self.unreadable = int(((self.written == 1) & (self.length == 0)).sum())
        self.digests: list[str] = opened["source_sha256"].values.tolist()
        self.extras = {name: np.array(opened[name].values) for name in source.series}
        self._clips_of = defaultdict(list)
        for k, clip in enumerate(clips):
            self._clips_of[clip.source_file].append(k)
        self._new: set[int] = set()  # clips that are not on disk yet
        self._touched: set[int] = set()  # of these and others, whatever changed
        self._flushed = time.monotonic()

    def known(self, source_file: str) -> bool:
        """Whether the SHA-256 of a file is known."""
        return bool(self.digests[self._clips_of[source_file][0]])

    def add(self, done: Done) -> None:
        """Take in the clips of a chunk row whose frames are on disk."""
        for k, (length, extras) in enumerate(zip(done.lengths, done.extras, strict=True), done.first):
            self.length[k], self.written[k] = length, 1
            self.unreadable += not length
            for name, values in extras.items():
                self.extras[name][k, : len(values)] = values
            self._new.add(k)
        self._touched |= self._new
        for file, digest in done.digests.items():
            for k in self._clips_of[file]:
                self.digests[k] = digest
            self._touched.update(self._clips_of[file])
        if time.monotonic() - self._flushed >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Bring everything to disk."""
        self._write("source_sha256", np.array(self.digests, dtype=object), self._touched)
        self._write("length", self.length, self._new)
        for name, values in self.extras.items():
            self._write(name, values, {k for k in self._new if self.length[k]})
        self._write("clips_written", self.written, self._new)
        self._new, self._touched = set(), set()
        self._flushed = time.monotonic()

    def _write(self, name: str, values: np.ndarray, clips: set[int]) -> None:
        """The chunks of a column in which some clips lie."""
        rows = int(self._writer.array(name).chunks[0])
        for k in sorted({clip // rows for clip in clips}):
            part = slice(k * rows, min((k + 1) * rows, len(values)))
            self._writer.write(name, values[part], trajectory=part)

    def source_digest(self) -> str:
        """SHA-256 over the sorted SHA-256 of all files: equal for stores from the same files, wherever they lay."""
        files = sorted({self.digests[clips[0]] for clips in self._clips_of.values()})
        return hashlib.sha256("\n".join(files).encode()).hexdigest()
