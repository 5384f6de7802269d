"""Scores may be asked for from any thread, and after a fork."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
import xarray as xr

from evaluation import crps, ensemble_statistics
from evaluation.pointwise import ensemble_scores, threads_available


def case(points=60_000):
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 8, points)).astype(np.float32), rng.normal(size=(4, points)).astype(np.float32)


def test_calls_from_several_threads_at_once_agree():
    forecast, truth = case()
    (want,) = ensemble_scores(forecast, truth, axis=1, names=["crps"], threads=1)

    def call(_):
        return ensemble_scores(forecast, truth, axis=1, names=["crps"], threads=2)[0]

    with ThreadPoolExecutor(6) as pool:
        for got in pool.map(call, range(24)):
            np.testing.assert_array_equal(got, want)


def test_dask_threads_enter_the_kernel_together():
    forecast, truth = case(5_000)
    arrays = xr.DataArray(forecast, dims=("case", "member", "x")), xr.DataArray(truth, dims=("case", "x"))
    want = ensemble_statistics(*arrays)
    lazy = [a.chunk(case=1, x=100) for a in arrays]
    for scheduler in ("threads", "synchronous"):
        with dask.config.set(scheduler=scheduler, num_workers=8):
            xr.testing.assert_identical(ensemble_statistics(*lazy).compute(), want)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_scores_survive_a_fork():
    """A child forked after threads were used (as dataloaders and dask's process scheduler do) can use them again."""
    program = """
import os, numpy as np
from evaluation.pointwise import ensemble_scores
f, y = np.random.default_rng(0).normal(size=(8, 60000)), np.zeros(60000)
want = ensemble_scores(f, y, axis=0, names=["crps"], threads=2)[0]
child = os.fork()
if child == 0:
    got = ensemble_scores(f, y, axis=0, names=["crps"], threads=2)[0]
    os._exit(0 if (got == want).all() else 7)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_number_of_threads_can_be_limited(monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    assert threads_available() == 1
    monkeypatch.setenv("NUMBA_NUM_THREADS", "10000")
    assert threads_available() <= (os.cpu_count() or 1)


def test_lazy_scores_hold_one_chunk_at_a_time():
    """The graph of a lazy score of 16 GB is built at once, and one of its blocks costs only that block."""
    import dask.array as da

    forecast = xr.DataArray(da.zeros((4000, 16, 250, 250), chunks=(1, 4, -1, -1)), dims=("case", "member", "y", "x"))
    truth = xr.DataArray(da.zeros((4000, 250, 250), chunks=(1, -1, -1)), dims=("case", "y", "x"))
    score = crps(forecast, truth, dim=["y", "x"])
    assert float(score[17].compute()) == 0.0
