"""Anomaly correlation, PSNR and SSIM against definitions written out, and against an independent slow SSIM."""

import numpy as np
import pytest
import xarray as xr
from scipy import ndimage

import evaluation
from evaluation.deterministic import anomaly_correlation, anomaly_products, psnr, ssim
from evaluation.errors import DimensionError, EvaluationError, MissingValueError
from evaluation.similarity import ssim_field

DIMS = ("trajectory", "member", "lead_time", "y", "x")


def case(seed=0, members=4, dtype=np.float64):
    rng = np.random.default_rng(seed)
    truth = ndimage.gaussian_filter(rng.normal(size=(2, 3, 18, 22)), (0, 0, 1, 1))
    forecast = truth[:, None] + 0.2 * rng.normal(size=(2, members, 3, 18, 22))
    coords = {"lead_time": [1, 2, 3]}
    forecast = xr.DataArray(forecast.astype(dtype), dims=DIMS, coords=coords, attrs={"units": "m"})
    truth = xr.DataArray(truth.astype(dtype), dims=[d for d in DIMS if d != "member"], coords=coords)
    climatology = xr.DataArray(rng.normal(size=(18, 22)), dims=("y", "x"))
    return forecast, truth.assign_attrs(units="m"), climatology


SCORES = {
    "anomaly_correlation": lambda f, t, **o: anomaly_correlation(f, t, case()[2], **o),
    "psnr": lambda f, t, **o: psnr(f, t, data_range=2.0, **o),
    "psnr of members": lambda f, t, **o: psnr(f, t, data_range=2.0, of="members", **o),
    "ssim": lambda f, t, **o: ssim(f, t, data_range=2.0, **o),
}


