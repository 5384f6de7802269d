"""Training: equal to the bit after a stop, harmless to bad numbers, honest about its folder."""

import csv
import json
import math

import pytest
import torch

from lbm.errors import DataError, NumericalError, ResourceError, UsageError
from rvdflow import checkpoint, runlog
from rvdflow.optimise import Optimiser
from rvdflow.run_folder import read_config
from rvdflow.train import train
from rvdflow.train_config import RunConfig, TrainConfig, choose_preset
from rvdflow.windows import Windows


class Crash(Exception):
    """Stands for the power cut."""


def crash_after(step):
    def on_step(run):
        if run.optimiser.step == step:
            raise Crash

    return on_step


def weights(run):
    return checkpoint.read(checkpoint.find(run)).state["weights"]


def assert_equal_to_the_bit(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].equal(other[name]), name


@pytest.mark.parametrize("steps", [(1,), (4,), (6, 9), (10,)])
def test_interrupted_training_equals_uninterrupted_training_to_the_bit(flow, trained, tiny, tmp_path, steps):
    run = tmp_path / "run"
    for k, step in enumerate(steps):
        with pytest.raises(Crash):
            train(flow, run, tiny(), threads=1, quiet=True, resume=k > 0, on_step=crash_after(step))
    train(flow, run, tiny(), threads=1, quiet=True, resume=True)
    assert_equal_to_the_bit(weights(run), weights(trained))
    last = [checkpoint.read(checkpoint.newest_step(r)).state for r in (run, trained)]
    assert_equal_to_the_bit(last[0]["raw_weights"], last[1]["raw_weights"])
    for a, b in zip(*(s["optimiser"]["state"].values() for s in last), strict=True):
        assert_equal_to_the_bit(a, b)
    rows = [[{**row, "seconds": 0} for row in runlog.read(r)] for r in (run, trained)]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == [3, 6, 9, 10]


def test_another_seed_gives_other_weights(flow, trained, tiny, tmp_path):
    train(flow, tmp_path / "run", tiny(seed=1), threads=1, quiet=True)
    ours, theirs = weights(tmp_path / "run"), weights(trained)
    assert any(not ours[name].equal(theirs[name]) for name in ours)


