"""The command `lbm`: what it prints, what it refuses, with which exit code, and what it imports."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import lbm
from lbm import animation, cli, console, dataset
from lbm.config import SimulateConfig

TINY = shlex.split(
    "simulate --size 32x64 --diameter 6 --viscosity 0.02 --frames 8 --every 10 --warmup 1 --trajectories 3"
)
COMMANDS = ("simulate", "info", "animate", "export", "ensemble", "validate", "benchmark")


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    return lbm.simulate(
        size="32x64", diameter=6.0, viscosity=0.02, frames=8, every=10, warmup=1, trajectories=3,
        fields="vorticity,velocity_x", output=tmp_path_factory.mktemp("cli") / "flow.zarr",
    )  # fmt: skip


def call(monkeypatch, capsys, *arguments):
    """(exit code, standard output, standard error) of `lbm ARGUMENTS`, run in this process."""
    monkeypatch.setattr(sys, "argv", ["lbm", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        console.run(cli.app)
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def test_importing_is_cheap():
    """So that every --help answers at once."""
    code = (
        "import sys, lbm, lbm.cli, lbm.errors, lbm.console, lbm.settings\n"
        "heavy = {'numba', 'numpy', 'xarray', 'zarr', 'torch', 'matplotlib', 'dask', 'pydantic', 'PIL', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    ["simulate --inflow-velocity 0.9", "ensemble --from none.zarr", "validate --only none", "benchmark --sizes 0x0"],
)
def test_vectors_are_chosen_before_numba_is_there(arguments):
    """Numba reads the setting when it is first imported; each of these commands compiles kernels."""
    code = (
        "import sys, lbm.vectors\n"
        "lbm.vectors.prefer_wide_vectors = lambda: print('numba' in sys.modules)\n"
        f"sys.argv = ['lbm', *{arguments.split()!r}]\n"
        "from lbm.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False"]
    assert done.returncode in (2, 4), done.stderr


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_is_there(monkeypatch, capsys, command):
    code, out, _ = call(monkeypatch, capsys, *command, "--help")
    assert code == 0
    assert "Usage: " in out


def test_every_setting_has_an_option_with_its_default(monkeypatch, capsys):
    _, out, _ = call(monkeypatch, capsys, "simulate", "--help")
    text = " ".join(out.split())
    for name, field in SimulateConfig.model_fields.items():
        if name == "obstacles":  # a list of tables: TOML only
            continue
        option = f"--{name.replace('_', '-')} "
        assert option in text
        default = field.default
        if isinstance(default, int | float | str):
            described = text.split(option)[1].split("].")[0]
            assert described.endswith(f"[{default:g}" if not isinstance(default, str) else f"[{default}")


def test_simulate_info_and_check_from_the_command_line(monkeypatch, capsys, tmp_path):
    path = tmp_path / "flow.zarr"
    code, out, err = call(monkeypatch, capsys, *TINY, "-o", path, "--set", "seed=5")
    assert (code, err) == (0, "")
    assert "3 trajectories (1 train, 1 validation, 1 test) of 8 frames 32x64" in out
    code, out, _ = call(monkeypatch, capsys, "info", path, "--check")
    assert code == 0
    assert "complete, every chunk intact" in out
    code, out, _ = call(monkeypatch, capsys, "info", path, "--json")
    report = json.loads(out)
    assert report["sizes"] == {"trajectory": 3, "time": 8, "y": 32, "x": 64, "force_time": 80}
    assert report["split"] == {"train": 1, "validation": 1, "test": 1}
    assert report["config"]["seed"] == 5
    assert report["parameters"]["viscosity"] == 0.02
    assert report["digest"] == lbm.digest(path)


def test_info_says_what_an_unfinished_dataset_lacks(monkeypatch, capsys, tmp_path, flow):
    path = tmp_path / "flow.zarr"
    shutil.copytree(flow, path)
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"]["complete"] = False
    (path / "zarr.json").write_text(json.dumps(root))
    with dataset.resume(path) as writer:
        writer.array("frames_written")[1] = 3
    code, out, _ = call(monkeypatch, capsys, "info", path)
    assert code == 0
    assert "UNFINISHED: 19 of 24 frames written (go on with --resume)" in out
    code, _, err = call(monkeypatch, capsys, "animate", path, "-o", tmp_path / "film.webp")
    assert code == 4
    assert "--resume" in err


def test_json_is_all_that_stands_on_standard_output(monkeypatch, capsys, tmp_path):
    code, out, err = call(monkeypatch, capsys, *TINY, "-o", tmp_path / "flow.zarr", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["complete"] is True


def test_dry_run_simulates_nothing(monkeypatch, capsys, tmp_path):
    code, out, _ = call(monkeypatch, capsys, "simulate", "--dry-run", "-o", tmp_path / "flow.zarr")
    assert code == 0
    assert "viscosity = 0.01" in out
    assert "memory" in out
    code, out, _ = call(monkeypatch, capsys, "simulate", "--dry-run", "--json", "-o", tmp_path / "flow.zarr")
    assert json.loads(out)["config"]["reynolds"] == 160
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["simulate", "--viscosty", "1"], 2, "--viscosity"),
        (["simulate", "--frames", "many"], 2, "--frames"),
        (["simulate", "--frames", "-3"], 2, "--frames"),
        (["simulate", "--set", "frame=3"], 2, "did you mean 'frames'"),
        (["simulate", "--config", "none.toml"], 2, "none.toml"),
        (["simulate", "--size", "1000000x1000000"], 2, "GiB"),
        (["simulate", "--inflow-velocity", "0.6"], 2, "Mach"),
        (["simulate", "--reynolds", "5", "--viscosity", "0.01", "--inflow-velocity", "0.1"], 2, "contradicts"),
        (["simulate", "--threads", "0"], 2, "--threads"),
        (["simulate", "-o", "nowhere/flow.zarr"], 5, "nowhere"),
        (["simulate", "--obstacle", "nacka:size=3"], 2, "'naca'"),
        (["simulate", "--sweep", "viscosty=0.01,0.02"], 2, "did you mean 'viscosity'"),
        (["simulate", "--sweep", "seed=0:4", "--sweep", "seed=5"], 2, "--sweep seed is given twice"),
        (["simulate", "--sweep", "seed"], 2, "--sweep wants NAME=VALUES"),
        (["simulate", "--sweep", "reynolds=100,1e6"], 2, "reynolds 1e+06: viscosity"),
        (["simulate", "--held-out", "seed=1:2"], 2, "there is none: give --sweep"),
        (["simulate", "--forces-every", "3"], 2, "take 2"),
        (["simulate", "--scheduler", "slurm"], 2, "--scheduler"),
        (["export", "none.zarr"], 4, "none.zarr does not exist"),
        (["export", "none.zarr", "--trajectories", "a"], 2, "--trajectories"),
        (["ensemble", "--from", "none.zarr"], 4, "none.zarr does not exist"),
        (["ensemble", "--from", "none.zarr", "--init-times", "0.5"], 2, "--init-times"),
        (["ensemble"], 2, "--from"),
        (["validate", "--only", "poiseuile"], 2, "poiseuille"),
        (["benchmark", "--sizes", "12"], 2, "--sizes: got '12'"),
        (["benchmark", "--dtypes", "float16"], 2, "float16"),
        (["info", "none.zarr"], 4, "none.zarr does not exist"),
        (["info", "file.txt"], 4, "is a file"),
        (["info", "folder"], 4, "folder"),
        (["animate", "none.zarr", "--member", "1"], 4, "none.zarr does not exist"),
    ],
)
def test_mistakes_are_two_lines_at_most(monkeypatch, capsys, tmp_path, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "folder").mkdir()
    got, out, err = call(monkeypatch, capsys, *arguments)
    assert got == code, err
    assert message in err
    assert len(err.splitlines()) <= 2
    assert out == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.txt", "folder"]


def test_validation_says_by_its_exit_code_whether_all_cases_passed(monkeypatch, capsys):
    from lbm import validate
    from lbm.validation_result import Result

    good = Result("case", "quantity", 1.0, 1.0, "source", tolerance=0.1)
    bad = Result("case", "quantity", 2.0, 1.0, "source", tolerance=0.1)
    for results, expected in (([good], 0), ([good, bad], 3)):
        monkeypatch.setattr(validate, "validate", lambda results=results, **_: results)
        code, out, _ = call(monkeypatch, capsys, "validate")
        assert code == expected
        assert f"{len(results) - (expected == 3)} of {len(results)} passed" in out
        code, out, _ = call(monkeypatch, capsys, "validate", "--json")
        assert code == expected
        assert [one["ours"] for one in json.loads(out)] == [one.ours for one in results]


def test_info_tells_sweep_obstacles_and_what_is_held_out(monkeypatch, capsys, tmp_path):
    path = tmp_path / "flow.zarr"
    options = "--sweep reynolds=20,30,40 --held-out reynolds=25:35 --frames 2 --trajectories 1 --obstacle naca:angle=-4"
    words = shlex.split(f"simulate --size 32x64 --diameter 6 --every 10 --warmup 1 --quiet {options}")
    code, _, err = call(monkeypatch, capsys, *words, "-o", path)
    assert (code, err) == (0, "")
    _, out, _ = call(monkeypatch, capsys, "info", path)
    assert re.search(r"reynolds +20 to 40\n", out)
    assert re.search(r"obstacle +naca 0012 at \(16, 16\) size 6 angle -4\n", out)
    assert re.search(r"sweep +reynolds: 3 values, 20 to 40\n", out)
    assert re.search(r"held out +reynolds 25 to 35\n", out)


def test_existing_output_is_kept_unless_told(monkeypatch, capsys, flow):
    digest = lbm.digest(flow)
    code, _, err = call(monkeypatch, capsys, *TINY, "-o", flow)
    assert code == 2
    assert "--overwrite" in err
    assert lbm.digest(flow) == digest


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_a_film_shows_flow_and_obstacle(monkeypatch, capsys, tmp_path, flow, suffix):
    target = tmp_path / f"film.{suffix}"
    arguments = ["animate", flow, "-o", target, "--scale", "2", "--trajectory", "1", "--frames", "6"]
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert (code, err) == (0, "")
    assert str(target) in out
    with Image.open(target) as film:
        assert film.n_frames == 6
        assert film.size == (128, 64)
        film.seek(5)
        picture = np.asarray(film.convert("RGB")).astype(int)
    solid = lbm.open_dataset(flow)["solid"][1].values[::-1].repeat(2, 0).repeat(2, 1)
    inner = solid & np.roll(solid, 2, 0) & np.roll(solid, -2, 0) & np.roll(solid, 2, 1) & np.roll(solid, -2, 1)
    # lossy compression: grey within a few levels
    np.testing.assert_allclose(picture[inner].mean(axis=0), 128, atol=12)
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "--overwrite" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--variable", "pressure"], "choose from"),
        (["--trajectory", "3"], "trajectories 0 to 2"),
        (["--start", "8"], "frames 0 to 7"),
        (["--scale", "0"], "scale"),
        (["--scale", "100000"], "lower"),
        (["--fps", "0"], "--fps"),
        (["--limit", "-1"], "--limit"),
        (["-o", "film.mp4"], "webp or .gif"),
    ],
)
def test_a_film_that_cannot_be_made_is_refused(monkeypatch, capsys, tmp_path, flow, options, message):
    monkeypatch.chdir(tmp_path)
    output = [] if "-o" in options else ["-o", "film.webp"]
    code, _, err = call(monkeypatch, capsys, "animate", flow, *output, *options)
    assert code == 2
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_colours_diverge_symmetrically_about_zero():
    values = np.array([[-2.0, -1.0, 0.0, 1.0, 2.0, np.nan, 0.5]])
    solid = np.array([[False, False, False, False, False, False, True]])
    rgb = animation.colours(values, 1.0, solid)[0]
    assert rgb[0].tolist() == rgb[1].tolist() == [5, 48, 97]
    assert rgb[2].tolist() == [247, 247, 247]
    assert rgb[3].tolist() == rgb[4].tolist() == [103, 0, 31]
    assert rgb[5].tolist() == [255, 255, 255]
    assert rgb[6].tolist() == [128, 128, 128]


def test_public_names_are_there():
    for name in lbm.__all__:
        assert getattr(lbm, name).__doc__
    with pytest.raises(AttributeError):
        lbm.nonsense  # noqa: B018
