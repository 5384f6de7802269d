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


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U V^T of the singular value decomposition of `matrix` (rows, columns): singular values of .7 to 1.2.

    Each round multiplies from the side of the shorter dimension by a polynomial of the Gram matrix, so all of them are
    taken in that small square and the long matrix is multiplied once, by their product.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / x.norm().clamp(min=1e-20)
    gram = x @ x.mT
    factor = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    a, b, c = QUINTIC
    for _ in range(ROUNDS):
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal().add_(a)
        factor = polynomial @ factor
        gram = polynomial @ gram @ polynomial
    x = factor @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, for weights of two or more dimensions (the first is the output's)."""

    def __init__(
        self, params: Iterable[Any], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step along the gradients; a parameter without one stays as it is."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)

    def _move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        mean = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = torch.lerp(gradient, mean, group["momentum"])
        update = orthogonalised(ahead.reshape(len(weight), -1))
        # The same size of step for each output, whatever the number of inputs.
        scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update.reshape(weight.shape), alpha=-group["lr"] * scale)
