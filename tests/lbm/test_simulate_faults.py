"""`lbm simulate` as a process that is killed, stopped, starved and doubled.

What must hold: an acknowledged frame is intact, nothing torn is ever read, and `--resume` gives the
bytes of the run that nobody disturbed.
"""

import os
import resource
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lbm import dataset
from lbm.errors import DataError

# About two seconds of solver time, so that a kill can hit any part of the work.
OPTIONS = shlex.split(
    "simulate --size 64x96 --diameter 8 --viscosity 0.02 --bulk-viscosity 0.2 --frames 100 --every 48 --warmup 5 "
    "--trajectories 3 --noise-transverse 0.1 --fields vorticity,velocity_x --threads 2 --quiet"
)


# The command `lbm`, saving its restart state after every chunk instead of every two seconds.
SAVING = "import lbm.trajectory, lbm.cli; lbm.trajectory.SAVE_EVERY = 0.0; lbm.cli.main()"


def command(*arguments):
    return [sys.executable, "-c", SAVING, *map(str, arguments)]


def run(*arguments, **options):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, check=False, **options)


def files_of(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed") / "flow.zarr"
    began = time.monotonic()
    done = run(*OPTIONS, "-o", path)
    assert done.returncode == 0, done.stderr
    return path, time.monotonic() - began


def begin(path, *extra):
    """Start the command and return when its dataset has appeared."""
    process = subprocess.Popen(command(*OPTIONS, "-o", path, *extra), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


def assert_unfinished_but_sound(path, reference):
    """Opens only on request; every acknowledged frame equals that of the undisturbed run."""
    with pytest.raises(DataError, match="unfinished"):
        dataset.open_dataset(path)
    ds = dataset.open_dataset(path, allow_incomplete=True)
    expected = dataset.open_dataset(reference)
    dataset.check(path)
    for run_index, frames in enumerate(ds["frames_written"].values):
        for name in ("vorticity", "velocity_x"):
            got, want = (d[name][run_index, :frames].values for d in (ds, expected))
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_resumes_to_the_same_bytes(tmp_path, undisturbed, kills):
    reference, duration = undisturbed
    rng = np.random.default_rng(kills)
    path = tmp_path / "flow.zarr"
    for _ in range(kills):
        with begin(path, "--resume") as process:
            time.sleep(rng.uniform(0, duration / 2))
            process.kill()
        if dataset.read_attributes(path)["complete"]:
            assert files_of(path) == files_of(reference)
            subprocess.run(["rm", "-r", str(path)], check=True)
        else:
            assert_unfinished_but_sound(path, reference)
    done = run(*OPTIONS, "--resume", "-o", path)  # with its options: the last run may have ended before it was killed
    assert done.returncode == 0, done.stderr
    assert files_of(path) == files_of(reference)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends(tmp_path, undisturbed, number, code):
    reference, _ = undisturbed
    path = tmp_path / "flow.zarr"
    with begin(path, "--frames", "3000") as process:
        while not (path / "restart" / "trajectory-0.npz").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        process.wait(timeout=30)
        error = process.stderr.read().decode()
    assert process.returncode == code, error
    assert "Traceback" not in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flow.zarr"]
    written = dataset.open_dataset(path, allow_incomplete=True)["frames_written"].values
    first = int(written[0])
    got = dataset.open_dataset(path, allow_incomplete=True)["vorticity"][0, : min(first, 100)].values
    want = dataset.open_dataset(reference)["vorticity"][0, : min(first, 100)].values
    np.testing.assert_array_equal(got, want)


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def test_a_full_disk_is_one_line_and_exit_5(tmp_path):
    older = tmp_path / "older.txt"
    older.write_text("untouched")
    path = tmp_path / "flow.zarr"
    done = run(*OPTIONS, "--resume", "-o", path, preexec_fn=limit_file_size)
    assert done.returncode == 5, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert str(path) in done.stderr
    assert "bytes needed" in done.stderr
    assert older.read_text() == "untouched"
    with pytest.raises(DataError, match="unfinished"):
        dataset.open_dataset(path)


def test_a_second_writer_is_refused(tmp_path):
    path = tmp_path / "flow.zarr"
    long = ["--frames", "20000"]
    with begin(path, *long) as process:
        second = run(*OPTIONS, *long, "-o", path, "--resume")
        third = run(*OPTIONS, *long, "-o", path, "--overwrite")
        process.kill()
    for refused in (second, third):
        assert refused.returncode == 5, refused.stderr
        assert f"process {process.pid} on {os.uname().nodename}" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    assert (tmp_path / "flow.zarr.lock").exists()  # its owner was killed, so it is free
    with dataset.resume(path) as writer:
        assert writer.attrs["complete"] == 0


def test_a_diverging_flow_stops_early_and_keeps_its_frames(tmp_path):
    """A blocked channel just inside the limits: nothing is wrong beforehand, the Mach limit ends it at tick 1000."""
    path = tmp_path / "flow.zarr"
    done = run(
        *("simulate", "--size", "48x64", "--diameter", 12, "--viscosity", 0.00175, "--inflow-velocity", 0.17),
        *("--noise-transverse", 0, "--noise-streamwise", 0, "--frames", 5000, "--every", 20, "--warmup", 0),
        *("--trajectories", 1, "--quiet", "-o", path),
    )
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "tick" in done.stderr
    assert "good frames are kept" in done.stderr
    ds = dataset.open_dataset(path, allow_incomplete=True)
    frames = int(ds["frames_written"][0])
    assert f"its {frames} good frames" in done.stderr
    assert np.isfinite(ds["vorticity"][0, :frames].values).all()
    assert np.isnan(ds["vorticity"][0, frames:].values).all()
