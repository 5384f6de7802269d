"""Every family of the pass equals its plain functions; cuts, workers and the test set itself change nothing."""

import numpy as np
import pytest
import xarray as xr

from evaluation.alignment import align
from evaluation.errors import EvaluationError
from evaluation.layout import FAMILIES, LAYOUT
from evaluation.verification import Verification, verify

RUNS, INITS, MEMBERS, LEADS, SHAPE = 5, 4, 6, 10, (16, 20)
STARTS = [3 + LEADS * k for k in range(INITS)]
ALL = set(FAMILIES) - {"lpips", "fvd"}


def smooth(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Noise with neighbours alike, in space and in time (the third last dimension)."""
    noise = rng.standard_normal(shape)
    for axis in (-1, -2, -3):
        noise = noise + np.roll(noise, 1, axis)
    return (0.02 * noise).astype(np.float32)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    frames = smooth(rng, RUNS + 2, STARTS[-1] + LEADS + 1, *SHAPE)
    solid = np.zeros((RUNS + 2, *SHAPE), bool)
    solid[:, 6:10, 3:7] = True
    truth = xr.Dataset(
        {
            "vorticity": (("trajectory", "time", "y", "x"), frames, {"units": "1/tick"}),
            "solid": (("trajectory", "y", "x"), solid),
            "split": ("trajectory", np.array(["train"] * 2 + ["test"] * RUNS)),
        },
        coords={"time": np.arange(frames.shape[1])},
    )
    runs = np.arange(2, RUNS + 2)
    observed = np.stack([frames[2:, s + 1 : s + 1 + LEADS] for s in STARTS], axis=1)[:, :, None]

    def forecast(members: int, error: float) -> xr.Dataset:
        noise = smooth(rng, RUNS, INITS, members, LEADS, *SHAPE)
        dims = ("trajectory", "init_time", "member", "lead_time", "y", "x")
        coords = {"trajectory": runs, "init_time": STARTS, "lead_time": np.arange(1, LEADS + 1)}
        return xr.Dataset({"vorticity": (dims, observed + np.float32(error) * noise)}, coords=coords)

    return truth, {"good": forecast(MEMBERS, 0.3), "climatology": forecast(MEMBERS - 2, 1.0), "one": forecast(1, 1.0)}


@pytest.fixture(scope="module")
def scores(data):
    return verify(*data)


def test_all_families_are_there_with_the_dimensions_of_the_layout(scores):
    for family in ALL:
        for name, dims in FAMILIES[family].items():
            assert scores[name].dims == dims, name
            assert scores[name].attrs["long_name"]
            assert np.isfinite(scores[name].sel({"method": "good"}) if "method" in dims else scores[name]).any(), name
    assert scores["deterministic"].values.tolist() == [0, 0, 1]
    assert {"frechet_physics", "frechet_physics_floor"} <= set(scores.data_vars)


def test_scores_of_fields_are_those_of_the_plain_functions(data, scores):
    from evaluation.deterministic import anomaly_correlation, ssim
    from evaluation.events import brier_from_counts, brier_score
    from evaluation.multivariate import energy_score, variogram_score
    from evaluation.neighbourhood import crps_pooled, fractions_skill_score

    truth, forecasts = data
    forecast, observed = align(forecasts["good"], truth, "vorticity")
    options = {"nan_policy": "omit"}
    over = ["trajectory", "init_time"]
    thresholds = scores["threshold"].values
    good = scores.sel({"method": "good"})

    for name, function in (("energy_score", energy_score), ("variogram_score", variogram_score)):
        expected = function(forecast, observed, dim=over, **options)
        np.testing.assert_allclose(good[name].mean(over), expected, rtol=1e-10, err_msg=name)
    counts = [
        good[n].sum("trajectory").isel(exceeding=slice(MEMBERS + 1)) for n in ("event_forecast", "event_observed")
    ]
    brier = brier_from_counts(*(c.values for c in counts))
    expected = brier_score(forecast, observed, threshold=thresholds, tail="both", dim=[*over, "y", "x"], **options)
    np.testing.assert_allclose(brier, expected.transpose("lead_time", "threshold"), rtol=1e-10)
    fss = 1 - good["fss_error"].sum("trajectory") / good["fss_reference"].sum("trajectory")
    windows = scores["window"].values
    expected = fractions_skill_score(
        forecast, observed, threshold=thresholds, window=windows, tail="both", dim=over, **options
    )
    np.testing.assert_allclose(fss, expected.transpose("lead_time", "threshold", "window"), rtol=1e-10)
    expected = crps_pooled(forecast, observed, scale=scores["scale"].values, dim=over, **options)
    np.testing.assert_allclose(good["crps_pooled"].mean(over), expected.transpose("lead_time", "scale"), rtol=1e-10)

    planned = Verification(truth, {"good": forecasts["good"]})
    climate = xr.DataArray(planned.background.climatology, dims=("y", "x"))
    sums = {k: good[f"anomaly_{k}"].mean(over) for k in ("product", "forecast_square", "truth_square")}
    found = sums["product"] / np.sqrt(sums["forecast_square"] * sums["truth_square"])
    expected = anomaly_correlation(forecast, observed, climatology=climate, dim=[*over, "y", "x"], **options)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    expected = ssim(forecast, observed, data_range=planned.background.data_range, minimum=planned.background.lowest,
                    dim=over, **options)  # fmt: skip
    expected = expected.mean("member") if "member" in expected.dims else expected
    np.testing.assert_allclose(good["ssim"].mean(over), expected, rtol=1e-10)


def test_power_adds_up_to_the_variance_and_modes_to_their_share(data, scores):
    truth, _ = data
    share = scores["pdf_truth"].sum("bin")
    np.testing.assert_allclose(share, 1, rtol=1e-12)
    total = float(scores["power_truth"].sum("wavenumber").mean())
    assert total == pytest.approx(float(truth["vorticity"].where(~truth["solid"]).var()), rel=0.2)
    assert float(scores["pod_fraction"].sum()) < 1 + 1e-12
    observed = scores["probe_power_truth"].sum("frequency").mean()
    assert 0 < float(observed) < 2 * float(truth["vorticity"].var())


@pytest.mark.parametrize("memory", [1, 60_000])
def test_cutting_a_case_along_its_leads_changes_nothing(data, scores, memory):
    whole = Verification(*data)
    planned = Verification(*data, memory=memory)
    assert len(planned._lead_blocks(planned.methods[0], 2)) > len(whole._lead_blocks(whole.methods[0], 2)) == 1
    cut = planned.joined(planned.runs(threads=2))
    for name in LAYOUT:
        if name in scores:
            np.testing.assert_allclose(cut[name], scores[name], rtol=1e-12, atol=1e-18, err_msg=name)


def test_threads_change_no_bit(data, scores):
    xr.testing.assert_identical(verify(*data, threads=1), verify(*data, threads=3))


def test_workers_of_a_cluster_score_as_threads_do(data, scores):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        found = verify(data[0].chunk(time=9), {n: f.chunk(init_time=1) for n, f in data[1].items()}, client=client)
    xr.testing.assert_identical(found.drop_attrs(), scores.drop_attrs())


def test_the_question_depends_on_the_training_runs_alone(data):
    """Other test runs and other forecasts leave thresholds, ranges, modes and the climate as they were."""
    truth, forecasts = data
    other = truth.copy(deep=True)
    other["vorticity"][2:] *= 3
    a, b = Verification(truth, forecasts).background, Verification(other, {"one": forecasts["one"]}).background
    assert (a.thresholds, a.data_range, a.value_range, a.probes) == (
        b.thresholds,
        b.data_range,
        b.value_range,
        b.probes,
    )
    np.testing.assert_array_equal(a.climatology, b.climatology)
    np.testing.assert_array_equal(a.pod.modes, b.pod.modes)
    assert a.runs == "train"


def test_probes_stand_in_the_wake_of_the_obstacle_and_in_fluid(data):
    places = Verification(*data).background.probes
    assert places
    assert all(x > 6 for _, x in places)
    assert not any(data[0]["solid"].values[0, y, x] for y, x in places)


def test_the_published_protocol_scores_grey_levels(data):
    """Quantised once; classical CRPS in grey levels, which on integers is the sum over levels of (F - H)^2."""
    truth, forecasts = data
    low, high = -0.2, 0.2
    scores = verify(truth, {"good": forecasts["good"]}, protocol="rvd", value_range=(low, high), families=["points"])

    def grey(a: np.ndarray) -> np.ndarray:
        return np.floor(np.clip((a - np.float32(low)) / np.float32(high - low), 0, 1) * 255 + 0.5).astype(int)

    forecast, observed = align(forecasts["good"], truth, "vorticity", mask_walls=False)
    members, real = (
        grey(forecast.isel(trajectory=0, init_time=1).values),
        grey(observed.isel(trajectory=0, init_time=1).values),
    )
    levels = np.arange(256)[:, None, None, None]
    below = (members[:, None] <= levels[None]).mean(0)
    brute = ((below - (real <= levels)) ** 2).sum(0)[:, ~truth["solid"].values[2]].mean(-1)
    np.testing.assert_allclose(scores["crps_classical"][0, 0, 1], brute, atol=1.0)  # rounding of float32 moves a level
    assert np.abs(scores["crps_classical"][0, 0, 1] - brute).mean() < 0.02
    xr.testing.assert_equal(scores["crps"], scores["crps_classical"])
    assert scores.attrs["units"] == scores["crps"].attrs["units"] == "grey levels"
    assert scores.attrs["estimator"] == "classical"
    with pytest.raises(EvaluationError, match="protocol 'dvd' is not known; known: rvd"):
        verify(truth, forecasts, protocol="dvd")


def test_families_can_be_chosen_and_unknown_ones_are_refused(data):
    few = verify(*data, families=["spectra"])
    assert set(few.data_vars) >= {"power", "crps"}
    assert "event_forecast" not in few
    with pytest.raises(EvaluationError, match="family 'spectrum' is not known"):
        verify(*data, families=["spectrum"])
