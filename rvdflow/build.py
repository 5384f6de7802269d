"""The network a configuration describes, of whatever method, refused beforehand when it cannot fit into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lbm.console import size
from lbm.errors import ResourceError, UsageError
from rvdflow.train_config import RunConfig
from rvdflow.windows import free_memory

if TYPE_CHECKING:
    from rvdflow.trainable import Trainable

COPIES = 6  # of the weights while training: raw, average, gradient, two moments, and a checkpoint being written


def model_class(config: RunConfig) -> Any:
    """The class of the network: called with its settings, `channels`, `height` and `width`."""
    from rvdflow.methods import METHODS, method
    from rvdflow.model import ResidualVideoDiffusion

    return method(config.system)[1] if config.system in METHODS else ResidualVideoDiffusion


def describe_model(config: RunConfig, frame_shape: tuple[int, int, int]) -> Trainable:
    """The network's shapes without numbers.

    UsageError when they do not fit frames (channel, y, x), ResourceError for more weights than can be counted.
    """
    channels, height, width = frame_shape
    try:
        with torch.device("meta"):
            return model_class(config)(config.model, channels=channels, height=height, width=width)
    except ValueError as error:
        raise UsageError(str(error)) from None
    except RuntimeError as error:  # sizes beyond 64 bits
        raise ResourceError(f"a network of width {config.model.width} is too large") from error


def build_model(config: RunConfig, frame_shape: tuple[int, int, int]) -> Any:
    """The network of `config` with initial weights from its seed; torch's global generator is left alone.

    ResourceError with the estimate when training it would not fit into the free memory.
    """
    channels, height, width = frame_shape
    described = describe_model(config, frame_shape)
    need = COPIES * 4 * sum(p.numel() for p in described.parameters())
    clips = config.train.batch_size // config.train.accumulate
    need += 4 * clips * described.clip_frames * channels * height * width
    if need > free_memory():
        raise ResourceError(
            f"training this network takes at least {size(need)}, {size(free_memory())} are free: "
            "lower --set model.width or --batch-size"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return model_class(config)(config.model, channels=channels, height=height, width=width)


def compile_networks(model: Trainable) -> None:
    """Have torch compile each network of a model when it is first called."""
    for network in model.compilable():
        network.compile()
