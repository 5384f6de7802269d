"""Laws of latent variables: densities and divergences against torch.distributions and against averages of draws."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from rvdflow.methods.gaussian import (
    Gaussian,
    free_bits,
    from_log_variance,
    from_softplus,
    kl,
    kl_sampled,
    warmed,
)


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _pair(*shape):
    return (
        from_log_variance(_normal(*shape, seed=1), _normal(*shape, seed=2)),
        from_softplus(_normal(*shape, seed=3), 2 * _normal(*shape, seed=4)),
    )


def _torch(g):
    return Normal(g.mean, g.variance.sqrt())


def test_divergence_and_density_are_those_of_torch():
    q, p = _pair(3, 4, 5)
    torch.testing.assert_close(kl(q, p), kl_divergence(_torch(q), _torch(p)))
    z = _normal(3, 4, 5, seed=5)
    torch.testing.assert_close(q.log_density(z), _torch(q).log_prob(z))


def test_the_sampled_divergence_has_the_divergence_as_its_mean():
    draws = 20_000
    q, p = _pair(6)
    z = q.draw(_normal(draws, 6))
    samples = kl_sampled(Gaussian(*(x.expand(draws, 6) for x in q)), p, z)
    error = (samples.mean(0) - kl(q, p)) / (samples.std(0) / math.sqrt(draws))
    assert error.abs().max() < 4  # standard errors


def test_draws_have_the_mean_and_variance_asked_for():
    draws = 20_000
    q, _ = _pair(4)
    z = q.draw(_normal(draws, 4))
    deviation = q.variance.sqrt()
    assert ((z.mean(0) - q.mean).abs() < 4 * deviation / math.sqrt(draws)).all()
    assert ((z.std(0) - deviation).abs() < 4 * deviation / math.sqrt(2 * draws)).all()


def test_a_law_does_not_diverge_from_itself():
    q, _ = _pair(5)
    assert kl(q, q).abs().max() < 1e-15
    assert not kl_sampled(q, q, _normal(5)).any()


@pytest.mark.parametrize("make", [from_log_variance, from_softplus])
def test_extreme_parameters_have_finite_divergences_and_gradients(make):
    raw = torch.tensor([-1e3, -90.0, 0.0, 90.0, 1e3], requires_grad=True)
    q, p = make(torch.zeros(5), raw), make(torch.ones(5), torch.zeros(5))
    kl(q, p).sum().backward()
    assert kl(q, p).isfinite().all()
    assert raw.grad.isfinite().all()


def test_half_precision_parameters_make_laws_in_single_precision():
    for make in (from_log_variance, from_softplus):
        for x in make(torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16)):
            assert x.dtype == torch.float32


def test_nats_below_the_free_ones_have_no_gradient():
    nats = torch.tensor([0.2, 3.0], requires_grad=True)
    free_bits(nats, 1.0).sum().backward()
    assert nats.grad.tolist() == [0, 1]
    negative = torch.tensor([-1.0, 2.0])  # as a sampled divergence can be
    assert torch.equal(free_bits(negative, 0.0), negative)


def test_a_weight_is_warmed_up_linearly_and_then_constant():
    assert [warmed(2.0, p, 0.5) for p in (0.0, 0.25, 0.5, 1.0)] == [0, 1, 2, 2]
    assert warmed(2.0, 0.0, 0.0) == 2
