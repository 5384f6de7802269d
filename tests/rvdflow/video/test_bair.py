"""The BAIR archive, small and in its real format: what is found, which clip is which, and what is refused."""

import pickle

import numpy as np
import pytest

from lbm.errors import DataError, UsageError
from rvdflow.video.bair import Bair
from rvdflow.video.example import encode_example
from rvdflow.video.tfrecord import masked, write_records

CAMERAS = ("image_aux1", "image_main")


def image(trajectory, camera, i):
    """A pattern that no other frame, camera or trajectory has, and that no mix-up of axes leaves as it is."""
    y, x = np.mgrid[:64, :64]
    seed = 7 * trajectory + 3 * i + 101 * CAMERAS.index(camera)
    return np.stack([(y * 5 + x + seed) % 256, (x * 3 + seed * 2) % 256, (y * x + seed) % 256], -1).astype(np.uint8)


def features(trajectory, frames=30):
    """The features of a record, as published."""
    values = {}
    for i in range(frames):
        for camera in CAMERAS:
            values[f"{i}/{camera}/encoded"] = image(trajectory, camera, i).tobytes()
        values[f"{i}/action"] = np.float32([trajectory, i, 0.25, -1])
        values[f"{i}/endeffector_pos"] = np.float32([i, trajectory, -0.5])
    return values


def write(path, trajectories, change=None, **options):
    """A file of some trajectories; `change` edits the features of each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = []
    for trajectory in trajectories:
        values = features(trajectory)
        if change is not None:
            change(values)
        data.append(encode_example(values))
    write_records(path, data, **options)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Two files of training, one of which SAVP validates on, and one of tests."""
    folder = tmp_path_factory.mktemp("bair")
    root = folder / "softmotion30_44k"
    write(root / "train" / "traj_1024_to_1025.tfrecords", [1024, 1025])
    write(root / "train" / "traj_256_to_511.tfrecords", [256, 257, 258])
    write(root / "test" / "traj_0_to_1.tfrecords", [0, 1])
    return folder


def one(tmp_path, change=None, **options):
    """An archive of one clip, and this clip."""
    write(tmp_path / "train" / "traj_5_to_5.tfrecords", [5], change, **options)
    source = Bair(tmp_path)
    (clip,) = source.clips()
    return source, clip


def test_every_record_is_a_clip_in_the_order_of_its_name(archive):
    clips = Bair(archive).clips()
    assert [(c.split, c.numbers["source_trajectory"], c.numbers["record"]) for c in clips] == [
        ("test", 0, 0),
        ("test", 1, 1),
        ("validation", 256, 0),
        ("validation", 257, 1),
        ("validation", 258, 2),
        ("train", 1024, 0),
        ("train", 1025, 1),
    ]
    names = [clip.clip_id for clip in clips]
    assert names == sorted(set(names))
    assert names[3] == "train/000256_000511/000001"
    assert clips[3].source_file == "train/traj_256_to_511.tfrecords"
    assert {(clip.first, clip.stop) for clip in clips} == {(0, 30)}


def test_the_archive_is_its_folder_or_the_one_above(archive):
    assert Bair(archive).clips() == Bair(archive / "softmotion30_44k").clips()


def test_without_validation_all_is_training(archive):
    clips = Bair(archive, split="none").clips()
    assert [clip.split for clip in clips] == ["test"] * 2 + ["train"] * 5
    assert [c.clip_id for c in clips] == [c.clip_id for c in Bair(archive).clips()]
    assert Bair(archive, split="none").published == {"train": 43_264, "test": 256}
    assert Bair(archive).published == {"train": 43_008, "validation": 256, "test": 256}


def test_the_validation_file_may_have_been_moved_as_savp_does(tmp_path):
    write(tmp_path / "val" / "traj_256_to_511.tfrecords", [256])
    for split, expected in (("savp", "validation"), ("none", "train")):
        (clip,) = Bair(tmp_path, split=split).clips()
        assert (clip.split, clip.clip_id) == (expected, "train/000256_000511/000000")
        assert clip.source_file == "val/traj_256_to_511.tfrecords"
        np.testing.assert_array_equal(Bair(tmp_path).read(clip).frames[7], image(256, "image_aux1", 7))
    write(tmp_path / "train" / "traj_256_to_511.tfrecords", [256])
    with pytest.raises(DataError, match="has the same trajectories: keep one"):
        Bair(tmp_path).clips()


@pytest.mark.parametrize("camera", CAMERAS)
def test_each_clip_is_read_to_the_pixel(archive, camera):
    source = Bair(archive, camera=camera)
    clips = source.clips()
    source = pickle.loads(pickle.dumps(source))
    for clip in reversed(clips):  # none needs those before it
        trajectory = clip.numbers["source_trajectory"]
        read = source.read(clip)
        assert (read.frames.shape, read.frames.dtype, read.note) == ((30, 64, 64, 3), np.uint8, "")
        np.testing.assert_array_equal(read.frames, [image(trajectory, camera, i) for i in range(30)])
        action, position = read.extras["robot_action"], read.extras["endeffector_position"]
        assert (action.dtype, position.dtype) == (np.float32, np.float32)
        np.testing.assert_array_equal(action, [[trajectory, i, 0.25, -1] for i in range(30)])
        np.testing.assert_array_equal(position, [[i, trajectory, -0.5] for i in range(30)])
        read.frames[:] = 0  # they may be written to


