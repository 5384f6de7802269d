"""Convolutional LSTM whose state is passed in and returned.

    [i, f, g, o] = N(W_x * x) + N(W_h * h)
    c' = sigmoid(f) c + sigmoid(i) tanh(g);    h' = sigmoid(o) tanh(N(c'))

N is a group norm, or nothing (then W_x has a bias). With norms the cell is normalised where it is read and kept as it
is, as in the layer-normalised LSTM.

Sources: Shi et al. (2015), arXiv:1506.04214 (without its peepholes); norms: Ba, Kiros & Hinton (2016),
arXiv:1607.06450, Eq. 20-22. The convolutional GRU is `rvdflow.layers.ConvGRU`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Memory = tuple[Tensor, Tensor]  # hidden map h and cell c, each (batch, channel, y, x)


class ConvLSTM(nn.Module):
    """`groups`: of its three group norms; None: no norms. The gates are stacked as in torch.nn.LSTM."""

    def __init__(self, c_in: int, channels: int, *, kernel: int = 3, groups: int | None = None) -> None:
        super().__init__()
        self.channels = channels
        gates = 4 * channels
        self.from_input = nn.Conv2d(c_in, gates, kernel, padding=kernel // 2, bias=groups is None)
        self.from_state = nn.Conv2d(channels, gates, kernel, padding=kernel // 2, bias=False)
        self.norm_input, self.norm_state = _norm(groups, gates), _norm(groups, gates)
        self.norm_cell = _norm(groups, channels)

    def input_terms(self, x: Tensor) -> Tensor:
        """The input's share of the gates (rows, 4 channels, y, x): of a whole sequence in one call."""
        return self.norm_input(self.from_input(x))

    def advance(self, terms: Tensor, state: Memory | None) -> Memory:
        """The state after an input of which `input_terms` are given; a state of None is zero."""
        if state is None:
            kind = torch.promote_types(terms.dtype, torch.float32)
            zero = torch.zeros_like(terms[:, : self.channels], dtype=kind)
            state = zero, zero
        hidden, cell = state
        i, f, g, o = (terms + self.norm_state(self.from_state(hidden))).chunk(4, 1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(self.norm_cell(cell)), cell

    def forward(self, x: Tensor, state: Memory | None = None) -> tuple[Tensor, Memory]:
        """Hidden maps (batch, time, channel, y, x) after each input of that shape, and the last state."""
        terms = self.input_terms(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        hidden = []
        for t in range(x.shape[1]):
            state = self.advance(terms[:, t], state)
            hidden.append(state[0])
        if state is None:
            raise ValueError("a sequence of no frames has no state")
        return torch.stack(hidden, 1), state


def _norm(groups: int | None, channels: int) -> nn.Module:
    return nn.Identity() if groups is None else nn.GroupNorm(groups, channels)


def over_time(network: nn.Module, clips: Tensor) -> Tensor:
    """What a network of frames makes of clips (batch, time, ...)."""
    return network(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
