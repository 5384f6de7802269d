"""What two players of a game minimise: least squares, hinge, or Wasserstein with a gradient penalty.

Scores are (rows, ...): one number or a map of numbers for each row. Every loss is a mean over all scores, so that of a
batch in equal parts it is the mean of theirs. `frozen` keeps the gradient of one player's loss out of the other.

Sources: least squares: Mao et al. (2017), arXiv:1611.04076, Eq. 9 without the factor 1/2; hinge: Lim & Ye (2017),
arXiv:1705.02894, and Miyato et al. (2018), arXiv:1802.05957, Eq. 16-17; gradient penalty: Gulrajani et al. (2017),
arXiv:1704.00028, Eq. 3; drift: Karras et al. (2018), arXiv:1710.10196, appendix A.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _full(scores: Tensor) -> Tensor:
    """In single precision at least: a difference of two means in half of it is mostly rounding."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def least_squares(scores: Tensor, label: float) -> Tensor:
    """E (D - label)^2: label 1 for what should be taken for real, 0 for what should be found out."""
    return (_full(scores) - label).square().mean()


def hinge_real(scores: Tensor) -> Tensor:
    """E max(0, 1 - D(x)), the discriminator's loss of real rows."""
    return F.relu(1 - _full(scores)).mean()


def hinge_fake(scores: Tensor) -> Tensor:
    """E max(0, 1 + D(G(z))), the discriminator's loss of rows from the generator."""
    return F.relu(1 + _full(scores)).mean()


def deceived(scores: Tensor) -> Tensor:
    """-E D(G(z)): what the generator minimises against a hinge or a Wasserstein critic."""
    return -_full(scores).mean()


def wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    """E D(x) - E D(G(z)), the critic's estimate of the distance; the critic minimises its negative."""
    return _full(real).mean() - _full(fake).mean()


def drift(real: Tensor) -> Tensor:
    """E D(x)^2, which keeps the critic's scores, free up to a constant, near zero."""
    return _full(real).square().mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """E (|grad D(x)| - 1)^2 at x = s real + (1 - s) fake, with one s in `share` (rows,) for each row.

    The norm is that over all numbers of a row. It can be differentiated once more for the critic's weights where
    gradients are on; where they are off (a validation), it is a number. A score may depend on rows beside its own.
    """
    again = torch.is_grad_enabled()
    s = share.to(real.dtype).reshape(-1, *[1] * (real.ndim - 1))
    with torch.enable_grad():
        between = torch.lerp(fake.detach(), real.detach(), s).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=again)
    # vector_norm has a gradient, 0, at a gradient of zero, where a root of squares has none.
    exact = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    penalty = (torch.linalg.vector_norm(exact.flatten(1), dim=1) - 1).square().mean()
    return penalty if again else penalty.detach()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within, what `module` computes sends gradients to its input alone, none to its own parameters."""
    moving = [p for p in module.parameters() if p.requires_grad]
    for parameter in moving:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)
