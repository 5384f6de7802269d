"""Neighbourhood scores equal slow loops over windows, forgive displacement, and never look into walls."""

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import uniform_filter

from evaluation import DimensionError, EvaluationError, MissingValueError, crps
from evaluation.neighbourhood import crps_pooled, fractions_skill_score, fss_sums, pooled_crps

DIMS = ("case", "member", "lead_time", "y", "x")
EXACT = 1e-12  # of numbers of order one
SCORES = ((fractions_skill_score, {"threshold": 0.5}), (crps_pooled, {}))


def case(members=4, seed=0, shape=(9, 13), dtype=np.float64):
    rng = np.random.default_rng(seed)
    forecast = xr.DataArray(rng.normal(size=(2, members, 3, *shape)), dims=DIMS, attrs={"units": "1/s"})
    truth = xr.DataArray(rng.normal(size=(2, 3, *shape)), dims=DIMS[:1] + DIMS[2:], attrs={"units": "1/s"})
    if dtype == np.uint8:
        forecast, truth = (a * 30 + 128 for a in (forecast, truth))
    return forecast.astype(dtype), truth.astype(dtype)


def case_arrays(members=4, walls=True, dtype=np.float64):
    forecast, truth = (a.isel(case=0) for a in case(members, dtype=dtype))
    fluid = np.ones(truth.shape[-2:], bool)
    if walls:
        fluid[2:5, 3:6] = False
    return forecast.values, truth.values, fluid


