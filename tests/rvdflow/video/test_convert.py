"""Archives in their real formats become stores: pixels are the archive's, however and how often it was gone about."""

import json
import os
import shutil

import numpy as np
import pytest

from lbm import dataset
from lbm.errors import DataError, ResourceError, UsageError
from rvdflow.streams import stream_seed
from rvdflow.video import store
from rvdflow.video.bair import Bair
from rvdflow.video.cityscapes import Cityscapes
from rvdflow.video.convert import convert, estimate, summary
from rvdflow.video.folder import VideoFolder
from rvdflow.video.glyphs import Glyphs, MovingGlyphs, clip
from rvdflow.video.kth import Kth

NATIVE = (24, 32)  # pixels of the videos of `kth`: nothing is resized
SEGMENTS = [  # video, first, stop
    ("person01_boxing_d1", 0, 9),
    ("person01_boxing_d1", 5, 20),
    ("person11_walking_d4", 0, 6),
    ("person11_walking_d4", 6, 20),
    ("person22_running_d3", 2, 7),
    ("person22_running_d3", 7, 20),
]


def drawn(train=6, **counts):
    """A source without files."""
    return MovingGlyphs(Glyphs(size=(16, 16), frames=5), {"train": train, **counts}, seed=3)


def arrays(folder, shapes):
    """A folder of arrays (clip, time, y, x), one for each name."""
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, rng.integers(0, 256, shape).astype(np.uint8))
    return VideoFolder(folder, colour=False, axes="NTHW")


# ------------------------------------------------------------------ what is in a store


def test_segments_of_kth_are_the_frames_of_their_videos(kth, pictures_of_kth, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 6 * 24 * 32)  # a clip takes up to three chunks
    path = convert(Kth(kth(tmp_path / "kth")), tmp_path / "a.zarr", size=NATIVE, workers=1)
    opened = dataset.open_dataset(path, chunks=None)
    assert opened["frames"].dims == ("trajectory", "time", "channel", "y", "x")
    assert opened["frames"].shape == (6, 15, 1, 24, 32)
    assert opened["frames"].dtype == np.uint8
    assert opened["frames"].encoding["chunks"] == (1, 5, 1, 24, 32)
    assert opened["channel"].values.tolist() == ["gray"]
    for k, (video, first, stop) in enumerate(SEGMENTS):
        frames = opened["frames"].values[k, :, 0]
        np.testing.assert_array_equal(frames[: stop - first], pictures_of_kth(video)[first:stop])
        assert not frames[stop - first :].any()
        assert (opened["length"].values[k], opened["first_frame"].values[k]) == (stop - first, first)
    assert (opened["listed"] == opened["length"]).all()
    assert opened["split"].values.tolist() == ["validation"] * 2 + ["train"] * 2 + ["test"] * 2
    assert opened["subject"].values.tolist() == [1, 1, 11, 11, 22, 22]
    assert opened["action"].values.tolist() == ["boxing"] * 2 + ["walking"] * 2 + ["running"] * 2
    assert opened["clip_id"].values[1] == "person01_boxing_d1/2"
    assert set(opened.coords) >= {"source_file", "source_sha256", "scenario", "segment", "clip_id"}
    assert opened.attrs["frame_interval"] == 0.04
    assert opened.attrs["frame_interval_units"] == "s"
    assert opened.attrs["value_range"] == "0 255"
    protocol = {"name": "rvd-kth", "context": 4, "lead": 12, "init_time": 15}
    assert json.loads(opened.attrs["protocol"]) == protocol
    assert json.loads(opened.attrs["config"])["options"] == {"split": "schuldt"}
    dataset.check(path)


@pytest.mark.parametrize("split", ["schuldt", "1-16", "1-20"])
def test_no_person_is_in_two_splits(kth, tmp_path, split):
    path = convert(Kth(kth(tmp_path / "kth"), split=split), tmp_path / "a.zarr", size=(4, 4), workers=1)
    opened = dataset.open_dataset(path)
    persons = opened["subject"].groupby(opened["split"])
    found = [set(group.values.tolist()) for _, group in persons]
    assert sum(map(len, found)) == len(set.union(*found)) == 3


