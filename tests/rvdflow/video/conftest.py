"""Small archives in the real formats, and how two stores are compared."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rvdflow.video.example import encode_example
from rvdflow.video.tfrecord import write_records

SEQUENCES = """Training:   person11, 12, 13, 14, 15, 16, 17, 18

person01_boxing_d1\t\tframes\t1-9, 6-20
person11_walking_d4 frames 1-6, 7-20
person13_handclapping_d3\t*missing*
person22_running_d3    \tframes\t3-7, 8-20
"""


def kth_pictures(video: str, frames: int = 20) -> np.ndarray:
    """Frames (time, y, x) of a video, unlike those of any other."""
    return np.random.default_rng(list(video.encode())).integers(0, 256, (frames, 24, 32)).astype(np.uint8)


def _kth(folder: Path) -> Path:
    """Three videos of six segments, lossless."""
    av = pytest.importorskip("av")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "00sequences.txt").write_text(SEQUENCES)
    for video in ("person01_boxing_d1", "person11_walking_d4", "person22_running_d3"):
        with av.open(str(folder / f"{video}_uncomp.avi"), "w") as file:
            stream = file.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt, stream.codec_context.codec_tag = 32, 24, "gray", "FFV1"
            for frame in kth_pictures(video):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
            file.mux(stream.encode())
    return folder


def bair_picture(trajectory: int, camera: int, i: int) -> np.ndarray:
    """Frame i (y, x, channel) of a trajectory as a camera (0: image_aux1) saw it."""
    y, x = np.mgrid[:64, :64]
    seed = 7 * trajectory + 3 * i + 101 * camera
    return np.stack([(y * 5 + x + seed) % 256, (x * 3 + seed * 2) % 256, (y * x + seed) % 256], -1).astype(np.uint8)


def _bair(folder: Path) -> Path:
    """Two clips to train on, one to validate on, one to test on."""
    for place, trajectories in (
        ("train/traj_1024_to_1025", [1024, 1025]),
        ("train/traj_256_to_511", [256]),
        ("test/traj_0_to_0", [0]),
    ):
        path = folder / "softmotion30_44k" / f"{place}.tfrecords"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = []
        for trajectory in trajectories:
            values = {}
            for i in range(30):
                for camera, name in enumerate(("image_aux1", "image_main")):
                    values[f"{i}/{name}/encoded"] = bair_picture(trajectory, camera, i).tobytes()
                values[f"{i}/action"] = np.float32([trajectory, i, 0.25, -1])
                values[f"{i}/endeffector_pos"] = np.float32([i, trajectory, -0.5])
            data.append(encode_example(values))
        write_records(path, data)
    return folder


def cityscapes_picture(sequence: int, frame: int) -> np.ndarray:
    """One image (y, x, channel) of 8 x 16 pixels."""
    return np.random.default_rng([sequence, frame]).integers(0, 256, (8, 16, 3)).astype(np.uint8)


def _cityscapes(folder: Path) -> Path:
    """One snippet of each split."""
    for sequence, (split, city) in enumerate([("train", "aachen"), ("val", "lindau"), ("test", "bonn")]):
        place = folder / "leftImg8bit_sequence" / split / city
        place.mkdir(parents=True, exist_ok=True)
        for frame in range(30):
            image = Image.fromarray(cityscapes_picture(sequence, frame))
            image.save(place / f"{city}_{sequence:06d}_{frame:06d}_leftImg8bit.png")
    return folder


def _content(path: Path) -> dict[str, bytes]:
    """Every file of a store, by name."""
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def fixture_of(function: Callable) -> Callable:
    return pytest.fixture(name=function.__name__.lstrip("_"))(lambda: function)


kth = fixture_of(_kth)
bair = fixture_of(_bair)
cityscapes = fixture_of(_cityscapes)
content = fixture_of(_content)
pictures_of_kth = pytest.fixture(lambda: kth_pictures)
picture_of_bair = pytest.fixture(lambda: bair_picture)
picture_of_cityscapes = pytest.fixture(lambda: cityscapes_picture)
