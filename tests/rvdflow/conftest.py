"""Builders shared by the tests of training and forecasting: a tiny flow dataset, a tiny network, cheap processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lbm import dataset as store
from rvdflow.train_config import RunConfig

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as the command does, before torch is imported
SPLIT = ("train", "train", "validation", "test")


def _build(
    path: Path,
    *,
    variables: tuple[str, ...] = ("vorticity",),
    times: int = 24,
    size: tuple[int, int] = (8, 16),
    split: tuple[str, ...] = SPLIT,
    interval: int = 64,
    change: Callable[[np.ndarray], None] | None = None,
) -> Path:
    """A travelling wave with noise and an obstacle of 2 x 2 cells; `change` edits (trajectory, time, y, x)."""
    ny, nx = size
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:ny, :nx]
    phase = rng.uniform(0, 6, (len(split), 1, 1, 1))
    t = np.arange(times)[:, None, None]
    wave = np.sin(0.6 * x - 0.4 * t + phase) * np.cos(0.5 * y)
    frames = (0.02 * (wave + 0.1 * rng.standard_normal(wave.shape)) + 0.005).astype(np.float32)
    if change is not None:
        change(frames)
    solid = np.zeros((len(split), ny, nx), dtype=bool)
    solid[:, 2:4, 3:5] = True
    frames[np.broadcast_to(solid[:, None], frames.shape)] = 0
    dims = ("trajectory", "time", "y", "x")
    described = {
        name: store.Variable(dims, "float32", {"units": "1/tick"}, chunks=(1, 8, ny, nx)) for name in variables
    }
    described["solid"] = store.Variable(("trajectory", "y", "x"), "bool", {}, values=solid)
    described["split"] = store.Variable(("trajectory",), "str", {}, values=np.array(split))
    writer = store.create(
        path,
        variables=described,
        coords={"time": ("time", np.arange(times), {})},
        sizes={"trajectory": len(split), "time": times, "y": ny, "x": nx},
        attrs={"frame_interval": interval},
    )
    with writer:
        for k in range(len(split)):
            for name in variables:
                for a in range(0, times, 8):
                    b = min(a + 8, times)
                    writer.write(name, frames[k, a:b], trajectory=k, time=slice(a, b))
            writer.mark(trajectory=k, time=slice(0, times))
        writer.finish()
    return path


def _tiny(**train: object) -> RunConfig:
    settings = {"steps": 10, "batch_size": 2, "checkpoint_every": 4, "log_every": 3, "warmup_steps": 2}
    settings["validations"] = 2
    return RunConfig.model_validate(
        {
            "preset": "small",
            "model": {
                "width": 4,
                "multipliers": (1, 2),
                "levels": "discrete",
                "diffusion_steps": 50,
                "sampler": {"steps": 2, "spacing": "even"},
            },
            "train": {**settings, **train},
            "validation": {"cases": 2, "members": 2, "context": 3, "lead": 3, "clips": 4},
            "calibration": {"cases": 2, "members": 2, "context": 3, "lead": 4},
        }
    )


CLIP = {"context_frames": 2, "clip_frames": 5}
SYSTEMS: dict[str, dict[str, Any]] = {
    "svg-lp": {**CLIP, "width": 0.125, "units": 64, "z_channels": 3},
    # half of the training is the warm-up of the KL
    "ivrnn": {**CLIP, "width": 0.25, "latent_stages": (0, 2), "z_channels": (12, 16), "kl_warmup": 0.5},
    "convgru": {**CLIP, "architecture": "compact", "base": 8, "multipliers": (1, 2), "unroll": 2},
    "retrogan": {"width": 0.0625, "residual_blocks": 1},
    # three stages of two steps each; in the first step of a stage it begins to fade in
    "futuregan": {"levels": 2, "width": 0.03125, "context_frames": 3, "future_frames": 2, "deviation_group": 2,
                  "fade": 1.0, "grown_by": 1.0},
    "dvd-gan": {"width": 0.0625, "latent": 12, "context_frames": 3, "future_frames": 5, "scored_frames": 2},
    "timegrad": {**CLIP, "modes": 6, "lags": (1, 2), "units": 16, "condition": 12, "net_layers": 2},
}  # fmt: skip


def _system(name: str, **train: Any) -> RunConfig:
    values = {"steps": 6, "batch_size": 2, "checkpoint_every": 2, "log_every": 1, "warmup_steps": 0, "validations": 2}
    return RunConfig.model_validate(
        {
            "preset": f"{name}-small",
            "model": SYSTEMS[name],
            "train": {**values, **train},
            "validation": {"cases": 3, "members": 2, "context": 3, "lead": 3, "clips": 4},
        }
    )


@pytest.fixture(scope="session")
def system_config() -> Callable[..., RunConfig]:
    """A configuration of another system that trains within seconds: `system_config("svg-lp", steps=3)`."""
    return _system


@pytest.fixture(scope="session")
def build() -> Callable[..., Path]:
    """Writes a small flow dataset: `build(path, **changes)`."""
    return _build


@pytest.fixture(scope="session")
def tiny() -> Callable[..., RunConfig]:
    """A configuration that trains in a second: `tiny(steps=20)`."""
    return _tiny


@pytest.fixture(scope="session")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small flow dataset that no test changes."""
    return _build(tmp_path_factory.mktemp("flow") / "flow.zarr")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, flow: Path) -> Path:
    """A run folder of a few training steps that no test changes."""
    from rvdflow.train import train

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(flow, folder, _tiny(), threads=1, quiet=True)
    return folder


