"""What `lbm simulate` can be told: one pydantic model, in lattice units (cells, ticks).

Any two of viscosity nu, inflow velocity U and Reynolds number Re = U L / nu give the third.
`SimulateConfig.resolved()` fills in everything left open; its result is what a dataset records. With a sweep, what
depends on a swept parameter stays open there and is filled in run by run, by `lbm.sweep.runs`.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from lbm import sweep as sweeps  # `sweep` is a field here
from lbm.errors import UsageError
from lbm.obstacle_config import Finite, ObstacleConfig, Pair, filled
from lbm.parsing import interval_table, names, numbers, obstacle_tables, pair_of_sizes, sweep_table
from lbm.settings import nearest
from lbm.splits import SPLITS, held_out, split_counts, splits
from lbm.sweep import SWEEPABLE

__all__ = ["SPLITS", "ObstacleConfig", "SimulateConfig", "split_counts"]

DEFAULT_VISCOSITY = 0.01
DEFAULT_VELOCITY = 0.1
FORCE_SHARE = 0.02  # of the frames' bytes: what recording forces may cost unless asked for

Cells = Annotated[int, Field(ge=8)]
Size = Annotated[tuple[Cells, Cells], BeforeValidator(pair_of_sizes)]
FrameSize = Annotated[tuple[int, int], BeforeValidator(pair_of_sizes)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
FieldName = Literal["vorticity", "velocity_x", "velocity_y", "density"]
Obstacles = Annotated[tuple[ObstacleConfig, ...], BeforeValidator(obstacle_tables), Field(max_length=1000)]
Number = int | Finite


class SimulateConfig(BaseModel):
    """Everything that decides the content of a simulated dataset. None means: derived, see `resolved`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    viscosity: Annotated[float, Field(gt=0, le=10, description="shear viscosity nu (cells^2/tick)")] | None = None
    bulk_viscosity: float = Field(
        0.1,
        gt=0,
        le=10,
        description="bulk viscosity nu_b (cells^2/tick), two-dimensional traceless convention: sound decays "
        "as exp(-(nu + nu_b) k^2 t / 2); 10 times nu damps the start-up sound",
    )
    inflow_velocity: Annotated[float, Field(gt=0, le=1, description="mean inflow U (cells/tick)")] | None = None
    reynolds: Annotated[float, Field(gt=0, le=1e9, description="Reynolds number U L / nu")] | None = None
    length: Annotated[float, Field(gt=0, le=1e9)] | None = Field(
        None, description="reference length L of Reynolds number and coefficients (cells); size of the largest obstacle"
    )
    obstacle: Obstacles | None = Field(
        None, description="what stands in the flow: shape, or shape:key=value,.. (several: a list), or none"
    )
    obstacles: Obstacles | None = Field(None, description="the same as a list of tables")
    diameter: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None, description="size of obstacles without one (cells); an eighth of the height, at least 8"
    )
    centre: Pair | None = Field(
        None, description="centre x,y of the obstacle (cells); a quarter of the length, half a cell off the axis"
    )
    angle: Annotated[float, Field(ge=-360, le=360)] | None = Field(
        None, description="angle of obstacles without one (degrees, counter-clockwise); minus the angle of attack"
    )
    spin: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        None, description="rotation of cylinders without one (rad/tick, counter-clockwise)"
    )
    size: Size = Field((128, 128), description="cells NYxNX (height first)")
    frame_size: FrameSize | None = Field(
        None, description="pixels NYxNX of a frame: box-filtered by a whole factor; the size of the grid"
    )
    frames: int = Field(1000, ge=1, description="frames of each trajectory")
    every: int = Field(128, ge=1, le=10**9, description="ticks between frames")
    warmup: Annotated[int, Field(ge=0, le=10**9)] | None = Field(
        None, description="frames left out before the first one; 75 L/U"
    )
    trajectories: Annotated[int, Field(ge=1, le=sweeps.MAX_RUNS)] | None = Field(
        None, description="independent runs (of each combination of a sweep); the counts of --split, else 10 (1)"
    )
    split: Annotated[tuple[Share, Share, Share], BeforeValidator(numbers)] = Field(
        (0.8, 0.1, 0.1), description="train,validation,test: shares that sum to 1, or counts of whole runs"
    )
    sweep: Annotated[dict[str, tuple[Number, ...]], BeforeValidator(sweep_table)] = Field(
        {}, description="lists of parameters; a run for each combination"
    )
    held_out: Annotated[dict[str, tuple[tuple[Finite, Finite], ...]], BeforeValidator(interval_table)] = Field(
        {}, description="ranges [low, high] of parameters whose runs are for testing only"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the start and of the inflow noise")
    fields: Annotated[tuple[FieldName, ...], BeforeValidator(names)] = Field(
        ("vorticity",), min_length=1, description="any of vorticity,velocity_x,velocity_y,density"
    )
    sides: Literal["periodic", "free-slip", "no-slip"] = Field("periodic", description="upper and lower boundary")
    side_velocity: Pair = Field((0.0, 0.0), description="velocity of no-slip sides along x: lower,upper (cells/tick)")
    ends: Literal["open", "periodic", "walls"] = Field(
        "open", description="left and right: inlet and outlet, periodic, or no-slip walls"
    )
    inlet: Literal["uniform", "parabolic"] = Field("uniform", description="profile of the inflow; its mean is U")
    startup: int = Field(0, ge=0, le=10**9, description="ticks in which the inflow rises from rest; 0: starts moving")
    body_force: Pair = Field((0.0, 0.0), description="acceleration x,y of the fluid (cells/tick^2)")
    collision: Literal["mrt", "trt", "bgk", "regularised"] = Field("mrt", description="choice of relaxation rates")
    magic: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="magic parameter (1/s_v - 1/2)(1/s_q - 1/2) of mrt and trt; 3/16: exact half-way walls"
    )
    walls: Literal["interpolated", "half-way"] = Field("interpolated", description="where obstacles' walls lie")
    outlet: Literal["convective", "sponge"] = Field("convective", description="right end where ends are open")
    sponge_length: Annotated[int, Field(ge=1, le=10**9)] | None = Field(
        None, description="cells of the sponge; an eighth of the length"
    )
    noise_streamwise: float = Field(
        0.0, ge=0, le=0.5, description="standard deviation of the streamwise inflow noise, in units of U"
    )
    noise_transverse: float = Field(
        0.0, ge=0, le=0.5, description="standard deviation of the transverse inflow noise, in units of U"
    )
    noise_time: float = Field(300.0, ge=1, le=1e9, description="correlation time of the inflow noise (ticks)")
    forces_every: Annotated[int, Field(ge=0, le=10**9)] | None = Field(
        None, description="ticks between records of drag and lift, a divisor of every; 0: none"
    )
    save_states: int = Field(
        0, ge=0, le=10**9, description="frames between saved states of the solver (for lbm ensemble); 0: none"
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="precision of the populations")

    _stream: int | None = PrivateAttr(None)  # of one run of a dataset: its number among the runs of its seed

    @model_validator(mode="after")
    def _check(self) -> SimulateConfig:
        if len(set(self.fields)) != len(self.fields):
            raise ValueError(f"fields names one twice: {','.join(self.fields)}")
        if self.frame_size is not None:
            (ny, nx), (fy, fx) = self.size, self.frame_size
            if fy < 1 or fx < 1 or ny % fy or nx % fx or ny // fy != nx // fx:
                raise ValueError(f"frame size {fy}x{fx} is not the grid {ny}x{nx} divided by one whole number")
        if self.obstacle is not None and self.obstacles is not None:
            raise ValueError("obstacle and obstacles are both given: leave one of them out")
        if self.forces_every and self.every % self.forces_every:
            near = max(k for k in range(1, min(self.forces_every, self.every) + 1) if self.every % k == 0)
            raise ValueError(f"forces_every {self.forces_every} does not divide every {self.every}: take {near}")
        _check_sweep(self)
        return self

    def resolved(self) -> SimulateConfig:
        """The same configuration with nothing left open. Raises `UsageError` for contradictions."""
        ny, nx = self.size
        swept = frozenset(self.sweep)
        tables = self.obstacles if self.obstacles is not None else self.obstacle
        size = max(8.0, ny / 8)
        obstacles = filled(
            tables if tables is not None else (ObstacleConfig(shape="cylinder"),),
            short={"size": self.diameter, "centre": self.centre, "angle": self.angle, "spin": self.spin},
            defaults={"size": size, "centre": (nx / 4, ny / 2), "angle": 0.0, "spin": 0.0},
            swept=swept,
        )
        update: dict[str, Any] = {"obstacle": None, "obstacles": obstacles, "frame_size": self.frame_size or self.size}
        update |= dict.fromkeys(("diameter", "centre", "angle", "spin"))
        if self.length is None and "length" not in swept and all(one.size is not None for one in obstacles):
            update["length"] = max((one.size for one in obstacles if one.size is not None), default=None)
        update |= _scales_left_open(self, bool(obstacles), swept)
        config = self.model_copy(update=update)
        if not swept & set(sweeps.SCALES):
            known = sweeps.scales(config, {})
            update = {name: None if math.isnan(known[name]) else known[name] for name in sweeps.SCALES[:3]}
            config = config.model_copy(update=update)
        update = {
            "forces_every": 0 if not obstacles else _forces_every(config),
            "warmup": self.warmup if self.warmup is not None else _warmup(config, size),
        }
        return _with_counts(config.model_copy(update=update))

    def text(self) -> str:
        """The configuration as one JSON document, as datasets record it."""
        return json.dumps(self.model_dump(mode="json"))

    @property
    def splits(self) -> list[str]:
        """Name of the split of each trajectory (of a resolved configuration)."""
        return splits(self)

    @property
    def runs(self) -> int:
        """Number of runs (of a resolved configuration): combinations of the sweep x trajectories."""
        return sweeps.combinations(self) * (self.trajectories or 1)


