"""Energy and variogram score equal their double sums, keep their precision, and see what they should see."""

import itertools

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import DimensionError, EvaluationError, MissingValueError, crps
from evaluation.crps_variants import threshold_weighted_crps
from evaluation.events import brier_score
from evaluation.intervals import interval_coverage
from evaluation.multivariate import (
    LAGS,
    energy_score,
    energy_score_field,
    variogram_score,
    variogram_score_field,
)
from evaluation.neighbourhood import crps_pooled, fractions_skill_score

DIMS = ("case", "member", "lead_time", "y", "x")
EXACT = 1e-12  # of numbers of order one
SCORES = (energy_score, variogram_score)
ESTIMATORS = [("fair", 1), ("classical", 0)]


def case(members=4, seed=0, shape=(6, 7), dtype=np.float64):
    rng = np.random.default_rng(seed)
    forecast = xr.DataArray(rng.normal(size=(2, members, 3, *shape)), dims=DIMS, attrs={"units": "1/s"})
    truth = xr.DataArray(rng.normal(size=(2, 3, *shape)), dims=DIMS[:1] + DIMS[2:], attrs={"units": "1/s"})
    if dtype == np.uint8:
        forecast, truth = (a * 30 + 128 for a in (forecast, truth))
    return forecast.astype(dtype), truth.astype(dtype)


def case_arrays(members=4, dtype=np.float64):
    forecast, truth = (a.isel(case=0) for a in case(members, dtype=dtype))
    fluid = np.ones(truth.shape[-2:], bool)
    fluid[2:4, 3:6] = False
    return forecast.values, truth.values, fluid


def energy_by_pairs(members, truth, fair):
    """members (member, cell), truth (cell)."""
    members, truth = members.astype(float), truth.astype(float)

    def distance(a, b):
        return np.sqrt(np.mean((a - b) ** 2))

    size = len(members)
    pairs = sum(distance(a, b) for a, b in itertools.product(members, members))
    return np.mean([distance(a, truth) for a in members]) - pairs / (2 * size * (size - fair))


def variogram_by_pairs(members, truth, fluid, lags, p, fair):
    """One lead: members (member, y, x)."""
    members, truth = members.astype(float), truth.astype(float)
    rows, columns = fluid.shape
    means = []
    for dy, dx in lags:
        errors = []
        for y, x in itertools.product(range(rows), range(columns)):
            v, u = y + dy, x + dx
            if 0 <= v < rows and 0 <= u < columns and fluid[y, x] and fluid[v, u]:
                increments = abs(members[:, v, u] - members[:, y, x]) ** p
                error = (abs(truth[v, u] - truth[y, x]) ** p - increments.mean()) ** 2
                errors.append(error - (increments.var(ddof=1) / len(members) if fair else 0))
        means += [np.mean(errors)] if errors else []
    return np.mean(means)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize(("estimator", "fair"), ESTIMATORS)
def test_energy_score_is_the_double_sum_over_members(dtype, estimator, fair):
    members, truth, fluid = case_arrays(dtype=dtype)
    got = energy_score_field(members, truth, fluid, estimator)
    want = [energy_by_pairs(members[:, k, fluid], truth[k, fluid], fair) for k in range(3)]
    np.testing.assert_allclose(got, want, rtol=EXACT)


