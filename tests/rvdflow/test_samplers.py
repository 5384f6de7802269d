"""Samplers on laws of which the exact denoiser is known: what they converge to, how fast, and the law of the draws."""

import itertools
import math

import pytest
import torch

from rvdflow.config import SamplerConfig
from rvdflow.diffusion import Continuum, cosine_schedule
from rvdflow.samplers import SAMPLERS, sigmas

WEIGHTS, CENTRES, STDS = (torch.tensor(v, dtype=torch.float64) for v in ((0.3, 0.7), (-1.0, 0.8), (0.2, 0.3)))
ONE = tuple(v[1:] / (v[1:].sum() if v is WEIGHTS else 1) for v in (WEIGHTS, CENTRES, STDS))
LAWS = {"gaussian": ONE, "mixture": (WEIGHTS, CENTRES, STDS)}
FINE, CONTINUUM = cosine_schedule(100_000), Continuum(-0.4, 1.4)
LEVELS = {"discrete": cosine_schedule(50), "continuous": CONTINUUM}
COUNT = 20_000
# Kolmogorov-Smirnov distance that 20,000 draws of the right law exceed with a chance of 1e-4: sqrt(ln(2e4) / 2n)
CRITICAL = math.sqrt(math.log(2e4) / (2 * COUNT))


def _config(name, steps, **settings):
    """Even levels, from sigma 80 on: the start has the law of y for data of mean 0 and variance 1, which these lack."""
    return SamplerConfig(**{"name": name, "steps": steps, "spacing": "even", "sigma_max": 80.0, **settings})


def _denoiser(law):
    """E[y_0 | y_0 + sigma eps] where y_0 is a mixture of normal laws: the mean of the components' own answers."""
    weights, centres, stds = LAWS[law]

    def denoise(y, sigma):
        variance, off = stds**2 + sigma**2, y[..., None] - centres
        shares = torch.softmax(weights.log() - 0.5 * variance.log() - 0.5 * off**2 / variance, -1)
        return (shares * (centres + stds**2 / variance * off)).sum(-1)

    return denoise


def _distribution(law, y, sigma=0.0):
    """P(y_0 + sigma eps <= y)."""
    weights, centres, stds = LAWS[law]
    return (weights * torch.special.ndtr((y[..., None] - centres) / (stds**2 + sigma**2).sqrt())).sum(-1)


def _source(count=COUNT, seed=0):
    g = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(count, generator=g, dtype=torch.float64)


def _sample(law, levels, config, count=COUNT):
    return SAMPLERS[config.name](_denoiser(law), _source(count), sigmas(levels, config), config)


def _distance(drawn, probability):
    """Largest difference between the empirical distribution and that of probabilities `probability` at the draws."""
    order = probability[drawn.argsort()]
    rank = torch.arange(len(drawn) + 1, dtype=torch.float64) / len(drawn)
    return max((order - rank[1:]).abs().max().item(), (order - rank[:-1]).abs().max().item())