def test_training_leaves_torch_global_random_numbers_alone(flow, tiny, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(flow, tmp_path / "run", tiny(steps=2), threads=1, quiet=True)
    assert torch.rand(3).equal(expected)


def test_the_loss_falls(flow, tiny, tmp_path):
    train(flow, tmp_path / "run", tiny(steps=60, log_every=10, batch_size=4), threads=1, quiet=True)
    rows = runlog.read(tmp_path / "run")
    assert rows[-1]["mean_rmse"] < 0.9 * rows[0]["mean_rmse"]


def test_csv_and_jsonl_say_the_same_and_name_the_validation_loss(trained):
    with open(trained / "log.csv") as stream:
        table = list(csv.DictReader(stream))
    rows = runlog.read(trained)
    assert [int(row["step"]) for row in table] == [row["step"] for row in rows]
    assert [float(row["loss"]) for row in table] == [row["loss"] for row in rows]
    assert rows[-1]["validation_loss"] == float(table[-1]["validation_loss"]) > 0
    assert table[0]["validation_loss"] == ""
    assert checkpoint.read(checkpoint.find(trained)).meta["validation_loss"] == rows[-1]["validation_loss"]


def test_a_torn_last_line_of_the_log_is_left_out(trained, tmp_path):
    (tmp_path / "log.jsonl").write_text((trained / "log.jsonl").read_text() + '{"step": 11, "lo')
    assert runlog.read(tmp_path) == runlog.read(trained)


# ------------------------------------------------------------------ numbers that are not finite


def spoil(monkeypatch, steps):
    """The clips of some steps become NaN."""
    clip, count = Windows.clip, iter(range(10**6))

    def spoiled(self, indices):
        step = next(count)
        return clip(self, indices) * (math.nan if step in steps else 1.0)

    monkeypatch.setattr(Windows, "clip", spoiled)


def test_a_nan_batch_changes_nothing_and_is_counted(flow, tiny, tmp_path, monkeypatch):
    before = {}

    def compare(run):
        now = {k: v.clone() for k, v in run.optimiser.model.state_dict().items()}
        if run.optimiser.step == 5:
            assert_equal_to_the_bit(before, now)
        before.update(now)

    spoil(monkeypatch, {4})
    train(flow, tmp_path / "run", tiny(), threads=1, quiet=True, on_step=compare)
    loaded = checkpoint.read(checkpoint.find(tmp_path / "run"))
    assert loaded.meta["optimiser"] == {"step": 10, "skipped": 1, "bad_in_a_row": 0}
    assert all(value.isfinite().all() for value in loaded.state["weights"].values())


def test_bad_steps_in_a_row_end_the_training_and_the_last_good_checkpoint_stays(flow, tiny, tmp_path, monkeypatch):
    spoil(monkeypatch, range(5, 100))
    with pytest.raises(NumericalError, match="not finite in 3 steps in a row, up to step 8") as caught:
        train(flow, tmp_path / "run", tiny(max_bad_steps=3), threads=1, quiet=True)
    assert caught.value.exit_code == 3
    good = checkpoint.read(checkpoint.find(tmp_path / "run"))
    assert good.meta["optimiser"] == {"step": 4, "skipped": 0, "bad_in_a_row": 0}


# ------------------------------------------------------------------ one gradient step


class Toy(torch.nn.Module):
    """A parameter whose loss has gradient `slope`, and a running statistic."""

    def __init__(self, slope=1.0):
        super().__init__()
        self.p = torch.nn.Parameter(torch.zeros(4))
        self.register_buffer("seen", torch.zeros(()))
        self.slope = slope

    def loss(self, clip, *, step, generator):
        self.seen += 1
        return {"loss": self.slope * self.p.sum()}


def settings(**values):
    plain = {"optimiser": "adam", "weight_decay": 0, "schedule": "constant", "warmup_steps": 0, "learning_rate": 0.1}
    return TrainConfig(**{**plain, **values})


def test_average_follows_the_exponential_moving_average_of_the_weights():
    config = settings(ema_decay=0.5, ema_warmup=1, gradient_clip=None)
    optimiser = Optimiser(Toy(), config, torch.device("cpu"))
    expected = torch.zeros(4)
    for k in range(1, 6):
        optimiser.advance(torch.zeros(1))
        decay = min(0.5, k / (k + 1))
        expected = decay * expected + (1 - decay) * optimiser.model.p.detach()
    torch.testing.assert_close(optimiser.average.p.detach(), expected)
    assert optimiser.average.seen == optimiser.model.seen == 5


def test_published_average_starts_late_and_moves_every_fifth_step():
    config = settings(ema_decay=0.99, ema_start=10, ema_every=5, ema_warmup=1)
    assert [config.ema_decay_at(k) for k in (0, 9)] == [0, 0]
    moves = [k for k in range(10, 40) if config.ema_decay_at(k) < 1]
    assert moves == [14, 19, 24, 29, 34, 39]


def test_the_gradient_norm_is_clipped_and_its_true_size_reported():
    torch_step = []
    optimiser = Optimiser(Toy(slope=50.0), settings(gradient_clip=1.0), torch.device("cpu"))
    optimiser.optimiser.register_step_pre_hook(lambda *_: torch_step.append(optimiser.model.p.grad.norm().item()))
    assert optimiser.advance(torch.zeros(1))["gradient_norm"] == pytest.approx(100)  # 50 * sqrt(4)
    assert torch_step == [pytest.approx(1, rel=1e-4)]


def test_running_statistics_of_a_skipped_step_are_taken_back():
    optimiser = Optimiser(Toy(slope=math.inf), settings(), torch.device("cpu"))
    optimiser.advance(torch.zeros(1))
    assert optimiser.model.seen == 0
    assert (optimiser.step, optimiser.skipped) == (1, 1)


def test_learning_rates_begin_and_end_where_the_schedules_say():
    def rates(**values):
        config = settings(steps=100, final_learning_rate=0.02, **values)
        return [pytest.approx(config.learning_rate_at(k), abs=1e-12) for k in (0, 50, 100)]

    assert rates(schedule="constant") == [0.1, 0.1, 0.1]
    assert rates(schedule="linear") == [0.1, 0.06, 0.02]
    assert rates(schedule="cosine") == [0.1, 0.06, 0.02]
    assert rates(schedule="drop", drop_step=50) == [0.1, 0.02, 0.02]
    assert rates(schedule="constant", warmup_steps=4)[0] == 0.025


# ------------------------------------------------------------------ folders and configurations


def test_an_existing_run_is_neither_replaced_nor_resumed_unasked(flow, trained, tiny, tmp_path):
    with pytest.raises(UsageError, match="holds a run already: go on with --resume, or replace it with --overwrite"):
        train(flow, trained, tiny(), quiet=True)
    (tmp_path / "thesis.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="is not a run folder"):
            train(flow, tmp_path, tiny(), quiet=True, overwrite=overwrite)
    with pytest.raises(UsageError, match="is a file"):
        train(flow, tmp_path / "thesis.txt", tiny(), quiet=True)
    with pytest.raises(DataError, match="nothing to resume"):
        train(flow, tmp_path / "absent", tiny(), quiet=True, resume=True)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_overwrite_replaces_a_run_and_leaves_foreign_files_alone(flow, tiny, tmp_path):
    run = tmp_path / "run"
    train(flow, run, tiny(steps=3), threads=1, quiet=True)
    (run / "notes.txt").write_text("mine")
    train(flow, run, tiny(steps=2), threads=1, quiet=True, overwrite=True)
    assert (run / "notes.txt").read_text() == "mine"
    assert [p.name for p in checkpoint.step_files(run / "checkpoints")] == ["step-000002.pt"]
    assert read_config(run).train.steps == 2
    assert [row["step"] for row in runlog.read(run)] == [2]


def test_resuming_with_other_settings_names_them(flow, trained, tiny):
    with pytest.raises(UsageError, match=r"train\.batch_size: 2, now 3"):
        train(flow, trained, tiny(batch_size=3), quiet=True, resume=True)


def test_resuming_on_another_dataset_is_refused(flow, build, tiny, tmp_path):
    with pytest.raises(Crash):
        train(flow, tmp_path / "run", tiny(), threads=1, quiet=True, on_step=crash_after(5))
    other = build(tmp_path / "other.zarr", times=30)
    with pytest.raises(DataError, match="was trained on a dataset with SHA-256"):
        train(other, tmp_path / "run", tiny(), threads=1, quiet=True, resume=True)


def test_resuming_a_complete_run_changes_nothing(flow, trained, tiny):
    before = checkpoint.find(trained).stat().st_mtime_ns
    assert train(flow, trained, None, quiet=True, resume=True) == trained / "checkpoints" / "final.pt"
    assert checkpoint.find(trained).stat().st_mtime_ns == before


def test_a_dataset_without_training_runs_is_refused(build, tiny, tmp_path):
    path = build(tmp_path / "flow.zarr", split=("test", "validation"))
    with pytest.raises(DataError, match=r"no trajectory in split 'train'"):
        train(path, tmp_path / "run", tiny(), quiet=True)


def test_a_run_without_validation_runs_trains_all_the_same(build, tiny, tmp_path):
    path = build(tmp_path / "flow.zarr", split=("train", "test"))
    train(path, tmp_path / "run", tiny(steps=2), threads=1, quiet=True)
    assert "validation_loss" not in checkpoint.read(checkpoint.find(tmp_path / "run")).meta


def test_damaged_run_configurations_are_refused_by_name(flow, tiny, tmp_path):
    run = tmp_path / "run"
    train(flow, run, tiny(steps=1), threads=1, quiet=True)
    good = (run / "config.json").read_text()
    wrong = json.loads(good)
    wrong["config"]["train"]["colour"] = "red"
    for text in ("", good[: len(good) // 2], "[]", '{"config": 3}', json.dumps(wrong)):
        (run / "config.json").write_text(text)
        with pytest.raises(DataError, match=r"config\.json: not the configuration of a run"):
            train(flow, run, None, quiet=True, resume=True)


@pytest.mark.parametrize("model", [{"width": 512, "multipliers": (64, 64, 64)}, {"multipliers": (10**9, 10**9)}])
def test_a_network_that_cannot_fit_is_refused_before_it_is_built(flow, tmp_path, model):
    config = RunConfig.model_validate({"preset": "small", "model": model})
    with pytest.raises(ResourceError, match=r"GiB, .* are free: lower|is too large"):
        train(flow, tmp_path / "run", config, quiet=True)


def test_resuming_with_other_threads_says_that_bits_will_differ(flow, tiny, tmp_path, capsys):
    with pytest.raises(Crash):
        train(flow, tmp_path / "run", tiny(), threads=1, quiet=True, on_step=crash_after(8))
    train(flow, tmp_path / "run", tiny(), threads=2, quiet=True, resume=True)
    assert "begun with 1 threads on cpu, resumed otherwise" in capsys.readouterr().err


def test_presets_fill_in_what_is_not_given_and_given_values_win():
    config = RunConfig.model_validate({"preset": "paper-64", "train": {"steps": 5}, "model": {"sigma": 1.0}})
    assert (config.train.steps, config.train.learning_rate, config.train.schedule) == (5, 5e-5, "linear")
    assert (config.model.sigma, config.model.width, config.model.diffusion_steps) == (1.0, 48, 1600)
    assert RunConfig.model_validate(config.model_dump()) == config
    with pytest.raises(ValueError, match="preset 'huge' is not known: choose one of small, paper-64"):
        RunConfig.model_validate({"preset": "huge"})


def test_the_preset_follows_frame_size_and_device():
    chosen = [choose_preset(*a) for a in ((128, 128, "cpu"), (32, 64, "cuda"), (64, 64, "cuda"), (128, 128, "cuda"))]
    assert chosen == ["small", "paper-64", "paper-64", "paper-128"]
