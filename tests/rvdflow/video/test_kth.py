"""KTH Actions: the list of segments with all its irregular lines, the three splits, whole and damaged videos."""

import pickle
import re

import numpy as np
import pytest

from lbm.errors import DataError, UsageError
from rvdflow.video.kth import ACTIONS, PUBLISHED, SPLITS, Kth, parse_sequences

HEIGHT, WIDTH = 24, 32
HEADER = """
Videos of persons, e.g. person01_boxing_d1_uncomp.avi, cut into segments;
all frames, 1 to the last, are counted.

Training:   person11, 12, 13, 14, 15, 16, 17, 18
Validation: person19, 20, 21, 23, 24, 25, 01, 04
Test:       person22, 02, 03, 05, 06, 07, 08, 09, 10\x20


"""
LINES = """person01_boxing_d1\t\tframes\t1-5, 6-9, 15-20
person01_boxing_d2    \t\tframes\t1-5,6 - 9,  10-11,
person01_handclapping_d1\tframes\t1-8, 8-12, 4-9, 12-12

person11_walking_d4 frames 1-6
person13_handclapping_d3\t*missing*
person22_running_d3    \tframes\t3-7, , 8-20\x20\x20
"""
LISTED = {  # first and stop, from 0
    "person01_boxing_d1": [(0, 5), (5, 9), (14, 20)],
    "person01_boxing_d2": [(0, 5), (5, 9), (9, 11)],
    "person01_handclapping_d1": [(0, 8), (7, 12), (3, 9), (11, 12)],
    "person11_walking_d4": [(0, 6)],
    "person13_handclapping_d3": [],
    "person22_running_d3": [(2, 7), (7, 20)],
}


def pictures(video, count=20):
    """Frames (time, y, x, channel) of a video, unlike those of any other."""
    rng = np.random.default_rng(list(video.encode()))
    return rng.integers(0, 256, (count, HEIGHT, WIDTH, 1)).astype(np.uint8)


def write(path, frames, codec="ffv1", layout="gray", rate=25, tag="FFV1"):
    av = pytest.importorskip("av")
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.codec_tag = WIDTH, HEIGHT, layout, tag
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame[..., 0], format="gray")))
        file.mux(stream.encode())


def archive(folder, flat=False, ending="_uncomp.avi", **options):
    """The videos of LISTED, lossless, and their list."""
    (folder / "00sequences.txt").write_text(HEADER + LINES)
    for video in LISTED:
        if video != "person13_handclapping_d3":
            write(folder / ("" if flat else video.split("_")[1]) / f"{video}{ending}", pictures(video), **options)
    return folder


def stub(frames=1000):
    """The header of an AVI file, as far as listing the clips looks at it."""
    return b"RIFF" + bytes(4) + b"AVI LIST" + bytes(4) + b"hdrlavih" + bytes(20) + frames.to_bytes(4, "little")


def test_segments_are_read_from_lines_of_every_form():
    assert parse_sequences(HEADER + LINES) == LISTED


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_line_endings_do_not_matter(newline):
    assert parse_sequences((HEADER + LINES).replace("\n", newline)) == LISTED


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("person02_boxing_d1\tframes\t1-95, 96-9", "'96-9' is no range of frames"),
        ("person02_boxing_d1\tframes\t0-95", "'0-95' is no range"),
        ("person02_boxing_d1\tframes\t1-95 96-185", "'1-95 96-185' is no range"),
        ("person02_boxing_d1\tframes\t1-95, 96", "'96' is no range"),
        ("person02_boxing_d1\tframes\t1-99999999999999999999", "is no range"),
        ("person02_boxing_d1\tframes\t1-\u0665", "is no range"),
        ("person02_boxing_d1\tframes\t", "has neither segments nor"),
        ("person02_boxing_d1", "has neither segments nor"),
        ("person02_boxing_d1\tmissing", "'missing' is no range"),
        ("person26_boxing_d1\tframes\t1-95", "person26_boxing_d1 is none of the videos"),
        ("person02_boxing_d5\tframes\t1-95", "person02_boxing_d5 is none of the videos"),
        ("person02_swimming_d1\tframes\t1-95", "person02_swimming_d1 is none of the videos"),
        ("person01_boxing_d1\tframes\t1-95", "person01_boxing_d1 is listed twice"),
        ("prson02_boxing_d1\tframes\t1-95", "segments of no video"),
    ],
)
def test_a_damaged_line_is_refused_with_its_number(line, message):
    number = (HEADER + LINES).count("\n") + 1
    with pytest.raises(DataError, match=f"00sequences.txt, line {number}: .*" + re.escape(message)):
        parse_sequences(HEADER + LINES + line)


