"""The how-to page on studies: its commands and options exist, its example is a study, its Python works."""

import re
import shlex
from pathlib import Path

import typer

import lbm.cli
import rvdflow.cli
from rvdflow.study_config import read_study

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "study.md").read_text()
GROUPS = {"lbm": typer.main.get_command(lbm.cli.app), "rvdflow": typer.main.get_command(rvdflow.cli.app)}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


def options(program, command):
    return {option for parameter in GROUPS[program].commands[command].params for option in parameter.opts}


def test_commands_and_options_of_the_page_exist():
    lines = "".join(blocks("bash")).splitlines()
    assert len(lines) >= 7
    for line in lines:
        program, command, *words = shlex.split(line, comments=True)
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= options(program, command), line
    named = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert named <= options("rvdflow", "study") | options("rvdflow", "forecast") | options("lbm", "simulate")


def test_the_example_of_the_page_is_a_study_also_with_its_groups(tmp_path):
    whole, groups, report = blocks("toml")
    (tmp_path / "study.toml").write_text(whole + report)
    kinds = [cell.kind for cell in read_study(tmp_path / "study.toml").cells]
    assert kinds == ["trained", "trained", "weights", "method"]
    assert read_study(tmp_path / "study.toml").report.protocol == "rvd"
    (tmp_path / "study.toml").write_text(groups + "[budget]\nsteps = 1\n[[cell]]\nname = 'a'\n")
    assert list(read_study(tmp_path / "study.toml").protocol.groups) == ["below", "inside", "above"]


TINY = """
[base]
preset = "small"
[base.model]
width = 4
multipliers = [1, 2]
sampler = { steps = 2 }
[base.train]
batch_size = 2
validations = 0
[base.calibration]
cases = 0
[budget]
steps = 1
[protocol]
members = 2
lead = 2
cases = 2
[[cell]]
name = "a"
[[cell]]
name = "persistence"
method = "persistence"
"""


def test_the_python_of_the_page_runs(flow, tmp_path, monkeypatch, capsys):
    (code,) = blocks("python")
    (tmp_path / "quick.toml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    exec(code.replace("configs/study/quick.toml", "quick.toml").replace("flow.zarr", str(flow)), {})
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[-2:]] == ["a", "persistence"]
