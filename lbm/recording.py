"""The dataset of a simulation: its variables, coordinates and attributes, and the checks around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lbm import console, dataset, sweep, units
from lbm.config import ObstacleConfig, SimulateConfig
from lbm.errors import DataError, UsageError
from lbm.estimate import chunk_frames

if TYPE_CHECKING:
    from lbm.flow import FlowParameters
    from lbm.obstacles import Obstacle

UNITS = {
    "vorticity": ("vorticity dv/dx - du/dy", "1/tick"),
    "velocity_x": ("streamwise velocity", "cells/tick"),
    "velocity_y": ("transverse velocity", "cells/tick"),
    "density": ("density", "1"),
}


# The parameters of each run that are coordinates along `trajectory`, and those that are when they are swept.
ALWAYS = ("viscosity", "bulk_viscosity", "inflow_velocity", "reynolds", "seed")
PARAMETERS = {
    "viscosity": ("shear viscosity", "cells^2/tick"),
    "bulk_viscosity": ("bulk viscosity, two-dimensional traceless convention", "cells^2/tick"),
    "inflow_velocity": ("mean inflow velocity U", "cells/tick"),
    "reynolds": ("Reynolds number U L / nu", "1"),
    "length": ("reference length L", "cells"),
    "diameter": ("size of the obstacle", "cells"),
    "angle": ("angle of the obstacle, counter-clockwise", "degrees"),
    "spin": ("rotation of the obstacle's surface, counter-clockwise", "1/tick"),
    "noise_streamwise": ("standard deviation of the streamwise inflow noise in units of U", "1"),
    "noise_transverse": ("standard deviation of the transverse inflow noise in units of U", "1"),
    "noise_time": ("correlation time of the inflow noise", "ticks"),
    "startup": ("ticks in which the inflow rises from rest", "ticks"),
    "sponge_length": ("length of the sponge at the outlet", "cells"),
    "magic": ("magic parameter of the third-order rate", "1"),
    "seed": ("seed; streams differ by trajectory", None),
}
COLLISIONS = {
    "mrt": "multiple relaxation times", "trt": "two relaxation times", "bgk": "BGK",
    "regularised": "regularised",
}  # fmt: skip
NAMES = {
    "cylinder": ("a cylinder", "cylinders"),
    "ellipse": ("an elliptic cylinder", "elliptic cylinders"),
    "square": ("a square cylinder", "square cylinders"),
    "polygon": ("a polygon", "polygons"),
    "naca": ("an aerofoil", "aerofoils"),
    "image": ("an outline from a picture", "outlines from pictures"),
}
SAME = (
    "bulk_viscosity", "length", "sides", "side_velocity", "ends", "startup", "body_force", "collision", "walls",
    "outlet", "sponge_length", "noise_streamwise", "noise_transverse", "noise_time", "seed", "dtype",
)  # fmt: skip
FORCE_CHUNK = 2**14  # samples of a chunk of forces
MASK_CHUNK = 2**20  # pixels of a chunk of masks
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
        obstacles=bodies(run),
        profile=run.inlet,
        lambda_=run.magic,
        trajectory=run._stream or 0,
        **same,
    )


def bodies(run: SimulateConfig) -> tuple[Obstacle, ...]:
    """The obstacles of one run as the solver takes them."""
    from lbm.obstacles import Obstacle

    return tuple(Obstacle(**one.model_dump()) for one in run.obstacles or ())


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
    wanted = given.resolved()
    for name in sorted(given.model_fields_set):
        recorded = "obstacles" if name in ("obstacle", "diameter", "centre", "angle", "spin") else name
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


def create(config: SimulateConfig, path: Path, *, overwrite: bool = False) -> dataset.Writer:
    """Allocate the dataset of a resolved configuration. Raises `UsageError`, `ResourceError`."""
    runs, frames, (ny, nx) = config.runs, config.frames, config.frame_size or config.size
    variables: dict[str, dataset.Variable] = {
        str(name): dataset.Variable(
            ("trajectory", "time", "y", "x"),
            "float32",
            {"long_name": UNITS[name][0], "units": UNITS[name][1]},
            (1, chunk_frames(config), ny, nx),
        )
        for name in config.fields
    }
    variables["solid"] = dataset.Variable(
        ("trajectory", "y", "x"),
        "bool",
        {"long_name": "inside an obstacle"},
        (max(1, min(runs, MASK_CHUNK // (ny * nx))), ny, nx),
        values=masks(config),
    )
    variables |= force_variables(config) | state_variables(config)
    cells_y, cells_x = config.size
    return dataset.create(
        path,
        variables=variables,
        coords=coordinates(config),
        sizes={
            "trajectory": runs,
            "time": frames,
            "y": ny,
            "x": nx,
            "body": len(config.obstacles or ()),
            "force_time": len(force_ticks(config)),
            "state_time": len(state_frames(config)),
            "q": 9,
            "cell_y": cells_y,
            "cell_x": cells_x,
            "component": 2,
        },
        attrs={
            "title": f"Flow past {_obstacles_in_words(config)} in two dimensions",
            "source": f"lattice-Boltzmann simulation (D2Q9, {COLLISIONS[config.collision]})",
            "history": "created by lbm simulate",
            "config": config.text(),
            "frame_interval": config.every,
            "frame_interval_units": "ticks",
            "cells_per_pixel": config.size[0] // ny,
            "seed": config.seed,
        },
        overwrite=overwrite,
    )


def _obstacles_in_words(config: SimulateConfig) -> str:
    shapes = [one.shape for one in config.obstacles or ()]
    if len(shapes) > 1:
        return f"{len(shapes)} obstacles" if len(set(shapes)) > 1 else f"{len(shapes)} {NAMES[shapes[0]][1]}"
    return NAMES[shapes[0]][0] if shapes else "nothing"


def masks(config: SimulateConfig) -> np.ndarray:
    """Solid pixels of every run, (runs, y, x) bool: a pixel is solid when all of its cells are.

    What the others average is partly flow.
    """
    ny, nx = config.frame_size or config.size
    factor = config.size[0] // ny
    known: dict[object, np.ndarray] = {}
    which: list[np.ndarray] = []
    # Only these move a wall; without them all runs share one mask.
    geometric = bool({"diameter", "angle"} & config.sweep.keys())
    for k in range(0, config.runs if geometric else 1, config.trajectories or 1):
        run = sweep.runs(config)[k]
        if run.obstacles not in known:
            cells = _solid_cells(run).reshape(ny, factor, nx, factor)
            known[run.obstacles] = np.asarray(cells.all(axis=(1, 3)))
        which.append(known[run.obstacles])
    if len(known) == 1:
        return np.broadcast_to(which[0], (config.runs, ny, nx))
    return np.repeat(np.stack(which), config.trajectories or 1, axis=0)


def _solid_cells(run: SimulateConfig) -> np.ndarray:
    from lbm import obstacles

    return obstacles.bodies(bodies(run), *run.size) >= 0


def force_ticks(config: SimulateConfig) -> np.ndarray:
    """Ticks at whose end drag and lift are recorded: from the last frame of the warm-up to the last frame."""
    if not config.forces_every:
        return np.zeros(0, np.int64)
    first = max(0, (config.warmup or 0) - 1) * config.every
    last = ((config.warmup or 0) + config.frames - 1) * config.every
    return np.arange(first + config.forces_every, last + 1, config.forces_every)


def state_frames(config: SimulateConfig) -> np.ndarray:
    """Frames at which the solver's state is saved: 0, save_states, 2 save_states, ..."""
    return np.arange(0, config.frames if config.save_states else 0, max(1, config.save_states))


