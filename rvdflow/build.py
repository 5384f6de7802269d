"""The network a configuration describes, refused beforehand when it cannot fit into memory."""

from __future__ import annotations

from typing import Any

import torch

from lbm.console import size
from lbm.errors import ResourceError
from rvdflow.train_config import RunConfig
from rvdflow.windows import free_memory

COPIES = 6  # of the weights while training: raw, average, gradient, two moments, and a checkpoint being written


def build_model(config: RunConfig, frame_shape: tuple[int, int, int]) -> Any:
    """The network of `config` with initial weights from its seed; torch's global generator is left alone.

    ResourceError with the estimate when training it would not fit into the free memory.
    """
    from rvdflow.model import ResidualVideoDiffusion

    channels, height, width = frame_shape
    shape = {"channels": channels, "height": height, "width": width}
    try:
        with torch.device("meta"):  # shapes without numbers
            described = ResidualVideoDiffusion(config.model, **shape)
        need = COPIES * 4 * sum(p.numel() for p in described.parameters())
    except RuntimeError as error:  # sizes beyond 64 bits
        raise ResourceError(
            f"a network of width {config.model.width} x {config.model.multipliers} is too large"
        ) from error
    clips = config.train.batch_size // config.train.accumulate
    need += 4 * clips * config.model.clip_frames * channels * height * width
    if need > free_memory():
        raise ResourceError(
            f"training this network takes at least {size(need)}, {size(free_memory())} are free: "
            "lower --set model.width, model.multipliers or --batch-size"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return ResidualVideoDiffusion(config.model, **shape)


def compile_networks(model: Any) -> None:
    """Have torch compile each network of a model when it is first called."""
    for network in model.networks.children():
        network.compile()
