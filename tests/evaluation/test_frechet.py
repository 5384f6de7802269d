"""Fréchet distance and MMD equal their definitions, know their floor, and notice what is wrong with a flow."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import xarray as xr

from evaluation import DimensionError, EvaluationError, MissingValueError
from evaluation import frechet as module
from evaluation.frechet import (
    FrechetSums,
    clip_distance,
    frechet_distance,
    frechet_physics_distance,
    halved,
    mmd,
    physics_feature_names,
    physics_features,
)

TIME, NY, NX = 8, 24, 32


def sample(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def exact(mean, cov, seed=0):
    """Vectors whose sample mean and covariance are exactly those."""
    d = len(mean)
    x = np.random.default_rng(seed).normal(size=(4 * d, d))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(x, rowvar=False))).T)
    return x @ np.linalg.cholesky(cov).T + mean


def flow(n, time=TIME, y=NY, x=NX, seed=0):
    """Clips of random eddies that drift, change slowly and differ in strength: (n, time, y, x) float32."""
    rng = np.random.default_rng(seed)
    ky, kx = np.fft.fftfreq(y)[:, None], np.fft.rfftfreq(x)
    amplitude = 1 / (1 + (ky**2 + kx**2) * 150) ** 1.5
    amplitude[0, 0] = 0

    def noise():
        return np.fft.rfft2(rng.normal(size=(n, y, x))) * amplitude

    u, v = 1 + 0.2 * rng.normal(size=n), 0.1 * rng.normal(size=n)
    drift = np.exp(-2j * np.pi * (kx * u[:, None, None] + ky * v[:, None, None]))
    state, out = noise(), np.empty((n, time, y, x))
    strength = np.exp(0.2 * rng.normal(size=(n, 1, 1)))
    for t in range(time):
        out[:, t] = strength * np.fft.irfft2(state, s=(y, x))
        state = (0.95 * state + np.sqrt(1 - 0.95**2) * noise()) * drift
    return (10 * out).astype(np.float32)


@pytest.fixture(scope="module")
def flows():
    return flow(60, seed=1), flow(60, seed=2)


# Fréchet distance


def test_distance_of_gaussians_on_a_line():
    a, b = exact(np.array([1.0]), np.array([[4.0]])), exact(np.array([-2.0]), np.array([[9.0]]), seed=1)
    assert frechet_distance(a, b) == pytest.approx(3**2 + (2 - 3) ** 2, rel=1e-12)


def test_distance_of_gaussians_with_a_common_basis():
    # C_a and C_b commute: sum of (sqrt of eigenvalues) differences, squared.
    rotation = scipy.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    la, lb = np.array([1, 2, 3, 4, 5.0]), np.array([2, 0.5, 3, 9, 1.0])
    a = exact(np.zeros(5), rotation * la @ rotation.T)
    b = exact(np.arange(5.0), rotation * lb @ rotation.T, seed=1)
    assert frechet_distance(a, b) == pytest.approx(30 + ((np.sqrt(la) - np.sqrt(lb)) ** 2).sum(), rel=1e-10)


def test_distance_equals_the_general_matrix_root():
    a, b = sample(80, 12), sample(60, 12, seed=1)
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(
        np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root.real
    )
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_singular_covariances_do_no_harm():
    # 10 clips, 40 features. For two samples of one set of vectors the distance is 0, to the root of rounding.
    a = sample(10, 40)
    scale = np.trace(np.cov(a, rowvar=False))
    assert abs(frechet_distance(a, a[::-1])) < 1e-6 * scale
    b = a + 3.0
    assert frechet_distance(a, b) == pytest.approx(40 * 9, abs=1e-6 * scale)


def test_few_clips_of_many_features_have_the_distance_of_their_covariances():
    for n in (6, 25, 60):
        a, b = sample(n, 40), sample(40, 40, seed=1)
        sums = [FrechetSums(40).add(v) for v in (a, b)]
        scale = np.trace(sums[0].cov)
        assert frechet_distance(a, b) == pytest.approx(frechet_distance(*sums), abs=1e-6 * scale)
        assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6 * scale)
    with pytest.raises(EvaluationError, match="at least 2 clips, got 1"):
        frechet_distance(a[:1], b)
    with pytest.raises(EvaluationError, match="not finite"):
        frechet_distance(a[:3] * np.nan, b)


def test_distance_is_symmetric_and_scales_with_the_square_of_the_unit():
    a, b = sample(50, 6), sample(40, 6, seed=1)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * frechet_distance(a, b), rel=1e-10)


def test_sums_do_not_depend_on_batches_or_workers():
    vectors = sample(100, 7) + 1e4  # a mean far from 0: where sums of squares would lose digits
    whole = FrechetSums(7).add(vectors)
    streamed = FrechetSums(7)
    for part in np.split(vectors, [1, 1, 40, 99]):
        streamed.add(part)
    merged = FrechetSums(7).add(vectors[:33]).merge(FrechetSums(7).add(vectors[33:])).merge(FrechetSums(7))
    for sums in (whole, streamed, merged):
        assert sums.n == 100
        np.testing.assert_allclose(sums.mean, vectors.mean(0), rtol=1e-13)
        np.testing.assert_allclose(sums.cov, np.cov(vectors, rowvar=False), rtol=1e-9, atol=1e-9)


def test_sums_refuse_what_is_no_sample():
    with pytest.raises(EvaluationError, match=r"wanted \(n, 3\)"):
        FrechetSums(3).add(np.zeros((2, 4)))
    with pytest.raises(EvaluationError, match="not finite"):
        FrechetSums(2).add(np.array([[1.0, np.nan]]))
    with pytest.raises(EvaluationError, match="at least 2 clips, got 1"):
        _ = FrechetSums(2).add(np.ones((1, 2))).cov
    with pytest.raises(EvaluationError, match="merge"):
        FrechetSums(2).merge(FrechetSums(3))
    with pytest.raises(EvaluationError, match="2 and 3 features"):
        frechet_distance(np.zeros((4, 2)), np.zeros((4, 3)))


def test_two_samples_of_one_law_are_the_farther_apart_the_smaller_they_are():
    rng = np.random.default_rng(0)
    near = [
        np.mean([frechet_distance(rng.normal(size=(n, 8)), rng.normal(size=(n, 8))) for _ in range(40)])
        for n in (20, 80, 320)
    ]
    assert near[0] / near[1] == pytest.approx(4, rel=0.25)  # 1 / n, to the spread of 40 draws
    assert near[1] / near[2] == pytest.approx(4, rel=0.25)


# Maximum mean discrepancy


def brute_mmd(a, b, groups_a, groups_b):
    def k(x, y):
        return (x @ y / len(x) + 1) ** 3

    def mean(u, v, gu, gv):
        pairs = itertools.product(zip(u, gu, strict=True), zip(v, gv, strict=True))
        return np.mean([k(x, y) for (x, i), (y, j) in pairs if i != j])

    within = mean(a, a, groups_a, groups_a) + mean(b, b, groups_b, groups_b)
    return within - 2 * mean(a, b, groups_a, groups_b)


def test_mmd_equals_its_definition_in_blocks(monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 5)
    a, b = sample(12, 4), sample(17, 4, seed=1)
    assert mmd(a, b) == pytest.approx(brute_mmd(a, b, range(12), range(12, 29)), rel=1e-10)
    ga, gb = np.arange(12) // 3, np.arange(17) // 4
    assert mmd(a, b, groups_a=ga, groups_b=gb) == pytest.approx(brute_mmd(a, b, ga, gb), rel=1e-10)


def test_mmd_is_unbiased_for_any_number_of_clips():
    rng = np.random.default_rng(0)
    for n, m in ((4, 4), (5, 30)):
        values = [mmd(rng.normal(size=(n, 3)), rng.normal(size=(m, 3))) for _ in range(2000)]
        assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
        assert min(values) < 0
    values = [mmd(rng.normal(size=(8, 3)), 1 + rng.normal(size=(8, 3))) for _ in range(200)]
    assert np.mean(values) > 4 * np.std(values) / np.sqrt(len(values))


def test_mmd_refuses_what_has_no_pairs():
    with pytest.raises(EvaluationError, match="at least two groups"):
        mmd(np.ones((3, 2)), np.ones((3, 2)), groups_a=np.zeros(3), groups_b=np.zeros(3))
    with pytest.raises(EvaluationError, match="neither"):
        mmd(np.ones((3, 2)), np.ones((3, 2)), groups_a=np.zeros(3))
    with pytest.raises(EvaluationError, match="shapes"):
        mmd(np.ones((3, 2)), np.ones((3, 4)))


# Distance and floor at the same number of clips


def test_a_perfect_ensemble_scores_its_floor_though_members_resemble_each_other():
    # Exchangeable: truth and members of a case share most of their variance, cases of a run some of it.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 5)
    excess, discrepancy = [], []
    for seed in range(30):
        shared = rng.normal(size=(12, 6))[groups] + rng.normal(size=(60, 6))
        truth = shared + 0.5 * rng.normal(size=(60, 6))
        forecast = shared[:, None] + 0.5 * rng.normal(size=(60, 8, 6))
        found = clip_distance(forecast, truth, groups, splits=5, seed=seed)
        excess.append(found.distance - found.floor)
        discrepancy.append(found.mmd)
        assert found.distance_all < found.distance
        assert found.clips == 30
    for values in (excess, discrepancy):
        assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(30)


def test_halves_never_cut_a_run():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(5), [3, 1, 4, 1, 5])
    for _ in range(50):
        first = halved(groups, 5, rng)
        assert not set(groups[first]) & set(groups[~first])
        assert 2 <= first.sum() <= 12
    with pytest.raises(EvaluationError, match="cannot be split"):
        halved(np.array([0, 1, 1, 1]), 2, rng)


def test_missing_members_are_left_out_and_too_few_cases_refused():
    rng = np.random.default_rng(0)
    truth, forecast = rng.normal(size=(20, 4)), rng.normal(size=(20, 3, 4))
    with_holes = np.concatenate([forecast, np.full((20, 2, 4), np.nan)], axis=1)
    whole, holes = clip_distance(forecast, truth), clip_distance(with_holes, truth)
    assert holes.distance_all == pytest.approx(whole.distance_all, rel=1e-12)
    assert holes.mmd == pytest.approx(whole.mmd, rel=1e-9)
    truth[3:] = np.nan
    with pytest.raises(EvaluationError, match="at least 4 cases in 2 groups"):
        clip_distance(forecast, truth)
    with pytest.raises(EvaluationError, match="got 20 cases in 1"):
        clip_distance(forecast, forecast[:, 0], np.zeros(20))


def test_standardised_distances_do_not_depend_on_the_unit_of_a_feature():
    truth, forecast = sample(30, 5), sample(90, 5, seed=1).reshape(30, 3, 5)
    unit = np.array([1, 10, 100, 1e3, 1e4])
    a = clip_distance(forecast, truth, standardise=True)
    b = clip_distance(forecast * unit + 7, truth * unit + 7, standardise=True)
    assert a == pytest.approx(b, rel=1e-8)


def test_distances_repeat_with_the_seed():
    truth, forecast = sample(20, 3), sample(40, 3, seed=1).reshape(20, 2, 3)
    assert clip_distance(forecast, truth, seed=4) == clip_distance(forecast, truth, seed=4)
    assert clip_distance(forecast, truth, seed=4).distance != clip_distance(forecast, truth, seed=5).distance


# Features of flows


def wave(wavelength=8, speed=1.0, time=6, n=32):
    x, t = np.arange(n), np.arange(time)
    field = np.sin(2 * np.pi * (x - speed * t[:, None]) / wavelength)
    return np.repeat(field[:, None], n, axis=1)[None]


def named(clips, fluid=None, scale=1.0):
    fluid = np.ones(clips.shape[2:], bool) if fluid is None else fluid
    return dict(zip(physics_feature_names(*clips.shape[1:]), physics_features(clips, fluid, scale)[0], strict=True))


def test_features_of_a_travelling_wave_follow_theory():
    found = named(2 + 3 * wave())
    assert found["mean"] == pytest.approx(2, abs=1e-12)
    assert found["log_deviation"] == pytest.approx(np.log(3 / np.sqrt(2)), rel=1e-12)
    assert found["skewness"] == pytest.approx(0, abs=1e-12)
    assert found["log_flatness"] == pytest.approx(np.log(1.5), rel=1e-5)
    for lag in (1, 2, 4):  # <(q(t + lag) - q(t))^2> = 2 v (1 - cos(k c lag))
        expected = np.log(1 - np.cos(2 * np.pi * lag / 8))
        assert found[f"log_increment_t{lag}"] == pytest.approx(expected, abs=1e-5)
    # The frame ends in the middle of a wave: along x the law holds up to the cells lost at the edge.
    assert found["log_increment_x1"] == pytest.approx(np.log(1 - np.cos(2 * np.pi / 8)), abs=0.03)
    assert found["log_increment_y1"] == pytest.approx(np.log(1e-6), abs=1e-3)
    # second over first difference of a wave: 2 (1 - cos(k c))
    assert found["log_acceleration"] == pytest.approx(np.log(2 - 2 * np.cos(2 * np.pi / 8)), abs=1e-4)
    assert found["log_energy_8"] == max(v for k, v in found.items() if k.startswith("log_energy"))
    assert found["log_change_8"] == pytest.approx(np.log(1 - np.cos(2 * np.pi / 8)), abs=1e-3)
    assert found["log_growth"] == pytest.approx(0, abs=1e-12)


def test_motion_has_the_sign_of_the_way_patterns_move():
    assert named(wave(speed=0.5))["motion_x"] == pytest.approx(-1, abs=0.01)  # dq/dt = -c dq/dx
    assert named(wave(speed=-0.5))["motion_x"] == pytest.approx(1, abs=0.01)
    assert named(wave(speed=0.5)[:, ::-1])["motion_x"] == pytest.approx(1, abs=0.01)
    assert named(wave(speed=0.5).swapaxes(2, 3))["motion_y"] == pytest.approx(-1, abs=0.01)
    assert abs(named(wave(speed=0.5))["motion_y"]) < 1e-9


def test_what_lies_in_walls_is_not_seen():
    clips = flow(3)
    fluid = np.ones((NY, NX), bool)
    fluid[8:14, 5:12] = False
    fluid[:, -1] = False
    other = np.where(fluid, clips, 1e6)
    np.testing.assert_array_equal(physics_features(clips, fluid), physics_features(other, fluid))


def test_the_scale_is_a_unit():
    clips = flow(2)
    fluid = np.ones((NY, NX), bool)
    a, b = physics_features(clips, fluid, 1.0), physics_features(7 * clips, fluid, 7.0)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # float32 clips
    changed = physics_features(7 * clips, fluid, 1.0) - a
    moved = [n for n, c in zip(physics_feature_names(TIME, NY, NX), changed[0], strict=True) if abs(c) > 1e-4]
    assert set(moved) <= {"mean", "log_deviation"}


@pytest.mark.parametrize("shape", [(3, 2, 2), (4, 5, 64), (16, 64, 32), (5, 8, 6)])
def test_each_feature_has_a_name_and_constant_clips_finite_features(shape):
    clips = np.stack([np.zeros(shape), np.random.default_rng(0).normal(size=shape), np.full(shape, np.nan)])
    clips[2, 0, 0, 0] = 1.0
    found = physics_features(clips, np.ones(shape[1:], bool))
    assert found.shape == (3, len(physics_feature_names(*shape)))
    assert np.isfinite(found[:2]).all()
    assert np.isnan(found[2]).all()
    assert found.shape[1] <= 40  # few enough for a covariance from 50 to 100 clips


def test_clips_too_short_for_change_are_refused():
    with pytest.raises(EvaluationError, match="at least 3 frames"):
        physics_features(np.zeros((2, 2, 8, 8)), np.ones((8, 8), bool))
    with pytest.raises(EvaluationError, match="wanted"):
        physics_features(np.zeros((2, 4, 8, 8)), np.ones((8, 9), bool))


def blurred(clips, amount, rng):
    return scipy.ndimage.gaussian_filter(clips, (0, 0, amount, amount))


def noisy(clips, amount, rng):
    return clips + clips.std() * amount * rng.normal(size=clips.shape)


def frozen(clips, amount, rng):
    """Each frame shown `amount` times."""
    return clips[:, np.arange(TIME) // amount * amount]


def shuffled(clips, amount, rng):
    """The first `amount` frames in random order."""
    order = [np.r_[rng.permutation(amount), amount:TIME] for _ in clips]
    return np.stack([clip[o] for clip, o in zip(clips, order, strict=True)])


@pytest.mark.parametrize(
    ("harm", "amounts"),
    [(blurred, (0.5, 0.7, 1, 2)), (noisy, (0.1, 0.2, 0.4)), (frozen, (2, 4, 8)), (shuffled, (3, 5, 8))],
)
def test_distance_is_the_floor_for_one_law_and_grows_with_harm(flows, harm, amounts):
    truth, other = flows
    fluid = np.ones((NY, NX), bool)
    fluid[8:14, 5:10] = False
    reference = physics_features(truth, fluid)

    def found(clips):
        return clip_distance(physics_features(clips, fluid)[:, None], reference, standardise=True, splits=5)

    unharmed = found(other)
    assert unharmed.distance == pytest.approx(unharmed.floor, rel=0.2)
    rng = np.random.default_rng(0)
    harmed = [found(harm(other, amount, rng)) for amount in amounts]
    assert (np.diff([h.distance_all for h in (unharmed, *harmed)]) > 0).all()
    assert (np.diff([h.mmd for h in (unharmed, *harmed)]) > 0).all()
    assert harmed[1].distance > 1.5 * unharmed.floor


def test_a_film_run_backwards_is_noticed(flows):
    truth, other = flows
    fluid = np.ones((NY, NX), bool)
    reference = physics_features(truth, fluid)
    found = clip_distance(physics_features(other[:, ::-1], fluid)[:, None], reference, standardise=True)
    assert found.distance > 5 * found.floor


# On labelled arrays


def case(runs=4, inits=3, members=2):
    clips = flow(runs * inits * (members + 1), time=5, y=10, x=12, seed=3)
    clips = clips.reshape(runs, inits, members + 1, 5, 10, 12)
    dims = ("trajectory", "init_time", "member", "lead_time", "y", "x")
    forecast = xr.DataArray(clips[:, :, 1:], dims=dims, coords={"trajectory": np.arange(runs) * 2})
    truth = xr.DataArray(clips[:, :, 0], dims=[d for d in dims if d != "member"], coords=forecast.coords)
    return forecast, truth


def test_labelled_arrays_give_the_numbers_of_plain_ones():
    forecast, truth = case()
    found = frechet_physics_distance(forecast, truth, seed=3)
    fluid, scale = np.ones((10, 12), bool), float(truth.std())
    f = physics_features(forecast.values.reshape(-1, 5, 10, 12), fluid, scale).reshape(12, 2, -1)
    t = physics_features(truth.values.reshape(-1, 5, 10, 12), fluid, scale)
    expected = clip_distance(f, t, np.repeat(np.arange(4), 3), standardise=True, seed=3)
    for name, value in expected._asdict().items():
        assert float(found[name]) == pytest.approx(value, rel=1e-6)
    assert found.attrs["features"] == t.shape[1]


def test_lazy_arrays_of_any_chunks_and_order_give_the_same_numbers():
    forecast, truth = case()
    want = frechet_physics_distance(forecast, truth, splits=3)
    got = frechet_physics_distance(
        forecast.chunk(trajectory=1, member=1, y=3).transpose("x", "member", ...),
        truth.chunk(init_time=1, lead_time=2).transpose("y", ...),
        splits=3,
    )
    assert got["distance"].chunks is not None
    xr.testing.assert_allclose(got.compute(), want, rtol=1e-5)  # the scale is a float32 sum


def test_dims_that_are_not_pooled_are_kept():
    forecast, truth = case(runs=2, inits=5)
    found = frechet_physics_distance(forecast, truth, dim="init_time", splits=2)
    assert found["distance"].dims == ("trajectory",)
    one = frechet_physics_distance(forecast[:1], truth[:1], scale=truth.std(), splits=2)
    assert float(found["distance"][0]) == pytest.approx(float(one["distance"]), rel=1e-9)
    with pytest.raises(DimensionError, match="pool"):
        frechet_physics_distance(forecast, truth, dim=())
    single = frechet_physics_distance(forecast.isel(member=0), truth, member_dim=None, splits=2)
    assert np.isfinite(single["distance"])


def test_walls_and_missing_values_in_labelled_arrays():
    forecast, truth = case()
    wall = xr.zeros_like(truth[0, 0, 0], dtype=bool)
    wall[3:6, 4:7] = True
    masked = truth.where(~wall)
    want = frechet_physics_distance(forecast, masked, nan_policy="omit", splits=2)
    other = frechet_physics_distance(forecast.where(~wall, 1e5), masked, nan_policy="omit", splits=2)
    xr.testing.assert_identical(want, other)
    assert np.isfinite(want["distance"])
    assert np.isnan(frechet_physics_distance(forecast, masked, splits=2)["distance"])
    with pytest.raises(MissingValueError):
        frechet_physics_distance(forecast, masked, nan_policy="raise")
    with pytest.raises(EvaluationError, match="unknown nan_policy"):
        frechet_physics_distance(forecast, truth, nan_policy="ignore")
    holes = forecast.copy()
    holes[1, 1, 0, 0, 0, 0] = np.nan
    assert np.isnan(frechet_physics_distance(holes, truth, splits=2)["distance"])
    assert np.isfinite(frechet_physics_distance(holes, truth, nan_policy="omit", splits=2)["distance"])


def test_nothing_is_broadcast():
    forecast, truth = case()
    with pytest.raises(DimensionError):
        frechet_physics_distance(forecast, truth.isel(x=slice(1)))
    with pytest.raises(DimensionError):
        frechet_physics_distance(forecast, truth.isel(init_time=0))
    with pytest.raises(DimensionError, match="time_dim"):
        frechet_physics_distance(forecast, truth, time_dim="time")
