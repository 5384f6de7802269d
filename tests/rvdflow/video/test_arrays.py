"""Arrays of clips: any order of axes, values as they are said to be, and no trust in a header."""

import io
import os
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

from lbm.errors import DataError, UsageError
from rvdflow.video import arrays
from rvdflow.video.arrays import Layout, describe, read_clip

h5py = pytest.importorskip("h5py")

LENGTHS = {"N": 3, "T": 4, "H": 5, "W": 6, "C": 3}
KINDS = ("npy", "npz", "packed.npz", "h5", "chunked.h5")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def put(folder, kind, array):
    path = folder / f"a.{kind}"
    if kind == "npy":
        np.save(path, array)
    elif kind.endswith("npz"):
        (np.savez_compressed if kind == "packed.npz" else np.savez)(path, clips=array)
    else:
        with h5py.File(path, "w") as file:
            chunked = {"chunks": tuple(min(n, 4) for n in array.shape), "compression": "gzip"}
            file.create_dataset("clips", data=array, **(chunked if kind == "chunked.h5" else {}))
    return path


def header(shape, dtype="|u1", version=1):
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY" + struct.pack("<BBH", version, 0, len(text)) + text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", ["NTHWC", "NTHW", "THWC", "THW", "TNHW", "CHWTN", "WHT"])
def test_axes_are_stored_in_any_order(tmp_path, kind, axes):
    clips = noise(*(LENGTHS[axis] if axis in axes else 1 for axis in "NTHWC"))
    names = "NTHWC".index
    stored = clips.transpose([names(axis) for axis in axes] + [names(axis) for axis in "NTHWC" if axis not in axes])
    path = put(tmp_path, kind, stored.reshape([LENGTHS[axis] for axis in axes]))
    layout = Layout(axes)
    assert describe(path, layout) == dict(zip("NTHWC", clips.shape, strict=True))
    for k, clip in enumerate(clips):
        read = read_clip(path, layout, k)
        assert read.flags.c_contiguous
        assert not isinstance(read, np.memmap)
        np.testing.assert_array_equal(read, clip)
    with pytest.raises(DataError, match=f"no clip {len(clips)}"):
        read_clip(path, layout, len(clips))


def test_arrays_in_fortran_order_are_read(tmp_path):
    clips = np.asfortranarray(noise(3, 4, 5, 6))
    for kind in ("npy", "npz", "packed.npz"):
        np.testing.assert_array_equal(read_clip(put(tmp_path, kind, clips), Layout("NTHW"), 1)[..., 0], clips[1])


@pytest.mark.parametrize("kind", KINDS)
def test_another_number_of_dimensions_asks_for_the_axes(tmp_path, kind):
    with pytest.raises(DataError, match=r"shape \(3, 4, 5, 6\), axes 'NTHWC' wanted: name the axes"):
        describe(put(tmp_path, kind, noise(3, 4, 5, 6)), Layout())


@pytest.mark.parametrize("shape", [(1, 2, 3, 4, 2), (1, 2, 3, 4, 4)])
def test_a_clip_has_one_or_three_channels(tmp_path, shape):
    with pytest.raises(DataError, match="C must be 1 or 3"):
        describe(put(tmp_path, "npy", noise(*shape)), Layout())


@pytest.mark.parametrize("kind", KINDS[:-1])  # nothing can be cut into no chunks
def test_empty_arrays_are_refused(tmp_path, kind):
    with pytest.raises(DataError):
        describe(put(tmp_path, kind, noise(0, 2, 3)), Layout("THW"))


@pytest.mark.parametrize("axes", ["", "NTHC", "TTHW", "NTHWCX", "nthwc"])
def test_axes_that_cannot_be_clips_are_refused(axes):
    with pytest.raises(UsageError, match="each once"):
        Layout(axes)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f8", np.float64])
@pytest.mark.parametrize(("name", "low", "high"), [("0..1", 0, 1), ("-1..1", -1, 1), ("0..255", 0, 255)])
def test_a_value_range_maps_every_grey_level_onto_itself(tmp_path, dtype, name, low, high):
    levels = np.arange(256).reshape(1, 16, 16)
    path = put(tmp_path, "npy", (low + levels / 255 * (high - low)).astype(dtype))
    np.testing.assert_array_equal(read_clip(path, Layout("THW", value_range=name), 0)[..., 0], levels)


def test_grey_levels_between_are_rounded_half_to_even(tmp_path):
    path = put(tmp_path, "npy", np.array([[[0.5, 1.5, 2.5, -0.4, 255.4]]]))
    assert read_clip(path, Layout("THW", value_range="0..255"), 0).ravel().tolist() == [0, 2, 2, 0, 255]


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint16, bool])
def test_numbers_without_a_value_range_are_refused(tmp_path, dtype):
    path = put(tmp_path, "npy", np.zeros((2, 3, 3), dtype))
    with pytest.raises(DataError, match="uint8 wanted, or numbers and their range"):
        describe(path, Layout("THW"))
    assert (read_clip(path, Layout("THW", value_range="0..1"), 0) == 0).all()


