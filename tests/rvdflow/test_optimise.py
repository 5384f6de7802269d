"""One gradient step: schedule, clipping, averages, parts of a batch, precision, and steps that must change nothing."""

import copy
import math

import pytest
import torch

from rvdflow.build import build_model
from rvdflow.networks import Batch, Given
from rvdflow.optimise import Optimiser
from rvdflow.train_config import RunConfig, TrainConfig, merge
from rvdflow.trainable import Losses, Trainable

CPU = torch.device("cpu")
NOTHING = Batch(torch.zeros(8, 1), Given(torch.zeros(8, 1), torch.zeros(8, 0)))


class Toy(Trainable):
    """A parameter whose loss has gradient `slope`, and a running statistic."""

    def __init__(self, slope=1.0):
        super().__init__()
        self.p = torch.nn.Parameter(torch.zeros(4))
        self.register_buffer("seen", torch.zeros(()))
        self.slope = slope

    def loss(self, frames, given, *, player="model", progress, draws):
        return Losses({"loss": self.slope * self.p.sum()}, torch.ones(()))

    def follow(self, statistic, step, player="model"):
        self.seen += statistic

    def encode(self, context, given):
        """Nothing here forecasts."""

    def step(self, state, noise, sampler=None):
        """Nothing here forecasts."""


def settings(**values):
    plain = {"optimiser": "adam", "weight_decay": 0, "schedule": "constant", "warmup_steps": 0, "learning_rate": 0.1}
    return TrainConfig(**{**plain, **values})


def test_average_follows_the_exponential_moving_average_of_the_weights():
    config = settings(ema_decay=0.5, ema_warmup=1, gradient_clip=None)
    optimiser = Optimiser(Toy(), config, CPU)
    expected = torch.zeros(4)
    for k in range(1, 6):
        optimiser.advance(NOTHING, 0.0)
        decay = min(0.5, k / (k + 1))
        expected = decay * expected + (1 - decay) * optimiser.model.p.detach()
    torch.testing.assert_close(optimiser.average.p.detach(), expected)
    assert optimiser.average.seen == optimiser.model.seen == 5


class Game(Toy):
    """Two players of one number each; the second's gradient is `slope`."""

    players = ("discriminator", "generator")
    turns = {"discriminator": 2}  # noqa: RUF012

    def __init__(self, slope=1.0):
        super().__init__(slope)
        self.discriminator, self.generator = (torch.nn.Linear(1, 1, bias=False) for _ in range(2))
        del self.p
        self.asked = []

    def loss(self, frames, given, *, player="generator", progress, draws):
        self.asked.append((player, float(draws.normal(1)[0])))
        weight = self.get_submodule(player).weight.sum()
        return Losses({"loss": weight * (self.slope if player == "generator" else 1.0)}, torch.ones(()))


def test_players_take_their_turns_each_with_random_numbers_of_its_own():
    optimiser = Optimiser(Game(), settings(gradient_clip=None), CPU)
    values = optimiser.advance(NOTHING, 0.0)
    asked = optimiser.model.asked
    assert [player for player, _ in asked] == ["discriminator", "discriminator", "generator"]
    assert len({number for _, number in asked}) == 3
    assert values.keys() == {
        "loss", "gradient_norm", "discriminator_loss", "discriminator_gradient_norm", "learning_rate",
    }  # fmt: skip
    assert optimiser.model.seen == 3  # a statistic follows each turn


def test_a_turn_that_is_not_finite_ends_its_step():
    optimiser = Optimiser(Game(slope=math.nan), settings(), CPU)
    before = {name: value.clone() for name, value in optimiser.model.state_dict().items()}
    average = copy.deepcopy(optimiser.average.state_dict())
    optimiser.advance(NOTHING, 0.0)
    moved = {name for name, value in optimiser.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"discriminator.weight", "seen"}  # its turns came before
    assert all(torch.equal(value, average[name]) for name, value in optimiser.average.state_dict().items())
    assert (optimiser.step, optimiser.skipped) == (1, 1)


