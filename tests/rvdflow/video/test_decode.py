"""Video files: the frames that come out are those that went in, or there are fewer of them and it is said why."""

import contextlib
import re
import struct
import sys
import tracemalloc

import numpy as np
import pytest

from lbm.errors import DataError, UsageError
from rvdflow.video import decode as module
from rvdflow.video.decode import decode, facts

av = pytest.importorskip("av")

COUNT, HEIGHT, WIDTH = 12, 24, 32


def pictures(seed=0, low=0, high=256):
    """Frames (time, y, x) without any two alike."""
    return np.random.default_rng(seed).integers(low, high, (COUNT, HEIGHT, WIDTH)).astype(np.uint8)


def smooth():
    """Frames (time, y, x) that a lossy codec keeps well: a bright square moves."""
    frames = np.full((COUNT, HEIGHT, WIDTH), 60, np.uint8)
    for k in range(COUNT):
        frames[k, 6:16, 2 + k : 12 + k] = 200
    return frames


def write(path, frames, codec="ffv1", layout="gray", given="gray", rate=25, tag=None, **options):
    """A video file of frames in the layout `given`; `layout` is what the file stores."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, layout
        if tag:
            stream.codec_context.codec_tag = tag
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format=given)))
        file.mux(stream.encode())
    return path


def write_divx(path, frames):
    """As KTH Actions stores them: MPEG-4 with the tag DIVX, and a key frame every 5."""
    return write(path, frames, "mpeg4", "yuv420p", tag="DIVX", g="5", qmin="1", qmax="2")


def chunks(data):
    """(position, length) of the frames of an AVI file, by the format's rule; tests damage them there."""
    found, at = [], data.index(b"movi") + 4
    while data[at : at + 4] == b"00dc":
        length = struct.unpack("<I", data[at + 4 : at + 8])[0]
        found.append((at, length))
        at += 8 + length + length % 2
    return found


def attempt(path, first, stop):
    """What is decoded, or the words of a DataError; any other error fails the test."""
    try:
        return decode(path, first, stop)
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("codec", ["ffv1", "rawvideo"])
@pytest.mark.parametrize(("first", "stop"), [(0, 12), (0, 1), (3, 4), (5, 9), (11, 12), (2, 12)])
def test_frames_of_a_lossless_file_are_those_written(tmp_path, codec, first, stop):
    path = write(tmp_path / "a.avi", pictures(), codec)
    got = decode(path, first, stop)
    np.testing.assert_array_equal(got.frames, pictures()[first:stop, ..., None])
    assert got.frames.dtype == np.uint8
    assert (got.missing, got.reason, got.interval) == (0, "", 0.04)


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_colours_of_a_lossless_file_are_those_written(tmp_path, suffix):
    colours = np.stack([pictures(seed) for seed in range(3)], axis=-1)
    path = write(tmp_path / f"a{suffix}", colours, "ffv1", "bgr0", "rgb24")
    np.testing.assert_array_equal(decode(path, 4, 9, "rgb").frames, colours[4:9])


def test_gray_stored_as_colour_is_gray_again(tmp_path):
    colours = np.repeat(pictures()[..., None], 3, axis=-1)
    path = write(tmp_path / "a.avi", colours, "ffv1", "bgr0", "rgb24")
    np.testing.assert_array_equal(decode(path, 0, COUNT).frames, pictures()[..., None])


