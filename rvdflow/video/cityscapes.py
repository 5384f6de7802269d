"""Cityscapes, the video sequences: {split}/{city}/{city}_{sequence}_{frame}_leftImg8bit.png -> snippets of 30 frames.

Cordts et al. (2016), doi:10.1109/CVPR.2016.350; archive leftImg8bit_sequence_trainvaltest.zip. A snippet is 30 frames
at 17 Hz, of which number 19 (from 0) is the annotated one. In most cities each snippet has a sequence number of its
own; in some (frankfurt, hamburg, bochum, ...) many snippets share one and differ in their frame numbers. So the frames
of each (city, sequence) are sorted, split where a number is missing, and each run is cut into snippets of 30 from its
start. What is left of a run is dropped, with a note.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lbm.errors import DataError
from rvdflow.video.files import counted, entries
from rvdflow.video.images import read_images
from rvdflow.video.source import COLOUR, Clip, Protocol, Read, Shrink, Source, inside, unchanged

TREE = "leftImg8bit_sequence"
LENGTH = 30  # frames of a snippet
ANNOTATED = 19
SPLITS = {"train": "train", "val": "validation", "test": "test"}  # the archive's words -> ours
_NAME = re.compile(r"(?P<city>[a-z\-]+)_(?P<sequence>[0-9]{6})_(?P<frame>[0-9]{6})_leftImg8bit\.png")


class Cityscapes(Source):
    """The snippets below `folder`, which is leftImg8bit_sequence itself or holds it.

    A clip's `source_file` is its first image; `first` and `stop` count images from there (0, 30).
    `numbers`: city, sequence, first_frame (as the image is called), annotated_index.
    Where a run of frames is no multiple of 30 it is unknown which are missing, and a note says how many snippets
    this leaves in doubt; it never happens in the archive as published.
    """

    name = "cityscapes"
    title = "Cityscapes sequences"
    split_policy = "cities, as published"
    size = (128, 128)
    protocol = Protocol("rvd-cityscapes", context=4, lead=16, init_time=3)
    channels = COLOUR
    interval = 1 / 17
    published: Mapping[str, int] = {"train": 2975, "validation": 500, "test": 1525}

    def clips(self) -> list[Clip]:
        """All complete snippets in the order of their names. No image is opened."""
        self.notes = []
        tree = self._tree()
        clips: list[Clip] = []
        odd: list[str] = []  # files that are not frames
        broken: list[str] = []  # runs that are no multiple of 30
        dropped = doubtful = 0
        for split, city, sequence, run in self._runs(tree, odd):
            count, rest = divmod(len(run), LENGTH)
            clips += [self._clip(tree, split, city, sequence, run[k * LENGTH]) for k in range(count)]
            if rest:
                broken.append(f"{len(run)} frames from {split}/{city}/{_name(city, sequence, run[0])}")
                dropped, doubtful = dropped + rest, doubtful + count
        if odd:
            self.notes.append(counted(len(odd), "file is no frame: ignored", "files are no frames: ignored", odd[0]))
        if broken:
            runs = counted(len(broken), f"run not of {LENGTH} k frames", f"runs not of {LENGTH} k frames", broken[0])
            self.notes.append(f"{runs}: {dropped} frames dropped, annotated_index of {doubtful} snippets in doubt")
        if not clips:
            raise DataError(
                f"{tree}: no snippet of {LENGTH} frames; {'; '.join(self.notes) or 'the folders are empty'}"
            )
        return sorted(clips, key=lambda clip: clip.clip_id)

    def options(self) -> dict[str, Any]:
        return {}

    def read(self, clip: Clip, shrink: Shrink = unchanged) -> Read:
        """The 30 frames of a snippet. DataError names the image that is missing or damaged."""
        return Read(read_images(self.files(clip), colour=True, shrink=shrink))

    def files(self, clip: Clip) -> list[Path]:
        """The 30 images of a snippet."""
        parent, start = Path(clip.source_file).parent, int(clip.numbers["first_frame"])
        city, sequence = str(clip.numbers["city"]), int(clip.numbers["sequence"])
        names = [_name(city, sequence, start + k) for k in range(clip.first, clip.stop)]
        return [inside(self.folder, (parent / name).as_posix()) for name in names]

    def _tree(self) -> Path:
        for tree in (self.folder / TREE, self.folder):
            if any((tree / split).is_dir() for split in SPLITS):
                return tree
        raise DataError(f"{self.folder}: no folder {TREE} with {', '.join(SPLITS)}: unpack the archive there")

    def _runs(self, tree: Path, odd: list[str]) -> Iterator[tuple[str, str, int, list[int]]]:
        """(split, city, sequence, frame numbers without a gap); files with other names are added to `odd`."""
        for folder in (self.folder, tree):
            entries(folder, self.folder)  # refuses links that lead elsewhere
        for split in SPLITS:
            if not (tree / split).is_dir():
                self.notes.append(f"no folder {tree / split}: no clips of split {SPLITS[split]!r}")
                continue
            for city in entries(tree / split, self.folder):
                if not city.is_dir():
                    odd.append(city.path)
                    continue
                sequences: dict[int, list[int]] = defaultdict(list)
                for entry in entries(Path(city.path), self.folder):
                    match = _NAME.fullmatch(entry.name)
                    if match and match["city"] == city.name:
                        sequences[int(match["sequence"])].append(int(match["frame"]))
                    else:
                        odd.append(entry.path)
                for sequence, numbers in sorted(sequences.items()):
                    yield from ((split, city.name, sequence, run) for run in _without_gaps(numbers))

    def _clip(self, tree: Path, split: str, city: str, sequence: int, start: int) -> Clip:
        folder = tree.relative_to(self.folder) / split / city
        return Clip(
            clip_id=f"{split}/{city}_{sequence:06d}_{start:06d}",
            split=SPLITS[split],
            source_file=(folder / _name(city, sequence, start)).as_posix(),
            first=0,
            stop=LENGTH,
            numbers={"city": city, "sequence": sequence, "first_frame": start, "annotated_index": ANNOTATED},
        )


def _name(city: str, sequence: int, frame: int) -> str:
    return f"{city}_{sequence:06d}_{frame:06d}_leftImg8bit.png"


def _without_gaps(numbers: list[int]) -> list[list[int]]:
    """Numbers sorted, and split wherever one is missing."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs
