"""Whoever runs the trajectories, the dataset is the same; what is lost is run again, what diverges is not."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import lbm
import lbm.flow
from lbm import console, dataset, fence, schedule
from lbm.config import SimulateConfig
from lbm.errors import NumericalError, ResourceError, UsageError
from lbm.trajectory import GO, LEAVE, STOP

SMALL = {
    "size": (32, 64), "diameter": 6.0, "viscosity": 0.02, "frames": 23, "every": 10, "warmup": 2,
    "trajectories": 3, "noise_transverse": 0.1, "forces_every": 2, "save_states": 5,
}  # fmt: skip


def files_of(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def by_threads(tmp_path_factory):
    return lbm.simulate(output=tmp_path_factory.mktemp("threads") / "flow.zarr", threads=2, **SMALL)


def test_processes_write_the_bytes_of_threads(tmp_path, by_threads):
    path = lbm.simulate(output=tmp_path / "flow.zarr", threads=2, scheduler="processes", **SMALL)
    assert files_of(path) == files_of(by_threads)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flow.zarr"]


CLUSTER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=2, host="127.0.0.1", dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


def test_a_cluster_at_an_address_writes_the_bytes_of_threads(tmp_path, by_threads):
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as cluster:
        try:
            address = cluster.stdout.readline().strip()
            path = lbm.simulate(output=tmp_path / "flow.zarr", scheduler=address, **SMALL)
        finally:
            cluster.stdin.close()
    assert files_of(path) == files_of(by_threads)


def test_nobody_at_the_address_is_said_in_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"--scheduler cluster: wanted threads, processes or an address"):
        lbm.simulate(output=tmp_path / "flow.zarr", scheduler="cluster", **SMALL)
    assert list(tmp_path.iterdir()) == []


# Some 0.8 s of solver time in each of four runs, saving often, so that a kill can hit any part of the work.
OPTIONS = shlex.split(
    "simulate --size 64x96 --diameter 8 --viscosity 0.02 --bulk-viscosity 0.2 --frames 300 --every 240 --warmup 5 "
    "--trajectories 4 --noise-transverse 0.1 --forces-every 24 --save-states 100 --threads 2 --quiet"
)
# A file, because the processes of workers run its first part too: they save as often. With PAUSE they rest after
# every save, so that a run lasts longer than the signal to it takes on a busy machine.
SAVING = """
import os, time
import lbm.trajectory
lbm.trajectory.SAVE_EVERY = 0.0
save = lbm.trajectory.Trajectory._save
def save_and_rest(self):
    save(self)
    time.sleep(float(os.environ.get("PAUSE", 0)))
lbm.trajectory.Trajectory._save = save_and_rest
if __name__ == "__main__":
    import lbm.cli
    lbm.cli.main()
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    script = tmp_path_factory.mktemp("command") / "saving.py"
    script.write_text(SAVING)

    def start(*arguments, **options):
        words = [sys.executable, str(script), *OPTIONS, *map(str, arguments)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

    return start


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, command):
    path = tmp_path_factory.mktemp("undisturbed") / "flow.zarr"
    with command("-o", path) as process:
        _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return path


def at_work(process, path):
    """Workers of this process that have claimed a trajectory."""
    found = set()
    for claim in path.glob("restart/*.claim"):
        try:
            worker = int(claim.read_text().split()[-1])
            state, parent = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, IndexError):  # the run, or the worker, has just ended
            continue
        if int(parent) == process.pid and state != "Z":
            found.add(worker)
    return found


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_run_of_a_killed_worker_is_made_again(tmp_path, undisturbed, command, kills):
    rng = np.random.default_rng(kills)
    path = tmp_path / "flow.zarr"
    killed = set()
    with command("--scheduler", "processes", "-o", path, env=os.environ | {"PAUSE": "0.05"}) as process:
        while len(killed) < kills and process.poll() is None:
            wait_for(lambda: at_work(process, path), process)
            time.sleep(rng.uniform(0, 0.2))
            for worker in sorted(at_work(process, path))[:1]:
                os.kill(worker, signal.SIGKILL)
                killed.add(worker)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert len(killed) == kills
    assert files_of(path) == files_of(undisturbed)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flow.zarr"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_stops_all_workers_and_saves(tmp_path, undisturbed, command, number, code):
    """Sent to the whole process group, as a terminal does with Ctrl-C."""
    path = tmp_path / "flow.zarr"
    slow = os.environ | {"PAUSE": "0.05"}
    with command("--scheduler", "processes", "-o", path, start_new_session=True, env=slow) as process:
        wait_for(lambda: list(path.glob("restart/*.npz")), process)
        os.killpg(process.pid, number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == code, error.decode()
    assert b"Traceback" not in error
    assert dataset.read_attributes(path)["complete"] is False
    assert dataset.progress(path)[0] > 0  # frames are acknowledged after the state that follows them is saved
    lbm.simulate(output=path, resume=True, threads=2)
    assert files_of(path) == files_of(undisturbed)


def test_a_divergence_lets_the_others_finish_and_is_not_tried_again(tmp_path, monkeypatch):
    begun = Counter()

    class Diverging(lbm.flow.Simulation):
        def __init__(self, p, threads=1):
            super().__init__(p, threads)
            begun[p.trajectory] += 1

        def check(self):
            if self.parameters.trajectory == 1 and self.tick > 85:
                raise NumericalError(f"diverged at tick {self.tick}")
            super().check()

    monkeypatch.setattr(lbm.flow, "Simulation", Diverging)
    path = tmp_path / "flow.zarr"
    with pytest.raises(NumericalError, match=r"diverged at tick 90 \(its 7 good frames are kept\)"):
        lbm.simulate(output=path, threads=1, **SMALL)
    ds = lbm.open_dataset(path, allow_incomplete=True)
    assert ds["frames_written"].values.tolist() == [23, 7, 23]
    assert np.isfinite(ds["vorticity"][1, :7]).all()
    assert np.isnan(ds["vorticity"][1, 7:]).all()
    assert begun == {0: 2, 1: 1, 2: 1}  # one is made beforehand, to compile


class Crew:
    """Runs that fail as told, in threads."""

    retries, slots = True, 2

    def __init__(self, failures):
        self.failures, self.tried, self.stopped = failures, Counter(), threading.Event()
        self.pool = ThreadPoolExecutor(2)

    def submit(self, number, report) -> Future:
        return self.pool.submit(self.work, number)

    def work(self, number):
        self.tried[number] += 1
        failures = self.failures.get(number, [])
        if self.tried[number] <= len(failures):
            raise failures[self.tried[number] - 1]

    def progress(self, numbers, report):
        pass

    def stop(self):
        self.stopped.set()

    gave_up = schedule.Cluster.gave_up


def run(crew, numbers=range(5)):
    try:
        return schedule.run(crew, numbers, lambda number, ticks: None, console.Stop())
    finally:
        crew.pool.shutdown()


def test_lost_runs_are_tried_again_and_finished_ones_are_not():
    crew = Crew({1: [OSError("lost"), RuntimeError("killed")]})
    assert run(crew) == []
    assert crew.tried == {0: 1, 1: 3, 2: 1, 3: 1, 4: 1}


def test_a_run_that_is_lost_again_and_again_ends_the_sweep():
    crew = Crew({1: [MemoryError("out of memory")] * 9})
    with pytest.raises(ResourceError, match=r"trajectory 1 was lost 3 times.*MemoryError: out of memory.*--resume"):
        run(crew)
    assert crew.stopped.is_set()


def test_divergences_are_collected():
    crew = Crew({1: [NumericalError("one")] * 9, 3: [NumericalError("three")] * 9})
    assert {str(error) for error in run(crew)} == {"one", "three"}
    assert crew.tried == dict.fromkeys(range(5), 1)


def test_a_full_disk_stops_everybody_at_once():
    crew = Crew({0: [ResourceError("no space left")]})
    with pytest.raises(ResourceError, match="no space left"):
        run(crew, range(1000))
    assert crew.stopped.is_set()
    assert sum(crew.tried.values()) < 10


@pytest.mark.parametrize(("threads", "runs", "shares"), [(2, 2, [1, 1]), (4, 2, [2, 2]), (3, 1, [3]), (5, 2, [2, 3])])
def test_threads_that_are_free_go_to_the_runs_that_are_left(tmp_path, monkeypatch, threads, runs, shares):
    given = []
    together = threading.Barrier(runs)

    class Counting:
        def __init__(self, config, writer, number, *, threads, order, report):
            given.append(threads)

        def run(self):
            together.wait(10)

    monkeypatch.setattr(schedule, "Trajectory", Counting)
    writer = type("W", (), {"scratch": tmp_path})()
    with schedule.Threads([SimulateConfig()] * runs, writer, threads, runs) as crew:
        schedule.run(crew, range(runs), lambda number, ticks: None, console.Stop())
    assert sorted(given) == shares
    assert crew.free == threads


def test_the_number_of_threads_in_a_run_changes_no_byte(tmp_path):
    options = {**SMALL, "trajectories": 1, "size": (96, 64)}
    paths = [lbm.simulate(output=tmp_path / f"{n}.zarr", threads=n, **options) for n in (1, 2)]
    assert files_of(paths[0]) == files_of(paths[1])


def test_a_worker_that_was_given_up_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(fence, "LOOK_EVERY", 0.0)
    session = fence.Session(tmp_path)
    first = fence.Claim(tmp_path, session.name, 3)
    assert first() == GO
    second = fence.Claim(tmp_path, session.name, 3)
    assert (first(), second()) == (LEAVE, GO)
    other = fence.Claim(tmp_path, session.name, 4)
    session.stop()
    assert (first(), second(), other()) == (LEAVE, STOP, STOP)
    newer = fence.Session(tmp_path)  # of a client that resumes
    assert (second(), other()) == (LEAVE, LEAVE)
    assert fence.Claim(tmp_path, newer.name, 3)() == GO


def test_a_worker_of_an_ended_session_claims_nothing(tmp_path):
    session = fence.Session(tmp_path)
    claim = fence.Claim(tmp_path, session.name, 0)
    fence.Session(tmp_path)
    before = files_of(tmp_path)
    late = fence.Claim(tmp_path, session.name, 0)
    assert late() == LEAVE
    assert files_of(tmp_path) == before
    claim.release()
    claim.release()


def test_a_cluster_that_does_not_answer_leaves_the_dataset_alone(tmp_path):
    settings = {"size": "16x32", "diameter": 4.0, "frames": 2, "every": 2, "warmup": 0, "trajectories": 1}
    path = lbm.simulate(**settings, output=tmp_path / "keep.zarr")
    before = dataset.digest(path)
    with pytest.raises(ResourceError, match="no dask scheduler answers"):
        lbm.simulate(**settings, output=path, overwrite=True, scheduler="tcp://127.0.0.1:1")
    assert dataset.digest(path) == before
