"""Settings of the method, each one named, and the presets built from them.

Every row in which the paper, its released code and later work differ is a setting here, so that any difference is a
switch: docs/theory/residual-video-diffusion.md says what each one does and what it gained.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Widths = Annotated[tuple[int, ...], Field(min_length=1, max_length=8)]


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SamplerConfig(Settings):
    """How the residual is drawn. Noise levels are sigma, the noise's standard deviation beside a signal of one."""

    name: Literal["ancestral", "ddim", "heun", "dpmpp", "truncated"] = Field("dpmpp", description="the sampler")
    steps: int = Field(8, ge=1, le=10_000, description="network calls per frame")
    spacing: Literal["even", "karras"] = Field(
        "karras", description="levels: evenly spaced steps n of the cosine schedule, or sigma^(1/rho) evenly spaced"
    )
    rho: float = Field(7.0, gt=0, description="bend of the karras spacing")
    sigma_max: float = Field(40.0, gt=0, description="first level, where levels are continuous")
    sigma_min: float = Field(0.02, gt=0, description="last level but zero, where levels are continuous")
    stop: float = Field(0.4, gt=0, description="level at which truncated sampling takes the posterior mean")
    churn: float = Field(0.0, ge=0, description="noise put back before each step of heun, as a fraction of sigma")
    noise_term: Literal["deviation", "variance"] = Field(
        "deviation", description="factor of the noise in ancestral sampling; variance: as Algorithm 1 is printed"
    )


class CalibrationConfig(Settings):
    """Roll-outs on validation runs that set scale and memory of drawn residuals (rvdflow.calibrate)."""

    cases: int = Field(64, ge=0, description="validation cases; 0: no calibration, as published")
    members: int = Field(2, ge=2, description="members per case")
    context: int = Field(4, ge=1, description="context frames")
    lead: int = Field(16, ge=1, description="frames forecast")
    rounds: int = Field(1, ge=1, description="corrections of the inflation")
    memories: tuple[float, ...] = Field(
        (0.0, 0.3, 0.5), min_length=1, description="correlations of noise from frame to frame that are tried"
    )

    @model_validator(mode="after")
    def _consistent(self) -> CalibrationConfig:
        if not all(0 <= memory < 1 for memory in self.memories):
            raise ValueError(f"memories {self.memories} must lie in [0, 1)")
        return self