@pytest.mark.parametrize("text", ["", HEADER, "<html><body>404 Not Found</body></html>"])
def test_a_list_that_names_no_video_is_refused(text):
    with pytest.raises(DataError, match="names no video"):
        parse_sequences(text)


@pytest.mark.parametrize("split", SPLITS)
def test_every_person_is_in_one_split(split):
    persons = [person for part in SPLITS[split].values() for person in part]
    assert sorted(persons) == list(range(1, 26))
    assert list(SPLITS[split]) == ["train", "validation", "test"]


def test_splits_are_the_published_ones():
    official = {"train": {*range(11, 19)}, "validation": {19, 20, 21, 23, 24, 25, 1, 4}}
    assert SPLITS["schuldt"] == {**official, "test": {22, 2, 3, 5, 6, 7, 8, 9, 10}}
    for name, last in (("1-16", 16), ("1-20", 20)):
        parts = SPLITS[name]
        assert parts["train"] | parts["validation"] == {*range(1, last + 1)}
        assert parts["test"] == {*range(last + 1, 26)}
        assert parts["validation"] < SPLITS["schuldt"]["validation"]


@pytest.mark.parametrize(
    ("split", "published"), [("schuldt", (760 + 768, 863)), ("1-16", (1528, 863)), ("1-20", (1912, 479))]
)
@pytest.mark.parametrize("flat", [False, True])
def test_an_archive_of_the_published_size_has_the_published_number_of_clips(tmp_path, split, published, flat):
    """599 files: 594 of four segments and five of three, of which four belong to persons 11-16 and one to 22."""
    three = {f"person{p}_boxing_d4" for p in (11, 14, 15, 22)} | {"person13_handwaving_d3"}
    lines = []
    for video in (f"person{p:02d}_{a}_d{d}" for p in range(1, 26) for a in ACTIONS for d in range(1, 5)):
        if video == "person13_handclapping_d3":
            lines.append(f"{video}\t*missing*")
            continue
        lines.append(f"{video}\tframes\t1-95, 96-185, 186-245" + (", 246-360" if video not in three else ""))
        path = tmp_path / ("" if flat else video.split("_")[1]) / f"{video}_uncomp.avi"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(stub() + bytes(8))
    (tmp_path / "00sequences.txt").write_text(HEADER + "\n".join(lines))
    source = Kth(tmp_path, split=split)
    clips = source.clips()
    counts = {part: sum(clip.split == part for clip in clips) for part in PUBLISHED[split]}
    assert counts == source.published
    assert (counts["train"] + counts["validation"], counts["test"]) == published
    assert len(clips) == 2391
    assert [clip.clip_id for clip in clips] == sorted({clip.clip_id for clip in clips})
    assert source.notes == ["1 of 600 videos marked missing in 00sequences.txt: person13_handclapping_d3"]


@pytest.mark.parametrize(("flat", "ending"), [(False, "_uncomp.avi"), (True, "_uncomp.avi"), (False, ".avi")])
def test_frames_of_a_clip_are_those_of_its_segment(tmp_path, flat, ending):
    source = Kth(archive(tmp_path, flat, ending))
    clips = source.clips()
    assert [clip.clip_id for clip in clips[:4]] == [
        *(f"person01_boxing_d1/{k}" for k in (1, 2, 3)),
        "person01_boxing_d2/1",
    ]
    assert len(clips) == sum(map(len, LISTED.values()))
    for clip in pickle.loads(pickle.dumps(clips)):
        video, number = clip.clip_id.split("/")
        first, stop = LISTED[video][int(number) - 1]
        read = pickle.loads(pickle.dumps(source)).read(clip)  # as a worker process does
        np.testing.assert_array_equal(read.frames, pictures(video)[first:stop])
        assert read.note == ""
        assert (tmp_path / clip.source_file).name == f"{video}{ending}"
    assert clips[-1].numbers == {"subject": 22, "action": "running", "scenario": 3, "segment": 2}
    assert (clips[0].split, clips[-2].split, clips[-3].split) == ("validation", "test", "train")
    assert (source.name, source.channels, source.interval) == ("kth", ("gray",), 0.04)


def test_a_divx_file_is_read(tmp_path):
    source = Kth(archive(tmp_path, codec="mpeg4", layout="yuv420p", tag="DIVX"))
    clip = source.clips()[2]
    read = source.read(clip)
    assert read.frames.shape == (6, HEIGHT, WIDTH, 1)
    assert read.note == ""
    # Noise is kept badly, but far better than by chance: two independent frames correlate with 1/sqrt(768) = 0.04.
    kept = np.corrcoef(read.frames.ravel(), pictures("person01_boxing_d1")[14:20].ravel())[0, 1]
    assert kept > 0.5


