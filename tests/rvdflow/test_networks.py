"""The published networks have the published sizes, and each block does what its formula says."""

import pytest
import torch
from torch import nn

from rvdflow.config import PRESETS, ModelConfig
from rvdflow.context import ContextEncoder
from rvdflow.layers import Block, ConvGRU, LinearAttention, ResBlock, StepEmbedding
from rvdflow.model import ResidualVideoDiffusion
from rvdflow.predictor import MeanPredictor


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# Totals of the released modules for 3 and 1 channels, and the share of denoiser / context / mean in millions.
@pytest.mark.parametrize(
    ("preset", "channels", "total", "shares"),
    [
        ("paper-64", 3, 37_611_414, (18.744, 13.750, 5.117)),
        ("paper-64", 1, 37_607_570, None),
        ("paper-128", 3, 43_613_702, (18.952, 12.991, 11.671)),
        ("paper-128", 1, 43_608_578, None),
    ],
)
def test_paper_presets_have_the_published_number_of_parameters(preset, channels, total, shares):
    size = int(preset.split("-")[1])
    with torch.device("meta"):
        model = ResidualVideoDiffusion(ModelConfig(**PRESETS[preset]), channels=channels, height=size, width=size)
    assert _count(model) == total
    if shares:
        networks = model.networks
        counts = [_count(networks.denoiser), _count(networks.context), _count(networks.predictor)]
        assert [round(c / 1e6, 3) for c in counts] == list(shares)


def test_adding_a_convolved_condition_equals_convolving_the_concatenation():
    torch.manual_seed(0)
    x, c = torch.randn(2, 5, 6, 7), torch.randn(2, 3, 6, 7)
    together = Block(8, 4)
    block, condition = Block(5, 4), nn.Conv2d(3, 4, 3, padding=1, bias=False)
    with torch.no_grad():
        block.conv.weight.copy_(together.conv.weight[:, :5])
        block.conv.bias.copy_(together.conv.bias)
        condition.weight.copy_(together.conv.weight[:, 5:])
    torch.testing.assert_close(block(x, condition(c)), together(torch.cat([x, c], 1)))


def test_convgru_follows_its_equations_over_a_sequence():
    torch.manual_seed(0)
    gru, x = ConvGRU(4), torch.randn(2, 3, 4, 5, 6)
    gates = torch.cat([gru.from_input.weight[:8], gru.gates.weight], 1)  # one convolution of [x, h] each
    candidate = torch.cat([gru.from_input.weight[8:], gru.candidate.weight], 1)
    bias, h = gru.from_input.bias, torch.zeros(2, 4, 5, 6)
    conv = torch.nn.functional.conv2d
    for t in range(3):
        r, z = torch.sigmoid(conv(torch.cat([x[:, t], h], 1), gates, bias[:8], padding=1)).chunk(2, 1)
        c = torch.tanh(conv(torch.cat([x[:, t], r * h], 1), candidate, bias[8:], padding=1))
        h = (1 - z) * h + z * c
    torch.testing.assert_close(gru(x)[:, -1], h)


def test_linear_attention_equals_explicit_weights_over_positions():
    torch.manual_seed(0)
    layer, x = LinearAttention(6, heads=2, width=3), torch.randn(2, 6, 4, 5)
    normed = layer.norm(x)
    torch.testing.assert_close(normed.mean(1), torch.zeros(2, 4, 5), atol=1e-6, rtol=0)
    torch.testing.assert_close(normed.var(1, correction=0), torch.ones(2, 4, 5), atol=1e-3, rtol=0)
    qkv = layer.to_qkv(normed).reshape(2, 3, 2, 3, 20)
    heads = []
    for head in range(2):
        q, k, v = (qkv[:, i, head].transpose(1, 2) for i in range(3))  # (batch, position, width)
        weights = (q / 3**0.5) @ torch.softmax(k, 1).transpose(1, 2)  # of every position for every position
        heads.append((weights @ v).transpose(1, 2))
    torch.testing.assert_close(layer(x), x + layer.to_out(torch.cat(heads, 1).reshape(2, 6, 4, 5)))


def test_step_embedding_starts_from_sines_and_cosines_of_the_raw_step():
    embed = StepEmbedding(8)
    embed.mlp = nn.Identity()
    expected = torch.tensor([[7 / 10 ** (4 * i / 3) for i in range(4)]])
    torch.testing.assert_close(embed(torch.tensor([7])), torch.cat([expected.sin(), expected.cos()], 1))


def test_resblock_needs_the_vector_it_was_built_for():
    with pytest.raises(ValueError, match="step vector"):
        ResBlock(4, 4, embedding=8)(torch.zeros(1, 4, 4, 4))


@pytest.mark.parametrize("network", [ContextEncoder(1, (8, 16)), MeanPredictor(1, (8, 16))])
def test_networks_see_no_future_frame_and_carry_their_state(network):
    torch.manual_seed(0)
    clip = torch.randn(2, 4, 1, 8, 8)
    changed = clip.clone()
    changed[:, 3] += 1

    def outputs(frames, state=None):
        out = network(frames, state)
        if isinstance(network, MeanPredictor):
            return out[0].unflatten(0, frames.shape[:2]), out[1]
        return out[-1], tuple(m[:, -1] for m in out)

    full, _ = outputs(clip)
    torch.testing.assert_close(outputs(changed)[0][:, :3], full[:, :3])
    _, state = outputs(clip[:, :2])
    torch.testing.assert_close(outputs(clip[:, 2:], state)[0], full[:, 2:])
