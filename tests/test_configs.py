"""Every configuration that is shipped loads, and begins by saying what it makes, on what, and how long it takes."""

from pathlib import Path

import pytest

from lbm.settings import resolve

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def files(folder):
    found = sorted((CONFIGS / folder).glob("*.toml"))
    assert found
    return [pytest.param(path, id=path.stem) for path in found]


@pytest.mark.parametrize("path", files("lbm"))
def test_simulation_configurations_resolve(path):
    from lbm.config import SimulateConfig
    from lbm.sweep import runs

    resolved = resolve(SimulateConfig, file=path, sets=[], flags={}).resolved()
    assert all(run.viscosity > 0 for run in runs(resolved))


@pytest.mark.parametrize("path", files("rvdflow"))
def test_training_configurations_load_and_build_a_network(path):
    import torch

    from rvdflow.build import build_model
    from rvdflow.train_config import RunConfig

    config = resolve(RunConfig, file=path, sets=[], flags={})
    size = 128 if "128" in path.stem else 64
    with torch.device("meta"):  # shapes only
        model = build_model(config, (1, size, size))
    assert sum(p.numel() for p in model.parameters()) > 10_000
    assert config.train.steps >= 1


@pytest.mark.parametrize("path", [*files("lbm"), *files("rvdflow")])
def test_a_configuration_begins_with_what_it_makes_and_how_long_it_takes(path):
    head = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        head.append(line)
    text = " ".join(head)
    assert "Made by: " in text
    assert f"--config configs/{path.parent.name}/{path.name}" in text


def test_the_demo_finds_its_configurations():
    from rvdflow.demo import find_config

    for name in ("lbm/wake_demo.toml", "rvdflow/wake_demo.toml"):
        assert find_config(name) == CONFIGS / name
