"""The budget of a training, in steps or minutes, and what validation makes of it: the checkpoint to forecast with."""

import math

import pytest
import torch

from rvdflow import checkpoint, runlog
from rvdflow.train import train
from rvdflow.train_config import RunConfig, merge


class Watch:
    """A clock that moves only when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def tick(self, run):
        self.now += 6  # seconds per step


def test_a_budget_of_minutes_ends_the_training_and_drives_its_schedule(flow, tiny, tmp_path):
    watch, progress, rates = Watch(), [], []

    def on_step(run):
        progress.append(run.budget.progress)
        rates.append(run.optimiser.optimisers[-1].param_groups[0]["lr"])
        watch.tick(run)

    config = tiny(minutes=0.5, steps=1000, warmup_steps=0, learning_rate=1e-3, log_every=1)
    train(flow, tmp_path / "run", config, threads=1, quiet=True, on_step=on_step, clock=watch)
    assert progress == [0, 0.2, 0.4, 0.6, 0.8, 1]  # 6 of 30 s a step; the first is begun at once
    seen = [0, 0, 0.2, 0.4, 0.6, 0.8]  # what the schedule knew when each step began
    assert rates == pytest.approx([1e-3 * 0.5 * (1 + math.cos(math.pi * p)) for p in seen])
    rows = runlog.read(tmp_path / "run")
    assert [row["seconds"] for row in rows] == [0, 6, 12, 18, 24, 30]
    assert [row["step"] for row in rows if "validation_crps" in row] == [4, 6]  # past a half, and at the end
    assert [row["clips_per_second"] for row in rows[1:]] == [pytest.approx(1 / 3, abs=1e-3)] * 5


def test_where_steps_are_slow_checkpoints_follow_the_clock(flow, tiny, tmp_path):
    watch, newest = Watch(), []

    def on_step(run):
        watch.tick(run)
        newest.append(getattr(checkpoint.newest_step(run.folder), "name", None))

    config = tiny(steps=7, checkpoint_every=1000, checkpoint_minutes=0.2, validations=0)  # 2 steps of 6 s
    train(flow, tmp_path / "run", config, threads=1, quiet=True, on_step=on_step, clock=watch)
    third, fifth, last = (f"step-00000{k}.pt" for k in (3, 5, 7))  # the first step is over at 0 s
    assert newest == [None, None, third, third, fifth, fifth, last]


def test_a_resumed_training_has_only_the_minutes_that_were_left(flow, tiny, tmp_path):
    watch, config = Watch(), tiny(minutes=0.5, steps=1000, checkpoint_every=1, validations=0)

    def crash(run):
        watch.tick(run)
        if run.optimiser.step == 3:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(flow, tmp_path / "run", config, threads=1, quiet=True, on_step=crash, clock=watch)
    watch.now = 0.0  # another machine, hours later
    train(flow, tmp_path / "run", config, threads=1, quiet=True, resume=True, on_step=watch.tick, clock=watch)
    rows = runlog.read(tmp_path / "run")
    assert rows[-1]["step"] == 7  # the third step's own time was lost with the crash
    assert rows[-1]["seconds"] == 30


def test_the_best_checkpoint_is_that_of_the_smallest_validation_crps(flow, tiny, tmp_path, monkeypatch):
    scores = {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.5, 10: 2.5}
    found, kept = iter(scores.values()), {}
    monkeypatch.setattr("rvdflow.run.validation_scores", lambda *_: {"validation_crps": next(found)})

    def keep(run):
        kept[run.optimiser.step] = {k: v.clone() for k, v in run.optimiser.average.state_dict().items()}

    run = tmp_path / "run"
    path = train(flow, run, tiny(validations=5), threads=1, quiet=True, on_step=keep)
    assert [row["validation_crps"] for row in runlog.read(run) if "validation_crps" in row] == list(scores.values())
    best = checkpoint.read(path)
    assert path.name == "best.pt"
    assert (best.meta["optimiser"]["step"], best.meta["validation_crps"]) == (4, 1.0)
    for name in best.state["weights"].keys() - {"inflation", "memory"}:
        assert best.state["weights"][name].equal(kept[4][name])
    assert best.meta["inflation"] == pytest.approx(float(best.state["weights"]["inflation"])) != 1
    final = checkpoint.read(run / "checkpoints" / "final.pt")
    assert (final.meta["optimiser"]["step"], final.meta["validation_crps"]) == (10, 2.5)
    assert final.state["weights"]["inflation"] == best.state["weights"]["inflation"]


def test_the_weights_to_forecast_with_are_the_average_or_the_last_ones(flow, tiny, tmp_path):
    found = {}
    for which in ("average", "last"):
        train(flow, tmp_path / which, tiny(forecast_weights=which, validations=1), threads=1, quiet=True)
        state = checkpoint.read(checkpoint.newest_step(tmp_path / which)).state
        final = checkpoint.read(tmp_path / which / "checkpoints" / "final.pt").state["weights"]
        found[which] = runlog.read(tmp_path / which)[-1]["validation_crps"]
        source = {"average": "average_weights", "last": "raw_weights"}[which]
        calibrated = {name: final[name] for name in ("inflation", "memory")}
        torch.testing.assert_close(final, {**state[source], **calibrated}, rtol=0, atol=0)
    assert found["average"] != found["last"]


def test_a_training_without_validations_keeps_its_last_weights_alone(flow, tiny, tmp_path):
    path = train(flow, tmp_path / "run", tiny(steps=3, validations=0), threads=1, quiet=True)
    assert path.name == "final.pt"
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()
    assert not any("validation_loss" in row for row in runlog.read(tmp_path / "run"))


@pytest.mark.parametrize(
    "model",
    [
        {"mean": "zero", "mean_loss": 0.0, "residual_scale": "fixed", "sigma": 1.0},  # the ablation VD
        {"clip_frames": 5},  # 2 + 3
        {"unroll": 3, "unroll_from": 0.0},
        {"objective": "crps", "rollout_from": 0.0},
        {"levels": "continuous", "mean_first": 0.5, "obstacle_mask": True},
    ],
)
def test_each_variant_of_the_method_trains_and_is_validated(flow, tiny, tmp_path, model):
    config = tiny(steps=2, validations=1)
    config = RunConfig.model_validate(merge(config.model_dump(), {"model": model, "preset": None}))
    train(flow, tmp_path / "run", config, threads=1, quiet=True)
    final = checkpoint.read(tmp_path / "run" / "checkpoints" / "final.pt")
    assert all(value.isfinite().all() for value in final.state["weights"].values())
    assert final.meta["optimiser"]["skipped"] == 0
    assert 0 < final.meta["validation_crps"] < 10
