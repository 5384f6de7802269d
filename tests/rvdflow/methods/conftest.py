"""Tiny networks of every method, and small datasets for them to be trained on."""

from typing import Any

import pytest

from rvdflow.train_config import RunConfig

CLIP = {"context_frames": 2, "clip_frames": 5}
SIZES = {"retrogan": (16, 48), "dvd-gan": (32, 64)}
SETTINGS: dict[str, dict[str, Any]] = {
    "svg-lp": {**CLIP, "width": 0.125, "units": 64, "z_channels": 3},
    # half of the training is the warm-up of the KL
    "ivrnn": {**CLIP, "width": 0.25, "latent_stages": (0, 2), "z_channels": (12, 16), "kl_warmup": 0.5},
    "convgru": {**CLIP, "architecture": "compact", "base": 8, "multipliers": (1, 2), "unroll": 2},
    "retrogan": {"width": 0.0625, "residual_blocks": 1},
    # three stages of two steps each; in the first step of a stage it begins to fade in
    "futuregan": {"levels": 2, "width": 0.03125, "context_frames": 3, "future_frames": 2, "deviation_group": 2,
                  "fade": 1.0, "grown_by": 1.0},
    "dvd-gan": {"width": 0.0625, "latent": 12, "context_frames": 3, "future_frames": 5, "scored_frames": 2},
    "timegrad": {**CLIP, "modes": 6, "lags": (1, 2), "units": 16, "condition": 12, "net_layers": 2},
}  # fmt: skip


def _config(name: str, **train: Any) -> RunConfig:
    values = {"steps": 6, "batch_size": 2, "checkpoint_every": 2, "log_every": 1, "warmup_steps": 0, "validations": 2}
    return RunConfig.model_validate(
        {
            "preset": f"{name}-small",
            "model": SETTINGS[name],
            "train": {**values, **train},
            "validation": {"cases": 3, "members": 2, "context": 3, "lead": 3, "clips": 4},
        }
    )


@pytest.fixture(scope="session")
def config():
    """A configuration that trains within seconds: `config("svg-lp", steps=3)`."""
    return _config


@pytest.fixture(scope="session")
def data(build, tmp_path_factory):
    """The dataset for a method: `data("svg-lp")`."""
    folder = tmp_path_factory.mktemp("frames")

    def find(name):
        size = SIZES.get(name, (16, 32))
        path = folder / "x".join(map(str, size))
        return path if path.exists() else build(path, size=size)

    return find


@pytest.fixture(scope="session")
def run(data, config, tmp_path_factory):
    """A finished run of a method that no test changes: `run("svg-lp")`."""
    from rvdflow.train import train

    folder = tmp_path_factory.mktemp("runs")

    def find(name):
        if not (folder / name).exists():
            train(data(name), folder / name, config(name), threads=1, quiet=True)
        return folder / name

    return find
