"""The dataset keeps its promises: what was written is read back, what is damaged is refused by name."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lbm
from lbm import dataset, store
from lbm.errors import DataError, ResourceError, UsageError

RUNS, FRAMES, NY, NX = 2, 7, 6, 8


def create_flow(path, **options):
    """A small flow dataset, its chunks holding 3 frames, so that the last one is ragged."""
    return dataset.create(
        path,
        variables={
            "vorticity": dataset.Variable(
                ("trajectory", "time", "y", "x"), "float32", {"units": "1/tick"}, chunks=(1, 3, NY, NX)
            ),
            "solid": dataset.Variable(("trajectory", "y", "x"), "bool", {}, values=np.zeros((RUNS, NY, NX), bool)),
        },
        coords={
            "trajectory": ("trajectory", np.arange(RUNS), {}),
            "time": ("time", np.arange(FRAMES), {}),
            "tick": ("time", 128 * np.arange(FRAMES), {"units": "ticks"}),
            "split": ("trajectory", np.array(["train", "validation"]), {}),
        },
        sizes={"trajectory": RUNS, "time": FRAMES, "y": NY, "x": NX},
        attrs={"title": "test", "frame_interval": 128},
        **options,
    )


def field(run):
    """A recognisable field, (time, y, x)."""
    return np.random.default_rng(run).standard_normal((FRAMES, NY, NX)).astype(np.float32)


def fill(writer, runs=range(RUNS)):
    for run in runs:
        for start in range(0, FRAMES, 3):
            part = slice(start, min(start + 3, FRAMES))
            writer.write("vorticity", field(run)[part], trajectory=run, time=part)
            writer.mark(trajectory=run, time=part)


def write_flow(path):
    with create_flow(path) as writer:
        fill(writer)
        writer.finish()
    return path


def files_of(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def test_what_was_written_is_read_back(tmp_path):
    path = write_flow(tmp_path / "flow.zarr")
    ds = dataset.open_dataset(path)
    assert ds["vorticity"].dims == ("trajectory", "time", "y", "x")
    assert ds["vorticity"].chunks is not None
    for run in range(RUNS):
        np.testing.assert_array_equal(ds["vorticity"][run].values, field(run))
    assert ds["split"].values.tolist() == ["train", "validation"]
    assert set(ds.coords) == {"trajectory", "time", "tick", "split"}
    assert ds["frames_written"].values.tolist() == [FRAMES, FRAMES]
    assert ds["solid"].dtype == bool
    assert ds.attrs["schema_version"] == 1
    assert ds.attrs["complete"] == 1
    assert not (tmp_path / "flow.zarr.lock").exists()
    dataset.check(path)


def test_plain_xarray_opens_it_without_a_warning(tmp_path):
    path = write_flow(tmp_path / "flow.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = xr.open_zarr(path, consolidated=False)
        np.testing.assert_array_equal(ds["vorticity"][1].values, field(1))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int8", "bool"])
def test_chunks_written_directly_have_the_bytes_zarr_writes(tmp_path, dtype):
    """Whole chunks, ragged ones at the end of an array, and chunks of one number."""
    values = (np.random.default_rng(0).standard_normal((2, 7, 5, 3)) * 9).astype(dtype)
    made = []
    for name in ("directly", "zarr"):
        with dataset.create(
            tmp_path / name,
            variables={
                "field": dataset.Variable(("trajectory", "time", "y", "x"), dtype, {}, chunks=(1, 3, 2, 3)),
                "number": dataset.Variable(("trajectory",), dtype, {}, chunks=(1,)),
            },
            coords={},
            sizes={"trajectory": 2, "time": 7, "y": 5, "x": 3},
            attrs={},
        ) as writer:
            for run, start, y in ((run, start, y) for run in range(2) for start in (0, 3, 6) for y in (0, 2, 4)):
                part, rows = slice(start, min(start + 3, 7)), slice(y, min(y + 2, 5))
                if name == "directly":
                    writer.write("field", values[run, part, rows], trajectory=run, time=part, y=rows)
                    writer.write("number", values[run, 0, 0, 0], trajectory=run)
                else:
                    writer.array("field")[run, part, rows] = values[run, part, rows]
                    writer.array("number")[run] = values[run, 0, 0, 0]
                writer.mark(trajectory=run, time=part)
            writer.finish()
        made.append(files_of(tmp_path / name))
    assert made[0] == made[1]


def test_datasets_of_other_codecs_are_written_and_read(tmp_path):
    """What older versions allocated (zstd), or others did, can be resumed: its own metadata decide."""
    path = tmp_path / "flow.zarr"
    with create_flow(path):
        pass
    metadata = json.loads((path / "vorticity/zarr.json").read_text())
    metadata["codecs"][1]["configuration"] |= {"cname": "zstd", "clevel": 1}
    (path / "vorticity/zarr.json").write_text(json.dumps(metadata))
    metadata = json.loads((path / "frames_written/zarr.json").read_text())
    metadata["codecs"] = [metadata["codecs"][0], {"name": "gzip", "configuration": {"level": 1}}, metadata["codecs"][2]]
    (path / "frames_written/zarr.json").write_text(json.dumps(metadata))
    with dataset.resume(path) as writer:
        fill(writer)
        writer.finish()
    ds = dataset.open_dataset(path)
    np.testing.assert_array_equal(ds["vorticity"][1].values, field(1))
    assert ds["frames_written"].values.tolist() == [FRAMES, FRAMES]


def test_order_of_writing_does_not_change_a_byte(tmp_path):
    first = write_flow(tmp_path / "a.zarr")
    with create_flow(tmp_path / "b.zarr") as writer:
        threads = [threading.Thread(target=fill, args=(writer, [run])) for run in reversed(range(RUNS))]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        writer.finish()
    assert files_of(first) == files_of(tmp_path / "b.zarr")
    assert dataset.digest(first) == dataset.digest(tmp_path / "b.zarr")


def test_a_resumed_dataset_equals_one_written_at_once(tmp_path):
    whole = write_flow(tmp_path / "a.zarr")
    path = tmp_path / "b.zarr"
    with create_flow(path) as writer:
        fill(writer, [0])
        # part of a chunk, and private state, as a stopped run leaves them
        writer.write("vorticity", field(1)[:2], trajectory=1, time=slice(0, 2))
        (writer.scratch / "state.npz").write_bytes(b"state")
    (path / "vorticity" / "c" / "0.abc.partial").write_bytes(b"killed while writing")
    assert dataset.progress(path) == (FRAMES, RUNS * FRAMES, "frames")
    with dataset.resume(path) as writer:
        fill(writer, [1])
        writer.finish()
    assert files_of(path) == files_of(whole)


def test_unfinished_is_refused_and_masked_on_request(tmp_path):
    path = tmp_path / "flow.zarr"
    with create_flow(path) as writer:
        fill(writer, [1])
        with pytest.raises(DataError, match="7 of 14 frames"):
            writer.finish()
    with pytest.raises(DataError, match=r"7 of 14 frames.*--resume.*--allow-incomplete"):
        dataset.open_dataset(path)
    with pytest.raises(DataError, match="no digest"):
        dataset.digest(path)
    ds = dataset.open_dataset(path, allow_incomplete=True)
    assert np.isnan(ds["vorticity"][0].values).all()
    np.testing.assert_array_equal(ds["vorticity"][1].values, field(1))
    dataset.check(path)


def test_a_forgotten_chunk_cannot_be_finished(tmp_path):
    path = tmp_path / "flow.zarr"
    with create_flow(path) as writer:
        fill(writer)
        (path / "vorticity/c/1/2/0/0").unlink()
        with pytest.raises(DataError, match="vorticity/c/1/2/0/0 was never written"):
            writer.finish()
    assert dataset.read_attributes(path)["complete"] is False


@pytest.mark.parametrize("flips", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_a_flipped_bit_is_refused_by_name(tmp_path, flips):
    path = write_flow(tmp_path / "flow.zarr")
    rng = np.random.default_rng(flips)
    chunks = sorted((path / "vorticity" / "c").rglob("0"))
    chunks = [chunk for chunk in chunks if chunk.is_file()]
    for _ in range(flips):
        chunk = chunks[rng.integers(len(chunks))]
        intact = chunk.read_bytes()
        damaged = bytearray(intact)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        chunk.write_bytes(damaged)
        name = str(chunk.relative_to(path))
        with pytest.raises(DataError, match=name):
            dataset.open_dataset(path)["vorticity"].load()
        with pytest.raises(DataError, match=name):
            dataset.check(path)
        chunk.write_bytes(intact)
    dataset.check(path)


def test_a_missing_or_truncated_file_is_refused_by_name(tmp_path):
    path = write_flow(tmp_path / "flow.zarr")
    for name in (
        "vorticity/c/1/0/0/0",
        "split/c/0",
        "vorticity/zarr.json",
        "manifest/zarr.json",
        "zarr.json",
    ):
        intact = (path / name).read_bytes()
        for length in (0, len(intact) // 2):
            (path / name).write_bytes(intact[:length])
            with pytest.raises(DataError, match=name):
                dataset.open_dataset(path)
        (path / name).unlink()
        with pytest.raises(DataError, match=f"{name} is missing"):
            dataset.open_dataset(path)
        (path / name).write_bytes(intact)
    dataset.open_dataset(path)


def test_a_chunk_lost_after_opening_is_not_read_as_nan(tmp_path):
    path = write_flow(tmp_path / "flow.zarr")
    ds = dataset.open_dataset(path)
    (path / "vorticity/c/0/1/0/0").unlink()
    with pytest.raises(DataError, match="vorticity/c/0/1/0/0 is missing"):
        ds["vorticity"].load()


def test_changed_attributes_are_found(tmp_path):
    path = write_flow(tmp_path / "flow.zarr")
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["frame_interval"] = 64
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(DataError, match="attributes differ"):
        dataset.check(path)


def test_another_schema_version_is_refused(tmp_path):
    path = write_flow(tmp_path / "flow.zarr")
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["schema_version"] = 2
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(DataError, match="schema version 2, this software reads 1"):
        dataset.open_dataset(path)


def test_existing_output_is_not_overwritten(tmp_path):
    path = write_flow(tmp_path / "flow.zarr")
    before = files_of(path)
    with pytest.raises(UsageError, match="--overwrite"):
        create_flow(path)
    assert files_of(path) == before
    with create_flow(path, overwrite=True) as writer:
        assert dataset.progress(path)[0] == 0
        fill(writer)
        writer.finish()
    assert files_of(path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flow.zarr"]


def test_what_is_not_ours_is_never_replaced(tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    file = tmp_path / "file.zarr"
    file.write_text("something")
    link = tmp_path / "link.zarr"
    link.symlink_to(folder)
    for path in (folder, file, link):
        with pytest.raises(UsageError, match=path.name):
            create_flow(path, overwrite=True)
    assert (folder / "chapter.txt").read_text() == "years of work"
    with pytest.raises(ResourceError, match="does not exist"):
        create_flow(tmp_path / "nowhere" / "flow.zarr")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_a_resource_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ResourceError, match=r"flow\.zarr"):
            create_flow(tmp_path / "flow.zarr")
    finally:
        tmp_path.chmod(0o700)


def test_resuming_needs_something_unfinished(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        dataset.resume(tmp_path / "none.zarr")
    path = write_flow(tmp_path / "flow.zarr")
    with pytest.raises(UsageError, match="already complete"):
        dataset.resume(path)


def test_the_second_writer_is_refused_with_the_name_of_the_first(tmp_path):
    path = tmp_path / "flow.zarr"
    with create_flow(path):
        with pytest.raises(ResourceError, match=f"process {os.getpid()} on "):
            dataset.resume(path)
        with pytest.raises(ResourceError, match="being written"):
            create_flow(path, overwrite=True)
    with dataset.resume(path):
        pass


HOLD = """
import sys, time
from pathlib import Path
from lbm.store import Lock
Lock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "flow.zarr"
    with create_flow(path):
        pass
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ResourceError, match=f"process {process.pid} on "):
            dataset.resume(path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "flow.zarr.lock").exists()
    with dataset.resume(path):
        pass


