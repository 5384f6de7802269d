"""Forecasters: rolled out lead after lead, in bounded memory, from all that they are shown."""

import numpy as np
import pytest
import torch
import xarray as xr

import rvdflow
from lbm import dataset as store
from lbm.errors import DataError, UsageError
from rvdflow.baselines import Persistence, dress, fit
from rvdflow.conditions import Conditions
from rvdflow.config import ModelConfig, SamplerConfig
from rvdflow.forecast import forecast
from rvdflow.forecaster import Forecaster
from rvdflow.frames import Frames
from rvdflow.model import ResidualVideoDiffusion
from rvdflow.network_forecaster import ResidualDiffusionForecaster
from rvdflow.noise import MemberNoise
from rvdflow.normalisation import Normalisation
from rvdflow.plan import LEADS, plan
from rvdflow.portions import Truth, blocks

SIZE = 8, 16
SOLID = np.zeros(SIZE, dtype=bool)
SOLID[2:4, 3:5] = True


def network(conditions=Conditions(), **settings):  # noqa: B008  (frozen)
    """A forecaster with random weights, none of them zero, that sees the mask and `conditions`."""
    small = {"width": 4, "multipliers": (1,), "diffusion_steps": 20, "sampler": {"steps": 1}}
    config = ModelConfig.model_validate(small | {"conditions": conditions.names} | settings)
    model = ResidualVideoDiffusion(config, channels=1, height=SIZE[0], width=SIZE[1])
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(0.3 * torch.randn(weights.shape, generator=generator))
    scale = Normalisation("standard", ("vorticity",), (0.5,), (2.0,))
    return ResidualDiffusionForecaster(model, scale, sampler=config.sampler, conditions=conditions)


def alike(runs, times=12, solid=SOLID, **numbers):
    """A dataset of runs with the same frames; `numbers` of each run may differ, and so may `solid`."""
    frames = np.random.default_rng(0).standard_normal((1, times, *SIZE)).astype(np.float32)
    found = xr.Dataset({"vorticity": (("trajectory", "time", "y", "x"), np.repeat(frames, runs, 0))})
    found["split"] = ("trajectory", np.array(["test"] * runs))
    found["solid"] = (("trajectory", "y", "x"), np.broadcast_to(solid, (runs, *SIZE)))
    return found.assign({name: ("trajectory", np.array(values)) for name, values in numbers.items()})


def values(forecaster, opened, **options):
    settings = {"members": 2, "lead": 3, "context": 3, "init_times": [5]}
    return forecaster.forecast(opened, **settings | options)["vorticity"].values


# ------------------------------------------------------------------ roll-outs


def test_a_roll_out_is_the_model_stepped_with_the_noise_of_its_members():
    ours, opened = network(), alike(1)
    given = ours.conditions.given(SOLID[None], np.zeros((1, 0)))
    frames = np.where(SOLID, 0, (opened["vorticity"].values[:, 3:6, None] - 0.5) / 2).astype(np.float32)
    noise = MemberNoise(7, [(0, 5)], [0, 1], (1, *SIZE))
    state = ours.model.repeat(ours.model.encode(torch.from_numpy(frames), given), 2)
    for drawn in np.moveaxis(values(ours, opened, seed=7)[0, 0], 1, 0):
        frame, state = ours.model.step(state, noise, ours.sampler)
        expected = 2 * frame.numpy()[:, 0] + np.float32(0.5)
        np.testing.assert_array_equal(drawn[:, ~SOLID], expected[:, ~SOLID])
        assert (drawn[:, SOLID] == opened["vorticity"].values[0, 5][SOLID]).all()


@pytest.mark.parametrize("method", ["rvd", "damped-persistence", "advection", "dmd", "linear-extrapolation"])
def test_a_longer_forecast_begins_with_the_shorter_to_the_bit(method, flow):
    opened = store.open_dataset(flow, chunks=None)
    made = network() if method == "rvd" else fit(method, opened, lead=4)
    short, long = (made.forecast(opened, members=3, lead=k, init_times=[3])["vorticity"].values for k in (4, 20))
    np.testing.assert_array_equal(long[:, :, :, :4], short)


