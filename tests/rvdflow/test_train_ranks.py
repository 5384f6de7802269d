"""Training in several processes: the same training as in one, stopped together, and never left hanging."""

import signal

import pytest
import torch

from lbm.errors import UsageError
from rvdflow import checkpoint, runlog
from rvdflow.build import build_model
from rvdflow.optimise import Optimiser
from rvdflow.ranks import Ranks
from rvdflow.run_folder import read_config

# Two channels to a group of each GroupNorm: with one, a bias before it has no gradient but rounding, which Adam would
# make as large as any other.
SETTINGS = """
preset = "small"
[model]
width = 16
multipliers = [1, 2]
diffusion_steps = 50
sampler.steps = 2
[train]
steps = 6
batch_size = 4
checkpoint_every = 2
log_every = 1
validations = 2
learning_rate = 5e-4
muon_rate = 5e-4
warmup_steps = 2
[validation]
cases = 3
members = 2
context = 3
lead = 3
clips = 8
[calibration]
cases = 0
"""

CHECK_RANKS = """
import os, torch
from rvdflow.ranks import Ranks, start

ranks = start(torch.device("cpu"))
rank = int(os.environ["RANK"])
assert (ranks.rank, ranks.size, ranks.local) == (rank, 2, rank)
tensor = torch.tensor([1.0 + 2 * rank, 5.0])
assert ranks.mean_(tensor) is tensor and tensor.tolist() == [2.0, 5.0]
assert ranks.max([rank, -rank]) == [1.0, 0.0]
assert ranks.broadcast_object({"rank": rank}) == {"rank": 0}
assert ranks.all_true(True) and not ranks.all_true(rank == 1) and not ranks.all_true(rank == 0)
assert ranks.alone(lambda: rank + 7) == 7
ranks.barrier()
class Failure(Exception):
    exit_code = 4
def fail():
    raise Failure
try:
    ranks.alone(fail)
except (Failure, SystemExit) as error:
    assert isinstance(error, Failure) == (rank == 0)
    assert rank == 0 or error.code == 4
ranks.stop()
"""

# The clips of one rank become NaN in its third step.
SPOIL = """
import math, os
from rvdflow.windows import Windows
clip, count = Windows.clip, iter(range(10**6))
def spoiled(self, indices):
    batch = clip(self, indices)
    bad = os.environ["RANK"] == "1" and next(count) == 2
    return batch._replace(frames=batch.frames * math.nan) if bad else batch
Windows.clip = spoiled
"""


@pytest.fixture
def arguments(flow, tmp_path):
    """The command line of a training in `tmp_path / name`."""
    (tmp_path / "settings.toml").write_text(SETTINGS)

    def build(name, *more):
        given = ["--data", flow, "-o", tmp_path / name, "--config", tmp_path / "settings.toml", "--threads", 1]
        return "train", *given, "--quiet", *more

    return build


def succeed(processes):
    for code, _, errors in [process.wait() for process in processes]:
        assert code == 0, errors


def final(run):
    return checkpoint.read(run / "checkpoints" / "final.pt")


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_what_ranks_tell_each_other_arrives(start_ranks):
    succeed(start_ranks(2, code=CHECK_RANKS))


def test_one_process_without_torchrun_is_rank_0_of_1():
    ranks = Ranks()
    assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
    tensor = torch.tensor([3.0])
    assert ranks.mean_(tensor).item() == 3
    assert ranks.max([2, 1]) == [2, 1]
    assert (ranks.broadcast_object("x"), ranks.alone(lambda: 5), ranks.all_true(True)) == ("x", 5, True)


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("train.accumulate=2", "train.forecast_weights=last"),
        ("model.mean_first=0.5", "model.unroll=2", "model.unroll_from=0.3"),
        # Members begin equal, at the kink of |x_i - x_j|, where muon would make steps of the sign of rounding errors.
        ("model.objective=crps", "train.checkpoint_activations=true", "train.optimiser=adamw"),
    ],
    ids=["plain", "accumulated", "two-stage", "one-step"],
)
def test_two_ranks_train_as_one_process_does(start_ranks, rvdflow_process, arguments, tmp_path, flow, settings):
    sets = [part for text in settings for part in ("--set", text)]
    together = start_ranks(2, *arguments("two", *sets))
    succeed([rvdflow_process(*arguments("one", *sets)), *together])
    one, two = (final(tmp_path / name) for name in ("one", "two"))
    assert largest_difference(one.state["weights"], two.state["weights"]) < 1e-6
    config = read_config(tmp_path / "one")
    start = build_model(config, (1, 8, 16)).state_dict()
    assert largest_difference(one.state["weights"], start) > 1e-3  # they have learned something
    rows = [runlog.read(tmp_path / name) for name in ("one", "two")]
    for ours, theirs in zip(*rows, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"seconds", "clips_per_second", "memory_mib"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
    assert one.meta["optimiser"] == two.meta["optimiser"]


@pytest.mark.parametrize(("batch", "ranks", "parts"), [(8, 3, 1), (8, 2, 8)])
def test_a_batch_that_does_not_divide_is_refused_with_both_numbers(tiny, batch, ranks, parts):
    config = tiny(batch_size=batch, accumulate=parts).train
    with pytest.raises(UsageError, match=f"batch_size {batch} .* {ranks} processes with accumulate = {parts}"):
        Optimiser(torch.nn.Linear(2, 2), config, torch.device("cpu"), Ranks(0, ranks, 0))


def test_a_bad_step_of_one_rank_is_skipped_by_all(start_ranks, arguments, tmp_path):
    succeed(start_ranks(2, *arguments("run", "--set", "train.validations=0"), code=SPOIL))
    found = final(tmp_path / "run")
    assert found.meta["optimiser"] == {"step": 6, "skipped": 1, "bad_in_a_row": 0}
    assert all(value.isfinite().all() for value in found.state["weights"].values())


def test_a_signal_to_any_rank_stops_all_at_the_same_step_and_a_resume_ends_in_the_same_bits(
    start_ranks, arguments, tmp_path
):
    succeed(start_ranks(2, *arguments("whole")))
    stopped = start_ranks(2, *arguments("run"), signal=[None, (signal.SIGTERM, 2, 0)])
    assert [process.wait()[0] for process in stopped] == [143, 143]
    steps = [path.name for path in checkpoint.step_files(tmp_path / "run" / "checkpoints")]
    assert steps == ["step-000002.pt", "step-000003.pt"]  # sent after the second step, seen by all after the third
    succeed(start_ranks(2, *arguments("run", "--resume")))
    whole, resumed = (final(tmp_path / name).state["weights"] for name in ("whole", "run"))
    assert largest_difference(whole, resumed) == 0


def test_the_other_rank_of_a_killed_one_ends_and_leaves_whole_checkpoints(start_ranks, arguments, tmp_path):
    ranks = start_ranks(2, *arguments("run"), signal=[None, (signal.SIGKILL, 4, 0)])
    assert ranks[1].wait()[0] == -signal.SIGKILL
    code, _, errors = ranks[0].wait()
    assert code == 5
    assert "another process of this job has ended" in errors
    assert len(errors.strip().splitlines()) == 1
    assert checkpoint.newest_whole(tmp_path / "run").name == "step-000004.pt"
    assert not (tmp_path / "run" / "checkpoints" / "final.pt").exists()


def test_a_usage_error_is_said_once(start_ranks, arguments, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("mine")
    answers = [process.wait() for process in start_ranks(2, *arguments("run"))]
    assert [code for code, _, _ in answers] == [2, 2]
    assert "is not a run folder" in answers[0][2]
    assert answers[1][2] == ""
