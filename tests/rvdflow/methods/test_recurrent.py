"""The convolutional LSTM against torch's LSTM and against its equations written out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rvdflow.methods.recurrent import ConvLSTM, over_time


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _rough(module):
    g = torch.Generator().manual_seed(5)
    for p in module.parameters():
        p.data = (p[0].numel() ** -0.5 if p.ndim > 1 else 0.5) * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return module.double()


def test_at_one_pixel_it_is_an_lstm():
    unit, plain = _rough(ConvLSTM(3, 5, kernel=1)), nn.LSTM(3, 5, batch_first=True).double()
    plain.load_state_dict(
        {
            "weight_ih_l0": unit.from_input.weight[:, :, 0, 0],
            "weight_hh_l0": unit.from_state.weight[:, :, 0, 0],
            "bias_ih_l0": unit.from_input.bias,
            "bias_hh_l0": torch.zeros(20),
        }
    )
    x = _normal(2, 4, 3)
    hidden, (h, c) = unit(x[..., None, None])
    expected, (last, cell) = plain(x)
    torch.testing.assert_close(hidden[..., 0, 0], expected)
    torch.testing.assert_close(h[..., 0, 0], last[0])
    torch.testing.assert_close(c[..., 0, 0], cell[0])


@pytest.mark.parametrize("groups", [None, 4])
def test_it_equals_its_equations(groups):
    unit, frames = _rough(ConvLSTM(3, 8, groups=groups)), _normal(2, 3, 3, 5, 6)

    def norm(m, x):
        return x if groups is None else F.group_norm(x, groups, m.weight, m.bias)

    h = c = torch.zeros(2, 8, 5, 6, dtype=torch.float64)
    for t in range(3):
        terms = norm(unit.norm_input, F.conv2d(frames[:, t], unit.from_input.weight, unit.from_input.bias, padding=1))
        terms = terms + norm(unit.norm_state, F.conv2d(h, unit.from_state.weight, padding=1))
        i, f, g, o = terms[:, :8], terms[:, 8:16], terms[:, 16:24], terms[:, 24:]
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * norm(unit.norm_cell, c).tanh()
    hidden, (last, cell) = unit(frames)
    torch.testing.assert_close(hidden[:, -1], h)
    torch.testing.assert_close(last, h)
    torch.testing.assert_close(cell, c)


def test_a_sequence_can_be_cut_anywhere_and_sees_no_future():
    unit, frames = _rough(ConvLSTM(3, 8, groups=4)), _normal(2, 5, 3, 4, 6)
    whole, _ = unit(frames)
    first, state = unit(frames[:, :2])
    kept = [x.clone() for x in state]
    rest, _ = unit(frames[:, 2:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)
    assert all(torch.equal(x, y) for x, y in zip(state, kept, strict=True))  # a state is not written to


def test_at_one_pixel_a_larger_kernel_sees_nothing_more():
    large, small, x = (
        _rough(ConvLSTM(3, 8, groups=4)),
        _rough(ConvLSTM(3, 8, kernel=1, groups=4)),
        _normal(2, 3, 3, 1, 1),
    )
    small.load_state_dict({k: v[..., 1:2, 1:2] if v.ndim == 4 else v for k, v in large.state_dict().items()})
    torch.testing.assert_close(large(x)[0], small(x)[0])


def test_the_cell_stays_in_single_precision_under_autocast():
    unit = ConvLSTM(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        _, (_, cell) = unit(torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert cell.dtype == torch.float32


def test_a_sequence_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no frames"):
        ConvLSTM(3, 8)(torch.zeros(1, 0, 3, 4, 4))


def test_a_network_of_frames_is_applied_to_each():
    network, clips = nn.Conv2d(2, 3, 1).double(), _normal(2, 4, 2, 5, 6)
    expected = torch.stack([network(clips[:, t]) for t in range(4)], 1)
    torch.testing.assert_close(over_time(network, clips), expected)
