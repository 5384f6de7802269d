"""Small datasets for every method, and runs on them."""

import pytest

SIZES = {"retrogan": (16, 48), "dvd-gan": (32, 64)}


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
def run(data, system_config, tmp_path_factory):
    """A finished run of a method that no test changes: `run("svg-lp")`."""
    from rvdflow.train import train

    folder = tmp_path_factory.mktemp("runs")

    def find(name):
        if not (folder / name).exists():
            train(data(name), folder / name, system_config(name), threads=1, quiet=True)
        return folder / name

    return find
