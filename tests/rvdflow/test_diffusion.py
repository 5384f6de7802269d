"""Noise levels, noising and preconditioning against their equations."""

import math

import pytest
import torch

from rvdflow.config import SamplerConfig
from rvdflow.diffusion import (
    POSITIONS,
    Continuum,
    Level,
    add_noise,
    cosine_schedule,
    position,
    position_of,
    read_answer,
    sigma_at,
    target,
)
from rvdflow.noise import Draws
from rvdflow.samplers import sigmas


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _draws(total, seed=0):
    return Draws(torch.Generator().manual_seed(seed), total)


def test_cosine_schedule_follows_nichol_and_dhariwal():
    schedule = cosine_schedule(1600)
    n = torch.tensor([0, 1, 400, 800, 1200, 1590])
    f = torch.cos((n.double() / 1600 + 0.008) / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(schedule.alpha_bar[n], f / math.cos(0.008 / 1.008 * math.pi / 2) ** 2)
    beta = 1 - schedule.alpha_bar[1:] / schedule.alpha_bar[:-1]
    assert beta.max() == pytest.approx(0.999)
    assert (beta > 0).all()


def test_a_discrete_level_scales_by_the_roots_of_alpha_bar():
    schedule, n = cosine_schedule(1600), torch.tensor([0, 1, 37, 800, 1599, 1600])
    signal, noise = schedule.level(n).scales(4)
    assert signal.shape == noise.shape == (6, 1, 1, 1)
    abar = schedule.alpha_bar[n]
    torch.testing.assert_close(signal.flatten().double(), abar.sqrt(), rtol=1e-6, atol=0)  # levels are float32
    torch.testing.assert_close(noise.flatten().double(), (1 - abar).sqrt(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("spacing", ["even", "karras"])
def test_each_level_that_a_sampler_visits_is_shown_to_the_network_as_its_own_step(spacing):
    schedule, like = cosine_schedule(1600), torch.zeros(3, 1)
    grid = sigmas(schedule, SamplerConfig(steps=1500, spacing=spacing))
    levels = [schedule.at(s, like) for s in grid]
    steps = [int(level.position[0]) for level in levels]
    assert steps == sorted(set(steps), reverse=True)
    torch.testing.assert_close(schedule.sigma[steps], torch.tensor(grid, dtype=torch.float64), rtol=0, atol=0)
    assert levels[0].position.tolist() == [steps[0]] * 3


def test_every_step_of_a_schedule_is_drawn_as_often_from_1_to_N():
    count = 40_000
    level = cosine_schedule(10).draw(_draws(count), 1)
    found = torch.bincount(level.position, minlength=11)
    assert found[0] == 0
    assert (found[1:] - count / 10).abs().max() < 4.5 * math.sqrt(count * 0.1 * 0.9)  # 4.5 standard deviations
    torch.testing.assert_close(level.sigma.double(), cosine_schedule(10).sigma[level.position], rtol=1e-6, atol=0)


def test_continuous_levels_are_log_normal():
    level = Continuum(-0.4, 1.4).draw(_draws(5000), 4)
    logs = ((level.sigma.double().log() + 0.4) / 1.4).sort().values
    n = len(logs)
    assert n == 20_000
    distance = (torch.special.ndtr(logs) - (torch.arange(n, dtype=torch.float64) + 0.5) / n).abs().max()
    assert distance < 2.2 / math.sqrt(n)  # Kolmogorov-Smirnov; exceeded with a chance of 1e-4
    torch.testing.assert_close(level.position, position(level.sigma))


def test_a_position_tells_its_level_and_runs_from_clean_to_noise():
    for sigma in (1e-3, 0.02, 1.0, 80.0):
        assert sigma_at(position_of(sigma)) == pytest.approx(sigma)
        assert position(torch.tensor([sigma])).item() == pytest.approx(position_of(sigma), rel=1e-6)
    assert (position_of(0.0), position_of(1.0), position_of(1e12)) == pytest.approx((0, POSITIONS / 2, POSITIONS))


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_a_right_answer_gives_back_the_signal(prediction):
    clean, noise = _normal(5, 1, 3, 4), _normal(5, 1, 3, 4, seed=1)
    level = cosine_schedule(100).level(torch.tensor([1, 20, 50, 80, 95]))
    level = Level(level.sigma.double(), level.position)
    answer = target(clean, noise, level, prediction)
    torch.testing.assert_close(read_answer(add_noise(clean, noise, level), answer, level, prediction), clean)


def test_velocity_is_the_preconditioning_of_karras_for_unit_variance():
    # Karras et al. (2022), Table 1: D = c_skip x + c_out F(c_in x), loss weight lambda on |D - y|^2, sigma_data = 1.
    sigma = torch.tensor([0.003, 0.1, 1.0, 5.0, 90.0], dtype=torch.float64)
    data = 1.0
    c_skip = data**2 / (sigma**2 + data**2)
    c_out = sigma * data / (sigma**2 + data**2).sqrt()
    c_in = 1 / (sigma**2 + data**2).sqrt()
    weight = (sigma**2 + data**2) / (sigma * data) ** 2

    clean, noise, answer = (_normal(5, 6, seed=k) for k in range(3))
    level = Level(sigma, position(sigma))
    noisy = add_noise(clean, noise, level)
    x = clean + sigma[:, None] * noise
    torch.testing.assert_close(noisy, c_in[:, None] * x)
    denoised = c_skip[:, None] * x + c_out[:, None] * -answer  # F is minus the velocity
    torch.testing.assert_close(read_answer(noisy, answer, level, "velocity"), denoised)
    loss = (answer - target(clean, noise, level, "velocity")).square()
    torch.testing.assert_close(loss, weight[:, None] * (denoised - clean).square())


@pytest.mark.parametrize("sigma", [0.05, 1.0, 30.0])
def test_noising_keeps_unit_variance_and_velocity_has_it_too(sigma):
    clean, noise = _normal(200_000, 1), _normal(200_000, 1, seed=1)
    level = Level(torch.full((200_000,), sigma, dtype=torch.float64), torch.zeros(200_000))
    for values in (add_noise(clean, noise, level), target(clean, noise, level, "velocity")):
        assert values.std().item() == pytest.approx(1, abs=4 / math.sqrt(2 * 200_000))  # four standard errors


def test_a_bound_clips_the_signal_alone():
    level = cosine_schedule(100).level(torch.tensor([60]))
    noisy = torch.linspace(-4, 4, 12).reshape(1, 1, 3, 4)
    free = read_answer(noisy, 0.1 * noisy, level, "noise")
    assert free.abs().max() > 1
    torch.testing.assert_close(read_answer(noisy, 0.1 * noisy, level, "noise", 1.0), free.clamp(-1, 1))


def test_a_division_of_a_step_changes_no_number():
    def numbers(draws):
        return [draws.normal(2, 3), draws.uniform(), draws.integers(1, 9, 4), draws.normal()]

    whole = numbers(_draws(5))
    parts = [numbers(Draws(torch.Generator().manual_seed(0), 5, first, count)) for first, count in ((0, 2), (2, 3))]
    for together, *apart in zip(whole, *parts, strict=True):
        assert torch.equal(together, torch.cat(apart))
