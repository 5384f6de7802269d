"""Bootstrap over runs: right by brute force, right in its width, narrower for paired comparisons."""

import numpy as np
import pytest
import xarray as xr

from evaluation import DimensionError, EvaluationError, bootstrap, skill_score
from evaluation.resampling import resampled_means, resampling_counts


def runs(count=12, leads=3, seed=0):
    rng = np.random.default_rng(seed)
    hard = rng.gamma(4.0, size=(count, 1))  # some runs are harder than others, for everybody
    data = {
        "crps": (("trajectory", "lead_time"), hard * (0.7 + 0.02 * rng.normal(size=(count, leads)))),
        "reference": (("trajectory", "lead_time"), hard * np.ones((count, leads))),
    }
    return xr.Dataset(data, coords={"trajectory": np.arange(10, 10 + count), "lead_time": np.arange(1, leads + 1)})


def skill(mean):
    return skill_score(mean["crps"], mean["reference"])


def test_each_resample_is_the_mean_of_the_runs_it_drew():
    data = runs()
    counts = resampling_counts(12, 50, seed=3)
    assert (counts.sum(axis=1) == 12).all()
    drawn = resampled_means(data, counts)
    cases = xr.DataArray(np.arange(1.0, 13.0), dims="trajectory")
    weighted = resampled_means(data, counts, weights=cases)
    for r in range(50):
        rows = np.repeat(np.arange(12), counts[r])  # what scoring again would average
        again = data.isel(trajectory=rows)
        xr.testing.assert_allclose(drawn.isel(resample=r), again.mean("trajectory"))
        w = cases.isel(trajectory=rows)
        xr.testing.assert_allclose(weighted.isel(resample=r), (again * w.values[:, None]).sum("trajectory") / w.sum())


def test_interval_holds_the_metric_of_the_means():
    data = runs()
    found = bootstrap(data, skill)
    xr.testing.assert_allclose(
        found["estimate"], 1 - data["crps"].mean("trajectory") / data["reference"].mean("trajectory")
    )
    assert bool((found["lower"] < found["estimate"]).all())
    assert bool((found["estimate"] < found["upper"]).all())
    assert bool((found["above_zero"] == 1).all())
    assert found["lower"].dims == ("lead_time",)
    np.testing.assert_array_equal(found["lead_time"], [1, 2, 3])


def test_interval_of_a_mean_has_the_width_that_theory_gives():
    values = np.random.default_rng(1).normal(size=400)
    data = xr.Dataset({"a": ("trajectory", values)})
    found = bootstrap(data, lambda mean: mean["a"], resamples=8000)
    width = float(found["upper"] - found["lower"])
    assert width == pytest.approx(2 * 1.96 * values.std() / np.sqrt(400), rel=0.04)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(300):
        data = xr.Dataset({"a": ("trajectory", rng.normal(size=30))})
        found = bootstrap(data, lambda mean: mean["a"], resamples=400, level=0.9, seed=trial)
        hits += float(found["lower"]) < 0 < float(found["upper"])
    assert 0.83 < hits / 300 < 0.95  # 0.88 expected of a percentile interval of 30 runs, 3 standard errors


def test_pairing_removes_what_both_methods_find_hard():
    data = runs()
    paired = bootstrap(data, skill)
    shuffled = data.assign(reference=data["reference"].roll(trajectory=5))
    unpaired = bootstrap(shuffled, skill)
    assert bool(((paired["upper"] - paired["lower"]) < 0.2 * (unpaired["upper"] - unpaired["lower"])).all())


def test_same_seed_same_interval():
    data = runs()
    assert bootstrap(data, skill, seed=5).identical(bootstrap(data, skill, seed=5))
    assert not bootstrap(data, skill, seed=5).identical(bootstrap(data, skill, seed=6))
    assert bootstrap(data.chunk(), skill, seed=5).identical(bootstrap(data, skill, seed=5))


def test_missing_run_means_are_not_hidden():
    data = runs()
    data["crps"][4, 1] = np.nan
    found = bootstrap(data, skill)
    np.testing.assert_array_equal(found["lower"].isnull(), [False, True, False])
    np.testing.assert_array_equal(found["above_zero"].isnull(), [False, True, False])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"run_means": runs(1)}, EvaluationError, "at least 2 runs"),
        ({"resamples": 0}, EvaluationError, "at least 1 resample"),
        ({"level": 95}, EvaluationError, "between 0 and 1"),
        ({"block_dim": "init_time"}, DimensionError, 'no dimension "init_time"'),
        ({"run_means": runs().assign(c=1.0)}, DimensionError, 'c has no dimension "trajectory"'),
        ({"weights": xr.DataArray(np.ones(5), dims="trajectory")}, DimensionError, "12 in the run means"),
        ({"weights": xr.DataArray(np.ones(12), dims="run")}, DimensionError, "only dimension"),
        ({"weights": xr.DataArray(np.zeros(12), dims="trajectory")}, EvaluationError, "not all zero"),
    ],
)
def test_what_cannot_be_resampled_is_refused(arguments, error, message):
    call = {"run_means": runs(), "metric": skill} | arguments
    with pytest.raises(error, match=message):
        bootstrap(**call)
