"""The CRPS equals its definition and two independent implementations, and rewards honest forecasts."""

import itertools
import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evaluation import EvaluationError, MissingValueError, crps
from evaluation.pointwise import ensemble_scores, ensemble_scores_numpy

EXACT = 1e-12  # relative to values of order one: a few hundred roundings


def ensemble(shape=(3, 5, 7, 11), axis=1, dtype=np.float64, seed=0):
    """Forecast with members on `axis`, and truth."""
    rng = np.random.default_rng(seed)
    forecast, truth = 10 * rng.normal(size=shape), 10 * rng.normal(size=np.delete(shape, axis))
    if dtype == np.uint8:
        forecast, truth = 128 + 4 * forecast, 128 + 4 * truth
    return forecast.astype(dtype), truth.astype(dtype)


def labelled(forecast, truth, axis=1):
    dims = [f"d{k}" for k in range(truth.ndim)]
    return xr.DataArray(forecast, dims=[*dims[:axis], "member", *dims[axis:]]), xr.DataArray(truth, dims=dims)


def double_sum(members, truth, fair):
    size = len(members)
    pairs = sum(abs(a - b) for a, b in itertools.product(members, members))
    return sum(abs(a - truth) for a in members) / size - pairs / (2 * size * (size - fair))


@pytest.mark.parametrize("members", [2, 3, 5])
@pytest.mark.parametrize("estimator", ["classical", "fair"])
def test_crps_is_the_double_sum_over_members(members, estimator):
    forecast, truth = ensemble((members, 40), axis=0)
    got = crps(*labelled(forecast, truth, 0), estimator=estimator, dim=())
    want = [double_sum(forecast[:, n], truth[n], estimator == "fair") for n in range(40)]
    np.testing.assert_allclose(got, want, rtol=0, atol=EXACT)


@pytest.mark.parametrize("members", [1, 2, 7, 32, 33, 100])
@pytest.mark.parametrize("axis", [0, 1, 3])
def test_classical_crps_equals_properscoring(members, axis):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # properscoring is of 2015
        from properscoring import crps_ensemble
    shape = np.insert((3, 7, 11), axis, members)
    forecast, truth = ensemble(shape, axis)
    got = crps(*labelled(forecast, truth, axis), estimator="classical", dim=())
    np.testing.assert_allclose(got, crps_ensemble(truth, forecast, axis=axis), rtol=0, atol=EXACT)


@pytest.mark.parametrize("members", [2, 9, 32, 64])
def test_fair_crps_equals_scoringrules(members):
    scoringrules = pytest.importorskip("scoringrules")
    forecast, truth = ensemble((4, members, 6, 9))
    want = scoringrules.crps_ensemble(truth, forecast, m_axis=1, estimator="fair", backend="numba")
    got = crps(*labelled(forecast, truth), estimator="fair", dim=())
    np.testing.assert_allclose(got, want, rtol=0, atol=EXACT)


@pytest.mark.parametrize("members", [2, 3, 8, 32])
def test_classical_crps_of_8_bit_values_is_the_sum_over_grey_levels(members):
    forecast, truth = ensemble((2, members, 30), dtype=np.uint8)
    levels = np.arange(256)
    below = (forecast[..., None] <= levels).mean(axis=1)
    want = ((below - (truth[..., None] <= levels)) ** 2).sum(-1)
    got = crps(*labelled(forecast, truth), estimator="classical", dim=()).values
    if members in (2, 8, 32):  # fractions of powers of two are exact
        np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.float16, np.int16, np.int64, bool, ">f4"])
