"""Train a forecaster: flow.zarr in, run folder out.

A run is a pure function of its configuration, the dataset and the number of threads: stopped at any moment (SIGKILL
included) and resumed, it ends with the same weights, to the bit, as if it had never stopped. To resume, run the
same command again with `--resume`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lbm import dataset as store
from lbm.console import Stop, progress, say, size, warn
from lbm.errors import DataError
from rvdflow import checkpoint
from rvdflow.build import COPIES, build_model
from rvdflow.device import choose_device, choose_threads
from rvdflow.noise import torch_generator
from rvdflow.normalisation import Normalisation
from rvdflow.optimise import Optimiser
from rvdflow.run_folder import prepare_folder
from rvdflow.runlog import RunLog
from rvdflow.train_config import RunConfig
from rvdflow.training_data import load_data
from rvdflow.windows import Windows, clips


class Run:
    """A training run under way: data, optimiser, log and folder, with what is needed to save and go on."""

    def __init__(self, data: Path, folder: Path, config: RunConfig, *, device: torch.device, threads: int):
        self.folder, self.config, self.threads = folder, config, threads
        newest = checkpoint.newest_step(folder)
        saved = checkpoint.read(newest) if newest else None
        normalisation = Normalisation.from_json(saved.meta["normalisation"]) if saved else None
        self.data = load_data(data, config, normalisation)
        self.optimiser = Optimiser(build_model(config, self.data.frame_shape), config.train, device)
        self.sums: dict[str, float] = {}
        self.validated = (-1, 0.0)  # step of the last validation, and its loss
        if saved:
            self._restore(saved)
        self.log = RunLog(folder, keep_until=self.optimiser.step)

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        was, now = saved.meta["data"]["sha256"], self.data.identity["sha256"]
        if was != now:
            raise DataError(
                f"{saved.path} was trained on a dataset with SHA-256 {was[:12]}..., this one has {now[:12]}..."
            )
        if saved.meta["threads"] != self.threads or saved.meta["device"] != self.optimiser.device.type:
            before = f"{saved.meta['threads']} threads on {saved.meta['device']}"
            warn(f"begun with {before}, resumed otherwise: weights will differ in their last bits")
        self.optimiser.restore(saved.meta["optimiser"], saved.state)
        self.sums = saved.meta["sums"]

    def meta(self) -> dict[str, Any]:
        """The JSON part of a checkpoint."""
        return {
            "config": self.config.model_dump(mode="json"),
            "normalisation": self.data.normalisation.to_json(),
            "data": self.data.identity,
            "threads": self.threads,
            "device": self.optimiser.device.type,
            "software": store.provenance("torch"),
        }

    def save(self) -> Path:
        numbers, tensors = self.optimiser.state()
        meta = {**self.meta(), "optimiser": numbers, "sums": self.sums}
        return checkpoint.save_step(self.folder, self.optimiser.step, meta, tensors)

    def save_final(self, scores: dict[str, Any]) -> Path:
        path = self.folder / "checkpoints" / "final.pt"
        meta = {**self.meta(), "optimiser": self.optimiser.state()[0], **scores}
        digest = checkpoint.write(path, meta, {"weights": self.optimiser.average.state_dict()})
        checkpoint.point_latest(self.folder, path, digest)
        return path

    def validate(self) -> dict[str, float]:
        """Loss of the averaged weights on fixed clips of the validation runs; empty without such runs."""
        windows, train = self.data.validation, self.config.train
        if windows is None:
            return {}
        if self.validated[0] == self.optimiser.step:
            return {"validation_loss": self.validated[1]}
        count = min(train.validation_clips, len(windows))
        chosen = [round(k * (len(windows) - 1) / max(1, count - 1)) for k in range(count)]
        total, device = 0.0, self.optimiser.device
        for first in range(0, count, train.batch_size):
            part = chosen[first : first + train.batch_size]
            generator = torch_generator(train.seed, "validation", first, device=device)
            with torch.no_grad():
                model: Any = self.optimiser.average
                losses = model.loss(windows.clip(part).to(device), step=self.optimiser.step, generator=generator)
            total += float(losses["loss"]) * len(part)
        self.validated = (self.optimiser.step, total / count)
        return {"validation_loss": total / count}

    def record(self, values: dict[str, float], seconds: float) -> str:
        """Add one step to the log's running sums, write a line when one is due; returns a note on the loss."""
        train, step = self.config.train, self.optimiser.step
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.sums["count"] = self.sums.get("count", 0.0) + 1
        row: dict[str, Any] = {}
        if step % train.log_every == 0 or step == train.steps:
            count = self.sums.pop("count")
            row = {name: total / count for name, total in self.sums.items()}
            row["learning_rate"] = values["learning_rate"]
            self.sums = {}
        if step == train.steps or (train.validate_every and step % train.validate_every == 0):
            row |= self.validate()
        if row:
            row |= {"step": step, "samples": step * train.batch_size, "skipped": self.optimiser.skipped}
            self.log.write(row | {"seconds": round(self.log.seconds + seconds, 3)})
        return f"loss {values['loss']:.3f}" + (f", {self.optimiser.skipped} skipped" if self.optimiser.skipped else "")


