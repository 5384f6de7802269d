"""Spectra in space: variance lands in the right shell, adds up, and coherence finds what is in its place."""

import numpy as np
import pytest
import xarray as xr

from evaluation import spectra
from evaluation.energy_spectra import enstrophy_spectrum, kinetic_energy_spectrum
from evaluation.errors import DimensionError, EvaluationError, MissingValueError
from evaluation.spectral_scores import (
    band_energy_ratio,
    effective_resolution,
    log_spectral_distance,
    power_spectra,
    spectral_coherence,
)

SHAPES = [(32, 64), (16, 16), (33, 21), (7, 50), (1, 20)]
SCORES = [spectral_coherence, effective_resolution, log_spectral_distance, band_energy_ratio]


def everywhere(shape):
    return np.ones(shape, bool)


def wave(shape, ky, kx, phase=0.3):
    """Cosine with ky and kx cycles across the frame, of variance 1/2."""
    y, x = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
    return np.cos(2 * np.pi * (ky * y + kx * x) + phase)


def noise(shape, slope, seed=0, lowest=1):
    """Periodic random field with power ~ |k|^slope per mode, and nothing below `lowest` cycles per frame width."""
    rng = np.random.default_rng(seed)
    ky, kx = np.fft.fftfreq(shape[-2])[:, None], np.fft.rfftfreq(shape[-1])[None]
    k = np.hypot(ky, kx) * shape[-1]
    amplitude = np.where(k >= lowest - 0.5, np.maximum(k, 1) ** (slope / 2), 0)
    return np.fft.irfft2(np.fft.rfft2(rng.normal(size=shape)) * amplitude, s=shape[-2:])


@pytest.mark.parametrize(("ky", "kx", "shell"), [(0, 1, 1), (0, 5, 5), (3, 0, 6), (3, 4, 7), (-5, 12, 16), (0, 32, 32)])
def test_a_wave_lands_in_its_shell_with_its_variance(ky, kx, shell):
    shape = (32, 64)  # shells count cycles over the longer side: ky cycles over 32 cells are 2 ky
    assert shell == round(np.hypot(2 * ky, kx))
    field = 3.0 + 2.0 * wave(shape, ky, kx)
    power = spectra.shell_spectra(field, everywhere(shape), window="none")
    assert power[shell - 1] == pytest.approx(field.var(), rel=1e-12)
    assert power.sum() == pytest.approx(field.var(), rel=1e-12)
    assert spectra.wavenumbers(shape)[shell - 1] == shell / 64


@pytest.mark.parametrize("m", [1, 2, 7, 40])
def test_a_cosine_that_fits_the_mirror_is_one_mode_of_it(m):
    # cos(pi m (x + 1/2) / N) continues evenly across both edges, with m half waves in the frame
    field = np.cos(np.pi * m * (np.arange(64) + 0.5) / 64) * np.ones((16, 1))
    power = spectra.shell_spectra(field, everywhere((16, 64)), window="mirror")
    shell = int(m / 2 + 0.5)
    assert power[shell - 1] == pytest.approx(field.var(), rel=1e-12)


@pytest.mark.parametrize("kx", [5.0, 9.5, 20.0])
def test_a_wave_that_does_not_fit_stays_near_its_shell_under_the_hann_window(kx):
    shape = (64, 64)
    field = wave(shape, 0, kx) * 1.0
    hann = spectra.shell_spectra(field, everywhere(shape), window="hann")
    plain = spectra.shell_spectra(field, everywhere(shape), window="none")
    near = np.abs(spectra.wavenumbers(shape) * 64 - kx) <= 2.5
    assert hann[near].sum() / hann.sum() > 0.995
    assert hann.sum() == pytest.approx(0.5, rel=0.05)
    assert hann[~near].sum() <= plain[~near].sum() or kx == int(kx)