@pytest.mark.parametrize(("estimator", "theirs"), [("fair", "fair"), ("classical", "nrg")])
@pytest.mark.parametrize("members", [2, 5, 33])
def test_energy_score_is_that_of_scoringrules(estimator, theirs, members):
    scoringrules = pytest.importorskip("scoringrules")
    forecast, truth = case(members)
    got = energy_score(forecast, truth, estimator=estimator, dim=())
    values = forecast.transpose("case", "lead_time", "member", "y", "x").values.reshape(2, 3, members, -1)
    score = getattr(scoringrules, "es_ensemble", None) or scoringrules.energy_score  # older than 0.10
    want = score(truth.values.reshape(2, 3, -1), values, estimator=theirs, backend="numpy")
    np.testing.assert_allclose(got, want / np.sqrt(42), rtol=0, atol=EXACT)
    assert got.attrs["units"] == "1/s"


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("p", [0.5, 1, 2, 0.7])
@pytest.mark.parametrize(("estimator", "fair"), ESTIMATORS)
def test_variogram_score_is_the_sum_over_pairs_of_cells(dtype, p, estimator, fair):
    members, truth, fluid = case_arrays(dtype=dtype)
    lags = [(0, 1), (1, 0), (2, -3), (-1, -1), (0, 9)]  # the last reaches beyond the domain
    got = variogram_score_field(members, truth, fluid, lags, p, estimator)
    want = [variogram_by_pairs(members[:, k], truth[k], fluid, lags, p, fair) for k in range(3)]
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_variogram_score_is_that_of_scoringrules():
    """All pairs of a row of cells: scoringrules counts each twice, ours are means over pairs of one lag."""
    scoringrules = pytest.importorskip("scoringrules")
    forecast, truth = case(5, shape=(1, 6))
    values = forecast.isel(y=0).transpose("case", "lead_time", "member", "x").values
    score = getattr(scoringrules, "vs_ensemble", None) or scoringrules.variogram_score  # older than 0.10
    want = score(truth.isel(y=0).values, values, p=0.5, backend="numpy")
    got = sum(
        2 * (6 - lag) * variogram_score(forecast, truth, lags=[(0, lag)], estimator="classical", dim=())
        for lag in range(1, 6)
    )
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_energy_score_of_one_cell_is_the_crps():
    forecast, truth = case(shape=(1, 1))
    for estimator, _ in ESTIMATORS:
        got = energy_score(forecast, truth, estimator=estimator, dim=())
        np.testing.assert_allclose(got, crps(forecast, truth, estimator=estimator, dim=["y", "x"]), atol=EXACT)


def test_energy_score_over_any_dimensions():
    forecast, truth = case()
    got = energy_score(forecast, truth, space=("lead_time", "y", "x"), dim=())
    want = [energy_by_pairs(f.reshape(4, -1), y.ravel(), 1) for f, y in zip(forecast.values, truth.values, strict=True)]
    np.testing.assert_allclose(got, want, rtol=EXACT)
    along = energy_score(forecast, truth, space="x", dim=())
    assert along.dims == ("case", "lead_time", "y")
    want = energy_by_pairs(forecast.values[1, :, 2, 4], truth.values[1, 2, 4], 1)
    assert float(along[1, 2, 4]) == pytest.approx(want, rel=EXACT)


def test_members_close_to_each_other_keep_their_distance():
    """Spread 1e-6 around fields of 1e3: a Gram matrix in float64 would leave no digit of their distance."""
    rng = np.random.default_rng(0)
    centre = 1e3 * rng.normal(size=(1, 30, 40))
    noise = np.round(rng.normal(size=(8, 1, 30, 40)) * 2.0**20) / 2.0**40  # a multiple of the last digit of the centre
    centre = np.round(centre * 2.0**40) / 2.0**40
    fluid = np.ones((30, 40), bool)
    got = energy_score_field(centre + noise, centre, fluid)
    np.testing.assert_allclose(got, energy_score_field(noise, 0 * centre, fluid), rtol=1e-9)


def test_a_common_shift_is_seen_by_the_energy_score_alone():
    forecast, truth = case()
    np.testing.assert_allclose(variogram_score(forecast + 3, truth), variogram_score(forecast, truth), rtol=1e-10)
    assert energy_score(forecast + 3, truth) > 2 * energy_score(forecast, truth)


