"""Settings of training and of a run: how the weights are found, not what the network is (see rvdflow.config)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, create_model, model_validator

from rvdflow.config import PRESETS, CalibrationConfig, ModelConfig
from rvdflow.methods import METHODS, SIZES, method, preset_names, presets, training

SYSTEMS = ("rvd", *METHODS)


class ValidationConfig(BaseModel):
    """A small ensemble forecast of fixed validation cases, scored by the fair CRPS while training goes on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: int = Field(16, ge=1, description="cases, spread evenly over the validation runs")
    members: int = Field(4, ge=2, description="members per case")
    context: int = Field(4, ge=1, description="context frames")
    lead: int = Field(8, ge=1, description="frames forecast; fewer where the runs are shorter")
    clips: int = Field(64, ge=1, description="clips whose loss is taken besides")


class TrainConfig(BaseModel):
    """How a network is trained. Steps count gradient steps, each on `batch_size` clips."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(4000, ge=1, le=10**8, description="gradient steps; where minutes are given they count instead")
    minutes: float | None = Field(
        None, gt=0, le=10**6, description="time to train, validations and checkpoints included; None: as many as steps"
    )
    batch_size: int = Field(4, ge=1, le=4096, description="clips per step, over all processes")
    accumulate: int = Field(
        1, ge=1, le=4096, description="parts in which each process takes its clips: less memory, the same step"
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="initial weights, order of clips, noise")
    mirror: bool = Field(
        True, description="reflect half of the clips across the flow's axis, where that is a symmetry (rvdflow.mirror)"
    )
    variables: tuple[str, ...] | None = Field(None, description="channels; None takes every frame variable")

    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the networks' arithmetic; weights, averages and losses stay float32. "
        "auto: bfloat16 on a GPU that has it; CPUs without instructions for it are slower with it",
    )
    compile: bool = Field(
        False,
        description="torch.compile the networks: for long trainings on a GPU; on a CPU it takes minutes "
        "and gained nothing",
    )
    checkpoint_activations: bool = Field(
        False, description="compute the insides of blocks again for the gradient instead of keeping them"
    )

    optimiser: Literal["adam", "adamw", "muon"] = Field(
        "muon", description="muon: orthogonalised momentum for convolutions, adamw for the rest (rvdflow.muon)"
    )
    learning_rate: float = Field(2e-3, gt=0, le=1, description="of adam and adamw")
    muon_rate: float = Field(0.02, gt=0, le=1, description="of muon, scaled by the same schedule")
    final_learning_rate: float = Field(0.0, ge=0, le=1, description="where a falling schedule ends")
    schedule: Literal["constant", "cosine", "linear", "drop"] = Field(
        "cosine", description="linear: as in the paper; drop: at drop_step, as in its released code"
    )
    warmup_steps: int = Field(50, ge=0, description="steps over which the rate rises linearly from 0")
    drop_step: int = Field(100_000, ge=0, description="step from which the rate falls, for schedule = drop")
    drop_over: int = Field(8, ge=1, description="steps in which it falls, by the same factor in each")
    weight_decay: float = Field(1e-3, ge=0, le=1)
    betas: tuple[float, float] = (0.9, 0.99)
    gradient_clip: float | None = Field(1.0, gt=0, description="largest norm of the gradient; None: no limit")

    ema_decay: float = Field(0.995, ge=0, lt=1, description="of the averaged weights; 0: the raw ones")
    ema_warmup: float = Field(20.0, ge=0, description="decay at update k is at most k / (k + ema_warmup)")
    ema_start: int = Field(0, ge=0, description="steps before the average begins to differ from the weights")
    ema_every: int = Field(1, ge=1, description="steps between updates of the average")
    forecast_weights: Literal["average", "last"] = Field(
        "average", description="which weights are validated, and kept to forecast with"
    )

    max_bad_steps: int = Field(20, ge=1, description="non-finite steps in a row after which training gives up")
    log_every: int = Field(20, ge=1, description="steps between lines in the log")
    tensorboard: bool = Field(False, description="write the log for TensorBoard, too")
    checkpoint_every: int = Field(200, ge=1, description="steps between checkpoints")
    checkpoint_minutes: float = Field(10.0, gt=0, description="and minutes after which there is one in any case")
    validations: int = Field(
        5, ge=0, description="validations, evenly over the training, the last one at its end; 0: none, as published"
    )

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"betas {self.betas} must lie in [0, 1)")
        if self.variables is not None and not self.variables:
            raise ValueError("variables is empty: name at least one")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} does not divide into accumulate = {self.accumulate} parts")
        return self

    def learning_rate_at(self, progress: float, step: int) -> float:
        """Learning rate of step `step`, counted from 0, after a part `progress` (0 to 1) of the training."""
        base, final = self.learning_rate, self.final_learning_rate
        if self.schedule == "cosine":
            rate = final + (base - final) * 0.5 * (1 + math.cos(math.pi * progress))
        elif self.schedule == "linear":
            rate = base + (final - base) * progress
        elif self.schedule == "drop":
            fallen = min(1.0, max(0.0, (step - self.drop_step) / self.drop_over))
            rate = base * (final / base) ** fallen
        else:
            rate = base
        return rate * min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else rate

    def ema_decay_at(self, step: int) -> float:
        """Decay of the weight average at step `step` (from 0): 0 copies, 1 keeps (no update at this step)."""
        if step < self.ema_start:
            return 0.0
        if (step + 1 - self.ema_start) % self.ema_every:
            return 1.0
        update = (step + 1 - self.ema_start) // self.ema_every
        return min(self.ema_decay, update / (update + self.ema_warmup))


# What the publications and their released code say about training goes with the networks of the same name.
_PUBLISHED: dict[str, Any] = {
    "optimiser": "adam",
    "weight_decay": 0.0,
    "betas": (0.9, 0.999),
    "learning_rate": 5e-5,
    "warmup_steps": 0,
    "gradient_clip": None,
    "precision": "float32",
    "steps": 1_000_000,
    "checkpoint_every": 5000,
    "log_every": 100,
    "validations": 0,
    "mirror": False,
    "forecast_weights": "last",
}
_PAPER = {**_PUBLISHED, "final_learning_rate": 2e-5, "schedule": "linear", "ema_decay": 0.0}
_RELEASED = {
    **_PUBLISHED,
    "final_learning_rate": 1e-5,
    "schedule": "drop",
    "ema_decay": 0.99,
    "ema_warmup": 0.0,
    "ema_start": 2000,
    "ema_every": 5,
}
_BATCH = {"64": 8, "128": 4}
_LARGE: dict[str, Any] = {"batch_size": 16, "steps": 50_000, "ema_decay": 0.999, "checkpoint_every": 1000}
TRAIN_PRESETS: dict[str, dict[str, Any]] = {
    "small": {},
    "one-step": {},
    "modern": _LARGE,
    "modern-one-step": _LARGE,
    **{f"paper-{size}": {**_PAPER, "batch_size": batch} for size, batch in _BATCH.items()},
    **{f"released-{size}": {**_RELEASED, "batch_size": batch} for size, batch in _BATCH.items()},
}


class RunConfig(BaseModel):
    """Everything a run is made of. `preset` fills in whatever is not given; given values win.

    Of a `system` other than residual video diffusion, `model` holds the settings of that method (rvdflow.methods).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str | None = Field(
        None,
        description=f"a named set of settings: {', '.join(PRESETS)}, or SYSTEM-SIZE of sizes {', '.join(SIZES)}",
    )
    system: str = Field("rvd", description=f"what is trained: {', '.join(SYSTEMS)}")
    model: ModelConfig = Field(default_factory=ModelConfig, description="the network and its objective")
    train: TrainConfig = Field(default_factory=TrainConfig, description="how it is trained")
    validation: ValidationConfig = Field(
        default_factory=ValidationConfig, description="the ensemble that judges the weights during training"
    )
    calibration: CalibrationConfig = Field(default_factory=CalibrationConfig, description="spread after training")

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        name, system = values.get("preset"), values.get("system")
        if name is None:
            return values
        if name not in (*PRESETS, *preset_names()):
            known = ", ".join((*PRESETS, *(n for n in preset_names() if system in (None, preset_names()[n]))))
            raise ValueError(f"preset {name!r} is not known: choose one of {known}")
        if system not in (None, preset_names().get(name, "rvd")):
            raise ValueError(
                f"preset {name} is of {preset_names().get(name, 'rvd')}, not of {system}: name one of both"
            )
        return merge(preset(name), values)

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_system(cls, values: Any, handler: ModelWrapValidatorHandler[RunConfig]) -> RunConfig:
        """The configuration with the settings of its system as `model`."""
        if cls is not RunConfig or not isinstance(values, Mapping):
            return handler(values)
        system = values.get("system") or preset_names().get(str(values.get("preset")), "rvd")
        return _config_of(system).model_validate(values) if system in METHODS else handler(values)

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.system not in SYSTEMS:
            raise ValueError(f"system {self.system!r} is not known: choose one of {', '.join(SYSTEMS)}")
        if self.system != "rvd" and self.calibration.cases:
            raise ValueError(f"calibration is of drawn residuals, and {self.system} draws none: leave it out")
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as what it says: classes of methods' configurations are made when they are asked for."""
        return RunConfig.model_validate, (self.model_dump(),)