def test_a_cut_video_gives_shorter_clips_with_a_note_and_then_none(tmp_path):
    path = archive(tmp_path) / "boxing" / "person01_boxing_d1_uncomp.avi"
    data = path.read_bytes()
    movie = data.index(b"movi")
    at = [movie + found.start() for found in re.finditer(b"00dc", data[movie : data.index(b"idx1")])]
    path.write_bytes(data[: at[7] + 100])
    source = Kth(tmp_path)
    whole, short, gone = source.clips()[:3]
    assert source.notes[-1] == (
        "1 of 6 videos damaged or shorter than 00sequences.txt says: person01_boxing_d1 (cut off)"
    )
    assert source.read(whole).note == ""
    read = source.read(short)
    np.testing.assert_array_equal(read.frames, pictures("person01_boxing_d1")[5:7])
    assert read.note.startswith("2 of 4 frames could not be decoded: frame 7: ")
    with pytest.raises(DataError, match=re.escape(f"{path}: frame 7: ") + r".*; frames 14\.\.19 wanted"):
        source.read(gone)


def test_a_video_shorter_than_its_list_gives_shorter_clips_with_a_note(tmp_path):
    archive(tmp_path)
    write(tmp_path / "running" / "person22_running_d3_uncomp.avi", pictures("person22_running_d3", 12))
    source = Kth(tmp_path)
    last = source.clips()[-1]
    assert source.notes[-1].endswith("says: person22_running_d3 (12 of 20 frames)")
    read = source.read(last)
    np.testing.assert_array_equal(read.frames, pictures("person22_running_d3", 12)[7:])
    assert read.note == "8 of 13 frames could not be decoded: frame 12: the file ends"


def test_missing_and_damaged_videos_are_counted_each_time_anew(tmp_path):
    archive(tmp_path)
    (tmp_path / "walking" / "person11_walking_d4_uncomp.avi").unlink()
    (tmp_path / "boxing" / "person01_boxing_d1_uncomp.avi").write_bytes(b"")
    (tmp_path / "boxing" / "person01_boxing_d2_uncomp.avi").write_text("no video at all " * 9)
    source = Kth(tmp_path)
    for _ in range(2):
        clips = source.clips()
        assert source.notes == [
            "1 of 6 videos marked missing in 00sequences.txt: person13_handclapping_d3",
            "1 of 6 videos not there, their clips left out: person11_walking_d4",
            "2 of 6 videos damaged or shorter than 00sequences.txt says: "
            "person01_boxing_d1 (no AVI file), person01_boxing_d2 (no AVI file)",
        ]
    assert "person11_walking_d4/1" not in [clip.clip_id for clip in clips]
    for clip in clips[:6]:
        with pytest.raises(DataError, match=clip.source_file):
            source.read(clip)
    (tmp_path / clips[-1].source_file).unlink()
    with pytest.raises(DataError, match="there is no such file"):
        source.read(clips[-1])


def test_a_video_of_another_frame_rate_is_remarked(tmp_path):
    source = Kth(archive(tmp_path, rate=50))
    assert source.read(source.clips()[0]).note == "frame interval 0.02 s, wanted 0.04 s"


def test_the_list_may_lie_elsewhere_and_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "videos").mkdir()
    path = archive(tmp_path / "videos") / "00sequences.txt"
    text = b"\xef\xbb\xbf" + LINES.encode() + "Christian Schüldt".encode("latin-1")
    path.rename(tmp_path / "list.txt").write_bytes(text)
    clips = Kth(tmp_path / "videos", sequences=tmp_path / "list.txt").clips()
    assert clips[0].clip_id == "person01_boxing_d1/1"
    with pytest.raises(DataError, match=r"00sequences\.txt: there is no such file; get it from"):
        Kth(tmp_path / "videos").clips()


def test_what_is_not_the_archive_is_refused(tmp_path):
    with pytest.raises(UsageError, match="split '1-18' of KTH Actions: wanted one of schuldt, 1-16, 1-20"):
        Kth(tmp_path, split="1-18")
    path = tmp_path / "00sequences.txt"
    path.write_text(LINES)
    with pytest.raises(DataError, match=r"none of the 6 videos of .* is there"):
        Kth(tmp_path).clips()
    path.write_bytes(bytes(2**20 + 1))
    with pytest.raises(DataError, match="longer than 1048576 bytes"):
        Kth(tmp_path).clips()


def test_a_video_that_is_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "videos").mkdir()
    path = archive(tmp_path / "videos") / "boxing" / "person01_boxing_d1_uncomp.avi"
    path.rename(tmp_path / "elsewhere.avi")
    path.symlink_to(tmp_path / "elsewhere.avi")
    with pytest.raises(DataError, match="leads out of"):
        Kth(tmp_path / "videos").clips()
