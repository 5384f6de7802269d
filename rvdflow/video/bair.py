"""BAIR robot pushing, the small set: softmotion30_44k/{train,test}/traj_{a}_to_{b}.tfrecords, a record for a clip.

Record k of a file is trajectory a + k: an Example with, for each of 30 frames i, `{i}/image_main/encoded` and
`{i}/image_aux1/encoded` (64 x 64 x 3 bytes of plain RGB, rows from the top, in spite of the name), `{i}/action`
(4 floats) and `{i}/endeffector_pos` (3 floats). Not every range of trajectories is there: 169 files of 256.

F. Ebert, C. Finn, A. X. Lee, S. Levine, "Self-Supervised Visual Planning with Temporal Skip Connections", CoRL 2017,
arXiv:1710.05268. Published counts: TensorFlow Datasets, `bair_robot_pushing_small`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lbm.errors import DataError, UsageError
from rvdflow.video.example import Feature, parse_example
from rvdflow.video.source import COLOUR, Clip, Protocol, Read, Series, Shrink, Source, inside, unchanged
from rvdflow.video.tfrecord import Place, Verify, checked, places, read_record

ARCHIVE = "softmotion30_44k"
CAMERAS = ("image_aux1", "image_main")
FRAMES, SIDE = 30, 64
# Folder -> split. SAVP's script moves the validation file from train to a folder of its own, so some copies have one.
FOLDERS = {"test": "test", "train": "train", "val": "train"}
VALIDATION = (256, 511)  # trajectories that SAVP validates on: video_prediction/data/download_and_preprocess_dataset.sh
PUBLISHED = {"train": 43_264, "test": 256}
SERIES = {  # in the records as action and endeffector_pos
    "robot_action": Series("action", 4, "command to the robot"),
    "endeffector_position": Series("coordinate", 3, "place of the gripper"),
}
THEIRS = {"robot_action": "action", "endeffector_position": "endeffector_pos"}
LIMIT = 2**22  # bytes of a record; a true one has 0.75 MB
NAME = re.compile(r"traj_([0-9]{1,6})_to_([0-9]{1,6})\.tfrecords?(\.gz)?")


class Bair(Source):
    """The clips of softmotion30_44k, `folder` or a folder in `folder`, as one of its two cameras saw them.

    `split="savp"` validates on the training file of trajectories 256 to 511, `split="none"` trains on it.
    `verify` says which checksums are compared (see tfrecord.py).
    """

    name = "bair"
    title = "BAIR robot pushing, small"
    protocol = Protocol("rvd-bair", context=4, lead=16, init_time=3)
    channels = COLOUR
    series = SERIES

    def __init__(
        self, folder: Path, *, camera: str = "image_aux1", split: str = "savp", verify: Verify = "full"
    ) -> None:
        if camera not in CAMERAS:
            raise UsageError(f"camera {camera!r} is unknown: BAIR has {' and '.join(CAMERAS)}")
        if split not in ("savp", "none"):
            raise UsageError(f"split {split!r} is unknown: for BAIR it is 'savp' or 'none'")
        super().__init__(inside(folder, ARCHIVE) if (folder / ARCHIVE).is_dir() else folder)
        self.split_policy = "as published" + (", validation as SAVP" if split == "savp" else "")
        self.camera, self.split, self.verify = camera, split, checked(verify)
        held_out = {"train": PUBLISHED["train"] - 256, "validation": 256} if split == "savp" else {}
        self.published = PUBLISHED | held_out

    def clips(self) -> list[Clip]:
        """A clip for each record, found by the headers of the records alone; in order of folder and trajectory."""
        self.notes = []
        files = self._files()
        clips = [clip for (_, first, last), path in sorted(files.items()) for clip in self._listed(path, first, last)]
        if not clips:
            raise DataError(f"{self.folder}: no records in train/ or test/: give the folder that contains {ARCHIVE}")
        return clips

    def _files(self) -> dict[tuple[str, int, int], Path]:
        """Files by set, first and last trajectory."""
        files: dict[tuple[str, int, int], Path] = {}
        aside = 0
        for folder, part in FOLDERS.items():
            there = inside(self.folder, folder)
            for path in sorted(there.iterdir()) if there.is_dir() else ():
                matched = NAME.fullmatch(path.name)
                if matched is None:
                    aside += 1
                    continue
                key = part, int(matched[1]), int(matched[2])
                if key in files:
                    raise DataError(f"{path}: {files[key]} has the same trajectories: keep one of them")
                files[key] = self.folder / folder / path.name
        if aside:
            self.notes.append(f"left aside: {aside} of {aside + len(files)} files, not named traj_A_to_B.tfrecords")
        return files

    def _listed(self, path: Path, first: int, last: int) -> list[Clip]:
        source_file = path.relative_to(self.folder).as_posix()
        part, expected = FOLDERS[path.parent.name], max(0, last - first + 1)
        held_out = self.split == "savp" and part == "train" and (first, last) == VALIDATION
        split = "validation" if held_out else part
        clips = []
        headers: Verify = "off" if self.verify == "off" else "length"
        for place in places(inside(self.folder, source_file), verify=headers, limit=LIMIT):
            if place.number == expected:
                raise DataError(f"{place}: one more than the {expected} trajectories that the file is named for")
            numbers = {"source_trajectory": first + place.number, "record": place.number, "byte": place.offset}
            clip_id = f"{part}/{first:06d}_{last:06d}/{place.number:06d}"
            clips.append(Clip(clip_id, split, source_file, 0, FRAMES, numbers))
        if len(clips) < expected:
            self.notes.append(f"{source_file}: {len(clips)} records, {expected} by its name")
        return clips

    def options(self) -> dict[str, Any]:
        return {"split": self.split, "camera": self.camera}

    def read(self, clip: Clip, shrink: Shrink = unchanged) -> Read:
        """The 30 frames of a clip, and the robot's series (30, k), NaN where the record has none.

        A frame beyond them is left out, with a remark.
        """
        number, offset = int(clip.numbers["record"]), int(clip.numbers["byte"])
        place, data = read_record(self.path(clip), number, offset, verify=self.verify, limit=LIMIT)
        features = parse_example(data, place)
        frames = np.empty((FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
        for i in range(FRAMES):
            frames[i] = _image(features, f"{i}/{self.camera}/encoded", place)
        extras = {ours: _series(features, THEIRS[ours], about.length, place) for ours, about in SERIES.items()}
        beyond = f"{FRAMES}/{self.camera}/encoded" in features
        return Read(shrink(frames), extras, f"more than {FRAMES} frames, the others were left out" if beyond else "")


def _image(features: Mapping[str, Feature], name: str, place: Place) -> np.ndarray:
    values = features.get(name, [])
    if not len(values):
        raise DataError(f"{place}: no {name}")
    if not isinstance(values, list) or len(values) > 1:
        raise DataError(f"{place}: {name} is {_kind(values)}, not one image")
    if len(values[0]) != SIDE * SIDE * 3:
        raise DataError(f"{place}: {name} has {len(values[0])} bytes, not {SIDE} x {SIDE} x 3 = {SIDE * SIDE * 3}")
    return np.frombuffer(values[0], np.uint8).reshape(SIDE, SIDE, 3)


def _series(features: Mapping[str, Feature], name: str, width: int, place: Place) -> np.ndarray:
    series = np.full((FRAMES, width), np.nan, dtype=np.float32)
    for i in range(FRAMES):
        values = features.get(f"{i}/{name}", [])
        if not len(values):
            continue
        if isinstance(values, list) or values.dtype != np.float32 or len(values) != width:
            raise DataError(f"{place}: {i}/{name} is {_kind(values)}, not {width} floats")
        series[i] = values
    return series


def _kind(values: Feature) -> str:
    if isinstance(values, list):
        return f"{len(values)} byte strings"
    return f"{len(values)} {'floats' if values.dtype == np.float32 else 'integers'}"