# ---------------------------------------------------------------- levels


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("spacing", ["even", "karras"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_makes_its_number_of_calls_on_distinct_levels_down_to_zero(name, spacing, kind):
    levels = LEVELS[kind]
    for steps in range(1 + (name == "truncated"), 34):
        config = _config(name, steps, spacing=spacing, rho=3.0)
        grid, seen = sigmas(levels, config), []

        def denoise(y, sigma, seen=seen):
            seen.append(sigma)
            return 0 * y

        SAMPLERS[name](denoise, _source(1), grid, config)
        assert len(seen) == steps
        assert seen[0] == grid[0]
        assert all(a > b for a, b in itertools.pairwise(grid)), grid
        assert grid[-1] == 0
        assert set(seen) == set(grid[:-1])
        if kind == "discrete":
            assert set(grid) <= set(levels.sigma.tolist())


@pytest.mark.parametrize(("name", "steps"), [("ancestral", 50), ("dpmpp", 50), ("ddim", 50), ("heun", 99)])
def test_as_many_calls_as_there_are_levels_visit_them_all(name, steps):
    schedule = LEVELS["discrete"]
    assert sigmas(schedule, _config(name, steps)) == schedule.sigma.flip(0).tolist()
    with pytest.raises(ValueError, match=r"this model has 50 from .*choose fewer steps"):
        sigmas(schedule, _config(name, steps + 1))


def test_a_schedule_of_even_steps_begins_at_its_own_last_step_whatever_sigma_max():
    schedule = LEVELS["discrete"]
    for name in SAMPLERS:
        grids = [sigmas(schedule, _config(name, 7, sigma_max=s)) for s in (5.0, 80.0, 1e6)]
        assert grids[0] == grids[1] == grids[2]
        assert grids[0][0] == float(schedule.sigma[-1])
    assert sigmas(schedule, _config("ddim", 7, sigma_max=5.0, spacing="karras"))[0] == pytest.approx(5.0, rel=0.1)


def test_continuous_levels_are_spaced_as_published():
    config = _config("ddim", 18, spacing="karras", sigma_max=80, sigma_min=0.002)
    inverse = torch.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 18, dtype=torch.float64)  # Karras et al., Eq. 5
    torch.testing.assert_close(torch.tensor(sigmas(CONTINUUM, config)[:-1], dtype=torch.float64), inverse**7)
    angles = [math.atan(s) for s in sigmas(CONTINUUM, _config("ddim", 5))]
    assert angles == pytest.approx([math.atan(80) * (1 - i / 5) for i in range(6)])


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("spacing", ["even", "karras"])
def test_truncated_levels_end_at_stop(kind, spacing):
    grid = sigmas(LEVELS[kind], _config("truncated", 6, stop=0.4, spacing=spacing))
    spaces = LEVELS["discrete"].sigma.diff()
    assert grid[-2] == pytest.approx(0.4, abs=float(spaces[:20].max()) / 2 if kind == "discrete" else 1e-12)
    with pytest.raises(ValueError, match="steps of 2 or more"):
        sigmas(LEVELS[kind], _config("truncated", 1))
    with pytest.raises(ValueError, match=r"sampler\.stop .* must lie below"):
        sigmas(LEVELS[kind], _config("truncated", 4, stop=1e5, spacing=spacing))


def test_churn_needs_levels_between_those_of_a_schedule():
    with pytest.raises(ValueError, match=r"sampler\.churn leaves this model's discrete noise levels"):
        sigmas(LEVELS["discrete"], _config("heun", 4, churn=0.1))
    assert sigmas(CONTINUUM, _config("heun", 4, churn=0.1)) == sigmas(CONTINUUM, _config("heun", 4))


# ---------------------------------------------------------------- convergence


def _flow(denoise, y, first, last, intervals=1000):
    """Solution of the probability flow dy/dsigma = (y - D)/sigma by Runge-Kutta, in t = atan(sigma), x = y cos t."""

    def slope(x, t):
        y, sigma = x / math.cos(t), math.tan(t)
        clean = denoise(y, sigma)
        return math.cos(t) * ((y - clean) / sigma - sigma * clean)

    t, x = math.atan(first), y * math.cos(math.atan(first))
    h = (math.atan(last) - t) / intervals
    for i in range(intervals):
        s = t + i * h
        a = slope(x, s)
        b = slope(x + h / 2 * a, s + h / 2)
        c = slope(x + h / 2 * b, s + h / 2)
        x = x + h / 6 * (a + 2 * b + 2 * c + slope(x + h * c, s + h))
    return x / math.cos(math.atan(last))


def _exact(law, y, first, last):
    if law == "gaussian":  # the flow scales the distance to the mean
        mean, std = CENTRES[1], STDS[1]
        return mean + (y - mean) * ((std**2 + last**2) / (std**2 + first**2)).sqrt()
    return _flow(_denoiser(law), y, first, last)


def test_the_reference_solution_is_that_of_the_formula():
    start = 80 * _source(64)()
    torch.testing.assert_close(
        _flow(_denoiser("gaussian"), start, 80.0, 0.02), _exact("gaussian", start, 80.0, 0.02), atol=1e-8, rtol=0
    )


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("levels", [FINE, CONTINUUM], ids=["discrete", "continuous"])
@pytest.mark.parametrize(
    ("name", "spacing", "order"),
    [
        ("ddim", "even", 1),
        ("ddim", "karras", 1),
        ("heun", "even", 2),
        ("heun", "karras", 2),
        ("dpmpp", "karras", 2),
        ("dpmpp", "even", 1.5),  # on a uniform grid of angles the steps in ln sigma stay ln 2 long at the end
        ("truncated", "even", 1),
        ("truncated", "karras", 1),
    ],
)
def test_deterministic_samplers_converge_at_their_order(name, spacing, order, levels, law):
    # Exact: the flow from the first level to the last one before 0, then the posterior mean, as all of them do there.
    denoise, start, errors = _denoiser(law), _source(64)(), []
    for steps in (64, 256):
        config = _config(name, steps, spacing=spacing)
        grid = sigmas(levels, config)
        y = start * math.sqrt(1 + grid[0] ** 2)
        exact = denoise(_exact(law, y, grid[0], grid[-2]), grid[-2])
        errors.append((SAMPLERS[name](denoise, lambda: start, grid, config) - exact).abs().mean().item())
    slope = math.log(errors[0] / errors[1], 4)
    assert order - 0.15 < slope < order + 0.35, errors


@pytest.mark.parametrize(("steps", "bound"), [(6, 0.1), (7, 0.1), (32, 0.016), (33, 0.016)])
def test_heun_has_no_large_first_step_where_levels_begin_at_tens_of_thousands(steps, bound):
    schedule, start, config = cosine_schedule(1600), _source(256)(), _config("heun", steps)
    grid = sigmas(schedule, config)
    assert grid[0] > 1e4
    exact = _exact("gaussian", start * math.sqrt(1 + grid[0] ** 2), grid[0], 0.0)
    found = SAMPLERS["heun"](_denoiser("gaussian"), lambda: start, grid, config)
    assert (found - exact).abs().mean() < bound  # in units of the data; a slope averaged in sigma errs by thousands


def test_dpmpp_on_uneven_levels_is_algorithm_2():
    # Lu et al. (2022), for x = alpha y with alpha = 1 / sqrt(1 + sigma^2); h are the steps of lambda = ln(1 / sigma).
    grid, denoise, start = [9.0, 2.0, 1.5, 0.3, 0.0], _denoiser("mixture"), _source(16)()
    alpha = [1 / math.sqrt(1 + s**2) for s in grid]
    h = [math.log(grid[i] / grid[i + 1]) for i in range(3)]
    x, clean = start, []  # variance 1
    for i in range(3):
        clean.append(denoise(x / alpha[i], grid[i]))
        r = h[i - 1] / h[i]
        d = (1 + 1 / (2 * r)) * clean[i] - 1 / (2 * r) * clean[i - 1] if i else clean[0]
        scale = (alpha[i + 1] * grid[i + 1]) / (alpha[i] * grid[i])
        x = scale * x - alpha[i + 1] * (math.exp(-h[i]) - 1) * d
    found = SAMPLERS["dpmpp"](denoise, lambda: start, grid, _config("dpmpp", 4))
    torch.testing.assert_close(found, denoise(x / alpha[3], grid[3]))


# ---------------------------------------------------------------- the law of what is drawn


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    ("levels", "config"),
    [
        (cosine_schedule(1600), _config("ancestral", 1600)),  # the published sampler
        (CONTINUUM, _config("ancestral", 400, spacing="karras", sigma_min=0.005)),
        (CONTINUUM, _config("heun", 65, churn=0.05, spacing="karras", sigma_min=0.005)),
        (CONTINUUM, _config("heun", 64)),
        (CONTINUUM, _config("dpmpp", 64, spacing="karras", sigma_min=0.005)),
        (cosine_schedule(1000), _config("ddim", 400)),
    ],
    ids=lambda v: v.name if isinstance(v, SamplerConfig) else type(v).__name__,
)
def test_draws_follow_the_law(law, levels, config):
    drawn = _sample(law, levels, config)
    assert _distance(drawn, _distribution(law, drawn)) < CRITICAL + 0.003  # and 0.3 % of discretisation
    if law == "mixture":
        left = _distribution(law, torch.tensor(-0.2, dtype=torch.float64)).item()  # the weight of the left mode
        assert left == pytest.approx(0.3, abs=1e-3)
        found = (drawn < -0.2).double().mean().item()
        assert found == pytest.approx(left, abs=4 * math.sqrt(left * (1 - left) / COUNT) + 0.003)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("stop", [0.2, 0.6])