@pytest.mark.parametrize("window", spectra.WINDOWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_shells_add_up_to_the_variance_under_the_weights_of_the_window(shape, window):
    rng = np.random.default_rng(1)
    fields = rng.normal(size=(3, *shape)) + 5
    fluid = rng.random(shape) < 0.9
    hann = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape))
    weight = (hann if window == "hann" else 1.0) * fluid
    mean = (fields * weight).sum((1, 2)) / weight.sum()
    variance = ((weight * (fields - mean[:, None, None])) ** 2).sum((1, 2)) / (weight**2).sum()
    power = spectra.shell_spectra(fields, fluid, window=window)
    np.testing.assert_allclose(power.sum(-1), variance, rtol=1e-12)
    assert power.shape == (3, spectra.wavenumbers(shape).size)
    assert spectra.modes_per_shell(shape, window).sum() == shape[0] * shape[1] - 1


@pytest.mark.parametrize("window", spectra.WINDOWS)
def test_white_noise_has_the_same_power_in_every_mode(window):
    shape = (32, 48)
    fields = np.random.default_rng(2).normal(size=(400, *shape))
    power = spectra.shell_spectra(fields, everywhere(shape), window=window).mean(0)
    modes = spectra.modes_per_shell(shape, window)
    first = 3 if window == "hann" else 1  # that window mixes the first shells with the mean, which is gone
    inside = (modes >= 8) & (np.arange(modes.size) >= first - 1)
    flat = power[inside] / modes[inside] * modes.sum()
    assert np.abs(flat - 1).max() < 0.06  # 400 fields with >= 8 modes each: standard error <= 2.5 %
    assert power.sum() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("slope", [-2.0, -4.0])
@pytest.mark.parametrize("window", ["none", "hann"])
def test_the_exponent_of_a_power_law_is_found(slope, window):
    shape = (128, 128)
    fields = np.stack([noise(shape, slope, seed) for seed in range(12)])
    power = spectra.shell_spectra(fields, everywhere(shape), window=window).mean(0)
    k = spectra.wavenumbers(shape) * 128
    use = (k >= 4) & (k <= 50)
    found = np.polyfit(np.log(k[use]), np.log(power[use]), 1)[0]
    assert found == pytest.approx(slope + 1, abs=0.1)  # a shell of k has ~ 2 pi k modes


def test_what_stands_in_walls_does_not_matter():
    rng = np.random.default_rng(3)
    fields, truth = rng.normal(size=(4, 2, 24, 32)), rng.normal(size=(2, 24, 32))
    fluid = everywhere((24, 32))
    fluid[8:14, 5:12] = False
    other = np.where(fluid, fields, 1e6)
    for window in spectra.WINDOWS:
        a = spectra.case_spectra(fields, truth, fluid, window=window)
        b = spectra.case_spectra(other, truth, fluid, window=window)
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_case_spectra_are_those_of_single_members():
    rng = np.random.default_rng(4)
    members, truth = rng.normal(size=(5, 3, 16, 24)).astype(np.float32), rng.normal(size=(3, 16, 24))
    fluid = rng.random((16, 24)) < 0.9
    power, power_truth, cross = spectra.case_spectra(members, truth, fluid)
    np.testing.assert_allclose(power, spectra.shell_spectra(members, fluid).mean(0), rtol=1e-12)
    np.testing.assert_allclose(power_truth, spectra.shell_spectra(truth, fluid), rtol=1e-12)
    each = [spectra.cross_spectra(m, truth, fluid) for m in members]
    np.testing.assert_allclose(cross, np.mean(each, axis=0), rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(spectra.cross_spectra(members, truth, fluid), each, rtol=1e-12, atol=1e-16)


def test_8_bit_fields_give_the_numbers_of_floats():
    rng = np.random.default_rng(5)
    members = rng.integers(0, 256, size=(3, 2, 16, 16), dtype=np.uint8)
    truth = rng.integers(0, 256, size=(2, 16, 16), dtype=np.uint8)
    got = spectra.case_spectra(members, truth, everywhere((16, 16)))
    want = spectra.case_spectra(members.astype(float), truth.astype(float), everywhere((16, 16)))
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)