@cache
def _config_of(system: str) -> type[RunConfig]:
    """The class of configurations of a method."""
    settings = method(system)[0]
    none = CalibrationConfig(cases=0)
    return create_model(
        "RunConfig",
        __base__=RunConfig,
        model=(settings, Field(default_factory=settings, description="the network and its losses")),
        calibration=(CalibrationConfig, Field(none, description="there is none")),
    )


def preset(name: str) -> dict[str, Any]:
    """Settings of a preset as nested dict with the keys of a RunConfig."""
    if name not in PRESETS:
        system = preset_names()[name]
        return {"system": system, "model": presets(system)[name], "train": training(name)}
    published = PRESETS[name].get("architecture") == "published"
    calibration = {"cases": 0} if published else {}  # the published method has none
    return {"model": PRESETS[name], "train": TRAIN_PRESETS.get(name, {}), "calibration": calibration}


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts joined key by key; where both have a value, the one `above` counts."""
    joined = dict(below)
    for key, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(joined.get(key), Mapping)
        joined[key] = merge(joined[key], value) if nested else value
    return joined


def choose_preset(device: str, system: str = "rvd", pixels: int = 64) -> str:
    """The preset of a system where none is asked for: of a size for this kind of device, and of frames of `pixels`."""
    if system in METHODS:
        return f"{system}-{'small' if device == 'cpu' else '64' if pixels <= 64 else '128'}"
    return "small" if device == "cpu" else "modern"