def test_a_gzipped_archive_is_the_same(tmp_path):
    write(tmp_path / "test" / "traj_0_to_1.tfrecords.gz", [0, 1], compress=True)
    source = Bair(tmp_path)
    for clip in reversed(source.clips()):
        expected = [image(clip.numbers["source_trajectory"], "image_aux1", i) for i in range(30)]
        np.testing.assert_array_equal(source.read(clip).frames, expected)


def test_another_program_writes_what_is_read_here(tmp_path):
    other = pytest.importorskip("tfrecord.writer", exc_type=ImportError)
    kinds = {"encoded": "byte", "action": "float", "endeffector_pos": "float"}
    (tmp_path / "test").mkdir()
    writer = other.TFRecordWriter(str(tmp_path / "test" / "traj_8_to_8.tfrecords"))
    writer.write({name: (value, kinds[name.split("/")[-1]]) for name, value in features(8).items()})
    writer.close()
    source = Bair(tmp_path)
    (clip,) = source.clips()
    read = source.read(clip)
    np.testing.assert_array_equal(read.frames, [image(8, "image_aux1", i) for i in range(30)])
    np.testing.assert_array_equal(read.extras["robot_action"][:, 1], range(30))


def test_another_program_reads_what_is_written_here(archive):
    other = pytest.importorskip("tfrecord.reader", exc_type=ImportError)
    path = archive / "softmotion30_44k" / "train" / "traj_1024_to_1025.tfrecords"
    read = list(other.tfrecord_loader(str(path), None, {"4/image_main/encoded": "byte", "9/action": "float"}))
    for trajectory, values in zip((1024, 1025), read, strict=True):
        assert bytes(values["4/image_main/encoded"]) == image(trajectory, "image_main", 4).tobytes()
        assert values["9/action"].tolist() == [trajectory, 9, 0.25, -1]


def test_the_robot_may_be_absent_in_part_or_altogether(tmp_path):
    def some(values):
        del values["3/action"]
        values["4/action"] = []
        for i in range(30):
            del values[f"{i}/endeffector_pos"]

    source, clip = one(tmp_path, some)
    extras = source.read(clip).extras
    missing = np.isnan(extras["robot_action"])
    assert missing[3:5].all()
    assert missing.sum() == 8
    assert np.isnan(extras["endeffector_position"]).all()
    assert extras["endeffector_position"].shape == (30, 3)


def test_listing_looks_at_headers_only(tmp_path):
    (tmp_path / "train").mkdir()
    write_records(tmp_path / "train" / "traj_0_to_2.tfrecords", [b"no", b"example", b"at all"])
    source = Bair(tmp_path)
    clips = source.clips()
    assert [clip.numbers["byte"] for clip in clips] == [0, 18, 41]
    with pytest.raises(DataError, match=r"record 1 at byte 18: no tf\.train\.Example: "):
        source.read(clips[1])


def test_a_file_with_fewer_records_than_its_name_says_is_noted(archive):
    source = Bair(archive)
    for _ in range(2):  # the notes are of the last listing
        source.clips()
        assert source.notes == ["train/traj_256_to_511.tfrecords: 3 records, 256 by its name"]


def test_files_of_other_names_are_left_aside_and_counted(tmp_path):
    write(tmp_path / "train" / "traj_5_to_5.tfrecords", [5])
    for name in ("._traj_5_to_5.tfrecords", "traj_6_to_6.tfrecords.part", "README"):
        (tmp_path / "train" / name).write_bytes(b"?")
    source = Bair(tmp_path)
    assert len(source.clips()) == 1
    assert source.notes[0] == "left aside: 3 of 4 files, not named traj_A_to_B.tfrecords"


def test_more_records_than_the_name_says_are_refused(tmp_path):
    write(tmp_path / "train" / "traj_5_to_5.tfrecords", [5, 6])
    with pytest.raises(DataError, match=r"traj_5_to_5\.tfrecords: record 1 at byte \d+: one more than the 1 traj"):
        Bair(tmp_path).clips()


def test_a_file_cut_short_is_refused_when_it_is_listed(tmp_path):
    source, _ = one(tmp_path)
    path = tmp_path / "train" / "traj_5_to_5.tfrecords"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"traj_5_to_5\.tfrecords: record 0 at byte 0: declares \d+ bytes"):
        source.clips()