def test_the_power_of_members_is_not_that_of_their_mean():
    rng = np.random.default_rng(6)
    members, truth = rng.normal(size=(16, 1, 32, 32)), rng.normal(size=(1, 32, 32))
    power, _, _ = spectra.case_spectra(members, truth, everywhere((32, 32)), window="none")
    assert power.sum() == pytest.approx(1, abs=0.1)
    assert members.mean(0).var() < 0.1


def test_coherence_of_a_field_with_itself_is_one_whatever_its_amplitude():
    field = noise((32, 32), -2)[None]
    fluid = everywhere((32, 32))
    power, power_truth, cross = spectra.case_spectra(3 * field[None], field, fluid)
    np.testing.assert_allclose(spectra.coherence(power, power_truth, cross), 1, rtol=1e-10)
    assert spectra.effective_resolution(power, power_truth, cross, spectra.wavenumbers((32, 32)))[0] == 2


def test_coherence_with_the_opposite_is_none():
    field = noise((32, 32), -2)[None]
    found = spectra.case_spectra(-field[None], field, everywhere((32, 32)))
    np.testing.assert_array_equal(spectra.coherence(*found), 0)
    assert spectra.effective_resolution(*found, spectra.wavenumbers((32, 32)))[0] == np.inf


def test_coherence_of_independent_noise_is_within_its_bias():
    shape, cases = (32, 32), 40
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(2, cases, *shape))
    power, power_truth, cross = (x.mean(0) for x in spectra.case_spectra(a[None], b, everywhere(shape), window="none"))
    # the sum over n modes of Re(a conj b) has the variance n (in units of the power of one), and half of the sums are
    # negative: cross^2 / (power power_truth) is 1 / (2n) on average
    modes = spectra.modes_per_shell(shape) * cases
    ratio = spectra.coherence(power, power_truth, cross)[:16] * modes[:16]
    assert ratio.mean() == pytest.approx(0.5, abs=0.5)  # 16 values of variance ~ 1.25
    assert spectra.coherence(power, power_truth, cross)[:16].max() < 0.05


@pytest.mark.parametrize("limit", [6, 12, 20])
def test_effective_resolution_is_where_noise_replaces_the_truth(limit):
    shape, cases = (64, 64), 12
    k = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64)) * 64
    truth = np.stack([noise(shape, -1, s) for s in range(cases)])
    other = np.stack([noise(shape, -1, s + 100) for s in range(cases)])
    modes = np.where(k < limit + 0.5, np.fft.rfft2(truth), np.fft.rfft2(other))
    forecast = np.fft.irfft2(modes, s=shape)
    found = spectra.case_spectra(forecast[None], truth, everywhere(shape), window="none")
    length = spectra.effective_resolution(*(x.mean(0) for x in found), spectra.wavenumbers(shape))
    assert 64 / (limit + 1) < length < 64 / limit  # between the last shell of the truth and the first of noise


def test_effective_resolution_is_interpolated_between_shells():
    k = np.array([0.1, 0.2, 0.3])
    ones = np.ones(3)
    cross = np.sqrt(np.array([0.9, 0.75, 0.25]))
    assert spectra.effective_resolution(ones, ones, cross, k) == pytest.approx(1 / 0.25)
    assert np.isnan(spectra.effective_resolution(0 * ones, ones, cross, k))


def test_log_spectral_distance_of_a_factor_is_its_decibels():
    power = np.array([[1.0, 0.5, 1e-3], [2.0, 1.0, 1e-4]])
    np.testing.assert_allclose(spectra.log_spectral_distance(10 * power, power), 10)
    np.testing.assert_allclose(spectra.log_spectral_distance(power / 100, power), 20)
    ratio = np.array([2.0, 1.0, 0.25])
    want = np.sqrt(np.mean((10 * np.log10(ratio)) ** 2))
    np.testing.assert_allclose(spectra.log_spectral_distance(ratio * power, power), want)
    assert np.isfinite(spectra.log_spectral_distance(0 * power, power)).all()  # bounded, at 100 dB for a flat truth
    assert spectra.log_spectral_distance(np.zeros(3), np.ones(3)) == pytest.approx(100)


