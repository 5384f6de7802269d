"""Ensemble forecasts: flow.zarr and a forecaster in, forecast.zarr out.

Each portion (see rvdflow.plan) is written before the next is drawn, so memory holds one whatever the size of the
forecast. A group is acknowledged case by case after all its members are on disk; a stopped forecast resumes with
the first unacknowledged group and, noise being a pure function of seed, case and member, ends with the same bits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from lbm import dataset as store
from lbm.console import Stop, progress, say, size
from lbm.errors import DataError, NumericalError, ResourceError, UsageError
from rvdflow.forecaster import Case, Forecaster
from rvdflow.frames import Frames, frame_variables
from rvdflow.plan import Plan, frame_bytes, plan
from rvdflow.windows import free_memory

MEMBER_DIMS = ("trajectory", "init_time", "member", "lead_time", "y", "x")


def read_context(frames: Frames, cases: Sequence[Case], context: int) -> np.ndarray:
    """Frames up to and including init_time: (case, time, channel, y, x). Later frames are not touched."""
    return np.stack([frames.read(k, t - context + 1, t + 1) for k, t in cases])


def draw(
    forecaster: Forecaster, frames: Frames, cases: Sequence[Case], members: Sequence[int], chosen: Plan
) -> np.ndarray:
    """One portion of a forecast: (case, member, lead_time, channel, y, x) float32, physical units.

    Inside obstacles every lead repeats the last frame seen. NumericalError when a value elsewhere is not finite.
    """
    context = read_context(frames, cases, chosen.context)
    solid = frames.solid[[k for k, _ in cases]]
    seen = np.where(solid[:, None, None], np.float32(0), context)
    drawn = forecaster.draw(seen, cases, members, chosen.lead, chosen.seed)
    wanted = (len(cases), len(members), chosen.lead, *frames.frame_shape)
    if drawn.shape != wanted or drawn.dtype != np.float32:
        raise TypeError(f"{forecaster.method} drew {drawn.dtype} {drawn.shape}, wanted float32 {wanted}")
    drawn = np.where(solid[:, None, None, None], context[:, None, None, -1], drawn)
    finite = np.isfinite(drawn) | solid[:, None, None, None]
    if not finite.all():
        case, member, lead = (int(k[0]) for k in np.nonzero(~finite)[:3])
        trajectory, init_time = cases[case]
        raise NumericalError(
            f"{forecaster.method}: member {members[member]} of trajectory {trajectory}, init time {init_time} is not "
            f"finite at lead {lead + 1}: try more --steps, or train longer"
        )
    return drawn


def forecast_in_memory(forecaster: Forecaster, dataset: Any, frames: Frames, chosen: Plan) -> Any:
    """The whole forecast as an xarray.Dataset. ResourceError when it would not fit."""
    import xarray as xr

    if chosen.nbytes(frames) > free_memory() // 2:
        raise ResourceError(f"the forecast takes {size(chosen.nbytes(frames))}: write it to a store instead")
    forecaster.check(dataset, frames)
    groups = [
        np.concatenate([draw(forecaster, frames, group, chunk, chosen) for chunk in chosen.member_chunks()], axis=1)
        for group in chosen.groups()
    ]
    values = np.concatenate(groups)
    values = values.reshape(len(chosen.trajectories), len(chosen.init_times), *values.shape[1:])
    return xr.Dataset(
        {
            name: (MEMBER_DIMS, values[..., i, :, :], _kept(dataset[name].attrs))
            for i, name in enumerate(frames.variables)
        },
        coords={name: xr.Variable(*parts) for name, parts in _coordinates(chosen).items()},
        attrs=_attributes(forecaster, dataset, chosen),
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
    seed: int = 0,
    cases_per_batch: int | None = None,
    members_per_batch: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Forecast the store `data` into the store `output`; options as in `plan`; returns `output`.

    With `resume` an unfinished `output` of the same settings is completed, a finished one left as it is. Raises
    UsageError (output exists, other settings), DataError (data and checkpoint disagree), ResourceError (too large),
    SystemExit 130 or 143 after a signal, once the cases at hand are written.
    """
    opened, frames = open_truth(data, forecaster)
    chosen = plan(
        opened, frames, members=1 if forecaster.deterministic else members, lead=lead, context=context, split=split,
        stride=stride, init_times=init_times, cases=cases, seed=seed, cases_per_batch=cases_per_batch,
        members_per_batch=members_per_batch,
    )  # fmt: skip
    attributes = _attributes(forecaster, opened, chosen) | {"dataset_sha256": store.digest(data)}
    if resume and output.exists():
        chosen = _resumed(output, attributes, chosen)
        if store.read_attributes(output).get("complete") is True:
            say(f"{output}: the forecast is complete already", quiet=quiet)
            return output
        writer = store.resume(output)
    else:
        store.check_output(output, overwrite=overwrite)
        _require_room(chosen, frames, output)
        writer = _create(output, opened, frames, chosen, attributes, overwrite)
    with writer, Stop() as stop:
        _fill(writer, forecaster, frames, chosen, stop, quiet)
        writer.finish()
    return output


def open_truth(data: Path, forecaster: Forecaster) -> tuple[Any, Frames]:
    """Open a dataset and the frames of it that `forecaster` works on. DataError when they disagree."""
    opened = store.open_dataset(data, chunks=None)
    frames = Frames(opened, forecaster.variables or frame_variables(opened))
    forecaster.check(opened, frames)
    return opened, frames


