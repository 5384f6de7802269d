"""Every method is trained, stopped and resumed, loaded and forecast with as residual video diffusion is."""

import math

import numpy as np
import pytest
import torch

import rvdflow
from lbm import dataset as store
from lbm.errors import DataError, UsageError
from rvdflow import baselines, checkpoint, runlog
from rvdflow.info import describe
from rvdflow.info_words import lines
from rvdflow.methods import METHODS, method
from rvdflow.run import Run
from rvdflow.train import train

EVERY = pytest.mark.parametrize("name", METHODS)
STOCHASTIC = ("svg-lp", "ivrnn", "dvd-gan", "timegrad")
UNTIMED = {"seconds": 0, "clips_per_second": 0, "memory_mib": 0}


class Crash(Exception):
    """Stands for the power cut."""


def crash_after(step):
    def on_step(run):
        if run.optimiser.step == step:
            raise Crash

    return on_step


def state_of(run):
    """Everything the last checkpoint of the training holds, as one flat dict."""
    state = checkpoint.read(checkpoint.newest_step(run)).state
    found = {f"{part}.{k}": v for part in ("raw_weights", "average_weights") for k, v in state[part].items()}
    for i, one in enumerate(state["optimisers"]):
        found |= {f"{i}.{p}.{k}": v for p, moments in one["state"].items() for k, v in moments.items()}
    return found


@EVERY
def test_a_stopped_training_goes_on_to_the_same_bits(name, data, system_config, run, tmp_path):
    with pytest.raises(Crash):
        train(data(name), tmp_path / "run", system_config(name), threads=1, quiet=True, on_step=crash_after(3))
    train(data(name), tmp_path / "run", None, threads=1, quiet=True, resume=True)
    ours, whole = state_of(tmp_path / "run"), state_of(run(name))
    assert ours.keys() == whole.keys()
    assert [key for key in ours if not torch.equal(ours[key], whole[key])] == []
    assert [{**r, **UNTIMED} for r in runlog.read(tmp_path / "run")] == [
        {**r, **UNTIMED} for r in runlog.read(run(name))
    ]


@EVERY
def test_the_log_tells_of_losses_of_every_player_and_of_the_diversity_of_forecasts(name, run):
    rows = runlog.read(run(name))
    players = method(name)[1].players
    for row in rows:
        assert {"loss", "gradient_norm"} <= row.keys()
        assert ("discriminator_loss" in row) == ("discriminator_gradient_norm" in row) == (len(players) == 2)
    scored = [row for row in rows if "validation_crps" in row]
    assert [row["step"] for row in scored] == [3, 6]
    for row in scored:
        assert row["validation_diversity"] > 0
        assert (row["validation_spread"] > 0) == (name in STOCHASTIC)


@EVERY
def test_forecasts_do_not_depend_on_how_members_and_cases_are_grouped(name, data, run):
    forecaster = rvdflow.load(run(name), threads=1)
    assert forecaster.method == name
    assert forecaster.deterministic == (name not in STOCHASTIC)
    opened = store.open_dataset(data(name), chunks=None)
    whole = forecaster.forecast(opened, members=3, lead=7, context=4, init_times=[5, 9])["vorticity"].values
    assert whole.shape[:4] == (1, 2, 1 if forecaster.deterministic else 3, 7)
    assert np.isfinite(whole).all()
    assert whole.std(axis=2).max() > 0 or forecaster.deterministic
    alone = forecaster.forecast(opened, members=1, lead=7, context=4, init_times=[9])["vorticity"].values
    # Rounding grows in longer roll-outs of networks that have learned nothing.
    one, same = alone[:, 0, :1, :2], whole[:, 1, :1, :2]
    np.testing.assert_allclose(one, same, rtol=0, atol=1e-5 * np.abs(whole).max())
    solid = opened["solid"].values[-1]
    assert not whole[..., solid].any()