def force_variables(config: SimulateConfig) -> dict[str, dataset.Variable]:
    """Drag and lift coefficients and what is made of them."""
    if not len(force_ticks(config)):
        return {}
    several = len(config.obstacles or ()) > 1
    dims = ("trajectory", "body", "force_time") if several else ("trajectory", "force_time")
    chunks = (1, *([len(config.obstacles or ())] if several else []), FORCE_CHUNK)
    about = "coefficient 2 F / (U^2 L), during the tick that ends then"
    strouhal = "Strouhal number f L / U of the lift; NaN where nothing sheds"
    return {
        "drag_coefficient": dataset.Variable(dims, "float32", {"long_name": f"drag {about}", "units": "1"}, chunks),
        "lift_coefficient": dataset.Variable(dims, "float32", {"long_name": f"lift {about}", "units": "1"}, chunks),
        "strouhal": dataset.Variable(("trajectory",), "float64", {"long_name": strouhal, "units": "1"}, (1,)),
        "strouhal_uncertainty": dataset.Variable(
            ("trajectory",), "float64", {"long_name": "standard error of the Strouhal number", "units": "1"}, (1,)
        ),
    }


def state_variables(config: SimulateConfig) -> dict[str, dataset.Variable]:
    """What `Simulation.restore` needs, every so many frames."""
    if not config.save_states:
        return {}
    words = {
        "populations": "deviation of the nine populations from their weights",
        "state_outlet": "state of the outlet",
        "state_noise": "value of the inflow noise, in standard deviations",
    }
    each = ("trajectory", "state_time")
    return {
        "populations": dataset.Variable(
            (*each, "q", "cell_y", "cell_x"), config.dtype, {"long_name": words["populations"]}, (1, 1, 9, *config.size)
        ),
        "state_outlet": dataset.Variable(
            (*each, "component"), "float64", {"long_name": words["state_outlet"]}, (1, 1, 2)
        ),
        "state_noise": dataset.Variable(
            (*each, "component"), "float64", {"long_name": words["state_noise"]}, (1, 1, 2)
        ),
    }


