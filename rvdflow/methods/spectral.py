"""Layers whose weight matrix has a largest singular value of one, estimated by power iteration.

    v = W^T u / |W^T u|,   sigma = |W v|,   the layer uses W / sigma;      `settle`: u <- W v / |W v|

W is the weight with all dimensions but the first flattened, u a buffer (so it is saved with the weights); u and v are
constants where sigma is differentiated. A forward pass changes nothing, whether in training or in evaluation: u moves
only when `settle` is called, once after each gradient step of the player whose layers these are, however many forward
passes and parts the step had. So a loss is a function of what is saved, a step is the same however its clips are
divided, and a resumed training goes on to the same bits. Each forward pass does the first half of an iteration
itself, so its sigma is one iteration ahead of the vector that is kept.

Source: Miyato et al. (2018), arXiv:1802.05957, Algorithm 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Spectral(nn.Module):
    weight: Tensor
    bias: Any
    u: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        nn.init.orthogonal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.register_buffer("u", F.normalize(torch.randn(len(self.weight)), dim=0))

    def _product(self) -> Tensor:
        """W v. Sums of products, not matrix products: those lose digits under autocast."""
        rows = self.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize((rows * self.u[:, None]).sum(0), dim=0)
        return (rows * v).sum(1)

    def normalised(self) -> Tensor:
        """The weight that the layer uses."""
        return self.weight / torch.linalg.vector_norm(self._product()).clamp_min(1e-12)

    @torch.no_grad()
    def settle(self) -> None:
        """One power iteration."""
        self.u.copy_(F.normalize(self._product(), dim=0))


class SpectralLinear(_Spectral, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalised(), self.bias)


class SpectralConv2d(_Spectral, nn.Conv2d):
    """Orthogonal to begin with, as all of these layers (Saxe et al. 2014, arXiv:1312.6120)."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.normalised(), self.bias)


class SpectralConv3d(_Spectral, nn.Conv3d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.normalised(), self.bias)


class SpectralGru(nn.Module):
    """ConvGRU over a sequence, in the form of DVD-GAN (Clark et al. 2019, arXiv:1907.06571).

        [r, u] = sigmoid(W [x, h]);  c = relu(V [x, r h]);  h' = u h + (1 - u) c

    Each of the two weights, for input and state together, has a spectral norm of one.
    """

    def __init__(self, c_in: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.c_in, self.channels, self.margin = c_in, channels, kernel // 2
        self.gates = SpectralConv2d(c_in + channels, 2 * channels, kernel, padding=kernel // 2)
        self.candidate = SpectralConv2d(c_in + channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, state: Tensor, times: int) -> Tensor:
        """Hidden maps (b, times, channels, y, x) from inputs (b, times, c, y, x), or one for all times."""
        c, gates, candidate = self.c_in, self.gates.normalised(), self.candidate.normalised()
        weight = torch.cat([gates[:, :c], candidate[:, :c]])
        bias = torch.cat([b for b in (self.gates.bias, self.candidate.bias) if b is not None])
        terms = self._conv(x.flatten(0, 1), weight, bias).unflatten(0, x.shape[:2])
        of_gates, of_candidate = gates[:, c:], candidate[:, c:]
        hidden = []
        for term in terms.expand(-1, times, -1, -1, -1).unbind(1):
            gate_term, candidate_term = term.split((2 * self.channels, self.channels), 1)
            reset, keep = torch.sigmoid(gate_term + self._conv(state, of_gates)).chunk(2, 1)
            proposal = F.relu(candidate_term + self._conv(reset * state, of_candidate))
            state = torch.lerp(proposal, state, keep)
            hidden.append(state)
        return torch.stack(hidden, 1)

    def _conv(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, weight, bias, padding=self.margin)


def settle(module: nn.Module) -> None:
    """One power iteration in each spectral layer of `module`."""
    for layer in module.modules():
        if isinstance(layer, _Spectral):
            layer.settle()