def test_regions_are_exact(tmp_path):
    with create_flow(tmp_path / "flow.zarr") as writer:
        for region, values in [
            ({"trajectory": 0, "time": slice(0, 3)}, np.zeros((1, NY, NX))),  # would broadcast
            ({"trajectory": 0, "time": slice(1, 4)}, np.zeros((3, NY, NX))),  # not aligned
            ({"trajectory": 5, "time": slice(0, 3)}, np.zeros((3, NY, NX))),  # outside
            ({"run": 0}, np.zeros((3, NY, NX))),  # no such dimension
        ]:
            with pytest.raises(ValueError, match="vorticity"):
                writer.write("vorticity", values, **region)


def test_forecasts_count_cases(tmp_path):
    dims = ("trajectory", "init_time", "member", "lead_time", "y", "x")
    sizes = dict(zip(dims, (2, 3, 4, 2, 4, 4), strict=True))
    with dataset.create(
        tmp_path / "forecast.zarr",
        variables={"vorticity": dataset.Variable(dims, "float32", {}, chunks=(1, 1, 2, 2, 4, 4))},
        coords={"valid_time": (("init_time", "lead_time"), np.arange(6).reshape(3, 2), {})},
        sizes=sizes,
        attrs={},
    ) as writer:
        for case in range(6):
            where = {"trajectory": case // 3, "init_time": case % 3}
            assert dataset.progress(writer.path) == (case, 6, "cases")
            writer.write("vorticity", np.full((4, 2, 4, 4), case), **where)
            writer.mark(**where)
        writer.finish()
    ds = dataset.open_dataset(tmp_path / "forecast.zarr")
    assert ds["vorticity"][1, 2].values.mean() == 5
    assert "valid_time" in ds.coords
    assert (ds["cases_written"] == 1).all()


def test_datasets_open_in_spawned_workers(tmp_path):
    path = write_flow(tmp_path / "flow.zarr")
    expected = np.mean([field(run) for run in range(RUNS)])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        ds = dataset.open_dataset(path, chunks=None)
        assert pool.apply(np.mean, (ds["vorticity"],)) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["zarr.json", "manifest/zarr.json", "vorticity/zarr.json", "tick/zarr.json"]),
    position=st.integers(0, 10**6),
    text=st.sampled_from(["", "0", "-1", "null", "[]", "{", '"', "1e99", "99999999999999", "\x00"]),
    complete=st.booleans(),
)
def test_damaged_metadata_raises_only_data_errors(tmp_path_factory, name, position, text, complete):
    path = tmp_path_factory.mktemp("fuzz") / "flow.zarr"
    with create_flow(path) as writer:
        fill(writer)
        if complete:
            writer.finish()
    file = path / name
    if not file.exists():
        return
    raw = file.read_text()
    position %= len(raw)
    file.write_text(raw[:position] + text + raw[position + 2 :])
    try:
        dataset.open_dataset(path, allow_incomplete=True).load()
        dataset.check(path)
    except DataError:
        pass


def test_provenance_has_no_clock(tmp_path):
    assert dataset.provenance() == dataset.provenance()
    assert "numpy" in dataset.provenance()["versions"]


def test_hostile_shape_is_refused_before_allocation(tmp_path):
    path = tmp_path / "flow.zarr"
    with create_flow(path) as writer:
        fill(writer)
    metadata = json.loads((path / "vorticity/zarr.json").read_text())
    metadata["shape"] = [10**9, 10**9, 10**6, 10**6]
    (path / "vorticity/zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(DataError, match=r"vorticity/zarr\.json"):
        dataset.open_dataset(path, allow_incomplete=True)
    assert list(store.chunk_keys(path, "tick")) == ["tick/c/0"]


def test_a_store_opened_by_xarray_alone_can_be_written_to_netcdf(tmp_path):
    path = lbm.simulate(
        size="16x32", diameter=4.0, frames=2, every=2, warmup=0, trajectories=1, output=tmp_path / "f.zarr"
    )
    with xr.open_zarr(path, consolidated=False) as ds:
        ds.to_netcdf(tmp_path / "f.nc")
        with xr.open_dataset(tmp_path / "f.nc") as back:
            xr.testing.assert_equal(back, ds)