class ModelConfig(Settings):
    # What is learned
    objective: Literal["diffusion", "crps"] = Field(
        "diffusion", description="denoise the residual, or score a few one-step members by the almost fair CRPS"
    )
    mean: Literal["network", "zero"] = Field(
        "network", description="mu of Eq. 5; zero: the diffusion draws the whole frame (ablation VD)"
    )

    # Networks
    architecture: Literal["compact", "published"] = Field(
        "compact", description="one shared pyramid, or the three networks of the paper"
    )
    width: int = Field(32, ge=4, le=512, description="base width d")
    multipliers: Widths = Field((1, 2, 4), description="denoiser and context widths, in units of d")
    mean_multipliers: Widths = Field((1, 2, 2, 4), description="mean predictor widths (published architecture)")
    patch: int = Field(2, ge=1, le=8, description="pixels folded into channels at the input (compact)")
    recurrent_from: int = Field(1, ge=0, description="first pyramid level with a ConvGRU (compact)")
    conditions: tuple[str, ...] = Field((), description="numbers of each run given to the network (compact)")
    obstacle_mask: bool = Field(False, description="give the obstacle mask to the network (compact)")

    look_back: int = Field(
        3,
        ge=0,
        le=64,
        description="last frames, encoded anew for each forecast frame; 0: the state is carried on",
    )

    # Frames
    normalisation: Literal["standard", "minmax"] = Field(
        "standard",
        description="zero mean and unit standard deviation, or [-1, 1]; fitted on the training split",
    )
    clamp: bool = Field(False, description="clamp means and fed-back frames to [-1, 1]")
    masked_loss: bool = Field(True, description="leave obstacles out of every loss and running statistic")

    # Residual and mean
    residual_scale: Literal["fixed", "channel", "pixel"] = Field(
        "pixel", description="sigma: given, or a running standard deviation of the residual"
    )
    sigma: float = Field(1.0, gt=0, description="sigma where residual_scale is fixed")
    mean_loss: float = Field(0.3, ge=0, description="weight of the explicit loss of the mean; 0: none, as published")
    mean_gradient: bool = Field(False, description="let the diffusion's loss reach the mean through y_n (Eq. 9)")
    mean_first: float = Field(
        0.0, ge=0, lt=1, description="part of the training that is the mean's alone; it is frozen afterwards"
    )
    unroll: int = Field(1, ge=1, le=64, description="frames over which the mean is unrolled in training")
    unroll_from: float = Field(0.5, ge=0, le=1, description="part of the training after which it is unrolled")

    # Diffusion
    levels: Literal["discrete", "continuous"] = Field(
        "continuous", description="noise levels: N steps of the cosine schedule, or any sigma, log-normally drawn"
    )
    diffusion_steps: int = Field(1000, ge=2, le=100_000, description="N, where levels are discrete")
    log_sigma_mean: float = Field(-0.4, description="mean of ln sigma in training, where levels are continuous")
    log_sigma_deviation: float = Field(1.4, gt=0, description="and its standard deviation")
    prediction: Literal["velocity", "noise"] = Field(
        "velocity", description="what the denoiser predicts; velocity is the preconditioning of EDM for unit variance"
    )
    loss: Literal["l2", "l1"] = Field("l2", description="norm of the denoiser's loss")
    noise_level_per: Literal["frame", "clip"] = Field("frame", description="one noise level per frame or per clip")
    clip_residual: float | None = Field(
        None,
        gt=0,
        description="bound on the clean residual while sampling; 2/sigma where frames lie in [-1, 1]",
    )
    sampler: SamplerConfig = Field(SamplerConfig(), description="default sampler")

    # One-step members (objective crps)
    members: int = Field(3, ge=2, le=64, description="members drawn in training")
    almost_fair: float = Field(0.95, ge=0, le=1, description="1: fair CRPS; 0: that of the ensemble as it is")
    rollout: int = Field(2, ge=1, le=64, description="frames a member runs on its own in the later training")
    rollout_from: float = Field(0.5, ge=0, le=1, description="part of the training after which members do so")

    # Clips
    context_noise: float = Field(0.05, ge=0, description="largest noise put on context frames in training; level given")
    context_frames: int = Field(2, ge=1, description="frames at the start of a training clip that carry no loss")
    clip_frames: int = Field(7, ge=2, description="frames of a training clip")

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.clip_frames <= self.context_frames:
            raise ValueError(
                f"clip_frames {self.clip_frames} leave no target after context_frames {self.context_frames}"
            )
        if self.architecture == "published" and (self.conditions or self.obstacle_mask):
            raise ValueError(
                "conditions and obstacle_mask need architecture = compact: the published networks take none"
            )
        shortest = self.context_frames + max(self.unroll, self.rollout if self.objective == "crps" else 1)
        if self.clip_frames < shortest:
            raise ValueError(f"unroll or rollout need clip_frames of at least {shortest}, got {self.clip_frames}")
        if self.mean == "zero" and (self.mean_first or self.unroll > 1 or self.mean_loss):
            raise ValueError("mean_loss, mean_first and unroll train the mean: with mean = zero set them to 0, 0 and 1")
        if self.objective == "crps" and self.unroll > 1:
            raise ValueError("unroll rolls out the mean of the diffusion: with objective = crps use rollout")
        if self.mean_first and self.mean_gradient:
            raise ValueError("mean_first freezes the mean, mean_gradient trains it with the diffusion: choose one")
        if self.levels == "continuous" and self.prediction == "noise":
            raise ValueError("prediction = noise needs levels = discrete: use velocity")
        if self.sampler.sigma_min >= self.sampler.sigma_max:
            raise ValueError(
                f"sampler.sigma_min {self.sampler.sigma_min} is not below sigma_max {self.sampler.sigma_max}"
            )
        return self


_PAPER: dict[str, Any] = {
    "architecture": "published",
    "look_back": 0,
    "levels": "discrete",
    "normalisation": "minmax",
    "clamp": True,
    "masked_loss": False,
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
    "sampler": {"name": "ancestral", "steps": 1600, "spacing": "even"},
}
_RELEASED: dict[str, Any] = {**_PAPER, "loss": "l1", "sigma": 1.0, "clip_residual": 2.0}
_SIZES: dict[str, dict[str, Any]] = {
    "64": {"width": 48, "multipliers": (1, 2, 4, 8), "mean_multipliers": (1, 2, 2, 4)},
    "128": {"width": 64, "multipliers": (1, 1, 2, 2, 4, 4), "mean_multipliers": (1, 2, 3, 4)},
}

# The two modern forms, for CPUs and small frames, and (of larger networks) for GPUs.
_ONE_STEP: dict[str, Any] = {"objective": "crps"}
_LARGE: dict[str, Any] = {"width": 64, "multipliers": (1, 2, 4, 4)}

PRESETS: dict[str, dict[str, Any]] = {
    "small": {},
    "one-step": _ONE_STEP,
    "modern": _LARGE,
    "modern-one-step": {**_LARGE, **_ONE_STEP},
    **{f"paper-{size}": {**_PAPER, **widths} for size, widths in _SIZES.items()},
    **{f"released-{size}": {**_RELEASED, **widths} for size, widths in _SIZES.items()},
}
