"""Exit codes, one-line errors, signals and progress."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import typer

from lbm import console, errors

APP = typer.Typer(add_completion=False)


@APP.command()
def fail(kind: str, times: int = 1, debug: console.Debug = False) -> None:
    """Fail in the way asked for."""
    if kind != "nothing":
        raise {
            "usage": errors.UsageError("got 1, wanted 2"),
            "numerical": errors.NumericalError("diverged"),
            "data": errors.DataError("damaged"),
            "resource": errors.ResourceError("locked"),
            "full": OSError(errno.ENOSPC, "x", "/data/flow.zarr"),
            "denied": PermissionError(errno.EACCES, "x", "/data/flow.zarr"),
            "absent": FileNotFoundError(errno.ENOENT, "x", "/data/flow.zarr"),
            "foreign": ForeignError("two grids"),
            "bug": KeyError("x"),
            "interrupt": KeyboardInterrupt(),
        }[kind]


@APP.command()
def other() -> None:
    """Do nothing."""


class ForeignError(ValueError):
    """An error of another package, which shares nothing with ours but the attribute."""

    exit_code = 4


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["prog", *arguments])
    with pytest.raises(SystemExit) as caught:
        console.run(APP)
    return caught.value.code


@pytest.mark.parametrize(
    ("kind", "code", "text"),
    [
        ("nothing", 0, ""),
        ("usage", 2, "error: got 1, wanted 2\n"),
        ("numerical", 3, "error: diverged\n"),
        ("data", 4, "error: damaged\n"),
        ("resource", 5, "error: locked\n"),
        ("full", 5, "error: /data/flow.zarr: no space left on the device\n"),
        ("denied", 5, "error: /data/flow.zarr: permission denied\n"),
        ("absent", 4, "error: /data/flow.zarr: no such file or directory\n"),
        ("foreign", 4, "error: two grids\n"),
        ("interrupt", 130, ""),
    ],
)
def test_each_error_has_its_exit_code_and_one_line(monkeypatch, capsys, kind, code, text):
    assert run(monkeypatch, "fail", kind) == code
    assert capsys.readouterr().err == text


def test_a_bug_says_so_and_shows_its_traceback_only_on_request(monkeypatch, capsys):
    assert run(monkeypatch, "fail", "bug") == 1
    shown = capsys.readouterr().err
    assert "KeyError" in shown
    assert "Traceback" not in shown
    assert run(monkeypatch, "fail", "data", "--debug") == 4
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["fail"], ["fail", "usage", "--times", "x"], ["fail", "usage", "--tims", "3"], ["nonsense"]]
)
def test_wrong_options_are_two_lines_and_exit_2(monkeypatch, capsys, arguments):
    assert run(monkeypatch, *arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) <= 2


LOOP = """
import time, sys
from lbm.console import Stop
with Stop() as stop:
    print("ready", flush=True)
    while not (stop.requested and {polite}):
        time.sleep(0.01)
    print("saved", flush=True)
    stop.exit()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_asks_and_the_second_ends(number, code):
    for polite, output in ((True, b"saved\n"), (False, b"")):
        command = [sys.executable, "-c", LOOP.format(polite=polite)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            if not polite:
                time.sleep(0.2)
                process.send_signal(number)
            assert process.stdout.read() == output
        assert process.returncode == code


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with console.Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_progress_counts_from_any_thread_and_prints_plain_lines(monkeypatch, capsys):
    monkeypatch.setattr(console, "_PLAIN_INTERVAL", 0.0)
    with console.progress(80, "simulate", unit="frames", done=40) as bar:
        threads = [threading.Thread(target=lambda: [bar.advance() for _ in range(10)]) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert bar.done == 80
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("simulate: 41/80 frames (51 %), ")
    assert lines[-1].startswith("simulate: 80/80 frames (100 %), took ")


def test_quiet_is_silent(monkeypatch, capsys):
    monkeypatch.setattr(console, "_PLAIN_INTERVAL", 0.0)
    with console.progress(2, "x", unit="steps", quiet=True) as bar:
        bar.advance(2, "note")
    console.say("text", quiet=True)
    console.warn("text", quiet=True)
    assert capsys.readouterr() == ("", "")


def test_durations_and_sizes_read_as_people_say_them():
    assert [console.duration(s) for s in (3.21, 42, 125, 3700, float("nan"))] == [
        "3.2 s", "42 s", "2 min 05 s", "1 h 01 min", "unknown time",
    ]  # fmt: skip
    assert [console.size(2**20 * n) for n in (1.5, 2048)] == ["1.5 MiB", "2 GiB"]