def _fill(writer: store.Writer, forecaster: Forecaster, frames: Frames, chosen: Plan, stop: Stop, quiet: bool) -> None:
    written = np.asarray(writer.array("cases_written")[...])
    place = {(k, t): (i, j) for i, k in enumerate(chosen.trajectories) for j, t in enumerate(chosen.init_times)}
    done = int((written == 1).sum())
    with progress(len(place), f"forecast {forecaster.method}", unit="cases", quiet=quiet, done=done) as bar:
        for group in chosen.groups():
            open_cases = [case for case in group if written[place[case]] != 1]
            if not open_cases:
                continue
            # The whole group is drawn again, not only its open cases: equal batches give equal bits.
            for chunk in chosen.member_chunks():
                drawn = draw(forecaster, frames, group, chunk, chosen)
                for case, values in zip(group, drawn, strict=True):
                    i, j = place[case]
                    for channel, name in enumerate(frames.variables):
                        part = slice(chunk.start, chunk.stop)
                        writer.write(name, values[:, :, channel], trajectory=i, init_time=j, member=part)
                if stop.requested and chunk.stop < chosen.members:
                    stop.exit()  # a group takes long: it is drawn again on resume
            for case in open_cases:
                i, j = place[case]
                writer.mark(trajectory=i, init_time=j)
            bar.advance(len(open_cases))
            if stop.requested:
                stop.exit()


# ------------------------------------------------------------------ the store


def _create(
    output: Path, opened: Any, frames: Frames, chosen: Plan, attributes: dict[str, Any], overwrite: bool
) -> store.Writer:
    chunks = (1, 1, chosen.members_per_batch, chosen.lead, frames.height, frames.width)
    variables = {
        name: store.Variable(MEMBER_DIMS, "float32", _kept(opened[name].attrs), chunks=chunks)
        for name in frames.variables
    }
    sizes = {
        "trajectory": len(chosen.trajectories),
        "init_time": len(chosen.init_times),
        "member": chosen.members,
        "lead_time": chosen.lead,
        "y": frames.height,
        "x": frames.width,
    }
    coords = _coordinates(chosen)
    return store.create(output, variables=variables, coords=coords, sizes=sizes, attrs=attributes, overwrite=overwrite)


def _kept(attrs: Any) -> dict[str, Any]:
    return {name: value for name, value in attrs.items() if name in ("units", "long_name", "standard_name")}


def _coordinates(chosen: Plan) -> dict[str, Any]:
    init, lead = np.asarray(chosen.init_times), np.arange(1, chosen.lead + 1)
    frames = {"units": "frames"}
    return {
        "trajectory": ("trajectory", np.asarray(chosen.trajectories), {"long_name": "trajectory of the truth"}),
        "init_time": ("init_time", init, {"long_name": "last frame seen", **frames}),
        "member": ("member", np.arange(chosen.members), {"long_name": "ensemble member"}),
        "lead_time": ("lead_time", lead, {"long_name": "frames ahead", **frames}),
        "valid_time": (("init_time", "lead_time"), init[:, None] + lead, {"long_name": "frame forecast", **frames}),
    }


def _attributes(forecaster: Forecaster, opened: Any, chosen: Plan) -> dict[str, Any]:
    """What a report must say, and what a resume must find unchanged. No dates: equal input, equal store."""
    settings = asdict(replace(chosen, trajectories=(), init_times=()))
    settings |= {"trajectories": list(chosen.trajectories), "init_times": list(chosen.init_times)}
    return {
        "title": f"Ensemble forecast by {forecaster.method}",
        "source": "rvdflow forecast",
        "method": forecaster.method,
        "deterministic": forecaster.deterministic,
        "members": chosen.members,
        "seed": chosen.seed,
        "context": chosen.context,
        "config": json.dumps(settings, sort_keys=True),
        "frame_interval": opened.attrs.get("frame_interval"),
        "frame_interval_units": opened.attrs.get("frame_interval_units"),
        **store.provenance("torch"),
        **forecaster.stamp(),
    }


_MAY_DIFFER = ("versions", "git_commit", "title", "source", "config")
_PORTIONS = ("cases_per_batch", "members_per_batch")


def _resumed(output: Path, attributes: dict[str, Any], chosen: Plan) -> Plan:
    """The plan of an unfinished store: that of the command, in the portions it was begun with."""
    there = store.read_attributes(output)
    try:
        before = json.loads(there["config"])
        portions: dict[str, Any] = {name: int(before[name]) for name in _PORTIONS}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{output} is not an unfinished forecast: nothing to resume") from error
    now = json.loads(json.dumps(attributes)) | json.loads(attributes["config"]) | portions
    old = {**there, **before}
    differing = [name for name in now if name not in _MAY_DIFFER and old.get(name) != now[name]]
    if differing:
        name = min(differing, key=lambda n: isinstance(now[n], list))  # a list of init times follows from the rest
        was, wanted = (str(v)[:60] for v in (old.get(name), now[name]))
        raise UsageError(f"{output} was begun with {name} {was}, now {wanted}: resume with the same settings")
    return replace(chosen, **portions)


def _require_room(chosen: Plan, frames: Frames, output: Path) -> None:
    """Refuse what cannot fit before anything is allocated. ResourceError with the estimate."""
    one_draw = chosen.cases_per_batch * chosen.members_per_batch * chosen.lead * frame_bytes(frames)
    for what, need, free in (
        ("forecast", chosen.nbytes(frames), shutil.disk_usage(output.parent).free),
        ("draw", 4 * one_draw, free_memory()),
    ):
        if need > free:
            where = "disk" if what == "forecast" else "memory"
            raise ResourceError(
                f"{output}: one {what} takes about {size(need)}, the {where} has {size(free)} free: "
                "lower --ensemble, --lead or --cases, or the portions drawn at once"
            )