def test_a_changed_pixel_is_refused_unless_that_is_not_wanted(tmp_path):
    source, clip = one(tmp_path)
    path = tmp_path / "train" / "traj_5_to_5.tfrecords"
    data = bytearray(path.read_bytes())
    data[data.index(image(5, "image_aux1", 0).tobytes())] ^= 1
    path.write_bytes(data)
    assert source.clips() == [clip]
    with pytest.raises(DataError, match="record 0 at byte 0: checksum of its"):
        source.read(clip)
    for verify in ("length", "off"):
        assert Bair(tmp_path, verify=verify).read(clip).frames[0, 0, 0, 0] == image(5, "image_aux1", 0)[0, 0, 0] ^ 1


def test_a_file_that_changed_since_it_was_listed_is_refused(archive, tmp_path):
    source, _ = one(tmp_path)
    write(tmp_path / "train" / "traj_6_to_7.tfrecords", [6, 7], lambda values: values.update(more=b"?"))
    clip = source.clips()[-1]
    write(tmp_path / "train" / "traj_6_to_7.tfrecords", [6, 7])
    with pytest.raises(DataError, match=r"traj_6_to_7\.tfrecords: record 1 at byte \d+: checksum of its length"):
        source.read(clip)
    (tmp_path / "train" / "traj_6_to_7.tfrecords").unlink()
    with pytest.raises(DataError, match="no file of that name"):
        source.read(clip)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("29/image_aux1/encoded", None, "no 29/image_aux1/encoded"),
        ("7/image_aux1/encoded", [], "no 7/image_aux1/encoded"),
        ("0/image_aux1/encoded", bytes(12287), "0/image_aux1/encoded has 12287 bytes, not 64 x 64 x 3 = 12288"),
        ("0/image_aux1/encoded", b"\x89PNG", "0/image_aux1/encoded has 4 bytes, not 64 x 64 x 3 = 12288"),
        ("1/image_aux1/encoded", [bytes(12288)] * 2, "1/image_aux1/encoded is 2 byte strings, not one image"),
        ("1/image_aux1/encoded", np.zeros(12288), "1/image_aux1/encoded is 12288 floats, not one image"),
        ("2/action", np.zeros(3), "2/action is 3 floats, not 4 floats"),
        ("2/action", np.zeros(4, int), "2/action is 4 integers, not 4 floats"),
        ("3/endeffector_pos", b"123", "3/endeffector_pos is 1 byte strings, not 3 floats"),
    ],
)
def test_frames_and_series_of_other_sizes_are_refused_by_name(tmp_path, name, value, message):
    def change(values):
        del values[name]
        if value is not None:
            values[name] = value

    source, clip = one(tmp_path, change)
    with pytest.raises(DataError) as caught:
        source.read(clip)
    assert str(caught.value) == f"{tmp_path}/train/traj_5_to_5.tfrecords: record 0 at byte 0: {message}"


def test_a_frame_too_many_is_left_out_with_a_remark(tmp_path):
    source, clip = one(tmp_path, lambda values: values.update(features(5, frames=31)))
    read = source.read(clip)
    assert read.frames.shape == (30, 64, 64, 3)
    assert read.note == "more than 30 frames, the others were left out"


@pytest.mark.parametrize("length", [2**22 + 1, 10**9, 2**63])
def test_a_record_longer_than_any_clip_is_refused(tmp_path, length):
    (tmp_path / "train").mkdir()
    with (tmp_path / "train" / "traj_0_to_0.tfrecords").open("wb") as file:
        declared = length.to_bytes(8, "little")
        file.write(declared + masked(declared).to_bytes(4, "little"))
        file.truncate(2 * 10**9)  # sparse, so that there is room
    with pytest.raises(DataError, match=rf"record 0 at byte 0: declares {length} bytes of data, at most {2**22}"):
        Bair(tmp_path).clips()


def test_links_out_of_the_archive_are_refused(archive, tmp_path):
    train = archive / "softmotion30_44k" / "train"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "train").symlink_to(train)
    (tmp_path / "b" / "train").mkdir(parents=True)
    (tmp_path / "b" / "train" / "traj_256_to_511.tfrecords").symlink_to(train / "traj_256_to_511.tfrecords")
    for name in "ab":
        with pytest.raises(DataError, match=r"leads out of .*, refused"):
            Bair(tmp_path / name).clips()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "softmotion30_44k").symlink_to(train.parent)
    with pytest.raises(DataError, match=r"leads out of .*, refused"):
        Bair(tmp_path / "c")
    (tmp_path / "d").symlink_to(train.parent)  # the folder itself may be a link
    assert len(Bair(tmp_path / "d").clips()) == 7


def test_other_folders_and_options_are_refused(archive, tmp_path):
    for folder in (tmp_path, tmp_path / "missing", archive / "softmotion30_44k" / "train"):
        with pytest.raises(DataError, match=r"no records in train/ or test/: give the folder that contains softmotion"):
            Bair(folder).clips()
    with pytest.raises(UsageError, match="camera 'image_view0' is unknown: BAIR has image_aux1 and image_main"):
        Bair(archive, camera="image_view0")
    with pytest.raises(UsageError, match="split 'half' is unknown"):
        Bair(archive, split="half")
    with pytest.raises(UsageError, match="not 'half'"):
        Bair(archive, verify="half")
