"""Losses of two players: values by hand, the gradient penalty of critics whose gradient is known, and who learns."""

import math

import pytest
import torch
from torch import nn

from rvdflow.methods.adversarial import (
    deceived,
    drift,
    frozen,
    gradient_penalty,
    hinge_fake,
    hinge_real,
    least_squares,
    wasserstein,
)

SCORES = torch.tensor([-2.0, -0.5, 0.5, 3.0], dtype=torch.float64)
REAL, FAKE = (torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (0, 1))
SHARE = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (least_squares(SCORES, 1), (9 + 2.25 + 0.25 + 4) / 4),
        (least_squares(SCORES, 0), (4 + 0.25 + 0.25 + 9) / 4),
        (hinge_real(SCORES), (3 + 1.5 + 0.5 + 0) / 4),
        (hinge_fake(SCORES), (0 + 0.5 + 1.5 + 4) / 4),
        (deceived(SCORES), -0.25),
        (wasserstein(SCORES, -SCORES), 0.5),
        (drift(SCORES), (4 + 0.25 + 0.25 + 9) / 4),
    ],
)
def test_losses_are_their_formulas(found, expected):
    assert float(found) == pytest.approx(expected, abs=1e-15)


def test_the_penalty_of_a_linear_critic_is_known_and_so_is_its_gradient():
    a = torch.linspace(-1, 2, 6, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(lambda x: x.flatten(1) @ a + 7, REAL, FAKE, SHARE)
    length = a.detach().norm()
    assert float(penalty.detach()) == pytest.approx(float((length - 1) ** 2), rel=1e-13)
    (found,) = torch.autograd.grad(penalty, a)
    torch.testing.assert_close(found, 2 * (length - 1) * a.detach() / length)


def test_the_penalty_is_taken_between_each_real_row_and_its_fake():
    # The gradient of |x|^2 / 2 is x itself.
    found = gradient_penalty(lambda x: x.square().flatten(1).sum(1) / 2, REAL, FAKE, SHARE)
    expected = 0.0
    for real, fake, s in zip(REAL, FAKE, SHARE, strict=True):
        between = s * real + (1 - s) * fake
        expected += (math.sqrt(float((between * between).sum())) - 1) ** 2 / 4
    assert float(found.detach()) == pytest.approx(expected, rel=1e-13)


def test_the_penalty_can_be_differentiated_for_the_weights_of_any_critic():
    g = torch.Generator().manual_seed(2)
    weights = [torch.randn(*s, generator=g, dtype=torch.float64, requires_grad=True) for s in ((6, 5), (5, 1))]

    def penalty(first, second):
        return gradient_penalty(lambda x: torch.tanh(x.flatten(1) @ first) @ second, REAL, FAKE, SHARE)

    assert torch.autograd.gradcheck(penalty, weights)  # against differences of its values


def test_the_penalty_is_a_mean_over_rows_and_a_number_where_gradients_are_off():
    def critic(x):
        return x.sin().flatten(1).sum(1)

    whole = gradient_penalty(critic, REAL, FAKE, SHARE)
    parts = [gradient_penalty(critic, REAL[i : i + 2], FAKE[i : i + 2], SHARE[i : i + 2]) for i in (0, 2)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)
    with torch.no_grad():
        found = gradient_penalty(critic, REAL, FAKE, SHARE)
    assert not found.requires_grad
    torch.testing.assert_close(found, whole)


def test_a_critic_that_sees_nothing_has_a_penalty_of_one_and_finite_gradients():
    weight = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(lambda x: (x.flatten(1) @ weight).square(), REAL, FAKE, SHARE)
    penalty.backward()
    assert float(penalty.detach()) == 1
    assert weight.grad.isfinite().all()


def test_what_is_frozen_passes_gradients_on_and_keeps_none():
    game = nn.Linear(3, 1)
    game.bias.requires_grad_(False)
    x = torch.ones(2, 3, requires_grad=True)
    with frozen(game):
        score = game(x).sum()
    with pytest.raises(RuntimeError, match="on purpose"), frozen(game):
        raise RuntimeError("on purpose")
    assert (game.weight.requires_grad, game.bias.requires_grad) == (True, False)
    score.backward()
    assert game.weight.grad is None
    torch.testing.assert_close(x.grad, game.weight.detach().expand(2, 3))
