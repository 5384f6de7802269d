"""What the how-to page prints works: each command is accepted, each setting exists, the Python example runs."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import typer.main
from PIL import Image

import lbm
from lbm import cli, console
from lbm.config import SimulateConfig
from lbm.settings import resolve

PAGE = (Path(__file__).resolve().parents[2] / "docs/how-to/simulate.md").read_text()
GROUP = typer.main.get_command(cli.app)


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


def commands():
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A place where the files that the page mentions exist."""
    Image.fromarray(np.pad(np.zeros((8, 8), np.uint8), 8, constant_values=255)).save(tmp_path / "shape.png")
    (tmp_path / "flow.toml").write_text(blocks("toml")[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_shows_every_option_of_a_flow():
    known = {option for parameter in GROUP.commands["simulate"].params for option in parameter.opts}
    plain = {"--quiet", "-q", "--json", "--debug", "--overwrite", "--output", "--config"}
    silent = {"--bulk-viscosity", "--dtype", "--magic"}
    for option in sorted(known - plain - silent - {"-o"}):
        assert option in PAGE, option


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_of_the_page_are_accepted(words, folder, monkeypatch, capsys):
    program, command, *rest = words
    assert program == "lbm"
    options = {option for parameter in GROUP.commands[command].params for option in parameter.opts}
    assert {word for word in rest if re.match(r"--?[a-z]", word)} <= options
    if command != "simulate":
        return
    monkeypatch.setattr(sys, "argv", [*words, "--dry-run"])
    with pytest.raises(SystemExit) as caught:
        console.run(cli.app)
    assert caught.value.code == 0, capsys.readouterr().err
    assert not (folder / "flow.zarr").exists()


def test_the_toml_of_the_page_is_a_configuration(folder):
    config = resolve(SimulateConfig, file=folder / "flow.toml", sets=[], flags={}).resolved()
    assert [one.shape for one in config.obstacles] == ["cylinder", "naca"]
    assert config.runs == 16
    # Re 200, both seeds, is held out
    assert config.splits.count("test") >= 2


def test_the_python_of_the_page_runs(folder, capsys):
    lbm.simulate(output="flow.zarr", size="32x64", viscosity=0.02, frames=3, every=10, warmup=1, trajectories=2)
    (code,) = blocks("python")
    exec(code, {})
    assert re.match(r"[\d.e-]+ \[nan nan\] \[nan nan\]", capsys.readouterr().out)
