"""Metrics: numbers that follow by hand, agreement with the score functions, and differences that are sure or not."""

import csv
import io

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from evaluation import EvaluationError, events, metrics, spectra, summary
from evaluation.metrics import METRICS
from evaluation.percentiles import expanded_level, student_quantile

from .synthetic_scores import DEFAULT, FAMILIES, SIGMA, TWELVE, build

ALL = tuple(FAMILIES)


def two(gain: np.ndarray, noise: np.ndarray) -> xr.Dataset:
    """Scores of `b` and of `a`, whose CRPS is lower by `gain` (run), with a hardness `noise` (run) shared by both."""
    scores = build({"a": (4, 0.5), "b": (4, 0.5)}, runs=len(gain), inits=1, leads=2, without=ALL)
    crps = np.stack([2 + noise - gain, 2 + noise])[..., None, None]
    scores["crps"].values[:] = np.broadcast_to(crps, scores["crps"].shape)
    return scores


def test_a_difference_is_sure_where_every_run_agrees_though_the_intervals_overlap():
    rng = np.random.default_rng(0)
    scores = two(0.1 + 0.02 * rng.standard_normal(10), rng.standard_normal(10))
    found = summary.difference(scores, "crps", "b", leads=[1, 2]).sel({"method": "a"})
    assert int(found["sign"]) == -1
    assert float(found["low"]) < -0.1 < float(found["high"]) < 0
    own = summary.metric(scores, "crps", leads=[1, 2])
    assert float(own["low"].sel({"method": "b"})) < float(own["high"].sel({"method": "a"}))


def test_difference_follows_by_hand():
    scores = two(np.array([0.1, 0.2, 0.3]), np.zeros(3))
    found = summary.difference(scores, "crps", "b", leads=[1])
    assert float(found["value"].sel({"method": "a"})) == pytest.approx(-0.2)
    assert float(found["reference"]) == pytest.approx(2)
    assert float(found["relative"].sel({"method": "a"})) == pytest.approx(-10)
    for key in ("value", "low", "high", "relative", "sign"):
        assert float(found[key].sel({"method": "b"})) == 0


