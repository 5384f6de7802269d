"""The demo's bookkeeping: what it runs, skips, resumes and refuses. (The commands themselves have their own tests.)"""

import json

import pytest
from typer.testing import CliRunner

import lbm.cli
import rvdflow.cli
from lbm.errors import FlowError, UsageError
from rvdflow import demo as module
from rvdflow.demo import Step, demo, steps

APPS = {"lbm": lbm.cli.app, "rvdflow": rvdflow.cli.app}


@pytest.mark.parametrize("quick", [False, True])
def test_the_demo_types_commands_that_exist_with_options_they_have(tmp_path, quick):
    listed = steps(tmp_path, quick)
    names = [" ".join(step.arguments[:2]) for step in listed]
    assert names == ["lbm simulate", "rvdflow train", *["rvdflow forecast"] * 5, "lbm ensemble", "rvdflow verify"]
    for step in listed:
        for option in [a for a in (*step.arguments, step.again) if a.startswith("--")]:
            shown = CliRunner().invoke(APPS[step.arguments[0]], [step.arguments[1], "--help"], terminal_width=200)
            assert option in shown.output, option
    assert any("--method persistence" in " ".join(step.arguments) for step in listed)
    assert any("--method climatology" in " ".join(step.arguments) for step in listed)


def recorded(monkeypatch, tmp_path, *, complete=False, begun=False, module_name="json.tool", source="{}"):
    """A one-step demo whose command copies a JSON file; returns its output file."""
    (tmp_path / "in.json").write_text(source)
    output = tmp_path / "out.json"
    arguments = [module_name, str(tmp_path / "in.json"), str(output)]
    step = Step(arguments, lambda: complete, lambda: begun, again="--sort-keys")
    monkeypatch.setattr(module, "steps", lambda folder, quick: [step])
    return output


def test_a_step_runs_and_is_printed_with_its_duration(monkeypatch, tmp_path, capsys):
    output = recorded(monkeypatch, tmp_path, source='{"b": 1, "a": 2}')
    report = demo(tmp_path / "demo")
    assert report == tmp_path / "demo" / "report" / "index.html"
    assert list(json.loads(output.read_text())) == ["b", "a"]
    shown = capsys.readouterr().out
    assert f"$ json.tool {tmp_path}/in.json" in shown
    assert " s)" in shown
    assert f"Open {report}" in shown


def test_a_complete_step_is_skipped_and_a_begun_one_resumed(monkeypatch, tmp_path, capsys):
    output = recorded(monkeypatch, tmp_path, complete=True)
    demo(tmp_path / "demo")
    assert not output.exists()
    assert "(done already) json.tool" in capsys.readouterr().out
    output = recorded(monkeypatch, tmp_path, begun=True, source='{"b": 1, "a": 2}')
    demo(tmp_path / "demo")
    assert list(json.loads(output.read_text())) == ["a", "b"]  # ran with its `again` option


def test_a_failing_command_ends_the_demo_with_its_exit_code(monkeypatch, tmp_path, capfd):
    recorded(monkeypatch, tmp_path, source="{")
    with pytest.raises(FlowError, match="failed; `rvdflow demo` goes on from there") as caught:
        demo(tmp_path / "demo")
    assert caught.value.exit_code == 1


def test_a_folder_of_other_things_or_of_another_demo_is_left_alone(monkeypatch, tmp_path):
    recorded(monkeypatch, tmp_path)
    with pytest.raises(UsageError, match="is not a demo's folder"):
        demo(tmp_path)
    demo(tmp_path / "demo", quick=True)
    with pytest.raises(UsageError, match="made with other options"):
        demo(tmp_path / "demo")
    (tmp_path / "demo" / "run").mkdir()
    (tmp_path / "demo" / "notes.txt").write_text("mine")
    demo(tmp_path / "demo", overwrite=True)
    assert not (tmp_path / "demo" / "run").exists()
    assert (tmp_path / "demo" / "notes.txt").read_text() == "mine"
