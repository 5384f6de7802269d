"""Train a forecaster: flow.zarr in, run folder out.

    rvdflow train --data flow.zarr -o runs/a                                       one process
    torchrun --nproc-per-node 4 -m rvdflow train --data flow.zarr -o runs/a        four, which share each batch

A run is a pure function of its configuration, the dataset, and the numbers of processes and threads: stopped at any
moment (SIGKILL included) and resumed, it ends with the same weights, to the bit, as if it had never stopped (on a GPU
to rounding, where some of its kernels add in any order). To resume, run the same command again with `--resume`. A run
that trains for some minutes, not steps, goes on as faithfully, but how many steps fit into its time, and so where its
schedules stand at each, is up to the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from lbm import dataset as store
from lbm.console import Stop, progress, say
from rvdflow import checkpoint
from rvdflow import ranks as processes
from rvdflow.budget import Clock
from rvdflow.device import choose_device, choose_threads, denormals_as_zero
from rvdflow.ranks import Ranks
from rvdflow.run import Run
from rvdflow.run_folder import prepare_folder
from rvdflow.train_config import RunConfig
from rvdflow.windows import clips

OnStep = Callable[[Run], None]


@denormals_as_zero()  # before any thread of torch's is there, which inherits it
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
    on_step: OnStep | None = None,
    clock: Clock = time.monotonic,
) -> Path:
    """Train as `config` says on the training runs of the store `data`; returns the checkpoint to forecast with.

    `config` may be None when resuming. `on_step` is called after each step; `clock` counts seconds. Under torchrun
    each process calls this with the same arguments, and rank 0 alone writes. Raises UsageError (output exists,
    contradicting configuration), DataError (unfit dataset or damaged checkpoint), NumericalError (loss not finite),
    ResourceError (memory, disk, another process lost), SystemExit 130 or 143 after a signal, once the state is saved.
    """
    chosen_device, threads = choose_device(device), choose_threads(threads)
    ranks = processes.start(chosen_device)
    quiet = quiet or not ranks.first
    lock = store.store.Lock(folder)

    def claim() -> RunConfig:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        return prepare_folder(folder, data, config, resume=resume, overwrite=overwrite)

    try:
        settled = ranks.alone(claim)
        final = folder / "checkpoints" / "final.pt"
        if resume and final.is_file():
            checkpoint.read(checkpoint.find(folder))
            say(f"{folder}: training is complete already", quiet=quiet)
        else:
            run = Run(data, folder, settled, device=chosen_device, threads=threads, ranks=ranks, clock=clock)
            _train(run, ranks, quiet, on_step)
        return ranks.alone(lambda: checkpoint.find(folder))
    finally:
        lock.release()
        ranks.stop()


def _train(run: Run, ranks: Ranks, quiet: bool, on_step: OnStep | None) -> None:
    shared = f", shared by {ranks.size} processes" if ranks.size > 1 else ""
    say(f"training windows: {run.data.training.describe()}", quiet=quiet)
    if run.data.asymmetry:
        say(f"clips are not reflected: {run.data.asymmetry}", quiet=quiet)
    say(f"training for {run.budget.describe()}{shared}", quiet=quiet)
    if run.optimiser.step:
        say(f"resuming {run.folder} after step {run.optimiser.step}", quiet=quiet)
    with Stop() as stop:
        _loop(run, stop, quiet, on_step)
        scores = run.validate()
        stop.requested = run.budget.update(run.optimiser.step, stop.requested)
        if stop.requested:  # all steps are done and saved: a resume repeats only this last part
            stop.exit()
        ranks.alone(lambda: run.finish(scores, quiet))


def _loop(run: Run, stop: Stop, quiet: bool, on_step: OnStep | None) -> None:
    train, optimiser, budget, mirror = run.config.train, run.optimiser, run.budget, run.data.mirror
    batches = clips(
        run.data.training,
        train.batch_size,
        seed=train.seed,
        first=optimiser.step,
        last=budget.last_step,
        rows=optimiser.share,
    )
    total, unit = (train.steps, "steps") if budget.last_step else (round(60 * (budget.minutes or 0)), "s")
    label = f"train {run.folder.name}"
    with closing(batches), progress(total, label, unit=unit, quiet=quiet, done=run.done) as bar:
        while not budget.used:
            before = budget.progress
            batch = next(batches)
            if mirror is not None:
                chance = {"seed": train.seed, "step": optimiser.step, "clips": train.batch_size}
                batch = mirror.training(batch, **chance, rows=optimiser.share)
            values = optimiser.advance(batch, before)
            stop.requested = budget.update(optimiser.step, stop.requested)
            note = run.record(values, before)
            if run.validated_now:  # which took its time
                stop.requested = budget.update(optimiser.step, stop.requested)
            if stop.requested or run.save_due:
                run.save()
            if on_step is not None:
                on_step(run)
            if stop.requested:
                stop.exit()
            bar.advance(run.done - bar.done, note)
