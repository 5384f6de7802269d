"""`rvdflow convert`: help, one line for a mistake, exit codes, and stores that survive any end of the process."""

import json
import os
import random
import signal
import time

import pytest
from typer.testing import CliRunner

from lbm import dataset
from rvdflow.cli import app

COMMON = "--output --workers --resume --overwrite --dry-run --quiet --json --debug"
PIXELS = f"{COMMON} --size --resize --crop --limit"
GLYPHS = ["--train", "60", "--validation", "0", "--test", "4", "--size", "32x32", "--frames", "10"]


def run(*arguments):
    """(exit code, standard output, error) of a command line in this process."""
    answer = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    return answer.exit_code, answer.stdout, answer.exception


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("kth", f"{PIXELS} --split --sequences"),
        ("bair", f"{PIXELS} --camera --split --verify"),
        ("cityscapes", PIXELS),
        ("video", f"{PIXELS} --gray --axes --key --value-range --interval --validation --test --seed"),
        ("glyphs", f"{COMMON} --train --validation --test --size --frames --glyphs --modes --colour --speed --seed"),
    ],
)
def test_help_names_every_option(command, options):
    code, out, _ = run(command, "--help")
    assert code == 0
    for option in options.split():
        assert option in out


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(kth, tmp_path):
    code, out, _ = run("kth", kth(tmp_path / "kth"), "-o", tmp_path / "a.zarr", "--dry-run", "--workers", 1)
    assert code == 0
    found = json.loads(out)
    assert found["clips"] == {"train": 2, "validation": 2, "test": 2}
    assert found["config"]["size"] == [64, 64]
    assert not (tmp_path / "a.zarr").exists()


def test_options_reach_the_conversion(kth, tmp_path):
    settings = ["--size", "8x16", "--resize", "area", "--crop", "0,0,16,32", "--limit", "1", "--split", "1-20"]
    folder = kth(tmp_path / "kth")
    code, out, error = run("kth", folder, "-o", tmp_path / "a.zarr", *settings, "--workers", 1, "--json")
    assert code == 0, error
    found = json.loads(out)
    assert (found["size"], found["clips"]) == ([8, 16], {"train": 1, "validation": 1, "test": 1})
    config = json.loads(dataset.read_attributes(tmp_path / "a.zarr")["config"])
    assert config == {
        "dataset": "kth", "size": [8, 16], "resize": "area", "crop": [0, 0, 16, 32], "limit": 1,
        "options": {"split": "1-20"},
    }  # fmt: skip


def test_own_clips_and_glyphs_need_no_option(tmp_path):
    import numpy as np

    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in/a.npy", np.zeros((3, 4, 80, 100, 3), np.uint8))
    code, out, error = run("video", tmp_path / "in", "-o", tmp_path / "a.zarr", "--workers", 1, "--json")
    assert code == 0, error
    assert json.loads(out)["size"] == [64, 64]
    code, out, error = run("glyphs", *GLYPHS, "--modes", 3, "-o", tmp_path / "b.zarr", "--workers", 1, "--json")
    assert code == 0, error
    assert json.loads(out)["clips"] == {"train": 60, "validation": 0, "test": 4}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["kth", "nowhere"], 2, "nowhere does not exist"),
        (["kth", "."], 4, "00sequences.txt"),
        (["bair", "."], 4, "no records in train/ or test/"),
        (["cityscapes", "."], 4, "no folder leftImg8bit_sequence"),
        (["video", "."], 4, "no video, folder of images or array"),
        (["kth", ".", "--split", "9"], 2, "schuldt, 1-16, 1-20"),
        (["bair", ".", "--camera", "left"], 2, "image_aux1"),
        (["video", ".", "--size", "64"], 2, "--size wants"),
        (["video", ".", "--crop", "1,2"], 2, "--crop wants"),
        (["video", ".", "--axes", "XY"], 2, "axes"),
        (["video", ".", "--limit", "0"], 2, "--limit 0"),
        (["glyphs", "--train", "0", "--validation", "0", "--test", "0"], 2, "no clips"),
        (["glyphs", "--speed", "fast"], 2, "--speed wants"),
        (["glyphs", "--size", "4x4"], 2, "does not fit"),
        (["glyphs", "-o", "no/such/folder.zarr"], 5, "does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_its_exit_code(tmp_path, monkeypatch, arguments, code, words):
    from lbm.console import describe

    monkeypatch.chdir(tmp_path)
    _, _, error = run(*arguments)
    got, text = describe(error)
    assert got == code, text
    assert words in text
    assert len(text.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_without_pyav_the_extra_is_named(kth, tmp_path, monkeypatch):
    folder = kth(tmp_path / "kth")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    code, _, error = run("kth", folder, "-o", tmp_path / "a.zarr", "--workers", 1)
    assert code != 0
    assert "rvdflow[video]" in str(error)
    assert not (tmp_path / "a.zarr").exists()


# ------------------------------------------------------------------ however the process ends


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The store that nobody disturbed."""
    path = tmp_path_factory.mktemp("whole") / "a.zarr"
    assert run("glyphs", *GLYPHS, "-o", path, "--workers", 1, "--quiet")[0] == 0
    return path


def children(pid):
    """Processes below a process, their own children included."""
    found, waiting = [], [pid]
    while waiting:
        try:
            with open(f"/proc/{waiting[0]}/task/{waiting[0]}/children") as file:
                waiting += [int(child) for child in file.read().split()]
        except OSError:
            pass
        found.append(waiting.pop(0))
    return found[1:]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("number", "workers", "code"),
    [
        (signal.SIGKILL, 1, -9),
        (signal.SIGKILL, 2, -9),
        (signal.SIGTERM, 1, 143),
        (signal.SIGTERM, 2, 143),
        (signal.SIGINT, 2, 130),
    ],
)
def test_whatever_ends_it_a_resumed_store_has_the_same_bytes(
    rvdflow_process, content, tmp_path, whole, number, workers, code
):
    after = random.Random(f"{number} {workers}").randrange(2, 50)
    path = tmp_path / "a.zarr"
    command = ["convert", "glyphs", *GLYPHS, "-o", path, "--quiet"]
    job = rvdflow_process(*command, "--workers", workers, signal=(int(number), after, 0))
    below = []
    while job.poll() is None:
        below = children(job.pid) or below
        time.sleep(0.01)
    assert job.wait()[0] == code, job.wait()
    assert not dataset.read_attributes(path)["complete"]
    if workers > 1:
        assert below
        deadline = time.monotonic() + 20
        while any(alive(pid) for pid in below) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(alive(pid) for pid in below)
    answer = CliRunner().invoke(app, [*map(str, command), "--workers", "1", "--resume"])
    assert answer.exit_code == 0, answer.exception
    assert content(path) == content(whole)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_an_error_of_the_disk(rvdflow_process, tmp_path, workers):
    command = ["convert", "glyphs", *GLYPHS, "-o", tmp_path / "a.zarr", "--workers", workers]
    code, _, error = rvdflow_process(*command, limit=2000).wait()
    assert code == 5, error
    assert len(error.strip().splitlines()) <= 2


def test_a_second_writer_is_refused(tmp_path, whole):
    lock = dataset.create(tmp_path / "a.zarr", variables={}, coords={}, sizes={}, attrs={})
    with lock:
        code, _, error = run("glyphs", *GLYPHS, "-o", tmp_path / "a.zarr", "--workers", 1, "--overwrite")
    assert code != 0
    assert f"is being written by process {os.getpid()}" in str(error)
