"""Cityscapes: small trees named as the archive is, with whole, shared and broken sequences."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lbm.errors import DataError
from rvdflow.video.cityscapes import Cityscapes

TREE = "leftImg8bit_sequence"


def put(root, split, city, sequence, frames, *, size=(2, 4)):
    """Frames with these numbers; the pixels say sequence, frame number and frame number // 256."""
    folder = root / TREE / split / city
    folder.mkdir(parents=True, exist_ok=True)
    for frame in frames:
        pixels = np.empty((*size, 3), dtype=np.uint8)
        pixels[:] = sequence, frame % 256, frame // 256
        Image.fromarray(pixels).save(folder / f"{city}_{sequence:06d}_{frame:06d}_leftImg8bit.png")
    return folder


def ids(source):
    return [clip.clip_id for clip in source.clips()]


def test_each_snippet_is_thirty_frames_whether_or_not_it_shares_its_sequence(tmp_path):
    put(tmp_path, "train", "aachen", 0, range(30))
    put(tmp_path, "train", "aachen", 1, range(30))
    put(tmp_path, "train", "bad-city", 7, [*range(275, 305), *range(557, 587), *range(600, 660)])  # shared
    put(tmp_path, "val", "lindau", 0, range(30))
    put(tmp_path, "test", "bonn", 0, range(30))
    source = Cityscapes(tmp_path)
    clips = source.clips()
    assert [clip.clip_id for clip in clips] == [
        "test/bonn_000000_000000",
        "train/aachen_000000_000000",
        "train/aachen_000001_000000",
        "train/bad-city_000007_000275",
        "train/bad-city_000007_000557",
        "train/bad-city_000007_000600",
        "train/bad-city_000007_000630",
        "val/lindau_000000_000000",
    ]
    assert [clip.split for clip in clips] == ["test"] + ["train"] * 6 + ["validation"]
    clip = clips[4]
    assert clip.source_file == f"{TREE}/train/bad-city/bad-city_000007_000557_leftImg8bit.png"
    assert (clip.first, clip.stop) == (0, 30)
    assert clip.numbers == {"city": "bad-city", "sequence": 7, "first_frame": 557, "annotated_index": 19}
    assert source.path(clip).is_file()
    read = source.read(clip)
    assert read.frames.shape == (30, 2, 4, 3)
    assert (read.frames[..., 0] == 7).all()
    np.testing.assert_array_equal(read.frames[:, 0, 0, 1] + 256 * read.frames[:, 0, 0, 2].astype(int), range(557, 587))
    assert source.notes == []
    assert source.clips() == clips


def test_the_folder_may_be_the_tree_itself(tmp_path):
    put(tmp_path, "val", "munster", 3, range(30))
    above, itself = Cityscapes(tmp_path), Cityscapes(tmp_path / TREE)
    assert ids(above) == ids(itself) == ["val/munster_000003_000000"]
    assert itself.clips()[0].source_file == "val/munster/munster_000003_000000_leftImg8bit.png"
    np.testing.assert_array_equal(above.read(above.clips()[0]).frames, itself.read(itself.clips()[0]).frames)


def test_runs_that_are_no_multiple_of_thirty_are_dropped_and_counted(tmp_path):
    put(tmp_path, "train", "aachen", 0, range(29))  # short
    put(tmp_path, "train", "aachen", 1, [*range(12), *range(13, 30)])  # a gap: two short runs
    put(tmp_path, "train", "bochum", 0, [*range(100, 130), *range(200, 265)])  # whole, and 65
    source = Cityscapes(tmp_path)
    wanted = [f"train/bochum_000000_000{k}" for k in (100, 200, 230)]
    for _ in range(2):  # listing again does not count again
        assert ids(source) == wanted
        assert (
            "4 runs not of 30 k frames (the first: 29 frames from train/aachen/aachen_000000_000000_leftImg8bit.png): "
            "63 frames dropped, annotated_index of 2 snippets in doubt"
        ) in source.notes


def test_frames_beyond_a_gap_never_join_a_snippet(tmp_path):
    put(tmp_path, "train", "aachen", 0, [*range(5, 20), *range(21, 36), *range(100, 130)])  # 15 + 15 + 30
    source = Cityscapes(tmp_path)
    assert ids(source) == ["train/aachen_000000_000100"]


def test_files_with_other_names_are_ignored_and_counted(tmp_path):
    folder = put(tmp_path, "train", "aachen", 0, range(30))
    names = [
        ".DS_Store",
        "license.txt",
        "aachen_000000_000030_rightImg8bit.png",
        "aachen_000000_000030_leftImg8bit.png.part",
        "aachen_0_30_leftImg8bit.png",
        "aachen_000000_0000030_leftImg8bit.png",
        "bochum_000000_000030_leftImg8bit.png",  # of another city
        "Aachen_000000_000030_leftImg8bit.png",
        "aachen_000000_٠٠٠٠30_leftImg8bit.png",  # digits, but not these
    ]
    for name in names:
        (folder / name).touch()
    (folder.parent / "readme").touch()
    source = Cityscapes(tmp_path)
    assert ids(source) == ["train/aachen_000000_000000"]
    assert f"{len(names) + 1} files are no frames: ignored (the first: {folder}/.DS_Store)" in source.notes


