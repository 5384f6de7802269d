"""Between a configuration and the solver and the dataset: parameters of each run, checks before it, words after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lbm import console, dataset, sweep, units
from lbm.config import ObstacleConfig, SimulateConfig
from lbm.errors import DataError, UsageError
from lbm.layout import create, masks
from lbm.obstacle_config import bodies

if TYPE_CHECKING:
    from lbm.flow import FlowParameters

__all__ = ["check", "create", "parameters", "require_agreement", "stored_config", "summary"]

SAME = (
    "bulk_viscosity", "length", "sides", "side_velocity", "ends", "startup", "body_force", "collision", "walls",
    "outlet", "sponge_length", "noise_streamwise", "noise_transverse", "noise_time", "seed", "dtype",
)  # fmt: skip
# What other settings are derived from: where it is not said again, it is that of the dataset.
FRAME = ("size", "every", "frames", "trajectories", "sweep", "held_out")
BODIES = {"obstacle", "obstacles", "diameter", "centre", "angle", "spin"}
MAX_WARNINGS = 5  # printed


def parameters(config: SimulateConfig, trajectory: int) -> FlowParameters:
    """The solver's parameters for one trajectory of a resolved configuration (of the whole dataset, or of that run)."""
    from lbm.flow import FlowParameters

    run = config if config._stream is not None else sweep.runs(config)[trajectory]
    same: dict[str, Any] = {name: getattr(run, name) for name in SAME}
    return FlowParameters(
        ny=run.size[0],
        nx=run.size[1],
        viscosity=_known(run.viscosity),
        inflow_velocity=_known(run.inflow_velocity),
        obstacles=bodies(run.obstacles or ()),
        profile=run.inlet,
        lambda_=run.magic,
        trajectory=run._stream or 0,
        **same,
    )


def _known(value: float | None) -> float:
    if value is None:
        raise ValueError("the configuration has open values: call its resolved() first")
    return value


def check(config: SimulateConfig, *, quiet: bool = True) -> list[str]:
    """Refuse unstable settings (`UsageError`); return, and print, warnings about doubtful ones.

    Every combination of a sweep is looked at before the first one runs; the first that cannot work is named.
    """
    # Seeds and repetitions change nothing that could be refused.
    alike = {name: values for name, values in config.sweep.items() if name != "seed"}
    different = config.model_copy(update={"sweep": alike, "held_out": {}, "trajectories": 1})
    found: dict[str, list[int]] = {}
    for k, run in enumerate(sweep.runs(different)):
        for text in _warnings(different, run, k):
            found.setdefault(text, []).append(k)
    warnings = [_with_runs(different, text, where) for text, where in found.items()]
    for text in warnings[:MAX_WARNINGS]:
        console.warn(text, quiet=quiet)
    if len(warnings) > MAX_WARNINGS:
        console.warn(f"{len(warnings) - MAX_WARNINGS} more warnings; --dry-run shows all", quiet=quiet)
    return warnings


def _warnings(config: SimulateConfig, run: SimulateConfig, k: int) -> list[str]:
    from lbm.flow import check_parameters

    try:
        warnings = list(check_parameters(parameters(run, k)))
    except UsageError as error:
        values = sweep.label(sweep.runs(config).values(k))
        raise UsageError(f"{values}: {error}" if values else str(error)) from None
    return warnings + _sampling_warnings(run)


def _with_runs(config: SimulateConfig, text: str, where: list[int]) -> str:
    if not config.sweep:
        return text
    first = sweep.label(sweep.runs(config).values(where[0]))
    more = f" and {len(where) - 1} more" if len(where) > 1 else ""
    return f"{first}{more}: {text}"


def _sampling_warnings(run: SimulateConfig) -> list[str]:
    """Too few frames in a shedding period (of a cylinder of the same length) to follow it."""
    if run.reynolds is None or run.inflow_velocity is None or run.length is None or not run.obstacles:
        return []
    period = units.shedding_period(run.reynolds, run.inflow_velocity, run.length)
    if not period / run.every < 4:  # nan: nothing sheds
        return []
    return [
        f"one shedding period (about {period:.0f} ticks) has only {period / run.every:.1f} frames; "
        f"4 are needed to follow it: lower --every to {max(1, int(period / 4))} or less"
    ]


def stored_config(path: Path) -> SimulateConfig:
    """The resolved configuration a dataset was created with, by this version or an older one. Raises `DataError`."""
    text = dataset.read_attributes(path).get("config")
    try:
        table = json.loads(str(text))
        if isinstance(table, dict) and "forces_every" not in table:  # written before there were forces and these walls
            table |= {"forces_every": 0, "walls": "half-way"}
        return SimulateConfig.model_validate(table).resolved()
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} has no usable simulation settings: {str(error).splitlines()[0]}") from None


def require_agreement(given: SimulateConfig, stored: SimulateConfig, path: Path) -> None:
    """Raise `UsageError` when a setting that was given differs from that of the dataset to resume."""
    _require_same_pictures(stored, path)
    if not given.model_fields_set:
        return
    asked = given.model_fields_set
    frame = {name: getattr(stored, name) for name in FRAME if name not in asked}
    if not asked & BODIES:
        frame["obstacles"] = stored.obstacles
    wanted = given.model_copy(update=frame).resolved()
    for name in sorted(asked):
        recorded = "obstacles" if name in BODIES else name
        ours, theirs = getattr(wanted, recorded), getattr(stored, recorded)
        if ours != theirs and getattr(given, name) is not None:
            raise UsageError(
                f"{path} was begun with {recorded} = {_shown(theirs)}, now it is {_shown(ours)}: resume with the "
                "same settings, or begin anew with --overwrite"
            )


def _require_same_pictures(stored: SimulateConfig, path: Path) -> None:
    """The file of an obstacle that is a picture may have changed since the dataset was begun."""
    if not any(one.shape == "image" for one in stored.obstacles or ()):
        return
    solid = dataset.open_dataset(path, allow_incomplete=True, chunks=None)["solid"].values
    if not np.array_equal(solid, masks(stored)):
        files = sorted({one.file for one in stored.obstacles or () if one.file})
        raise DataError(f"{path} was begun with another picture than {', '.join(files)} is now: put the old one back")


def _shown(value: Any) -> str:
    """A setting as TOML-like text, cut where it is long."""
    plain = [one.model_dump(exclude_defaults=True) for one in value] if _is_obstacles(value) else value
    text = str(plain)
    return text if len(text) <= 120 else text[:117] + "..."


def _is_obstacles(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, ObstacleConfig) for one in value)


def summary(config: SimulateConfig, path: Path, seconds: float) -> str:
    """One line about a finished dataset."""
    ny, nx = config.frame_size or config.size
    counts = ", ".join(f"{config.splits.count(name)} {name}" for name in ("train", "validation", "test"))
    total = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return (
        f"{path}: {config.runs} trajectories ({counts}) of {config.frames} frames {ny}x{nx}, "
        f"{console.size(total)}, took {console.duration(seconds)}"
    )