def test_a_thousand_leads_need_no_more_memory_than_fifty(monkeypatch):
    ours, opened = network(clamp=True), alike(1, times=1010)  # clamped: random weights would blow up
    frames = Frames(opened, ["vorticity"])
    chosen = plan(opened, frames, members=2, lead=1000, context=4)
    yielded, roll = [], ours.roll

    def watched(*args):
        for piece in roll(*args):
            yielded.append(piece.nbytes)
            yield piece

    monkeypatch.setattr(ours, "roll", watched)
    shown = Truth.of(opened, frames).show(chosen.groups()[0], 4)
    found = [(first, block.nbytes, np.isfinite(block).all()) for first, block in blocks(ours, shown, range(2), chosen)]
    assert [first for first, _, _ in found] == list(range(0, 1000, LEADS))
    frame = 4 * SIZE[0] * SIZE[1]
    assert max(nbytes for _, nbytes, _ in found) == 2 * LEADS * frame == chosen.block_bytes(frames)
    assert set(yielded) == {2 * frame}
    assert all(finite for _, _, finite in found)


def test_blocks_hold_what_was_drawn_whatever_the_pieces(flow):
    class Counting(Forecaster):
        method = "counting"

        def roll(self, seen, cases, members, lead, seed):
            first = 0
            for size in (1, 4, 2, 3):
                leads = np.arange(first, first + size, dtype=np.float32)[:, None, None, None]
                yield np.broadcast_to(leads, (len(cases), len(members), size, *seen.frames.shape[2:]))
                first += size

    opened = store.open_dataset(flow)
    frames = Frames(opened, ["vorticity"])
    for most in (1, 3, 4, 10):
        chosen = plan(opened, frames, members=2, lead=10, context=2, leads_per_chunk=most, init_times=[5])
        found = list(blocks(Counting(), Truth.of(opened, frames).show(chosen.cases, 2), range(2), chosen))
        assert [first for first, _ in found] == list(range(0, 10, most))
        whole = np.concatenate([block for _, block in found], 2)
        np.testing.assert_array_equal(whole[0, 1, :, 0, 0, 0], np.arange(10))


def test_the_context_is_encoded_once_for_all_members(flow, tmp_path, monkeypatch):
    ours, calls = network(), []
    encode = ours.model.encode

    def counted(context, given):
        calls.append(len(context))
        return encode(context, given)

    monkeypatch.setattr(ours.model, "encode", counted)
    options = {"members": 6, "lead": 2, "context": 4, "members_per_batch": 2, "cases_per_batch": 3, "cases": 4}
    forecast(ours, flow, tmp_path / "f.zarr", **options, quiet=True)
    assert calls == [3, 1]  # cases, in groups; three chunks of members each


# ------------------------------------------------------------------ what is shown


def test_runs_that_differ_in_a_condition_alone_are_forecast_differently():
    opened = alike(3, reynolds=[100.0, 200.0, 100.0])
    aware = network(Conditions(("reynolds",), (150.0,), (50.0,)))
    mean = values(aware.mean(), opened)  # members of other runs draw other noise, which would tell them apart
    np.testing.assert_array_equal(mean[0], mean[2])
    assert abs(mean[0] - mean[1])[..., ~SOLID].max() > 1e-3
    plain = values(network().mean(), opened)
    np.testing.assert_array_equal(plain[0], plain[1])


def test_runs_that_differ_in_their_obstacle_are_forecast_differently():
    other = np.zeros(SIZE, dtype=bool)
    other[2:4, 3:6] = True
    opened = alike(2, solid=np.stack([SOLID, other]))
    opened["vorticity"] = opened["vorticity"].where(~(SOLID | other), 0)  # frames alike to the last cell
    settings = {"masked_loss": False}
    fluid = ~(SOLID | other)
    # Normalised zero inside obstacles is what training shows: here 0 is not the mean, so masks matter even to a
    # network that is not given them; cells far away tell only for one that is.
    one, two = values(network(obstacle_mask=True, **settings).mean(), opened)[:, 0, 0][..., fluid]
    assert abs(one - two).max() > 1e-3


def test_what_stands_inside_obstacles_does_not_reach_the_network():
    opened = alike(1)
    scrambled = opened.assign(vorticity=opened["vorticity"].where(~opened["solid"], 1e3))
    ours, theirs = (values(network(obstacle_mask=True), ds) for ds in (opened, scrambled))
    np.testing.assert_array_equal(ours[..., ~SOLID], theirs[..., ~SOLID])
    assert (theirs[..., SOLID] == 1e3).all()  # and is repeated, as it was seen


def test_a_number_that_the_network_needs_and_the_data_lacks_is_named():
    needy = network(Conditions(("reynolds",), (150.0,), (50.0,)))
    with pytest.raises(DataError, match="no number 'reynolds' of each run; it has viscosity"):
        values(needy, alike(1, viscosity=[0.01]))


def test_frames_that_are_not_finite_are_no_start():
    opened = alike(1)
    opened["vorticity"][0, 4, 0, 0] = np.nan
    with pytest.raises(DataError, match="vorticity of trajectory 0 is not finite at frame 4"):
        values(Persistence(), opened)
    assert np.isfinite(values(Persistence(), opened, context=1)).all()  # frame 4 is not shown


