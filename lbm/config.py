"""What `lbm simulate` can be told: one flat pydantic model, in lattice units (cells, ticks).

Any two of viscosity nu, inflow velocity U and Reynolds number Re = U D / nu give the third.
`SimulateConfig.resolved()` fills in everything left open; its result is what a dataset records.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lbm import units
from lbm.errors import UsageError

SPLITS = ("train", "validation", "test")
DEFAULT_VISCOSITY = 0.01
DEFAULT_VELOCITY = 0.1
DEFAULT_TRAJECTORIES = 10


def _pair_of_sizes(value: Any) -> Any:
    if isinstance(value, str):
        parts = value.lower().split("x")
        if len(parts) != 2 or not all(part.strip().isdecimal() and len(part) < 19 for part in parts):
            raise ValueError("wanted NYxNX, height first, such as 64x128")
        return tuple(int(part) for part in parts)
    return value


def _numbers(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            raise ValueError("wanted numbers separated by commas") from None
    return value


def _names(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


Cells = Annotated[int, Field(ge=8)]
Size = Annotated[tuple[Cells, Cells], BeforeValidator(_pair_of_sizes)]
FrameSize = Annotated[tuple[int, int], BeforeValidator(_pair_of_sizes)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
FieldName = Literal["vorticity", "velocity_x", "velocity_y", "density"]


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
    reynolds: Annotated[float, Field(gt=0, le=1e9, description="Reynolds number U D / nu")] | None = None
    obstacle: Literal["cylinder", "none"] = Field("cylinder", description="what stands in the flow")
    diameter: Annotated[float, Field(gt=0, description="diameter D (cells); an eighth of the height")] | None = None
    centre: Annotated[tuple[Finite, Finite], BeforeValidator(_numbers)] | None = Field(
        None, description="centre x,y of the obstacle (cells); a quarter of the length, half a cell off the axis"
    )
    size: Size = Field((128, 128), description="cells NYxNX (height first)")
    frame_size: FrameSize | None = Field(
        None, description="pixels NYxNX of a frame: box-filtered by a whole factor; the size of the grid"
    )
    frames: int = Field(1000, ge=1, description="frames of each trajectory")
    every: int = Field(128, ge=1, le=10**9, description="ticks between frames")
    warmup: Annotated[int, Field(ge=0, le=10**9)] | None = Field(
        None, description="frames left out before the first one; 75 D/U"
    )
    trajectories: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="independent runs; the sum of --split when it counts them, else 10"
    )
    split: Annotated[tuple[Share, Share, Share], BeforeValidator(_numbers)] = Field(
        (0.8, 0.1, 0.1), description="train,validation,test: shares that sum to 1, or counts of whole runs"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the start and of the inflow noise")
    fields: Annotated[tuple[FieldName, ...], BeforeValidator(_names)] = Field(
        ("vorticity",), min_length=1, description="any of vorticity,velocity_x,velocity_y,density"
    )
    sides: Literal["periodic", "free-slip"] = Field("periodic", description="upper and lower boundary")
    noise_streamwise: float = Field(
        0.0, ge=0, le=0.5, description="standard deviation of the streamwise inflow noise, in units of U"
    )
    noise_transverse: float = Field(
        0.0, ge=0, le=0.5, description="standard deviation of the transverse inflow noise, in units of U"
    )
    noise_time: float = Field(300.0, ge=1, le=1e9, description="correlation time of the inflow noise (ticks)")
    dtype: Literal["float32", "float64"] = Field("float32", description="precision of the populations")

    @model_validator(mode="after")
    def _check(self) -> SimulateConfig:
        if len(set(self.fields)) != len(self.fields):
            raise ValueError(f"fields names one twice: {','.join(self.fields)}")
        if self.frame_size is not None:
            (ny, nx), (fy, fx) = self.size, self.frame_size
            if fy < 1 or fx < 1 or ny % fy or nx % fx or ny // fy != nx // fx:
                raise ValueError(f"frame size {fy}x{fx} is not the grid {ny}x{nx} divided by one whole number")
        return self

    def resolved(self) -> SimulateConfig:
        """The same configuration with nothing left open. Raises `UsageError` for contradictions."""
        ny, nx = self.size
        diameter = self.diameter if self.diameter is not None else max(8.0, ny / 8)
        viscosity, velocity, reynolds = _similarity(self, diameter)
        counts = split_counts(self.split, self.trajectories)
        warmup = math.ceil(75 * diameter / velocity / self.every)
        return self.model_copy(
            update={
                "diameter": diameter,
                "centre": self.centre if self.centre is not None else (nx / 4, ny / 2),
                "viscosity": viscosity,
                "inflow_velocity": velocity,
                "reynolds": reynolds,
                "frame_size": self.frame_size or self.size,
                "warmup": self.warmup if self.warmup is not None else warmup,
                "trajectories": sum(counts),
                "split": tuple(float(count) for count in counts),
            }
        )

    def text(self) -> str:
        """The configuration as one JSON document, as datasets record it."""
        return json.dumps(self.model_dump(mode="json"))

    @property
    def splits(self) -> list[str]:
        """Name of the split of each trajectory (of a resolved configuration)."""
        return [name for name, count in zip(SPLITS, self.split, strict=True) for _ in range(int(count))]


def _similarity(config: SimulateConfig, diameter: float) -> tuple[float, float, float | None]:
    """(viscosity, inflow velocity, Reynolds number); Reynolds is None without an obstacle."""
    nu, velocity, reynolds = config.viscosity, config.inflow_velocity, config.reynolds
    if config.obstacle == "none":
        if reynolds is not None:
            raise UsageError("--reynolds needs an obstacle, its length is D: give --viscosity instead")
        return nu or DEFAULT_VISCOSITY, velocity or DEFAULT_VELOCITY, None
    if reynolds is None:
        nu, velocity = nu or DEFAULT_VISCOSITY, velocity or DEFAULT_VELOCITY
        return nu, velocity, units.reynolds(velocity, diameter, nu)
    if nu is not None and velocity is not None:
        implied = units.reynolds(velocity, diameter, nu)
        if not math.isclose(implied, reynolds, rel_tol=1e-3):
            raise UsageError(
                f"--reynolds {reynolds:g} contradicts viscosity {nu:g}, inflow velocity {velocity:g} and "
                f"diameter {diameter:g}, which give {implied:.4g}: leave one of them out"
            )
        return nu, velocity, reynolds
    if nu is not None:
        return nu, reynolds * nu / diameter, reynolds
    velocity = velocity or DEFAULT_VELOCITY
    return units.viscosity_for(reynolds, velocity, diameter), velocity, reynolds


def split_counts(split: tuple[float, float, float], trajectories: int | None) -> tuple[int, ...]:
    """Runs in (train, validation, test) from shares or counts. Raises `UsageError`.

    Every share above zero gets a run while there are any, in the order train, test, validation; the
    rest goes one by one to where most is missing.
    """
    total = sum(split)
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        if any(part != int(part) for part in split):
            raise UsageError(f"--split {_joined(split)}: wanted shares that sum to 1 (0.8,0.1,0.1) or counts (12,2,2)")
        if trajectories is not None and total != trajectories:
            raise UsageError(f"--split {_joined(split)} counts {total:g} runs, --trajectories says {trajectories}")
        if total < 1:
            raise UsageError("--split 0,0,0 leaves no runs")
        return tuple(int(part) for part in split)
    number = trajectories if trajectories is not None else DEFAULT_TRAJECTORIES
    counts = [0, 0, 0]
    for index in (0, 2, 1):
        if split[index] > 0 and sum(counts) < number:
            counts[index] = 1
    counts = [max(count, int(number * part)) for count, part in zip(counts, split, strict=True)]
    while sum(counts) > number:  # a guaranteed run was taken from the largest share
        counts[counts.index(max(counts))] -= 1
    for _ in range(number - sum(counts)):
        deficits = [number * part - count for part, count in zip(split, counts, strict=True)]
        counts[deficits.index(max(deficits))] += 1
    return tuple(counts)


def _joined(split: tuple[float, ...]) -> str:
    return ",".join(f"{part:g}" for part in split)