def _check_sweep(config: SimulateConfig) -> None:
    """Names and values of the sweep, each value as the parameter itself would be checked."""
    for name, values in config.sweep.items():
        if name not in SWEEPABLE:
            near = nearest(name, SWEEPABLE)
            hint = f"did you mean {near!r}?" if near else f"choose from {', '.join(SWEEPABLE)}"
            raise ValueError(f"cannot sweep {name!r}: {hint}")
        if len(set(values)) != len(values):
            raise ValueError(f"the sweep of {name} names a value twice: {', '.join(f'{v:g}' for v in values)[:60]}")
        try:
            _list_of(name).validate_python(values)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise ValueError(f"the sweep of {name} holds {problem['input']!r}: {problem['msg'].lower()}") from None
    if sweeps.combinations(config) * (config.trajectories or 1) > sweeps.MAX_RUNS:
        raise ValueError(f"the sweep makes more than {sweeps.MAX_RUNS:,} runs: shorten its lists")
    if config.held_out and not config.sweep:
        raise ValueError("held_out holds out runs of a sweep, and there is none: give --sweep, or use --split")
    for name, ranges in config.held_out.items():
        allowed = [*config.sweep, *(set(sweeps.SCALES[:4]) - set(config.sweep))]
        if name not in allowed:
            raise ValueError(f"held_out names {name!r}, which is not swept: choose from {', '.join(sorted(allowed))}")
        if wrong := [f"{low:g}:{high:g}" for low, high in ranges if not low <= high]:
            raise ValueError(f"held_out {name} {wrong[0]}: wanted low:high")


