"""The command line: cheap to start, complete in what it says, one line for a mistake, exit codes as designed."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from lbm import dataset as store
from rvdflow import checkpoint
from rvdflow.choices import integers
from rvdflow.cli import app

HEAVY = ("torch", "numba", "xarray", "zarr", "dask", "matplotlib", "numpy", "pydantic")
TINY = """
[model]
width = 4
multipliers = [1, 2]
diffusion_steps = 50
sampler = { steps = 2 }
[train]
steps = 3
batch_size = 2
[calibration]
cases = 0
"""


@pytest.mark.parametrize("module", ["rvdflow", "rvdflow.cli"])
def test_importing_the_command_line_imports_nothing_heavy(module):
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_public_names_are_found_when_asked_for():
    import rvdflow

    for name in rvdflow.__all__:
        assert callable(getattr(rvdflow, name))
        assert name in dir(rvdflow)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rvdflow.nothing


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("train", "--data --output --preset --config --set --steps --batch-size --learning-rate --seed --device"),
        ("train", "--threads --resume --overwrite --dry-run --quiet --json --debug"),
        ("forecast", "--checkpoint --data --ensemble --context --lead --output --method --split --stride --every"),
        ("forecast", "--init-times --cases --sampler --steps --seed --device --threads --members-per-batch"),
        ("forecast", "--cases-per-batch --resume --overwrite --dry-run --quiet --json --debug"),
        ("verify", "--truth --reference --output --report --variable --overwrite --quiet --json --debug"),
        ("info", "--curves --by --overwrite --check --json --debug"),
        ("export", "--output --overwrite --quiet --debug"),
        ("demo", "--output --quick --overwrite --debug"),
    ],
)
def test_help_names_every_option(command, options):
    answer = CliRunner().invoke(app, [command, "--help"], terminal_width=200)
    assert answer.exit_code == 0
    for option in options.split():
        assert option in answer.output


def test_init_times_are_read_as_list_or_range():
    assert integers(None) is None
    assert integers("20,60") == [20, 60]
    assert integers("20:60:16") == [20, 36, 52]


@pytest.fixture
def command(rvdflow_process, tmp_path):
    """Runs a command line in a fresh folder: (exit code, output, errors)."""

    def run(*arguments):
        return rvdflow_process(*arguments, cwd=tmp_path).wait()

    return run


def test_required_options_alone_train_and_forecast(command, flow, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    code, output, errors = command("train", "--data", flow, "--config", "tiny.toml", "--threads", 1)
    assert (code, errors) == (0, "")
    assert "preset: small (8 x 16 frames)" in output
    assert "trained: runs/small-1" in output
    more = ("--json", "--seed", 4, "--threads", 1)
    code, output, _ = command("train", "--data", flow, "--config", "tiny.toml", *more)
    result = json.loads(output)
    assert (code, result["run"], result["step"]) == (0, "runs/small-2", 3)
    assert result["validation_loss"] > 0

    code, output, errors = command("forecast", "--data", flow, "--lead", 4, "--ensemble", 3, "--threads", 1)
    assert (code, errors) == (0, "")
    assert "checkpoint: runs/small-2/checkpoints/best.pt (the newest)" in output
    attrs = store.read_attributes(tmp_path / "forecast.zarr")
    assert attrs["checkpoint_sha256"] == checkpoint.read(tmp_path / result["checkpoint"]).sha256
    for method in ("persistence", "climatology"):
        code, output, _ = command("forecast", "--data", flow, "--lead", 4, "--method", method, "--json")
        assert code == 0
        assert json.loads(output)["attributes"]["method"] == method
        assert store.read_attributes(tmp_path / f"{method}.zarr")["complete"] is True

    code, _, errors = command("train", "--data", flow, "--config", "tiny.toml", "-o", "runs/small-1")
    assert code == 2
    assert "runs/small-1 holds a run already" in errors
    code, _, errors = command("forecast", "--data", flow, "--lead", 4, "--ensemble", 3)
    assert code == 2
    assert "forecast.zarr exists" in errors


def test_settings_are_taken_from_defaults_then_preset_then_file_then_command_line(command, flow, tmp_path):
    (tmp_path / "a.toml").write_text('preset = "paper-64"\n[model]\nwidth = 16\nsigma = 1.5\n[train]\nsteps = 7\n')
    given = ["--config", "a.toml", "--set", "model.width=8", "--set", "train.seed=5", "--steps", 9, "--dry-run"]
    given += ["--set", "model.multipliers=[1,2]", "--set", "model.mean_multipliers=[1,2]"]
    code, output, errors = command("train", "--data", flow, *given)
    assert code == 0, errors
    shown = json.loads(output)
    model, train = shown["config"]["model"], shown["config"]["train"]
    assert (model["width"], model["sigma"], model["diffusion_steps"]) == (8, 1.5, 1600)
    assert (train["steps"], train["seed"], train["learning_rate"], train["ema_decay"]) == (9, 5, 5e-5, 0.0)
    assert {"memory", "disk", "parameters", "hours_on_this_cpu_at_most"} <= shown["estimate"].keys()
    assert not (tmp_path / "runs").exists()


def test_a_forecast_dry_run_says_what_it_would_do_and_writes_nothing(command, flow, trained, tmp_path):
    code, output, _ = command("forecast", "--data", flow, "--checkpoint", trained, "--lead", 4, "--dry-run")
    shown = json.loads(output)
    assert code == 0
    assert (shown["cases"], shown["members"], shown["lead"], shown["trajectories"]) == (5, 32, 4, [3])
    assert {"disk", "memory"} <= shown.keys()
    assert not list(tmp_path.iterdir())


def test_info_tells_runs_checkpoints_and_stores(command, flow, trained):
    code, output, _ = command("info", trained, "--json")
    run = json.loads(output)
    assert (code, run["kind"], run["step"], run["finished"]) == (0, "run", 10, True)
    assert run["data"]["frame_size"] == [8, 16]
    code, output, _ = command("info", checkpoint.find(trained), "--json")
    assert json.loads(output)["kind"] == "checkpoint"
    assert json.loads(output)["sha256"] == run["sha256"]
    code, output, _ = command("info", flow, "--check")
    assert code == 0
    assert "vorticity" in output
    assert "24 of" not in output
    assert "96 of 96 frames" in output


MISTAKES = [
    ("train", "--data missing.zarr", 4, "missing.zarr"),
    ("train", "--data {flow} --preset huge", 2, "preset 'huge' is not known: choose one of small, one-step, modern"),
    ("train", "--data {flow} --set train.stps=3", 2, "'train.stps'; did you mean 'train.steps'"),
    ("train", "--data {flow} --steps -5", 2, "--steps: got -5"),
    ("train", "--data {flow} --config none.toml", 2, "none.toml"),
    ("train", "--data {flow} --resume", 4, "no trained run under runs/"),
    ("train", "--data {flow} --device tpu", 2, "'tpu'"),
    ("train", "--data {flow} --preset small --set train.variables=['density']", 4, "no frames of 'density'"),
    ("train", "--data {flow} --preset small --threads 0", 2, "--threads 0: at least 1"),
    ("train", "--date {flow}", 2, "--date"),
    ("forecast", "--data {flow}", 4, "no trained run under runs/"),
    ("forecast", "--data {flow} --checkpoint missing", 4, "missing: no such run folder"),
    ("forecast", "--data missing.zarr --checkpoint {run}", 4, "missing.zarr"),
    ("forecast", "--data {flow} --checkpoint {run} --ensemble 0", 2, "members is 0: at least 1"),
    ("forecast", "--data {flow} --checkpoint {run} --lead 400", 2, "need 404 frames, a run has 24"),
    ("forecast", "--data {flow} --checkpoint {run} --split holdout", 2, "wanted test, validation, train or all"),
    ("forecast", "--data {flow} --checkpoint {run} --sampler euler", 2, "'euler'"),
    ("forecast", "--data {flow} --checkpoint {run} --init-times x", 2, "--init-times wants numbers"),
    ("forecast", "--data {flow} --checkpoint {run} --ensemble 1000000000 --lead 4", 5, "GiB"),
    ("forecast", "--data {flow} --method magic", 2, "method 'magic' is not known"),
    ("forecast", "--data {flow} --method persistence --steps 3", 2, "mean nothing to --method persistence"),
    ("forecast", "--data {flow} --checkpoint {run} --resume -o {flow} --lead 4", 4, "not an unfinished forecast"),
    ("verify", "missing.zarr --truth {flow}", 4, "missing.zarr"),
    ("info", "missing", 4, "missing does not exist"),
    ("info", "{run}/config.json", 4, "checksum"),
    ("demo", "-o {run}", 2, "is not a demo's folder"),
]


@pytest.mark.parametrize(("name", "arguments", "code", "says"), MISTAKES)
def test_a_mistake_gets_one_or_two_lines_and_the_right_exit_code(
    command, flow, trained, tmp_path, name, arguments, code, says
):
    before = store.digest(flow)
    got, _, errors = command(name, *arguments.format(flow=flow, run=trained).split())
    assert got == code, errors
    assert says in errors
    assert len(errors.strip().splitlines()) <= 2
    assert "Traceback" not in errors
    assert store.digest(flow) == before
    assert not [p for p in tmp_path.iterdir() if p.name != "runs"]


def test_debug_shows_the_traceback(command):
    code, _, errors = command("info", "missing", "--debug")
    assert code == 4
    assert "Traceback" in errors
    assert errors.rstrip().endswith("missing does not exist")


def test_a_damaged_checkpoint_is_refused_by_every_command(command, flow, tiny, tmp_path):
    from rvdflow.train import train

    final = train(flow, tmp_path / "run", tiny(steps=1), threads=1, quiet=True)
    content = bytearray(final.read_bytes())
    content[len(content) // 2] ^= 1
    final.write_bytes(content)
    for arguments in (
        ("forecast", "--data", flow, "--checkpoint", "run"),
        ("info", "run"),
        ("train", "--data", flow, "-o", "run", "--resume"),
    ):
        code, _, errors = command(*arguments)
        assert code == 4
        assert "best.pt: damaged, its SHA-256 is" in errors
        assert "step-000001.pt" in errors  # which one to use instead
