"""Forecasters pooled into one ensemble: whose members are whose, whatever is drawn together."""

import numpy as np
import pytest

import rvdflow
from lbm import dataset as store
from lbm.errors import UsageError
from rvdflow.forecaster import Forecaster, Seen


class Says(Forecaster):
    """Says its own number plus a hundredth of the member's, in blocks of some leads."""

    method = "says"

    def __init__(self, number, block=1, deterministic=False):
        self.number, self.block, self.deterministic = number, block, deterministic

    def roll(self, seen, cases, members, lead, seed):
        for first in range(0, lead, self.block):
            leads = min(self.block, lead - first)
            value = self.number + 0.01 * np.array(members)[:, None, None, None, None]
            yield np.broadcast_to(value, (len(cases), len(members), leads, *seen.frames.shape[2:])).astype(np.float32)


SEEN = Seen.of(np.zeros((1, 1, 1, 2, 2), np.float32))


@pytest.mark.parametrize("members", [range(5), range(1, 2), range(3, 8), [4, 0, 2]])
def test_parts_take_members_in_turn_whatever_is_drawn_together(members):
    pool = rvdflow.Pooled([Says(10, block=2), Says(20, block=3), Says(30)])
    drawn = pool.draw(SEEN, [(0, 0)], members, 7, 0)
    assert drawn.shape == (1, len(members), 7, 1, 2, 2)
    expected = [(10, 20, 30)[m % 3] + 0.01 * m for m in members]
    np.testing.assert_allclose(drawn[0, :, :, 0, 0, 0], np.repeat(np.array(expected)[:, None], 7, 1), rtol=1e-6)


def test_deterministic_parts_have_one_member_each(build, tmp_path):
    data = build(tmp_path / "flow.zarr")
    pool = rvdflow.Pooled([Says(k, deterministic=True) for k in range(3)])
    assert [pool.size(n) for n in (1, 3, 32)] == [1, 3, 3]
    found = pool.forecast(store.open_dataset(data, chunks=None), members=32, lead=2, context=1, init_times=[3])
    assert found.sizes["member"] == 3
    assert found.attrs["deterministic"] == 0
    assert rvdflow.Pooled([Says(0), Says(1)]).size(32) == 32


def test_an_ensemble_of_runs_names_the_checkpoints_it_is_of(trained, flow):
    one = rvdflow.load(trained, threads=1)
    pool = rvdflow.Pooled([one, one])
    found = pool.forecast(store.open_dataset(flow, chunks=None), members=3, lead=2, init_times=[5])
    assert found.attrs["method"] == "rvd-ensemble"
    assert found.attrs["checkpoint_sha256"] == ", ".join([one.stamp()["checkpoint_sha256"]] * 2)
    alone = one.forecast(store.open_dataset(flow, chunks=None), members=3, lead=2, init_times=[5])
    np.testing.assert_allclose(found["vorticity"], alone["vorticity"], atol=1e-8)  # members keep their noise


def test_what_is_no_ensemble_is_refused():
    with pytest.raises(UsageError, match="two or more"):
        rvdflow.Pooled([Says(1)])
    with pytest.raises(UsageError, match="deterministic forecasters and ensembles"):
        rvdflow.Pooled([Says(1), Says(2, deterministic=True)])
    other = Says(2)
    other.variables = ("density",)
    with pytest.raises(UsageError, match="different variables"):
        rvdflow.Pooled([Says(1), other])