def test_no_difference_is_found_sure_about_as_often_as_it_should():
    """Under the null the 95 % interval misses zero in 5 % of trials; 300 trials scatter by 1.3 % (one sigma)."""
    rng = np.random.default_rng(1)
    sure = 0
    trials, leads = 300, 50  # fifty trials side by side as leads
    wide = build({"a": (4, 0.5), "b": (4, 0.5)}, runs=8, inits=1, leads=leads, without=ALL)
    for _ in range(trials // leads):
        wide["crps"].values[1] = 2 + rng.standard_normal((8, 1, leads))
        wide["crps"].values[0] = wide["crps"].values[1] + 0.1 * rng.standard_normal((8, 1, leads))
        sure += int((summary.difference(wide, "crps", "b")["sign"].sel({"method": "a"}) != 0).sum())
    assert 0.01 < sure / trials < 0.09


def test_intervals_of_few_runs_are_as_wide_as_student_says():
    for runs in (3, 5, 10, 100):
        assert student_quantile(0.975, runs - 1) == pytest.approx(stats.t.ppf(0.975, runs - 1), rel=1e-6)
        z = np.sqrt(runs / (runs - 1)) * stats.t.ppf(0.975, runs - 1)
        assert expanded_level(0.95, runs) == pytest.approx(1 - 2 * stats.norm.sf(z), rel=1e-9)
    with pytest.raises(EvaluationError, match="2 runs"):
        expanded_level(0.95, 1)


def test_fewer_than_three_runs_have_no_interval():
    scores = build(runs=2, inits=1, leads=2)
    for name in ("crps", "brier", "effective_resolution"):
        found = summary.metric(scores, name)
        assert found["low"].isnull().all()
        assert found["value"].notnull().any()
    assert int(abs(summary.difference(scores, "crps", "climatology")["sign"]).sum()) == 0


def test_nothing_is_sure_with_few_runs_however_wide_apart():
    for runs, sure in ((5, 0), (6, -1)):
        found = summary.difference(build(runs=runs, leads=2), "crps", "climatology")["sign"].sel({"method": "rvd"})
        assert (found == sure).all()


def test_every_metric_has_a_value_inside_its_interval():
    scores = build(runs=5, leads=2)
    assert set(summary.listed(scores)) == set(METRICS)
    for name in METRICS:
        found = summary.metric(scores, name)
        value, low, high = (found[k].values for k in ("value", "low", "high"))
        known = np.isfinite(value)
        assert known.any(), name
        scale = 1e-9 * np.nanmax(np.abs(value))
        assert (low[known] <= value[known] + scale).all(), name
        assert (high[known] >= value[known] - scale).all(), name
        np.testing.assert_allclose(summary.value(scores, name).transpose(*found["value"].dims), value, err_msg=name)


def test_runs_with_more_cases_weigh_more():
    scores = build({"a": (4, 0.5)}, runs=2, inits=3, leads=1, without=ALL)
    for name in ("crps", "squared_error", "truth_mean"):
        scores[name].values[..., 1, 1:, :] = np.nan  # the second run has one case
    scores["crps"].values[0, :, :, 0] = [[1, 2, 3], [6, np.nan, np.nan]]
    assert summary.value(scores, "crps").item() == pytest.approx((1 + 2 + 3 + 6) / 4)
    scores["squared_error"].values[0, :, :, 0] = [[1, 1, 1], [13, np.nan, np.nan]]
    assert summary.value(scores, "rmse").item() == pytest.approx(2.0)  # sqrt of the mean, not mean of the roots


def test_brier_roc_and_coverage_agree_with_their_array_functions():
    scores = build(TWELVE, runs=3, leads=2)
    brier, area = summary.value(scores, "brier"), summary.value(scores, "roc_area")
    for name, (members, _) in TWELVE.items():
        counts = [scores[f"event_{k}"].sel({"method": name}).sum("trajectory").values for k in ("forecast", "observed")]
        counts = [c[..., : members + 1] for c in counts]
        expected = events.brier_from_counts(*counts, estimator="fair" if members > 1 else "classical")
        np.testing.assert_allclose(
            brier.sel({"method": name}).transpose("lead_time", "threshold"), expected, rtol=1e-12
        )
        expected = events.roc_from_counts(*counts)[2]
        np.testing.assert_allclose(area.sel({"method": name}).transpose("lead_time", "threshold"), expected, rtol=1e-12)


def test_coverage_of_flat_ranks_is_nominal_for_any_number_of_members():
    scores = build({"a": (7, 0.5), "b": (16, 0.5), "one": (1, 0.5)}, runs=3, leads=1)
    scores["rank_count"].values[:] = 0
    for m, members in enumerate((7, 16)):
        scores["rank_count"].values[m, ..., : members + 1] = 5
    found = summary.value(scores, "coverage").isel(lead_time=0)
    for name in ("a", "b"):
        np.testing.assert_allclose(found.sel({"method": name}), metrics.NOMINAL, rtol=1e-12)
    assert found.sel({"method": "one"}).isnull().all()


def test_coverage_counts_by_hand():
    """Four members, all truths in the middle rank (2 of 0..4): inside [0.4, 0.6], so half of the 10 % interval."""
    scores = build({"a": (4, 0.5)}, runs=1, leads=1)
    scores["rank_count"].values[:] = 0
    scores["rank_count"].values[..., 2] = 7
    np.testing.assert_allclose(summary.value(scores, "coverage").values.ravel(), 1)
    scores["rank_count"].values[..., 2] = 0
    scores["rank_count"].values[..., 0] = 7  # the lowest fifth: [0.1, 0.2] and [0.05, 0.2] of it are inside
    np.testing.assert_allclose(summary.value(scores, "coverage").values.ravel(), [0, 0.5, 0.75])


def test_spectral_metrics_agree_with_their_array_functions():
    scores = build(TWELVE, runs=3, leads=3)
    power, truth, cross = (scores[n].mean("trajectory") for n in ("power", "power_truth", "cross_power"))
    truth = truth.broadcast_like(power).transpose(*power.dims)
    arrays = [a.values for a in (power, truth, cross)]
    k = scores["wavenumber"].values
    expected = spectra.log_spectral_distance(*arrays[:2])
    np.testing.assert_allclose(summary.value(scores, "log_spectral_distance"), expected, rtol=1e-10)
    without_first = [a[..., 1:] for a in arrays]  # which the window of the spectra empties
    expected = spectra.effective_resolution(*without_first, k[1:])
    expected[np.isinf(expected)] = 1 / k[1]
    np.testing.assert_allclose(summary.value(scores, "effective_resolution"), expected, rtol=1e-10)
    expected = spectra.band_energy_ratio(*arrays[:2], k)
    found = summary.value(scores, "band_energy_ratio").transpose("method", "lead_time", "band")
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_wasserstein_distance_is_that_of_the_histograms():
    scores = build(runs=3, leads=2)
    found = summary.value(scores, "wasserstein")
    pdf, truth = scores["pdf"].mean("trajectory"), scores["pdf_truth"].mean("trajectory")
    bins = scores["bin"].values
    for i, name in enumerate(DEFAULT):
        expected = stats.wasserstein_distance(bins, bins, pdf.values[i, 1], truth.values[1])
        assert float(found.sel({"method": name})[1]) == pytest.approx(expected, rel=1e-9)


def test_quotients_are_of_means():
    scores = build({"a": (4, 0.5)}, runs=2, inits=1, leads=1)
    scores["fss_error"].values[..., 0, 0] = [[[1], [2]]]
    scores["fss_reference"].values[..., 0, 0] = [[[2], [10]]]
    assert summary.value(scores, "fss")[..., 0, 0].item() == pytest.approx(1 - 3 / 12)
    scores["anomaly_product"].values[:] = 1
    scores["anomaly_forecast_square"].values[:] = np.array([1, 7]).reshape(1, 2, 1, 1)
    scores["anomaly_truth_square"].values[:] = np.array([1, 3]).reshape(1, 2, 1, 1)
    assert summary.value(scores, "acc").item() == pytest.approx(1 / np.sqrt(4 * 2))
    scores["squared_error"].values[:] = (8 * SIGMA) ** 2 / 1000
    assert summary.value(scores, "psnr").item() == pytest.approx(30)


def test_pick_chooses_before_anything_is_computed():
    scores = build(runs=3, leads=2)
    whole = summary.value(scores, "fss")
    part = summary.value(scores, "fss", pick={"threshold": 0.0101, "window": 5})
    np.testing.assert_allclose(part, whole.sel(threshold=0.01, window=5))
    with pytest.raises(EvaluationError, match="does not depend on window"):
        summary.value(scores, "crps", pick={"window": 5})


def test_what_is_absent_or_unknown_is_said():
    scores = build(runs=3, leads=2, without=ALL)
    with pytest.raises(EvaluationError, match="power, power_truth is not in the scores"):
        summary.metric(scores, "log_spectral_distance")
    with pytest.raises(EvaluationError, match="unknown metric 'crsp'"):
        summary.metric(scores, "crsp")
    with pytest.raises(EvaluationError, match="'nobody' is not among"):
        summary.difference(scores, "crps", "nobody")
    with pytest.raises(EvaluationError, match="take the difference of crps"):
        summary.difference(scores, "crpss", "climatology")
    with pytest.raises(EvaluationError, match=r"leads \[9\]"):
        summary.metric(scores, "crps", leads=[9])
    assert not {"fss", "brier", "lpips"} & set(summary.listed(scores))


def test_roles_of_methods():
    scores = build(TWELVE, runs=1, leads=1)
    assert summary.candidates(scores) == ["rvd", "rvd-small"]
    assert summary.ceilings(scores) == ["perfect-model"]
    assert summary.references(scores) == ["climatology", "persistence", "linear-inverse"]  # the last: best of the rest
    assert summary.deterministic(scores) == ["persistence", "linear-extrapolation", "dmd", "advection"]
    assert summary.is_reference("dmd-dressed")
    only = build({k: v for k, v in TWELVE.items() if "rvd" not in k}, runs=1, leads=1)
    assert "analog" in summary.candidates(only)
    assert not {"persistence", "climatology", "perfect-model"} & set(summary.candidates(only))
    assert summary.candidates(build({"persistence": (1, 0.5)}, runs=1, leads=1)) == ["persistence"]
    marked = build({"rvd": (4, 0.5)}, runs=1, leads=1)
    marked["deterministic"].values[:] = 1
    assert summary.ensembles(marked) == []


def test_csv_holds_every_metric_with_its_place_and_unit():
    scores = build({"rvd": (8, 0.2), "climatology": (4, 0.5)}, runs=3, leads=2)
    rows = list(csv.DictReader(io.StringIO(summary.csv_text(scores))))
    assert {r["metric"] for r in rows} == set(METRICS)
    pick = [r for r in rows if (r["method"], r["lead_time"], r["metric"]) == ("rvd", "2", "fss")]
    assert len(pick) == 15
    (row,) = [r for r in pick if r["at"] == "threshold=0.01; window=5"]
    expected = summary.metric(scores, "fss").sel({"method": "rvd"}).sel(lead_time=2, threshold=0.01, window=5)
    assert float(row["value"]) == pytest.approx(float(expected["value"]), rel=1e-6)
    assert float(row["low"]) == pytest.approx(float(expected["low"]), rel=1e-6)
    units = {r["metric"]: r["units"] for r in rows}
    assert units["crps"] == "1/tick"
    assert units["inverse_crps"] == "1/(1/tick)"
    assert units["psnr"] == "dB"
    assert units["fss"] == "1"


def test_a_sentence_and_its_interval_point_the_same_way():
    """ "30 % higher (95 % interval 20 to 40 %)", never "-40 to -20 %"."""
    import re

    from evaluation import words

    scores = build({"worse": (8, 3.0), "better": (8, 0.1), "climatology": (16, 0.4)}, leads=3)
    found = re.findall(
        r"([\d.]+) % (higher|lower).*?interval ([-\d.]+) to ([-\d.]+) %", "".join(words.summary_sentences(scores))
    )
    assert {direction for _, direction, _, _ in found} == {"higher", "lower"}
    for value, _, low, high in found:
        assert float(low) <= float(value) <= float(high)


def test_cases_that_not_every_method_has_are_counted_aloud():
    from evaluation import words

    scores = build(leads=2).assign_attrs(cases_left_out=3)
    assert any("3 cases that not every method has were left out" in s for s in words.summary_sentences(scores))
