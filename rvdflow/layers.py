"""Building blocks shared by the published networks and the compact one.

Frames are `(batch, channel, y, x)`, sequences `(batch, time, channel, y, x)`. Recurrent state is a value that is
passed in and returned, never kept on a module.

Source of the blocks: Yang, Srivastava & Mandt, "Diffusion Probabilistic Modeling for Video Generation",
Entropy 25(10):1469 (2023), doi:10.3390/e25101469, arXiv:2203.09481; ConvGRU: Ballas et al. (2016), arXiv:1511.06432.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2  # of every leaky rectifier


def _groups(channels: int) -> int:
    """Groups of a GroupNorm: 8 as published, fewer where the width is not a multiple of 8."""
    return math.gcd(8, channels)


def silence(module: nn.Module) -> None:
    """Start at zero, so that what this module adds is nothing before training."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


class Block(nn.Module):
    """conv3x3 -> GroupNorm -> LeakyReLU; `bias` (from a condition) is added right after the convolution.

    Adding `conv(c)` here equals convolving the concatenation of input and `c`, but can be computed once for many calls.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm = nn.GroupNorm(_groups(c_out), c_out)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        h = self.conv(x)
        if bias is not None:
            h = h + bias
        return F.leaky_relu(self.norm(h), SLOPE)


class ResBlock(nn.Module):
    """Two Blocks with a vector added between them (the embedded diffusion step) and a skip connection.

    With `film` the vector also scales: h (1 + a) + b (feature-wise linear modulation, Perez et al. 2018,
    arXiv:1709.07871); the vector says nothing before training.
    """

    def __init__(self, c_in: int, c_out: int, embedding: int | None = None, *, film: bool = False) -> None:
        super().__init__()
        self.first = Block(c_in, c_out)
        self.second = Block(c_out, c_out)
        self.film = film
        self.project = nn.Linear(embedding, c_out * (2 if film else 1)) if embedding is not None else None
        if film and self.project is not None:
            silence(self.project)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, vector: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        h = self.first(x, bias)
        if self.project is not None:
            if vector is None:
                raise ValueError("this ResBlock was built with an embedding: pass the step vector")
            terms = self.project(F.leaky_relu(vector, SLOPE))[:, :, None, None]
            if self.film:
                scale, shift = terms.chunk(2, 1)
                h = torch.addcmul(shift, h, 1 + scale)
            else:
                h = h + terms
        return self.second(h) + self.skip(x)


class StepEmbedding(nn.Module):
    """Diffusion step (batch,) -> vector (batch, width): sinusoids of the raw integer, then a two-layer perceptron."""

    frequency: Tensor

    def __init__(self, width: int, base: float = 1e4) -> None:
        super().__init__()
        half = width // 2
        self.register_buffer(
            "frequency", torch.exp(-math.log(base) * torch.arange(half) / (half - 1)), persistent=False
        )
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, step: Tensor) -> Tensor:
        angle = step.to(self.frequency.dtype)[:, None] * self.frequency[None]
        return self.mlp(torch.cat([angle.sin(), angle.cos()], 1))


class ChannelNorm(nn.Module):
    """Layer normalisation over channels, separately at each position."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + self.eps) * self.weight + self.bias


class LinearAttention(nn.Module):
    """x + attention(norm(x)), linear in the number of positions (softmax of the keys over positions alone)."""

    def __init__(self, channels: int, heads: int = 4, width: int = 16) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * heads * width, 1, bias=False)
        self.to_out = nn.Conv2d(heads * width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, ny, nx = x.shape
        q, k, v = self.to_qkv(self.norm(x)).reshape(b, 3, self.heads, self.width, ny * nx).unbind(1)
        context = torch.einsum("bhdn,bhen->bhde", k.softmax(-1), v)
        out = torch.einsum("bhde,bhdn->bhen", context, q * self.width**-0.5)
        return x + self.to_out(out.reshape(b, self.heads * self.width, ny, nx))


class ConvGRU(nn.Module):
    """Convolutional gated recurrent unit, 3x3.

        [r, z] = sigmoid(W [x, h]);  c = tanh(V [x, r h]);  h' = (1 - z) h + z c

    The input's share of both convolutions does not depend on the state, so `input_terms` computes it for a whole
    sequence in one call and `advance` does only what must be sequential.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.from_input = nn.Conv2d(channels, 3 * channels, 3, padding=1)
        self.gates = nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False)
        self.candidate = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def input_terms(self, x: Tensor) -> Tensor:
        return self.from_input(x)

    def advance(self, terms: Tensor, state: Tensor | None) -> Tensor:
        gate_terms, candidate_terms = terms.split((2 * self.channels, self.channels), 1)
        if state is None:  # zero state: h' = z tanh(V x)
            return torch.sigmoid(gate_terms[:, self.channels :]) * torch.tanh(candidate_terms)
        reset, update = torch.sigmoid(gate_terms + self.gates(state)).chunk(2, 1)
        proposal = torch.tanh(candidate_terms + self.candidate(reset * state))
        return torch.lerp(state, proposal, update)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        """All hidden maps (batch, time, channel, y, x) of a sequence of inputs of the same shape."""
        terms = self.input_terms(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        hidden = []
        for t in range(x.shape[1]):
            state = self.advance(terms[:, t], state)
            hidden.append(state)
        return torch.stack(hidden, 1)


def downsample(c_in: int, c_out: int) -> nn.Conv2d:
    """Half the resolution: conv3x3, stride 2."""
    return nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)


def upsample(c_in: int, c_out: int) -> nn.ConvTranspose2d:
    """Twice the resolution: transposed conv4x4, stride 2."""
    return nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1)
