"""What a run learns from: windows of the training and validation runs, and what identifies the dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lbm import dataset as store
from lbm.errors import DataError
from rvdflow.frames import Frames, frame_variables, split_trajectories
from rvdflow.normalisation import Normalisation, fit_normalisation
from rvdflow.train_config import RunConfig
from rvdflow.windows import Windows


@dataclass(frozen=True)
class Data:
    """What a run learns from. `identity` goes into the checkpoint, so that a forecast can refuse other data."""

    training: Windows
    validation: Windows | None
    normalisation: Normalisation
    identity: dict[str, Any]

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return self.training.frames.frame_shape


def load_data(path: Path, config: RunConfig, normalisation: Normalisation | None = None) -> Data:
    """Open a dataset for training; the normalisation is fitted on its training runs unless one is given."""
    opened = store.open_dataset(path, chunks=None)
    variables = config.train.variables or frame_variables(opened)
    if not variables:
        raise DataError(f"{path} holds no frames (trajectory, time, y, x) to learn from")
    frames = Frames(opened, variables)
    runs = split_trajectories(opened, "train")
    if normalisation is None:
        normalisation = fit_normalisation(frames, runs, config.model.normalisation)
    length = config.model.clip_frames
    validation_runs = [k for k, s in enumerate(opened["split"].values.astype(str)) if s == "validation"]
    return Data(
        training=Windows(frames, runs, length, normalisation),
        validation=Windows(frames, validation_runs, length, normalisation) if validation_runs else None,
        normalisation=normalisation,
        identity=data_identity(opened, frames) | {"sha256": store.digest(path)},
    )


def data_identity(opened: Any, frames: Frames) -> dict[str, Any]:
    """What data must have in common to be forecast by the same network."""
    return {
        "variables": list(frames.variables),
        "frame_size": [frames.height, frames.width],
        "frame_interval": opened.attrs.get("frame_interval"),
    }