def test_published_average_starts_late_and_moves_every_fifth_step():
    config = settings(ema_decay=0.99, ema_start=10, ema_every=5, ema_warmup=1)
    assert [config.ema_decay_at(k) for k in (0, 9)] == [0, 0]
    moves = [k for k in range(10, 40) if config.ema_decay_at(k) < 1]
    assert moves == [14, 19, 24, 29, 34, 39]


def test_the_gradient_norm_is_clipped_and_its_true_size_reported():
    torch_step = []
    optimiser = Optimiser(Toy(slope=50.0), settings(gradient_clip=1.0), CPU)
    optimiser.optimisers[0].register_step_pre_hook(lambda *_: torch_step.append(optimiser.model.p.grad.norm().item()))
    assert optimiser.advance(NOTHING, 0.0)["gradient_norm"] == pytest.approx(100)  # 50 * sqrt(4)
    assert torch_step == [pytest.approx(1, rel=1e-4)]


@pytest.mark.parametrize("slope", [math.inf, math.nan])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_averages_nor_statistics(slope):
    optimiser = Optimiser(Toy(), settings(), CPU)
    optimiser.advance(NOTHING, 0.0)
    before = copy.deepcopy(optimiser.state()[1])
    optimiser.model.slope = slope
    optimiser.advance(NOTHING, 0.0)
    after = optimiser.state()[1]
    for part in ("average_weights", "raw_weights"):
        assert all(after[part][name].equal(before[part][name]) for name in before[part])
    assert optimiser.model.seen == 1
    assert (optimiser.step, optimiser.skipped, optimiser.bad_in_a_row) == (2, 1, 1)
    optimiser.model.slope = 1.0
    optimiser.advance(NOTHING, 0.0)
    assert (optimiser.step, optimiser.skipped, optimiser.bad_in_a_row) == (3, 1, 0)


def test_learning_rates_begin_and_end_where_the_schedules_say():
    def rates(**values):
        config = settings(final_learning_rate=0.02, **values)
        return [pytest.approx(config.learning_rate_at(k / 100, k), abs=1e-12) for k in (0, 50, 100)]

    assert rates(schedule="constant") == [0.1, 0.1, 0.1]
    assert rates(schedule="linear") == [0.1, 0.06, 0.02]
    assert rates(schedule="cosine") == [0.1, 0.06, 0.02]
    assert rates(schedule="drop", drop_step=50) == [0.1, 0.1, 0.02]
    assert rates(schedule="drop", drop_step=46) == [0.1, 0.1 * 0.2**0.5, 0.02]  # half of the 8 steps of the fall
    assert rates(schedule="constant", warmup_steps=4)[0] == 0.025


# ------------------------------------------------------------------ with the model itself


def model_and_batch(rows=4, **model):
    """A network of two channels to a group (with one, some gradients are rounding alone), and clips for it."""
    small = {"width": 16, "multipliers": (1, 2), "diffusion_steps": 50, **model}
    config = RunConfig.model_validate({"preset": "small", "model": small})
    rng = torch.Generator().manual_seed(3)
    frames = torch.randn(rows, config.model.clip_frames, 1, 8, 16, generator=rng)
    fluid = torch.ones(rows, 1, 8, 16)
    fluid[: rows // 2, :, 2:4, 3:5] = 0  # obstacles in some clips only: parts weigh by clips, not by cells
    return build_model(config, (1, 8, 16)), Batch(frames * fluid[:, None], Given(fluid, torch.zeros(rows, 0)))


def weights_after(steps, model, batch, **values):
    plain = {"batch_size": len(batch.frames), "learning_rate": 1e-3}
    optimiser = Optimiser(copy.deepcopy(model), settings(**merge(plain, values)), CPU)
    found = [optimiser.advance(batch, progress=k / steps) for k in range(steps)]
    return optimiser.model.state_dict(), found


def largest_difference(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "variant",
    [{}, {"mean_first": 0.5}, {"objective": "crps"}, {"levels": "continuous", "unroll": 3}],
    ids=["plain", "two-stage", "one-step", "unrolled"],
)
def test_a_batch_taken_in_parts_is_the_whole_batch(variant, double_precision):
    model, batch = model_and_batch(**variant)
    whole, losses = weights_after(2, model, batch)
    for parts in (2, 4):
        other, found = weights_after(2, model, batch, accumulate=parts)
        # Adam divides a gradient by its size: one that is small carries its rounding, 1e-16, far up.
        assert largest_difference(whole, other) < 1e-10
        for ours, theirs in zip(losses, found, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-10)
    assert largest_difference(whole, model.state_dict()) > 1e-3


@pytest.mark.parametrize("architecture", ["compact", "published"])
def test_forgetting_activations_changes_no_gradient_and_keeps_less(architecture):
    model, batch = model_and_batch(architecture=architecture, multipliers=(1, 2), mean_multipliers=(1, 2))
    kept = {}

    def taken(forget):
        stored = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t.numel()) or t, lambda t: t):
            found = weights_after(1, model, batch, checkpoint_activations=forget)[0]
        kept[forget] = sum(stored)
        return found

    assert largest_difference(taken(False), taken(True)) == 0
    assert kept[True] < 0.6 * kept[False]


