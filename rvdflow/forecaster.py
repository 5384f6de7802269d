"""The interface every forecasting method has, and the method of this package behind it.

A *case* is (trajectory, init_time): the forecast starts from the frames up to and including init_time and says
frames init_time + 1 ... init_time + lead. A forecaster draws members of cases,

    draw(context, cases, members, lead, seed) -> (case, member, lead_time, channel, y, x)

in physical units, and a member of a case is the same whatever else is drawn in the same call (beyond rounding).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from lbm.errors import DataError, UsageError
from rvdflow import checkpoint
from rvdflow.build import build_model
from rvdflow.config import SamplerConfig
from rvdflow.device import choose_device, choose_threads
from rvdflow.frames import Frames, frame_variables
from rvdflow.noise import MemberNoise
from rvdflow.normalisation import Normalisation
from rvdflow.train_config import RunConfig
from rvdflow.training_data import data_identity

Case = tuple[int, int]


class Forecaster(ABC):
    """A forecasting method. `variables` are the channels it forecasts, None meaning whatever the data has."""

    method: ClassVar[str]
    deterministic: ClassVar[bool] = False
    variables: tuple[str, ...] | None = None

    @abstractmethod
    def draw(
        self, context: np.ndarray, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int
    ) -> np.ndarray:
        """Members of cases: (case, member, lead_time, channel, y, x) float32, physical units.

        `context` (case, time, channel, y, x) holds the frames up to init_time of each case, the last one being
        init_time itself.
        """

    def check(self, dataset: Any, frames: Frames) -> None:  # noqa: B027  (most methods take any data)
        """Raise DataError when this method cannot forecast `dataset`."""

    def stamp(self) -> dict[str, Any]:
        """What a report must say about this method: attributes for the forecast's file."""
        return {}

    def forecast(
        self,
        dataset: Any,
        *,
        members: int = 16,
        lead: int = 16,
        context: int = 4,
        split: str | None = "test",
        stride: int | None = None,
        init_times: Sequence[int] | None = None,
        cases: int | None = None,
        seed: int = 0,
    ) -> Any:
        """Forecast an open flow dataset in memory; returns an xarray.Dataset laid out like forecast.zarr.

        Dims (trajectory, init_time, member, lead_time, y, x). `stride` frames lie between init times (default:
        `lead`), `init_times` names them instead, `cases` is the most cases to forecast, spread evenly. For what does
        not fit into memory use `rvdflow.forecast.forecast`, which writes a store.
        """
        from rvdflow.forecast import forecast_in_memory
        from rvdflow.plan import plan

        frames = Frames(dataset, self.variables or frame_variables(dataset))
        chosen = plan(
            dataset, frames, members=1 if self.deterministic else members, lead=lead, context=context, split=split,
            stride=stride, init_times=init_times, cases=cases, seed=seed,
        )  # fmt: skip
        return forecast_in_memory(self, dataset, frames, chosen)


class ResidualDiffusionForecaster(Forecaster):
    """Residual video diffusion: mean of the next frame plus a residual drawn by the conditional diffusion."""

    method = "rvd"

    def __init__(
        self,
        model: Any,
        normalisation: Normalisation,
        *,
        sampler: SamplerConfig,
        device: torch.device | None = None,
        identity: dict[str, Any] | None = None,
        stamp: dict[str, Any] | None = None,
    ):
        self.device = device or torch.device("cpu")
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.normalisation, self.sampler = normalisation, sampler
        self.variables = normalisation.variables
        self.identity, self._stamp = identity, stamp or {}

    def draw(
        self, context: np.ndarray, cases: Sequence[Case], members: Sequence[int], lead: int, seed: int
    ) -> np.ndarray:
        frame: tuple[int, int, int] = context.shape[2:]
        noise = MemberNoise(seed, cases, members, frame, self.device)
        drawn = np.empty((len(cases) * len(members), lead, *frame), dtype=np.float32)
        with torch.inference_mode():
            normalised = torch.from_numpy(self.normalisation.apply(context).astype(np.float32, copy=False))
            state = self.model.expand(self.model.encode(normalised.to(self.device)), len(members))
            for k in range(lead):
                frames, state = self.model.step(state, noise, self.sampler)
                drawn[:, k] = frames.cpu().numpy()
        return self.normalisation.invert(drawn).reshape(len(cases), len(members), lead, *frame)

    def check(self, dataset: Any, frames: Frames) -> None:
        if self.identity is None:
            return
        have = data_identity(dataset, frames)
        for key, trained in self.identity.items():
            if key in have and have[key] != trained:
                raise DataError(
                    f"the checkpoint was trained on {key.replace('_', ' ')} {trained}, the data has {have[key]}: "
                    "train on data like this, or forecast data like that"
                )

    def stamp(self) -> dict[str, Any]:
        return {"sampler": self.sampler.name, "sampler_steps": self.sampler.steps, **self._stamp}


def load(
    run: str | Path,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> ResidualDiffusionForecaster:
    """The forecaster in a run folder (its final, else newest checkpoint) or a checkpoint file; averaged weights.

    `sampler` and `steps` (network calls per frame) replace those of the configuration. Raises DataError when the
    checkpoint is missing, damaged or not ours, UsageError for a sampler that does not exist.
    """
    choose_threads(threads)
    loaded = checkpoint.read(checkpoint.find(Path(run)))
    try:
        config = RunConfig.model_validate(loaded.meta["config"])
        identity = dict(loaded.meta["data"])
        channels, size = len(identity["variables"]), [int(n) for n in identity["frame_size"]]
        weights, done = loaded.state["weights"], loaded.meta["optimiser"]["step"]
        if len(size) != 2 or not 1 <= channels <= 64 or not all(1 <= n <= 8192 for n in size):
            raise ValueError(f"frames of {channels} x {size}")
        normalisation = Normalisation.from_json(loaded.meta["normalisation"])
    except (KeyError, TypeError, ValueError) as error:
        line = " ".join(str(error).split())[:160]
        raise DataError(f"{loaded.path}: its description is not understood ({line})") from error
    model = build_model(config, (channels, size[0], size[1]))
    checkpoint.load_weights(model, weights, loaded.path)
    return ResidualDiffusionForecaster(
        model,
        normalisation,
        sampler=_sampler(config.model.sampler, sampler, steps),
        device=choose_device(device),
        identity=identity,
        stamp={
            "checkpoint": loaded.path.name,
            "checkpoint_sha256": loaded.sha256,
            "training_steps": done,
            "weights": f"exponential average, decay {config.train.ema_decay:g}" if config.train.ema_decay else "last",
            "residual_inflation": round(float(weights["inflation"]), 4) if "inflation" in weights else 1.0,
            "training_dataset_sha256": str(identity.get("sha256", "")),
            "preset": config.preset or "",
            "parameters": sum(p.numel() for p in model.parameters()),
        },
    )


def _sampler(default: SamplerConfig, name: str | None, steps: int | None) -> SamplerConfig:
    from pydantic import ValidationError

    given = {"name": name, "steps": steps}
    try:
        return SamplerConfig(**default.model_dump() | {k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"sampler {first['loc'][0]}: got {first['input']!r}: {first['msg'].lower()}") from None
