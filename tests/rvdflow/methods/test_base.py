"""What video models share: players, obstacles, contexts, states as trees; on a model of two players that is all toy."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from rvdflow.methods.base import Adam, MethodConfig, VideoModel, channels_of
from rvdflow.networks import Given
from rvdflow.trainable import mapped


class _Count(NamedTuple):
    number: Any
    given: Given


class _Toy(VideoModel):
    """Frames full of the numbers that follow the last context frame's, two at a time."""

    stochastic = False
    players = ("generator", "discriminator")
    published = {"generator": Adam(), "discriminator": Adam()}  # noqa: RUF012
    fixed_context = True
    block = 2

    def __init__(self, config, **size):
        super().__init__(config, coarsening=4, smallest=2, **size)
        self.context, self.clip_frames = 2, 4
        self.generator, self.discriminator = nn.Linear(2, 3), nn.Linear(3, 1)

    def losses(self, player, frames, given, *, progress, draws):
        return {}

    def begin(self, context, given):
        return _Count(self.usable(context).sum(1, keepdim=True), given)

    def advance(self, state, noise):
        frames = self.kept(state.number + torch.arange(1.0, 3.0)[:, None, None, None], state.given)
        return frames, _Count(state.number + 2, state.given)


def _toy(**settings):
    return _Toy(MethodConfig(**settings), channels=2, height=8, width=12)


def _given(rows=2):
    fluid = torch.ones(rows, 1, 8, 12)
    fluid[0, :, :4, :4] = 0  # of the first run alone
    return Given(fluid, torch.zeros(rows, 0))


def test_players_share_no_parameter_and_leave_none():
    model = _toy()
    names = [[name for name, _ in model.player(p)] for p in model.players]
    assert names == [["generator.weight", "generator.bias"], ["discriminator.weight", "discriminator.bias"]]
    with pytest.raises(ValueError, match="no player 'model'; it has generator, discriminator"):
        model.player("model")


@pytest.mark.parametrize(("height", "width"), [(8, 10), (6, 8), (4, 12), (12, 4)])
def test_frames_of_the_wrong_size_are_refused(height, width):
    with pytest.raises(ValueError, match="divide by 4 and are 8 or more"):
        _Toy(MethodConfig(), channels=1, height=height, width=width)


def test_a_mean_over_pixels_leaves_obstacles_out_and_weighs_frames_alike():
    values = torch.randn(2, 3, 2, 8, 12, generator=torch.Generator().manual_seed(0))
    given = _given()
    expected = [values[b, t][:, given.fluid[b, 0] > 0].mean() for b in range(2) for t in range(3)]
    torch.testing.assert_close(_toy().pixel_mean(values, given), torch.stack(expected).mean())
    torch.testing.assert_close(_toy(masked_loss=False).pixel_mean(values, given), values.mean())


def test_frames_are_zero_inside_obstacles_unless_obstacles_are_not_masked():
    frames, given = torch.ones(2, 3, 2, 8, 12), _given()
    for whole, masked in ((_toy().kept(frames, given), True), (_toy(masked_loss=False).kept(frames, given), False)):
        assert whole[0, ..., :4, :4].any() != masked
        assert whole[1].all()
    assert torch.equal(_toy().kept(frames[:, 0], given), _toy().kept(frames, given)[:, 0])


def test_a_forecast_begins_with_the_last_frames_of_the_context_and_ends_in_the_middle_of_a_block():
    context = torch.tensor([5.0, 1.0, 2.0])[None, :, None, None, None].expand(2, 3, 2, 8, 12)
    found = _toy(masked_loss=False).forecast(context, _given(), 5, noise=None)
    assert found[1, :, 0, 0, 0].tolist() == [4, 5, 6, 7, 8]
    with pytest.raises(ValueError, match="_Toy needs 2 frames of context, got 1"):
        _toy().begin(context[:, :1], _given())


def test_bounds_follow_the_normalisation():
    raw = torch.tensor([-9.0, 0.5])
    assert torch.equal(_toy(normalisation="standard").bounded(raw), raw)
    assert torch.equal(_toy().bounded(raw), raw.tanh())


def test_a_state_keeps_its_shape_when_it_is_repeated():
    tree = _Count((torch.arange(2.0), (None, torch.arange(4.0).reshape(2, 2))), _given())
    found = mapped(tree, lambda x: x.repeat_interleave(3, 0))
    assert isinstance(found, _Count)
    assert isinstance(found.given, Given)
    assert found.number[0].tolist() == [0, 0, 0, 1, 1, 1]
    assert found.number[1][0] is None
    assert found.number[1][1].tolist() == [[0, 1]] * 3 + [[2, 3]] * 3
    assert mapped(None, torch.exp) is None


@pytest.mark.parametrize(
    ("published", "width", "multiple", "expected"), [(64, 1, 1, 64), (64, 0.125, 8, 8), (48, 1.5, 1, 72)]
)
def test_channels_are_scaled_by_the_width(published, width, multiple, expected):
    assert channels_of(published, width, multiple) == expected
