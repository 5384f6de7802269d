"""Forecasting as a process: killed, stopped, out of disk, resumed to the same bits."""

import random
import signal

import numpy as np
import pytest

import rvdflow
from lbm import dataset as store
from lbm.errors import UsageError
from rvdflow.baselines import Climatology
from rvdflow.forecast import forecast
from rvdflow.frames import Frames

OPTIONS = {"members": 6, "lead": 4, "context": 3, "stride": 1, "members_per_batch": 2, "quiet": True}
COMMAND = "--ensemble 6 --lead 4 --context 3 --stride 1 --members-per-batch 2 --cases-per-batch 2 --threads 1 --quiet"


@pytest.fixture(scope="module")
def whole(trained, flow, tmp_path_factory):
    """An uninterrupted forecast."""
    output = tmp_path_factory.mktemp("whole") / "forecast.zarr"
    return forecast(rvdflow.load(trained, threads=1), flow, output, **OPTIONS, cases_per_batch=2)


class Crash(Exception):
    """Stands for the power cut."""


class Interrupted(Climatology):
    """Raises at its n-th portion."""

    remaining = 5

    def roll(self, *args):
        self.remaining -= 1
        if self.remaining < 0:
            raise Crash
        yield from super().roll(*args)


def climatology(kind, flow):
    return kind(Frames(store.open_dataset(flow), ["vorticity"]), [0, 1])


@pytest.mark.parametrize("leads", [4, 3])
def test_an_interrupted_forecast_resumes_to_the_same_store(flow, tmp_path, leads):
    portions = {"cases_per_batch": 2, "leads_per_chunk": leads}
    forecast(climatology(Climatology, flow), flow, tmp_path / "whole.zarr", **OPTIONS, **portions)
    output = tmp_path / "f.zarr"
    with pytest.raises(Crash):
        forecast(climatology(Interrupted, flow), flow, output, **OPTIONS, **portions)
    assert store.progress(output) == (2, 18, "cases")  # five portions of six: one group of two cases is whole
    # Portions of an unfinished store are kept whatever the command says: they decide the last bits.
    forecast(climatology(Climatology, flow), flow, output, **OPTIONS, cases_per_batch=5, resume=True)
    assert store.digest(output) == store.digest(tmp_path / "whole.zarr")


def test_an_unfinished_forecast_reads_as_missing_never_as_numbers(flow, tmp_path):
    output = tmp_path / "f.zarr"
    with pytest.raises(Crash):
        forecast(climatology(Interrupted, flow), flow, output, **OPTIONS, cases_per_batch=2)
    ds = store.open_dataset(output, allow_incomplete=True).load()
    written = ds["cases_written"].values[0] == 1
    values = ds["vorticity"].values[0]
    assert np.isfinite(values[written]).all()
    assert np.isnan(values[~written][2:]).all()  # the first two were being written


def test_resuming_with_other_settings_is_refused_by_name(flow, tmp_path):
    output = tmp_path / "f.zarr"
    with pytest.raises(Crash):
        forecast(climatology(Interrupted, flow), flow, output, **OPTIONS)
    with pytest.raises(UsageError, match="was begun with seed 0, now 1"):
        forecast(climatology(Climatology, flow), flow, output, **OPTIONS, seed=1, resume=True)
    with pytest.raises(UsageError, match="was begun with lead 4, now 5"):
        forecast(climatology(Climatology, flow), flow, output, **OPTIONS | {"lead": 5}, resume=True)


def test_resuming_a_complete_forecast_changes_nothing(trained, flow, whole):
    before = store.digest(whole)
    forecast(rvdflow.load(trained, threads=1), flow, whole, **OPTIONS, cases_per_batch=2, resume=True)
    assert store.digest(whole) == before


@pytest.fixture
def start(rvdflow_process, trained, flow):
    def begin(output, *more, **options):
        given = ["--checkpoint", trained, "--data", flow, *COMMAND.split(), "-o", output]
        return rvdflow_process("forecast", *given, *more, **options)

    return begin


def kill_and_resume(start, whole, output, seed):
    moment = random.Random(seed)
    process = start(output, signal=(signal.SIGKILL, moment.randrange(2, 17, 2), 0.05 * moment.random()))
    assert process.wait()[0] == -signal.SIGKILL
    assert 0 < store.progress(output)[0] < 18
    code, _, errors = start(output, "--resume").wait()
    assert code == 0, errors
    assert store.digest(output) == store.digest(whole)


def test_a_killed_forecast_resumes_to_the_same_bits(start, whole, tmp_path):
    kill_and_resume(start, whole, tmp_path / "f.zarr", seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
def test_a_killed_forecast_resumes_to_the_same_bits_again(start, whole, tmp_path, seed):
    kill_and_resume(start, whole, tmp_path / "f.zarr", seed)


def test_a_signal_ends_a_forecast_with_its_cases_written(start, whole, tmp_path):
    output = tmp_path / "f.zarr"
    assert start(output, signal=(signal.SIGTERM, 2, 0)).wait()[0] == 143
    assert 0 < store.progress(output)[0] < 18
    assert start(output, "--resume").wait()[0] == 0
    assert store.digest(output) == store.digest(whole)


def test_a_full_disk_is_said_in_one_line(start, tmp_path):
    code, _, errors = start(tmp_path / "f.zarr", limit=3000).wait()
    assert code == 5, errors
    assert len(errors.strip().splitlines()) == 1
    assert str(tmp_path) in errors
