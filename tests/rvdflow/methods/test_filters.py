"""The Laplacian of a Gaussian: its symmetry, and what it makes of waves, whose answer is known."""

import math

import pytest
import torch

from rvdflow.methods.filters import filtered, laplacian_of_gaussian

KERNEL = laplacian_of_gaussian()


def test_the_kernel_is_symmetric_of_sum_zero_and_deepest_at_its_centre():
    assert KERNEL.shape == (9, 9)
    for other in (KERNEL.T, KERNEL.flip(0), KERNEL.flip(1)):
        torch.testing.assert_close(KERNEL, other, atol=1e-17, rtol=0)
    assert abs(float(KERNEL.sum())) < 1e-15
    assert KERNEL.argmin() == 40
    # -1 / (pi 1.4^4), but for the mean that is taken out
    assert float(KERNEL.min()) == pytest.approx(-0.08286, abs=2e-4)


@pytest.mark.parametrize(("sigma", "tail"), [(1.0, 1e-4), (1.4, 5e-3)])  # what 9 pixels cut off, measured
def test_a_wave_is_damped_and_multiplied_by_minus_its_wave_number_squared(sigma, tail):
    """G * cos(k x) = exp(-k^2 s^2 / 2) cos(k x), and the Laplacian of that is -k^2 times it."""
    kernel = laplacian_of_gaussian(sigma, 9)
    x = torch.arange(48, dtype=torch.float64)
    k = 0.9
    wave = torch.cos(k * x).expand(2, 3, 48, 48)
    expected = -(k**2) * math.exp(-(k**2) * sigma**2 / 2) * wave
    inside = slice(5, -5)
    found = filtered(wave, kernel)[..., inside, inside]
    torch.testing.assert_close(found, expected[..., inside, inside], atol=tail, rtol=0)


def test_a_constant_and_the_inside_of_a_ramp_give_zero():
    ramp = torch.arange(20, dtype=torch.float64).expand(1, 1, 2, 12, 20)
    assert filtered(torch.full((1, 2, 12, 20), 3.0), KERNEL).abs().max() < 1e-6  # float32
    assert filtered(ramp, KERNEL).shape == ramp.shape
    assert filtered(ramp, KERNEL)[..., 4:-4].abs().max() < 1e-14


def test_what_cannot_be_filtered_is_refused():
    with pytest.raises(ValueError, match="size must be odd"):
        laplacian_of_gaussian(1.4, 8)
    with pytest.raises(ValueError, match="sigma above 0"):
        laplacian_of_gaussian(0.0)
    with pytest.raises(ValueError, match="filter needs 5"):
        filtered(torch.zeros(1, 1, 4, 20), KERNEL)
