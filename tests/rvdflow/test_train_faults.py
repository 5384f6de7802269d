"""Training as a process: killed, stopped, out of disk. It goes on to the same bits, or says why not in one line."""

import random
import signal

import pytest

from rvdflow import checkpoint, runlog
from rvdflow.train import train

TINY = """
preset = "small"
[model]
width = 4
multipliers = [1, 2]
diffusion_steps = 50
[train]
steps = 24
batch_size = 2
checkpoint_every = 4
log_every = 1
validations = 3
[validation]
cases = 2
members = 2
context = 3
lead = 3
clips = 4
[calibration]
cases = 2
members = 2
context = 3
lead = 4
"""


UNTIMED = {"seconds": 0, "clips_per_second": 0, "memory_mib": 0}


@pytest.fixture(scope="module")
def place(flow, tmp_path_factory):
    """A folder with `tiny.toml` and an uninterrupted run of it in `whole`."""
    from lbm.settings import resolve
    from rvdflow.train_config import RunConfig

    folder = tmp_path_factory.mktemp("faults")
    (folder / "tiny.toml").write_text(TINY)
    config = resolve(RunConfig, file=folder / "tiny.toml", sets=[], flags={})
    train(flow, folder / "whole", config, threads=1, quiet=True)
    return folder


@pytest.fixture
def start(rvdflow_process, flow, place):
    def begin(run, *more, **options):
        given = ["--data", flow, "-o", run, "--threads", 1, "--config", place / "tiny.toml", "--quiet"]
        return rvdflow_process("train", *given, *more, **options)

    return begin


def reached(run, step):
    return lambda: any(row["step"] >= step for row in runlog.read(run))


def assert_equals_the_uninterrupted_run(run, place):
    for file in ("best.pt", "final.pt"):
        ours, theirs = (checkpoint.read(r / "checkpoints" / file).state["weights"] for r in (run, place / "whole"))
        assert ours.keys() == theirs.keys()
        assert all(ours[name].equal(theirs[name]) for name in ours)
    rows = [[{**row, **UNTIMED} for row in runlog.read(r)] for r in (run, place / "whole")]
    assert rows[0] == rows[1]


def kill_and_resume(start, place, run, seed):
    moment = random.Random(seed)
    process = start(run, signal=(signal.SIGKILL, moment.randint(1, 20), 0.05 * moment.random()))
    assert process.wait()[0] == -signal.SIGKILL
    code, _, errors = start(run, "--resume").wait()
    assert code == 0, errors
    assert_equals_the_uninterrupted_run(run, place)


def test_killed_training_resumes_to_the_same_bits(start, place, tmp_path):
    kill_and_resume(start, place, tmp_path / "run", seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_training_resumes_to_the_same_bits_again(start, place, tmp_path, seed):
    kill_and_resume(start, place, tmp_path / "run", seed)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_training_after_the_step_with_its_work_saved(start, place, tmp_path, number):
    run = tmp_path / "run"
    assert start(run, signal=(number, 6, 0)).wait()[0] == 128 + number
    step = runlog.read(run)[-1]["step"]
    assert 6 <= step < 24
    assert checkpoint.newest_step(run).name == f"step-{step:06d}.pt"
    assert start(run, "--resume").wait()[0] == 0
    assert_equals_the_uninterrupted_run(run, place)


def test_a_full_disk_is_said_in_one_line_and_the_log_stays(start, tmp_path):
    code, _, errors = start(tmp_path / "run", limit=20_000).wait()
    assert code == 5
    assert len(errors.strip().splitlines()) == 1
    assert "step-000004.pt: cannot be written" in errors
    assert "bytes needed" in errors
    assert not list((tmp_path / "run" / "checkpoints").glob("*.pt*"))
    assert runlog.read(tmp_path / "run")[-1]["step"] == 4


def test_a_second_training_of_the_same_run_is_refused(start, tmp_path):
    run = tmp_path / "run"
    first = start(run, signal=(signal.SIGSTOP, 1, 0))
    try:
        first.until(reached(run, 1))
        code, _, errors = start(run, "--resume").wait()
    finally:
        first.send(signal.SIGKILL)
        first.wait()
    assert code == 5
    assert f"is being written by process {first.pid}" in errors