def test_the_wrong_dependence_is_seen_by_the_variogram_score():
    """Members that are smooth like the truth against members whose cells are independent, with equal marginals."""
    rng = np.random.default_rng(1)

    def smooth(*shape):
        noise = rng.normal(size=(*shape, 12, 12))
        for axis in (-1, -2):
            noise = sum(np.roll(noise, k, axis) for k in range(4)) / 2
        return noise

    truth, good = smooth(100), smooth(10, 100)
    noisy = rng.normal(size=good.shape)
    fluid = np.ones((12, 12), bool)
    for score, factor in ((variogram_score_field, 1.1), (energy_score_field, 1.0)):
        assert score(noisy, truth, fluid).mean() > factor * score(good, truth, fluid).mean()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 40), st.floats(0.1, 10))
def test_energy_score_follows_scale_and_ignores_order(seed, members, cells, scale):
    rng = np.random.default_rng(seed)
    x, y, fluid = rng.normal(size=(members, 1, 1, cells)), rng.normal(size=(1, 1, cells)), np.ones((1, cells), bool)
    base = energy_score_field(x, y, fluid, "classical")
    assert base >= -EXACT
    np.testing.assert_allclose(energy_score_field(-scale * x, -scale * y, fluid, "classical"), scale * base, rtol=1e-9)
    order = rng.permutation(cells)
    shuffled = energy_score_field(x[::-1, :, :, order], y[:, :, order], fluid, "classical")
    np.testing.assert_allclose(shuffled, base, rtol=1e-9)


def test_single_member_has_its_distance():
    members, truth, fluid = case_arrays(1)
    want = np.sqrt(((members[0] - truth)[:, fluid] ** 2).mean(-1))
    np.testing.assert_allclose(energy_score_field(members, truth, fluid), want, rtol=EXACT)
    want = [variogram_by_pairs(members[:, k], truth[k], fluid, LAGS, 0.5, 0) for k in range(3)]
    np.testing.assert_allclose(variogram_score_field(members, truth, fluid), want, rtol=1e-10)
    forecast, truth = case(1)
    for score in SCORES:
        with pytest.raises(EvaluationError, match="at least 2 members"):
            score(forecast, truth)
        single = score(forecast.isel(member=0), truth, member_dim=None, estimator="classical")
        assert float(single) == float(score(forecast, truth, estimator="classical"))


def test_values_in_walls_do_not_matter_and_cells_without_truth_are_walls():
    members, truth, fluid = case_arrays()
    forecast, observed = (a.isel(case=0) for a in case())
    wall = xr.DataArray(fluid, dims=("y", "x"))
    for arrays, labelled in ((energy_score_field, energy_score), (variogram_score_field, variogram_score)):
        want = arrays(members, truth, fluid)
        moved, other = members.copy(), truth.copy()
        moved[..., ~fluid], other[..., ~fluid] = 1e9, -1e9
        np.testing.assert_allclose(arrays(moved, other, fluid), want, rtol=1e-13)
        for f in (forecast, forecast.where(wall)):
            got = labelled(f, observed.where(wall), dim=(), nan_policy="omit")
            np.testing.assert_allclose(got, want, rtol=1e-13)
        assert np.isnan(arrays(members, truth, np.zeros_like(fluid))).all()