def test_truncated_draws_follow_the_law_of_the_posterior_mean(law, stop):
    # The posterior mean increases with y, so P(D(y) <= D(q)) = P(y <= q): find q for each draw by bisection.
    drawn, denoise = _sample(law, CONTINUUM, _config("truncated", 300, stop=stop)), _denoiser(law)
    low, high = torch.full_like(drawn, -50), torch.full_like(drawn, 50)
    for _ in range(60):
        middle = (low + high) / 2
        below = denoise(middle, stop) < drawn
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    assert _distance(drawn, _distribution(law, low, stop)) < CRITICAL + 0.003
    if law == "gaussian":  # N(m, s^4 / (s^2 + stop^2)): what is finer than the noise is averaged
        expected = STDS[1] ** 2 / (STDS[1] ** 2 + stop**2).sqrt()
        assert drawn.std().item() == pytest.approx(expected.item(), rel=4 / math.sqrt(2 * COUNT) + 0.005)


# ---------------------------------------------------------------- Algorithm 1


def _algorithm_1(denoise, noise, alpha_bar, steps, printed):
    """The loop of the paper on y_n = sqrt(abar) y_0 + sqrt(1 - abar) eps, from `steps` of the N levels on the way down.

    y_{n-1} = (y_n - beta_n / sqrt(1 - abar_n) eps_hat) / sqrt(alpha_n) + coefficient z, without z at n = 1.
    """
    y, last = noise(), len(alpha_bar) - 1
    for n in range(last, last - steps, -1):
        now, before = alpha_bar[n], alpha_bar[n - 1]
        beta = 1 - now / before
        eps = (y - now.sqrt() * denoise(y / now.sqrt(), (1 / now - 1).sqrt().item())) / (1 - now).sqrt()
        y = (y - beta / (1 - now).sqrt() * eps) / (1 - beta).sqrt()
        if n > 1:
            variance = beta * (1 - before) / (1 - now)
            y = y + (variance if printed else variance.sqrt()) * noise()
    return y / alpha_bar[last - steps].sqrt()


@pytest.mark.parametrize("noise_term", ["deviation", "variance"])
@pytest.mark.parametrize("steps", [1, 5, 1600])
def test_ancestral_on_all_levels_is_algorithm_1(steps, noise_term):
    schedule = cosine_schedule(1600)
    config = _config("ancestral", 1600, noise_term=noise_term)
    grid = sigmas(schedule, config)[: steps + 1]
    found = SAMPLERS["ancestral"](_denoiser("mixture"), _source(32), grid, config)
    expected = _algorithm_1(_denoiser("mixture"), _source(32), schedule.alpha_bar, steps, noise_term == "variance")
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-7)


def test_the_printed_coefficient_loses_spread_and_the_corrected_one_does_not():
    schedule = cosine_schedule(1600)
    stds = {
        t: _sample("gaussian", schedule, _config("ancestral", 1600, noise_term=t), 4000).std().item()
        for t in ("deviation", "variance")
    }
    assert stds["deviation"] == pytest.approx(0.3, rel=0.06)
    assert stds["variance"] < 0.1
