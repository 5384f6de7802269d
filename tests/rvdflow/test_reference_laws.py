"""Each reference forecast is exact where its own assumption holds."""

import numpy as np
import pytest
import xarray as xr

from rvdflow.baselines import DynamicModes, LinearInverse, fit
from rvdflow.baselines import linear_inverse as module
from rvdflow.baselines.choosing import energy_score
from rvdflow.baselines.dressing import Dressed
from rvdflow.baselines.linear_inverse import companion, fit_propagator
from rvdflow.baselines.optical_flow import displacement
from rvdflow.baselines.pod import Pod
from rvdflow.baselines.training import Climate, Training
from rvdflow.forecaster import Forecaster, Seen


def dataset(values, split, solid=None):
    """An open dataset of (trajectory, time, y, x) values."""
    values = np.asarray(values, dtype=np.float32)
    dims = ("trajectory", "time", "y", "x")
    found = xr.Dataset({"vorticity": (dims, values)})
    found["split"] = ("trajectory", np.array(split))
    if solid is not None:
        found["solid"] = (("trajectory", "y", "x"), np.broadcast_to(solid, (len(split), *values.shape[2:])))
    return found


def autoregressive(rng, runs, times, memory, deviation):
    """AR(1) pixels: (run, time, *memory.shape), from the stationary law."""
    x = deviation * rng.standard_normal((runs, *memory.shape))
    series = []
    for _ in range(times):
        series.append(x)
        x = memory * x + deviation * np.sqrt(1 - memory**2) * rng.standard_normal(x.shape)
    return np.stack(series, 1)


def wave(times, ny=8, nx=16, phase=0.0, speed=0.4):
    """A travelling wave (time, y, x)."""
    t, (y, x) = np.arange(times)[:, None, None], np.mgrid[:ny, :nx]
    return np.sin(2 * np.pi * x / nx * 2 - speed * t + phase) * np.cos(0.5 * y)


def spread_skill(members, truth):
    """sqrt((M + 1) / M * variance / squared error) of (case, member, ...) against (case, ...)."""
    count = members.shape[1]
    variance = members.var(1, ddof=1).mean() * (count + 1) / count
    return np.sqrt(variance / ((members.mean(1) - truth) ** 2).mean())


# ------------------------------------------------------------------ damped persistence


def test_damped_persistence_is_the_conditional_law_of_an_autoregression():
    rng = np.random.default_rng(0)
    memory = np.array([[0.9, 0.5, -0.3], [0.0, 0.8, 0.95]])
    deviation, mean = np.array([[1, 2, 3], [0.5, 1, 1]]), np.array([[0, 1, 2], [3, 4, 5]])
    values = mean + autoregressive(rng, 5, 4000, memory, deviation)
    made = fit("damped-persistence", dataset(values, ["train"] * 4 + ["test"]))
    # 16000 frames: a correlation is known within sqrt((1 - phi^2) / n), here 4 deviations.
    assert np.all(abs(made.memory[0] - memory) < 4 * np.sqrt((1 - memory**2) / 16000) + 1e-6)
    start = (mean + 2 * deviation).astype(np.float32)
    drawn = made.draw(Seen.of(start[None, None, None]), [(4, 0)], range(4000), 4, 0)[0, :, :, 0].astype(np.float64)
    for k in range(1, 5):
        phi, s = made.memory[0] ** k, made.climate.deviation[0]
        expected, variance = made.climate.mean[0] + phi * (start - made.climate.mean[0]), s**2 * (1 - phi**2)
        assert np.all(abs(drawn[:, k - 1].mean(0) - expected) < 4.5 * np.sqrt(variance / 4000))
        assert np.all(abs(drawn[:, k - 1].var(0) / variance - 1) < 4.5 * np.sqrt(2 / 4000))