def sums_by_loops(members, truth, fluid, threshold, window):
    """Squares over fluid cells of the difference, and of both fractions, counted window by window; one lead."""
    half = window // 2
    difference = square = 0.0
    for y, x in zip(*np.nonzero(fluid), strict=True):
        near = np.s_[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
        p = (abs(members[:, *near][:, fluid[near]]) > threshold).mean()
        o = (abs(truth[near][fluid[near]]) > threshold).mean()
        difference += (p - o) ** 2
        square += p**2 + o**2
    return difference, square


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("walls", [True, False])
def test_fractions_are_those_of_a_loop_over_windows(walls, dtype):
    members, truth, fluid = case_arrays(walls=walls, dtype=dtype)
    thresholds, windows = ([0.5, 1.5] if dtype == np.float32 else [128, 160]), [1, 3, 7, 31]
    error, reference = fss_sums(members, truth, fluid, thresholds, windows)
    assert error.shape == reference.shape == (3, 2, 4)
    for lead, i, w in np.ndindex(error.shape):
        values = members[:, lead].astype(float), truth[lead].astype(float)
        want = sums_by_loops(*values, fluid, thresholds[i], windows[w])
        np.testing.assert_allclose([error[lead, i, w], reference[lead, i, w]], want, rtol=1e-11)


@pytest.mark.parametrize("window", [1, 3, 9])
def test_fractions_are_those_of_a_uniform_filter(window):
    members, truth, fluid = case_arrays()

    def fraction(event):
        inside = uniform_filter(fluid.astype(float), window, mode="constant")
        return uniform_filter(event * fluid.astype(float), window, mode="constant") / np.where(fluid, inside, 1)

    error, reference = fss_sums(members, truth, fluid, [0.3], [window], absolute=False)
    for lead in range(3):
        p, o = fraction((members[:, lead] > 0.3).mean(0)), fraction(truth[lead] > 0.3)
        np.testing.assert_allclose(error[lead, 0, 0], ((p - o) ** 2)[fluid].sum(), rtol=1e-9)
        np.testing.assert_allclose(reference[lead, 0, 0], (p**2 + o**2)[fluid].sum(), rtol=1e-9)


@pytest.mark.parametrize("window", [1, 3, 5])
def test_fractions_skill_score_is_that_of_scores(window):
    """Away from the edges, where definitions differ: no event within a window of them."""
    spatial = pytest.importorskip("scores.spatial")
    forecast, truth = case(1, shape=(20, 24))
    border = xr.zeros_like(truth, bool)
    border[..., 5:-5, 5:-5] = True
    forecast, truth = (a.where(border, -9.0) for a in (forecast, truth))
    got = fractions_skill_score(forecast, truth, threshold=0.5, window=window, dim=["case"])
    want = spatial.fss_2d(
        forecast.isel(member=0),
        truth,
        event_threshold=0.5,
        window_size=(window, window),
        spatial_dims=("y", "x"),
        zero_padding=True,
        preserve_dims=["lead_time"],
    )
    np.testing.assert_allclose(got, want, atol=EXACT)


def test_a_window_forgives_a_displacement():
    """An event of one cell, d cells off: the windows of 2 h + 1 cells overlap by (2 h + 1 - d) / (2 h + 1)."""
    truth, forecast = np.zeros((1, 41, 41)), np.zeros((1, 1, 41, 41))
    truth[0, 20, 20], forecast[0, 0, 20, 23] = 1.0, 1.0
    windows = np.array([1, 3, 5, 9, 15])
    error, reference = fss_sums(forecast, truth, np.ones((41, 41), bool), [0.5], windows)
    np.testing.assert_allclose(1 - error[0, 0] / reference[0, 0], np.maximum(0, 1 - 3 / windows), atol=EXACT)


def test_fss_of_the_truth_is_one_and_of_no_event_is_nan():
    forecast, truth = case()
    perfect = truth.expand_dims(member=3)
    assert (fractions_skill_score(perfect, truth, threshold=[0.0, 1.0]) == 1).all()
    assert np.isnan(fractions_skill_score(forecast, truth, threshold=99.0, window=3))


def test_fss_divides_sums_over_cases():
    forecast, truth = case()
    pieces = [
        fss_sums(*pair, np.ones((9, 13), bool), [0.5], [5]) for pair in zip(forecast.values, truth.values, strict=True)
    ]
    error, reference = np.sum(pieces, axis=0)
    got = fractions_skill_score(forecast, truth, threshold=0.5, window=5, tail="both", dim="case")
    np.testing.assert_allclose(got, 1 - error[:, 0, 0] / reference[:, 0, 0], atol=EXACT)
    whole = fractions_skill_score(forecast, truth, threshold=0.5, window=5, tail="both")
    np.testing.assert_allclose(whole, 1 - error.sum() / reference.sum(), atol=EXACT)


def pooled_by_loops(members, truth, fluid, scale, how, fair):
    """Mean fair CRPS over tiles; tiles with less than half of scale^2 cells fluid are left out. One lead."""
    reduce = np.mean if how == "mean" else np.max
    scores = []
    for y in range(0, fluid.shape[0], scale):
        for x in range(0, fluid.shape[1], scale):
            tile = np.s_[y : y + scale, x : x + scale]
            if fluid[tile].sum() < max(0.5 * scale**2, 1):
                continue
            values = np.array([reduce(m[tile][fluid[tile]]) for m in members])
            size = len(values)
            pairs = abs(values[:, None] - values).sum() / (2 * size * (size - fair))
            scores.append(abs(values - reduce(truth[tile][fluid[tile]])).mean() - pairs)
    return np.mean(scores)


@pytest.mark.parametrize("how", ["mean", "max"])
@pytest.mark.parametrize(("estimator", "fair"), [("fair", 1), ("classical", 0)])
def test_pooled_crps_is_that_of_a_loop_over_tiles(how, estimator, fair):
    members, truth, fluid = case_arrays()
    scales = [1, 2, 3, 4, 6]
    got = pooled_crps(members, truth, fluid, scales, how, estimator)
    want = [[pooled_by_loops(members[:, k], truth[k], fluid, scale, how, fair) for scale in scales] for k in range(3)]
    np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_array_equal(pooled_crps(members, truth, fluid, scales[::-1], how, estimator), got[:, ::-1])


def test_pools_without_enough_fluid_are_nan():
    members, truth, fluid = case_arrays(walls=False)
    fluid[1::2] = False
    fluid[:, 1::2] = False  # a quarter of the cells
    got = pooled_crps(members, truth, fluid, [1, 2])
    assert np.isfinite(got[:, 0]).all()
    assert np.isnan(got[:, 1]).all()


def test_pooled_crps_at_scale_one_is_the_crps():
    for dtype in (np.float32, np.uint8):
        forecast, truth = case(dtype=dtype)
        got = crps_pooled(forecast, truth, scale=1, dim="case")
        np.testing.assert_allclose(got, crps(forecast, truth, dim=["case", "y", "x"]), rtol=1e-12)
        assert got.attrs["units"] == "1/s"


def test_pooling_sees_that_independent_noise_has_no_structure():
    """Truth and members with one random number per frame, against members with one per cell: same CRPS per cell."""
    rng = np.random.default_rng(0)
    ones = np.ones((200, 8, 8))
    truth = ones * rng.normal(size=(200, 1, 1))
    fluid = np.ones((8, 8), bool)
    joint = pooled_crps(ones * rng.normal(size=(8, 200, 1, 1)), truth, fluid, [1, 8]).mean(0)
    noise = pooled_crps(rng.normal(size=(8, 200, 8, 8)), truth, fluid, [1, 8]).mean(0)
    assert joint[0] == pytest.approx(joint[1], rel=1e-9)
    assert noise[0] == pytest.approx(joint[0], rel=0.1)
    assert noise[1] > 1.25 * joint[1]  # exactly: E|y| = 0.80 against 0.56


def test_single_member_has_the_absolute_error():
    members, truth, fluid = case_arrays(1)
    np.testing.assert_allclose(
        pooled_crps(members, truth, fluid, [1])[:, 0], abs(members[0] - truth)[:, fluid].mean(-1), rtol=1e-12
    )
    forecast, truth = case(1)
    with pytest.raises(EvaluationError, match="at least 2 members"):
        crps_pooled(forecast, truth)
    single = crps_pooled(forecast.isel(member=0), truth, member_dim=None, estimator="classical", scale=1)
    np.testing.assert_allclose(single, abs(forecast.isel(member=0) - truth).mean(), rtol=1e-12)


def test_values_in_walls_do_not_matter():
    members, truth, fluid = case_arrays()
    calls = [
        lambda: np.stack(fss_sums(members, truth, fluid, [0.5])),
        lambda: pooled_crps(members, truth, fluid),
        lambda: pooled_crps(members, truth, fluid, how="max"),
    ]
    want = [call() for call in calls]
    members[..., ~fluid], truth[..., ~fluid] = 1e9, -1e9
    for call, before in zip(calls, want, strict=True):
        np.testing.assert_array_equal(call(), before)


def test_cells_without_truth_are_walls_under_omit():
    members, truth, fluid = case_arrays()
    forecast, observed = (a.isel(case=0) for a in case())
    observed = observed.where(xr.DataArray(fluid, dims=("y", "x")))
    forecast = forecast.where(xr.DataArray(fluid, dims=("y", "x")))
    options = {"dim": (), "nan_policy": "omit"}
    got = crps_pooled(forecast, observed, scale=[1, 2, 4], how="max", **options)
    np.testing.assert_allclose(got, pooled_crps(members, truth, fluid, [1, 2, 4], "max"), rtol=1e-12)
    error, reference = fss_sums(members, truth, fluid, [0.5], [3, 5])
    got = fractions_skill_score(forecast, observed, threshold=[0.5], window=[3, 5], tail="both", **options)
    np.testing.assert_allclose(got, 1 - error / reference, rtol=1e-12)
    assert got.dims == ("lead_time", "threshold", "window")


@pytest.mark.parametrize(("score", "options"), SCORES)
def test_a_broken_member_is_left_out_under_omit(score, options):
    forecast, truth = case(5)
    broken = forecast.copy()
    broken[:, 3, :, 4, 4] = np.nan
    want = score(forecast.isel(member=[0, 1, 2, 4]), truth, **options)
    got = score(broken, truth, nan_policy="omit", **options)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert np.isnan(score(broken, truth, **options)).all()
    with pytest.raises(MissingValueError, match="1 of 117 cells"):
        score(broken, truth, nan_policy="raise", **options)
    with pytest.raises(EvaluationError, match="unknown nan_policy"):
        score(broken, truth, nan_policy="skip", **options)


@pytest.mark.parametrize(("score", "options"), SCORES)
def test_dask_and_numpy_give_the_same(score, options):
    forecast, truth = case(dtype=np.float32)
    for dim in ((), None, ["lead_time"]):
        want = score(forecast, truth, dim=dim, **options)
        lazy = score(forecast.chunk(case=1, member=2, y=4), truth.chunk(lead_time=2, x=3), dim=dim, **options)
        assert lazy.chunks is not None
        xr.testing.assert_allclose(lazy.compute(), want, rtol=1e-12)
        assert lazy.attrs == want.attrs


@pytest.mark.parametrize(("score", "options"), SCORES)
def test_mismatched_data_is_never_broadcast(score, options):
    forecast, truth = case()
    for bad in (truth.isel(y=slice(3)), truth.isel(y=0, drop=True), truth.rename(y="row"), truth.expand_dims(member=4)):
        with pytest.raises(DimensionError):
            score(forecast, bad, **options)
    with pytest.raises(DimensionError, match='no dimension "y"'):
        score(forecast, truth, dim="y", **options)  # reduced by the score itself
    taken = "window" if "threshold" in options else "scale"
    with pytest.raises(DimensionError, match="rename it"):
        score(forecast.rename(case=taken), truth.rename(case=taken), **options)
    with pytest.raises(EvaluationError, match="two dimensions of space"):
        score(forecast, truth, space="y", **options)
    with pytest.raises(DimensionError, match="of the score itself"):
        score(forecast, truth, dim="window" if "threshold" in options else "scale", **options)
    with pytest.raises(EvaluationError, match="real numbers"):
        score(forecast.astype(complex), truth, **options)


@pytest.mark.parametrize(("score", "options"), SCORES)
def test_aliases_weights_and_order_of_dimensions(score, options):
    forecast, truth = case()
    names = {"y": "latitude", "x": "longitude", "lead_time": "prediction_timedelta"}
    want = score(forecast, truth, dim="case", **options)
    other = forecast.rename(names | {"member": "number"}).transpose(..., "case"), truth.rename(names)
    got = score(*other, space=("latitude", "longitude"), dim="case", **options)
    xr.testing.assert_allclose(got, want, rtol=1e-12)
    only = score(forecast, truth, dim="case", weights=xr.DataArray([0.0, 2.0], dims="case"), **options)
    xr.testing.assert_allclose(only, score(forecast.isel(case=[1]), truth.isel(case=[1]), dim="case", **options))


@pytest.mark.parametrize("windows", [[2], [0], [3.0], [], [-3]])
def test_windows_have_a_cell_in_their_middle(windows):
    with pytest.raises(EvaluationError, match="odd whole numbers"):
        fss_sums(*case_arrays(), [0.5], windows)


def test_what_has_no_meaning_is_refused():
    with pytest.raises(EvaluationError, match="whole numbers of cells"):
        pooled_crps(*case_arrays(), [0])
    with pytest.raises(EvaluationError, match="unknown pooling"):
        pooled_crps(*case_arrays(), [1], "min")
    with pytest.raises(EvaluationError, match="unknown estimator"):
        crps_pooled(*case(), estimator="nrg")
    with pytest.raises(EvaluationError, match="do not fit together"):
        pooled_crps(np.ones((2, 3, 4, 5)), np.ones((2, 4, 5)), np.ones((4, 5), bool))
    members, truth, _ = case_arrays()
    assert np.isnan(pooled_crps(members, truth, np.zeros(truth.shape[1:], bool))).all()