def test_band_energy_ratio_finds_the_smooth_band():
    shape = (64, 64)
    truth = noise(shape, -1)
    k = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64))
    smooth = np.fft.irfft2(np.fft.rfft2(truth) * np.where(k >= 7.5 / 64, 0.5, 1), s=shape)
    power, power_truth = (spectra.shell_spectra(a, everywhere(shape), window="none") for a in (smooth, truth))
    ratio = spectra.band_energy_ratio(power, power_truth, spectra.wavenumbers(shape))
    np.testing.assert_allclose(ratio[:3], 1, rtol=1e-12)  # longer than 8 cells
    np.testing.assert_allclose(ratio[3:], 0.25, rtol=1e-12)  # 8 cells and shorter
    with pytest.raises(EvaluationError, match="band"):
        spectra.band_energy_ratio(power, power_truth, spectra.wavenumbers(shape), [(2, 4)])


def test_energy_from_vorticity_is_that_of_the_velocity_of_a_stream_function():
    shape = (48, 64)
    modes = np.fft.rfft2(noise(shape, -4))
    ky, kx = 2j * np.pi * np.fft.fftfreq(48)[:, None], 2j * np.pi * np.fft.rfftfreq(64)[None]
    modes[24] = modes[:, 32] = 0  # waves of two cells have no derivative on the grid
    u, v = np.fft.irfft2(ky * modes, s=shape), np.fft.irfft2(-kx * modes, s=shape)
    vorticity = np.fft.irfft2(-(kx**2 + ky**2) * modes, s=shape)
    u, v, vorticity = (xr.DataArray(a, dims=("y", "x"), attrs={"units": "m/s"}) for a in (u, v, vorticity))
    energy = kinetic_energy_spectrum(u, v, window="none")
    xr.testing.assert_allclose(energy, kinetic_energy_spectrum(vorticity=vorticity, window="none"), atol=1e-16)
    assert float(energy.sum()) == pytest.approx(0.5 * float(u.var() + v.var()), rel=1e-12)
    enstrophy = enstrophy_spectrum(vorticity, window="none")
    assert float(enstrophy.sum()) == pytest.approx(0.5 * float(vorticity.var()), rel=1e-12)
    assert energy.attrs["units"] == "(m/s)^2"
    with pytest.raises(EvaluationError, match="vorticity alone"):
        kinetic_energy_spectrum(u)
    with pytest.raises(DimensionError):
        kinetic_energy_spectrum(u, v.isel(x=slice(3)))
    walls = vorticity.where(vorticity.x > 10)
    assert enstrophy_spectrum(walls).isnull().all()
    assert enstrophy_spectrum(walls.chunk(x=8), nan_policy="omit").compute().notnull().all()
    with pytest.raises(MissingValueError):
        enstrophy_spectrum(walls, nan_policy="raise")