@pytest.mark.parametrize("score", SCORES)
def test_a_broken_member_is_left_out_under_omit(score):
    forecast, truth = case(5)
    broken = forecast.copy()
    broken[:, 3, :, 4, 4] = np.nan
    got = score(broken, truth, nan_policy="omit")
    np.testing.assert_allclose(got, score(forecast.isel(member=[0, 1, 2, 4]), truth), rtol=1e-12)
    broken[0, :4, 0, 1, 1] = np.nan  # one member left: no fair score of that field
    assert int(score(broken, truth, nan_policy="omit", dim=()).isnull().sum()) == 1
    assert np.isnan(score(broken, truth))
    with pytest.raises(MissingValueError, match="of 42 cells"):
        score(broken, truth, nan_policy="raise")


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_dask_and_numpy_give_the_same(score, dtype):
    forecast, truth = case(dtype=dtype)
    for dim in ((), None, ["lead_time"]):
        want = score(forecast, truth, dim=dim)
        lazy = score(forecast.chunk(case=1, member=2, y=4), truth.chunk(lead_time=2, x=3), dim=dim)
        assert lazy.chunks is not None
        xr.testing.assert_allclose(lazy.compute(), want, rtol=1e-12)
        assert lazy.attrs == want.attrs


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_data_in_a_store_with_walls_is_scored_in_blocks(dtype, tmp_path):
    """8-bit members, a truth that walls have made a float: every score, from Zarr, in blocks of one case and lead."""
    forecast, truth = case(dtype=dtype)
    wall = xr.DataArray(case_arrays()[2], dims=("y", "x"))
    scores = {
        "energy": energy_score,
        "variogram": variogram_score,
        "pooled": crps_pooled,
        "fractions": lambda *a, **k: fractions_skill_score(*a, threshold=100, **k),
        "brier": lambda *a, **k: brier_score(*a, threshold=100, **k),
        "coverage": lambda *a, **k: interval_coverage(*a, level=0.5, **k),
        "tail": lambda *a, **k: threshold_weighted_crps(*a, threshold=100, **k),
    }
    chunks = {"case": 1, "lead_time": 1, "member": 2, "y": 3, "x": 7}
    forecast.chunk(chunks).to_dataset(name="f").to_zarr(tmp_path / "f.zarr", zarr_format=3, consolidated=False)
    stored = xr.open_zarr(tmp_path / "f.zarr", consolidated=False)["f"]
    assert stored.dtype == dtype
    walls = truth.astype(np.float32).where(wall)
    for name, score in scores.items():
        dims = ["case", "lead_time"] if name in ("energy", "variogram", "pooled", "fractions") else None
        got = score(stored, walls.chunk(lead_time=2), dim=dims, nan_policy="omit")
        assert got.chunks is not None
        xr.testing.assert_allclose(got.compute(), score(forecast, walls, dim=dims, nan_policy="omit"), rtol=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_mismatched_data_is_never_broadcast(score):
    forecast, truth = case()
    for bad in (truth.isel(y=slice(3)), truth.isel(y=0, drop=True), truth.rename(y="row"), truth.expand_dims(member=4)):
        with pytest.raises(DimensionError):
            score(forecast, bad)
    with pytest.raises(DimensionError, match='no dimension "y"'):
        score(forecast, truth, dim="y")
    with pytest.raises(DimensionError, match='no dimension "row"'):
        score(forecast, truth, space=("row", "x"))
    with pytest.raises(DimensionError, match="each once"):
        score(forecast, truth, space=("x", "x"))
    with pytest.raises(EvaluationError, match="unknown estimator"):
        score(forecast, truth, estimator="nrg")


@pytest.mark.parametrize("score", SCORES)
def test_aliases_weights_and_order_of_dimensions(score):
    forecast, truth = case()
    names = {"y": "latitude", "x": "longitude", "lead_time": "prediction_timedelta"}
    want = score(forecast, truth, dim="case")
    other = forecast.rename(names | {"member": "number"}).transpose(..., "case"), truth.rename(names)
    xr.testing.assert_allclose(score(*other, space=("latitude", "longitude"), dim="case"), want, rtol=1e-12)
    only = score(forecast, truth, dim="case", weights=xr.DataArray([0.0, 2.0], dims="case"))
    xr.testing.assert_allclose(only, score(forecast.isel(case=[1]), truth.isel(case=[1]), dim="case"))


def test_lags_and_powers_without_meaning_are_refused():
    for lags in ([(0, 0)], [], [(1,)], [(0.5, 1)]):
        with pytest.raises(EvaluationError, match="pairs of whole numbers"):
            variogram_score_field(*case_arrays(), lags=lags)
    with pytest.raises(EvaluationError, match="above 0"):
        variogram_score(*case(), p=0)
    with pytest.raises(EvaluationError, match="two dimensions of space"):
        variogram_score(*case(), space="x")
    assert variogram_score(*case(), p=1).attrs["units"] == "(1/s)^2"
    members, truth, fluid = case_arrays()
    assert np.isnan(variogram_score_field(members, truth, fluid, [(9, 9)])).all()
