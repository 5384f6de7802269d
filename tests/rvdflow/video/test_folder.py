"""Anybody's clips: what is found in a folder, how it is divided, and that what is odd is refused in one line."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lbm.errors import DataError, UsageError
from rvdflow.video.folder import VideoFolder
from rvdflow.video.source import inside


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def images(folder, frames, names="{}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for k, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / names.format(k))


def video(path, count, *, rate=25):
    """A lossless gray video of `count` frames."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = noise(count, 16, 16, seed=count)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "gray"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        file.mux(stream.encode())
    return frames[..., None]


def gray(folder, **options):
    return VideoFolder(folder, colour=False, **options)


def test_videos_images_and_arrays_are_found_in_all_folders(tmp_path):
    film = video(tmp_path / "a" / "film.avi", 5)
    pictures, clips = noise(3, 4, 6), noise(2, 4, 5, 6, 1)
    images(tmp_path / "a" / "b" / "shots", pictures)
    save(tmp_path / "z.npy", clips)
    source = gray(tmp_path)
    listed = source.clips()
    assert [clip.clip_id for clip in listed] == ["a/b/shots", "a/film.avi", "z.npy/000000", "z.npy/000001"]
    assert [(clip.first, clip.stop) for clip in listed] == [(0, 3), (0, 5), (0, 4), (0, 4)]
    assert [clip.numbers["index"] for clip in listed] == [0, 0, 0, 1]
    assert [clip.source_file for clip in listed[1:3]] == ["a/film.avi", "z.npy"]
    for clip, wanted in zip(listed, [pictures[..., None], film, *clips], strict=True):
        read = source.read(clip)
        assert read.frames.dtype == np.uint8
        assert read.note == ""
        np.testing.assert_array_equal(read.frames, wanted)


def test_gray_is_repeated_for_a_source_in_colour_and_colour_becomes_gray(tmp_path):
    bright, colours = noise(3, 4, 6), noise(3, 4, 6, 3)
    images(tmp_path / "bright", bright)
    images(tmp_path / "colours", colours)
    film = video(tmp_path / "film.avi", 4)
    save(tmp_path / "w.npy", noise(1, 3, 4, 6, 1))
    save(tmp_path / "x.npy", noise(1, 3, 4, 6, 3))
    source = VideoFolder(tmp_path)
    assert source.channels == ("red", "green", "blue")
    first, second, third, *arrays = (source.read(clip).frames for clip in source.clips())
    np.testing.assert_array_equal(first, np.repeat(bright[..., None], 3, axis=3))
    np.testing.assert_array_equal(second, colours)
    np.testing.assert_array_equal(third, np.repeat(film, 3, axis=3))
    assert [array.shape[3] for array in arrays] == [3, 3]
    assert gray(tmp_path).channels == ("gray",)
    assert {gray(tmp_path).read(clip).frames.shape[3] for clip in gray(tmp_path).clips()} == {1}


