"""Schedule, noising and loss against their equations."""

import math

import pytest
import torch

from rvdflow.diffusion import add_noise, clean_and_noise, cosine_schedule, target


def test_cosine_schedule_follows_nichol_and_dhariwal():
    schedule = cosine_schedule(1600)
    n = torch.tensor([0, 1, 400, 800, 1200, 1590])
    f = torch.cos((n.double() / 1600 + 0.008) / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(schedule.alpha_bar[n], f / math.cos(0.008 / 1.008 * math.pi / 2) ** 2)
    beta = 1 - schedule.alpha_bar[1:] / schedule.alpha_bar[:-1]
    assert beta.max() == pytest.approx(0.999)
    assert (beta > 0).all()


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_a_right_answer_gives_back_signal_and_noise(prediction):
    g = torch.Generator().manual_seed(0)
    schedule = cosine_schedule(100)
    clean, noise = (torch.randn(5, 1, 3, 4, generator=g, dtype=torch.float64) for _ in range(2))
    n = torch.tensor([1, 20, 50, 80, 95])
    noisy = add_noise(clean, noise, n, schedule)
    found = clean_and_noise(noisy, target(clean, noise, n, schedule, prediction), n, schedule, prediction)
    torch.testing.assert_close(found, (clean, noise))


def test_noising_keeps_unit_variance():
    g = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(200_000, 1, 1, 1, generator=g) for _ in range(2))
    n = torch.full((200_000,), 37)
    spread = add_noise(clean, noise, n, cosine_schedule(100)).std()
    assert spread == pytest.approx(1, abs=4 / math.sqrt(2 * 200_000))  # four standard errors


def test_a_bound_holds_and_keeps_signal_and_noise_consistent():
    schedule, n = cosine_schedule(100), torch.tensor([60])
    noisy = torch.linspace(-4, 4, 12, dtype=torch.float64).reshape(1, 1, 3, 4)
    clean, noise = clean_and_noise(noisy, torch.zeros_like(noisy), n, schedule, "noise", bound=1.0)
    assert clean.abs().max() <= 1
    torch.testing.assert_close(add_noise(clean, noise, n, schedule), noisy)