def case(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    dims = ("trajectory", "member", "lead_time", "y", "x")
    truth = rng.normal(size=(2, 3, 16, 24))
    forecast = truth[:, None] + 0.3 * rng.normal(size=(2, 4, 3, 16, 24))
    forecast = xr.DataArray(forecast.astype(dtype), dims=dims, coords={"lead_time": [1, 2, 3]}, attrs={"units": "m"})
    truth = xr.DataArray(truth.astype(dtype), dims=[d for d in dims if d != "member"], attrs={"units": "m"})
    return forecast, truth.assign_coords(lead_time=[1, 2, 3])


@pytest.mark.parametrize("score", [power_spectra, *SCORES])
def test_lazy_input_gives_the_numbers_of_numpy(score):
    forecast, truth = case()
    want = score(forecast, truth, dim="trajectory")
    got = score(forecast.chunk(lead_time=1, member=2, x=8), truth.chunk(trajectory=1), dim="trajectory")
    assert got.chunks
    xr.testing.assert_allclose(got.compute(), want)


@pytest.mark.parametrize("score", [power_spectra, *SCORES])
def test_names_of_dimensions_are_matched_and_never_broadcast(score):
    forecast, truth = case()
    names = {"lead_time": "prediction_timedelta", "y": "latitude", "x": "longitude"}
    renamed = forecast.rename(names | {"member": "realization"}).transpose()
    xr.testing.assert_allclose(score(renamed, truth.rename(names)), score(forecast, truth))
    with pytest.raises(DimensionError):
        score(forecast, truth.isel(lead_time=0))
    with pytest.raises(DimensionError):
        score(forecast, truth.isel(x=slice(5)))
    with pytest.raises((DimensionError, EvaluationError)):
        score(forecast, truth, space=("y", "z"))
    single = score(forecast.isel(member=0), truth, member_dim=None)
    xr.testing.assert_allclose(single, score(forecast.isel(member=[0]), truth))


def test_averages_are_taken_before_ratios():
    forecast, truth = case()
    forecast[1] = 10 * forecast[1]
    means = power_spectra(forecast, truth, dim=["trajectory", "lead_time"])
    want = means.cross_power**2 / (means.power * means.power_truth)
    xr.testing.assert_allclose(spectral_coherence(forecast, truth).drop_attrs(), want.drop_attrs())
    each = spectral_coherence(forecast, truth, dim=())
    assert each.dims == ("trajectory", "lead_time", "wavenumber")
    assert float(abs(each.mean(["trajectory", "lead_time"]) - want).max()) > 1e-3


def test_weights_weigh_cases():
    forecast, truth = case()
    weights = xr.DataArray([0.0, 2.0], dims="trajectory")
    want = power_spectra(forecast.isel(trajectory=1), truth.isel(trajectory=1), dim="lead_time")
    xr.testing.assert_allclose(power_spectra(forecast, truth, weights=weights), want)


def test_walls_and_missing_values():
    forecast, truth = case()
    walls = truth.where((truth.x < 5) | (truth.x > 9) | (truth.y > 6))
    omitted = power_spectra(forecast, walls, nan_policy="omit")
    inside = forecast.where(walls.notnull(), 1e9)
    xr.testing.assert_identical(power_spectra(inside, walls, nan_policy="omit"), omitted)
    assert bool(power_spectra(forecast, walls).power.isnull().all())
    with pytest.raises(MissingValueError):
        power_spectra(forecast, walls, nan_policy="raise")
    broken = forecast.copy()
    broken[0, 1, 0, 3, 3] = np.nan
    assert power_spectra(broken, truth, dim="trajectory").power.isnull().any("wavenumber").values.tolist() == [1, 0, 0]
    assert bool(power_spectra(broken, truth, nan_policy="omit").power.notnull().all())


def test_results_say_what_they_are():
    forecast, truth = case()
    found = power_spectra(forecast, truth)
    assert found.power.attrs["units"] == "(m)^2"
    assert found.wavenumber.attrs["units"] == "cycles per cell"
    assert log_spectral_distance(forecast, truth).attrs["units"] == "dB"
    assert effective_resolution(forecast, truth).attrs["units"] == "cells"
    bands = band_energy_ratio(forecast, truth, bands=[(24, 8), (8, 4)])
    assert bands.longest.values.tolist() == [24, 8]
    with pytest.raises(EvaluationError, match="window"):
        power_spectra(forecast, truth, window="welch")
    with pytest.raises(EvaluationError, match="no cell"):
        spectra.shell_spectra(np.zeros((4, 4)), np.zeros((4, 4), bool))