# ------------------------------------------------------------------ command lines as processes

# Importing torch takes seconds, so one process does it and forks a child for each command line. It has started no
# thread by then. The child is a process like any other: it can be killed, stopped, and run out of disk.
NURSERY = """
import json, os, resource, sys, threading, time, traceback
import torch, torch._dynamo, xarray, zarr
import lbm.console, rvdflow.cli, rvdflow.train, rvdflow.forecast, rvdflow.baselines, rvdflow.info, rvdflow.model

def end(number, after, delay):
    "Sends this process a signal `delay` seconds after its progress has reached `after`; it cannot finish before."
    advance = lbm.console.Progress.advance
    def counted(bar, n=1, note=""):
        advance(bar, n, note)
        if bar.done >= after > bar.done - n:
            if delay:
                threading.Timer(delay, os.kill, (os.getpid(), number)).start()
            else:
                os.kill(os.getpid(), number)
        elif bar.done > after and delay:
            time.sleep(60)
    lbm.console.Progress.advance = counted

for line in sys.stdin:
    job = json.loads(line)
    if "wait" in job:
        pid, status = os.waitpid(job["wait"], job["options"])
        print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
        continue
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        continue
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(job["cwd"])
    if job["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
    os.environ.update(job["env"])
    if job["signal"]:
        end(*job["signal"])
    sys.argv = ["rvdflow", *job["arguments"]]
    code = 1
    try:
        exec(job["code"], {})
        if job["arguments"]:
            rvdflow.cli.main()
        code = 0
    except SystemExit as exit:
        code = exit.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
"""


class Process:
    """A running `rvdflow` command line."""

    def __init__(self, ask: Callable[[dict], object], folder: Path, arguments: list[str], cwd: Path | None, **job: Any):
        self.ask, self.returncode = ask, None
        stem = f"{len(list(folder.glob('*.out'))):03d}"
        self.files = [folder / f"{stem}.out", folder / f"{stem}.err"]
        for file in self.files:
            file.touch()  # at once: the next process counts them
        out, err = map(str, self.files)
        self.pid = ask({"out": out, "err": err, "cwd": str(cwd or folder), "arguments": arguments, **job})

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.ask({"wait": self.pid, "options": os.WNOHANG})
        return self.returncode

    def wait(self) -> tuple[int, str, str]:
        """(exit code, standard output, standard error) once it has ended."""
        if self.returncode is None:
            self.returncode = self.ask({"wait": self.pid, "options": 0})
        return (self.returncode, *(file.read_text() for file in self.files))

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; fails when the process ends before."""
        deadline = time.monotonic() + 60
        while not condition():
            assert self.poll() is None, self.wait()
            assert time.monotonic() < deadline
            time.sleep(0.003)


@pytest.fixture(scope="session")
def rvdflow_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Process]]:
    """Starts a command line: `rvdflow_process("info", "runs/a", limit=None, cwd=None, signal=None, env={}, code="")`.

    limit: the largest file it may write, bytes; signal: (number, after, delay) is sent `delay` seconds after the
    progress of the command has reached `after`, and the command cannot end before; env: variables of its environment;
    code: Python it runs first, or all it runs where there is no command line.
    """
    nursery = subprocess.Popen(
        [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    folder = tmp_path_factory.mktemp("processes")
    assert nursery.stdin is not None
    assert nursery.stdout is not None

    def ask(question: dict) -> object:
        nursery.stdin.write(json.dumps(question) + "\n")
        nursery.stdin.flush()
        return json.loads(nursery.stdout.readline())

    def start(
        *arguments: object,
        limit: int | None = None,
        cwd: Path | None = None,
        signal: tuple[int, int, float] | None = None,
        env: dict[str, str] | None = None,
        code: str = "",
    ) -> Process:
        job = {"limit": limit, "signal": signal, "env": env or {}, "code": code}
        return Process(ask, folder, [str(a) for a in arguments], cwd, **job)

    yield start
    nursery.stdin.close()
    nursery.wait(30)
    nursery.stdout.close()


@pytest.fixture
def start_ranks(rvdflow_process: Callable[..., Process]) -> Callable[..., list[Process]]:
    """Starts a command line as so many processes, as torchrun would: `start_ranks(2, "train", ...)`.

    Further settings as of `rvdflow_process`; a list of them has one for each rank.
    """

    def start(size: int, *arguments: object, **settings: Any) -> list[Process]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
        shared |= {"LOCAL_WORLD_SIZE": str(size)}
        processes = []
        for rank in range(size):
            own = {k: v[rank] if isinstance(v, list) else v for k, v in settings.items()}
            env = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(rvdflow_process(*arguments, env=env, **own))
        return processes

    return start