@lru_cache
def _list_of(name: str) -> TypeAdapter[Any]:
    """Checks a list of values of one parameter, each within the parameter's own bounds."""
    field = SimulateConfig.model_fields[name]
    one: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return TypeAdapter(list[one])


def _scales_left_open(config: SimulateConfig, obstacles: bool, swept: frozenset[str]) -> dict[str, float | None]:
    """viscosity, inflow_velocity and reynolds with defaults where they are free; what is swept is open."""
    given = {n: None if n in swept else getattr(config, n) for n in ("viscosity", "inflow_velocity", "reynolds")}
    known = {name for name in given if given[name] is not None or name in swept}
    if "reynolds" not in known and "viscosity" not in known:
        given["viscosity"] = DEFAULT_VISCOSITY
    if "inflow_velocity" not in known and not {"reynolds", "viscosity"} <= known:
        given["inflow_velocity"] = DEFAULT_VELOCITY
    return given


def _warmup(config: SimulateConfig, default_length: float) -> int:
    """Frames in 75 L/U, of the run that takes longest."""
    relevant = {name: values for name, values in config.sweep.items() if name in sweeps.SCALES}
    if not relevant:
        passages = [(config.length, config.inflow_velocity)]
    else:
        part = config.model_copy(update={"sweep": relevant, "trajectories": 1})
        passages = list(
            zip(*(sweeps.column(part, name).tolist() for name in ("length", "inflow_velocity")), strict=True)
        )
    times = [(default_length if not length or math.isnan(length) else length) / (u or 1.0) for length, u in passages]
    return math.ceil(min(75 * max(times) / config.every, 1e9))


def _forces_every(config: SimulateConfig) -> int:
    """Every tick where drag and lift then take little beside the frames, else as often as they may."""
    if config.forces_every is not None:
        return config.forces_every
    ny, nx = config.frame_size or config.size
    most = FORCE_SHARE * 4 * ny * nx * len(config.fields) / (8 * len(config.obstacles or ()))
    divisors = [k for k in range(1, min(config.every, 10_000) + 1) if config.every % k == 0]
    return next((k for k in divisors if config.every / k <= most), config.every)


def _with_counts(config: SimulateConfig) -> SimulateConfig:
    """Trajectories and split as whole numbers. Raises `UsageError`."""
    if not config.sweep:
        counts = split_counts(config.split, config.trajectories)
        return config.model_copy(update={"trajectories": sum(counts), "split": tuple(map(float, counts))})
    config = config.model_copy(update={"trajectories": config.trajectories or 1})
    inside = held_out(config)
    for name, ranges in config.held_out.items():
        values = sweeps.column(config, name)
        for low, high in ranges:
            if not ((values >= low) & (values <= high)).any():
                raise UsageError(
                    f"held_out {name} {low:g}:{high:g} holds out nothing: the sweep has {name} "
                    f"{values.min():g} to {values.max():g}"
                )
    free = int((~inside).sum())
    counts = split_counts(config.split, free, "the sweep leaves") if free else (0, 0, 0)
    return config.model_copy(update={"split": tuple(map(float, counts))})