def test_records_of_bair_keep_pixels_and_the_series_of_the_robot(bair, picture_of_bair, tmp_path):
    path = convert(Bair(bair(tmp_path / "bair")), tmp_path / "a.zarr", workers=1)
    opened = dataset.open_dataset(path, chunks=None)
    trajectories = opened["source_trajectory"].values.tolist()
    assert list(zip(opened["split"].values.tolist(), trajectories, strict=True)) == [
        ("test", 0), ("validation", 256), ("train", 1024), ("train", 1025),
    ]  # fmt: skip
    assert opened["robot_action"].dims == ("trajectory", "time", "action")
    for k, trajectory in enumerate(trajectories):
        wanted = np.stack([picture_of_bair(trajectory, 0, i) for i in range(30)])
        np.testing.assert_array_equal(np.moveaxis(opened["frames"].values[k], 1, 3), wanted)
        np.testing.assert_array_equal(opened["robot_action"].values[k, :, 1], range(30))
        np.testing.assert_array_equal(opened["endeffector_position"].values[k, :, 1], [trajectory] * 30)
    assert "frame_interval" not in opened.attrs
    assert opened["channel"].values.tolist() == ["red", "green", "blue"]


def test_frames_of_cityscapes_are_means_of_blocks_of_the_central_square(cityscapes, picture_of_cityscapes, tmp_path):
    path = convert(Cityscapes(cityscapes(tmp_path / "c")), tmp_path / "a.zarr", size=(2, 2), workers=1)
    opened = dataset.open_dataset(path, chunks=None)
    assert opened["city"].values.tolist() == ["bonn", "aachen", "lindau"]
    assert opened["annotated_index"].values.tolist() == [19] * 3
    for k, sequence in enumerate(opened["sequence"].values):
        for i in (0, 17, 29):
            centre = picture_of_cityscapes(int(sequence), i)[:, 4:12].astype(float)
            mean = np.stack([[centre[a : a + 4, b : b + 4].mean((0, 1)) for b in (0, 4)] for a in (0, 4)])
            np.testing.assert_array_equal(opened["frames"].values[k, i].transpose(1, 2, 0), np.rint(mean))


def test_glyphs_come_with_the_truth_about_them(tmp_path):
    source = drawn(test=2)
    opened = dataset.open_dataset(convert(source, tmp_path / "a.zarr", workers=1), chunks=None)
    frames, path = clip(source.settings, stream_seed(3, "test"), 1)
    np.testing.assert_array_equal(opened["frames"].values[7, :, 0], frames[..., 0])
    np.testing.assert_allclose(opened["position"].values[7], path.position[:, 0], rtol=1e-6)
    assert opened["source_file"].values[7] == "drawn/3/test"
    assert opened["source_sha256"].values[7] == ""
    assert "source_sha256" not in opened.attrs