@pytest.mark.parametrize("value", [1.01, -0.01, 255, np.nan, np.inf, -np.inf])
def test_values_beyond_the_range_are_refused_with_their_place(tmp_path, value):
    clips = np.full((2, 3, 2, 2), 0.5)
    clips[1, 2, 0, 1] = value
    path = put(tmp_path, "npy", clips)
    layout = Layout("NTHW", value_range="0..1")
    assert (read_clip(path, layout, 0) == 128).all()  # 127.5
    with pytest.raises(DataError, match=r"a\.npy, clip 1: values of frame 2 are .*, the value range is 0 to 1"):
        read_clip(path, layout, 1)


def test_bytes_with_a_value_range_must_fit_it_too(tmp_path):
    path = put(tmp_path, "npy", noise(2, 3, 3))
    np.testing.assert_array_equal(
        read_clip(path, Layout("THW", value_range="0..255"), 0), read_clip(path, Layout("THW"), 0)
    )
    with pytest.raises(DataError, match="value range is 0 to 1"):
        read_clip(path, Layout("THW", value_range="0..1"), 0)
    with pytest.raises(UsageError, match=r"'0\.\.2' is unknown"):
        Layout(value_range="0..2")


@pytest.mark.parametrize("dtype", [complex, "U3", "M8[s]", [("a", "u1")]])
def test_what_is_no_number_is_refused(tmp_path, dtype):
    with pytest.raises(DataError, match="values of type"):
        describe(put(tmp_path, "npy", np.zeros((2, 3, 3), dtype)), Layout("THW", value_range="0..1"))


