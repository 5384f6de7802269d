"""A trained network as a forecaster: a run, loaded, rolled out frame by frame.

forecaster = rvdflow.load("runs/a")     of residual video diffusion, forecaster.mean() is the deterministic mean alone
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import torch

from lbm.errors import DataError, UsageError
from rvdflow import checkpoint
from rvdflow.build import build_model, compile_networks
from rvdflow.conditions import Conditions
from rvdflow.config import SamplerConfig
from rvdflow.device import choose_device, choose_threads
from rvdflow.forecaster import Case, Forecaster, Seen
from rvdflow.frames import Frames
from rvdflow.networks import Given
from rvdflow.noise import MemberNoise
from rvdflow.normalisation import Normalisation
from rvdflow.samplers import sigmas
from rvdflow.train_config import RunConfig
from rvdflow.training_data import channel_count, condition_names, data_identity

if TYPE_CHECKING:
    from rvdflow.baselines.training import Training

Precision = Literal["float32", "bfloat16"]


class NetworkForecaster(Forecaster):
    """Any trained network (rvdflow.trainable), fed its own frames. `sampler`: how these are drawn, where it matters."""

    def __init__(
        self,
        model: Any,
        normalisation: Normalisation,
        *,
        method: str = "rvd",
        sampler: SamplerConfig | None = None,
        conditions: Conditions | None = None,
        device: torch.device | None = None,
        precision: Precision = "float32",
        identity: dict[str, Any] | None = None,
        stamp: dict[str, Any] | None = None,
    ):
        self.device = device or torch.device("cpu")
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.method, self.needs, self.deterministic = method, model.context, not model.stochastic
        self.block = model.block
        self.normalisation, self.sampler = normalisation, sampler
        self.conditions = conditions or Conditions()
        self.variables = normalisation.variables
        self.precision: Precision = precision
        self.identity, self._stamp = identity, stamp or {}
        self._encoded: tuple[Seen, Any] | None = None

    @classmethod
    def fit(cls, data: Training) -> Self:
        raise UsageError("networks are trained by rvdflow.train.train(data, run), and loaded by rvdflow.load(run)")

    def roll(
        self, seen: Seen, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int
    ) -> Iterator[np.ndarray]:
        frame: tuple[int, int, int] = seen.frames.shape[2:]
        noise = MemberNoise(seed, cases, members, frame, self.device)
        state = self.model.repeat(self._encode(seen), len(members))
        for _ in range(lead):
            with torch.inference_mode(), self._arithmetic():
                drawn, state = self.model.step(state, noise, self.sampler)
                values = drawn.float().cpu().numpy()
            yield self.normalisation.invert(values).reshape(len(cases), len(members), 1, *frame)

    def _arithmetic(self) -> torch.autocast:
        """The networks' arithmetic; what is added up from frame to frame stays float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def _encode(self, seen: Seen) -> Any:
        """The state after the context, computed once for all chunks of members that are shown the same."""
        if self._encoded is None or self._encoded[0] is not seen:
            frames = self.normalisation.apply(seen.frames, seen.solid[:, None, None]).astype(np.float32, copy=False)
            numbers = [seen.numbers[name] for name in self.conditions.names]
            given = self.conditions.given(seen.solid, np.array(numbers).T.reshape(len(seen.solid), -1))
            with torch.inference_mode(), self._arithmetic():
                given = Given(*(x.to(self.device) for x in given))
                self._encoded = seen, self.model.encode(torch.from_numpy(frames).to(self.device), given)
        return self._encoded[1]

    def check(self, dataset: Any, frames: Frames) -> None:
        have = data_identity(dataset, frames) if self.identity else {}
        for key, trained in (self.identity or {}).items():
            if key in have and have[key] != trained:
                raise DataError(
                    f"the checkpoint was trained on {key.replace('_', ' ')} {trained}, the data has {have[key]}: "
                    "train on data like this, or forecast data like that"
                )
        self.conditions.read(dataset, self.conditions.names)

    def stamp(self) -> dict[str, Any]:
        drawn = {"sampler": self.sampler.name, "sampler_steps": self.sampler.steps} if self.sampler else {}
        return {**drawn, **self._stamp}


class ResidualDiffusionForecaster(NetworkForecaster):
    """Residual video diffusion: mean of the next frame plus a drawn residual, fed back frame by frame."""

    def mean(self) -> MeanForecaster:
        """The same weights without residual: the deterministic forecast of mu alone, fed back frame by frame.

        UsageError where the model has no mean (mean = zero).
        """
        return MeanForecaster(self)


