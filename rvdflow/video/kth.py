"""KTH Actions (Schuldt, Laptev and Caputo 2004, doi:10.1109/ICPR.2004.1334462): 25 persons, 6 actions, 4 scenarios.

A folder of `person01_boxing_d1_uncomp.avi`, ..., flat or one folder per action, and `00sequences.txt`, which cuts every
video into segments; a segment is a clip. Videos are 160 x 120 gray pixels stored in colour, 25 frames per second.

Persons are split, so that nobody is seen in two splits, by one of three conventions:

| split | train | validation | test | files that use it |
|---|---|---|---|---|
| `schuldt` | 11-18 | 19-21, 23-25, 01, 04 | 22, 02, 03, 05-10 | the official one, in 00sequences.txt |
| `1-16` | 01-16 less 01, 04 | 01, 04 | 17-25 | PredRNN, SAVP, OpenSTL |
| `1-20` | 01-20 less 01, 04, 19, 20 | 01, 04, 19, 20 | 21-25 | SVG, MCVD |

The last two have no validation split of their own: ours are those of their training persons that validate in
`schuldt`, so that a person chosen to tune on tunes in all three; none of them lacks a file or a segment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lbm.errors import DataError, UsageError
from rvdflow.video.decode import decode
from rvdflow.video.source import GRAY, Clip, Protocol, Read, Shrink, Source, inside, unchanged

LIST = "00sequences.txt"
MAX_LIST = 2**20  # bytes; the published list has 38 kB
ACTIONS = ("boxing", "handclapping", "handwaving", "jogging", "running", "walking")
INTERVAL = 1 / 25  # seconds

_VALIDATION = {19, 20, 21, 23, 24, 25, 1, 4}
_TEST = {"schuldt": {22, 2, 3, *range(5, 11)}, "1-16": {*range(17, 26)}, "1-20": {*range(21, 26)}}
SPLITS = {
    name: {
        "train": frozenset(range(1, 26)) - _VALIDATION - test,
        "validation": frozenset(_VALIDATION - test),
        "test": frozenset(test),
    }
    for name, test in _TEST.items()
}
# Published: 760 / 768 / 863; 1528 / 863; 1912 / 479. A person who lacks nothing has 6 x 4 x 4 = 96 segments.
PUBLISHED = {
    "schuldt": {"train": 760, "validation": 768, "test": 863},
    "1-16": {"train": 1528 - 2 * 96, "validation": 2 * 96, "test": 863},
    "1-20": {"train": 1912 - 4 * 96, "validation": 4 * 96, "test": 479},
}

_NAME = re.compile(rf"person(0[1-9]|1[0-9]|2[0-5])_({'|'.join(ACTIONS)})_d([1-4])")
_LINE = re.compile(r"(person[0-9]+_[a-z]+_d[0-9]+)(?![\w.])(?:\s+frames\b)?(.*)", re.IGNORECASE)
_RANGE = re.compile(r"([0-9]{1,7})\s*-\s*([0-9]{1,7})")


def parse_sequences(text: str, where: str = LIST) -> dict[str, list[tuple[int, int]]]:
    """Segments (first, stop) of each video of 00sequences.txt, frames counted from 0, in the order of the list.

    The list counts from 1 and includes the end. A video marked `*missing*` has no segments; segments may overlap
    and need not be in order; lines that neither name a video nor look like segments are prose.
    """
    videos: dict[str, list[tuple[int, int]]] = {}
    for number, line in enumerate(text.replace("\r", "\n" if "\n" not in text else "").split("\n"), 1):
        found = _LINE.fullmatch(line.strip())
        if found is None:
            if re.search(rf"\bframes\s+{_RANGE.pattern}", line):
                raise DataError(f"{where}, line {number}: segments of no video: {line.strip()[:60]!r}")
            continue
        name, rest = found[1].lower(), found[2].strip()
        if not _NAME.fullmatch(name):
            raise DataError(f"{where}, line {number}: {name} is none of the videos of KTH Actions")
        if name in videos:
            raise DataError(f"{where}, line {number}: {name} is listed twice")
        videos[name] = [] if rest.lower() == "*missing*" else _segments(rest, f"{where}, line {number}: {name}")
    if not videos:
        raise DataError(f"{where}: names no video; wanted lines like 'person01_boxing_d1 frames 1-95, 96-185'")
    return videos


def _segments(text: str, where: str) -> list[tuple[int, int]]:
    segments = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        ends = _RANGE.fullmatch(part)
        if ends is None or not 1 <= int(ends[1]) <= int(ends[2]):
            raise DataError(f"{where}: {part[:30]!r} is no range of frames; wanted e.g. 96-185")
        segments.append((int(ends[1]) - 1, int(ends[2])))
    if not segments:
        raise DataError(f"{where}: has neither segments nor '*missing*'")
    return segments


class Kth(Source):
    """KTH Actions in `folder`. `sequences` is where 00sequences.txt lies, when it is not in the folder."""

    name = "kth"
    title = "KTH Actions"
    resize, crop = "bilinear", "stretch"  # as the code that was released with the paper
    protocol = Protocol("rvd-kth", context=4, lead=12, init_time=15)
    channels = GRAY
    interval = INTERVAL

    def __init__(self, folder: Path, *, split: str = "schuldt", sequences: Path | None = None) -> None:
        super().__init__(folder)
        if split not in SPLITS:
            raise UsageError(f"split {split!r} of KTH Actions: wanted one of {', '.join(SPLITS)}")
        self.split_policy = f"persons, as {split}"
        self.split, self.published = split, PUBLISHED[split]
        self.sequences = sequences or folder / LIST

    def clips(self) -> list[Clip]:
        """All segments of the videos that are there, in the order of 00sequences.txt."""
        clips, marked, absent, short = [], [], [], []
        split_of = {person: name for name, persons in SPLITS[self.split].items() for person in persons}
        videos = parse_sequences(_text(self.sequences), str(self.sequences))
        for video, segments in videos.items():
            file = self._file(video)
            if not segments:
                marked.append(video)
            elif file is None:
                absent.append(video)
            else:
                short += _shortness(inside(self.folder, file), video, max(stop for _, stop in segments))
                person, action, scenario = _parts(video)
                for k, (first, stop) in enumerate(segments, 1):
                    numbers: dict[str, int | float | str] = {
                        "subject": person,
                        "action": action,
                        "scenario": scenario,
                        "segment": k,
                    }
                    clips.append(Clip(f"{video}/{k}", split_of[person], file or "", first, stop, numbers))
        if not clips:
            raise DataError(f"{self.folder}: none of the {len(videos)} videos of {self.sequences} is there")
        self.notes = [
            *_note(f"of {len(videos)} videos marked missing in {LIST}", marked),
            *_note(f"of {len(videos)} videos not there, their clips left out", absent),
            *_note(f"of {len(videos)} videos damaged or shorter than {LIST} says", short),
        ]
        return clips

    def options(self) -> dict[str, Any]:
        return {"split": self.split}

    def read(self, clip: Clip, shrink: Shrink = unchanged) -> Read:
        """The frames of a segment, fewer where its video ends early. DataError when there are none."""
        got = decode(self.path(clip), clip.first, clip.stop, "gray", shrink)
        notes = []
        if got.missing:
            notes.append(f"{got.missing} of {clip.stop - clip.first} frames could not be decoded: {got.reason}")
        if got.interval is None or abs(got.interval / INTERVAL - 1) > 0.01:
            notes.append(f"frame interval {got.interval} s, wanted {INTERVAL} s")
        return Read(got.frames, note="; ".join(notes))

    def _file(self, video: str) -> str | None:
        """Where a video lies: in a folder of its action or flat, with the ending of the archive or without."""
        for name in (f"{video}_uncomp.avi", f"{video}.avi"):
            for place in (f"{_parts(video)[1]}/{name}", name):
                if inside(self.folder, place).is_file():
                    return place
        return None


def _parts(video: str) -> tuple[int, str, int]:
    """Person, action, scenario."""
    person, action, scenario = video.removeprefix("person").split("_")
    return int(person), action, int(scenario[1:])


def _text(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; get it from https://www.csc.kth.se/cvap/actions/{LIST}")
    with path.open("rb") as file:
        text = file.read(MAX_LIST + 1)
    if len(text) > MAX_LIST:
        raise DataError(f"{path}: longer than {MAX_LIST} bytes, not the list of KTH Actions")
    return text.decode("latin-1").removeprefix("\xef\xbb\xbf")


def _shortness(path: Path, video: str, wanted: int) -> list[str]:
    """[what is wrong with the video], by its header: no frame is decoded. Empty when nothing is.

    RIFF, length of what follows, AVI, LIST, length, hdrl, avih, length, 4 numbers, number of frames.
    """
    with path.open("rb") as file:
        head = file.read(52)
    if len(head) < 52 or (head[:4], head[8:12]) != (b"RIFF", b"AVI "):
        return [f"{video} (no AVI file)"]
    if int.from_bytes(head[4:8], "little") + 8 > path.stat().st_size:
        return [f"{video} (cut off)"]
    frames = int.from_bytes(head[48:52], "little")
    return [f"{video} ({frames} of {wanted} frames)"] if frames < wanted and head[24:28] == b"avih" else []


def _note(what: str, videos: Iterable[str]) -> list[str]:
    names = list(videos)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return [f"{len(names)} {what}: {', '.join(names[:5])}{more}"] if names else []