def slow_ssim(a, b, fluid, data_range, minimum=0.0):
    """Mean SSIM from scipy's Gaussian filter, weights of fluid cells normalised, windows within the frame."""

    def window(field):
        return ndimage.gaussian_filter(field, 1.5, mode="constant", truncate=5 / 1.5)[5:-5, 5:-5]

    a, b = np.where(fluid, a - minimum, 0.0), np.where(fluid, b - minimum, 0.0)
    norm = np.maximum(window(fluid.astype(float)), 1e-30)
    ma, mb = window(a) / norm, window(b) / norm
    va, vb = window(a * a) / norm - ma**2, window(b * b) / norm - mb**2
    c = window(a * b) / norm - ma * mb
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    index = (2 * ma * mb + c1) * (2 * c + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return index[fluid[5:-5, 5:-5]].mean()


@pytest.mark.parametrize("walls", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
def test_ssim_equals_a_slow_independent_one(walls, dtype):
    rng = np.random.default_rng(0)
    b = ndimage.gaussian_filter(rng.normal(size=(2, 20, 31)), (0, 1, 1)) * 200 + 128
    a = b + 30 * rng.normal(size=(3, 2, 20, 31))
    a, b = (np.clip(v, 0, 255).astype(dtype) for v in (a, b))
    fluid = np.ones((20, 31), bool)
    if walls:
        fluid[3:12, 8:15] = False
    got = ssim_field(a, b, fluid, 255)
    want = [[slow_ssim(a[i, j].astype(float), b[j].astype(float), fluid, 255) for j in range(2)] for i in range(3)]
    np.testing.assert_allclose(got, want, rtol=1e-11)
    shifted = ssim_field(a, b, fluid, 255, minimum=10)
    assert shifted[0, 0] == pytest.approx(
        slow_ssim(a[0, 0].astype(float), b[0].astype(float), fluid, 255, 10), rel=1e-11
    )


def test_ssim_of_equal_fields_is_one_and_of_negatives_is_negative():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(2, 16, 16))
    fluid = np.ones((16, 16), bool)
    np.testing.assert_allclose(ssim_field(a, a, fluid, 4.0), 1, rtol=1e-12)
    assert (ssim_field(1 + a, 1 - a, fluid, 4.0) < 0).all()


def test_ssim_falls_where_a_field_is_blurred_or_misplaced():
    rng = np.random.default_rng(2)
    truth = ndimage.gaussian_filter(rng.normal(size=(32, 32)), 2, mode="wrap")
    fluid = np.ones((32, 32), bool)
    span = float(np.ptp(truth))

    def score(field):
        return float(ssim_field(field, truth, fluid, span, minimum=float(truth.min())))

    assert (
        score(truth) > score(ndimage.gaussian_filter(truth, 1, mode="wrap")) > score(np.full_like(truth, truth.mean()))
    )
    assert score(np.roll(truth, 1, 1)) > score(np.roll(truth, 4, 1))


def test_ssim_refuses_what_it_cannot_compare():
    fields = np.zeros((10, 40))
    with pytest.raises(EvaluationError, match="11 x 11"):
        ssim_field(fields, fields, np.ones((10, 40), bool), 1.0)
    with pytest.raises(EvaluationError, match="range"):
        ssim_field(fields.T, fields.T, np.ones((40, 10), bool), 0.0)
    assert np.isnan(ssim_field(np.zeros((2, 20, 20)), np.zeros((20, 20)), np.zeros((20, 20), bool), 1.0)).all()
    forecast, truth, _ = case()
    for options in ({"data_range": 0.0}, {"data_range": np.nan}):
        with pytest.raises(EvaluationError, match="range"):
            ssim(forecast, truth, **options)
    with pytest.raises(EvaluationError, match="11 x 11"):
        ssim(forecast.isel(y=slice(9)), truth.isel(y=slice(9)), data_range=1.0)


def test_ssim_is_the_mean_over_members_and_cases():
    forecast, truth, _ = case()
    fluid = np.ones((18, 22), bool)
    want = np.array([[slow_ssim(forecast.values[i, m, k], truth.values[i, k], fluid, 2.0)
                      for i in range(2) for m in range(4)] for k in range(3)]).mean(1)  # fmt: skip
    np.testing.assert_allclose(ssim(forecast, truth, data_range=2.0, dim="trajectory"), want, rtol=1e-11)
    assert ssim(forecast, truth, data_range=2.0).attrs["units"] == "1"


def test_anomaly_correlation_is_the_correlation_of_departures():
    forecast, truth, climatology = case()
    f = (forecast.mean("member") - climatology).values
    o = (truth - climatology).values
    want = (f * o).sum((0, 2, 3)) / np.sqrt((f**2).sum((0, 2, 3)) * (o**2).sum((0, 2, 3)))
    got = anomaly_correlation(forecast, truth, climatology, dim=["trajectory", "y", "x"])
    np.testing.assert_allclose(got, want, rtol=1e-12)
    want = [np.corrcoef(f[:, k].ravel(), o[:, k].ravel())[0, 1] for k in range(3)]
    got = anomaly_correlation(forecast, truth, climatology, dim=["trajectory", "y", "x"], centred=True)
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_anomaly_correlation_does_not_see_the_amplitude():
    _, truth, climatology = case()
    anomaly = truth - climatology
    for factor, want in ((1.0, 1.0), (0.1, 1.0), (-2.0, -1.0)):
        forecast = climatology + factor * anomaly
        assert float(anomaly_correlation(forecast, truth, climatology, member_dim=None)) == pytest.approx(want)
    assert np.isnan(anomaly_correlation(truth * 0 + climatology, truth, climatology, member_dim=None))


def test_products_of_the_streaming_pass_are_those_of_the_score():
    forecast, truth, climatology = case(dtype=np.float32)
    walls = truth.where((truth.x < 4) | (truth.y > 9))
    fluid = walls.notnull().values[0, 0]
    parts = [anomaly_products(forecast.values[i], truth.values[i], climatology.values, fluid) for i in range(2)]
    product, square, square_truth = np.mean(parts, axis=0)
    got = anomaly_correlation(forecast, walls, climatology, dim=["trajectory", "y", "x"], nan_policy="omit")
    np.testing.assert_allclose(got, product / np.sqrt(square * square_truth), rtol=1e-6)
    other = np.where(fluid, forecast.values[0], 1e9)
    np.testing.assert_array_equal(anomaly_products(other, truth.values[0], climatology.values, fluid), parts[0])
    whole = np.ones_like(fluid)
    eight = (np.arange(2 * 3 * 18 * 22) % 251).astype(np.uint8).reshape(2, 3, 18, 22)
    a = anomaly_products(eight, eight[0], climatology.values, whole)
    b = anomaly_products(eight.astype(float), eight[0].astype(float), climatology.values, whole)
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_climatology_must_fit_but_may_lack_dimensions():
    forecast, truth, climatology = case()
    by_lead = climatology.expand_dims(lead_time=[1, 2, 3])
    xr.testing.assert_allclose(
        anomaly_correlation(forecast, truth, by_lead), anomaly_correlation(forecast, truth, climatology)
    )
    with pytest.raises(DimensionError, match="lead_time"):
        anomaly_correlation(forecast, truth, by_lead.assign_coords(lead_time=[1, 2, 4]))
    with pytest.raises(DimensionError, match="season"):
        anomaly_correlation(forecast, truth, climatology.expand_dims(season=2))
    with pytest.raises(DimensionError):
        anomaly_correlation(forecast, truth, climatology.isel(x=slice(4)))
    with pytest.raises(EvaluationError):
        anomaly_correlation(forecast, truth, climatology.values)


def test_psnr_is_the_logarithm_of_the_averaged_error():
    forecast, truth, _ = case()
    error = ((forecast.mean("member") - truth) ** 2).mean(["trajectory", "y", "x"])
    got = psnr(forecast, truth, data_range=2.0, dim=["trajectory", "y", "x"])
    np.testing.assert_allclose(got, 10 * np.log10(4 / error), rtol=1e-12)
    error = ((forecast - truth) ** 2).mean(["trajectory", "member", "y", "x"])
    got = psnr(forecast, truth, data_range=2.0, of="members", dim=["trajectory", "y", "x"])
    np.testing.assert_allclose(got, 10 * np.log10(4 / error), rtol=1e-12)
    frames = psnr(forecast, truth, data_range=2.0, dim=("y", "x"))
    assert float(frames.mean()) >= float(psnr(forecast, truth, data_range=2.0))
    assert psnr(truth, truth, data_range=1.0, member_dim=None) == np.inf
    assert got.attrs["units"] == "dB"
    for options in ({"data_range": -1}, {"data_range": 1, "of": "median"}):
        with pytest.raises(EvaluationError):
            psnr(forecast, truth, **options)


def test_psnr_of_members_with_missing_ones_counts_those_present():
    forecast, truth, _ = case()
    forecast = forecast.where(np.random.default_rng(3).random(forecast.shape) < 0.7)
    want = ((forecast - truth) ** 2).mean("member").mean()
    got = psnr(forecast, truth, data_range=1.0, of="members", nan_policy="omit")
    np.testing.assert_allclose(got, -10 * np.log10(want), rtol=1e-12)


@pytest.mark.parametrize("name", SCORES)
def test_lazy_input_gives_the_numbers_of_numpy(name):
    forecast, truth, _ = case()
    over = "trajectory" if name == "ssim" else ["trajectory", "y", "x"]
    want = SCORES[name](forecast, truth, dim=over)
    got = SCORES[name](forecast.chunk(lead_time=1, member=2, x=8), truth.chunk(trajectory=1), dim=over)
    assert got.chunks
    xr.testing.assert_allclose(got.compute(), want)
    assert want.dims == ("lead_time",)
    assert want.dtype == np.float64


@pytest.mark.parametrize("name", SCORES)
def test_names_of_dimensions_are_matched_and_never_broadcast(name):
    forecast, truth, _ = case()
    names = {"lead_time": "prediction_timedelta", "y": "latitude", "x": "longitude"}
    renamed = forecast.rename(names | {"member": "number"}).transpose()
    xr.testing.assert_allclose(SCORES[name](renamed, truth.rename(names)), SCORES[name](forecast, truth))
    for wrong in (truth.isel(lead_time=0), truth.isel(x=slice(12)), truth.assign_coords(lead_time=[1, 2, 4])):
        with pytest.raises(DimensionError):
            SCORES[name](forecast, wrong)


@pytest.mark.parametrize("name", SCORES)
def test_walls_and_missing_values(name):
    forecast, truth, _ = case()
    walls = truth.where((truth.x < 9) | (truth.x > 12) | (truth.y > 6))
    want = SCORES[name](forecast, walls, nan_policy="omit")
    assert np.isfinite(want)
    xr.testing.assert_identical(SCORES[name](forecast.where(walls.notnull(), 1e9), walls, nan_policy="omit"), want)
    assert np.isnan(SCORES[name](forecast, walls))
    with pytest.raises(MissingValueError):
        SCORES[name](forecast, walls, nan_policy="raise")


@pytest.mark.parametrize("name", SCORES)
def test_weights_weigh_cases(name):
    forecast, truth, _ = case()
    weights = xr.DataArray([0.0, 3.0], dims="trajectory")
    want = SCORES[name](forecast.isel(trajectory=1), truth.isel(trajectory=1))
    xr.testing.assert_allclose(SCORES[name](forecast, truth, weights=weights), want)


def test_the_mean_square_skill_of_climatology_and_correlation_agree_for_the_best_amplitude():
    # f = r o + noise scaled by least squares: 1 - MSE / var = r^2 (Murphy and Epstein 1989, with no bias)
    _, truth, climatology = case()
    anomaly = truth - climatology
    rough = anomaly + xr.DataArray(np.random.default_rng(4).normal(size=truth.shape), dims=truth.dims)
    best = climatology + rough * float((rough * anomaly).sum() / (rough**2).sum())
    r = float(anomaly_correlation(best, truth, climatology, member_dim=None))
    error = float(evaluation.squared_error(best, truth, member_dim=None))
    assert r**2 == pytest.approx(1 - error / float((anomaly**2).mean()), rel=1e-10)
