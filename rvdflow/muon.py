"""Muon: momentum whose matrices are orthogonalised, for the convolutions of a network.

A gradient of a convolution, read as a matrix (output channels) x (input channels x kernel), has few large singular
values; a step along it moves few directions. Muon steps along the nearest semi-orthogonal matrix instead, so that every
direction moves alike. Source: Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks"; Liu et
al. (2025), arXiv:2502.16982.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Odd polynomials a x + b x^3 + c x^5 that carry every singular value in (0, 1] close to 1 when applied in turn.
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
NOTHING = 1e-7  # norm of a gradient that says nothing: far below it, a step vanishes with it


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U V^T of the singular value decomposition of `matrix` (..., rows, columns): singular values of .7 to 1.2.

    Each round multiplies from the side of the shorter dimension by a polynomial of the Gram matrix, so all of them are
    taken in that small square and the long matrix is multiplied once, by their product.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.reshape(-1, *matrix.shape[-2:])
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + NOTHING)  # added: the norm of tiny numbers may come out as 0
    gram = x @ x.mT
    factor = None
    a, b, c = QUINTIC
    for k in range(ROUNDS):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        factor = polynomial if factor is None else polynomial @ factor
        if k < ROUNDS - 1:
            gram = polynomial @ gram @ polynomial
    x = factor @ x
    return (x.mT if tall else x).reshape(matrix.shape)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, for weights of two or more dimensions (the first is the output's).

    A group of parameters may say how many `matrices` of equal size each of its weights is, one above the other, as the
    gates of a recurrent unit: each is orthogonalised by itself. Equal shapes of a group are computed together.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "matrices": 1})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step along the gradients; a parameter without one stays as it is."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault(weight.shape, []).append(weight)
            for weights in alike.values():
                self._move(weights, group)

    def _move(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """One step of weights of one shape."""
        ahead = torch.stack([self._look_ahead(weight, group["momentum"]) for weight in weights])
        update = orthogonalised(ahead.reshape(len(weights) * group["matrices"], -1, weights[0][0].numel()))
        # The same size of step for each output, whatever the number of inputs.
        scale = max(1.0, update.shape[-2] / update.shape[-1]) ** 0.5
        for weight, change in zip(weights, update.reshape(ahead.shape), strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(change, alpha=-group["lr"] * scale)

    def _look_ahead(self, weight: Tensor, momentum: float) -> Tensor:
        """Nesterov's momentum of a weight that has a gradient."""
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        mean = state["momentum"].lerp_(gradient, 1 - momentum)
        return torch.lerp(gradient, mean, momentum)
