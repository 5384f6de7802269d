"""Forecasting in several processes: the same forecast as in one, stopped together, gone on with by any number."""

import random
import signal

import numpy as np
import pytest

import rvdflow
from lbm import dataset as store
from rvdflow.forecast import forecast

CASES = "--ensemble 6 --lead 4 --context 3 --stride 1 --threads 1 --quiet"  # 18 cases
PORTIONS = "--members-per-batch 2 --cases-per-batch 2"


@pytest.fixture
def command(trained, flow):
    def build(output, *more):
        return ["forecast", "--checkpoint", trained, "--data", flow, *CASES.split(), "-o", output, *more]

    return build


@pytest.fixture(scope="module")
def whole(trained, flow, tmp_path_factory):
    """The forecast of one process, in the portions of PORTIONS."""
    output = tmp_path_factory.mktemp("whole") / "forecast.zarr"
    options = {"members": 6, "lead": 4, "context": 3, "stride": 1, "members_per_batch": 2, "cases_per_batch": 2}
    return forecast(rvdflow.load(trained, threads=1), flow, output, **options, quiet=True)


def codes(processes):
    found = [process.wait() for process in processes]
    return [code for code, _, _ in found], "".join(errors for _, _, errors in found)


def test_two_ranks_write_the_forecast_of_one_process(start_ranks, command, whole, tmp_path):
    assert codes(start_ranks(2, *command(tmp_path / "f.zarr", *PORTIONS.split()))) == ([0, 0], "")
    store.check(tmp_path / "f.zarr")
    assert store.digest(tmp_path / "f.zarr") == store.digest(whole)  # equal portions: equal bits


def test_portions_chosen_for_the_ranks_change_no_more_than_rounding(start_ranks, command, whole, tmp_path):
    # One case for two ranks: its members are divided. And more ranks than portions: the last one waits.
    given = ["--init-times", "10"]
    assert codes(start_ranks(2, *command(tmp_path / "two.zarr", *given))) == ([0, 0], "")
    assert codes(start_ranks(3, *command(tmp_path / "three.zarr", *given, "--members-per-batch", 3))) == ([0] * 3, "")
    theirs = store.open_dataset(whole)["vorticity"].sel(init_time=[10]).values
    for name in ("two", "three"):
        ours = store.open_dataset(tmp_path / f"{name}.zarr")["vorticity"]
        assert ours.encoding["chunks"][2] == 3
        np.testing.assert_allclose(ours.values, theirs, atol=1e-5 * theirs.std())


@pytest.mark.parametrize("sizes", [(2, 1), (1, 3)])
def test_a_forecast_killed_under_some_ranks_goes_on_under_others(start_ranks, command, whole, tmp_path, sizes):
    output, killed = tmp_path / "f.zarr", [(signal.SIGKILL, 4, 0), *[None] * 2]
    # Whichever rank is killed, here the first: the others notice and end with a word of it.
    found, errors = codes(start_ranks(sizes[0], *command(output, *PORTIONS.split()), signal=killed))
    assert found == [-signal.SIGKILL, *[5] * (sizes[0] - 1)]
    assert "another process of this job has ended" in errors or sizes[0] == 1
    assert 4 <= store.progress(output)[0] < 18
    assert codes(start_ranks(sizes[1], *command(output, "--resume"))) == ([0] * sizes[1], "")
    assert store.digest(output) == store.digest(whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_rank_may_be_killed_at_any_moment(start_ranks, command, whole, tmp_path, seed):
    output, moment = tmp_path / "f.zarr", random.Random(seed)
    killed = [None, None]
    killed[moment.randrange(2)] = (signal.SIGKILL, moment.randrange(2, 14, 2), 0.05 * moment.random())
    found, _ = codes(start_ranks(2, *command(output, *PORTIONS.split()), signal=killed))
    assert sorted(found) == [-signal.SIGKILL, 5]
    assert 0 < store.progress(output)[0] < 18
    assert codes(start_ranks(1, *command(output, "--resume"))) == ([0], "")
    assert store.digest(output) == store.digest(whole)


def test_a_signal_to_one_rank_ends_all_with_their_cases_written(start_ranks, command, whole, tmp_path):
    output, stopped = tmp_path / "f.zarr", [None, (signal.SIGTERM, 4, 0)]
    found, _ = codes(start_ranks(2, *command(output, *PORTIONS.split()), signal=stopped))
    assert found == [5, 143]
    assert 4 <= store.progress(output)[0] < 18
    assert codes(start_ranks(2, *command(output, "--resume"))) == ([0, 0], "")
    assert store.digest(output) == store.digest(whole)


def test_signals_to_all_ranks_are_their_exit_codes(start_ranks, command, tmp_path):
    processes = start_ranks(2, *command(tmp_path / "f.zarr", *PORTIONS.split()), signal=(signal.SIGTERM, 4, 0))
    assert codes(processes)[0] == [143, 143]
    assert 4 <= store.progress(tmp_path / "f.zarr")[0] < 18


# The members of one rank become NaN in its third portion.
SPOIL = """
import os
from rvdflow.network_forecaster import ResidualDiffusionForecaster
roll, count = ResidualDiffusionForecaster.roll, iter(range(10**6))
def spoiled(self, *arguments):
    bad = os.environ["RANK"] == "1" and next(count) == 2
    for piece in roll(self, *arguments):
        yield piece * float("nan") if bad else piece
ResidualDiffusionForecaster.roll = spoiled
"""


def test_a_member_that_blows_up_on_one_rank_ends_all(start_ranks, command, whole, tmp_path):
    output = tmp_path / "f.zarr"
    found, errors = codes(start_ranks(2, *command(output, *PORTIONS.split()), code=SPOIL))
    assert found == [5, 3]
    assert "is not finite at lead 1" in errors
    assert 0 < store.progress(output)[0] < 18
    assert codes(start_ranks(1, *command(output, "--resume"))) == ([0], "")
    assert store.digest(output) == store.digest(whole)


def test_what_one_rank_refuses_is_said_once(start_ranks, command, whole):
    before = store.digest(whole)
    found, errors = codes(start_ranks(2, *command(whole)))
    assert found == [2, 2]
    assert errors.count("exists") == errors.count("error") == 1
    assert store.digest(whole) == before