def test_splits_that_are_not_there_are_noted(tmp_path):
    put(tmp_path, "val", "lindau", 0, range(30))
    source = Cityscapes(tmp_path)
    source.clips()
    assert [note.rpartition(" ")[2] for note in source.notes] == ["'train'", "'test'"]


@pytest.mark.parametrize("prepare", [lambda root: None, lambda root: (root / TREE).mkdir()])
def test_another_folder_is_refused(tmp_path, prepare):
    prepare(tmp_path)
    with pytest.raises(DataError, match="no folder leftImg8bit_sequence with train, val, test"):
        Cityscapes(tmp_path).clips()


def test_a_tree_without_a_whole_snippet_is_refused_with_the_reason(tmp_path):
    put(tmp_path, "train", "aachen", 0, range(29))
    with pytest.raises(DataError, match=r"no snippet of 30 frames; .*29 frames dropped"):
        Cityscapes(tmp_path).clips()
    (tmp_path / "other" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="no snippet of 30 frames"):
        Cityscapes(tmp_path / "other").clips()


@pytest.mark.parametrize("what", ["frame", "city", "split", "tree"])
def test_links_out_of_the_tree_are_refused(tmp_path, what):
    outside, root = tmp_path / "outside", tmp_path / "root"
    folder = put(outside, "train", "aachen", 0, range(30))
    put(root, "val", "lindau", 0, range(30))
    target = {"frame": next(folder.iterdir()), "city": folder, "split": folder.parent, "tree": folder.parent.parent}
    link = {"frame": "val/lindau/x.png", "city": "val/aachen", "split": "train", "tree": "."}[what]
    if what == "tree":
        (root / TREE).rename(root / "away")
        (root / TREE).symlink_to(target[what])
    else:
        (root / TREE / link).symlink_to(target[what])
    with pytest.raises(DataError, match="leads out of"):
        Cityscapes(root).clips()


def test_links_within_the_tree_and_to_the_tree_are_followed(tmp_path):
    folder = put(tmp_path, "train", "aachen", 0, range(30))
    first = folder / "aachen_000000_000000_leftImg8bit.png"
    first.rename(folder.parent / "elsewhere.png")
    first.symlink_to(Path("..") / "elsewhere.png")
    (tmp_path / "link").symlink_to(tmp_path / TREE)
    source = Cityscapes(tmp_path / "link")
    (clip,) = source.clips()
    assert source.read(clip).frames[:, 0, 0, 1].tolist() == list(range(30))


def test_a_link_that_goes_round_in_circles_is_refused(tmp_path):
    folder = put(tmp_path, "train", "aachen", 0, range(29))
    (folder / "aachen_000000_000029_leftImg8bit.png").symlink_to("aachen_000000_000029_leftImg8bit.png")
    source = Cityscapes(tmp_path)
    with pytest.raises(DataError, match="000029"):
        source.read(source.clips()[0])


def test_damaged_frames_are_named(tmp_path):
    folder = put(tmp_path, "train", "aachen", 0, range(30))
    source = Cityscapes(tmp_path)
    (clip,) = source.clips()
    spoiled = folder / "aachen_000000_000011_leftImg8bit.png"
    whole = spoiled.read_bytes()
    for content in (b"", b"not an image", whole[: len(whole) // 2]):
        spoiled.write_bytes(content)
        with pytest.raises(DataError, match=r"000011_leftImg8bit\.png: cannot be read as an image"):
            source.read(clip)
    spoiled.unlink()
    with pytest.raises(DataError, match=r"000011_leftImg8bit\.png: cannot be read as a file"):
        source.read(clip)
    put(tmp_path, "train", "aachen", 0, [11], size=(2, 5))
    with pytest.raises(DataError, match=r"000011_leftImg8bit\.png: 2 x 5 pixels, .* has 2 x 4"):
        source.read(clip)


def test_a_worker_process_gets_the_source_by_pickle(tmp_path):
    put(tmp_path, "train", "aachen", 0, range(30))
    source = Cityscapes(tmp_path)
    clips = source.clips()
    other, copies = pickle.loads(pickle.dumps((source, clips)))
    assert copies == clips
    np.testing.assert_array_equal(other.read(copies[0]).frames, source.read(clips[0]).frames)


def test_what_the_archive_is_known_to_hold():
    assert Cityscapes.published == {"train": 2975, "validation": 500, "test": 1525}
    assert sum(Cityscapes.published.values()) * 30 == 150_000  # images
    assert pytest.approx(1 / 17) == Cityscapes.interval
    assert Cityscapes.channels == ("red", "green", "blue")
