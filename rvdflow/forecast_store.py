"""The store a forecast is written to: its layout, its attributes, and what a resumed one must have in common."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from lbm import dataset as store
from lbm.console import size
from lbm.errors import DataError, ResourceError, UsageError
from rvdflow.forecaster import Forecaster
from rvdflow.frames import Frames
from rvdflow.plan import Plan
from rvdflow.windows import free_memory

MEMBER_DIMS = ("trajectory", "init_time", "member", "lead_time", "y", "x")
COPIES = 4  # of what is written at once that are in memory: drawn, checked, compressed, and the method's own


def member_dims(frames: Frames) -> tuple[str, ...]:
    """The dimensions of a forecast of such frames."""
    return (*MEMBER_DIMS[:-2], *(("channel",) if frames.coloured else ()), *MEMBER_DIMS[-2:])


def create(
    output: Path, opened: Any, frames: Frames, chosen: Plan, stamped: dict[str, Any], overwrite: bool
) -> store.Writer:
    """Allocate the store of a whole forecast, one chunk for each portion and some of its leads."""
    frame = (frames.channels,) * frames.coloured + (frames.height, frames.width)
    chunks = (1, 1, chosen.members_per_batch, chosen.leads_per_chunk, *frame)
    dtype = "uint8" if frames.eight_bit else "float32"
    variables = {
        name: store.Variable(member_dims(frames), dtype, kept(opened[name].attrs), chunks=chunks)
        for name in frames.variables
    }
    sizes = {
        "trajectory": len(chosen.trajectories),
        "init_time": len(chosen.init_times),
        "member": chosen.members,
        "lead_time": chosen.lead,
        "channel": frames.channels,
        "y": frames.height,
        "x": frames.width,
    }
    coords = coordinates(chosen, frames)
    return store.create(output, variables=variables, coords=coords, sizes=sizes, attrs=stamped, overwrite=overwrite)


def kept(attrs: Any) -> dict[str, Any]:
    """What a forecast variable keeps of the attributes of its truth."""
    return {name: value for name, value in attrs.items() if name in ("units", "long_name", "standard_name")}


def coordinates(chosen: Plan, frames: Frames) -> dict[str, Any]:
    """Coordinates of the store: {name: (dims, values, attributes)}."""
    init, lead = np.asarray(chosen.init_times), np.arange(1, chosen.lead + 1)
    units = {"units": "frames"}
    channels: dict[str, Any] = (
        {"channel": ("channel", np.array(frames.channel_names), {})} if frames.channel_names else {}
    )
    return {
        "trajectory": ("trajectory", np.asarray(chosen.trajectories), {"long_name": "trajectory of the truth"}),
        "init_time": ("init_time", init, {"long_name": "last frame seen", **units}),
        "member": ("member", np.arange(chosen.members), {"long_name": "ensemble member"}),
        "lead_time": ("lead_time", lead, {"long_name": "frames ahead", **units}),
        "valid_time": (("init_time", "lead_time"), init[:, None] + lead, {"long_name": "frame forecast", **units}),
        **channels,
    }


def attributes(forecaster: Forecaster, opened: Any, chosen: Plan) -> dict[str, Any]:
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
_PORTIONS = ("cases_per_batch", "members_per_batch", "leads_per_chunk")


def resumed(output: Path, stamped: dict[str, Any], chosen: Plan) -> Plan:
    """The plan of an unfinished store: that of the command, in the portions it was begun with."""
    there = store.read_attributes(output)
    try:
        before = json.loads(there["config"])
        portions: dict[str, Any] = {name: int(before[name]) for name in _PORTIONS}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{output} is not an unfinished forecast: nothing to resume") from error
    now = json.loads(json.dumps(stamped)) | json.loads(stamped["config"]) | portions
    old = {**there, **before}
    differing = [name for name in now if name not in _MAY_DIFFER and old.get(name) != now[name]]
    if differing:
        name = min(differing, key=lambda n: isinstance(now[n], list))  # a list of init times follows from the rest
        was, wanted = (str(v)[:60] for v in (old.get(name), now[name]))
        raise UsageError(f"{output} was begun with {name} {was}, now {wanted}: resume with the same settings")
    return replace(chosen, **portions)


def require_room(chosen: Plan, frames: Frames, output: Path) -> None:
    """Refuse what cannot fit before anything is allocated. ResourceError with the estimate."""
    for what, need, free in (
        ("forecast", chosen.nbytes(frames), shutil.disk_usage(output.parent).free),
        ("portion", COPIES * chosen.block_bytes(frames), free_memory()),
    ):
        if need > free:
            where = "disk" if what == "forecast" else "memory"
            raise ResourceError(
                f"{output}: one {what} takes about {size(need)}, the {where} has {size(free)} free: "
                "lower --ensemble, --lead or --cases, or the portions drawn at once"
            )
