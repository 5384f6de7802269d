"""Persistence and climatology."""

import numpy as np
import pytest

from lbm import dataset as store
from lbm.errors import DataError
from rvdflow.baselines import Climatology, Persistence
from rvdflow.forecast import forecast
from rvdflow.forecaster import Seen
from rvdflow.frames import Frames


def climatology(path, training=(0, 1)):
    return Climatology(Frames(store.open_dataset(path), ["vorticity"]), training)


def test_persistence_repeats_the_last_frame_seen(flow, tmp_path):
    forecast(Persistence(), flow, tmp_path / "p.zarr", members=9, lead=5, context=2, quiet=True)
    ds, truth = (store.open_dataset(p).load() for p in (tmp_path / "p.zarr", flow))
    assert ds.sizes["member"] == 1
    assert ds.attrs["deterministic"] == 1
    assert ds.attrs["method"] == "persistence"
    last = truth["vorticity"].sel(time=ds["init_time"], trajectory=3).values
    assert np.array_equal(ds["vorticity"].values[0, :, 0], np.repeat(last[:, None], 5, axis=1))


def test_climatology_draws_coherent_pieces_of_training_runs_alone(flow):
    ds = climatology(flow).forecast(store.open_dataset(flow), members=8, lead=5, context=2, seed=4)
    training = store.open_dataset(flow)["vorticity"].values[:2]
    fluid = np.ones((8, 16), dtype=bool)
    fluid[2:4, 3:5] = False
    pieces = {training[k, t : t + 5][:, fluid].tobytes(): (k, t) for k in range(2) for t in range(24 - 5 + 1)}
    for case in ds["vorticity"].values[0]:
        drawn = [pieces.get(np.ascontiguousarray(member[:, fluid]).tobytes()) for member in case]
        assert None not in drawn
        assert len(set(drawn)) == 8  # different windows


def test_climatology_is_blind_to_test_runs(flow, build, tmp_path):
    def other_test_runs(values):
        values[2:] += 1

    changed = build(tmp_path / "flow.zarr", change=other_test_runs)
    cases, members = [(3, 5), (3, 9)], range(6)
    seen = Seen.of(np.zeros((2, 1, 1, 8, 16), dtype=np.float32))
    ours, theirs = (climatology(p).draw(seen, cases, members, 5, 0) for p in (flow, changed))
    np.testing.assert_array_equal(ours, theirs)


def test_cases_draw_independently_and_members_do_not_depend_on_portions(flow):
    method = climatology(flow)
    one, other = (method.windows(3, t, range(10), 5, 0) for t in (5, 9))
    assert one != other
    assert method.windows(3, 5, range(4, 7), 5, 0) == one[4:7]
    assert method.windows(3, 5, range(10), 5, 1) != one


def test_every_training_window_is_drawn_equally_often(flow):
    method = climatology(flow)
    drawn = [w for t in range(400) for w in method.windows(3, t, range(4), 5, 0)]
    counts = np.unique([k * 20 + t for k, t in drawn], return_counts=True)[1]
    assert len(counts) == 40
    # 1600 draws over 40 windows: 40 each, scattering like a binomial of variance 40 (39/40).
    assert abs(counts - 40).max() < 5 * np.sqrt(39)


def test_a_lead_longer_than_the_training_runs_is_refused(flow):
    with pytest.raises(DataError, match="a climatology of lead 30"):
        climatology(flow).windows(3, 5, range(2), 30, 0)


def test_more_members_than_windows_repeat_windows(flow):
    windows = climatology(flow).windows(3, 5, range(50), 5, 0)
    assert len(set(windows)) == 40