def train(
    data: Path,
    folder: Path,
    config: RunConfig | None,
    *,
    device: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    on_step: Callable[[Run], None] | None = None,
) -> Path:
    """Train as `config` says on the training runs of the store `data`; returns the final checkpoint in `folder`.

    `config` may be None when resuming. `on_step` is called after each step. Raises UsageError (output exists,
    contradicting configuration), DataError (unfit dataset or damaged checkpoint), NumericalError (loss not finite),
    SystemExit 130 or 143 after a signal, once the state is saved.
    """
    chosen_device, threads = choose_device(device), choose_threads(threads)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = store.store.Lock(folder)
    lock.acquire()
    try:
        return _train(data, folder, config, chosen_device, threads, resume, overwrite, quiet, on_step)
    finally:
        lock.release()


def _train(
    data: Path,
    folder: Path,
    config: RunConfig | None,
    device: torch.device,
    threads: int,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    on_step: Callable[[Run], None] | None,
) -> Path:
    config = prepare_folder(folder, data, config, resume=resume, overwrite=overwrite)
    final = folder / "checkpoints" / "final.pt"
    if resume and final.is_file():
        checkpoint.read(final)
        say(f"{folder}: training is complete already", quiet=quiet)
        return final
    run = Run(data, folder, config, device=device, threads=threads)
    say(f"training windows: {run.data.training.describe()}", quiet=quiet)
    if run.optimiser.step:
        say(f"resuming {folder} after step {run.optimiser.step}", quiet=quiet)
    with Stop() as stop:
        _loop(run, stop, quiet, on_step)
        scores = finish(run, quiet)
        if stop.requested:  # all steps are done and saved: a resume repeats only this last part
            stop.exit()
        return run.save_final(scores)


def _loop(run: Run, stop: Stop, quiet: bool, on_step: Callable[[Run], None] | None) -> None:
    train, optimiser = run.config.train, run.optimiser
    began, first = time.monotonic(), optimiser.step
    batches = clips(run.data.training, train.batch_size, seed=train.seed, first=first, last=train.steps)
    label = f"train {run.folder.name}"
    with progress(train.steps, label, unit="steps", quiet=quiet, done=first) as bar:
        for clip in batches:
            values = optimiser.advance(clip)
            note = run.record(values, time.monotonic() - began)
            if stop.requested or optimiser.step % train.checkpoint_every == 0 or optimiser.step == train.steps:
                run.save()
            if on_step is not None:
                on_step(run)
            if stop.requested:
                stop.exit()
            bar.advance(1, note)


def finish(run: Run, quiet: bool = False) -> dict[str, Any]:
    """Validate the averaged weights after the last step and calibrate their spread; returns the final scores."""
    scores: dict[str, Any] = run.validate()
    config, windows = run.config.calibration, run.data.validation
    if not config.cases:
        return scores
    length = config.context + config.lead
    if windows is None or windows.frames.times < length:
        say(f"spread not calibrated: no validation runs of at least {length} frames", quiet=quiet)
        return scores
    from rvdflow.calibrate import calibrate

    long = Windows(windows.frames, windows.trajectories, length, run.data.normalisation)
    count = min(config.cases, len(long))
    chosen = [round((k + 0.5) * len(long) / count - 0.5) for k in range(count)]
    model: Any = run.optimiser.average
    clips = long.clip(chosen).to(run.optimiser.device)
    inflation, ratios = calibrate(model, clips, config, run.config.train.seed)
    say(
        f"spread calibrated on {count} validation cases: inflation {inflation:.2f}, "
        f"spread-skill ratio {min(ratios):.2f} to {max(ratios):.2f} over leads 1 to {config.lead}",
        quiet=quiet,
    )
    return scores | {"inflation": inflation, "validation_spread_skill": [round(r, 4) for r in ratios]}


def estimate(data: Path, config: RunConfig) -> dict[str, Any]:
    """Size and cost of a run before it is begun: windows, parameters, memory, disk, and time from one short step."""
    loaded = load_data(data, config)
    model = build_model(config, loaded.frame_shape)
    parameters = sum(p.numel() for p in model.parameters())
    optimiser = Optimiser(model, config.train, torch.device("cpu"))
    began = time.monotonic()
    optimiser.advance(loaded.training.clip([0]))
    seconds = (time.monotonic() - began) * config.train.batch_size * config.train.steps
    return {
        "windows": loaded.training.describe(),
        "parameters": parameters,
        "memory": size(4 * COPIES * parameters + (loaded.training.nbytes if loaded.training.in_memory else 0)),
        "disk": size(3 * 4 * 4 * parameters),
        "hours_on_this_cpu_at_most": round(seconds / 3600, 2),
    }
