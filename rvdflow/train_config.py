"""Settings of training and of a run: how the weights are found, not what the network is (see rvdflow.config)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rvdflow.config import PRESETS, CalibrationConfig, ModelConfig


class TrainConfig(BaseModel):
    """How a network is trained. Steps count gradient steps, each on `batch_size` clips."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(2000, ge=1, le=10**8, description="gradient steps")
    batch_size: int = Field(8, ge=1, le=4096, description="clips per step")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="initial weights, order of clips, noise")
    variables: tuple[str, ...] | None = Field(None, description="channels; None takes every frame variable")

    optimiser: Literal["adam", "adamw"] = "adamw"
    learning_rate: float = Field(2e-3, gt=0, le=1)
    final_learning_rate: float = Field(0.0, ge=0, le=1, description="where a falling schedule ends")
    schedule: Literal["constant", "cosine", "linear", "drop"] = Field(
        "cosine", description="linear: as in the paper; drop: final rate from drop_step on, as in its released code"
    )
    warmup_steps: int = Field(50, ge=0, description="steps over which the rate rises linearly from 0")
    drop_step: int = Field(100_000, ge=0, description="for schedule = drop")
    weight_decay: float = Field(1e-3, ge=0, le=1)
    betas: tuple[float, float] = (0.9, 0.999)
    gradient_clip: float | None = Field(1.0, gt=0, description="largest norm of the gradient; None: no limit")

    ema_decay: float = Field(0.99, ge=0, lt=1, description="averaged weights, used for forecasts; 0: the raw ones")
    ema_warmup: float = Field(20.0, ge=1, description="decay at update k is at most k / (k + ema_warmup)")
    ema_start: int = Field(0, ge=0, description="steps before the average begins to differ from the weights")
    ema_every: int = Field(1, ge=1, description="steps between updates of the average")

    max_bad_steps: int = Field(20, ge=1, description="non-finite steps in a row after which training gives up")
    log_every: int = Field(20, ge=1, description="steps between lines in the log")
    checkpoint_every: int = Field(200, ge=1, description="steps between checkpoints")
    validate_every: int | None = Field(None, ge=1, description="steps between validations; None: at the end only")
    validation_clips: int = Field(64, ge=1, description="clips of the validation runs that a validation looks at")

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"betas {self.betas} must lie in [0, 1)")
        if self.variables is not None and not self.variables:
            raise ValueError("variables is empty: name at least one")
        return self

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        base, final, fraction = self.learning_rate, self.final_learning_rate, step / max(1, self.steps)
        if self.schedule == "cosine":
            rate = final + (base - final) * 0.5 * (1 + math.cos(math.pi * fraction))
        elif self.schedule == "linear":
            rate = base + (final - base) * fraction
        elif self.schedule == "drop":
            rate = base if step < self.drop_step else final
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
_PAPER = {
    "optimiser": "adam",
    "weight_decay": 0.0,
    "learning_rate": 5e-5,
    "final_learning_rate": 2e-5,
    "schedule": "linear",
    "warmup_steps": 0,
    "gradient_clip": None,
    "steps": 1_000_000,
    "checkpoint_every": 5000,
    "log_every": 100,
    "ema_start": 2000,
    "ema_every": 5,
}
TRAIN_PRESETS: dict[str, dict[str, Any]] = {
    "small": {},
    "paper-64": {**_PAPER, "batch_size": 8},
    "paper-128": {**_PAPER, "batch_size": 4},
}


class RunConfig(BaseModel):
    """Everything a run is made of. `preset` fills in whatever is not given; given values win."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str | None = Field(None, description="a named set of settings: " + ", ".join(PRESETS))
    model: ModelConfig = Field(default_factory=ModelConfig, description="the network and its objective")
    train: TrainConfig = Field(default_factory=TrainConfig, description="how it is trained")
    calibration: CalibrationConfig = Field(default_factory=CalibrationConfig, description="spread after training")

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("preset") is None:
            return values
        name = values["preset"]
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is not known: choose one of {', '.join(PRESETS)}")
        return merge(preset(name), values)


def preset(name: str) -> dict[str, Any]:
    """Settings of a preset as nested dict with the keys of a RunConfig."""
    calibration = {} if name == "small" else {"cases": 0}  # the published method has none
    return {"model": PRESETS[name], "train": TRAIN_PRESETS.get(name, {}), "calibration": calibration}


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts joined key by key; where both have a value, the one `above` counts."""
    joined = dict(below)
    for key, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(joined.get(key), Mapping)
        joined[key] = merge(joined[key], value) if nested else value
    return joined


def choose_preset(height: int, width: int, device: str) -> str:
    """The preset for frames of this size on this device: the published networks need a GPU."""
    if device == "cpu" or max(height, width) < 64:
        return "small"
    return "paper-128" if max(height, width) >= 128 else "paper-64"
