"""The published networks: their sizes, and every value and gradient of a training step from plain formulas.

The functions below write the networks out with `torch.nn.functional`, on the weights of the modules under test.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rvdflow.config import PRESETS, ModelConfig
from rvdflow.context import ContextEncoder
from rvdflow.denoiser import Denoiser
from rvdflow.layers import Block, ConvGRU, LinearAttention, ResBlock, StepEmbedding
from rvdflow.model import ResidualVideoDiffusion
from rvdflow.networks import Given
from rvdflow.noise import Draws
from rvdflow.predictor import MeanPredictor

# ---------------------------------------------------------------- the networks in plain functions


def conv(m, x, stride=1):
    return F.conv2d(x, m.weight, m.bias, stride=stride, padding=m.weight.shape[-1] // 2)


def up(m, x):
    return F.conv_transpose2d(x, m.weight, m.bias, stride=2, padding=1)


def block(m, x):
    return F.leaky_relu(F.group_norm(conv(m.conv, x), 8, m.norm.weight, m.norm.bias), 0.2)


def resblock(m, x, vector=None):
    h = block(m.first, x)
    if vector is not None:
        h = h + F.linear(F.leaky_relu(vector, 0.2), m.project.weight, m.project.bias)[:, :, None, None]
    return block(m.second, h) + (x if isinstance(m.skip, nn.Identity) else conv(m.skip, x))


def embedding(m, n, width):
    half = width // 2
    angles = torch.tensor([[k / 10 ** (4 * i / (half - 1)) for i in range(half)] for k in n.tolist()])
    sinusoids = torch.cat([angles.sin(), angles.cos()], 1).to(m.mlp[0].weight)
    h = F.gelu(F.linear(sinusoids, m.mlp[0].weight, m.mlp[0].bias))
    return F.linear(h, m.mlp[2].weight, m.mlp[2].bias)


def attention(m, x, heads=4, width=16):
    """With the explicit weight of every position for every position."""
    b, _, ny, nx = x.shape
    centred = x - x.mean(1, keepdim=True)
    normed = centred / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt() * m.norm.weight + m.norm.bias
    qkv = conv(m.to_qkv, normed).reshape(b, 3, heads, width, ny * nx)
    out = []
    for head in range(heads):
        q, k, v = (qkv[:, i, head].transpose(1, 2) for i in range(3))  # (batch, position, width)
        weights = (q * width**-0.5) @ torch.softmax(k, 1).transpose(1, 2)
        out.append((weights @ v).transpose(1, 2))
    return x + conv(m.to_out, torch.cat(out, 1).reshape(b, heads * width, ny, nx))


def gru(m, x, h):
    """One step; the module keeps the parts of W and V that act on x and on h apart."""
    c = m.channels
    w = torch.cat([m.from_input.weight[: 2 * c], m.gates.weight], 1)
    v = torch.cat([m.from_input.weight[2 * c :], m.candidate.weight], 1)
    bias = m.from_input.bias
    reset, update = torch.sigmoid(F.conv2d(torch.cat([x, h], 1), w, bias[: 2 * c], padding=1)).chunk(2, 1)
    proposal = torch.tanh(F.conv2d(torch.cat([x, reset * h], 1), v, bias[2 * c :], padding=1))
    return (1 - update) * h + update * proposal


def context(m, frames):
    """Hidden maps of each level after the last of frames (b, t, c, y, x), from a state of zero."""
    hidden = None
    for x in frames.unbind(1):
        maps = []
        for i in range(len(m.blocks)):
            x = resblock(m.blocks[i], x)
            x = gru(m.memory[i], x, torch.zeros_like(x) if hidden is None else hidden[i])
            maps.append(x)
            if i + 1 < len(m.blocks):
                x = conv(m.down[i], x, stride=2)
        hidden = maps
    return hidden


def mean(m, frames):
    maps = context(m.encoder, frames)
    h = up(m.up[0], resblock(m.blocks[0], maps.pop()))
    for i in range(1, len(m.blocks)):
        h = up(m.up[i], resblock(m.blocks[i], torch.cat([h, maps.pop()], 1)))
    return conv(m.head, h)


def denoise(m, noisy, n, maps, width):
    vector, skips, h = embedding(m.embed, n, width), [], noisy
    for i, level in enumerate(m.levels):
        h = resblock(level.second, torch.cat([resblock(level.first, h, vector), maps[i]], 1), vector)
        h = attention(level.attention, h)
        skips.append(h)
        if i + 1 < len(m.levels):
            h = conv(m.down[i], h, stride=2)
    h = resblock(m.middle[2], attention(m.middle[1], resblock(m.middle[0], h, vector)), vector)
    for level in m.ups:  # one fewer than there are levels: the skip at full resolution is not used
        h = resblock(level.first, torch.cat([h, skips.pop()], 1), vector)
        h = up(level.up, attention(level.attention, resblock(level.second, h, vector)))
    return conv(m.head[1], block(m.head[0], h))


# ---------------------------------------------------------------- modules against them


def _rough(module):
    """In float64, each weight drawn: none at a special value such as the 1 and 0 of a fresh norm."""
    g = torch.Generator().manual_seed(5)
    for p in module.parameters():
        std = p[0].numel() ** -0.5 if p.ndim > 1 else 0.5
        p.data = std * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return module.double()


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MAPS = [_normal(2, 8, 8, 16, seed=3), _normal(2, 16, 4, 8, seed=4), _normal(2, 32, 2, 4, seed=5)]
STEPS = torch.tensor([3, 1600])
INPUTS, ZERO = _normal(2, 2, 4, 5, 6), torch.zeros(2, 4, 5, 6, dtype=torch.float64)


@pytest.mark.parametrize(
    ("module", "found", "expected"),
    [
        (Block(6, 16), lambda m: m(_normal(2, 6, 8, 16)), lambda m: block(m, _normal(2, 6, 8, 16))),
        (ResBlock(6, 16), lambda m: m(_normal(2, 6, 8, 16)), lambda m: resblock(m, _normal(2, 6, 8, 16))),
        (
            ResBlock(16, 16, 8),
            lambda m: m(_normal(2, 16, 4, 4), _normal(2, 8)),
            lambda m: resblock(m, _normal(2, 16, 4, 4), _normal(2, 8)),
        ),
        (StepEmbedding(48), lambda m: m(STEPS), lambda m: embedding(m, STEPS, 48)),
        (LinearAttention(24), lambda m: m(_normal(2, 24, 4, 6)), lambda m: attention(m, _normal(2, 24, 4, 6))),
        (ConvGRU(4), lambda m: m(INPUTS)[:, 1], lambda m: gru(m, INPUTS[:, 1], gru(m, INPUTS[:, 0], ZERO))),
        (
            ContextEncoder(3, (8, 16, 16)),
            lambda m: [h[:, -1] for h in m(_normal(2, 4, 3, 8, 16))],
            lambda m: context(m, _normal(2, 4, 3, 8, 16)),
        ),
        (
            MeanPredictor(3, (8, 16, 24)),
            lambda m: m(_normal(1, 4, 3, 8, 16))[0][-1:],
            lambda m: mean(m, _normal(1, 4, 3, 8, 16)),
        ),
        (
            Denoiser(2, 8, (8, 16, 32)),
            lambda m: m(_normal(2, 2, 8, 16), STEPS, MAPS),
            lambda m: denoise(m, _normal(2, 2, 8, 16), STEPS, MAPS, 8),
        ),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_a_module_equals_its_plain_formula(module, found, expected):
    module = _rough(module)
    # Where a step is embedded: frequencies are float32, an error of 1e-7 of an angle of up to 1600.
    tolerance = 2e-4 if isinstance(module, StepEmbedding | Denoiser) else 1e-9
    torch.testing.assert_close(found(module), expected(module), atol=tolerance, rtol=0)


@pytest.mark.parametrize("network", [ContextEncoder(1, (8, 16)), MeanPredictor(1, (8, 16))])
def test_networks_see_no_future_frame_and_carry_their_state(network):
    clip = torch.randn(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
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


def test_adding_a_convolved_condition_equals_convolving_the_concatenation():
    x, c = _normal(2, 5, 6, 7), _normal(2, 3, 6, 7, seed=1)
    together = _rough(Block(8, 4))
    apart, condition = Block(5, 4).double(), nn.Conv2d(3, 4, 3, padding=1, bias=False).double()
    apart.load_state_dict(together.state_dict() | {"conv.weight": together.conv.weight[:, :5]})
    condition.weight.data = together.conv.weight.data[:, 5:]
    torch.testing.assert_close(apart(x, condition(c)), together(torch.cat([x, c], 1)))


def test_resblock_needs_the_vector_it_was_built_for():
    with pytest.raises(ValueError, match="step vector"):
        ResBlock(4, 4, embedding=8)(torch.zeros(1, 4, 4, 4))


# ---------------------------------------------------------------- one training step from Eq. 9

TINY = {
    "width": 8,
    "multipliers": (1, 2),
    "mean_multipliers": (1, 2, 2),
    "diffusion_steps": 50,
    "sampler": {"steps": 50, "spacing": "even"},
}
VD = {"mean": "zero", "mean_loss": 0.0, "residual_scale": "fixed", "sigma": 1.0}
CASES = {
    "paper, 2+6 frames": ("paper-64", {}),
    "paper, 2+3 frames": ("paper-128", {"clip_frames": 5}),
    "released, 2+6 frames": ("released-64", {}),
    "released, 2+3 frames": ("released-128", {"clip_frames": 5}),
    "VD": ("paper-64", VD),
    "VD, L1": ("released-64", VD),
}


def _equation_9(model, clips, seed):
    """Loss of clips (b, t, c, y, x) with one level n for each clip and fresh noise for each frame."""
    c, networks = model.config, model.networks
    b, t = clips.shape[:2]
    g = torch.Generator().manual_seed(seed)
    n = torch.randint(1, 51, (b,), generator=g)
    noise = torch.randn(b, t - 2, *clips.shape[2:], generator=g)
    f = [math.cos((k / 50 + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(51)]
    terms = []
    for row in range(b):
        abar = math.prod(max(f[k + 1] / f[k], 1 - 0.999) for k in range(int(n[row])))
        for k in range(2, t):  # loss from the third frame on
            past, eps = clips[row : row + 1, :k], noise[row, k - 2][None]
            mu = 0.0 if c.mean == "zero" else mean(networks.predictor, past).clamp(-1, 1)
            y0 = (clips[row, k][None] - mu) / c.sigma
            y = math.sqrt(abar) * y0 + math.sqrt(1 - abar) * eps
            answer = denoise(networks.denoiser, y, n[row : row + 1], context(networks.context, past), 8)
            terms.append((eps - answer).abs() if c.loss == "l1" else (eps - answer) ** 2)
    return torch.stack(terms).mean()


@pytest.mark.parametrize("case", CASES)
def test_a_training_step_is_that_of_equation_9(case):
    preset, changes = CASES[case]
    config = ModelConfig(**{**PRESETS[preset], **TINY, **changes})
    model = _rough(ResidualVideoDiffusion(config, channels=2, height=8, width=8))
    clips = _normal(2, config.clip_frames, 2, 8, 8).clamp(-1, 1)
    given = Given(torch.ones(2, 1, 8, 8), torch.zeros(2, 0))
    draws = Draws(torch.Generator().manual_seed(7), 2)

    expected = _equation_9(model, clips, seed=7)
    gradients = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    before = [p.detach().clone() for p in model.parameters()]
    adam = torch.optim.Adam(model.parameters(), lr=5e-5)
    loss = model.loss(clips, given, progress=0.0, draws=draws).values["loss"]
    loss.backward()
    adam.step()

    # 1e-5 of a value: levels are float32, and so are the frequencies of the embedding.
    torch.testing.assert_close(loss, expected, atol=0, rtol=1e-5)
    for (name, p), gradient, old in zip(model.named_parameters(), gradients, before, strict=True):
        if gradient is None:
            assert config.mean == "zero"
            assert name.startswith("networks.predictor")
            assert p.grad is None or not p.grad.any()
            continue
        scale = gradient.abs().max().item()
        torch.testing.assert_close(
            p.grad, gradient, atol=1e-4 * scale + 1e-12, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )
        first_step = -5e-5 * gradient / (gradient.abs() + 1e-8)  # Adam: both moments equal the gradient's own
        wrong = (p.detach() - old - first_step).abs() > 1e-3 * 5e-5
        assert wrong.double().mean() < 0.01, name  # where the gradient is about as small as its error
    reached = [
        g is not None and g.abs().max() > 0
        for n, g in zip(dict(model.named_parameters()), gradients, strict=True)
        if "predictor" in n
    ]
    assert all(reached) == (config.mean == "network")  # the mean learns through y_n


def test_without_a_mean_the_diffusion_draws_the_whole_frame():
    config = ModelConfig(**{**PRESETS["released-64"], **TINY, **VD})
    model = _rough(ResidualVideoDiffusion(config, channels=1, height=8, width=8))
    state = model.encode(_normal(2, 3, 1, 8, 8), Given(torch.ones(2, 1, 8, 8), torch.zeros(2, 0)))
    assert state.outlook.mean.shape == (2, 1, 8, 8)
    assert not state.outlook.mean.any()