class MeanForecaster(ResidualDiffusionForecaster):
    """See `ResidualDiffusionForecaster.mean`; `rvdflow.baselines.dress` makes an ensemble of it."""

    def __init__(self, whole: ResidualDiffusionForecaster):
        if whole.model.config.mean == "zero":
            raise UsageError("this run has mean = zero (VD): it has no mean to forecast with")
        model = copy.copy(whole.model)  # shares the weights
        model.draw = lambda outlook, *_: torch.zeros_like(outlook.mean)
        super().__init__(
            model, whole.normalisation, method="mean", sampler=whole.sampler, conditions=whole.conditions,
            device=whole.device, precision=whole.precision, identity=whole.identity,
            stamp=whole._stamp | {"sampler": "none: the mean alone", "sampler_steps": 0},
        )  # fmt: skip
        self.deterministic = True


def load(
    run: str | Path,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    precision: Precision = "float32",
    compile: bool = False,
) -> NetworkForecaster:
    """The forecaster in a run folder (the checkpoint `checkpoint.find` picks) or a checkpoint file.

    A `ResidualDiffusionForecaster` where the run is of residual video diffusion.

    `sampler` and `steps` (network calls per frame) replace those of the configuration. With `precision` "bfloat16" the
    networks compute in 8 bits of mantissa, and `compile` has torch compile them first: both for long forecasts on a
    GPU. Raises DataError when the checkpoint is missing, damaged or not ours, UsageError for a sampler that does not
    exist or that this model cannot use, and for another precision.
    """
    choose_threads(threads)
    if precision not in get_args(Precision):
        raise UsageError(f"precision {precision!r} is not known: use {' or '.join(get_args(Precision))}")
    loaded = checkpoint.read(checkpoint.find(Path(run)))
    try:
        config = RunConfig.model_validate(loaded.meta["config"])
        identity = dict(loaded.meta["data"])
        channels, size = channel_count(identity), [int(n) for n in identity["frame_size"]]
        weights, done = loaded.state["weights"], loaded.meta["optimiser"]["step"]
        if len(size) != 2 or not 1 <= channels <= 64 or not all(1 <= n <= 8192 for n in size):
            raise ValueError(f"frames of {channels} x {size}")
        normalisation = Normalisation.from_json(loaded.meta["normalisation"])
        conditions = Conditions.from_json(loaded.meta.get("conditions") or Conditions().to_json())
        if conditions.names != condition_names(config):
            raise ValueError(f"conditions {conditions.names}, configuration {condition_names(config)}")
    except (KeyError, TypeError, ValueError) as error:
        line = " ".join(str(error).split())[:160]
        raise DataError(f"{loaded.path}: its description is not understood ({line})") from error
    model = build_model(config, (channels, size[0], size[1]))
    checkpoint.load_weights(model, weights, loaded.path)
    if compile:
        compile_networks(model)
    rvd = config.system == "rvd"
    one_step = rvd and config.model.objective == "crps"
    if (one_step or model.sampler is None) and not sampler is steps is None:
        what = "draws a frame in one step (objective crps)" if one_step else f"is of {config.system}"
        raise UsageError(f"this run {what}: there is no sampler to choose, leave out --sampler and --steps")
    train = config.train
    averaged = train.forecast_weights == "average" and train.ema_decay > 0
    chosen = None if model.sampler is None else _sampler(model, model.sampler, sampler, steps)
    residual = {
        "objective": config.model.objective,
        **({"sampler": "none: one step", "sampler_steps": 1} if one_step else {}),
        "residual_inflation": round(float(model.inflation), 4),
        "noise_memory": round(float(model.memory), 4),
    } if rvd else {}  # fmt: skip
    return (ResidualDiffusionForecaster if rvd else NetworkForecaster)(
        model,
        normalisation,
        method=config.system,
        sampler=chosen,
        conditions=conditions,
        device=choose_device(device),
        precision=precision,
        identity=identity,
        stamp={
            "precision": precision,
            "checkpoint": loaded.path.name,
            "checkpoint_sha256": loaded.sha256,
            "training_steps": done,
            "weights": f"exponential average, decay {train.ema_decay:g}" if averaged else "raw",
            **residual,
            "training_dataset_sha256": str(identity.get("sha256", "")),
            "preset": config.preset or "",
            "parameters": sum(p.numel() for p in model.parameters()),
        },
    )


def _sampler(model: Any, default: SamplerConfig, name: str | None, steps: int | None) -> SamplerConfig:
    from pydantic import ValidationError

    given = {"name": name, "steps": steps}
    try:
        chosen = SamplerConfig(**default.model_dump() | {k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"sampler {first['loc'][0]}: got {first['input']!r}: {first['msg'].lower()}") from None
    try:
        sigmas(model.levels, chosen)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return chosen
