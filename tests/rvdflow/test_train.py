"""Training: equal to the bit after a stop, harmless to bad numbers, honest about its folder."""

import csv
import json
import math

import pytest
import torch

from lbm.errors import DataError, NumericalError, ResourceError, UsageError
from rvdflow import checkpoint, runlog
from rvdflow.networks import Batch
from rvdflow.run_folder import read_config
from rvdflow.train import train
from rvdflow.train_config import RunConfig, choose_preset, merge
from rvdflow.windows import Windows

UNTIMED = {"seconds": 0, "clips_per_second": 0, "memory_mib": 0}


class Crash(Exception):
    """Stands for the power cut."""


def crash_after(step):
    def on_step(run):
        if run.optimiser.step == step:
            raise Crash

    return on_step


def weights(run):
    return checkpoint.read(run / "checkpoints" / "final.pt").state["weights"]


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
    for one, other in zip(*(s["optimisers"] for s in last), strict=True):  # muon and adamw
        for a, b in zip(one["state"].values(), other["state"].values(), strict=True):
            assert_equal_to_the_bit(a, b)
    rows = [[{**row, **UNTIMED} for row in runlog.read(r)] for r in (run, trained)]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == [3, 5, 6, 9, 10]
    best = [checkpoint.read(r / "checkpoints" / "best.pt") for r in (run, trained)]
    assert_equal_to_the_bit(best[0].state["weights"], best[1].state["weights"])
    assert best[0].meta["validation_crps"] == best[1].meta["validation_crps"]


@pytest.mark.parametrize("step", [4, 6])  # before and after the mean is frozen, and its optimiser's state with it
def test_two_stage_training_is_resumed_to_the_same_bits(flow, tiny, tmp_path, step):
    config = RunConfig.model_validate(merge(tiny().model_dump(), {"model": {"mean_first": 0.5}, "preset": None}))
    train(flow, tmp_path / "whole", config, threads=1, quiet=True)
    with pytest.raises(Crash):
        train(flow, tmp_path / "run", config, threads=1, quiet=True, on_step=crash_after(step))
    train(flow, tmp_path / "run", None, threads=1, quiet=True, resume=True)
    assert_equal_to_the_bit(weights(tmp_path / "run"), weights(tmp_path / "whole"))


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
    assert rows[-1]["validation_crps"] == float(table[-1]["validation_crps"]) > 0
    assert table[0]["validation_loss"] == table[0]["validation_crps"] == ""
    final = checkpoint.read(trained / "checkpoints" / "final.pt").meta
    assert final["validation_loss"] == rows[-1]["validation_loss"]
    assert all(row["clips_per_second"] > 0 and row["memory_mib"] > 10 for row in rows)


def test_a_torn_last_line_of_the_log_is_left_out(trained, tmp_path):
    (tmp_path / "log.jsonl").write_text((trained / "log.jsonl").read_text() + '{"step": 11, "lo')
    assert runlog.read(tmp_path) == runlog.read(trained)


# ------------------------------------------------------------------ numbers that are not finite


def spoil(monkeypatch, steps):
    """The clips of some steps become NaN."""
    clip, count = Windows.clip, iter(range(10**6))

    def spoiled(self, indices):
        step = next(count)
        frames, given = clip(self, indices)
        return Batch(frames * (math.nan if step in steps else 1.0), given)

    monkeypatch.setattr(Windows, "clip", spoiled)


def test_a_nan_batch_changes_nothing_and_is_counted(flow, tiny, tmp_path, monkeypatch):
    before = {}

    def compare(run):
        now = {k: v.clone() for k, v in run.optimiser.model.state_dict().items()}
        if run.optimiser.step == 5:
            assert_equal_to_the_bit(before, now)
        before.update(now)

    spoil(monkeypatch, {4})
    train(flow, tmp_path / "run", tiny(validations=0), threads=1, quiet=True, on_step=compare)
    loaded = checkpoint.read(checkpoint.find(tmp_path / "run"))
    assert loaded.meta["optimiser"] == {"step": 10, "skipped": 1, "bad_in_a_row": 0}
    assert all(value.isfinite().all() for value in loaded.state["weights"].values())