def coordinates(config: SimulateConfig) -> dict[str, dataset.Coordinate]:
    """Frames, ticks, splits, and every parameter that may differ between runs."""
    runs, frames, warmup = config.runs, config.frames, config.warmup or 0
    result: dict[str, dataset.Coordinate] = {
        "trajectory": ("trajectory", np.arange(runs), {"long_name": "independent run"}),
        "time": ("time", np.arange(frames), {"long_name": "frame"}),
        "tick": (
            "time",
            (warmup + np.arange(frames)) * config.every,
            {"long_name": "lattice step the frame was sampled at", "units": "ticks"},
        ),
        "split": ("trajectory", np.array(config.splits), {"long_name": "what the run is for"}),
    }
    for name in dict.fromkeys([*ALWAYS, *config.sweep]):
        about, unit = PARAMETERS[name]
        result[name] = (
            "trajectory",
            sweep.column(config, name),
            {"long_name": about} | ({"units": unit} if unit else {}),
        )
    if len(force_ticks(config)):
        about = "lattice step at whose end the force was recorded"
        result["force_time"] = ("force_time", force_ticks(config), {"long_name": about, "units": "ticks"})
        if len(config.obstacles or ()) > 1:
            result["body"] = ("body", np.arange(len(config.obstacles or ())), {"long_name": "obstacle"})
    if config.save_states:
        result["state_time"] = ("state_time", state_frames(config), {"long_name": "frame at which the state was saved"})
    return result


def summary(config: SimulateConfig, path: Path, seconds: float) -> str:
    """One line about a finished dataset."""
    ny, nx = config.frame_size or config.size
    counts = ", ".join(f"{config.splits.count(name)} {name}" for name in ("train", "validation", "test"))
    total = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return (
        f"{path}: {config.runs} trajectories ({counts}) of {config.frames} frames {ny}x{nx}, "
        f"{console.size(total)}, took {console.duration(seconds)}"
    )