# ------------------------------------------------------------------ the mean alone


def test_the_mean_alone_is_the_ensemble_without_residual():
    whole, opened = network(), alike(1)
    mean = values(whole.mean(), opened, lead=6)
    assert mean.shape[2] == 1
    before = values(whole, opened, lead=6)
    assert (before[:, :, 0] != mean[:, :, 0]).any()  # taking its mean leaves the ensemble as it is
    whole.model.inflation.zero_()
    np.testing.assert_array_equal(values(whole, opened, lead=6, members=1), mean)


def test_the_mean_wears_residuals_of_validation_runs(flow):
    opened = store.open_dataset(flow, chunks=None)
    mean = network().mean()
    made = dress(mean, opened, context=3, lead=2)
    assert (made.method, made.deterministic) == ("mean-dressed", False)
    result = made.forecast(opened, members=4, lead=2, context=3, init_times=[9])["vorticity"].values[0, 0]
    base = mean.forecast(opened, lead=2, context=3, init_times=[9])["vorticity"].values[0, 0, 0]
    # Every residual is a validation run minus the mean's own forecast of it.
    truth = opened["vorticity"].values[2]
    errors = []
    for t in range(2, 24 - 2):
        own = mean.forecast(opened, lead=2, context=3, init_times=[t], split="validation")["vorticity"].values[0, 0, 0]
        errors.append(truth[t + 1 : t + 3] - own)
    for member in result:
        assert min(abs(member - base - error)[:, ~SOLID].max() for error in errors) < 1e-5


def test_without_a_mean_there_is_none_to_forecast():
    with pytest.raises(UsageError, match="mean = zero"):
        network(mean="zero", mean_loss=0.0).mean()


# ------------------------------------------------------------------ samplers


@pytest.mark.parametrize("levels", ["discrete", "continuous"])
def test_five_samplers_run_on_the_same_weights(levels):
    ours, opened, found = network(levels=levels), alike(1), []
    for name in ("ancestral", "ddim", "heun", "dpmpp", "truncated"):
        ours.sampler = SamplerConfig(name=name, steps=5)
        found.append(values(ours, opened))
        assert np.isfinite(found[-1]).all()
        assert ours.stamp()["sampler"] == name
    assert all((a != b).any() for i, a in enumerate(found) for b in found[:i])


def test_bfloat16_networks_forecast_alike_and_say_so(trained, flow):
    opened = store.open_dataset(flow, chunks=None)
    exact, rough = rvdflow.load(trained), rvdflow.load(trained, precision="bfloat16")
    assert (exact.stamp()["precision"], rough.stamp()["precision"]) == ("float32", "bfloat16")
    one, other = values(exact, opened), values(rough, opened)
    assert other.dtype == np.float32
    # bfloat16 has 8 bits of mantissa: single operations are right within 2^-9, a roll-out within a few hundredths.
    departure = np.abs(one - other).mean() / one.std()
    assert 0 < departure < 0.05
    with pytest.raises(UsageError, match="precision 'half' is not known: use float32 or bfloat16"):
        rvdflow.load(trained, precision="half")


def test_the_networks_are_compiled_where_that_is_asked_for(trained, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, *_, **__: compiled.append(type(module).__name__))
    rvdflow.load(trained)
    assert compiled == []
    rvdflow.load(trained, compile=True)
    assert compiled == ["RecurrentPyramid", "CompactDenoiser"]


def test_more_steps_than_the_model_has_levels_are_refused(trained):
    with pytest.raises(UsageError, match=r"sampler\.steps 51: .* this model has 50 .* fewer steps"):
        rvdflow.load(trained, steps=51)
    assert rvdflow.load(trained, sampler="ancestral", steps=50).stamp()["sampler_steps"] == 50


def test_a_one_step_run_has_no_sampler(flow, tiny, tmp_path):
    from rvdflow.train import train

    settings = tiny(steps=2, validations=0)
    model = settings.model.model_copy(update={"objective": "crps"})
    run = tmp_path / "run"
    train(flow, run, settings.model_copy(update={"model": model}), threads=1, quiet=True)
    for choice in ({"sampler": "ddim"}, {"steps": 4}):
        with pytest.raises(UsageError, match="one step"):
            rvdflow.load(run, **choice)
    made = rvdflow.load(run)
    assert (made.stamp()["objective"], made.stamp()["sampler_steps"]) == ("crps", 1)
    result = made.forecast(store.open_dataset(flow), members=3, lead=2, context=3, cases=1)["vorticity"].values
    assert (result.std(2)[..., ~SOLID] > 0).all()
