"""The perfect-model ensemble: the solver forecasts itself, from its own states, without its own luck.

    flow.zarr with saved states  ->  forecast.zarr, as any forecasting method writes it

A member continues a state of the truth with other inflow noise after it, with a disturbed state, or both. No method can
know more than the state and the law, so the score of this ensemble is the floor under every other; truth and members
are draws from one distribution, so its spread-skill ratio is 1. For disturbed states that takes two draws: the centre
of the ensemble is itself off the truth by one disturbance, and every member is off the centre by another.

Everything random is a pure function of (seed, trajectory, init_time, member). Members run in threads; a few cases are
in memory at a time, and a case is acknowledged after its last member is on disk.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lbm import console, dataset, ensemble_store, perturbation
from lbm.ensemble_plan import Plan, Truth
from lbm.errors import NumericalError, UsageError

if TYPE_CHECKING:
    from lbm.flow import FlowParameters, Simulation

SLICE = 4e7  # cell updates between two looks at the stop flag: about a tenth of a second
CENTRE = 2**32  # in place of a member: the disturbance that all members share


def ensemble(
    data: Path | str,
    output: Path | str,
    *,
    members: int = 32,
    lead: int = 16,
    init_times: Sequence[int] | None = None,
    split: str | None = "test",
    perturb: float = 0.0,
    noise: bool = True,
    seed: int = 0,
    threads: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Forecast the dataset `data` by the solver that made it, into the store `output`; returns `output`.

    Every trajectory of `split` (or "all") is forecast `lead` frames ahead from every saved state that has so many
    frames after it, or from the `init_times` among them. With `noise` a member has inflow noise of its own after the
    state; `perturb` disturbs the states, see `lbm.perturbation`, with a root mean square velocity of so many U.
    `threads` members run at the same time (default: one per core), to the same bits; `resume` completes an unfinished
    `output`. Raises `UsageError` (settings that make no ensemble, the output exists), `DataError` (the dataset has no
    states, or is damaged), `NumericalError` (a member diverges), `ResourceError` (too large).
    """
    from lbm.estimate import cores

    data, output = Path(data), Path(output)
    threads = threads if threads is not None else cores()
    if threads < 1:
        raise UsageError(f"--threads {threads}: at least one is needed")
    if data.exists() and output.exists() and output.samefile(data):
        raise UsageError(f"{output} is the dataset to forecast: choose another output")
    truth = Truth(data)
    plan = truth.plan(members, lead, init_times, split, perturb, noise, seed)
    attributes = ensemble_store.attributes(truth, plan)
    if resume and output.exists():
        ensemble_store.require_agreement(output, attributes)
        if dataset.read_attributes(output).get("complete") is True:
            console.say(f"{output} is already complete", quiet=quiet)
            return output
        writer = dataset.resume(output)
    else:
        dataset.check_output(output, overwrite=overwrite)
        ensemble_store.require_room(plan, output)
        writer = ensemble_store.create(output, truth, plan, attributes, overwrite)
    with writer:
        _fill(writer, truth, plan, threads, quiet)
        writer.finish()
    return output


# ------------------------------------------------------------------ one member


def member_seed(seed: int, trajectory: int, init_time: int, member: int) -> int:
    """Seed of the inflow noise of a member."""
    return int(np.random.SeedSequence((seed, trajectory, init_time, member)).generate_state(1, np.uint64)[0] >> 1)


def disturbed(
    simulation: Simulation, state: Mapping[str, np.ndarray], amplitude: float, key: tuple[int, int, int, int]
) -> dict[str, np.ndarray]:
    """The state a member starts from: the truth's, off by the disturbance of the centre and by its own.

    `key` is (seed, trajectory, init_time, member).
    """
    change = np.zeros((2, *simulation.solid.shape))
    for who in (CENTRE, key[3]):
        rng = np.random.default_rng(np.random.SeedSequence((*key[:3], who, 1)))
        change += perturbation.momentum(simulation.parameters, simulation.solid, amplitude, rng)
    return {**state, "populations": perturbation.disturb(state["populations"], change)}