def test_a_longer_forecast_begins_with_the_shorter_one_where_frames_come_in_blocks(data, run):
    forecaster = rvdflow.load(run("futuregan"), threads=1)
    assert forecaster.model.block == 2
    opened = store.open_dataset(data("futuregan"), chunks=None)
    long, short = (forecaster.forecast(opened, lead=n, init_times=[5])["vorticity"].values for n in (5, 3))
    np.testing.assert_array_equal(long[:, :, :, :3], short)


@pytest.mark.parametrize("name", ["convgru", "retrogan"])
def test_a_deterministic_network_is_dressed_with_its_errors_on_validation_runs(name, data, run):
    opened = store.open_dataset(data(name), chunks=None)
    forecaster = rvdflow.load(run(name), threads=1)
    dressed = baselines.dress(forecaster, opened, context=4, lead=3)
    found = dressed.forecast(opened, members=5, lead=3, init_times=[9])
    assert found.attrs["method"] == f"{name}-dressed"
    assert (found["vorticity"].std("member").mean(("y", "x")) > 0).all()


def test_an_ensemble_is_not_dressed(data, run):
    opened = store.open_dataset(data("svg-lp"), chunks=None)
    with pytest.raises(UsageError, match="ensemble already"):
        baselines.dress(rvdflow.load(run("svg-lp"), threads=1), opened)


@EVERY
def test_a_run_is_described(name, run):
    found = describe(run(name))
    assert found["config"]["system"] == name
    assert found["parameters"] == sum(p.numel() for p in rvdflow.load(run(name)).model.parameters())
    assert f"preset {name}-small" in "\n".join(lines(found))


def test_a_sampler_is_refused_where_there_is_none_to_choose(run):
    with pytest.raises(UsageError, match="no sampler to choose"):
        rvdflow.load(run("ivrnn"), sampler="ddim")


def test_activations_are_kept_where_they_cannot_be_computed_again(data, system_config, tmp_path):
    with pytest.raises(UsageError, match="checkpoint_activations is not for SvgLp"):
        train(
            data("svg-lp"),
            tmp_path / "run",
            system_config("svg-lp", checkpoint_activations=True),
            threads=1,
            quiet=True,
        )


def test_the_discriminator_takes_two_turns_at_its_own_rate_in_each_step(data, system_config, tmp_path):
    settings = system_config("dvd-gan", learning_rate=1e-4, schedule="constant")
    (tmp_path / "run").mkdir()
    run = Run(data("dvd-gan"), tmp_path / "run", settings, device=torch.device("cpu"), threads=1)
    seen = []
    for player, movers in run.optimiser.movers.items():
        rate = lambda mover, *_, player=player: seen.append((player, mover.param_groups[0]["lr"]))  # noqa: E731
        movers[0].register_step_pre_hook(rate)
    run.optimiser.advance(run.data.training.clip([0, 1]), 0.0)
    assert seen == [("discriminator", pytest.approx(5e-4))] * 2 + [("generator", pytest.approx(1e-4))]


def batch_norm(system_config, **train):
    from rvdflow.train_config import RunConfig, merge

    whole = system_config("dvd-gan", **train).model_dump()
    return RunConfig.model_validate(merge(whole, {"model": {"norm": "batch"}}))


