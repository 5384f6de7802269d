"""The how-to page on runs: its Python runs as printed, and its command lines name options that exist."""

import json
import re
from pathlib import Path

import pytest
import torch
import typer.main

import rvdflow
from rvdflow.cli import app
from rvdflow.export_weights import export
from rvdflow.train_config import RunConfig

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "runs.md").read_text()


def _blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """A folder with the run and the exported model that the page speaks of."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "wake").symlink_to(trained)
    export(trained, tmp_path / "wake-model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_snippets_run_and_find_what_the_run_holds(place, capsys):
    rows, forecaster, plain = _blocks("python")
    names: dict = {}
    exec(rows, names)
    best = min((row["validation_crps"], row["step"]) for row in names["rows"] if "validation_crps" in row)
    assert capsys.readouterr().out.strip() == str((best[1], best[0]))
    exec(forecaster, names)
    exec(plain, names)
    model = rvdflow.load("runs/wake").model
    assert names["weights"].keys() == model.state_dict().keys()
    assert torch.equal(names["sigma"], model.sigma)
    printed = capsys.readouterr().out
    assert all(name in printed for name in names["weights"])


def test_the_plain_snippet_refuses_weights_that_are_not_those_described(place):
    file = place / "wake-model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="not those described"):
        exec(_blocks("python")[-1], {})


def test_its_command_lines_name_commands_options_and_settings_that_exist():
    commands = typer.main.get_command(app).commands
    lines = re.findall(r"^(?:torchrun --nproc-per-node \d -m )?rvdflow (.+)$", "".join(_blocks("bash")), re.M)
    assert len(lines) >= 8
    for line in lines:
        name, *words = line.split()
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, line
    for setting in re.findall(r"--set train\.(\w+)=", PAGE):
        assert setting in RunConfig().train.model_dump(), setting


def test_its_table_of_columns_is_that_of_a_log(trained):
    text = PAGE.split("| column | meaning |")[1].split("\n\n")[0]
    named = {name for line in text.splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1] if line else "")}
    last = json.loads((trained / "log.jsonl").read_text().splitlines()[-1])
    parts = set(last) - named
    assert named <= set(last)
    assert all(last[name] >= 0 for name in parts)
    assert parts == {"diffusion", "mean_rmse"}  # of this objective's loss