def continued(
    simulation: Simulation,
    state: Mapping[str, np.ndarray],
    plan: Plan,
    *,
    seed: int,
    halt: threading.Event | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Frames (name -> (y, x) float32) at leads 1, 2, ... after a state, the noise being that of `seed`.

    Ends early at `halt`. Raises `NumericalError`.
    """
    simulation.restore(state, seed=seed)
    part = max(1, int(SLICE / simulation.solid.size))
    for frame in range(1, plan.lead + 1):
        target = int(state["tick"]) + frame * plan.every
        while simulation.tick < target:
            if halt is not None and halt.is_set():
                return
            simulation.advance(min(part, target - simulation.tick))
        simulation.check()
        yield simulation.fields(plan.fields, plan.frame_size)


class _Solvers(threading.local):
    """The simulation of this thread: making one takes as long as a few hundred ticks."""

    flow: FlowParameters | None = None
    simulation: Simulation

    def get(self, flow: FlowParameters) -> Simulation:
        from lbm.flow import Simulation

        if flow != self.flow:
            self.flow, self.simulation = flow, Simulation(flow)
        return self.simulation


# ------------------------------------------------------------------ all members


@dataclass
class _Portion:
    """Some members of one case on their way: `values` (name -> (member, lead_time, y, x)) fill while `jobs` run."""

    case: tuple[int, int]
    members: range
    values: dict[str, np.ndarray]
    jobs: list[Future[None]]


def _fill(writer: dataset.Writer, truth: Truth, plan: Plan, threads: int, quiet: bool) -> None:
    """Run and write every case that is not acknowledged."""
    written = np.asarray(writer.array("cases_written")[...]) == 1
    cases = [(k, t) for k in plan.trajectories for t in plan.init_times]
    left = [case for case, done in zip(cases, written.ravel(), strict=True) if not done]
    halt, ahead = threading.Event(), max(1, 2 * threads // plan.portion)
    with (
        console.Stop() as stop,
        console.progress(len(cases), "ensemble", unit="cases", quiet=quiet, done=len(cases) - len(left)) as bar,
        ThreadPoolExecutor(threads) as pool,
    ):
        under_way: deque[_Portion] = deque()
        try:
            for portion in _portions(truth, plan, left, pool, halt):
                under_way.append(portion)
                if len(under_way) > ahead:
                    _finish(under_way.popleft(), writer, plan, bar, stop)
            while under_way:
                _finish(under_way.popleft(), writer, plan, bar, stop)
        finally:
            halt.set()
            pool.shutdown(cancel_futures=True)


def _portions(
    truth: Truth, plan: Plan, cases: list[tuple[int, int]], pool: ThreadPoolExecutor, halt: threading.Event
) -> Iterator[_Portion]:
    checked, solvers = set[int](), _Solvers()
    for k, t in cases:
        if k not in checked:
            truth.check_state(k, t)
            checked.add(k)
        p, state = truth.parameters(k), truth.state(k, t)
        for first in range(0, plan.members, plan.portion):
            members = range(first, min(first + plan.portion, plan.members))
            shape = (len(members), plan.lead, *plan.frame_size)
            values = {name: np.empty(shape, np.float32) for name in plan.fields}
            jobs = [
                pool.submit(_run, solvers, p, state, plan, (k, t, m), {n: v[i] for n, v in values.items()}, halt)
                for i, m in enumerate(members)
            ]
            yield _Portion((k, t), members, values, jobs)


def _run(
    solvers: _Solvers,
    p: FlowParameters,
    state: Mapping[str, np.ndarray],
    plan: Plan,
    who: tuple[int, int, int],
    rows: Mapping[str, np.ndarray],
    halt: threading.Event,
) -> None:
    """Run member `who` (trajectory, init_time, member) into its `rows` (name -> (lead_time, y, x))."""
    if halt.is_set():
        return
    simulation = solvers.get(p)
    if plan.perturb:
        state = disturbed(simulation, state, plan.perturb, (plan.seed, *who))
    seed = member_seed(plan.seed, *who) if plan.noise else p.seed
    try:
        for frame, fields in enumerate(continued(simulation, state, plan, seed=seed, halt=halt)):
            for name, row in rows.items():
                row[frame] = fields[name]
    except NumericalError as error:
        raise NumericalError(f"member {who[2]} from frame {who[1]} of trajectory {who[0]}: {error}") from error


def _finish(portion: _Portion, writer: dataset.Writer, plan: Plan, bar: console.Progress, stop: console.Stop) -> None:
    """Wait for a portion, write it, and acknowledge its case when it is the last one."""
    pending = set(portion.jobs)
    while pending:
        if stop.requested == signal.SIGINT:
            raise KeyboardInterrupt
        if stop.requested:
            stop.exit()
        done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
        for job in done:
            job.result()
    k, t = portion.case
    place = {"trajectory": plan.trajectories.index(k), "init_time": plan.init_times.index(t)}
    for name, values in portion.values.items():
        writer.write(name, values, **place, member=slice(portion.members.start, portion.members.stop))
    if portion.members.stop == plan.members:
        writer.mark(**place)
        bar.advance()