def test_batch_norm_s_statistics_are_resumed_to_the_bit_and_averaged_as_the_weights(data, system_config, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(data("dvd-gan"), whole, batch_norm(system_config), threads=1, quiet=True)
    with pytest.raises(Crash):
        train(data("dvd-gan"), stopped, batch_norm(system_config), threads=1, quiet=True, on_step=crash_after(3))
    train(data("dvd-gan"), stopped, None, threads=1, quiet=True, resume=True)
    ours, theirs = state_of(stopped), state_of(whole)
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    variances = [key for key in ours if key.startswith("average_weights") and key.endswith("variance")]
    assert variances
    for key in variances:
        raw = ours[key.replace("average_weights", "raw_weights")]
        assert (ours[key] > 0).all()
        assert not torch.equal(ours[key], raw)


def test_a_step_that_is_not_finite_leaves_batch_norm_s_statistics_as_they_were(data, system_config, tmp_path):
    (tmp_path / "run").mkdir()
    run = Run(data("dvd-gan"), tmp_path / "run", batch_norm(system_config), device=torch.device("cpu"), threads=1)
    optimiser, batch = run.optimiser, run.data.training.clip([0, 1])
    optimiser.advance(batch, 0.0)
    before = {name: value.clone() for name, value in optimiser.model.named_buffers()}
    optimiser.advance(batch._replace(frames=batch.frames * math.nan), 0.0)
    assert optimiser.skipped == 1
    assert all(torch.equal(value, before[name]) for name, value in optimiser.model.named_buffers())


def test_two_ranks_have_the_same_batch_norm_statistics(data, start_ranks, tmp_path):
    """Those of both are averaged: rank 0 writes what both have, and both validate the same network."""
    given = ["train", "--data", data("dvd-gan"), "--preset", "dvd-gan-small", "--steps", 2, "--batch-size", 2]
    for setting in ("width=0.0625", "latent=12", "norm=batch", "context_frames=3", "future_frames=5"):
        given += ["--set", f"model.{setting}"]
    code = (
        "import os\n"
        "from rvdflow.methods.dvd_gan import DvdGan\n"
        "follow = DvdGan.follow\n"
        "def told(self, statistic, step, player='generator'):\n"
        "    follow(self, statistic, step, player)\n"
        f"    open(r'{tmp_path}/' + os.environ['RANK'], 'a').write(f'{{statistic.double().sum().item()!r}}\\n')\n"
        "DvdGan.follow = told\n"
    )
    for process in start_ranks(2, *given, "-o", tmp_path / "run", "--threads", 1, "-q", code=code):
        assert process.wait()[0] == 0, process.wait()
    one, two = ((tmp_path / rank).read_text().splitlines() for rank in ("0", "1"))
    assert one == two
    assert len(set(one)) > 1


def test_the_best_weights_of_a_growing_network_are_grown(data, system_config, tmp_path):
    config = system_config("futuregan", validations=6)
    train(data("futuregan"), tmp_path / "run", config, threads=1, quiet=True)
    best = checkpoint.read(tmp_path / "run" / "checkpoints" / "best.pt")
    assert best.meta["optimiser"]["step"] == 6  # of six validations
    model = rvdflow.load(tmp_path / "run").model
    assert [model.settled(progress) for progress in (0.0, 0.5, 0.9, 1.0)] == [False, False, False, True]


def test_rates_fall_at_each_growth(data, system_config, tmp_path):
    settings = system_config("futuregan", learning_rate=1e-3, schedule="constant")
    (tmp_path / "run").mkdir()
    run = Run(data("futuregan"), tmp_path / "run", settings, device=torch.device("cpu"), threads=1)
    rates = []
    for progress in (0.0, 0.5, 1.0):
        run.optimiser.advance(run.data.training.clip([0, 1]), progress)
        rates.append([mover.param_groups[0]["lr"] for mover in run.optimiser.optimisers])
    assert rates == [[pytest.approx(1e-3 * 0.87**k)] * 2 for k in range(3)]


def test_modes_are_those_of_the_training_runs(data, system_config, tmp_path):
    (tmp_path / "run").mkdir()
    run = Run(data("timegrad"), tmp_path / "run", system_config("timegrad"), device=torch.device("cpu"), threads=1)
    frames = np.concatenate(list(run.data.training.blocks()))
    assert len(frames) == 2 * 24  # of two training runs
    away = (frames - frames.mean(0)).reshape(len(frames), -1).astype(np.float64)
    _, values, directions = np.linalg.svd(away, full_matrices=False)
    modes = run.optimiser.model.modes.double().flatten(1).numpy()
    cosines = np.abs(modes @ directions[: len(modes)].T) / math.sqrt(away.shape[1])
    np.testing.assert_allclose(cosines[:2, :2], np.eye(2), atol=1e-3)  # the wave's pair; the others are noise
    variance = values[: len(modes)] ** 2 / len(frames) / away.shape[1]
    np.testing.assert_allclose(run.optimiser.model.deviation.double() ** 2, variance, rtol=5e-2)
    np.testing.assert_allclose(run.optimiser.model.deviation[:2].double() ** 2, variance[:2], rtol=1e-3)
    told = run.optimiser.model.project(torch.from_numpy(frames))
    np.testing.assert_allclose(told.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(told.var(0, correction=0), 1, rtol=1e-2)


def test_more_modes_than_training_frames_are_refused(data, system_config, tmp_path):
    from rvdflow.train_config import RunConfig, merge

    many = RunConfig.model_validate(merge(system_config("timegrad").model_dump(), {"model": {"modes": 64}}))
    with pytest.raises(DataError, match="modes asks for 64"):
        train(data("timegrad"), tmp_path / "run", many, threads=1, quiet=True)


def test_two_ranks_train_a_game_as_one_process_does(data, start_ranks, rvdflow_process, tmp_path):
    """Of least squares scores and instance norms: their means over clips do not care how these are divided."""
    given = ["train", "--data", data("retrogan"), "--preset", "retrogan-small", "--steps", 3, "--batch-size", 4]
    for setting in ("model.width=0.0625", "model.residual_blocks=1", "train.validations=0", "train.mirror=false"):
        given += ["--set", setting]
    assert rvdflow_process(*given, "-o", tmp_path / "one", "--threads", 1, "-q").wait()[0] == 0
    for process in start_ranks(2, *given, "-o", tmp_path / "two", "--threads", 1, "-q"):
        assert process.wait()[0] == 0, process.wait()
    one, two = (checkpoint.read(checkpoint.newest_step(tmp_path / n)).state["raw_weights"] for n in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------ from the command line


def test_a_method_is_trained_and_forecast_with_from_the_command_line(data, rvdflow_process, tmp_path):
    small = ["--set", "model.base=8", "--set", "model.multipliers=[1,2]", "--set", "train.validations=0"]
    train = ["train", "--data", data("convgru"), "--model", "convgru", "--steps", 2, "--threads", 1]
    code, out, err = rvdflow_process(*train, *small, "-o", tmp_path / "run").wait()
    assert code == 0, err
    assert "preset: convgru-small (16 x 32 frames)" in out + err
    run, output = tmp_path / "run", tmp_path / "f.zarr"
    forecast = ["forecast", "--data", data("convgru"), "--checkpoint", run, "--lead", 3, "--threads", 1, "-q"]
    assert rvdflow_process(*forecast, "--dress", "--ensemble", 4, "-o", output).wait()[0] == 0
    found = store.open_dataset(output)
    assert found.attrs["method"] == "convgru-dressed"
    assert found.sizes["member"] == 4
    for wrong, words in (("mean", "no mean of its own"), ("ivrnn", "a run of convgru, not of ivrnn")):
        code, _, err = rvdflow_process(*forecast, "--method", wrong, "-o", tmp_path / "g.zarr").wait()
        assert (code, words in err) == (2, True), err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "unet"], "system 'unet' is not known: choose one of rvd, svg-lp"),
        (["--model", "ivrnn", "--preset", "small"], "preset small is of rvd, not of ivrnn"),
        (["--model", "ivrnn", "--preset", "ivrnn-256"], "choose one of small"),
        (["--model", "ivrnn", "--set", "model.widht=1"], "did you mean 'model.width'"),
        (["--model", "ivrnn", "--set", "calibration.cases=4"], "ivrnn draws none"),
        (["--model", "futuregan", "--set", "model.levels=6"], "divide by 64"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_a_line(options, words, data, rvdflow_process, tmp_path):
    given = ["train", "--data", data("ivrnn"), "-o", tmp_path / "run", "--threads", 1]
    code, _, err = rvdflow_process(*given, *options).wait()
    assert (code, words in err, err.count("\n")) == (2, True, 1), err
