"""The whole pipeline on a small vortex street, by the very commands a user would type.

Each step is a command line, printed before it runs and timed; a step whose output is complete is skipped, one that
was stopped goes on: the same command continues an interrupted demo.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lbm import dataset as store
from lbm.console import Stop, duration, say
from lbm.errors import DataError, FlowError, UsageError
from rvdflow.checkpoint import replace_file

# What --quick changes: every step still runs, on less of everything. Its forecasts are poor.
QUICK_SIMULATION = [
    "--trajectories",
    "6",
    "--split",
    "4,1,1",
    "--frames",
    "60",
    "--warmup",
    "40",
    "--save-states",
    "16",
]
QUICK_TRAINING = ["--steps", "20", "--set", "calibration.cases=0"]
# Init times at which the solver's state is saved too, so that its own forecast can stand beside the others.
MEMBERS, QUICK_MEMBERS = "16", "4"
REFERENCES = ("persistence", "climatology", "analog", "linear-inverse")
CASES = ["--lead", "16", "--init-times", "64,128,192,256,320"]
QUICK_CASES = ["--lead", "8", "--init-times", "16,32,48"]


@dataclass(frozen=True)
class Step:
    """One command line; `complete` says that its output is there, `begun` that it can be resumed."""

    arguments: list[str]
    complete: Callable[[], bool]
    begun: Callable[[], bool]
    again: str = "--resume"


def demo(folder: Path, *, quick: bool = False, overwrite: bool = False) -> Path:
    """Run the demo in `folder`; returns the path of the report.

    Raises UsageError when `folder` holds something else, FlowError with a command's exit code when it fails.
    """
    _prepare(folder, quick, overwrite)
    began = time.monotonic()
    for step in steps(folder, quick):
        _run(step)
    report = folder / "report" / "index.html"
    say(f"\nDone in {duration(time.monotonic() - began)}. Open {report} in a browser.")
    return report


def steps(folder: Path, quick: bool) -> list[Step]:
    """The commands of the demo, in order."""
    flow, run = folder / "flow.zarr", folder / "run"
    forecasts = {"rvd": folder / "forecast.zarr"} | {method: folder / f"{method}.zarr" for method in REFERENCES}
    perfect, cases = folder / "perfect-model.zarr", QUICK_CASES if quick else CASES
    members = QUICK_MEMBERS if quick else MEMBERS
    simulate = ["lbm", "simulate", "--config", str(find_config("lbm/wake_demo.toml")), "-o", str(flow)]
    train = ["rvdflow", "train", "--data", str(flow), "-o", str(run)]
    train += ["--config", str(find_config("rvdflow/wake_demo.toml"))]
    listed = [
        _store_step(simulate + (QUICK_SIMULATION if quick else []), flow),
        Step(
            train + (QUICK_TRAINING if quick else []),
            complete=(run / "checkpoints" / "final.pt").is_file,
            begun=(run / "config.json").is_file,
        ),
    ]
    for method, output in forecasts.items():
        which = ["--checkpoint", str(run)] if method == "rvd" else ["--method", method]
        forecast = ["rvdflow", "forecast", "--data", str(flow), *which, "--ensemble", members, "--context", "4"]
        forecast += [*cases, "-o", str(output)]
        listed.append(_store_step(forecast, output))
    ceiling = ["lbm", "ensemble", "--from", str(flow), "--members", members, *cases, "-o", str(perfect)]
    listed.append(_store_step(ceiling, perfect))
    verify = ["rvdflow", "verify", *map(str, forecasts.values()), str(perfect), "--truth", str(flow)]
    verify += ["-o", str(folder / "scores.zarr"), "--report", str(folder / "report")]
    # Verification is short: it is done anew each time, and ends with the table one came for.
    listed.append(Step(verify, complete=lambda: False, begun=(folder / "scores.zarr").exists, again="--overwrite"))
    return listed


def _store_step(arguments: list[str], output: Path) -> Step:
    def complete() -> bool:
        try:
            return store.read_attributes(output).get("complete") is True
        except DataError:
            return False

    return Step(arguments, complete, output.exists)


def _run(step: Step) -> None:
    arguments = step.arguments
    if step.complete():
        say(f"\n(done already) {shlex.join(arguments)}")
        return
    if step.begun():
        arguments = [*arguments, step.again]
    say(f"\n$ {shlex.join(arguments)}")
    began = time.monotonic()
    # Its own process group: the terminal's Ctrl-C reaches only us, and is passed on once.
    process = subprocess.Popen([sys.executable, "-m", *arguments], process_group=0)
    with Stop(what="stopping: the command at hand saves its work") as stop:
        passed_on = False
        while process.poll() is None:
            if stop.requested and not passed_on:
                process.send_signal(stop.requested)
                passed_on = True
            time.sleep(0.05)
        if stop.requested:
            stop.exit()
    if process.returncode:
        error = FlowError(f"`{arguments[0]} {arguments[1]}` failed; `rvdflow demo` goes on from there")
        error.exit_code = process.returncode if process.returncode > 0 else 128 - process.returncode
        raise error
    say(f"  ({duration(time.monotonic() - began)})")


def _prepare(folder: Path, quick: bool, overwrite: bool) -> None:
    note, settings = folder / "demo.json", {"quick": quick}
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: name another folder with -o")
    if folder.is_dir() and any(folder.iterdir()):
        if not note.is_file():
            raise UsageError(f"{folder} exists and is not a demo's folder: name another one with -o")
        if overwrite:
            _clear(folder)
        elif json.loads(note.read_text()) != settings:
            raise UsageError(f"{folder} holds a demo made with other options: --overwrite, or another -o")
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(note, json.dumps(settings).encode())


def _clear(folder: Path) -> None:
    """Delete what a demo makes, and nothing else."""
    import shutil

    names = ("flow", "forecast", *REFERENCES, "perfect-model", "scores")
    for name in ("run", "report", *(f"{name}.zarr" for name in names)):
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            shutil.rmtree(folder / name)


def find_config(name: str) -> Path:
    """A configuration shipped with the software: `configs/NAME` of the checkout, or of the installed package."""
    here = Path(__file__).resolve().parent
    for root in (here.parent / "configs", here / "configs"):
        if (root / name).is_file():
            return root / name
    raise DataError(f"configs/{name} was not found beside the package {here}: reinstall it, or run from a checkout")
