"""Layers of progressively grown networks: scales, against plain convolutions, and norms."""

import math

import pytest
import torch
from torch.nn import functional as F

from rvdflow.methods.equalised import (
    EqualisedConv3d,
    EqualisedLinear,
    EqualisedSpread3d,
    Stack,
    cube,
    narrow,
    pixel_norm,
)

X = torch.randn(2, 6, 4, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _drawn(layer):
    g = torch.Generator().manual_seed(1)
    layer = layer.double()
    for p in layer.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64)
    return layer


@pytest.mark.parametrize(
    ("layer", "plain"),
    [
        (EqualisedConv3d(6, 5, 3, padding=1), lambda m: F.conv3d(X, m.weight * (2 / 162) ** 0.5, m.bias, padding=1)),
        (
            EqualisedConv3d(6, 5, (1, 2, 2), stride=(1, 2, 2)),
            lambda m: F.conv3d(X, m.weight * (2 / 24) ** 0.5, m.bias, stride=(1, 2, 2)),
        ),
        (
            EqualisedSpread3d(6, 5, (1, 2, 2)),  # each number is a sum over 6 channels at one position
            lambda m: F.conv_transpose3d(X, m.weight * (2 / 6) ** 0.5, m.bias, stride=(1, 2, 2)),
        ),
    ],
)
def test_a_layer_scales_its_weights_by_the_numbers_it_sums(layer, plain):
    torch.testing.assert_close(_drawn(layer)(X), plain(layer))


def test_the_gain_is_that_of_what_follows():
    layer, x = _drawn(EqualisedLinear(6, 5, gain=1.0)), X.movedim(1, -1)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight * 6**-0.5, layer.bias))


def test_weights_are_standard_normal_and_rectified_layers_keep_the_variance():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [EqualisedConv3d(64, 64, 1) for _ in range(6)]
        x = torch.randn(512, 64, 1, 1, 1)
    for layer in layers:
        assert float(layer.weight.detach().std()) == pytest.approx(1, abs=0.05)  # 4096 numbers: 1 +- 0.011
        assert not layer.bias.any()
        x = F.relu(layer(x))
    # sqrt(2 / fan in) keeps E x^2 through conv and relu; 64 channels: 12 per cent a layer
    assert float(x.detach().square().mean()) == pytest.approx(1, abs=0.6)


def test_pixel_norm_leaves_vectors_of_unit_mean_square():
    found = pixel_norm(3 * X)
    assert (found.square().mean(1) - 1).abs().max() < 1e-6  # eps
    torch.testing.assert_close(found, pixel_norm(X), atol=1e-6, rtol=0)  # up to eps, the length does not matter
    assert pixel_norm(torch.zeros(1, 6, 1, 1, 1)).isfinite().all()


def test_a_stack_rectifies_and_norms_after_each_layer():
    stack = _drawn(narrow(6, 4, norm=True))
    first, second = stack.layers
    h = pixel_norm(F.leaky_relu(first(X), 0.2))
    torch.testing.assert_close(stack(X), pixel_norm(F.leaky_relu(second(h), 0.2)))
    assert stack(X).shape == (2, 4, 4, 2, 3)
    bare = Stack(_drawn(cube(6, 2)), norm=False)
    torch.testing.assert_close(bare(X), F.leaky_relu(bare.layers[0](X), 0.2))
    assert bare.layers[0].scale == pytest.approx(math.sqrt(2 / (6 * 27)))
