"""The dataset of a simulation: which variables, coordinates and attributes it has, before anything is simulated.

Frames are (trajectory, time, y, x); forces run along their own time, `force_time`; saved states lie on the solver's
cells, which are not the pixels of box-filtered frames. Every parameter that may differ between runs is a coordinate.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lbm import dataset, sweep
from lbm.config import SimulateConfig
from lbm.estimate import chunk_frames
from lbm.obstacle_config import bodies

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
FORCE_CHUNK = 2**14  # samples of a chunk of forces
MASK_CHUNK = 2**20  # pixels of a chunk of masks


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

    return obstacles.bodies(bodies(run.obstacles or ()), *run.size) >= 0


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
