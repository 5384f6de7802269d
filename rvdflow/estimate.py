"""What a training would take, before it is begun."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from lbm.console import size
from rvdflow.build import COPIES, build_model
from rvdflow.optimise import Optimiser
from rvdflow.run import memory_mib
from rvdflow.train_config import RunConfig
from rvdflow.training_data import load_data


def estimate(data: Path, config: RunConfig) -> dict[str, Any]:
    """Size and cost of a run before it is begun: windows, parameters, memory, disk, and time, from one clip's step.

    Time and memory are those of one process on this CPU. With a budget of minutes, the steps that fit into it.
    """
    loaded = load_data(data, config)
    model = build_model(config, loaded.frame_shape)
    parameters = sum(p.numel() for p in model.parameters())
    train = config.train
    alone = train.model_copy(update={"batch_size": 1, "accumulate": 1, "compile": False})
    cpu = torch.device("cpu")
    optimiser = Optimiser(model, alone, cpu)
    before, began = memory_mib(cpu), time.monotonic()
    optimiser.advance(loaded.training.clip([0]), progress=1.0)
    seconds = (time.monotonic() - began) * train.batch_size
    activations = (memory_mib(cpu) - before) * 2**20 * train.batch_size / train.accumulate
    weights = 4 * COPIES * parameters
    found = {
        "windows": loaded.training.describe(),
        "parameters": parameters,
        "memory": size(weights + activations + (loaded.training.nbytes if loaded.training.in_memory else 0)),
        "disk": size((2 * 4 + 2) * 4 * parameters),  # two states of four copies, best.pt and final.pt
        "seconds_per_step_on_this_cpu_at_most": round(seconds, 3),
    }
    if train.minutes is not None:
        return found | {"hours": round(train.minutes / 60, 2), "steps_at_least": int(60 * train.minutes / seconds)}
    return found | {"hours_on_this_cpu_at_most": round(seconds * train.steps / 3600, 2)}
