"""Settings of the method, each one named, and the presets built from them.

Every row in which the paper and later work differ is a setting here, so that any difference is a switch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Widths = Annotated[tuple[int, ...], Field(min_length=1, max_length=8)]


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SamplerConfig(Settings):
    name: Literal["ancestral", "ddim", "dpmpp"] = Field("ddim", description="how residuals are drawn")
    steps: int = Field(8, ge=1, le=10_000, description="network calls per frame")


class CalibrationConfig(Settings):
    """Roll-outs on validation runs that set the inflation of the residual (rvdflow.calibrate)."""

    cases: int = Field(24, ge=0, description="validation cases; 0: no calibration, as published")
    members: int = Field(4, ge=2, description="members per case")
    context: int = Field(4, ge=1, description="context frames")
    lead: int = Field(16, ge=1, description="frames forecast")
    rounds: int = Field(2, ge=1, description="corrections of the inflation")


class ModelConfig(Settings):
    architecture: Literal["compact", "published"] = Field(
        "compact", description="one shared pyramid, or the three networks of the paper"
    )
    width: int = Field(32, ge=4, le=512, description="base width d")
    multipliers: Widths = Field((1, 2, 2), description="denoiser and context widths, in units of d")
    mean_multipliers: Widths = Field((1, 2, 2, 4), description="mean predictor widths (published architecture)")
    patch: int = Field(2, ge=1, le=8, description="pixels folded into channels at the input (compact)")
    recurrent_from: int = Field(1, ge=0, description="first pyramid level with a ConvGRU (compact)")
    normalisation: Literal["standard", "minmax"] = Field(
        "standard",
        description="zero mean and unit standard deviation, or [-1, 1]; fitted on the training split",
    )
    clamp: bool = Field(False, description="clamp means and fed-back frames to [-1, 1]")
    diffusion_steps: int = Field(1000, ge=2, le=100_000, description="N, noise levels of the cosine schedule")
    prediction: Literal["velocity", "noise"] = Field("velocity", description="what the denoiser predicts")
    loss: Literal["l2", "l1"] = Field("l2", description="norm of the denoiser's loss")
    noise_level_per: Literal["frame", "clip"] = Field("frame", description="one noise level n per frame or per clip")
    residual_scale: Literal["fixed", "channel", "pixel"] = Field(
        "pixel", description="sigma: given, or a running standard deviation of the residual"
    )
    sigma: float = Field(1.0, gt=0, description="sigma where residual_scale is fixed")
    mean_loss: float = Field(0.3, ge=0, description="weight of the explicit loss of the mean; 0: none, as published")
    mean_gradient: bool = Field(False, description="let the diffusion's loss reach the mean through y_n (Eq. 9)")
    context_noise: float = Field(0.15, ge=0, description="largest noise put on context frames in training; level given")
    clip_residual: float | None = Field(
        None,
        gt=0,
        description="bound on the clean residual while sampling; 2/sigma where frames lie in [-1, 1]",
    )
    context_frames: int = Field(2, ge=1, description="frames at the start of a training clip that carry no loss")
    clip_frames: int = Field(7, ge=2, description="frames of a training clip")
    sampler: SamplerConfig = Field(SamplerConfig(), description="default sampler")


_PAPER: dict[str, Any] = {
    "architecture": "published",
    "normalisation": "minmax",
    "clamp": True,
    "diffusion_steps": 1600,
    "prediction": "noise",
    "loss": "l2",
    "noise_level_per": "clip",
    "residual_scale": "fixed",
    "sigma": 2.0,
    "clip_residual": 1.0,
    "mean_loss": 0.0,
    "mean_gradient": True,
    "context_noise": 0.0,
    "context_frames": 2,
    "clip_frames": 8,
    "sampler": {"name": "ancestral", "steps": 1600},
}

PRESETS: dict[str, dict[str, Any]] = {
    "small": {},
    "paper-64": {**_PAPER, "width": 48, "multipliers": (1, 2, 4, 8), "mean_multipliers": (1, 2, 2, 4)},
    "paper-128": {**_PAPER, "width": 64, "multipliers": (1, 1, 2, 2, 4, 4), "mean_multipliers": (1, 2, 3, 4)},
}
