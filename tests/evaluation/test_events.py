"""Probabilities of events: counts, Brier score, reliability and ROC follow from k of M members beyond a threshold."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm

from evaluation import DimensionError, EvaluationError, MissingValueError, crps
from evaluation.events import (
    brier_components,
    brier_decomposition,
    brier_from_counts,
    brier_score,
    count_beyond,
    event_counts,
    event_histogram,
    reliability_curve,
    reliability_from_counts,
    roc_curve,
    roc_from_counts,
)

DIMS = ("case", "member", "lead_time", "y", "x")
EXACT = 1e-12  # of numbers of order one
SCORES = (brier_score, event_histogram, brier_decomposition, reliability_curve, roc_curve)


def case(members=5, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(3, 1, 4, 6, 7))
    forecast = xr.DataArray(signal + rng.normal(size=(3, members, 4, 6, 7)), dims=DIMS, attrs={"units": "1/s"})
    truth = xr.DataArray(signal[:, 0] + rng.normal(size=(3, 4, 6, 7)), dims=DIMS[:1] + DIMS[2:], attrs={"units": "1/s"})
    if dtype == np.uint8:
        forecast, truth = (a * 30 + 128 for a in (forecast, truth))
    return forecast.astype(dtype), truth.astype(dtype)


def case_arrays(members=5, dtype=np.float64):
    """Members (member, lead, y, x), truth (lead, y, x) and fluid cells, of one case."""
    forecast, truth = (a.isel(case=0) for a in case(members, dtype=dtype))
    return forecast.values, truth.values, np.random.default_rng(1).random((6, 7)) < 0.7


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
@pytest.mark.parametrize("absolute", [True, False])
def test_counts_of_a_case_are_those_of_a_loop_over_cells(dtype, absolute):
    members, truth, fluid = case_arrays(dtype=dtype)
    thresholds = [0.25, 1.0] if dtype != np.uint8 else [100, 128.5]
    forecast, observed = event_counts(members, truth, fluid, thresholds, absolute)
    want = np.zeros((2, 4, 2, 6))
    for lead in range(4):
        for i, t in enumerate(thresholds):
            for y, x in zip(*np.nonzero(fluid), strict=True):
                values = [float(m) for m in members[:, lead, y, x]]
                k = sum((abs(v) if absolute else v) > t for v in values)
                happened = (abs(float(truth[lead, y, x])) if absolute else float(truth[lead, y, x])) > t
                want[0, lead, i, k] += 1
                want[1, lead, i, k] += happened
    np.testing.assert_array_equal(forecast, want[0])
    np.testing.assert_array_equal(observed, want[1])
    assert forecast.dtype == observed.dtype == np.float64


def test_values_in_walls_do_not_matter():
    members, truth, fluid = case_arrays()
    want = event_counts(members, truth, fluid, [0.5])
    members[..., ~fluid], truth[..., ~fluid] = 1e30, -1e30
    np.testing.assert_array_equal(event_counts(members, truth, fluid, [0.5]), want)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int8, np.int32, ">f4"])
@pytest.mark.parametrize("tail", ["above", "below", "both"])
def test_no_value_changes_sides_of_a_threshold_that_its_type_cannot_hold(dtype, tail):
    values = np.array([-128, -3, -1, 0, 0.1, 1, 2, 100, 127]).astype(np.int64 if np.dtype(dtype).kind in "ui" else "f8")
    values = values.clip(0).astype(dtype) if dtype == np.uint8 else values.astype(dtype)
    if values.dtype.kind == "f":
        values = np.concatenate([values, np.nextafter(values, values.dtype.type(9))])
    for t in [0.0, 0.1, 1.0, 2.5, 126.99999, 400.0, *([] if tail == "both" else [-1.5, -3.0])]:
        exact = [Fraction(float(v)) for v in values]
        beyond = {
            "above": [v > Fraction(t) for v in exact],
            "below": [v < Fraction(t) for v in exact],
            "both": [abs(v) > Fraction(t) for v in exact],
        }[tail]
        np.testing.assert_array_equal(count_beyond(values[None], np.array([t]), tail)[0], np.array(beyond, int))


def test_more_members_than_a_byte_counts():
    members = np.ones((300, 1, 2, 2), np.float32)
    forecast, _ = event_counts(members, np.zeros((1, 2, 2)), np.ones((2, 2), bool), [0.5])
    assert forecast.shape == (1, 1, 301)
    assert forecast[0, 0, 300] == 4


@pytest.mark.parametrize("members", [1, 2, 7])
def test_classical_brier_score_is_that_of_scoringrules(members):
    scoringrules = pytest.importorskip("scoringrules")
    forecast, truth = case(members)
    got = brier_score(forecast, truth, threshold=0.5, estimator="classical", dim=())
    want = scoringrules.brier_score((truth > 0.5).values.astype(float), (forecast > 0.5).mean("member").values)
    np.testing.assert_allclose(got, want, atol=EXACT)
    assert got.attrs["units"] == "1"


@pytest.mark.parametrize("estimator", ["fair", "classical"])
@pytest.mark.parametrize("tail", ["above", "below"])
def test_brier_score_is_that_of_scores(estimator, tail):
    import operator

    probability = pytest.importorskip("scores.probability")
    forecast, truth = case(6)
    got = brier_score(forecast, truth, threshold=[0.0, 0.5], tail=tail, estimator=estimator, dim=["case", "y", "x"])
    if tail == "below":
        forecast, truth = -forecast, -truth
    for i, t in enumerate([0.0, 0.5]):
        want = probability.brier_score_for_ensemble(
            forecast,
            truth,
            "member",
            t if tail == "above" else -t,
            preserve_dims="lead_time",
            fair_correction=estimator == "fair",
            event_threshold_operator=operator.gt,
        )
        np.testing.assert_allclose(got.isel(threshold=i), np.ravel(want), atol=EXACT)


@pytest.mark.parametrize("estimator", ["fair", "classical"])
def test_brier_score_is_that_of_xskillscore_and_of_the_counts(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xskillscore = pytest.importorskip("xskillscore")
    forecast, truth = case(6)
    got = brier_score(forecast, truth, threshold=1.0, tail="both", estimator=estimator)
    event = abs(truth) > 1.0
    want = xskillscore.brier_score(event, abs(forecast) > 1.0, member_dim="member", fair=estimator == "fair")
    np.testing.assert_allclose(got, want, atol=EXACT)
    counts = event_histogram(forecast, truth, threshold=1.0, tail="both")
    again = brier_from_counts(counts["forecast"].values, counts["observed"].values, estimator)
    np.testing.assert_allclose(got, again, atol=EXACT)


def test_counts_of_arrays_and_of_labelled_data_are_the_same():
    members, truth, fluid = case_arrays()
    want = event_counts(members, truth, fluid, [0.5, 1.0])
    forecast, observed = (a.isel(case=0) for a in case())
    mask = xr.DataArray(fluid.astype(float), dims=("y", "x"))
    got = event_histogram(forecast, observed, threshold=[0.5, 1.0], tail="both", dim=["y", "x"], weights=mask)
    np.testing.assert_array_equal(got["forecast"].transpose("lead_time", "threshold", "exceeding"), want[0])
    np.testing.assert_array_equal(got["observed"].transpose("lead_time", "threshold", "exceeding"), want[1])
    walls = observed.where(mask > 0)
    omitted = event_histogram(forecast, walls, threshold=[0.5, 1.0], tail="both", dim=["y", "x"], nan_policy="omit")
    xr.testing.assert_equal(omitted, got)


def test_brier_score_of_gaussian_members_has_its_closed_form():
    """Members and truth N(0, 1), event x > t of probability q: fair E = q (1 - q); classical q (1 - q) (1 + 1 / M)."""
    rng = np.random.default_rng(0)
    points, t = 200_000, 0.7
    q = norm.sf(t)
    truth = xr.DataArray(rng.normal(size=points), dims="point")
    forecast = xr.DataArray(rng.normal(size=(4, points)), dims=("member", "point"))
    for estimator, want in (("fair", q * (1 - q)), ("classical", q * (1 - q) * 1.25)):
        score = brier_score(forecast, truth, threshold=t, estimator=estimator, dim=())
        assert abs(float(score.mean()) - want) < 4 * float(score.std()) / np.sqrt(points)


@pytest.mark.parametrize("estimator", ["fair", "classical"])
def test_crps_is_the_integral_of_the_brier_score_over_thresholds(estimator):
    forecast, truth = case(3, dtype=np.uint8)
    score = brier_score(forecast, truth, threshold=np.arange(255), estimator=estimator)
    want = crps(forecast, truth, estimator=estimator)
    np.testing.assert_allclose(score.sum("threshold"), want, rtol=1e-12)


def test_decomposition_adds_up_to_the_classical_score():
    forecast, truth = case(7)
    parts = brier_decomposition(forecast, truth, threshold=[0.2, 1.0], dim=["case", "y", "x"])
    score = brier_score(forecast, truth, threshold=[0.2, 1.0], estimator="classical", dim=["case", "y", "x"])
    np.testing.assert_allclose(parts["reliability"] - parts["resolution"] + parts["uncertainty"], score, atol=EXACT)
    assert (parts["resolution"] <= parts["uncertainty"] + EXACT).all()
    assert (parts["reliability"] >= 0).all()


def test_decomposition_of_known_forecasts():
    """Always the climate: nothing but uncertainty. Always right: resolution equals uncertainty."""
    forecast, observed = np.array([0, 0, 0, 100.0, 0]), np.array([0, 0, 0, 75.0, 0])
    np.testing.assert_allclose(brier_components(forecast, observed), [0, 0, 0.75 * 0.25], atol=EXACT)
    forecast, observed = np.array([60, 0, 0, 0, 40.0]), np.array([0, 0, 0, 0, 40.0])
    np.testing.assert_allclose(brier_components(forecast, observed), [0, 0.24, 0.24], atol=EXACT)


def test_reliability_curve_is_that_of_xskillscore():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xskillscore = pytest.importorskip("xskillscore")
    forecast, truth = case(5)
    got = reliability_curve(forecast, truth, threshold=0.5, dim=["case", "y", "x"])
    edges = np.append(np.arange(6) / 5 - 0.1, 1.1)  # one bin around each k / M
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = xskillscore.reliability(
            truth > 0.5, (forecast > 0.5).mean("member"), dim=["case", "y", "x"], probability_bin_edges=edges
        )
    np.testing.assert_allclose(got["probability"], np.arange(6) / 5)
    np.testing.assert_allclose(got["frequency"], want.values, atol=EXACT)
    np.testing.assert_allclose(got["share"] * 126, want["samples"], atol=1e-9)


def test_frequency_is_nan_where_a_probability_was_never_forecast():
    probability, frequency, share = reliability_from_counts(np.array([4.0, 0, 6]), np.array([1.0, 0, 6]))
    np.testing.assert_array_equal(probability, [0, 0.5, 1])
    np.testing.assert_array_equal(frequency, [0.25, np.nan, 1])
    np.testing.assert_array_equal(share, [0.4, 0, 0.6])


def test_roc_curve_and_area_are_those_of_scores():
    probability = pytest.importorskip("scores.probability")
    forecast, truth = case(5)
    got = roc_curve(forecast, truth, threshold=0.5, dim=["case", "y", "x"])
    likely, event = (forecast > 0.5).mean("member"), (truth > 0.5).astype(float)
    limits = np.array([0, *(np.arange(1, 6) / 5 - 0.1), 1.0])  # k / M away from limits: no question of >= or >
    want = probability.roc_curve_data(likely, event, limits, preserve_dims="lead_time")
    np.testing.assert_allclose(got["hit_rate"][:, 1:-1], want["POD"].values[:, ::-1][:, 2:-1], atol=EXACT)
    np.testing.assert_allclose(got["false_alarm_rate"][:, 1:-1], want["POFD"].values[:, ::-1][:, 2:-1], atol=EXACT)
    area = probability.roc_auc(likely, event, preserve_dims="lead_time")
    np.testing.assert_allclose(got["area"], area, atol=EXACT)


def test_area_is_the_chance_that_an_event_was_given_the_higher_probability():
    forecast, truth = case(6, seed=3)
    area = float(roc_curve(forecast, truth, threshold=0.5)["area"])
    likely, event = (forecast > 0.5).mean("member").values.ravel(), (truth > 0.5).values.ravel()
    pairs = likely[event][:, None] - likely[~event][None]
    assert area == pytest.approx(np.mean(pairs > 1e-9) + 0.5 * np.mean(abs(pairs) <= 1e-9), abs=EXACT)


def test_roc_of_known_forecasts():
    right = np.array([60, 0, 40.0]), np.array([0, 0, 40.0])
    assert roc_from_counts(*right)[2] == 1
    assert roc_from_counts(right[0], np.array([60.0, 0, 0]))[2] == 0
    assert roc_from_counts(right[0], right[0] / 4)[2] == 0.5
    assert np.isnan(roc_from_counts(right[0], right[0])[2])


def test_counts_add_up_over_cases():
    forecast, truth = case()
    whole = event_histogram(forecast, truth, threshold=0.5)
    parts = event_histogram(forecast, truth, threshold=0.5, dim=["y", "x", "lead_time"])
    xr.testing.assert_equal(parts.sum("case"), whole)


@pytest.mark.parametrize("nan_policy", ["propagate", "omit"])
def test_parts_of_a_large_array_are_scored_like_the_whole(monkeypatch, nan_policy):
    forecast, truth = case()
    forecast[0, 2, 1, 0, 0], truth[1, 1, 2, 2] = np.nan, np.nan
    options = {"threshold": [0.3, 1.0], "dim": (), "nan_policy": nan_policy}
    want = [score(forecast, truth, **options) for score in (brier_score, event_histogram)]
    monkeypatch.setattr("evaluation.events._PART", 40)
    for score, whole in zip((brier_score, event_histogram), want, strict=True):
        for order in (DIMS, DIMS[::-1]):
            got = score(forecast.transpose(*order), truth, **options)
            dims = whole.dims if score is brier_score else whole["forecast"].dims
            xr.testing.assert_equal(got.transpose(*dims), whole)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_dask_and_numpy_give_the_same(score, dtype):
    forecast, truth = case(dtype=dtype)
    threshold = [100, 140] if dtype == np.uint8 else [0.3, 1.0]
    for options in ({}, {"dim": ["case", "x"]}):
        want = score(forecast, truth, threshold=threshold, **options)
        chunked = forecast.chunk(case=1, member=2, y=4), truth.chunk(case=2, y=3)
        lazy = score(*chunked, threshold=threshold, **options)
        assert lazy.chunks
        xr.testing.assert_allclose(lazy.compute(), want, rtol=1e-12)
    assert want.attrs == lazy.attrs


@pytest.mark.parametrize("estimator", ["fair", "classical"])
def test_missing_members_leave_the_score_of_those_present(estimator):
    """Other libraries divide by M, or by the wrong one, when members are skipped."""
    forecast, truth = case(6)
    forecast = forecast.where(np.random.default_rng(5).random(forecast.shape) > 0.4)
    truth[0, 0, 0, 0] = np.nan
    got = brier_score(forecast, truth, threshold=0.5, estimator=estimator, dim=(), nan_policy="omit")
    for place in np.ndindex(truth.shape):
        values = forecast.transpose(..., "member").values[place]
        values = values[~np.isnan(values)]
        few = len(values) < (2 if estimator == "fair" else 1)
        if few or np.isnan(truth.values[place]):
            assert np.isnan(got.values[place])
        else:
            p, o = np.mean(values > 0.5), float(truth.values[place] > 0.5)
            correction = p * (1 - p) / (len(values) - 1) if estimator == "fair" else 0
            assert got.values[place] == pytest.approx((p - o) ** 2 - correction, abs=EXACT)


def test_nan_policies():
    forecast, truth = case()
    forecast[0, 2, 1, 0, 0], truth[1, 1, 2, 2] = np.nan, np.nan
    pointwise = brier_score(forecast, truth, threshold=0.5, dim=())
    assert int(pointwise.isnull().sum()) == 2
    assert np.isnan(brier_score(forecast, truth, threshold=0.5))
    lost = event_histogram(forecast, truth, threshold=0.5, dim=["case", "y", "x"])["forecast"]
    np.testing.assert_array_equal(lost.isnull().any("exceeding"), [False, True, False, False])
    kept = event_histogram(forecast, truth, threshold=0.5, nan_policy="omit")["forecast"]
    assert float(kept.sum()) == truth.size - 2
    for score in SCORES:
        with pytest.raises(MissingValueError, match="2 of 504 points"):
            score(forecast, truth, threshold=0.5, nan_policy="raise")
        with pytest.raises(EvaluationError, match="unknown nan_policy"):
            score(forecast, truth, threshold=0.5, nan_policy="skip")


@pytest.mark.parametrize("score", SCORES)
def test_mismatched_data_is_never_broadcast(score):
    forecast, truth = case()
    for bad in (truth.isel(y=slice(3)), truth.isel(y=0, drop=True), truth.rename(y="row"), truth.expand_dims(member=5)):
        with pytest.raises(DimensionError):
            score(forecast, bad, threshold=0.5)
    with pytest.raises(DimensionError, match='no dimension "height"'):
        score(forecast, truth, threshold=0.5, dim="height")
    with pytest.raises(DimensionError, match="over thresholds"):
        score(forecast, truth, threshold=[0.5], dim="threshold")
    with pytest.raises(DimensionError, match="rename it"):
        score(forecast.rename(case="threshold"), truth.rename(case="threshold"), threshold=0.5)


def test_aliases_and_single_forecasts_are_understood():
    forecast, truth = case(1)
    single = brier_score(
        forecast.isel(member=0), truth, threshold=0.5, member_dim=None, estimator="classical", dim=["y", "x"]
    )
    names = {"member": "realization", "y": "latitude", "x": "longitude"}
    other = forecast.rename(names), truth.rename({k: v for k, v in names.items() if k != "member"})
    xr.testing.assert_equal(
        brier_score(*other, threshold=0.5, estimator="classical", dim=["latitude", "longitude"]), single
    )
    assert brier_score(*case(), threshold=[0.5, 1])["threshold"].attrs["units"] == "1/s"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": np.nan}, "finite numbers"),
        ({"threshold": []}, "one or more"),
        ({"threshold": -1.0, "tail": "both"}, "cannot be negative"),
        ({"threshold": 1.0, "tail": "left"}, "unknown tail"),
    ],
)
def test_thresholds_without_meaning_are_refused(options, message):
    for score in SCORES:
        with pytest.raises(EvaluationError, match=message):
            score(*case(), **options)


def test_what_cannot_be_scored_is_refused():
    forecast, truth = case(1)
    with pytest.raises(EvaluationError, match="at least 2 members"):
        brier_score(forecast, truth, threshold=0.5)
    with pytest.raises(EvaluationError, match="unknown estimator"):
        brier_score(forecast, truth, threshold=0.5, estimator="nrg")
    with pytest.raises(EvaluationError, match="no members"):
        brier_score(forecast.isel(member=slice(0)), truth, threshold=0.5)
    with pytest.raises(EvaluationError, match="real numbers"):
        brier_score(forecast.astype(complex), truth, threshold=0.5)
    with pytest.raises(EvaluationError, match="at least 2 members"):
        brier_from_counts(np.array([3.0, 4]), np.array([1.0, 2]))
    with pytest.raises(EvaluationError, match="two of the same shape"):
        brier_components(np.ones(3), np.ones(4))
    with pytest.raises(EvaluationError, match="do not fit together"):
        event_counts(np.ones((2, 3, 4, 5)), np.ones((3, 4, 5)), np.ones((5, 4), bool), [1])
    assert np.isnan(brier_from_counts(np.zeros(4), np.zeros(4)))
