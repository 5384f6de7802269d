"""What a run learns from: windows of the training and validation runs, and what identifies the dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lbm import dataset as store
from lbm.errors import DataError
from rvdflow.build import describe_model
from rvdflow.checkpoint import Checkpoint
from rvdflow.conditions import Conditions
from rvdflow.frames import Frames, frame_variables, split_trajectories
from rvdflow.mirror import Mirror, obstruction
from rvdflow.normalisation import Normalisation, fit_normalisation
from rvdflow.train_config import RunConfig
from rvdflow.windows import Windows


@dataclass(frozen=True)
class Data:
    """What a run learns from. `identity` goes into the checkpoint, so that a forecast can refuse other data."""

    training: Windows
    validation: Windows | None
    normalisation: Normalisation
    conditions: Conditions
    identity: dict[str, Any]
    mirror: Mirror | None  # None: clips are not reflected
    asymmetry: str  # why they are not, though that was asked for

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return self.training.frames.frame_shape


def load_data(path: Path, config: RunConfig, saved: Checkpoint | None = None) -> Data:
    """Open a dataset for training.

    Normalisation and conditions are fitted on its training runs, or are those of a checkpoint that was `saved`.
    DataError when the dataset is unfit, or not the one that the checkpoint was trained on.
    """
    opened = store.open_dataset(path, chunks=None)
    variables = config.train.variables or frame_variables(opened)
    if not variables:
        raise DataError(f"{path} holds no frames (trajectory, time[, channel], y, x) to learn from")
    frames = Frames(opened, variables)
    identity = data_identity(opened, frames) | {"sha256": store.digest(path)}
    runs, names = split_trajectories(opened, "train"), condition_names(config)
    if saved is None:
        normalisation = fit_normalisation(frames, runs, config.model.normalisation)
        conditions = Conditions.fit(opened, names, runs)
    else:
        _require_same(saved, path, identity)
        normalisation = Normalisation.from_json(saved.meta["normalisation"])
        conditions = Conditions.from_json(saved.meta["conditions"])
    length = describe_model(config, frames.frame_shape).clip_frames
    others = length, normalisation, conditions, Conditions.read(opened, names)
    asymmetry = (obstruction(opened, frames, runs) or "") if config.train.mirror else ""
    validation = [k for k, s in enumerate(opened["split"].values.astype(str)) if s == "validation"]
    return Data(
        training=Windows(frames, runs, *others),
        validation=Windows(frames, validation, *others) if validation else None,
        normalisation=normalisation,
        conditions=conditions,
        identity=identity,
        mirror=Mirror.of(normalisation) if config.train.mirror and not asymmetry else None,
        asymmetry=asymmetry,
    )


def _require_same(saved: Checkpoint, path: Path, identity: dict[str, Any]) -> None:
    names = {"frame_size": "frame size", "frame_interval": "frame interval", "sha256": "a dataset with SHA-256"}
    for key, now in identity.items():
        was = saved.meta["data"].get(key)
        if was != now:
            raise DataError(
                f"{saved.path} was trained on {names.get(key, key)} {was}, {path} has {now}: "
                "resume with the dataset the run was begun with"
            )


def condition_names(config: RunConfig) -> tuple[str, ...]:
    """The numbers of each run that the network is given; some take none."""
    return getattr(config.model, "conditions", ())


def channel_count(identity: dict[str, Any]) -> int:
    """Channels of the frames that `data_identity` describes. KeyError, TypeError when it is none."""
    return len(identity.get("channels") or identity["variables"])


def data_identity(opened: Any, frames: Frames) -> dict[str, Any]:
    """What data must have in common to be forecast by the same network."""
    identity = {
        "variables": list(frames.variables),
        "frame_size": [frames.height, frames.width],
        "frame_interval": opened.attrs.get("frame_interval"),
    }
    return identity | ({"channels": list(frames.channel_names)} if frames.channel_names else {})