def test_gray_stored_as_luma_of_the_studio_range_is_stretched_to_0_to_255(tmp_path):
    luma = pictures(low=16, high=236)
    neutral = np.full((COUNT, HEIGHT // 2, WIDTH), 128, np.uint8)  # both chroma planes of 4:2:0
    path = write(tmp_path / "a.avi", np.concatenate([luma, neutral], 1), "ffv1", "yuv420p", "yuv420p")
    gray = decode(path, 0, COUNT).frames
    expected = np.rint((luma - 16.0) * 255 / 219)  # ITU-R BT.601: 16 is black and 235 is white
    assert np.abs(gray[..., 0] - expected).max() <= 1  # FFmpeg computes in integers
    assert np.abs(decode(path, 0, COUNT, "rgb").frames - gray.astype(float)).max() <= 1


@pytest.mark.parametrize(("first", "stop"), [(0, 12), (4, 7), (11, 12)])
def test_frames_of_a_divx_file_are_those_written_up_to_its_losses(tmp_path, first, stop):
    frames = smooth()
    got = decode(write_divx(tmp_path / "a.avi", frames), first, stop).frames[..., 0].astype(float)
    # Frames differ by two columns of the square, 140 levels in 20 of 768 pixels: 3.6 on average. Losses are less.
    for number, frame in enumerate(got, first):
        away = [np.abs(frame - other).mean() for other in frames]
        assert np.argmin(away) == number
        assert away[number] < 1.8


def test_a_file_knows_number_size_and_interval_of_its_frames(tmp_path):
    for name, writer in (("a.avi", write), ("b.avi", write_divx), ("c.mkv", write)):
        assert facts(writer(tmp_path / name, smooth())) == module.Facts(COUNT, HEIGHT, WIDTH, 0.04)
    assert facts(write(tmp_path / "d.avi", smooth(), rate=10)).interval == 0.1


@pytest.mark.parametrize("codec", ["ffv1", "rawvideo", "divx"])
def test_a_file_cut_anywhere_gives_only_whole_frames_or_a_data_error(tmp_path, codec):
    frames = smooth() if codec == "divx" else pictures()
    whole = write_divx(tmp_path / "a.avi", frames) if codec == "divx" else write(tmp_path / "a.avi", frames, codec)
    expected = decode(whole, 0, COUNT).frames if codec == "divx" else frames[..., None]
    data, cut, counts = whole.read_bytes(), tmp_path / "cut.avi", []
    places = chunks(data)
    assert len(places) == COUNT
    points = {*range(0, len(data), 211), len(data), *(at + add for at, _ in places for add in (-1, 0, 7, 8, 9))}
    for point in sorted(points):
        cut.write_bytes(data[:point])
        entire = sum(at + 8 + length <= point for at, length in places)
        got = attempt(cut, 0, COUNT)
        if isinstance(got, str):
            assert str(cut) in got
            assert entire == 0
            continue
        np.testing.assert_array_equal(got.frames, expected[: len(got.frames)])
        assert len(got.frames) + got.missing == COUNT
        assert bool(got.missing) == bool(got.reason)
        counts.append(len(got.frames))
        assert counts[-1] == entire  # nothing that is there is lost
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] == COUNT


def test_a_range_is_shortened_by_the_cut_or_refused_when_it_lies_behind(tmp_path):
    path = write(tmp_path / "a.avi", pictures())
    at, length = chunks(path.read_bytes())[6]
    path.write_bytes(path.read_bytes()[: at + 8 + length // 2])
    got = decode(path, 4, 10)
    np.testing.assert_array_equal(got.frames, pictures()[4:6, ..., None])
    assert got.missing == 4
    assert got.reason.startswith("frame 6: ")
    assert decode(path, 4, 6).missing == 0
    assert facts(path).damage == "cut off or damaged"
    with pytest.raises(DataError, match=re.escape(f"{path}: frame 6: ") + r".*; frames 6\.\.9 wanted"):
        decode(path, 6, 10)
    assert facts(path).frames == 6


def test_a_range_behind_the_end_is_shortened_or_refused(tmp_path):
    path = write(tmp_path / "a.avi", pictures())
    got = decode(path, 10, 10**9)
    np.testing.assert_array_equal(got.frames, pictures()[10:, ..., None])
    assert (got.missing, got.reason) == (10**9 - 12, "frame 12: the file ends")
    with pytest.raises(DataError, match="frame 12: the file ends"):
        decode(path, 12, 20)


@pytest.mark.parametrize("codec", ["ffv1", "rawvideo"])
@pytest.mark.parametrize("damage", [b"\0\0\0\0", b"\xff" * 8, b"junk", b"01dc", b"00dc\xff\xff\xff\x7f"])
def test_frames_after_a_damaged_chunk_are_not_given_a_wrong_number(tmp_path, codec, damage):
    path = write(tmp_path / "a.avi", pictures(), codec)
    data = path.read_bytes()
    for number in range(1, COUNT - 1):
        at = chunks(data)[number][0]
        path.write_bytes(data[:at] + damage + data[at + len(damage) :])
        got = decode(path, 0, COUNT)
        assert len(got.frames) in (number, number + 1)
        # A length that is too large takes in what follows the frame, which itself is whole.
        np.testing.assert_array_equal(got.frames, pictures()[: len(got.frames), ..., None])
        assert got.missing == COUNT - len(got.frames)


def test_a_file_without_the_last_frames_that_its_header_counts_is_flagged(tmp_path):
    path = write(tmp_path / "a.avi", pictures())
    assert facts(path).damage == ""
    path.write_bytes(path.read_bytes()[: chunks(path.read_bytes())[6][0]])  # cut between two frames
    assert facts(path).frames == 6
    assert facts(path).damage == f"6 of {COUNT} frames"


def test_an_empty_avi_chunk_shows_the_frame_before_it_again(tmp_path):
    path = write(tmp_path / "a.avi", pictures())
    data = path.read_bytes()
    at = chunks(data)[5][0]
    path.write_bytes(data[:at] + 2 * b"00dc\0\0\0\0" + data[at:])
    expected = pictures()[[0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8, 9, 10, 11], ..., None]
    np.testing.assert_array_equal(decode(path, 0, 14).frames, expected)
    np.testing.assert_array_equal(decode(path, 5, 8).frames, expected[5:8])
    assert facts(path).frames == 14


def test_a_chunk_of_something_else_between_two_frames_is_passed_over(tmp_path):
    path = write(tmp_path / "a.avi", pictures())
    data = path.read_bytes()
    at = chunks(data)[5][0]
    path.write_bytes(data[:at] + b"JUNK\4\0\0\0abcd" + data[at:])
    np.testing.assert_array_equal(decode(path, 0, 12).frames, pictures()[..., None])


@pytest.mark.parametrize("writer", [write, write_divx])
def test_bytes_damaged_at_random_end_in_fewer_frames_or_a_data_error(tmp_path, writer):
    data, rng = writer(tmp_path / "a.avi", smooth()).read_bytes(), np.random.default_rng(4)
    path = tmp_path / "b.avi"
    for _ in range(60):
        damaged = bytearray(data)
        at, length = rng.integers(len(data)), rng.choice([1, 4, 40])
        damaged[at : at + length] = rng.bytes(length)
        path.write_bytes(damaged)
        got = attempt(path, 2, COUNT)
        if isinstance(got, str):
            assert str(path) in got
        else:
            assert got.frames.ndim == 4
            assert len(got.frames) + got.missing == COUNT - 2
        with contextlib.suppress(DataError):
            facts(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"R",
        b"RIFF\xff\xff\xff\x7fAVI ",
        b"a text that somebody named .avi\n" * 50,
        b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nreal.avi\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile real.avi\n",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        np.random.default_rng(0).bytes(5000),
    ],
)
def test_a_file_that_is_no_video_is_refused(tmp_path, content):
    write(tmp_path / "real.avi", pictures())  # what the playlists point to
    path = tmp_path / "a.avi"
    path.write_bytes(content)
    for read in (facts, lambda path: decode(path, 0, 3)):
        with pytest.raises(DataError, match=re.escape(str(path))):
            read(path)


def test_a_missing_file_a_folder_and_a_file_of_sound_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "no.avi"):
        with pytest.raises(DataError, match="there is no such file"):
            decode(path, 0, 3)
    path = tmp_path / "sound.avi"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    with pytest.raises(DataError, match="has no video stream"):
        decode(path, 0, 3)


@pytest.mark.parametrize("codec", ["rawvideo", "mpeg4"])
def test_a_size_that_a_damaged_header_promises_is_refused(tmp_path, codec, monkeypatch):
    path = write_divx(tmp_path / "a.avi", smooth()) if codec == "mpeg4" else write(tmp_path / "a.avi", smooth(), codec)
    monkeypatch.setattr(module, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(DataError, match="frames of 32 x 24 pixels, more than 767"):
        decode(path, 0, 3)
    monkeypatch.undo()
    data = path.read_bytes()
    at = data.index(b"strf") + 8 + 4  # BITMAPINFOHEADER: its length, width, height
    path.write_bytes(data[:at] + struct.pack("<ii", 2**30, 2**30) + data[at + 8 :])
    if codec == "rawvideo":
        with pytest.raises(DataError, match="frame 0"):
            decode(path, 0, 3)
    else:  # MPEG-4 has a header of its own
        assert decode(path, 0, 3).frames.shape == (3, HEIGHT, WIDTH, 1)


def test_only_the_wanted_frames_are_held(tmp_path, monkeypatch):
    frames = np.concatenate([pictures(seed) for seed in range(20)])
    path = write(tmp_path / "a.avi", frames, "rawvideo")
    decode(path, 0, 1)  # imports
    tracemalloc.start()
    got = decode(path, 230, 234)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(got.frames, frames[230:234, ..., None])
    assert peak < frames.nbytes / 2  # 4 of 240 frames, and what Python needs besides
    monkeypatch.setattr(module, "MAX_BYTES", 5 * HEIGHT * WIDTH)
    assert len(decode(path, 10, 15).frames) == 5
    with pytest.raises(DataError, match=r"frames 10\.\.15 take more than"):
        decode(path, 10, 16)


def test_arguments_out_of_range_are_refused(tmp_path):
    path = write(tmp_path / "a.avi", pictures())
    for first, stop in ((-1, 3), (3, 3), (4, 3)):
        with pytest.raises(UsageError, match="wanted 0 <= first < stop"):
            decode(path, first, stop)
    with pytest.raises(UsageError, match="colour 'hsv' asked for: wanted one of gray, rgb"):
        decode(path, 0, 1, "hsv")


def test_without_pyav_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=re.escape("pip install 'rvdflow[video]'")):
        decode(tmp_path / "a.avi", 0, 1)
