"""Speed of `rvdflow convert` on one core, its largest memory, and the time for each full archive that follows.

    python benchmarks/convert_speed.py            # 40 clips of each format
    python benchmarks/convert_speed.py --clips 2  # does it run?

The archives cannot be shipped, so the script makes small ones in the same formats at the same pixel sizes: KTH as
MPEG-4 in AVI, 160x120; BAIR as TFRecords with two cameras and checksums; Cityscapes as PNG of 2048x1024. The pictures
are textures that move, with some noise: PNGs of real streets may take a little longer or shorter. Each format is
converted in a process of its own with one worker, so that its peak memory is its own. Frames are read from the page
cache: a slow disk adds its time.

Writes benchmarks/results/convert_speed.json. Fails when a format takes more than 500 MB.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lbm.provenance import provenance
from rvdflow.video.bair import Bair
from rvdflow.video.cityscapes import Cityscapes
from rvdflow.video.convert import convert
from rvdflow.video.example import encode_example
from rvdflow.video.kth import Kth
from rvdflow.video.source import Source
from rvdflow.video.store import Preparation
from rvdflow.video.tfrecord import write_records

FULL = {"kth": 2391, "bair": 43_264 + 256, "cityscapes": 5000}  # clips of the archives as published
SEGMENT = 95  # frames of a segment of KTH, on average; a video has four
MEMORY = 500e6  # bytes


def texture(height: int, width: int, shift: int, seed: int) -> np.ndarray:
    """A picture (y, x, 3) of waves that moves by `shift` pixels, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 64
    waves = sum(np.sin(a * y + b * (x + shift / 64) + c) for a, b, c in rng.uniform(-9, 9, (4, 3)))
    noise = np.random.default_rng([seed, shift]).normal(0, 3, (height, width, 3))
    return np.clip(128 + 25 * waves[..., None] + noise, 0, 255).astype(np.uint8)


def make_kth(folder: Path, clips: int) -> Source:
    """Videos of four segments."""
    import av

    lines = []
    for k in range(-(-clips // 4)):
        video = f"person{k % 25 + 1:02d}_walking_d{k // 25 + 1}"
        ranges = ", ".join(f"{j * SEGMENT + 1}-{(j + 1) * SEGMENT}" for j in range(4))
        lines.append(f"{video}\t\tframes\t{ranges}")
        with av.open(str(folder / f"{video}_uncomp.avi"), "w") as file:
            stream = file.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt, stream.codec_context.codec_tag = 160, 120, "yuv420p", "DIVX"
            for i in range(4 * SEGMENT):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(texture(120, 160, i, k))))
            file.mux(stream.encode())
    (folder / "00sequences.txt").write_text("\n".join(lines))
    return Kth(folder)


def make_bair(folder: Path, clips: int) -> Source:
    """One file of records."""
    (folder / "train").mkdir()

    def record(k: int) -> bytes:
        values: dict[str, Any] = {}
        for i in range(30):
            for camera in ("image_aux1", "image_main"):
                values[f"{i}/{camera}/encoded"] = texture(64, 64, i, k).tobytes()
            values[f"{i}/action"], values[f"{i}/endeffector_pos"] = np.zeros(4, np.float32), np.zeros(3, np.float32)
        return encode_example(values)

    write_records(folder / "train" / f"traj_0_to_{clips - 1}.tfrecords", map(record, range(clips)))
    return Bair(folder)


def make_cityscapes(folder: Path, clips: int) -> Source:
    """Snippets of 30 images; a few pictures serve all."""
    place = folder / "leftImg8bit_sequence/train/aachen"
    place.mkdir(parents=True)
    pictures = [Image.fromarray(texture(1024, 2048, i, 0)) for i in range(2)]
    for k in range(clips):
        for i in range(30):
            pictures[i % 2].save(place / f"aachen_{k:06d}_{i:06d}_leftImg8bit.png")
    return Cityscapes(folder)


MAKERS = {"kth": make_kth, "bair": make_bair, "cityscapes": make_cityscapes}
SOURCES = {"kth": Kth, "bair": Bair, "cityscapes": Cityscapes}


def largest_memory() -> int:
    """Bytes this process has held at most. (What getrusage says is never less than what the parent held.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Processor seconds of decoding and resizing, and of everything, and the largest memory of this process."""
    source: Source = SOURCES[name](folder)  # type: ignore[abstract, arg-type]
    clips, preparation = source.clips(), Preparation(source.size, source.resize, source.crop)
    began = time.process_time()
    for clip in clips:
        source.read(clip, preparation)
    read = time.process_time() - began
    began = time.process_time()
    convert(source, folder / "video.zarr", workers=1)
    everything = time.process_time() - began
    per_clip = everything / len(clips)
    return {
        "clips": len(clips),
        "frames": sum(clip.stop - clip.first for clip in clips),
        "read_seconds_per_clip": read / len(clips),
        "seconds_per_clip": per_clip,
        "clips_per_core_second": 1 / per_clip,
        "full_archive_core_hours": per_clip * FULL[name] / 3600,
        "peak_memory_bytes": largest_memory(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=40, help="clips of each format")
    parser.add_argument("--only", choices=MAKERS, action="append", help="this format; repeatable")
    parser.add_argument("--measure", nargs=2, metavar=("FORMAT", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results/convert_speed.json")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], Path(options.measure[1]))))
        return
    found = {}
    for name in options.only or MAKERS:
        with tempfile.TemporaryDirectory() as folder:
            MAKERS[name](Path(folder), options.clips)
            command = [sys.executable, __file__, "--measure", name, folder]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(answer.stdout)
        print(
            f"{name}: {found[name]['clips_per_core_second']:.3g} clips per core and second, "
            f"{found[name]['full_archive_core_hours']:.3g} core hours for {FULL[name]:,} clips, "
            f"{found[name]['peak_memory_bytes'] / 1e6:.0f} MB"
        )
    report = {
        "formats": found, "cores": os.cpu_count(), "machine": platform.machine(), "platform": platform.platform(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(), **provenance("av", "pillow"),
    }  # fmt: skip
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    large = [name for name, one in found.items() if one["peak_memory_bytes"] > MEMORY]
    if large:
        sys.exit(f"more than {MEMORY / 1e6:.0f} MB of memory: {', '.join(large)}")


if __name__ == "__main__":
    main()
