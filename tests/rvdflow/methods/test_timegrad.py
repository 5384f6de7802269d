"""TimeGrad on modes: its schedule and nets from formulas, modes of evaluation.pod, a known law recovered."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from evaluation.pod import Pod
from rvdflow.methods.timegrad import NoiseNet, TimeGrad, TimeGradConfig, linear_schedule
from rvdflow.networks import Given
from rvdflow.noise import Draws

TINY = {
    "modes": 6, "lags": (1, 3), "units": 5, "condition": 7, "net_layers": 3, "diffusion_steps": 20,
    "context_frames": 4, "clip_frames": 7, "sampler": {"name": "ancestral", "steps": 20, "spacing": "even"},
}  # fmt: skip
SIZE = {"channels": 2, "height": 6, "width": 8}


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _orthonormal(modes, numbers=96):
    return torch.linalg.qr(_normal(numbers, modes))[0].T * numbers**0.5


def _model(**changes):
    model = TimeGrad(TimeGradConfig(**{**TINY, **changes}), **SIZE).double()
    g = torch.Generator().manual_seed(5)
    for p in model.parameters():
        p.data = (p[0].numel() ** -0.5 if p.ndim > 1 else 0.2) * torch.randn(p.shape, generator=g, dtype=torch.float64)
    n = model.config.modes
    model.set_modes(_normal(2, 6, 8, seed=1), _orthonormal(n).reshape(n, 2, 6, 8), torch.linspace(2, 0.1, n))
    return model


def _given(model, rows=2):
    numbers = _normal(rows, len(model.config.conditions), seed=4)
    return Given(torch.ones(rows, 1, 6, 8, dtype=torch.float64), numbers)


# ---------------------------------------------------------------- modes


def test_frames_of_modes_have_the_coefficients_they_were_made_of():
    model, coefficients = _model(), _normal(3, 2, 6)
    frames = model.reconstruct(coefficients)
    assert frames.shape == (3, 2, 2, 6, 8)
    torch.testing.assert_close(model.project(frames), coefficients)
    by_hand = model.mean + sum(coefficients[1, 0, i] * model.deviation[i] * model.modes[i] for i in range(6))
    torch.testing.assert_close(frames[1, 0], by_hand)


def test_modes_of_the_evaluation_whiten_the_coefficients_of_their_snapshots():
    """How a trainer makes them: the channels of a frame lie one above the other."""
    rng = np.random.default_rng(0)
    t = np.arange(60)[:, None]
    snapshots = (np.sin(0.3 * t + np.arange(96)) + 0.2 * rng.standard_normal((60, 96)) + 0.5).reshape(60, 2, 6, 8)
    snapshots[..., 2:4, 3:5] = 0  # inside an obstacle
    pod = Pod.fit(snapshots.reshape(60, 12, 8), modes=6)
    model = _model()
    fitted = (pod.mean.reshape(2, 6, 8), pod.modes.reshape(6, 2, 6, 8), np.sqrt(pod.energy))
    model.set_modes(*(torch.from_numpy(np.ascontiguousarray(x)) for x in fitted))
    found = model.project(torch.from_numpy(snapshots))
    torch.testing.assert_close(found * model.deviation, torch.from_numpy(pod.project(snapshots.reshape(60, 12, 8))))
    torch.testing.assert_close(found.T @ found / 60, torch.eye(6, dtype=torch.float64))
    assert not model.reconstruct(found)[..., 2:4, 3:5].abs().max() > 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mean, modes, deviation: (mean[:1], modes, deviation), "mean has shape"),
        (lambda mean, modes, deviation: (mean, modes[:5], deviation), "modes has shape"),
        (lambda mean, modes, deviation: (mean, 1.1 * modes, deviation), "not orthonormal"),
        (lambda mean, modes, deviation: (mean, math.nan * modes, deviation), "not orthonormal"),
        (lambda mean, modes, deviation: (mean, modes, 0 * deviation), "must be positive"),
    ],
)
def test_modes_that_do_not_fit_are_refused_and_change_nothing(change, message):
    model = _model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        model.set_modes(*change(model.mean.clone(), model.modes.clone(), model.deviation.clone()))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# ---------------------------------------------------------------- schedule and networks


def test_the_schedule_is_linear_in_beta():
    schedule = linear_schedule(100, 1e-4, 0.1)
    beta = 1 - schedule.alpha_bar[1:] / schedule.alpha_bar[:-1]
    expected = [1e-4 + (0.1 - 1e-4) * k / 99 for k in range(100)]
    torch.testing.assert_close(beta, torch.tensor(expected, dtype=torch.float64))
    assert schedule.alpha_bar[0] == 1
    assert schedule.alpha_bar[-1] < 0.01  # nothing but noise


def test_networks_have_the_weights_of_their_table():
    with torch.device("meta"):
        model = TimeGrad(TimeGradConfig(), channels=3, height=64, width=64)
    lstm = sum(4 * 40 * (inputs + 40 + 2) for inputs in (3 * 32, 40))
    step = 16 * 64 + 64 + 64 * 16 + 16
    layer = (16 * 8 + 8) + (16 + 16) + (8 * 16 * 3 + 16) + (8 * 16 + 16)
    condition = 100 * 16 + 16 + 16 * 32 + 32
    ends = (8 + 8) + (8 * 8 * 3 + 8) + (8 * 3 + 1)
    expected = {"lstm": lstm, "tell": 40 * 100 + 100, "net": step + 8 * layer + condition + ends}
    assert {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()} == expected
    pixels = 3 * 64 * 64
    assert pixels * pixels / 2 == pytest.approx(75e6, rel=0.01)  # the condition of a frame as a series


def test_the_noise_net_equals_its_formula():
    net = NoiseNet(6, 7, 4, 3).double()
    for p in net.parameters():
        p.data = _normal(*p.shape) * 0.4
    noisy, step, told = _normal(3, 6, seed=1), torch.tensor([1, 9, 20]), _normal(3, 7, seed=2)

    def circular(m, x, dilation=1):
        pad = dilation * (m.weight.shape[2] // 2)
        padded = torch.cat([x[..., x.shape[-1] - pad :], x, x[..., :pad]], -1)
        return F.conv1d(padded, m.weight, m.bias, dilation=dilation)

    vector = net.embed(step)
    wide = F.leaky_relu(F.linear(told, net.condition[0].weight, net.condition[0].bias), 0.4)
    wide = F.leaky_relu(F.linear(wide, net.condition[2].weight, net.condition[2].bias), 0.4)[:, None]
    x, skips = F.leaky_relu(circular(net.first, noisy[:, None]), 0.4), []
    for layer, dilation in zip(net.layers, (1, 2, 1), strict=True):
        h = x + F.linear(vector, layer.from_step.weight, layer.from_step.bias)[:, :, None]
        h = circular(layer.conv, h, dilation) + circular(layer.from_condition, wide)
        out = circular(layer.out, h[:, :4].sigmoid() * h[:, 4:].tanh())
        x, skip = (x + out[:, :4]) / math.sqrt(2), out[:, 4:]
        skips.append(skip)
    h = F.leaky_relu(circular(net.skip, sum(skips) / math.sqrt(3)), 0.4)
    torch.testing.assert_close(net(noisy, step, told), circular(net.head, h)[:, 0])


# ---------------------------------------------------------------- training


def _conditions(model, coefficients, given, t):
    """What the LSTM says of frame t, from a loop of its own over coefficients (b, time, mode) before it."""
    out = state = None
    for k in range(3, t + 1):
        inputs = torch.cat([coefficients[:, k - 1], coefficients[:, k - 3], given.conditions], 1)
        out, state = model.lstm(inputs[:, None], state)
    return F.linear(out[:, 0], model.tell.weight, model.tell.bias)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("conditions", [(), ("reynolds", "inflow")])
def test_the_loss_is_that_of_the_published_equation(norm, conditions):
    model = _model(loss=norm, conditions=conditions)
    frames, given = _normal(2, 7, 2, 6, 8, seed=9), _given(model)
    found = model.losses("model", frames, given, progress=0.0, draws=Draws(torch.Generator().manual_seed(7), 2))
    g = torch.Generator().manual_seed(7)
    steps = torch.randint(1, 21, (2, 3), generator=g)
    noise = torch.randn(2, 3, 6, generator=g).double()
    coefficients = model.project(frames)
    beta = [1e-4 + (0.1 - 1e-4) * k / 19 for k in range(20)]
    errors = []
    for t in range(4, 7):
        told = _conditions(model, coefficients, given, t)
        abar = torch.tensor([math.prod(1 - b for b in beta[: int(n)]) for n in steps[:, t - 4]]).double()[:, None]
        noisy = abar.sqrt() * coefficients[:, t] + (1 - abar).sqrt() * noise[:, t - 4]
        errors.append(noise[:, t - 4] - model.net(noisy, steps[:, t - 4], told))
    error = torch.stack(errors)
    expected = error.abs().mean() if norm == "l1" else error.square().mean()
    torch.testing.assert_close(found["loss"], expected, rtol=1e-5, atol=0)  # levels are float32


# ---------------------------------------------------------------- forecasts


def test_the_net_is_told_what_came_before_and_was_drawn():
    model = _model(conditions=("reynolds",))
    context, given = _normal(2, 6, 2, 6, 8, seed=9), _given(model)
    told, net = [], model.net.forward
    model.net.forward = lambda noisy, step, condition: told.append(condition) or net(noisy, step, condition)
    g = torch.Generator().manual_seed(3)
    frames = model.forecast(context, given, 3, lambda shape: torch.randn(2, *shape, generator=g).double())
    coefficients = model.project(torch.cat([context, frames], 1))
    for lead in range(3):
        torch.testing.assert_close(told[20 * lead], _conditions(model, coefficients, given, 6 + lead))
        assert all(torch.equal(condition, told[20 * lead]) for condition in told[20 * lead : 20 * lead + 20])


@pytest.mark.parametrize("sampler", [{"name": "ancestral", "spacing": "even", "steps": 100}, {"steps": 20}])
def test_an_exact_net_draws_the_gaussian_it_knows(sampler):
    """c ~ N(a, s^2): the noise expected at y_n is sqrt(1 - abar) (y_n - sqrt(abar) a) / (abar s^2 + 1 - abar)."""
    model = _model(modes=2, diffusion_steps=100, sampler=sampler)
    a, s, rows = torch.tensor([0.5, -1.0]).double(), torch.tensor([0.6, 1.2]).double(), 6000

    class Exact(nn.Module):
        def forward(self, noisy, step, condition):
            abar = model.schedule.alpha_bar[step][:, None]
            return (1 - abar).sqrt() * (noisy - abar.sqrt() * a) / (abar * s**2 + 1 - abar)

    model.net = Exact()
    g = torch.Generator().manual_seed(0)
    context = torch.zeros(rows, 3, 2, 6, 8, dtype=torch.float64)
    frames = model.forecast(context, _given(model, rows), 1, lambda n: torch.randn(rows, *n, generator=g).double())
    found = model.project(frames[:, 0])
    # Four standard errors of 6000 draws, and 2 % for the steps of the samplers and noise that abar_N leaves.
    assert ((found.mean(0) - a).abs() < 4 * s / math.sqrt(rows) + 0.03).all()
    assert ((found.std(0) / s - 1).abs() < 4 / math.sqrt(2 * rows) + 0.03).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lags": (0, 1)}, "1 or more"),
        ({"lags": (1, 1)}, "different"),
        ({"lags": (1, 5)}, "at least the largest of lags"),
        ({"clip_frames": 4}, "must exceed context_frames"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TimeGradConfig(**{**TINY, **settings})


def test_more_modes_than_numbers_of_a_frame_are_refused():
    with pytest.raises(ValueError, match="do not have 97 modes"):
        TimeGrad(TimeGradConfig(modes=97), **SIZE)
