"""Ensemble forecasts: flow.zarr and a forecaster in, forecast.zarr out.

Each portion (see rvdflow.plan) is drawn lead after lead and written in chunks of leads, so memory holds one chunk
whatever the size of the forecast and however long its roll-outs. A case is acknowledged after all its members are on
disk; a stopped forecast resumes with the first unacknowledged group and, noise being a pure function of seed, case
and member, ends with the same bits. Under torchrun the portions are dealt to the ranks in turn; every rank writes its
own chunks, rank 0 does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lbm import dataset as store
from lbm.console import Stop, duration, progress, say, size
from lbm.errors import ResourceError
from rvdflow.forecast_store import (
    COPIES,
    attributes,
    coordinates,
    create,
    kept,
    member_dims,
    require_room,
    resumed,
)  # fmt: skip
from rvdflow.forecaster import Case, Forecaster, require_context
from rvdflow.frames import Frames, frame_variables
from rvdflow.plan import Plan, plan, too_short
from rvdflow.portions import Shown, Truth, blocks, trial
from rvdflow.ranks import Ranks
from rvdflow.windows import free_memory


def forecast_in_memory(forecaster: Forecaster, dataset: Any, frames: Frames, chosen: Plan) -> Any:
    """The whole forecast as an xarray.Dataset. ResourceError when it would not fit."""
    import xarray as xr

    if chosen.nbytes(frames) > free_memory() // 2:
        raise ResourceError(f"the forecast takes {size(chosen.nbytes(frames))}: write it to a store instead")
    check(forecaster, dataset, frames, chosen.context)
    truth = Truth.of(dataset, frames)
    values = np.empty((len(chosen.cases), chosen.members, chosen.lead, *frames.frame_shape), dtype=np.float32)
    done = 0
    for group in chosen.groups():
        shown = truth.show(group, chosen.context)
        for chunk in chosen.member_chunks():
            for lead, drawn in blocks(forecaster, shown, chunk, chosen):
                values[done : done + len(group), chunk.start : chunk.stop, lead : lead + drawn.shape[2]] = drawn
        done += len(group)
    values = values.reshape(len(chosen.trajectories), len(chosen.init_times), *values.shape[1:])
    return xr.Dataset(
        {name: (member_dims(frames), part, kept(dataset[name].attrs)) for name, part in frames.split(values)},
        coords={name: xr.Variable(*parts) for name, parts in coordinates(chosen, frames).items()},
        attrs=attributes(forecaster, dataset, chosen),
    )


def forecast(
    forecaster: Forecaster,
    data: Path,
    output: Path,
    *,
    members: int = 16,
    lead: int = 16,
    context: int = 4,
    split: str | None = "test",
    stride: int | None = None,
    init_times: Sequence[int] | None = None,
    cases: int | None = None,
    beyond: bool = False,
    seed: int = 0,
    cases_per_batch: int | None = None,
    members_per_batch: int | None = None,
    leads_per_chunk: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    ranks: Ranks | None = None,
) -> Path:
    """Forecast the store `data` into the store `output`; options as in `plan`; returns `output`.

    With `resume` an unfinished `output` of the same settings is completed, whatever the number of `ranks` it was
    begun with; a finished one is left as it is. Raises UsageError (output exists, other settings), DataError (data
    and checkpoint disagree), ResourceError (too large, or another rank has ended), NumericalError (a member is not
    finite), SystemExit 130 or 143 after a signal, once the frame at hand is drawn; cases that are whole stay.
    """
    ranks = ranks or Ranks()
    quiet = quiet or not ranks.first
    opened, frames = open_truth(data, forecaster, context)
    chosen = plan(
        opened, frames, members=forecaster.size(members), lead=lead, context=context, split=split,
        stride=stride, init_times=init_times, cases=cases, beyond=beyond, seed=seed, cases_per_batch=cases_per_batch,
        members_per_batch=members_per_batch, leads_per_chunk=leads_per_chunk, processes=ranks.size,
    )  # fmt: skip
    if left_out := too_short(opened, frames, chosen, split, beyond):
        say(left_out, quiet=quiet)
    writers: list[store.Writer] = []

    def begin() -> Plan | None:
        """Allocate or reopen the store; the plan with the portions it has, or None when it is complete."""
        stamped = attributes(forecaster, opened, chosen) | {"dataset_sha256": store.digest(data)}
        if resume and output.exists():
            settled = resumed(output, stamped, chosen)
            if store.read_attributes(output).get("complete") is True:
                return None
            writers.append(store.resume(output))
            return settled
        store.check_output(output, overwrite=overwrite)
        require_room(chosen, frames, output)
        writers.append(create(output, opened, frames, chosen, stamped, overwrite))
        return chosen

    with Stop() as stop:
        try:
            settled = ranks.alone(begin)
            if settled is None:
                say(f"{output}: the forecast is complete already", quiet=quiet)
                return output
            with writers[0] if ranks.first else store.Writer(output) as writer:
                _fill(_Filling(writer, forecaster, Truth.of(opened, frames), settled, stop), ranks, quiet)
                ranks.alone(writer.finish)
        except ResourceError:
            if stop.requested and ranks.size > 1:  # all were told to stop, and another was quicker
                stop.exit()
            raise
    return output


def open_truth(data: Path, forecaster: Forecaster, context: int) -> tuple[Any, Frames]:
    """Open a dataset and the frames of it that `forecaster` works on. DataError when they disagree."""
    opened = store.open_dataset(data, chunks=None)
    frames = Frames(opened, forecaster.variables or frame_variables(opened))
    check(forecaster, opened, frames, context)
    return opened, frames


def check(forecaster: Forecaster, dataset: Any, frames: Frames, context: int) -> None:
    """Raise DataError or UsageError when `forecaster` cannot start from `context` frames of `dataset`."""
    require_context(forecaster.method, forecaster.needs, context)
    forecaster.check(dataset, frames)


def estimate(forecaster: Forecaster, opened: Any, frames: Frames, chosen: Plan, processes: int = 1) -> dict[str, Any]:
    """What a forecast would do and take, for --dry-run; draws a few frames to know."""
    tried = trial(forecaster, Truth.of(opened, frames), chosen)
    portions = len(chosen.groups()) * len(chosen.member_chunks())
    return {
        "method": forecaster.method,
        "trajectories": list(chosen.trajectories),
        "init_times": list(chosen.init_times),
        "cases": len(chosen.cases),
        "members": chosen.members,
        "lead": chosen.lead,
        "context": chosen.context,
        "seed": chosen.seed,
        "portions": f"{portions} of up to {chosen.cases_per_batch} cases x {chosen.members_per_batch} members",
        "leads_per_chunk": chosen.leads_per_chunk,
        "processes": processes,
        "disk": size(chosen.nbytes(frames)),
        "memory": size(tried.memory + COPIES * chosen.block_bytes(frames)),
        **({"gpu_memory": size(tried.gpu_memory)} if tried.gpu_memory else {}),
        "time": duration(tried.seconds * -(-portions // processes)),
        "measured_on": tried.on,
        **forecaster.stamp(),
    }


class _Filling:
    """A store being filled: which portions are left, and how one is written."""

    def __init__(self, writer: store.Writer, forecaster: Forecaster, truth: Truth, chosen: Plan, stop: Stop):
        self.writer, self.forecaster, self.truth, self.chosen, self.stop = writer, forecaster, truth, chosen, stop
        times = list(enumerate(chosen.init_times))
        self.place = {(k, t): (i, j) for i, k in enumerate(chosen.trajectories) for j, t in times}
        written = np.asarray(writer.array("cases_written")[...])
        self.open = {case for case, at in self.place.items() if written[at] != 1}
        # A whole group is drawn again, not only its open cases: equal batches give equal bits.
        self.groups = [group for group in chosen.groups() if self.open.intersection(group)]
        self.portions = [(n, chunk) for n in range(len(self.groups)) for chunk in chosen.member_chunks()]
        self._shown: tuple[int, Shown] | None = None

    def pause(self) -> None:
        if self.stop.requested:
            self.stop.exit()  # a portion takes long: it is drawn again on resume

    def write(self, number: int, ranks: Ranks) -> None:
        """Draw and write portion `number`; after each chunk of leads, and where there is no such portion, wait."""
        if number >= len(self.portions):
            for _ in range(self.chosen.lead_chunks):
                ranks.barrier()
            return
        n, members = self.portions[number]
        if self._shown is None or self._shown[0] != n:
            self._shown = n, self.truth.show(self.groups[n], self.chosen.context)
        for first, drawn in blocks(self.forecaster, self._shown[1], members, self.chosen, self.pause):
            region = {"member": slice(members.start, members.stop), "lead_time": slice(first, first + drawn.shape[2])}
            for case, values in zip(self.groups[n], drawn, strict=True):
                i, j = self.place[case]
                for name, part in self.truth.frames.split(values):
                    self.writer.write(name, part, trajectory=i, init_time=j, **region)
            ranks.barrier()

    def complete(self, first: int, stop: int) -> list[Case]:
        """Cases, not acknowledged before, whose last portion is one of first..stop-1."""
        a, b = (self.portions[k][0] if k < len(self.portions) else len(self.groups) for k in (first, stop))
        return [case for group in self.groups[a:b] for case in group if case in self.open]


def _fill(filling: _Filling, ranks: Ranks, quiet: bool) -> None:
    """Write the portions that are left, `ranks.size` at a time, and acknowledge cases when all of theirs are there."""
    total, label = len(filling.place), f"forecast {filling.forecaster.method}"
    with progress(total, label, unit="cases", quiet=quiet, done=total - len(filling.open)) as bar:
        for turn in range(0, len(filling.portions), ranks.size):
            filling.write(turn + ranks.rank, ranks)
            cases = filling.complete(turn, turn + ranks.size)
            for i, j in (filling.place[case] for case in cases if ranks.first):
                filling.writer.mark(trajectory=i, init_time=j)
            bar.advance(len(cases))
            filling.pause()
