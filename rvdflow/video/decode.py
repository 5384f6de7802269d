"""Frames of a video file, decoded by PyAV (FFmpeg): uint8 (time, y, x, channel).

Frames are counted from 0 in the order they are shown. They are decoded one after the other from the start of the
file, since seeking in an AVI file is inexact, and only the wanted ones are held. "gray" is the luma, stretched from
the studio range 16..235 to 0..255 where the file uses that range, as every RGB reader does; for a gray picture stored
in colour it equals each of "rgb"'s three channels, up to the rounding of the conversion.

From the first damaged frame on nothing is returned: later frames are predicted from it. What ends the frames is
a packet or frame that FFmpeg calls corrupt, an error of FFmpeg, the end of the file, or, in an AVI file, bytes between
two frames that are no chunks (FFmpeg searches on for the next frame, and all later ones would be numbered wrongly).
An AVI chunk of length 0 means the frame before it once more. Damage inside a frame that still decodes cannot be seen.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lbm.errors import DataError, UsageError
from rvdflow.video.source import Shrink, unchanged

FORMATS = {"gray": ("gray", 1), "rgb": ("rgb24", 3)}  # FFmpeg's name and the number of channels
MAX_PIXELS = 2**24  # of one frame; a damaged header can promise any size
MAX_BYTES = 2**31  # of the frames held
# No playlists, which could name other files, and no text that FFmpeg would draw.
OPTIONS = {"format_whitelist": "avi,matroska,mov", "protocol_whitelist": "file"}


@dataclass(frozen=True)
class Facts:
    """What a video file holds; `frames` is counted up to the first damage, `interval` in seconds, None if unknown.

    `damage` says what is wrong with a file that is cut off or damaged, "" where nothing is.
    """

    frames: int
    height: int
    width: int
    interval: float | None
    damage: str = ""


@dataclass(frozen=True)
class Decoded:
    """Frames (time, y, x, channel) uint8 from the first wanted on, how many of the wanted are missing, and why."""

    frames: np.ndarray
    missing: int
    reason: str
    interval: float | None


def facts(path: Path) -> Facts:
    """Number, size and interval of the frames of a file, without decoding them. DataError when it is no video."""
    frames, damage = 0, ""
    with _opened(path) as (container, stream):
        height, width, interval, promised = stream.height, stream.width, _interval(stream), stream.frames
        try:
            for packet, repeats in _packets(path, container, stream):
                frames += repeats + (packet.size > 0)
        except DataError as error:
            damage = str(error)
    if not damage and promised > frames:  # AVI and MP4 say how many there are, Matroska does not
        damage = f"{frames} of {promised} frames"
    if not (frames and height and width):
        raise DataError(f"{path}: holds {frames} frames of {width} x {height} pixels")
    return Facts(frames, height, width, interval, damage)


def decode(path: Path, first: int, stop: int, colour: str = "gray", shrink: Shrink = unchanged) -> Decoded:
    """Frames first..stop-1 of a file, in "gray" or "rgb", as many as are intact, each put through `shrink`.

    DataError when the file is no video, when none of the wanted frames can be decoded, or when they would take more
    than `MAX_BYTES`.
    """
    if not 0 <= first < stop:
        raise UsageError(f"frames {first}..{stop - 1} asked for: wanted 0 <= first < stop")
    if colour not in FORMATS:
        raise UsageError(f"colour {colour!r} asked for: wanted one of {', '.join(FORMATS)}")
    held, size, shape, count, reason = bytearray(), (0, 0), (0, 0), 0, "the file ends"
    with _opened(path) as (container, stream):
        interval = _interval(stream)
        try:
            for frame in itertools.islice(_frames(path, container, stream), stop):
                size = size if count else (frame.height, frame.width)
                if (frame.height, frame.width) != size:
                    raise DataError(f"{frame.width} x {frame.height} pixels, those before {size[1]} x {size[0]}")
                if count >= first:
                    picture = shrink(_picture(frame, colour))
                    shape = picture.shape[1:3]
                    held += picture.tobytes()
                count += 1
                if len(held) > MAX_BYTES:
                    break
        except DataError as error:
            reason = str(error)
    if len(held) > MAX_BYTES:
        raise DataError(f"{path}: frames {first}..{stop - 1} take more than {MAX_BYTES >> 20} MiB")
    if count <= first:
        raise DataError(f"{path}: frame {count}: {reason}; frames {first}..{stop - 1} wanted")
    frames = np.frombuffer(held, np.uint8).reshape(count - first, *shape, FORMATS[colour][1])
    missing = stop - count
    return Decoded(frames, missing, f"frame {count}: {reason}" if missing else "", interval)


def _picture(frame: Any, colour: str) -> np.ndarray:
    """One frame (1, y, x, channel)."""
    try:
        return frame.to_ndarray(format=FORMATS[colour][0]).reshape(1, frame.height, frame.width, -1)
    except _errors() as error:
        raise DataError(_words(error)) from error


def _frames(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    """Intact frames in the order they are shown; DataError at the first that is not."""
    last = None
    try:
        for packet, repeats in _packets(path, container, stream):
            if last is not None:
                yield from itertools.repeat(last, repeats)
            for last in packet.decode():
                if last.is_corrupt:
                    raise DataError("damaged")
                yield last
    except _errors() as error:
        raise DataError(_words(error)) from error


def _packets(path: Path, container: Any, stream: Any) -> Iterator[tuple[Any, int]]:
    """Packets, one per coded frame and an empty last one, with the number of empty AVI chunks before each."""
    before, avi = None, container.format.name == "avi"
    try:
        with path.open("rb") as file:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise DataError("cut off or damaged")
                repeats = 0
                placed = None not in (packet.pos, packet.dts)
                if avi and placed and before is not None:
                    end = before.pos + before.size + before.size % 2
                    if not _only_chunks(file, end, packet.pos - 8, stream.index, len(container.streams)):
                        raise DataError(f"no AVI chunk at byte {end}")
                    repeats = max(0, packet.dts - before.dts - 1)  # AVI counts chunks
                before = packet if placed else None
                yield packet, repeats
    except _errors() as error:
        raise DataError(_words(error)) from error


def _only_chunks(file: BinaryIO, start: int, stop: int, stream: int, streams: int) -> bool:
    """Whether bytes start..stop-1 of an AVI file are whole chunks, none of them a frame of the stream."""
    others = {b"%02d" % k for k in range(streams)} - {b"%02d" % stream}
    while start < stop:
        file.seek(start)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] in (b"RIFF", b"LIST"):  # a list's chunks follow its 12 bytes
            start += 12
        elif head[:4] in (b"JUNK", b"idx1") or head[:2] in (b"ix", *others):
            start += 8 + length + length % 2
        elif head[:2] == b"%02d" % stream and not length:
            start += 8
        else:
            return False
    return start == stop


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The open file and its first video stream."""
    av = _av()
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        container = av.open(os.fspath(path.resolve()), options=OPTIONS, metadata_errors="replace")
    except _errors() as error:
        raise DataError(f"{path}: no AVI, MP4 or Matroska video ({_words(error)})") from error
    with container:
        streams = container.streams.video
        if not streams:
            raise DataError(f"{path}: has no video stream")
        stream = streams[0]
        if stream.codec_context is None:
            raise DataError(f"{path}: no decoder for the video stream")
        if stream.width * stream.height > MAX_PIXELS:
            raise DataError(f"{path}: frames of {stream.width} x {stream.height} pixels, more than {MAX_PIXELS}")
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        stream.codec_context.thread_count = 1  # several delay errors past the frame they belong to
        yield container, stream


def _interval(stream: Any) -> float | None:
    rate = stream.average_rate or stream.guessed_rate
    return float(1 / rate) if rate else None


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise UsageError("reading video files needs PyAV: pip install 'rvdflow[video]'") from error
    return av


def _errors() -> tuple[type[BaseException], ...]:
    """What PyAV raises on damaged files; ValueError covers text that is no UTF-8."""
    return (_av().FFmpegError, ValueError, OSError, EOFError, MemoryError, OverflowError)


def _words(error: BaseException) -> str:
    """An error in words, without the path or function that FFmpeg adds."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
