"""What a study would still do, and about how long that takes: `rvdflow study --list` and `--dry-run`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from lbm.console import duration
from rvdflow import checkpoint
from rvdflow.frames import Frames
from rvdflow.study import Workplace, outcome
from rvdflow.study_config import kind_of, run_config, sampler_config
from rvdflow.study_jobs import Job
from rvdflow.study_make import weights_at
from rvdflow.train_config import RunConfig
from rvdflow.training_data import condition_names

PROBED = 8  # members whose drawing is timed


def listing(place: Workplace, todo: Sequence[Job], *, times: bool) -> dict[str, Any]:
    """Every job with what it is, whether it is done, and (with `times`) seconds of training and of drawing left.

    Times come from cells that are done; for others a step is timed on this machine, with weights that mean nothing.
    What cannot be told, such as the time of a reference, is None and left out of the sum.
    """
    rows = []
    for job in todo:
        state = outcome(place, job)
        row: dict[str, Any] = {"job": job.name, "what": kind_of(job.cell), "state": state}
        if times and state in ("begun", "to do"):
            row |= {"training_s": _training(place, job), "forecast_s": _drawing(place, job)}
        rows.append(row)
    cases = place.cases
    found: dict[str, Any] = {
        "jobs": rows,
        "cases": len(cases.cases),
        "runs": len(cases.trajectories),
        "members": cases.members,
        "lead": cases.lead,
    }
    if times:
        found["seconds_left"] = round(sum(row.get(k) or 0.0 for row in rows for k in ("training_s", "forecast_s")), 1)
    return found


def text(found: dict[str, Any]) -> str:
    """`listing` for people."""
    rows = [[row["job"], row["state"], _times(row), row["what"]] for row in found["jobs"]]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
    left = [row for row in found["jobs"] if row["state"] in ("begun", "to do")]
    lines.append(
        f"{len(left)} of {len(rows)} to do; {found['cases']} cases of {found['runs']} runs, "
        f"{found['members']} members, {found['lead']} leads"
    )
    if "seconds_left" in found:
        lines.append(f"about {duration(found['seconds_left'])} on this machine, references not counted")
    return "\n".join(lines)


def _times(row: dict[str, Any]) -> str:
    known = [(name, row.get(f"{name}_s")) for name in ("training", "forecast")]
    return ", ".join(f"{name} {duration(seconds)}" for name, seconds in known if seconds)


def _training(place: Workplace, job: Job) -> float | None:
    """Seconds of training that a job has before it."""
    from rvdflow.estimate import estimate

    budget = place.study.budget
    if job.cell.kind != "trained" or budget is None:
        return None
    if budget.minutes is not None:
        return 60 * budget.minutes
    for seed in place.study.seeds:
        minutes = ((place.folder.record(Job(job.cell, seed)) or {}).get("training") or {}).get("minutes")
        if minutes:
            return round(60 * minutes, 1)
    config = run_config(place.study, job.cell, job.seed or 0)
    return config.train.steps * float(estimate(place.data, config)["seconds_per_step_on_this_cpu_at_most"])


def _drawing(place: Workplace, job: Job) -> float | None:
    """Seconds that the forecast of a job takes."""
    frames = len(place.cases.cases) * place.cases.members * place.cases.lead
    for seed in (None, *place.study.seeds):
        seconds = ((place.folder.record(Job(job.cell, seed)) or {}).get("forecast") or {}).get("seconds")
        if seconds:
            return round(seconds * frames, 1)
    if weights_at(place, job) is None or job.cell.method is not None:
        return None  # quick
    return round(_probe(place, job) * frames, 1)


def _probe(place: Workplace, job: Job) -> float:
    """Seconds of a frame of a member, from one step of an untrained network of the same shape."""
    import torch

    from rvdflow.build import build_model
    from rvdflow.device import choose_device, choose_threads
    from rvdflow.networks import Given

    choose_threads(place.threads)
    device = choose_device(place.device)
    cell = place.study.cell(job.cell.weights or job.cell.name)
    if cell.run is None:
        config = run_config(place.study, cell, job.seed or 0)
    else:
        config = RunConfig.model_validate(checkpoint.read(checkpoint.find(cell.run)).meta["config"])
    shape = Frames(place.opened, config.train.variables or place.variables).frame_shape
    model: Any = build_model(config, shape).to(device).eval()
    sampler = sampler_config(model.sampler, job.cell) if job.cell.sampler else model.sampler
    given = Given(
        torch.ones(1, 1, *shape[1:], device=device), torch.zeros(1, len(condition_names(config)), device=device)
    )

    def noise(of: tuple[int, ...] = shape) -> torch.Tensor:
        return torch.randn(PROBED, *of, device=device)

    with torch.inference_mode():
        state = model.encode(torch.zeros(1, place.cases.context, *shape, device=device), given)
        state = model.repeat(state, PROBED)
        for _ in range(model.block):  # once all that is computed at one go, untimed
            _, state = model.step(state, noise, sampler)
        began = time.perf_counter()
        for _ in range(model.block):
            _, state = model.step(state, noise, sampler)
        if device.type == "cuda":
            torch.cuda.synchronize()
    each = (time.perf_counter() - began) / (PROBED * model.block)
    return each if model.stochastic else each / place.cases.members  # which draws one member