def test_members_of_damped_persistence_are_coherent_in_time():
    rng = np.random.default_rng(1)
    memory = np.full((1, 2), 0.8)
    made = fit("damped-persistence", dataset(autoregressive(rng, 3, 2000, memory, 1.0), ["train"] * 3))
    drawn = made.draw(Seen.of(np.zeros((1, 1, 1, 1, 2), np.float32)), [(0, 0)], range(4000), 30, 0)[0, :, :, 0, 0, 0]
    # Far from the start, successive leads of a member correlate by phi; 4000 members know it within 0.006.
    assert np.corrcoef(drawn[:, 28], drawn[:, 29])[0, 1] == pytest.approx(made.memory[0, 0, 0], abs=0.025)


def test_noise_of_damped_persistence_has_the_spatial_correlation_of_what_it_leaves():
    rng = np.random.default_rng(2)
    common = autoregressive(rng, 4, 3000, np.full((1, 1), 0.7), 1.0)
    own = autoregressive(rng, 4, 3000, np.full((1, 4), 0.7), 0.5)
    made = fit("damped-persistence", dataset(common + own, ["train"] * 4))
    drawn = made.draw(Seen.of(np.zeros((1, 1, 1, 1, 4), np.float32)), [(0, 0)], range(3000), 1, 0)[0, :, 0, 0, 0]
    correlation = np.corrcoef(drawn.T)[np.triu_indices(4, 1)]
    np.testing.assert_allclose(correlation, 0.8, atol=0.1)  # 1 / (1 + 0.5^2); the noise holds 256 fields


# ------------------------------------------------------------------ linear models


def linear_system(rng, runs, times, step, lags=1):
    """z_{t+1} = [z_t, z_{t-1}] step + noise, embedded in frames of 4 x 6 pixels: (frames, coefficients)."""
    modes = step.shape[1]
    z = np.zeros((runs, times + 200, modes))
    for t in range(lags, z.shape[1]):
        state = np.concatenate([z[:, t - 1 - j] for j in range(lags)], -1)
        z[:, t] = state @ step + 0.3 * rng.standard_normal((runs, modes))
    z = z[:, 200:]
    basis = np.linalg.qr(rng.standard_normal((24, modes)))[0].T
    return (z @ basis).reshape(runs, times, 4, 6), z


def rotation(angle, radius):
    return radius * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


STEP = np.zeros((4, 4))
STEP[:2, :2], STEP[2:, 2:] = rotation(0.7, 0.95), rotation(0.2, 0.8)


def eigenvalues(step):
    return np.sort_complex(np.linalg.eigvals(companion(step)))


@pytest.mark.parametrize("lags", [1, 2])
def test_the_linear_model_recovers_the_eigenvalues_of_a_linear_system(lags):
    step = STEP if lags == 1 else np.concatenate([0.6 * STEP, -0.3 * np.eye(4)])
    _, z = linear_system(np.random.default_rng(3), 6, 3000, step, lags)
    found = fit_propagator(list(z), 4, lags, 1e-8)
    # 18000 samples: deviations of about sqrt((1 - |l|^2) / n) < 0.008.
    np.testing.assert_allclose(eigenvalues(found.step), eigenvalues(step), atol=0.02)
    np.testing.assert_allclose(found.factor.T @ found.factor, 0.09 * np.eye(4), atol=0.004)
    assert found.radius == pytest.approx(abs(eigenvalues(step)).max(), abs=0.01)


def test_members_of_the_linear_model_end_in_its_stationary_law_and_spread_as_they_err():
    frames, _ = linear_system(np.random.default_rng(4), 12, 1000, STEP)
    opened = dataset(frames, ["train"] * 8 + ["validation"] * 2 + ["test"] * 2)
    made = fit("linear-inverse", opened, lead=6)
    assert (made.model.modes, made.pod.rank) == (4, 4)
    result = made.forecast(opened, members=20, lead=60, stride=25)["vorticity"].values  # run, init, member, lead
    truth = np.stack([frames[10:, t + 1 : t + 61] for t in range(3, 1000 - 60, 25)], 1)
    members, truth = (x.reshape(-1, *x.shape[2:]) for x in (result, truth))
    assert members[:, :, -1].var() == pytest.approx(frames[:8].var(), rel=0.06)
    for lead in (0, 1, 3, 7):  # 76 cases x 4 modes: within about 1 / sqrt(2 * 76 * 4) = 0.04
        assert spread_skill(members[:, :, lead], truth[:, lead]) == pytest.approx(1, abs=0.12)