def test_a_checkpoint_of_a_network_that_forgets_fits_one_that_does_not():
    model, batch = model_and_batch()
    one, two = (
        Optimiser(copy.deepcopy(model), settings(batch_size=4, checkpoint_activations=f), CPU) for f in (True, False)
    )
    one.advance(batch, 0.0)
    two.restore(*one.state())
    assert largest_difference(one.model.state_dict(), two.model.state_dict()) == 0
    assert one.forecaster().networks.predictor is not one.model.networks.predictor


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's tracer looks at every tensor
@pytest.mark.parametrize("forget", [False, True])
def test_compiled_networks_take_the_same_steps_and_their_states_have_the_same_names(monkeypatch, forget):
    compile_ = torch.nn.Module.compile
    # As it is traced, but run as it stands: generating code for a CPU takes minutes.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_(self, backend="aot_eager"))
    model, batch = model_and_batch(rows=2, multipliers=(1,))
    eager, _ = weights_after(2, model, batch)
    compiled, _ = weights_after(2, model, batch, compile=True, checkpoint_activations=forget)
    assert largest_difference(eager, compiled) < 1e-5
    assert eager.keys() == compiled.keys() == model.state_dict().keys()


def test_gates_that_share_a_weight_are_matrices_of_their_own():
    model, _ = model_and_batch(rows=2, multipliers=(1, 2))
    muon = Optimiser(model, TrainConfig(), CPU).optimisers[0]
    width = model.networks.predictor.memory[0].channels
    names = {id(weight): name for name, weight in model.named_parameters()}
    found = {names[id(w)]: (group["matrices"], w) for group in muon.param_groups for w in group["params"]}
    for name, (matrices, weight) in found.items():
        gates = {"from_input": 3, "gates": 2}.get(name.split(".")[-2], 1)  # reset, update and proposal
        assert matrices == gates
        assert gates == 1 or weight.shape[0] == gates * width
    assert sorted(matrices for matrices, _ in found.values() if matrices > 1) == [2, 3]


def test_bfloat16_takes_finite_steps_close_to_those_of_float32_and_keeps_float32_weights():
    model, batch = model_and_batch(rows=2)
    exact, precise = weights_after(3, model, batch, precision="float32")
    rough, coarse = weights_after(3, model, batch, precision="bfloat16")
    assert all(value.dtype == torch.float32 for value in rough.values())
    assert all(math.isfinite(row["gradient_norm"]) for row in coarse)
    # bfloat16 has 8 bits: each operation is right within 2^-9, about 0.2 %.
    assert precise[-1]["loss"] == pytest.approx(coarse[-1]["loss"], rel=1e-2)
    assert precise[-1]["loss"] != coarse[-1]["loss"]
    moved = [
        torch.cat([(after[n] - before).flatten() for n, before in model.state_dict().items()])
        for after in (exact, rough)
    ]
    assert torch.cosine_similarity(*moved, dim=0) > 0.9


def test_on_a_cpu_auto_precision_is_float32():
    assert Optimiser(Toy(), settings(), CPU).precision == torch.float32
