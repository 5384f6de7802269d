"""Stores of clips of unequal length: which chunks must be there, and what counts as progress."""

import numpy as np
import pytest

from lbm import dataset
from lbm.errors import DataError

LENGTHS = [3, 0, 8, 5, 1]


def build(path, clips_per_chunk=1, leave_out=None):
    """Five clips of up to 8 frames in chunks of 3 frames; one chunk may be left out."""
    writer = dataset.create(
        path,
        variables={
            "frames": dataset.Variable(("trajectory", "time", "y", "x"), "uint8", {}, (clips_per_chunk, 3, 2, 2)),
            "length": dataset.Variable(("trajectory",), "int32", {}, (1024,)),
        },
        coords={"note": dataset.Variable(("trajectory",), "str", {}, (2,))},
        sizes={"trajectory": 5, "time": 8, "y": 2, "x": 2},
        attrs={},
    )
    with writer:
        for first in range(0, 5, clips_per_chunk):
            for start in range(0, max(LENGTHS[first : first + clips_per_chunk]), 3):
                where = {"trajectory": slice(first, min(first + clips_per_chunk, 5)), "time": slice(start, start + 3)}
                if (first, start) != leave_out:
                    shape = np.zeros((5, 8, 2, 2))[where["trajectory"], where["time"]].shape
                    writer.write("frames", np.full(shape, 7, np.uint8), **where)
        writer.write("note", np.array(["a", "b"], dtype=object), trajectory=slice(0, 2))
        writer.write("note", np.array(["c", "d"], dtype=object), trajectory=slice(2, 4))
        writer.write("note", np.array(["e"], dtype=object), trajectory=slice(4, 5))
        writer.write("length", np.array(LENGTHS, np.int32), trajectory=slice(0, 5))
        assert dataset.progress(path) == (0, 5, "clips")
        writer.mark(trajectory=slice(0, 4))
        assert dataset.progress(path) == (4, 5, "clips")
        with pytest.raises(DataError, match="4 of 5 clips written"):
            writer.finish()
        writer.mark(trajectory=4)
        writer.finish()
    return path


@pytest.mark.parametrize(("clips_per_chunk", "chunks"), [(1, [1, 0, 3, 2, 1]), (2, [1, 3, 1])])
def test_chunks_are_there_as_far_as_the_longest_clip_in_them(tmp_path, clips_per_chunk, chunks):
    path = build(tmp_path / "a.zarr", clips_per_chunk)
    found = sorted(file.relative_to(path / "frames/c").as_posix() for file in (path / "frames/c").glob("*/*/0/0"))
    assert found == [f"{k}/{j}/0/0" for k, n in enumerate(chunks) for j in range(n)]
    dataset.check(path)
    opened = dataset.open_dataset(path)
    assert opened["note"].values.tolist() == list("abcde")
    assert "note" in opened.coords
    assert not opened["frames"].values[1, 3:].any()


def test_a_chunk_within_a_clip_must_be_there(tmp_path):
    with pytest.raises(DataError, match=r"frames/c/2/1/0/0 was never written"):
        build(tmp_path / "a.zarr", leave_out=(2, 3))


def test_a_store_of_clips_has_no_counter_of_frames(tmp_path):
    path = build(tmp_path / "a.zarr")
    assert not (path / "frames_written").exists()
    assert (path / "clips_written").is_dir()
