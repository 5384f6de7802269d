"""Anybody's clips: a folder of video files, folders of images, and arrays.

Looked for in all sub-folders: video files (one clip each), folders that hold images (one clip each, frames in natural
order: 9 before 10), and arrays (`rvdflow.video.arrays`: one clip each, or many).

Splits: where the folder has sub-folders train, validation (or val) or test, these are the splits, and what lies beside
them is ignored with a note. Otherwise whole files are divided: with n files, round(n validation) go to validation,
round(n test) to test, the others to train; in the order of their names (train first, test last) with `seed` None,
else in an order drawn from the seed and the names. A file (video, folder of images, array of many clips) is never
divided between splits. Nothing is known of files that show the same scene: put those into split folders yourself.

Links that lead out of the folder are refused; links within it are skipped, as what they point to is listed anyway.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lbm.errors import DataError, UsageError
from rvdflow.video import arrays, images
from rvdflow.video.decode import decode, facts
from rvdflow.video.files import counted, entries, natural_order
from rvdflow.video.images import read_images
from rvdflow.video.resize import with_channels
from rvdflow.video.source import COLOUR, GRAY, Clip, Read, Shrink, Source, inside, unchanged

VIDEOS = (".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm")  # what `decode` lets FFmpeg open
SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}


class VideoFolder(Source):
    """Clips of a folder, as colour or as gray; the other kind is converted (`rvdflow.video.resize.with_channels`).

    `axes`, `key` and `value_range` concern arrays only (`rvdflow.video.arrays.Layout`).
    A clip's id is its file's name in the folder, with /000123 behind it for clip 123 of an array with an axis N.
    `numbers`: index, which is that 123, else 0.
    `interval` (seconds between frames) is the option's, else what all files agree on.
    """

    name = "video"
    title = "Clips of a folder"
    split_policy = "whole files"

    def __init__(
        self,
        folder: Path,
        *,
        colour: bool = True,
        axes: str = "NTHWC",
        key: str = "",
        value_range: str | None = None,
        interval: float | None = None,
        validation: float = 0.1,
        test: float = 0.1,
        seed: int | None = 0,
    ) -> None:
        super().__init__(folder)
        if min(validation, test) < 0 or not validation + test < 1:
            raise UsageError(f"fractions {validation} and {test}: at least 0, and less than 1 together, wanted")
        self.channels = COLOUR if colour else GRAY
        self.layout = arrays.Layout(axes, key, value_range)
        self.validation, self.test, self.seed = validation, test, seed
        self.interval = self._asked_interval = interval

    def clips(self) -> list[Clip]:
        """All clips, ordered by their ids. Headers of videos and arrays are read, images are only counted.

        Videos that cannot be opened are left out, with a note; DataError when that is more than half of all files.
        """
        self.notes = []
        files = self._files()
        splits = self._splits(list(files))
        intervals: set[float | None] = set()
        self._damaged: list[str] = []
        self._unreadable: list[str] = []
        clips = [clip for name in sorted(splits) for clip in self._of(name, files[name], splits[name], intervals)]
        if self._unreadable:
            what = counted(len(self._unreadable), "video cannot be read", "videos cannot be read", self._unreadable[0])
            if len(self._unreadable) > len(splits) / 2:
                raise DataError(f"of {len(splits)} files {what}")
            self.notes.append(f"left out: {what}")
        if not clips:
            raise DataError(
                f"{self.folder}: no video, folder of images or array; known are "
                f"{' '.join(VIDEOS + images.SUFFIXES + arrays.SUFFIXES)}"
            )
        if self._damaged:
            which = "cut off or damaged: only what comes before is a clip"
            self.notes.append(counted(len(self._damaged), f"video {which}", f"videos {which}", self._damaged[0]))
        if self._asked_interval is None:
            self.interval = intervals.pop() if len(intervals) == 1 else None
            if intervals:
                self.notes.append(f"{len(intervals)} different frame intervals, so none is recorded")
        return sorted(clips, key=lambda clip: clip.clip_id)

    def options(self) -> dict[str, Any]:
        return {
            "channels": len(self.channels), "axes": self.layout.axes, "key": self.layout.key,
            "value_range": self.layout.value_range, "validation": self.validation, "test": self.test, "seed": self.seed,
        }  # fmt: skip

    def read(self, clip: Clip, shrink: Shrink = unchanged) -> Read:
        """The frames of a clip. DataError when they cannot be read."""
        path, count = self.path(clip), clip.stop - clip.first
        if path.is_dir():
            found = self._images(path)
            if len(found) != count:
                raise DataError(f"{path}: {len(found)} images, there were {count} when the folder was listed")
            return Read(read_images(found, colour=self.channels == COLOUR, shrink=shrink))
        if path.suffix.lower() in arrays.SUFFIXES:
            frames = arrays.read_clip(path, self.layout, int(clip.numbers["index"]))
            return Read(shrink(with_channels(frames, len(self.channels))))
        decoded = decode(path, clip.first, clip.stop, "rgb" if self.channels == COLOUR else "gray", shrink)
        note = f"{decoded.missing} of {count} frames missing: {decoded.reason}" if decoded.missing else ""
        return Read(decoded.frames, note=note)

    def files(self, clip: Clip) -> list[Path]:
        """The video, the array, or the images of the clip."""
        path = self.path(clip)
        return self._images(path) if path.is_dir() else [path]

    def _of(self, name: str, count: int, split: str, intervals: set[float | None]) -> Iterator[Clip]:
        """The clips of one file, or of one folder of `count` images; its frame interval joins `intervals`."""
        path, index, clips = inside(self.folder, name), {"index": 0}, 0
        interval = None
        if not count and path.suffix.lower() in arrays.SUFFIXES:
            lengths = arrays.describe(path, self.layout)
            count, clips = lengths["T"], lengths["N"] if "N" in self.layout.axes else 0
        elif not count:
            try:
                video = facts(path)
            except DataError as error:
                self._unreadable.append(str(error))
                return
            count, interval = video.frames, video.interval
            if video.damage:
                self._damaged.append(f"{name}, {count} frames: {video.damage}")
        intervals.add(interval)
        if not clips:
            yield Clip(name, split, name, 0, count, index)
        width = max(6, len(str(clips - 1)))
        for k in range(clips):
            yield Clip(f"{name}/{k:0{width}d}", split, name, 0, count, {"index": k})

    def _files(self) -> dict[str, int]:
        """Names of videos and arrays (-> 0) and of folders of images (-> how many)."""
        files: dict[str, int] = {}
        odd: list[str] = []
        links: list[str] = []
        waiting = [Path()]
        while waiting:
            parent = waiting.pop()
            for entry in entries(self.folder / parent, self.folder):
                name, suffix = parent / entry.name, Path(entry.name).suffix.lower()
                if entry.is_symlink():
                    links.append(name.as_posix())
                elif entry.name.startswith(".") or entry.name == "__MACOSX":
                    odd.append(name.as_posix())
                elif entry.is_dir():
                    waiting.append(name)
                elif suffix in images.SUFFIXES:
                    files[parent.as_posix()] = files.get(parent.as_posix(), 0) + 1
                elif suffix in VIDEOS + arrays.SUFFIXES:
                    files[name.as_posix()] = 0
                else:
                    odd.append(name.as_posix())
        if odd:
            self.notes.append(counted(len(odd), "other file ignored", "other files ignored", min(odd)))
        if links:
            self.notes.append(
                counted(len(links), "link within the folder skipped", "links within the folder skipped", min(links))
            )
        return files

    def _splits(self, files: list[str]) -> dict[str, str]:
        """The split of each file that has one."""
        tops = {name: name.partition("/")[0] for name in sorted(files)}
        if set(tops.values()) & set(SPLITS):
            beside = [name for name, top in tops.items() if top not in SPLITS]
            if beside:
                where = f"beside the folders {', '.join(SPLITS)} ignored"
                self.notes.append(counted(len(beside), f"file {where}", f"files {where}", beside[0]))
            return {name: SPLITS[top] for name, top in tops.items() if top in SPLITS}
        order = sorted(files, key=lambda name: (_draw(self.seed, name), name))
        validation, test = (round(len(order) * fraction) for fraction in (self.validation, self.test))
        train = len(order) - validation - test
        for fraction, number, split in ((self.validation, validation, "validation"), (self.test, test, "test")):
            if order and fraction and not number:
                self.notes.append(f"{len(order)} files are too few to give {fraction:g} of them to {split}: none there")
        return dict(zip(order, ["train"] * train + ["validation"] * validation + ["test"] * test, strict=True))

    def _images(self, folder: Path) -> list[Path]:
        """The images of a folder in natural order. DataError for two kinds at once: which one is the clip?"""
        found = [entry.name for entry in entries(folder, self.folder.resolve()) if not entry.is_symlink()]
        names = [name for name in found if Path(name).suffix.lower() in images.SUFFIXES and not name.startswith(".")]
        if len(kinds := sorted({Path(name).suffix.lower() for name in names})) > 1:
            raise DataError(f"{folder}: images of several kinds ({', '.join(kinds)}) in one clip: one kind wanted")
        return [folder / name for name in sorted(names, key=natural_order)]


def _draw(seed: int | None, name: str) -> bytes:
    """A number that orders names at random, the same on every machine; nothing without a seed."""
    return b"" if seed is None else hashlib.sha256(f"{seed}/{name}".encode()).digest()
