"""The dataset of a simulation: its variables, coordinates and attributes, and the checks around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lbm import console, dataset, units
from lbm.config import SimulateConfig
from lbm.errors import DataError, UsageError
from lbm.estimate import chunk_frames

if TYPE_CHECKING:
    from lbm.flow import FlowParameters

UNITS = {
    "vorticity": ("vorticity dv/dx - du/dy", "1/tick"),
    "velocity_x": ("streamwise velocity", "cells/tick"),
    "velocity_y": ("transverse velocity", "cells/tick"),
    "density": ("density", "1"),
}


def parameters(config: SimulateConfig, trajectory: int) -> FlowParameters:
    """The solver's parameters for one trajectory of a resolved configuration."""
    from lbm.flow import FlowParameters

    ny, nx = config.size
    return FlowParameters(
        ny=ny,
        nx=nx,
        viscosity=_known(config.viscosity),
        bulk_viscosity=config.bulk_viscosity,
        inflow_velocity=_known(config.inflow_velocity),
        obstacle=config.obstacle,
        diameter=_known(config.diameter),
        centre=config.centre,
        sides=config.sides,
        noise_streamwise=config.noise_streamwise,
        noise_transverse=config.noise_transverse,
        noise_time=config.noise_time,
        seed=config.seed,
        trajectory=trajectory,
        dtype=config.dtype,
    )


def _known(value: float | None) -> float:
    if value is None:
        raise ValueError("the configuration has open values: call its resolved() first")
    return value


def check(config: SimulateConfig, *, quiet: bool = True) -> list[str]:
    """Refuse unstable settings (`UsageError`); return, and print, warnings about doubtful ones."""
    from lbm.flow import check_parameters

    warnings = list(check_parameters(parameters(config, 0)))
    if config.reynolds is not None and config.inflow_velocity is not None and config.diameter is not None:
        period = units.shedding_period(config.reynolds, config.inflow_velocity, config.diameter)
        if period / config.every < 4:
            warnings.append(
                f"one shedding period (about {period:.0f} ticks) has only {period / config.every:.1f} frames; "
                f"4 are needed to follow it: lower --every to {max(1, int(period / 4))} or less"
            )
    for text in warnings:
        console.warn(text, quiet=quiet)
    return warnings


def stored_config(path: Path) -> SimulateConfig:
    """The resolved configuration a dataset was created with. Raises `DataError`."""
    text = dataset.read_attributes(path).get("config")
    try:
        return SimulateConfig.model_validate(json.loads(str(text))).resolved()
    except ValueError as error:
        raise DataError(f"{path} has no usable simulation settings: {str(error).splitlines()[0]}") from None


def require_agreement(given: SimulateConfig, stored: SimulateConfig, path: Path) -> None:
    """Raise `UsageError` when a setting that was given differs from that of the dataset to resume."""
    if not given.model_fields_set:
        return
    wanted = given.resolved()
    for name in sorted(given.model_fields_set):
        ours, theirs = getattr(wanted, name), getattr(stored, name)
        if ours != theirs and getattr(given, name) is not None:
            raise UsageError(
                f"{path} was begun with {name} = {theirs}, now it is {ours}: resume with the same settings, "
                "or begin anew with --overwrite"
            )


def create(config: SimulateConfig, path: Path, *, overwrite: bool = False) -> dataset.Writer:
    """Allocate the dataset of a resolved configuration. Raises `UsageError`, `ResourceError`."""
    from lbm.flow import Simulation

    runs, frames, (ny, nx) = config.trajectories or 1, config.frames, config.frame_size or config.size
    factor = config.size[0] // ny
    cells = np.asarray(Simulation(parameters(config, 0)).solid, bool)
    # A pixel is solid when all of its cells are: what the others average is partly flow.
    solid = cells.reshape(ny, factor, nx, factor).all(axis=(1, 3))
    chunks = (1, chunk_frames(config), ny, nx)
    variables: dict[str, dataset.Variable] = {
        str(name): dataset.Variable(
            ("trajectory", "time", "y", "x"),
            "float32",
            {"long_name": UNITS[name][0], "units": UNITS[name][1]},
            chunks,
        )
        for name in config.fields
    }
    variables["solid"] = dataset.Variable(
        ("trajectory", "y", "x"),
        "bool",
        {"long_name": "inside the obstacle"},
        (1, ny, nx),
        values=np.broadcast_to(solid, (runs, ny, nx)),
    )
    return dataset.create(
        path,
        variables=variables,
        coords=_coordinates(config),
        sizes={"trajectory": runs, "time": frames, "y": ny, "x": nx},
        attrs={
            "title": f"Flow past {'a cylinder' if config.obstacle == 'cylinder' else 'nothing'} in two dimensions",
            "source": "lattice-Boltzmann simulation (D2Q9, multiple relaxation times)",
            "history": "created by lbm simulate",
            "config": config.text(),
            "frame_interval": config.every,
            "frame_interval_units": "ticks",
            "cells_per_pixel": factor,
            "seed": config.seed,
        },
        overwrite=overwrite,
    )


def _coordinates(config: SimulateConfig) -> dict[str, dataset.Coordinate]:
    runs, frames, warmup = config.trajectories or 1, config.frames, config.warmup or 0

    def table(value: float | None, name: str, unit: str) -> dataset.Coordinate:
        number = np.nan if value is None else value
        return "trajectory", np.full(runs, number), {"long_name": name, "units": unit}

    return {
        "trajectory": ("trajectory", np.arange(runs), {"long_name": "independent run"}),
        "time": ("time", np.arange(frames), {"long_name": "frame"}),
        "tick": (
            "time",
            (warmup + np.arange(frames)) * config.every,
            {"long_name": "lattice step the frame was sampled at", "units": "ticks"},
        ),
        "split": ("trajectory", np.array(config.splits), {"long_name": "what the run is for"}),
        "viscosity": table(config.viscosity, "shear viscosity", "cells^2/tick"),
        "bulk_viscosity": table(config.bulk_viscosity, "bulk viscosity (two-dimensional)", "cells^2/tick"),
        "inflow_velocity": table(config.inflow_velocity, "mean inflow velocity", "cells/tick"),
        "reynolds": table(config.reynolds, "Reynolds number U D / nu", "1"),
        "seed": ("trajectory", np.full(runs, config.seed), {"long_name": "seed; streams differ by trajectory"}),
    }


def summary(config: SimulateConfig, path: Path, seconds: float) -> str:
    """One line about a finished dataset."""
    ny, nx = config.frame_size or config.size
    counts = ", ".join(f"{config.splits.count(name)} {name}" for name in ("train", "validation", "test"))
    total = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return (
        f"{path}: {config.trajectories} trajectories ({counts}) of {config.frames} frames {ny}x{nx}, "
        f"{console.size(total)}, took {console.duration(seconds)}"
    )
