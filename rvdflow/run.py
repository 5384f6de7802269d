"""A training run under way: data, optimiser, budget, log and folder, with what is needed to save and go on."""

from __future__ import annotations

import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from lbm import dataset as store
from lbm.console import say, warn
from lbm.errors import DataError
from rvdflow import checkpoint
from rvdflow.budget import Budget, Clock
from rvdflow.build import build_model
from rvdflow.optimise import Optimiser
from rvdflow.ranks import Ranks
from rvdflow.runlog import RunLog
from rvdflow.train_config import RunConfig
from rvdflow.training_data import load_data
from rvdflow.validate import validation_loss, validation_scores

CALIBRATED = {"inflation": 1.0, "memory": 0.0}  # what rvdflow.calibrate sets, and where it starts


class Run:
    """What the steps of a training share. Every rank has one; only rank 0 writes.

    A run that has a checkpoint in `folder` goes on from the newest one that is whole.
    """

    def __init__(
        self,
        data: Path,
        folder: Path,
        config: RunConfig,
        *,
        device: torch.device,
        threads: int,
        ranks: Ranks | None = None,
        clock: Clock = time.monotonic,
    ):
        self.folder, self.config, self.threads, self.ranks = folder, config, threads, ranks or Ranks()
        newest = self.ranks.alone(lambda: checkpoint.newest_whole(folder))
        saved = checkpoint.read(newest) if newest else None
        self.data = load_data(data, config, saved)
        model = build_model(config, self.data.frame_shape)
        if saved is None:
            model.prepare(self.data.training)
        self.optimiser = Optimiser(model, config.train, device, self.ranks)
        self.sums: dict[str, float] = {}
        self.scores: tuple[int, dict[str, float]] = (-1, {})  # step of the last validation, and what it found
        self.best = math.inf  # validation CRPS of best.pt
        if saved:
            self._restore(saved)
        elapsed = saved.meta["elapsed"] if saved else 0.0
        self.budget = Budget(config.train, self.ranks, step=self.optimiser.step, elapsed=elapsed, clock=clock)
        self.log: RunLog | None = None
        self.ranks.alone(self._open_log)
        self._logged, self._saved = (self.optimiser.step, elapsed), elapsed

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        meta, now = saved.meta, self._machine()
        if any(meta[name] != value for name, value in now.items()):
            before, here = (f"{m['ranks']} processes of {m['threads']} threads on {m['device']}" for m in (meta, now))
            warn(f"begun with {before}, resumed with {here}: weights will differ in their last bits")
        self.optimiser.restore(meta["optimiser"], saved.state)
        self.sums = meta["sums"]
        best = self.folder / "checkpoints" / "best.pt"
        if best.is_file():
            try:
                self.best = float(checkpoint.read(best).meta["validation_crps"])
            except DataError as error:
                warn(f"{error}; the best weights are chosen anew from here on", quiet=not self.ranks.first)

    def _open_log(self) -> None:
        self.log = RunLog(self.folder, self.optimiser.step, tensorboard=self.config.train.tensorboard)

    def _machine(self) -> dict[str, Any]:
        return {"threads": self.threads, "device": self.optimiser.device.type, "ranks": self.ranks.size}

    @property
    def done(self) -> int:
        """Of the budget: steps, or seconds."""
        return self.budget.step if self.budget.last_step else int(self.budget.elapsed)

    @property
    def validated_now(self) -> bool:
        return self.scores[0] == self.optimiser.step

    # ------------------------------------------------------------------ checkpoints

    def meta(self) -> dict[str, Any]:
        """The JSON part of a checkpoint."""
        return {
            "config": self.config.model_dump(mode="json"),
            "normalisation": self.data.normalisation.to_json(),
            "conditions": self.data.conditions.to_json(),
            "data": self.data.identity,
            "optimiser": self.optimiser.state()[0],
            "elapsed": self.budget.elapsed,
            **self._machine(),
            "software": store.provenance("torch"),
        }

    @property
    def save_due(self) -> bool:
        """Whether a checkpoint is wanted after this step; equal on all ranks."""
        train, since = self.config.train, self.budget.elapsed - self._saved
        due = self.optimiser.step % train.checkpoint_every == 0 or since >= 60 * train.checkpoint_minutes
        return due or self.validated_now or self.budget.used

    def save(self) -> None:
        """Write everything needed to go on from here."""
        self._saved = self.budget.elapsed
        if self.ranks.first:
            meta = {**self.meta(), "sums": self.sums}
            checkpoint.save_step(self.folder, self.optimiser.step, meta, self.optimiser.state()[1])

    def _save_weights(self, name: str, meta: dict[str, Any], weights: dict[str, Any]) -> Path:
        path = self.folder / "checkpoints" / name
        digest = checkpoint.write(path, meta, {"weights": weights})
        checkpoint.point_latest(self.folder, path, digest)
        return path

    # ------------------------------------------------------------------ validation

    def validate(self) -> dict[str, float]:
        """Loss and ensemble CRPS of the weights that forecast, on validation runs; empty without such runs.

        Where the CRPS is the smallest so far, these weights become best.pt.
        """
        if self.validated_now:
            return self.scores[1]
        config, windows, scores = self.config, self.data.validation, {}
        if windows is not None and config.train.validations:
            model = self.optimiser.forecaster()
            settings = config.validation, config.train
            scores["validation_loss"] = validation_loss(model, windows, *settings, self.budget.progress, self.ranks)
            found = validation_scores(model, windows, *settings, self.ranks)
            scores |= found
            crps = found.get("validation_crps", math.nan)
            if crps < self.best and model.settled(self.budget.progress):
                self.best = crps
                if self.ranks.first:
                    self._save_weights("best.pt", self.meta() | scores, model.state_dict())
        self.scores = (self.optimiser.step, scores)
        return scores

    def _validation_due(self, before: float) -> bool:
        """Whether the training has passed from one of its equal parts, each ending with a validation, to the next."""
        parts = self.config.train.validations
        return self.budget.used or math.floor(before * parts) < math.floor(self.budget.progress * parts)

    # ------------------------------------------------------------------ log

    def record(self, values: dict[str, float], before: float) -> str:
        """Add a step to the log's running sums, write a line when one is due; returns a note on the loss.

        `before` is the progress before the step.
        """
        train, step = self.config.train, self.optimiser.step
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.sums["count"] = self.sums.get("count", 0.0) + 1
        scores = self.validate() if self._validation_due(before) else {}
        if scores or self.budget.used or step % train.log_every == 0:
            count = self.sums.pop("count")
            row = {name: total / count for name, total in self.sums.items()}
            self.sums = {}
            self._write({**row, "learning_rate": values["learning_rate"], **scores})
        skipped = f", {self.optimiser.skipped} skipped" if self.optimiser.skipped else ""
        timed = "" if self.budget.last_step else f"step {step}, "
        return f"{timed}loss {values['loss']:.3f}{skipped}"

    def _write(self, row: dict[str, Any]) -> None:
        step, elapsed = self.optimiser.step, self.budget.elapsed
        batch = self.config.train.batch_size
        since = elapsed - self._logged[1]
        rate = (step - self._logged[0]) * batch / since if since > 0 else 0.0
        self._logged = step, elapsed
        if self.log is None:
            return
        row |= {"step": step, "samples": step * batch, "skipped": self.optimiser.skipped}
        measured = {"clips_per_second": round(rate, 3), "memory_mib": round(memory_mib(self.optimiser.device), 1)}
        self.log.write(row | {"seconds": round(elapsed, 3)} | measured)

    # ------------------------------------------------------------------ the end

    def finish(self, scores: dict[str, Any], quiet: bool = False) -> None:
        """Calibrate the spread of the weights to forecast with, and write final.pt, which ends the run.

        They are those of the validation with the smallest CRPS, best.pt, else the last ones. Calibration is dear: where
        the best weights are not the last, those in final.pt take over what was found for the best.
        """
        last = {**self.meta(), **scores}
        best, model = self.folder / "checkpoints" / "best.pt", self.optimiser.forecaster()
        if not best.is_file():
            last |= self._calibrate(model, quiet)
        else:
            kept = checkpoint.read(best)
            step = kept.meta["optimiser"]["step"]
            chosen = self.optimiser.forecaster()
            checkpoint.load_weights(chosen, kept.state["weights"], best)
            found = self._calibrate(chosen, quiet)
            self._save_weights("best.pt", {**kept.meta, **found}, chosen.state_dict())
            if step == self.optimiser.step:
                last |= found
            if self.config.calibration.cases:
                for name in CALIBRATED:
                    getattr(model, name).copy_(getattr(chosen, name))
            crps = kept.meta["validation_crps"]
            say(f"forecasts use best.pt: validation CRPS {crps:.4g}, after step {step}", quiet=quiet)
        self._save_weights("final.pt", last, model.state_dict())
        if self.log:
            self.log.close()

    def _calibrate(self, model: Any, quiet: bool) -> dict[str, Any]:
        """Set scale and memory of the model's residual on validation runs; returns what they came to."""
        config, windows = self.config.calibration, self.data.validation
        if not config.cases:
            return {}
        if self.data.training.frames.eight_bit:
            say("spread not calibrated: residuals of pictures, scaled, make pictures of nothing", quiet=quiet)
            return {}
        length = config.context + config.lead
        if windows is None or windows.frames.longest(windows.trajectories) < length:
            say(f"spread not calibrated: no validation runs of at least {length} frames", quiet=quiet)
            return {}
        from rvdflow.calibrate import calibrate

        for name, value in CALIBRATED.items():
            getattr(model, name).fill_(value)
        long = windows.longer(length)
        chosen = long.spread(config.cases)
        batch = long.clip(chosen).to(self.optimiser.device)
        found = calibrate(model, *batch, config, self.config.train.seed)
        ratios = [round(ratio, 4) for ratio in found.spread_skill]
        say(
            f"spread calibrated on {len(chosen)} validation cases: inflation {found.inflation:.2f}, "
            f"memory {found.memory:g}, spread-skill ratio {min(ratios):.2f} to {max(ratios):.2f} "
            f"over leads 1 to {config.lead}",
            quiet=quiet,
        )
        return {"inflation": found.inflation, "memory": found.memory, "validation_spread_skill": ratios}


def memory_mib(device: torch.device) -> float:
    """The most memory this process has taken so far: of the GPU where one computes, else of the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
