"""Builders shared by the tests of training and forecasting: a tiny flow dataset and a tiny network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lbm import dataset as store
from rvdflow.train_config import RunConfig

SPLIT = ("train", "train", "validation", "test")


def _build(
    path: Path,
    *,
    variables: tuple[str, ...] = ("vorticity",),
    times: int = 24,
    size: tuple[int, int] = (8, 16),
    split: tuple[str, ...] = SPLIT,
    interval: int = 64,
    change: Callable[[np.ndarray], None] | None = None,
) -> Path:
    """A travelling wave with noise and an obstacle of 2 x 2 cells; `change` edits (trajectory, time, y, x)."""
    ny, nx = size
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:ny, :nx]
    phase = rng.uniform(0, 6, (len(split), 1, 1, 1))
    t = np.arange(times)[:, None, None]
    wave = np.sin(0.6 * x - 0.4 * t + phase) * np.cos(0.5 * y)
    frames = (0.02 * (wave + 0.1 * rng.standard_normal(wave.shape)) + 0.005).astype(np.float32)
    if change is not None:
        change(frames)
    solid = np.zeros((len(split), ny, nx), dtype=bool)
    solid[:, 2:4, 3:5] = True
    frames[np.broadcast_to(solid[:, None], frames.shape)] = 0
    dims = ("trajectory", "time", "y", "x")
    described = {
        name: store.Variable(dims, "float32", {"units": "1/tick"}, chunks=(1, 8, ny, nx)) for name in variables
    }
    described["solid"] = store.Variable(("trajectory", "y", "x"), "bool", {}, values=solid)
    described["split"] = store.Variable(("trajectory",), "str", {}, values=np.array(split))
    writer = store.create(
        path,
        variables=described,
        coords={"time": ("time", np.arange(times), {})},
        sizes={"trajectory": len(split), "time": times, "y": ny, "x": nx},
        attrs={"frame_interval": interval},
    )
    with writer:
        for k in range(len(split)):
            for name in variables:
                for a in range(0, times, 8):
                    b = min(a + 8, times)
                    writer.write(name, frames[k, a:b], trajectory=k, time=slice(a, b))
            writer.mark(trajectory=k, time=slice(0, times))
        writer.finish()
    return path


def _tiny(**train: object) -> RunConfig:
    settings = {"steps": 10, "batch_size": 2, "checkpoint_every": 4, "log_every": 3, "warmup_steps": 2}
    return RunConfig.model_validate(
        {
            "preset": "small",
            "model": {"width": 4, "multipliers": (1, 2), "diffusion_steps": 50, "sampler": {"steps": 2}},
            "train": {**settings, **train},
        }
    )


@pytest.fixture
def build() -> Callable[..., Path]:
    """Writes a small flow dataset: `build(path, **changes)`."""
    return _build


@pytest.fixture
def tiny() -> Callable[..., RunConfig]:
    """A configuration that trains in a second: `tiny(steps=20)`."""
    return _tiny


@pytest.fixture(scope="session")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small flow dataset that no test changes."""
    return _build(tmp_path_factory.mktemp("flow") / "flow.zarr")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, flow: Path) -> Path:
    """A run folder of a few training steps that no test changes."""
    from rvdflow.train import train

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(flow, folder, _tiny(), threads=1, quiet=True)
    return folder