def test_images_of_a_clip_are_in_natural_order_and_of_one_kind_and_size(tmp_path):
    frames = np.arange(12, dtype=np.uint8)[:, None, None] * np.ones((1, 3, 3), np.uint8)
    images(tmp_path / "clip", frames, "frame{}.png")
    source = gray(tmp_path)
    (clip,) = source.clips()
    assert source.read(clip).frames[:, 0, 0, 0].tolist() == list(range(12))
    Image.fromarray(noise(3, 4)).save(tmp_path / "clip" / "frame3.png")
    with pytest.raises(DataError, match=r"frame3\.png: 3 x 4 pixels"):
        source.read(clip)
    (tmp_path / "clip" / "frame3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"frame3\.png: cannot be read as an image"):
        source.read(clip)
    (tmp_path / "clip" / "frame3.png").unlink()
    with pytest.raises(DataError, match="11 images, there were 12 when"):
        source.read(clip)
    Image.fromarray(noise(3, 3)).save(tmp_path / "clip" / "frame3.jpg")
    with pytest.raises(DataError, match=r"several kinds \(\.jpg, \.png\)"):
        source.read(clip)


@pytest.mark.parametrize("where", ["", "train"])
def test_a_folder_that_holds_images_itself_is_a_clip(tmp_path, where):
    images(tmp_path / where, noise(3, 4, 6))
    source = gray(tmp_path)
    (clip,) = source.clips()
    assert (clip.clip_id, clip.split) == (where or ".", "train")
    assert source.read(clip).frames.shape == (3, 4, 6, 1)


def test_split_folders_are_the_splits(tmp_path):
    for name in ("train/a", "train/deep/b", "val/a", "validation/c", "test/a", "other/d", "e"):
        save(tmp_path / f"{name}.npy", noise(1, 2, 3, 3, 1))
    source = gray(tmp_path, validation=0.9, test=0)
    splits = {clip.source_file: clip.split for clip in source.clips()}
    assert splits == {
        "train/a.npy": "train",
        "train/deep/b.npy": "train",
        "val/a.npy": "validation",
        "validation/c.npy": "validation",
        "test/a.npy": "test",
    }
    assert source.notes == ["2 files beside the folders train, validation, val, test ignored (the first: e.npy)"]


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_whole_files_are_divided_by_the_fractions(tmp_path, seed):
    for k in range(20):
        save(tmp_path / f"{k:02d}.npy", noise(k % 3 + 1, 2, 3, 3, 1))
    source = gray(tmp_path, validation=0.13, test=0.25, seed=seed)
    clips = source.clips()
    assert len(clips) == sum(k % 3 + 1 for k in range(20))
    of = {clip.source_file: clip.split for clip in clips}
    assert all(clip.split == of[clip.source_file] for clip in clips)
    assert {split: list(of.values()).count(split) for split in of.values()} == {"train": 12, "validation": 3, "test": 5}
    assert clips == gray(tmp_path, validation=0.13, test=0.25, seed=seed).clips()
    in_order = [of[f"{k:02d}.npy"] for k in range(20)] == ["train"] * 12 + ["validation"] * 3 + ["test"] * 5
    assert in_order == (seed is None)


def test_seeds_draw_different_files(tmp_path):
    for k in range(20):
        save(tmp_path / f"{k}.npy", noise(1, 2, 3, 3, 1))
    drawn = [tuple(c.clip_id for c in gray(tmp_path, seed=s).clips() if c.split == "test") for s in range(5)]
    assert len(set(drawn)) == 5  # by chance two agree with probability 10 / 190


def test_too_few_files_for_a_split_are_noted(tmp_path):
    save(tmp_path / "only.npy", noise(50, 2, 3, 3, 1))
    source = gray(tmp_path, test=0)
    assert {clip.split for clip in source.clips()} == {"train"}
    assert source.notes == ["1 files are too few to give 0.1 of them to validation: none there"]


@pytest.mark.parametrize("fractions", [(-0.1, 0.1), (0.5, 0.5), (float("nan"), 0.1)])
def test_fractions_that_leave_nothing_to_train_on_are_refused(tmp_path, fractions):
    with pytest.raises(UsageError, match="less than 1 together"):
        VideoFolder(tmp_path, validation=fractions[0], test=fractions[1])


def test_the_frame_interval_is_known_when_all_files_agree(tmp_path):
    video(tmp_path / "a.avi", 4, rate=25)
    video(tmp_path / "b.mkv", 6, rate=25)
    source = gray(tmp_path)
    assert source.interval is None
    source.clips()
    assert source.interval == pytest.approx(0.04)
    video(tmp_path / "c.avi", 5, rate=50)
    source.clips()
    assert source.interval is None
    assert "2 different frame intervals, so none is recorded" in source.notes
    asked = gray(tmp_path, interval=0.5)
    asked.clips()
    assert asked.interval == 0.5


def test_a_video_that_breaks_off_gives_its_intact_frames_and_a_remark(tmp_path):
    frames = video(tmp_path / "a.avi", 12)
    source = gray(tmp_path)
    (clip,) = source.clips()
    whole = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(whole[: len(whole) * 2 // 3])
    read = source.read(clip)
    count = len(read.frames)
    assert 0 < count < 12
    np.testing.assert_array_equal(read.frames, frames[:count])
    assert read.note.startswith(f"{12 - count} of 12 frames missing: ")


def test_files_of_other_kinds_are_ignored_and_counted(tmp_path):
    save(tmp_path / "a.npy", noise(1, 2, 3, 3, 1))
    save(tmp_path / ".hidden.npy", noise(1, 2, 3, 3, 1))
    save(tmp_path / "__MACOSX" / "a.npy", noise(1, 2, 3, 3, 1))
    save(tmp_path / ".cache" / "a.npy", noise(1, 2, 3, 3, 1))
    (tmp_path / "readme.txt").touch()
    source = gray(tmp_path, validation=0, test=0)
    assert [clip.clip_id for clip in source.clips()] == ["a.npy/000000"]
    assert source.notes == ["4 other files ignored (the first: .cache)"]
    source.clips()
    assert len(source.notes) == 1


def test_links_out_of_the_folder_are_refused_and_links_within_are_skipped(tmp_path):
    root = tmp_path / "root"
    save(root / "a.npy", noise(1, 2, 3, 3, 1))
    save(tmp_path / "b.npy", noise(1, 2, 3, 3, 1))
    (root / "within.npy").symlink_to("a.npy")
    (root / "round").symlink_to(".")  # would be walked for ever
    source = gray(root, validation=0, test=0)
    assert [clip.clip_id for clip in source.clips()] == ["a.npy/000000"]
    assert source.notes == ["2 links within the folder skipped (the first: round)"]
    (root / "out.npy").symlink_to(tmp_path / "b.npy")
    with pytest.raises(DataError, match="leads out of"):
        source.clips()


def test_a_clip_that_names_a_file_elsewhere_is_refused(tmp_path):
    save(tmp_path / "root" / "a.npy", noise(1, 2, 3, 3, 1))
    save(tmp_path / "b.npy", noise(1, 2, 3, 3, 1))
    source = gray(tmp_path / "root")
    with pytest.raises(DataError, match="leads out of"):
        source.read(replace(source.clips()[0], source_file="../b.npy"))


def test_a_folder_without_clips_or_that_is_none_is_refused(tmp_path):
    with pytest.raises(DataError, match="no video, folder of images or array"):
        gray(tmp_path).clips()
    with pytest.raises(DataError, match="cannot be read as a folder"):
        gray(tmp_path / "none").clips()
    (tmp_path / "a.avi").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"a\.avi"):
        gray(tmp_path).clips()


def test_a_worker_process_gets_the_source_by_pickle(tmp_path):
    save(tmp_path / "a.npy", noise(2, 2, 3, 3, 1))
    source = gray(tmp_path)
    clips = source.clips()
    other, copies = pickle.loads(pickle.dumps((source, clips)))
    assert copies == clips
    np.testing.assert_array_equal(other.read(copies[1]).frames, source.read(clips[1]).frames)


def test_a_link_that_leads_in_a_circle_is_refused(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match="circle"):
        inside(tmp_path, "a")
    with pytest.raises(DataError, match="circle"):
        VideoFolder(tmp_path).clips()


def test_a_video_that_is_cut_off_is_noted_with_its_frames(tmp_path):
    video(tmp_path / "whole.avi", 6)
    video(tmp_path / "cut.avi", 10)
    data = (tmp_path / "cut.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[:-1000])
    source = VideoFolder(tmp_path, validation=0, test=0)
    cut, whole = source.clips()
    assert whole.stop == 6
    assert 0 < cut.stop < 10
    assert source.notes == [
        f"1 video cut off or damaged: only what comes before is a clip (the first: cut.avi, {cut.stop} frames: "
        "cut off or damaged)"
    ]


def test_videos_that_cannot_be_opened_are_left_out_until_they_are_more_than_half(tmp_path):
    for k in range(2):
        video(tmp_path / f"{k}.avi", 6)
    (tmp_path / "bad.avi").write_bytes(b"no video at all")
    source = VideoFolder(tmp_path, validation=0, test=0)
    assert [clip.clip_id for clip in source.clips()] == ["0.avi", "1.avi"]
    assert source.notes[0].startswith("left out: 1 video cannot be read (the first: ")
    assert "bad.avi: no AVI, MP4 or Matroska video" in source.notes[0]
    for k in range(2):
        (tmp_path / f"bad{k}.mp4").write_bytes(b"neither")
    with pytest.raises(DataError, match=r"of 5 files 3 videos cannot be read .*bad\.avi"):
        source.clips()