def test_modes_that_the_linear_model_leaves_out_keep_their_variance(monkeypatch):
    rng = np.random.default_rng(5)
    slow, _ = linear_system(rng, 10, 800, STEP)
    frames = slow + 0.2 * rng.standard_normal(slow.shape)
    monkeypatch.setattr(module, "MODES", (4,))
    opened = dataset(frames, ["train"] * 8 + ["validation", "test"])
    made = fit("linear-inverse", opened)
    result = made.forecast(opened, members=20, lead=40, stride=40)["vorticity"].values
    np.testing.assert_allclose(result[:, :, :, -1].var((0, 1, 2)), frames[:8].var((0, 1)), rtol=0.25)
    assert result[:, :, :, -1].var() == pytest.approx(frames[:8].var(), rel=0.05)


def test_dynamic_modes_continue_a_travelling_wave_exactly():
    frames = np.stack([wave(80, phase=p) for p in (0.0, 1.0, 2.0, 3.0)])
    opened = dataset(frames, ["train", "train", "validation", "test"])
    made = fit("dmd", opened)
    result = made.forecast(opened, lead=16, init_times=[20])["vorticity"].values[0, 0, 0]
    np.testing.assert_allclose(result, frames[3, 21:37], atol=1e-3)  # 16 steps of float32 modes
    assert made.stamp()["largest_eigenvalue"] == pytest.approx(1, abs=1e-3)


def test_dynamic_modes_are_the_mean_of_the_noisy_model():
    frames, _ = linear_system(np.random.default_rng(6), 8, 600, STEP)
    opened = dataset(frames, ["train"] * 6 + ["validation", "test"])
    data = Training(opened)
    pod = Pod(data, Climate(data))
    model = fit_propagator(pod.series(data, data.segments), 4, 1, 1e-8)
    mean, noisy = DynamicModes(data, pod, model), LinearInverse(data, pod, model)
    seen = Seen.of(frames[7:, 10:11, None].astype(np.float32))
    drawn = noisy.draw(seen, [(7, 10)], range(2000), 5, 0)[0]
    error = drawn.std(0) / np.sqrt(2000)
    assert np.all(abs(drawn.mean(0) - mean.draw(seen, [(7, 10)], [0], 5, 0)[0, 0]) < 5 * error)


def test_a_growing_mode_is_held():
    z = 1.02 ** np.arange(200)[:, None]
    found = fit_propagator([z], 1, 1, 0.0)
    assert found.radius == pytest.approx(1.02)
    assert found.step[0, 0] == pytest.approx(1)


def test_modes_are_orthonormal_and_hold_what_a_singular_value_decomposition_holds():
    rng = np.random.default_rng(7)
    frames = (rng.standard_normal((2, 60, 5)) * [5, 4, 3, 2, 1]) @ rng.standard_normal((5, 30))
    data = Training(dataset(frames.reshape(2, 60, 5, 6), ["train", "train"]))
    pod = Pod(data, Climate(data))
    assert pod.rank == 5
    np.testing.assert_allclose(pod.modes @ pod.modes.T, np.eye(5), atol=1e-5)
    away = frames.reshape(120, 30) - frames.mean((0, 1))
    exact = np.linalg.svd(away / away.std(), compute_uv=False)[:5] ** 2 / 120
    np.testing.assert_allclose(pod.variance, exact, rtol=1e-4)
    assert pod.fraction(5) == pytest.approx(1, abs=1e-5)