@pytest.mark.parametrize("kind", ["npy", "npz", "packed.npz"])
def test_pickled_objects_are_refused_and_never_unpickled(tmp_path, kind):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    objects = np.empty((1, 1, 1), dtype=object)
    objects[0, 0, 0] = Trap()
    with pytest.raises(DataError, match="Python objects"):
        describe(put(tmp_path, kind, objects), Layout("THW"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_chooses_among_several_arrays(tmp_path, kind):
    one, two = noise(2, 3, 3, seed=1), noise(2, 3, 3, seed=2)
    path = put(tmp_path, kind, one)
    if kind.endswith("npz"):
        np.savez(path, one=one, two=two)
    elif kind.endswith("h5"):
        with h5py.File(path, "w") as file:
            file["one"], file["group/two"], file["three"] = one, two, one
    else:
        np.testing.assert_array_equal(read_clip(path, Layout("THW", "ignored"), 0)[..., 0], one)
        return
    key = "group/two" if kind.endswith("h5") else "two"
    np.testing.assert_array_equal(read_clip(path, Layout("THW", key), 0)[..., 0], two)
    with pytest.raises(DataError, match=r"2 arrays .*name one as the dataset key"):
        describe(path, Layout("THW"))
    with pytest.raises(DataError, match="'none'; it has one"):
        describe(path, Layout("THW", "none"))


SHAPES = [(10**9, 10**9, 1), (2**32, 2**32, 1), (2**62, 4, 4), (10**30, 1, 1), (3, 5, 7), (-1, -2, 3), (True, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["npy", "npz", "packed.npz"])
def test_a_header_that_promises_more_than_there_is_allocates_nothing(tmp_path, shape, kind):
    path, content = tmp_path / f"a.{kind}", header(shape) + bytes(5)
    if kind == "npy":
        path.write_bytes(content)
    else:
        method = zipfile.ZIP_DEFLATED if kind == "packed.npz" else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("clips.npy", content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"a\.{kind}: shape .* takes -?\d+ bytes, the file holds 5"):
            describe(path, Layout("THW"))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000,
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
        b"PK\x03\x04" + bytes(100),
        b"\x89HDF\r\n\x1a\n" + bytes(100),
        header((1, 2, 3), "|O"),
        header((1, 2, 3), "<q9"),
        header("(1,"),
        header(1.5),
        header((1, 2, 3), version=3),
        header((1, 2, 3), version=9),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz", "h5"])
def test_files_that_are_no_array_are_refused(tmp_path, content, suffix):
    (tmp_path / f"a.{suffix}").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.{suffix}: "):
        describe(tmp_path / f"a.{suffix}", Layout("THW"))


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_are_refused_wherever_they_end(tmp_path, kind):
    path = put(tmp_path, kind, noise(9, 9, 9))
    whole = path.read_bytes()
    for length in (*range(0, len(whole) - 1, 97), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_clip(path, Layout("THW"), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_byte_gives_a_clip_or_one_error(tmp_path, kind):
    path = put(tmp_path, kind, noise(4, 4, 4))
    whole = path.read_bytes()
    for place in range(0, len(whole), 1 if len(whole) < 600 else 23):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            read = read_clip(path, Layout("THW"), 0)
        except DataError:
            continue
        assert read.dtype == np.uint8
        assert read.shape[3] == 1
        if kind == "packed.npz":  # has a checksum
            np.testing.assert_array_equal(read[..., 0], noise(4, 4, 4))


def test_a_packed_array_beyond_the_limit_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = put(tmp_path, "packed.npz", np.zeros((9, 99, 99), np.uint8))
    monkeypatch.setattr(arrays, "MAX_UNPACKED", 9 * 99 * 99)
    with pytest.raises(DataError, match="save it as"):
        describe(path, Layout("THW"))
    monkeypatch.undo()
    monkeypatch.setattr(arrays, "MAX_CLIP", 9 * 99 * 99 - 1)
    with pytest.raises(DataError, match="a clip of 88209 bytes"):
        describe(path, Layout("THW"))


@pytest.mark.parametrize("kind", ["npz", "packed.npz"])
def test_a_zip_that_lies_about_sizes_is_refused(tmp_path, kind):
    path = put(tmp_path, kind, noise(4, 4, 4))
    whole = path.read_bytes()
    place = whole.index(b"PK\x01\x02") + 24  # the unpacked size in the directory
    honest = int.from_bytes(whole[place : place + 4], "little")
    for size in (honest - 1, honest + 1, 2**29):
        path.write_bytes(whole[:place] + size.to_bytes(4, "little") + whole[place + 4 :])
        with pytest.raises(DataError):
            read_clip(path, Layout("THW"), 0)


def test_an_encrypted_member_is_refused(tmp_path):
    path = put(tmp_path, "npz", noise(4, 4, 4))
    whole = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        whole[whole.index(mark) + place] |= 1
    path.write_bytes(whole)
    with pytest.raises(DataError, match="password"):
        describe(path, Layout("THW"))


def test_hdf5_that_was_never_written_is_not_read_as_black(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("whole", (10**6, 10**6, 3), "u1")
        part = file.create_dataset("part", (9, 9, 9), "u1", chunks=(3, 3, 3))
        part[:6] = 1
    with pytest.raises(DataError, match="0 of 3000000000000 bytes of '/whole' were written: unfinished"):
        read_clip(tmp_path / "a.h5", Layout("THW", "whole"), 0)
    with pytest.raises(DataError, match="18 of 27 chunks of '/part' were written"):
        read_clip(tmp_path / "a.h5", Layout("THW", "part"), 0)


def test_hdf5_whose_values_lie_in_another_file_is_refused(tmp_path):
    other = put(tmp_path, "h5", noise(4, 4, 4))
    (tmp_path / "raw").write_bytes(bytes(64))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["link"] = h5py.ExternalLink(str(other), "clips")
        file.create_dataset("outside", (4, 4, 4), "u1", external=[(str(tmp_path / "raw"), 0, 64)])
        layout = h5py.VirtualLayout((4, 4, 4), "u1")
        layout[:] = h5py.VirtualSource(str(other), "clips", (4, 4, 4))
        file.create_virtual_dataset("virtual", layout)
    for key in ("link", "outside", "virtual"):
        with pytest.raises(DataError, match="lie in another file"):
            read_clip(tmp_path / "b.h5", Layout("THW", key), 0)


def test_hdf5_without_h5py_says_what_to_install(tmp_path, monkeypatch):
    path = put(tmp_path, "h5", noise(4, 4, 4))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match="pip install h5py"):
        describe(path, Layout("THW"))


def test_things_that_are_no_file_are_refused(tmp_path):
    for suffix in ("npy", "npz", "h5"):
        os.mkfifo(tmp_path / f"a.{suffix}")  # opening it would wait forever
        with pytest.raises(DataError, match="not an ordinary file"):
            describe(tmp_path / f"a.{suffix}", Layout())


def test_only_one_clip_of_a_large_array_is_read(tmp_path):
    path = put(tmp_path, "npy", noise(64, 4, 32, 32))  # 256 KiB
    read_clip(path, Layout("NTHW"), 0)
    tracemalloc.start()
    try:
        read_clip(path, Layout("NTHW"), 63)
        assert tracemalloc.get_traced_memory()[1] < 128 * 1024
    finally:
        tracemalloc.stop()


def test_header_of_the_helper_is_numpys():
    file = io.BytesIO(header((2, 3)) + bytes(6))
    assert np.load(file, allow_pickle=False).shape == (2, 3)
