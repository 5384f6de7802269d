"""The store of a perfect-model ensemble: dimensions, coordinates and attributes as every method writes them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lbm import console, dataset
from lbm.ensemble_plan import Plan, Truth
from lbm.errors import DataError, ResourceError, UsageError

if TYPE_CHECKING:
    import xarray as xr

METHOD = "perfect-model"
DIMS = ("trajectory", "init_time", "member", "lead_time", "y", "x")


def create(output: Path, truth: Truth, plan: Plan, attrs: Mapping[str, Any], overwrite: bool) -> dataset.Writer:
    chunks = (1, 1, plan.portion, plan.lead, *plan.frame_size)
    variables = {
        name: dataset.Variable(DIMS, "float32", _kept(truth.opened[name]), chunks=chunks) for name in plan.fields
    }
    lengths = (len(plan.trajectories), len(plan.init_times), plan.members, plan.lead, *plan.frame_size)
    init, leads, frames = np.array(plan.init_times), np.arange(1, plan.lead + 1), {"units": "frames"}
    coords: dict[str, dataset.Coordinate] = {
        "trajectory": ("trajectory", np.array(plan.trajectories), {"long_name": "trajectory of the truth"}),
        "init_time": ("init_time", init, {"long_name": "frame of the state it starts from", **frames}),
        "member": ("member", np.arange(plan.members), {"long_name": "ensemble member"}),
        "lead_time": ("lead_time", leads, {"long_name": "frames ahead", **frames}),
        "valid_time": (("init_time", "lead_time"), init[:, None] + leads, {"long_name": "frame forecast", **frames}),
    }
    return dataset.create(
        output,
        variables=variables,
        coords=coords,
        sizes=dict(zip(DIMS, lengths, strict=True)),
        attrs=attrs,
        overwrite=overwrite,
    )


def _kept(array: xr.DataArray) -> dict[str, Any]:
    return {name: value for name, value in array.attrs.items() if name in ("units", "long_name", "standard_name")}


def attributes(truth: Truth, plan: Plan) -> dict[str, Any]:
    """As those of any forecast. No dates: equal input, equal store."""
    return {
        "title": "Perfect-model ensemble: the solver continued from its own states",
        "source": "lbm ensemble",
        "method": METHOD,
        "deterministic": False,
        "members": plan.members,
        "seed": plan.seed,
        "context": 0,
        "perturb": plan.perturb,
        "noise": "new" if plan.noise else "of the truth",
        "config": json.dumps(plan.settings(), sort_keys=True),
        "frame_interval": truth.opened.attrs.get("frame_interval"),
        "frame_interval_units": truth.opened.attrs.get("frame_interval_units"),
        **dataset.provenance(),
        "dataset_sha256": dataset.digest(truth.path),
    }


def require_agreement(output: Path, attrs: Mapping[str, Any]) -> None:
    """Raise `UsageError` when an unfinished ensemble was begun with other settings."""
    there = dataset.read_attributes(output)
    try:
        before = json.loads(str(there["config"])) | {"dataset_sha256": there["dataset_sha256"]}
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{output} is not an unfinished ensemble: nothing to resume") from error
    now = json.loads(attrs["config"]) | {"dataset_sha256": attrs["dataset_sha256"]}
    for name, wanted in now.items():
        if before.get(name) != wanted:
            was, is_now = (str(value)[:60] for value in (before.get(name), wanted))
            raise UsageError(f"{output} was begun with {name} {was}, now {is_now}: resume with the same settings")


def require_room(plan: Plan, output: Path) -> None:
    from lbm.estimate import available_memory

    portion = 4 * plan.portion * plan.lead * len(plan.fields) * math.prod(plan.frame_size)
    for what, need, free in (
        ("disk", plan.nbytes, shutil.disk_usage(output.parent).free),
        ("memory", 3 * portion, available_memory()),
    ):
        if need > free:
            raise ResourceError(
                f"{output}: the ensemble takes about {console.size(need)} of {what}, {console.size(free)} are free: "
                "lower --members or --lead, or give fewer init times"
            )
