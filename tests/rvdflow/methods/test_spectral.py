"""Spectral norm: against singular values and against torch's own; it moves when it is told to, and only then."""

import copy

import pytest
import torch
from torch.nn.utils.parametrizations import spectral_norm

from rvdflow.methods.spectral import SpectralConv2d, SpectralConv3d, SpectralGru, SpectralLinear, settle

LAYERS = {
    "linear": (lambda: SpectralLinear(7, 5), (3, 7)),
    "2d": (lambda: SpectralConv2d(3, 5, 3, padding=1), (2, 3, 6, 4)),
    "3d": (lambda: SpectralConv3d(2, 4, 3), (2, 2, 4, 5, 3)),
}


@pytest.fixture(params=LAYERS)
def case(request):
    """A layer with drawn weights in float64, and an input."""
    build, shape = LAYERS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = build().double()
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.normal_(layer.bias)
        return layer, torch.randn(shape, dtype=torch.float64)


def _largest(weight):
    return torch.linalg.svdvals(weight.flatten(1)).max()


def test_weights_start_orthogonal(case):
    build = {"SpectralLinear": "linear", "SpectralConv2d": "2d", "SpectralConv3d": "3d"}[type(case[0]).__name__]
    rows = LAYERS[build][0]().weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), atol=1e-5, rtol=0)


def test_the_largest_singular_value_becomes_one(case):
    layer, _ = case
    for _ in range(200):
        settle(layer)
    assert float(_largest(layer.normalised().detach())) == pytest.approx(1, abs=1e-9)


def test_a_layer_equals_torchs_own_and_so_do_its_gradients(case):
    layer, x = case
    plain = {"SpectralLinear": torch.nn.Linear, "SpectralConv2d": torch.nn.Conv2d, "SpectralConv3d": torch.nn.Conv3d}
    twin = copy.deepcopy(layer)
    twin.__class__ = type("Plain", (plain[type(layer).__name__],), {})
    twin = spectral_norm(twin, n_power_iterations=1).eval()
    inside = twin.parametrizations.weight[0]
    inside._u, inside._v = layer.u.clone(), None
    rows = layer.weight.detach().flatten(1)
    inside._v = torch.nn.functional.normalize(rows.T @ layer.u, dim=0)
    inside._u = torch.nn.functional.normalize(rows @ inside._v, dim=0)
    torch.testing.assert_close(layer(x), twin(x))
    found = torch.autograd.grad(layer(x).square().sum(), layer.weight)[0]
    expected = torch.autograd.grad(twin(x).square().sum(), twin.parametrizations.weight.original)[0]
    torch.testing.assert_close(found, expected)
    layer.settle()
    torch.testing.assert_close(layer.u, inside._u)


def test_forward_passes_change_nothing_and_the_vector_is_saved(case):
    layer, x = case
    before = layer.u.clone()
    first = layer.train()(x)
    assert torch.equal(layer(x), first)
    assert torch.equal(layer.eval()(x), first)
    assert torch.equal(layer.u, before)
    settle(layer)
    assert not torch.equal(layer.u, before)
    other = copy.deepcopy(layer)
    torch.nn.init.normal_(other.u)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


def test_autocast_does_not_reach_the_norm(case):
    layer, _ = case
    layer = layer.float()
    exact = layer.normalised()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.normalised(), exact)


@pytest.mark.parametrize("kernel", [3, 5])
def test_the_recurrent_unit_is_its_plain_formula(kernel):
    g = torch.Generator().manual_seed(0)
    x, h = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((2, 3, 3, 5, 6), (2, 4, 5, 6)))
    unit = SpectralGru(3, 4, kernel).double()
    torch.nn.init.normal_(unit.gates.bias)
    found = unit(x, h, 3)
    for t in range(3):
        reset, keep = torch.sigmoid(unit.gates(torch.cat([x[:, t], h], 1))).chunk(2, 1)
        proposal = unit.candidate(torch.cat([x[:, t], reset * h], 1)).relu()
        h = keep * h + (1 - keep) * proposal
        torch.testing.assert_close(found[:, t], h)
    same = unit(x[:, :1].expand(-1, 3, -1, -1, -1), h, 3)
    torch.testing.assert_close(unit(x[:, :1], h, 3), same)  # one input for all times