def test_bad_steps_in_a_row_end_the_training_and_the_last_good_checkpoint_stays(flow, tiny, tmp_path, monkeypatch):
    spoil(monkeypatch, range(5, 100))
    with pytest.raises(NumericalError, match="not finite in 3 steps in a row, up to step 8") as caught:
        train(flow, tmp_path / "run", tiny(max_bad_steps=3, validations=0), threads=1, quiet=True)
    assert caught.value.exit_code == 3
    good = checkpoint.read(checkpoint.find(tmp_path / "run"))
    assert good.meta["optimiser"] == {"step": 4, "skipped": 0, "bad_in_a_row": 0}


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
    train(flow, run, tiny(steps=3, validations=0), threads=1, quiet=True)
    (run / "notes.txt").write_text("mine")
    train(flow, run, tiny(steps=2, validations=0), threads=1, quiet=True, overwrite=True)
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
    hashes = r"was trained on a dataset with SHA-256 [0-9a-f]{64}, .*other\.zarr has [0-9a-f]{64}"
    with pytest.raises(DataError, match=hashes):
        train(other, tmp_path / "run", tiny(), threads=1, quiet=True, resume=True)
    for changes, words in (
        ({"interval": 32}, r"frame interval 64, .* has 32"),
        ({"size": (16, 8)}, r"frame size \[8, 16\], .* has \[16, 8\]"),
        ({"variables": ("vorticity", "density")}, r"variables \['vorticity'\], .* has \['vorticity', 'density'\]"),
    ):
        other = build(tmp_path / f"{len(words)}.zarr", **changes)
        with pytest.raises(DataError, match=words):
            train(other, tmp_path / "run", tiny(), threads=1, quiet=True, resume=True)


def test_a_damaged_newest_checkpoint_costs_its_steps_and_nothing_else(flow, trained, tiny, tmp_path, capsys):
    run = tmp_path / "run"
    with pytest.raises(Crash):
        train(flow, run, tiny(), threads=1, quiet=True, on_step=crash_after(9))
    newest = run / "checkpoints" / "step-000008.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    train(flow, run, tiny(), threads=1, quiet=True, resume=True)
    assert "step-000008.pt: damaged" in capsys.readouterr().err
    assert_equal_to_the_bit(weights(run), weights(trained))


def test_resuming_a_complete_run_changes_nothing(flow, trained, tiny):
    before = checkpoint.find(trained).stat().st_mtime_ns
    assert train(flow, trained, None, quiet=True, resume=True) == trained / "checkpoints" / "best.pt"
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
    warning = "begun with 1 processes of 1 threads on cpu, resumed with 1 processes of 2 threads on cpu"
    assert warning in capsys.readouterr().err


def test_presets_fill_in_what_is_not_given_and_given_values_win():
    config = RunConfig.model_validate({"preset": "paper-64", "train": {"steps": 5}, "model": {"sigma": 1.0}})
    assert (config.train.steps, config.train.learning_rate, config.train.schedule) == (5, 5e-5, "linear")
    assert (config.model.sigma, config.model.width, config.model.diffusion_steps) == (1.0, 48, 1600)
    assert RunConfig.model_validate(config.model_dump()) == config
    with pytest.raises(ValueError, match="preset 'huge' is not known: choose one of small, one-step, modern"):
        RunConfig.model_validate({"preset": "huge"})


def test_the_published_trainings_are_those_of_the_paper_and_of_its_released_code():
    for size, batch in (("64", 8), ("128", 4)):
        paper, released = (RunConfig.model_validate({"preset": f"{p}-{size}"}).train for p in ("paper", "released"))
        for train_config in (paper, released):
            assert (train_config.batch_size, train_config.optimiser, train_config.steps) == (batch, "adam", 10**6)
            assert (train_config.gradient_clip, train_config.forecast_weights) == (None, "last")
            assert (train_config.precision, train_config.weight_decay) == ("float32", 0)
        rates = [paper.learning_rate_at(k / 10, k * 10**5) for k in (0, 5, 10)]
        assert rates == pytest.approx([5e-5, 3.5e-5, 2e-5])
        rates = [released.learning_rate_at(k / 10**6, k) for k in (0, 100_000, 100_004, 100_008, 900_000)]
        assert rates == pytest.approx([5e-5, 5e-5, (5e-5 * 1e-5) ** 0.5, 1e-5, 1e-5])
        decays = [released.ema_decay_at(k) for k in (1999, 2004, 2005, 2009)]
        assert decays == [0, 0.99, 1, 0.99]  # 0: a copy of the weights, 1: unchanged
        assert paper.ema_decay_at(5000) == 0


def test_the_preset_follows_the_device():
    assert [choose_preset(device) for device in ("cpu", "cuda")] == ["small", "modern"]
