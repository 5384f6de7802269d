"""What the pages on export and on the perfect model print works: commands exist, Python examples run."""

import re
import shlex
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import typer.main

import lbm
from lbm import cli

PAGES = Path(__file__).resolve().parents[2] / "docs/how-to"
FLOW = {
    "size": "32x64", "frame_size": "16x32", "diameter": 6.0, "reynolds": 100.0, "frames": 13, "every": 10,
    "warmup": 110, "noise_transverse": 0.2, "save_states": 4, "split": (0, 0, 2),
}  # fmt: skip


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (PAGES / page).read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    return lbm.simulate(output=tmp_path_factory.mktemp("pages") / "flow.zarr", **FLOW)


@pytest.mark.parametrize("page", ["perfect-model.md", "export.md"])
def test_commands_of_the_page_exist(page):
    from rvdflow.cli import app as rvdflow

    groups = {"lbm": typer.main.get_command(cli.app), "rvdflow": typer.main.get_command(rvdflow)}
    lines = "".join(blocks(page, "bash")).splitlines()
    assert len(lines) >= 3
    for line in lines:
        program, command, *words = shlex.split(line)
        known = {option for parameter in groups[program].commands[command].params for option in parameter.opts}
        known |= {
            option for parameter in groups[program].commands[command].params for option in parameter.secondary_opts
        }
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= known, line


def test_options_in_the_text_exist():
    group = typer.main.get_command(cli.app)
    for page, commands in (("perfect-model.md", ("simulate", "ensemble", "export")), ("export.md", ("export",))):
        parameters = [p for command in commands for p in group.commands[command].params]
        known = {option for p in parameters for option in (*p.opts, *p.secondary_opts)}
        assert set(re.findall(r"`(--[a-z-]+)", (PAGES / page).read_text())) <= known


def test_the_python_of_the_perfect_model_runs(flow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("perfect-model.md", "python")
    small = code.replace('"flow.zarr"', repr(str(flow))).replace("members=32, lead=16", "members=3, lead=4")
    assert "members=3" in small
    names: dict = {}
    exec(small, names)
    crps = names["by_lead"].squeeze().values
    assert crps.shape == (4,)
    assert crps[-1] > crps[0] > 0


def test_the_python_of_the_export_runs(flow, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("export.md", "python")
    exec(code.replace('"flow.zarr"', repr(str(flow))), {})
    assert capsys.readouterr().out == "1/tick bool\n"
    with netCDF4.Dataset(tmp_path / "flow.nc") as nc:  # as `lbm simulate` writes it, states and forces and all
        assert {"drag_coefficient", "vorticity"} <= set(nc.variables)
        assert "populations" not in nc.variables
        np.testing.assert_array_equal(nc["time"][:], np.arange(13))