# ------------------------------------------------------------------ analogs


def test_analogs_of_a_periodic_flow_repeat_exactly():
    period = 8
    frames = np.stack([wave(64, phase=p, speed=2 * np.pi / period) for p in (0, np.pi / 4, np.pi / 2, np.pi)])
    opened = dataset(frames, ["train", "train", "validation", "test"])
    result = fit("analog", opened, lead=10).forecast(opened, members=6, lead=10, init_times=[12])["vorticity"].values
    for member in result[0, 0]:
        np.testing.assert_allclose(member, frames[3, 13:23], atol=1e-5)


def test_analogs_do_not_overlap_and_leave_out_the_run_that_is_forecast():
    rng = np.random.default_rng(8)
    opened = dataset(autoregressive(rng, 4, 60, np.full((3, 4), 0.9), 1.0), ["train", "train", "validation", "test"])
    made = fit("analog", opened, lead=5)
    past = made.pod.series(made.data, made.data.segments)[0][30 : 30 + made.frames]
    found = made.library.nearest(past, 50, 5, modes=made.modes)
    assert found[0] == (0, 30 + made.frames - 1)  # itself
    for k, (i, t) in enumerate(found):
        assert all(i != j or abs(t - s) >= made.frames for j, s in found[:k])
    assert {i for i, _ in made.library.nearest(past, 50, 5, modes=made.modes, without=0)} == {1}


def test_members_beyond_the_analogs_begin_again():
    rng = np.random.default_rng(9)
    opened = dataset(autoregressive(rng, 3, 12, np.full((2, 3), 0.9), 1.0), ["train", "validation", "test"])
    made = fit("analog", opened, context=1, lead=5)
    count = len(made.library.nearest(np.zeros((1, made.pod.rank)), 99, 5, modes=made.modes))
    drawn = made.draw(Seen.of(np.zeros((1, 1, 1, 2, 3), np.float32)), [(2, 0)], range(count + 2), 5, 0)[0]
    np.testing.assert_array_equal(drawn[count:], drawn[:2])


# ------------------------------------------------------------------ advection


def blobs(times, velocity, ny=32, nx=48):
    """Smooth blobs that move by `velocity` (y, x) pixels per frame."""
    y, x = np.mgrid[:ny, :nx]
    rng = np.random.default_rng(10)
    places = rng.uniform([-10, -20], [ny + 10, nx + 20], (60, 2))
    signs = rng.choice([-1, 1], 60)
    return np.stack(
        [
            sum(
                s * np.exp(-((y - p - velocity[0] * t) ** 2 + (x - q - velocity[1] * t) ** 2) / 18)
                for s, (p, q) in zip(signs, places, strict=True)
            )
            for t in range(times)
        ]
    )


@pytest.mark.parametrize("velocity", [(0.3, 0.0), (0.6, 1.7), (-1.0, 3.2)])
def test_advection_finds_and_continues_a_uniform_translation(velocity):
    frames = blobs(9, velocity)
    context = frames[None, :3, None].astype(np.float32)
    moved = displacement(context, np.ones((1, 32, 48), bool), 4.0)[0]
    inside = (slice(6, -6), slice(14, -6))
    np.testing.assert_allclose(moved[0][inside], velocity[0], atol=0.1)
    np.testing.assert_allclose(moved[1][inside], velocity[1], atol=0.1)
    opened = dataset(np.stack([frames] * 3), ["train", "validation", "test"])
    drawn = fit("advection", opened, context=3, lead=4).draw(Seen.of(context), [(2, 2)], [0], 4, 0)[0, 0, :, 0]
    # What has come in through the edges since cannot be known; bilinear interpolation of blobs 3 pixels wide
    # costs up to h^2 / 8 * 2 / 9 * 2 = 0.06.
    assert abs(drawn - frames[3:7])[:, 6:-6, 19:-6].max() < 0.15
    assert abs(frames[2] - frames[6])[6:-6, 19:-6].max() > 0.3


