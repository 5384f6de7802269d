"""IVRNN: its sizes from the published tables, and loss and roll-out frame by frame from its equations."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal
from torch.nn import functional as F

from rvdflow.methods.ivrnn import Ivrnn, IvrnnConfig, Residual
from rvdflow.networks import Given
from rvdflow.noise import Draws

TINY = {"width": 0.25, "latent_stages": (0, 2, 3), "z_channels": (12, 16, 8), "beta": 0.5, "kl_warmup": 0.0,
        "context_frames": 2, "clip_frames": 5}  # fmt: skip


def _model(size=(16, 32), channels=1, **changes):
    model = Ivrnn(IvrnnConfig(**{**TINY, **changes}), channels=channels, height=size[0], width=size[1])
    g = torch.Generator().manual_seed(5)
    for p in model.parameters():
        p.data = (p[0].numel() ** -0.5 if p.ndim > 1 else 0.5) * torch.randn(p.shape, generator=g)
    return model.double()


def _given(model, rows=2):
    fluid = torch.ones(rows, 1, *model.frame_shape[1:], dtype=torch.float64)
    fluid[:, :, 4:8, 6:9] = 0
    return Given(fluid, torch.zeros(rows, 0, dtype=torch.float64))


def _clips(model, frames=5, seed=3):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(2, frames, *model.frame_shape, generator=g, dtype=torch.float64) - 0.5


def _losses(model, clips, progress=1.0):
    draws = Draws(torch.Generator().manual_seed(7), 2)
    return model.losses("model", clips, _given(model), progress=progress, draws=draws)


# ---------------------------------------------------------------- sizes


def _conv(c_in, c_out, kernel=1, bias=True):
    return c_in * c_out * kernel**2 + bias * c_out


def _residual(a, b):
    hidden = min(a, b)
    skip = _conv(a, b) if a != b else 0
    return _conv(a, hidden, 3) + 2 * hidden + _conv(hidden, b, 3, bias=False) + 2 * b + skip


def _lstm(c_in, hidden, kernel=3):
    return 4 * hidden * (c_in + hidden) * kernel**2 + 2 * (4 + 4 + 1) * hidden


def _law(c_in, z, coarser, kernel=3):
    return _conv(c_in, c_in) + 2 * c_in + _lstm(c_in, c_in, kernel) + _conv(c_in + coarser, 2 * z) + 4 * z


def _first(frames, c):
    return _conv(frames * c, c) + 2 * c + _conv(c, 2 * c) + 4 * c


# (resolution, hidden, out, latent) of the renderer, in units of 64 channels but for the latents
STAGES = {
    64: [(1, 8, 8, 10), (4, 8, 8, 0), (8, 8, 4, 512), (16, 4, 2, 0), (32, 2, 1, 128), (64, 1, 1, 0)],
    128: [(1, 8, 8, 10), (4, 8, 8, 0), (8, 8, 8, 512), (16, 8, 4, 0), (32, 4, 2, 128), (64, 2, 1, 0), (128, 1, 1, 0)],
}
EMBEDDED = {64: (64, 128, 256, 512, 512), 128: (64, 128, 256, 512, 512, 512)}


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("dense", [True, False])
def test_the_published_networks_have_the_weights_of_their_tables(size, dense):
    with torch.device("meta"):
        model = Ivrnn(IvrnnConfig(dense_prior=dense), channels=3, height=size, width=size)
    widths, stages = EMBEDDED[size], STAGES[size]
    embedding = _conv(3, 64) + _residual(64, 64)
    embedding += sum(_residual(a, b) + _residual(b, b) for a, b in itertools.pairwise(widths))
    rendered, c_in = 0, 512
    for resolution, hidden, out, z in stages:
        kernel = {1: 4, size: 3}.get(resolution, 4)
        rendered += _lstm(c_in + z, 64 * hidden, 1 if resolution == 1 else 3)
        rendered += _conv(64 * hidden, 64 * out, kernel) + 2 * 64 * out
        c_in = 64 * out
    seen = [64 * hidden for _, hidden, _, z in stages if z]
    laws = [
        _law(seen[0], 10, 0, kernel=1) + _law(seen[1], 512, first) + _law(seen[2], 128, second)
        for first, second in ((10, 522), (0, 0))
    ]
    expected = {
        "embedding": embedding,
        "stages": rendered,
        "head": _conv(64, 3, 3),
        "priors": laws[0] if dense else laws[1],
        "posteriors": laws[0],
        "first_rendered": sum(_first(2, 64 * hidden) for _, hidden, _, _ in stages),
        "first_priors": sum(_first(2, c) for c in seen),
        "first_posteriors": sum(_first(2, c) for c in seen),
    }
    assert {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()} == expected
    assert sum(expected.values()) > 100e6  # as is said of the published one
    assert [shape[1:] for shape in model.z_shapes] == [(1, 1), (8, 8), (32, 32)]


def test_maps_of_frames_of_any_shape_end_at_one_pixel():
    for size, coarsest in (((32, 64), (4, 8)), ((24, 16), (6, 4)), ((56, 28), (14, 7))):
        model = _model(size, latent_stages=(0,), z_channels=(10,))
        maps = model._maps(_clips(model, 2))
        assert [tuple(m.shape[3:]) for m in maps[:2]] == [(1, 1), coarsest]
        assert tuple(maps[-1].shape[3:]) == size
        assert model.forecast(_clips(model, 2), _given(model), 1, lambda s: torch.zeros(2, *s)).shape[3:] == size


def test_a_residual_block_equals_its_formula():
    block = Residual(8, 16).double()
    x = torch.randn(2, 8, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    convs, norms = ([m for m in block.branch if isinstance(m, kind)] for kind in (nn.Conv2d, nn.GroupNorm))
    h = x
    for conv, norm in zip(convs, norms, strict=True):
        h = F.group_norm(F.conv2d(F.leaky_relu(h, 0.2), conv.weight, conv.bias, padding=1), 4, norm.weight, norm.bias)
    torch.testing.assert_close(block(x), F.conv2d(x, block.skip.weight, block.skip.bias) + 0.1 * h)


# ---------------------------------------------------------------- frame by frame


class _Plain:
    """The model's steps one frame at a time, on its weights."""

    def __init__(self, model, context):
        self.model = model
        at = model.config.latent_stages
        maps = [[m[:, 0] for m in model._maps(x[:, None])] for x in context.unbind(1)]
        joined = [torch.cat([frame[s] for frame in maps], 1) for s in range(len(maps[0]))]

        def states(networks, stages):
            return [tuple(net.network(joined[s]).chunk(2, 1)) for net, s in zip(networks, stages, strict=True)]

        self.rendered = states(model.first_rendered, range(len(joined)))
        self.memories = {
            "prior": states(model.first_priors, at),
            "posterior": states(model.first_posteriors, at),
        }

    def law(self, kind, i, frame, z):
        law = {"prior": self.model.priors, "posterior": self.model.posteriors}[kind][i]
        x = law.embed(self.maps(frame)[self.model.config.latent_stages[i]])
        state = law.memory.advance(law.memory.input_terms(x), self.memories[kind][i])
        self.memories[kind][i] = state
        size = state[0].shape[2:]
        finer = [one.repeat_interleave(size[0] // one.shape[2], 2).repeat_interleave(size[1] // one.shape[3], 3)
                 for one in z]  # fmt: skip
        mean, raw = law.head(torch.cat([state[0], *finer], 1)).chunk(2, 1)
        return Normal(mean, (F.softplus(raw) + 1e-6).sqrt())

    def maps(self, frame):
        return [m[:, 0] for m in self.model._maps(frame[:, None])]

    def render(self, frame, z):
        h, waiting = self.maps(frame)[0], list(z)
        for s, stage in enumerate(self.model.stages):
            if s in self.model.config.latent_stages:
                h = torch.cat([h, waiting.pop(0)], 1)
            self.rendered[s] = stage.memory.advance(stage.memory.input_terms(h), self.rendered[s])
            h = stage.grow(self.rendered[s][0])
        return self.model.head(h).tanh()


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_loss_is_that_of_the_published_equations(norm, dense):
    model = _model(reconstruction=norm, dense_prior=dense)
    clips, given = _clips(model), _given(model)
    g = torch.Generator().manual_seed(7)
    noise = [torch.randn(2, 3, *shape, generator=g).double() for shape in model.z_shapes]
    plain, fluid = _Plain(model, clips[:, :2]), given.fluid[0, 0].bool()
    errors, nats = [], []
    for t in range(2, 5):
        z, cost = [], 0.0
        for i in range(3):
            p = plain.law("prior", i, clips[:, t - 1], z if dense else [])
            q = plain.law("posterior", i, clips[:, t], z)
            z.append(q.mean + q.stddev * noise[i][:, t - 2])
            cost = cost + (q.log_prob(z[-1]) - p.log_prob(z[-1])).sum((1, 2, 3))
        error = (plain.render(clips[:, t - 1], z) - clips[:, t])[..., fluid] / 2  # frames in [0, 1], as published
        errors.append(error.abs().mean() if norm == "l1" else error.square().mean())
        nats.append(cost.mean())
    expected = torch.stack(errors).mean() + 0.5 * torch.stack(nats).mean() / math.prod(model.frame_shape)
    found = _losses(model, clips)
    torch.testing.assert_close(found["loss"], expected)
    torch.testing.assert_close(found["kl_0"] + found["kl_2"] + found["kl_3"], torch.stack(nats).mean())


def test_a_forecast_carries_its_states_on():
    model = _model()
    context, given = _clips(model, 2), _given(model)
    g = torch.Generator().manual_seed(1)
    noise = [[torch.randn(2, *shape, generator=g).double() for shape in model.z_shapes] for _ in range(3)]
    plain, last, expected = _Plain(model, context), context[:, 1], []
    with torch.no_grad():
        for t in range(3):
            z = []
            for i in range(3):
                p = plain.law("prior", i, last, z)
                z.append(p.mean + p.stddev * noise[t][i])
            last = plain.render(last, z) * given.fluid
            expected.append(last)
    drawn = iter(itertools.chain(*noise))
    found = model.forecast(context, given, 3, lambda shape: next(drawn))
    torch.testing.assert_close(found, torch.stack(expected, 1))


def test_the_divergence_is_warmed_up_and_has_free_nats():
    model = _model(kl_warmup=0.4)
    clips = _clips(model)
    none, half, whole = (_losses(model, clips, progress)["loss"] for progress in (0.0, 0.2, 0.4))
    torch.testing.assert_close(half - none, (whole - none) / 2)
    model = _model(free_bits=1e6)
    free = _losses(model, clips)["loss"]
    torch.testing.assert_close(free - none, torch.tensor(0.5 * 3 * 1e6 / (16 * 32), dtype=torch.float64))


def test_before_training_laws_do_not_depend_on_what_is_seen():
    model = Ivrnn(IvrnnConfig(**TINY), channels=1, height=16, width=32)
    for law in [*model.priors, *model.posteriors]:
        size = law.head[0].in_channels
        first, second = (law.head(torch.randn(1, size, 2, 2)) for _ in range(2))
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_frames": 2}, "must exceed context_frames"),
        ({"z_channels": (10,)}, "differ in length"),
        ({"latent_stages": (2, 0, 3)}, "must grow"),
        ({"z_channels": (0, 1, 1)}, "negative or 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        IvrnnConfig(**{**TINY, **settings})


def test_networks_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"stages 0 to 3"):
        _model(latent_stages=(0, 2, 4))
    with pytest.raises(ValueError, match="multiple of 16"):
        _model(width=0.125)