def test_colour_becomes_gray_and_gray_colour_as_asked(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", rng.integers(0, 256, (1, 4, 8, 8, 3)).astype(np.uint8))
    for colour, channels in ((True, 3), (False, 1)):
        source = VideoFolder(tmp_path, colour=colour, validation=0, test=0)
        path = convert(source, tmp_path / "a.zarr", size=(8, 8), workers=1, overwrite=True)
        assert dataset.open_dataset(path).sizes["channel"] == channels


# ------------------------------------------------------------------ chunks


def test_chunks_beyond_the_end_of_a_clip_are_no_loss_and_all_others_are(kth, content, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 6 * 24 * 32)
    path = convert(Kth(kth(tmp_path / "kth")), tmp_path / "a.zarr", size=NATIVE, workers=1)
    written = sorted(name for name in content(path) if name.startswith("frames/c"))
    chunks = [-(-(stop - first) // 5) for _, first, stop in SEGMENTS]
    assert chunks == [2, 3, 2, 3, 1, 3]
    assert written == [f"frames/c/{k}/{j}/0/0/0" for k, n in enumerate(chunks) for j in range(n)]
    opened = dataset.open_dataset(path, chunks=None)
    chunk = path / "frames/c/3/1/0/0/0"
    data = chunk.read_bytes()
    chunk.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    assert opened["frames"][3, 0:5].shape == (5, 1, 24, 32)
    with pytest.raises(DataError, match=r"frames/c/3/1/0/0/0 is damaged"):
        _ = opened["frames"][3, 5:10].values
    with pytest.raises(DataError, match=r"frames/c/3/1/0/0/0 is damaged"):
        dataset.check(path)
    chunk.unlink()
    with pytest.raises(DataError, match=r"frames/c/3/1/0/0/0 is missing"):
        _ = opened["frames"][3, 5:10].values
    with pytest.raises(DataError, match=r"frames/c/3/1/0/0/0 is missing"):
        dataset.open_dataset(path)


@pytest.mark.parametrize("workers", [1, 2])
def test_numbers_of_clips_that_lie_in_several_chunks_are_those_of_one(tmp_path, monkeypatch, workers):
    source = drawn(11, test=4)
    one = dataset.open_dataset(convert(source, tmp_path / "one.zarr", workers=1), chunks=None)
    monkeypatch.setattr(dataset, "CLIPS_PER_CHUNK", 4)
    monkeypatch.setattr("lbm.writer.CLIPS_PER_CHUNK", 4)
    monkeypatch.setattr(store, "FLUSH_EVERY", 0.0)
    path = convert(source, tmp_path / "many.zarr", workers=workers)
    many = dataset.open_dataset(path, chunks=None)
    for name in ("length", "clips_written", "position", "source_sha256"):
        assert len(list((path / name / "c").iterdir())) == 4
    assert many.drop_encoding().identical(one.drop_encoding())


def test_a_store_without_a_chunk_that_should_be_there_is_not_finished(tmp_path, monkeypatch):
    monkeypatch.setattr("rvdflow.video.workers.Writer.write", lambda *_, **__: None)
    with pytest.raises(DataError, match=r"clips written|never written"):
        convert(drawn(), tmp_path / "a.zarr", workers=1)


def test_clips_share_chunks_where_there_would_be_too_many_files(content, tmp_path, monkeypatch):
    source = arrays(tmp_path / "in", {f"train/{k}.npy": (3, 3 + k, 8, 8) for k in range(4)})
    apart = convert(source, tmp_path / "apart.zarr", size=(8, 8), workers=1)
    monkeypatch.setattr(store, "FILES", 3)
    shared = convert(source, tmp_path / "shared.zarr", size=(8, 8), workers=1)
    few, many = dataset.open_dataset(shared, chunks=None), dataset.open_dataset(apart, chunks=None)
    assert few["frames"].encoding["chunks"][0] == 4
    assert sum(name.startswith("frames/c") for name in content(shared)) == 3
    np.testing.assert_array_equal(few["frames"].values, many["frames"].values)
    np.testing.assert_array_equal(few["length"].values, np.repeat([3, 4, 5, 6], 3))


@pytest.mark.parametrize(
    ("clips", "frames", "octets", "row", "part"),
    [
        (2391, 362, 64 * 64, 1, 181),  # KTH
        (43_520, 30, 3 * 64 * 64, 1, 30),  # BAIR
        (5000, 30, 3 * 128 * 128, 1, 15),  # Cityscapes
        (400_000, 20, 64 * 64, 5, 20),  # one file a clip would be too many
        (10, 100, 3 * 1080 * 1920, 1, 1),  # a frame is larger than a chunk should be
    ],
)
def test_chunks_hold_about_a_mebibyte_and_files_stay_few(clips, frames, octets, row, part):
    one = store.Clip("a", "train", "a", 0, frames)
    shape = store.Shape.of([one] * clips, 1, (1, octets))
    assert (shape.row, shape.part) == (row, part)
    assert shape.row * shape.part * octets <= max(2**22, octets)
    assert -(-clips // row) * -(-frames // part) < 10**5


# ------------------------------------------------------------------ how it is done changes nothing


def test_any_number_of_workers_gives_the_same_bytes(kth, content, tmp_path):
    folder = kth(tmp_path / "kth")
    one, three = (content(convert(Kth(folder), tmp_path / f"{n}.zarr", size=NATIVE, workers=n)) for n in (1, 3))
    assert one == three


def test_a_worker_that_dies_is_an_error_that_names_its_clips(tmp_path, monkeypatch):
    (tmp_path / "mortal_source.py").write_text(
        "import os, signal\n"
        "from rvdflow.video.glyphs import MovingGlyphs\n"
        "class Mortal(MovingGlyphs):\n"
        "    def read(self, clip, *shrink):\n"
        "        if clip.numbers['number'] == 3:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().read(clip, *shrink)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from mortal_source import Mortal

    source = Mortal(Glyphs(size=(16, 16), frames=5), {"train": 6}, seed=3)
    with pytest.raises(ResourceError, match=r"worker process died.*train/00000[0-5].*--resume"):
        convert(source, tmp_path / "a.zarr", workers=2)
    convert(drawn(), tmp_path / "a.zarr", workers=1, resume=True)
    dataset.check(tmp_path / "a.zarr")


def test_what_stopped_between_two_clips_goes_on_to_the_same_bytes(kth, content, tmp_path, monkeypatch):
    """Whatever is on disk when a process is killed, as seen from within: after each write of any file."""
    folder = kth(tmp_path / "kth")
    whole = content(convert(Kth(folder), tmp_path / "whole.zarr", size=NATIVE, workers=1))
    monkeypatch.setattr(store, "FLUSH_EVERY", 0.0)
    write, count = dataset.Writer.write, [0, 0]

    def stopping(*arguments, **region):
        write(*arguments, **region)
        count[0] += 1
        if count[0] == count[1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(dataset.Writer, "write", stopping)
    monkeypatch.setattr("rvdflow.video.store.Columns.flush", _without_finally(store.Columns.flush, count))
    for count[1] in range(1, 24, 3):
        count[0] = 0
        with pytest.raises(KeyboardInterrupt):
            convert(Kth(folder), tmp_path / "a.zarr", size=NATIVE, workers=1)
        count[0] = 10**6
        assert content(convert(Kth(folder), tmp_path / "a.zarr", size=NATIVE, workers=1, resume=True)) == whole
        shutil.rmtree(tmp_path / "a.zarr")


def _without_finally(flush, count):
    """A flush that does nothing once the process is as good as dead."""
    return lambda columns: None if count[0] == count[1] else flush(columns)


def test_chunks_of_an_earlier_attempt_do_not_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 64)
    folder = tmp_path / "in"
    source = arrays(folder, {"train/a.npy": (2, 4, 8, 8)})
    path = convert(source, tmp_path / "a.zarr", size=(8, 8), workers=1)
    again = path / "frames/c/1/3/0/0/0"
    assert again.is_file()
    from rvdflow.video.workers import Job, Row, convert_row

    class Shorter(VideoFolder):
        def read(self, clip, *shrink):
            read = super().read(clip, *shrink)
            return type(read)(read.frames[:2])

    shorter = Shorter(folder, colour=False, axes="NTHW")
    clips = shorter.clips()
    shape = store.Shape.of(clips, 1, (8, 8))
    job = Job(shorter, path, store.Preparation((8, 8), "area", "crop"), shape)
    done = convert_row(job, dataset.Writer(path), Row(1, clips[1:], []))
    assert done.lengths == [2]
    assert not again.exists()
    assert (path / "frames/c/1/1/0/0/0").is_file()


# ------------------------------------------------------------------ resume


def test_resuming_wants_the_same_settings_and_clips(kth, tmp_path):
    folder, path = kth(tmp_path / "kth"), tmp_path / "a.zarr"
    convert(Kth(folder), path, size=NATIVE, workers=1)
    assert convert(Kth(folder), path, size=NATIVE, workers=1, resume=True) == path  # complete: left alone
    for change, words in (
        ({"size": (8, 8)}, r"size = \[24, 32\], now it is \[8, 8\]"),
        ({"resize": "area"}, "resize = bilinear, now it is area"),
        ({"crop": "crop"}, "crop = stretch, now it is crop"),
        ({"limit": 1}, "limit = None, now it is 1"),
    ):
        with pytest.raises(UsageError, match=words):
            convert(Kth(folder), path, **{"size": NATIVE, **change}, workers=1, resume=True)
    with pytest.raises(UsageError, match="split = schuldt, now it is 1-16"):
        convert(Kth(folder, split="1-16"), path, size=NATIVE, workers=1, resume=True)
    listed = (folder / "00sequences.txt").read_text()
    (folder / "00sequences.txt").write_text(listed.replace("8-20", "8-19"))
    with pytest.raises(UsageError, match=r"listed 13 of clip 5, now 12 \(person22_running_d3/2\)"):
        convert(Kth(folder), path, size=NATIVE, workers=1, resume=True)
    (folder / "00sequences.txt").write_text(listed.replace(", 8-20", ""))
    with pytest.raises(UsageError, match="begun with 6 clips, now there are 5"):
        convert(Kth(folder), path, size=NATIVE, workers=1, resume=True)
    with pytest.raises(UsageError, match="give one of them"):
        convert(Kth(folder), path, workers=1, resume=True, overwrite=True)


def test_only_a_conversion_is_resumed(tmp_path, build):
    flow = build(tmp_path / "flow.zarr")
    with pytest.raises(DataError, match="no settings of a conversion"):
        convert(drawn(), flow, workers=1, resume=True)


def test_existing_output_is_replaced_only_when_asked(tmp_path):
    path = convert(drawn(2), tmp_path / "a.zarr", workers=1)
    with pytest.raises(UsageError, match="--overwrite"):
        convert(drawn(3), path, workers=1)
    assert dataset.open_dataset(convert(drawn(3), path, workers=1, overwrite=True)).sizes["trajectory"] == 3
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="not a dataset"):
        convert(drawn(3), tmp_path / "mine", workers=1, overwrite=True)


# ------------------------------------------------------------------ damage


def test_a_truncated_video_gives_short_clips_and_one_warning(kth, pictures_of_kth, tmp_path, capsys):
    folder = kth(tmp_path / "kth")
    video = folder / "person01_boxing_d1_uncomp.avi"
    video.write_bytes(video.read_bytes()[:-5000])
    path = convert(Kth(folder), tmp_path / "a.zarr", size=NATIVE, workers=1, quiet=False)
    opened = dataset.open_dataset(path, chunks=None)
    length = int(opened["length"][1])
    assert 0 < length < 15
    assert opened["listed"].values[1] == 15
    np.testing.assert_array_equal(
        opened["frames"].values[1, :length, 0], pictures_of_kth("person01_boxing_d1")[5 : 5 + length]
    )
    assert not opened["frames"].values[1, length:].any()
    warned = [line for line in capsys.readouterr().err.splitlines() if "damaged clips:" in line]
    assert len(warned) == 1
    assert f"damaged clips: 1 of 6: person01_boxing_d1/2 has {length} of 15 frames" in warned[0]
    dataset.check(path)


def test_a_record_with_a_wrong_checksum_is_an_unreadable_clip(bair, tmp_path, capsys):
    folder = bair(tmp_path / "bair")
    file = folder / "softmotion30_44k/train/traj_1024_to_1025.tfrecords"
    data = bytearray(file.read_bytes())
    data[1000] ^= 4
    file.write_bytes(data)
    path = convert(Bair(folder), tmp_path / "a.zarr", workers=1, quiet=False)
    opened = dataset.open_dataset(path, chunks=None)
    assert opened["length"].values.tolist() == [30, 30, 0, 30]
    assert not opened["frames"].values[2].any()
    assert np.isnan(opened["robot_action"].values[2]).all()
    assert "damaged clips: 1 of 4: train/001024_001025/000000 has 0 of 30 frames" in capsys.readouterr().err
    assert summary(path)["unreadable"] == 1
    dataset.check(path)


def test_an_archive_that_is_mostly_unreadable_is_refused(bair, tmp_path):
    folder = bair(tmp_path / "bair")
    for file in folder.rglob("*.tfrecords"):
        data = bytearray(file.read_bytes())
        data[1000] ^= 4
        file.write_bytes(data)
    with pytest.raises(DataError, match=r"3 of 4 clips cannot be read.*record 0 at byte 0"):
        convert(Bair(folder), tmp_path / "a.zarr", workers=1)
    with pytest.raises(DataError, match=r"3 of 4 clips cannot be read.*test/000000_000000/000000"):
        convert(Bair(folder), tmp_path / "a.zarr", workers=1, resume=True)


def _cut(data):
    return data[:-100]


def _declare(data):
    from rvdflow.video.tfrecord import masked

    length = (10**9).to_bytes(8, "little")
    return length + masked(length).to_bytes(4, "little") + data[12:]


@pytest.mark.parametrize(("damage", "words"), [(_cut, "cut short"), (_declare, "at most|cut short")])
def test_a_damaged_header_of_a_record_is_an_error_before_anything_is_written(bair, tmp_path, damage, words):
    folder = bair(tmp_path / "bair")
    file = folder / "softmotion30_44k/test/traj_0_to_0.tfrecords"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=words):
        convert(Bair(folder), tmp_path / "a.zarr", workers=1)
    assert not (tmp_path / "a.zarr").exists()


def test_odd_images_of_cityscapes_leave_their_clip_out(cityscapes, tmp_path, capsys):
    from PIL import Image

    folder = cityscapes(tmp_path / "c")
    tree = folder / "leftImg8bit_sequence"
    images = sorted((tree / "train/aachen").iterdir())
    for other in ("b", "c", "d"):  # enough whole clips
        shutil.copytree(tree / "train/aachen", tree / f"train/{other}")
        for file in (tree / f"train/{other}").iterdir():
            file.rename(file.with_name(file.name.replace("aachen", other)))
    images[3].write_bytes(b"no image")
    Image.new("RGB", (9, 9)).save(next((tree / "train/b").glob("*_000004_*")))
    next((tree / "train/c").glob("*_000005_*")).unlink()
    path = convert(Cityscapes(folder), tmp_path / "a.zarr", size=(2, 2), workers=1, quiet=False)
    opened = dataset.open_dataset(path, chunks=None)
    length = dict(zip(opened["city"].values.tolist(), opened["length"].values.tolist(), strict=True))
    assert length == {"bonn": 30, "aachen": 0, "b": 0, "d": 30, "lindau": 30}
    warned = capsys.readouterr().err
    assert "damaged clips: 2 of 5: train/aachen_000000_000000 has 0 of 30 frames" in warned
    assert "2 runs not of 30 k frames" in warned  # the city with a missing image is not there at all


def test_a_pipe_among_the_images_is_no_reason_to_wait(cityscapes, tmp_path):
    folder = cityscapes(tmp_path / "c")
    image = next(folder.rglob("aachen*_000007_*.png"))
    image.unlink()
    os.mkfifo(image)
    opened = dataset.open_dataset(convert(Cityscapes(folder), tmp_path / "a.zarr", size=(2, 2), workers=1))
    assert opened["length"].values.tolist() == [30, 0, 30]
    assert [len(text) for text in opened["source_sha256"].values] == [64, 0, 64]


def test_a_link_out_of_the_archive_is_refused(cityscapes, tmp_path):
    folder = cityscapes(tmp_path / "c")
    image = next(folder.rglob("*.png"))
    image.rename(tmp_path / "elsewhere.png")
    image.symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(DataError, match="leads out of"):
        convert(Cityscapes(folder), tmp_path / "a.zarr", workers=1)


def test_a_list_that_promises_absurdly_much_is_refused(kth, tmp_path):
    folder = kth(tmp_path / "kth")
    listed = (folder / "00sequences.txt").read_text()
    (folder / "00sequences.txt").write_text(listed.replace("8-20", "8-9999999"))
    with pytest.raises(DataError, match="person22_running_d3/2 promises 9999992 frames, more than"):
        convert(Kth(folder), tmp_path / "a.zarr", workers=1)


# ------------------------------------------------------------------ settings


def test_a_limit_takes_the_first_clips_of_each_split(kth, tmp_path, capsys):
    path = convert(Kth(kth(tmp_path / "kth")), tmp_path / "a.zarr", size=NATIVE, workers=1, limit=1, quiet=False)
    ids = dataset.open_dataset(path)["clip_id"].values.tolist()
    assert ids == ["person01_boxing_d1/1", "person11_walking_d4/1", "person22_running_d3/1"]
    said = capsys.readouterr()
    assert "--limit 1: the first clips of each split: 1 train, 1 validation, 1 test" in said.out
    assert "published" not in said.err


def test_counts_that_are_not_the_published_ones_are_told_once_for_each_split(kth, tmp_path, capsys):
    convert(Kth(kth(tmp_path / "kth")), tmp_path / "a.zarr", size=NATIVE, workers=1, quiet=False)
    warned = [line for line in capsys.readouterr().err.splitlines() if "published" in line]
    assert warned == [
        "warning: clips of split train: 2, published are 760",
        "warning: clips of split validation: 2, published are 768",
        "warning: clips of split test: 2, published are 863",
    ]


def test_an_unfinished_store_is_refused_and_says_how_far_it_came(tmp_path, monkeypatch):
    monkeypatch.setattr("rvdflow.video.convert.results", lambda *_: iter(()))
    with pytest.raises(DataError, match="0 of 6 clips written"):
        convert(drawn(), tmp_path / "a.zarr", workers=1)
    with pytest.raises(DataError, match=r"unfinished \(0 of 6 clips written\).*--resume"):
        dataset.open_dataset(tmp_path / "a.zarr")


def test_digests_tell_archives_apart_wherever_they_lie(kth, tmp_path):
    first, second = (kth(tmp_path / name) for name in "ab")
    (second / "boxing").mkdir()
    video = (second / "person01_boxing_d1_uncomp.avi").rename(second / "boxing/person01_boxing_d1_uncomp.avi")
    found = [summary(convert(Kth(folder), folder / "v.zarr", size=(4, 4), workers=1)) for folder in (first, second)]
    assert found[0]["source_sha256"] == found[1]["source_sha256"]
    data = bytearray(video.read_bytes())
    data[-1] ^= 1  # in the index, which decides no pixel
    video.write_bytes(data)
    third = summary(convert(Kth(second), second / "w.zarr", size=(4, 4), workers=1))
    assert third["source_sha256"] != found[0]["source_sha256"]
    from hashlib import sha256

    opened = dataset.open_dataset(second / "w.zarr")
    assert opened["source_sha256"].values[0] == sha256(data).hexdigest()
    assert opened["source_sha256"].values[0] == opened["source_sha256"].values[1]


def test_settings_that_cannot_work_are_refused_before_anything_is_written(kth, tmp_path):
    folder = kth(tmp_path / "kth")
    for settings, words in (
        ({"resize": "nearest"}, "resizing method 'nearest'"),
        ({"crop": (0, 0, 25, 32)}, "does not lie in frames"),
        ({"size": (0, 8)}, "at least 1"),
        ({"workers": 0}, "--workers 0"),
        ({"limit": 0}, "--limit 0"),
    ):
        with pytest.raises(UsageError, match=words):
            convert(Kth(folder), tmp_path / "a.zarr", **{"workers": 1, **settings})
    assert not list(tmp_path.glob("*.zarr*"))


def test_an_estimate_counts_and_writes_nothing(kth, tmp_path):
    found = estimate(Kth(kth(tmp_path / "kth")), size=NATIVE, workers=1)
    assert found["clips"] == {"train": 2, "validation": 2, "test": 2}
    assert found["published"]["test"] == 863
    assert found["frames"] == sum(stop - first for _, first, stop in SEGMENTS)
    assert found["largest_disk_bytes"] == found["frames"] * 24 * 32
    assert found["seconds"] > 0
    assert not list(tmp_path.glob("*.zarr"))