def test_advection_takes_nothing_from_inside_an_obstacle():
    frames = blobs(3, (0.0, 2.0))
    solid = np.zeros((32, 48), bool)
    solid[12:20, 10:18] = True
    opened = dataset(np.stack([frames] * 3), ["train", "validation", "test"], solid)
    made = fit("advection", opened, context=3, lead=3)
    context = np.repeat(frames[None, :, None], 2, 0).astype(np.float32)
    context[0][..., solid], context[1][..., solid] = 0, 1e6
    one, other = made.draw(Seen.of(context, solid), [(2, 2), (2, 2)], [0], 6, 0)[:, 0, :, 0][..., ~solid]
    np.testing.assert_allclose(one, other, atol=1e-5)


# ------------------------------------------------------------------ dressing and choosing


class Zero(Forecaster):
    """Forecasts zero."""

    method, deterministic = "zero", True

    def roll(self, seen, cases, members, lead, seed):
        yield np.zeros((len(cases), len(members), lead, *seen.frames.shape[2:]), np.float32)


def test_dressing_makes_rank_histograms_flat_and_takes_off_the_bias():
    rng = np.random.default_rng(11)
    values = 2 + autoregressive(rng, 40, 30, np.full((2, 2), 0.8), 1.0)
    opened = dataset(values, ["train"] + ["validation"] * 19 + ["test"] * 20)
    result = Dressed(Zero(), Training(opened)).forecast(opened, members=9, lead=4, init_times=[5, 20])
    members = result["vorticity"].values  # run, init, member, lead, y, x
    truth = np.stack([values[20:, t + 1 : t + 5] for t in (5, 20)], 1)
    counts = np.bincount((members < truth[:, :, None]).sum(2).ravel(), minlength=10)
    # 640 ranks that come in dependent groups (4 leads of one AR(1) count about as 2): 64 each, deviation about 11.
    assert abs(counts - 64).max() < 45
    assert members.mean() == pytest.approx(2, abs=0.25)


def test_dressing_leaves_out_the_run_that_is_forecast():
    values = np.broadcast_to(np.arange(5)[:, None, None, None], (5, 20, 2, 2)).astype(float)
    opened = dataset(values, ["train", "validation", "validation", "validation", "test"])
    made = Dressed(Zero(), Training(opened))
    drawn = made.draw(Seen.of(np.zeros((2, 4, 1, 2, 2), np.float32)), [(2, 5), (4, 5)], range(200), 3, 0)
    assert set(np.unique(drawn[0])) == {1, 3}
    assert set(np.unique(drawn[1])) == {1, 2, 3}


def test_residuals_are_coherent_sequences_of_one_case():
    rng = np.random.default_rng(12)
    values = rng.standard_normal((3, 30, 2, 3))
    opened = dataset(values, ["train", "validation", "test"])
    made = Dressed(Zero(), Training(opened))
    drawn = made.draw(Seen.of(np.zeros((1, 4, 1, 2, 3), np.float32)), [(2, 5)], range(10), 5, 0)[0, :, :, 0]
    pieces = [values[1, t + 1 : t + 6].astype(np.float32) for t in range(3, 25)]
    assert all(any(np.array_equal(member, piece) for piece in pieces) for member in drawn)
    assert len({member.tobytes() for member in drawn}) == 10


def test_the_energy_score_is_its_double_sum():
    rng = np.random.default_rng(13)
    members, truth = rng.standard_normal((3, 5, 2, 4)), rng.standard_normal((3, 2, 4))
    expected = []
    for case, lead in np.ndindex(3, 2):
        x, y = members[case, :, lead], truth[case, lead]
        apart = sum(np.linalg.norm(a - b) for a in x for b in x) / (5 * 4)
        expected.append(np.mean([np.linalg.norm(a - y) for a in x]) - apart / 2)
    assert energy_score(members, truth) == pytest.approx(np.mean(expected), rel=1e-12)