@pytest.mark.parametrize("shape", [(1, 4, 1), (2, 5, 127), (1, 6, 128), (3, 16, 129), (5, 3, 1000), (0, 3, 4)])
def test_kernel_equals_its_numpy_twin_for_any_type_and_size(dtype, shape):
    forecast, truth = ensemble(shape, dtype=np.dtype(dtype).type if dtype != ">f4" else np.float32)
    forecast = forecast.astype(dtype)
    want = ensemble_scores_numpy(forecast, truth, axis=1)
    for threads in (1, 2):
        got = ensemble_scores(forecast, truth, axis=1, names=list(want), threads=threads)
        for name, values in zip(want, got, strict=True):
            np.testing.assert_allclose(values, want[name], rtol=1e-11, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("dtypes", list(itertools.product([np.uint8, np.float32, np.float64], repeat=2)))
def test_mixed_types_are_scored_in_the_wider_one(dtypes):
    forecast, truth = (a.astype(t) for a, t in zip(ensemble(dtype=np.uint8), dtypes, strict=True))
    truth = truth + truth.dtype.type(0.25) if truth.dtype.kind == "f" else truth
    (got,) = ensemble_scores(forecast, truth, axis=1, names=["crps"])
    np.testing.assert_allclose(got, ensemble_scores_numpy(forecast, truth, axis=1)["crps"], atol=1e-11)


def test_many_8_bit_members_do_not_overflow():
    forecast = np.zeros((5000, 3), np.uint8)
    forecast[2500:] = 255
    (got,) = ensemble_scores(forecast, np.zeros(3, np.uint8), axis=0, names=["crps"])
    np.testing.assert_allclose(got, 255 / 2 - 255 / 4)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_memory_layout_does_not_matter(order):
    forecast, truth = ensemble((6, 9, 20))
    want = ensemble_scores_numpy(forecast, truth, axis=1)["crps"]
    scattered = np.ascontiguousarray(forecast.transpose(order)).transpose(np.argsort(order))
    window = np.zeros((8, 9, 50))[1:7, :, 3:43:2]
    window[:] = forecast
    for layout in (scattered, window, forecast[:, ::-1]):
        (got,) = ensemble_scores(layout, truth[::-1][::-1], axis=1, names=["crps"])
        np.testing.assert_allclose(got, want, atol=EXACT)


def test_single_member_has_absolute_error_and_no_fair_crps():
    forecast, truth = labelled(*ensemble((4, 1, 5)))
    np.testing.assert_allclose(
        crps(forecast, truth, estimator="classical", dim=()), abs(forecast.isel(member=0) - truth), atol=EXACT
    )
    with pytest.raises(EvaluationError, match="at least 2 members"):
        crps(forecast, truth, estimator="fair")
    single = crps(forecast.isel(member=0), truth, member_dim=None, estimator="classical")
    np.testing.assert_allclose(single, abs(forecast.isel(member=0) - truth).mean(), atol=EXACT)


def test_nan_propagates_from_member_and_truth_alone():
    forecast, truth = ensemble((2, 32, 300), dtype=np.float32)
    forecast[0, 5, 7], truth[1, 200] = np.nan, np.nan
    got = crps(*labelled(forecast, truth), dim=())
    want = np.zeros((2, 300), bool)
    want[0, 7] = want[1, 200] = True
    np.testing.assert_array_equal(np.isnan(got), want)
    assert np.isnan(crps(*labelled(forecast, truth)))


def test_omit_scores_the_members_that_are_present():
    forecast, truth = ensemble((3, 6, 50))
    missing = np.random.default_rng(1).random(forecast.shape) < 0.3
    missing[0, :, 0], missing[0, :5, 1] = True, True
    missing[0, 5, 1] = False
    forecast[missing] = np.nan
    truth[2, 3] = np.nan
    for estimator, fair in (("classical", 0), ("fair", 1)):
        got = crps(*labelled(forecast, truth), estimator=estimator, dim=(), nan_policy="omit").values
        for n in np.ndindex(truth.shape):
            present = forecast[n[0], :, n[1]]
            present = present[~np.isnan(present)]
            if np.isnan(truth[n]) or len(present) < 1 + fair:
                assert np.isnan(got[n])
            else:
                assert got[n] == pytest.approx(double_sum(present, truth[n], fair), abs=EXACT)
        mean = crps(*labelled(forecast, truth), estimator=estimator, nan_policy="omit")
        assert float(mean) == pytest.approx(np.nanmean(got))


def test_omit_equals_properscoring_with_missing_members():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from properscoring import crps_ensemble
    forecast, truth = ensemble((40, 8), axis=1)
    forecast[np.random.default_rng(0).random(forecast.shape) < 0.2] = np.nan
    got = crps(*labelled(forecast, truth), estimator="classical", dim=(), nan_policy="omit")
    np.testing.assert_allclose(got, crps_ensemble(truth, forecast), atol=EXACT)


def test_raise_names_how_many_points_are_missing():
    forecast, truth = labelled(*ensemble((2, 4, 10)))
    crps(forecast, truth, nan_policy="raise")
    forecast[0, 1, 3] = np.nan
    with pytest.raises(MissingValueError, match="1 of 20 points"):
        crps(forecast, truth, nan_policy="raise")
    with pytest.raises(MissingValueError, match="1 of"):
        crps(forecast.chunk(d0=1), truth, nan_policy="raise").compute()
    with pytest.raises(EvaluationError, match="unknown nan_policy"):
        crps(forecast, truth, nan_policy="skip")


def test_unknown_estimator_is_refused():
    with pytest.raises(EvaluationError, match='choose "fair" or "classical"'):
        crps(*labelled(*ensemble()), estimator="pwm")


def test_crps_of_a_gaussian_ensemble_has_its_closed_form():
    """E CRPS of N(0, s) against truths of N(0, 1): sqrt(2 (1 + s^2) / pi) - s / sqrt(pi); honest (s = 1) is best."""
    rng = np.random.default_rng(3)
    points = 100_000
    truth = xr.DataArray(rng.normal(size=points), dims="case")
    noise = rng.normal(size=(8, points))
    scores = {}
    for scale in (0.5, 0.8, 1.0, 1.25, 2.0):
        score = crps(xr.DataArray(scale * noise, dims=("member", "case")), truth, estimator="fair", dim=())
        scores[scale] = float(score.mean())
        expected = np.sqrt(2 * (1 + scale**2) / np.pi) - scale / np.sqrt(np.pi)
        assert abs(scores[scale] - expected) < 4 * float(score.std()) / np.sqrt(points)
    assert min(scores, key=scores.__getitem__) == 1.0  # proper: nobody gains by pretending


def test_a_biased_forecast_loses_to_the_honest_one():
    rng = np.random.default_rng(4)
    truth = xr.DataArray(rng.normal(size=50_000), dims="case")
    honest = xr.DataArray(rng.normal(size=(4, 50_000)), dims=("member", "case"))
    assert crps(honest, truth) < crps(honest + 0.2, truth) < crps(honest + 0.4, truth)


def test_fair_crps_does_not_depend_on_the_size_of_the_ensemble():
    """Classical exceeds fair by E|x - x'| / (2 M) = 1 / (M sqrt(pi)) for standard Gaussian members."""
    rng = np.random.default_rng(5)
    truth = xr.DataArray(rng.normal(size=100_000), dims="case")
    members = xr.DataArray(rng.normal(size=(32, 100_000)), dims=("member", "case"))
    for size in (2, 4, 32):
        part = members.isel(member=slice(size))
        assert float(crps(part, truth)) == pytest.approx(1 / np.sqrt(np.pi), abs=0.006)
        excess = float(crps(part, truth, estimator="classical") - crps(part, truth))
        assert excess == pytest.approx(1 / (size * np.sqrt(np.pi)), rel=0.01)


values = st.floats(-1e3, 1e3, width=32)
ensembles = hnp.arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(1, 5)), elements=values)


@settings(max_examples=60, deadline=None)
@given(ensembles, st.randoms(use_true_random=False), st.floats(-1e3, 1e3), st.floats(0.1, 50))
def test_crps_ignores_member_order_and_follows_shift_and_scale(forecast, random, shift, scale):
    truth = forecast[0][::-1] + 1.0
    order = random.sample(range(len(forecast)), len(forecast))
    for name in ("crps", "crps_fair"):

        def score(f, y, name=name):
            return ensemble_scores(f, y, axis=0, names=[name])[0]

        base = score(forecast, truth)
        np.testing.assert_allclose(score(forecast[order], truth), base, atol=1e-10)
        np.testing.assert_allclose(score(forecast + shift, truth + shift), base, atol=1e-9)
        np.testing.assert_allclose(score(-scale * forecast, -scale * truth), scale * base, rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(ensembles)
def test_classical_crps_is_between_zero_and_the_mean_absolute_error(forecast):
    truth = forecast[-1] - 0.5
    (score,) = ensemble_scores(forecast, truth, axis=0, names=["crps"])
    assert (score >= -1e-10).all()
    assert (score <= abs(forecast - truth).mean(0) + 1e-10).all()


def test_values_far_from_zero_keep_their_precision():
    """Members of spread 1 around 1e6: the differences are exact in float64, and so must the scores be."""
    forecast, truth = ensemble((64, 500), axis=0)
    offset = 2.0**20
    near = ensemble_scores(np.round(forecast, 6), np.round(truth, 6), axis=0, names=["crps", "crps_fair", "variance"])
    far = ensemble_scores(
        np.round(forecast, 6) + offset, np.round(truth, 6) + offset, axis=0, names=["crps", "crps_fair", "variance"]
    )
    for a, b in zip(near, far, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7)  # 2^20 leaves 2^-33 = 1e-10 of the last digit
