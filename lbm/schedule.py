"""Who runs the trajectories: threads of this process, or the workers of a dask cluster.

    run(crew, numbers) -> submit as many as the crew takes, watch, retry what was lost, stop everybody on request

A crew is one of two classes with the same methods. The client holds the dataset's lock and decides; each run writes
its own chunks, in a thread or, through a file system that all share, on a worker. What is written is the same.
A run whose worker died is begun again from its last restart state (dask does it when it notices the death, and we do
when dask gives up); a run that diverged is not, and the others go on without it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from lbm import console, fence
from lbm.config import SimulateConfig
from lbm.errors import FlowError, NumericalError, ResourceError, UsageError
from lbm.trajectory import GO, STOP, Trajectory
from lbm.writer import Writer

RETRIES = 2  # of a run that failed for no reason of its own
LOOK_EVERY = 0.2  # seconds between two looks at the signals
PATIENCE = 60.0  # seconds to wait for a cluster's first worker

Report = Callable[[int, int], None]  # (trajectory, its ticks so far)


def check_scheduler(scheduler: str) -> None:
    """Refuse a scheduler that is none: `UsageError`."""
    if scheduler not in ("threads", "processes") and "://" not in scheduler:
        raise UsageError(f"--scheduler {scheduler}: wanted threads, processes or an address such as tcp://host:8786")


def reach(scheduler: str, folder: Path) -> None:
    """Find a cluster's workers and see that they share `folder`, before anything is written: `ResourceError`."""
    if "://" not in scheduler:
        return
    with _client(scheduler, 1) as client:
        shared = client.run(os.path.isdir, str(folder.resolve()))
    if not all(shared.values()):
        raise ResourceError(
            f"{folder.resolve()} is not there on all workers of {scheduler}: they must share the folder"
        )


@contextlib.contextmanager
def crew(
    scheduler: str, threads: int, configs: Sequence[SimulateConfig], writer: Writer, numbers: Sequence[int]
) -> Iterator[Threads | Cluster]:
    """Those who will run `numbers`; they are gone at the end of the context."""
    if scheduler == "threads":
        with Threads(configs, writer, threads, len(numbers)) as team:
            yield team
    else:
        with _client(scheduler, max(1, min(threads, len(numbers)))) as client:
            spare = max(1, threads // max(1, len(numbers))) if scheduler == "processes" else 1
            yield Cluster(client, configs, writer, spare)


def run(
    team: Threads | Cluster, numbers: Iterable[int], report: Report, stop: console.Stop, *, quiet: bool = True
) -> list[NumericalError]:
    """Run the trajectories until they are done or `stop` is requested; the runs that diverged.

    Raises what ended a run for good (`ResourceError`, ...), after all others have saved and stopped.
    """
    waiting, running = deque(numbers), dict[Future[Any], int]()
    lost, diverged = Counter[int](), list[NumericalError]()
    try:
        while (waiting or running) and not stop.requested:
            while waiting and len(running) < team.slots:
                number = waiting.popleft()
                running[team.submit(number, report)] = number
            finished, _ = wait(running, timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)
            team.progress(running.values(), report)
            for future in finished:
                number = running.pop(future)
                try:
                    future.result()
                except NumericalError as error:
                    diverged.append(error)
                    console.warn(f"{error}; the other runs go on", quiet=quiet or not (waiting or running))
                except FlowError:
                    raise
                except Exception as error:
                    lost[number] += 1
                    if not team.retries or lost[number] > RETRIES:
                        raise team.gave_up(number, error) from error
                    console.warn(f"trajectory {number} was lost ({_first(error)}): trying again", quiet=quiet)
                    waiting.appendleft(number)
    finally:
        team.stop()
        wait(running, timeout=PATIENCE)
    return diverged


def _first(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


class Threads:
    """Threads of this process, one trajectory each; when few are left, a run gets the threads that are free."""

    retries = False

    def __init__(self, configs: Sequence[SimulateConfig], writer: Writer, threads: int, runs: int) -> None:
        self.configs, self.writer, self.free, self.left = configs, writer, threads, runs
        self.slots = max(1, min(threads, runs))
        self._halt, self._lock = threading.Event(), threading.Lock()
        self._pool = ThreadPoolExecutor(self.slots)
        # Workers of a client that was killed may still be at work on this dataset: no session is theirs now.
        (writer.scratch / "session").unlink(missing_ok=True)

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def submit(self, number: int, report: Report) -> Future[Any]:
        return self._pool.submit(self._work, number, report)

    def _work(self, number: int, report: Report) -> None:
        with self._lock:
            threads = max(1, self.free // max(1, self.left))
            self.free, self.left = self.free - threads, self.left - 1
        try:
            order = lambda: STOP if self._halt.is_set() else GO  # noqa: E731
            Trajectory(
                self.configs[number], self.writer, number, threads=threads, order=order,
                report=lambda ticks: report(number, ticks),
            ).run()  # fmt: skip
        finally:
            with self._lock:
                self.free += threads

    def progress(self, numbers: Iterable[int], report: Report) -> None:
        """Threads report themselves."""

    def stop(self) -> None:
        self._halt.set()

    def gave_up(self, number: int, error: Exception) -> Exception:
        """A failure in a thread of ours is what it is."""
        return error


class Cluster:
    """Workers of a dask cluster that share our file system; they read their orders from it."""

    retries = True

    def __init__(self, client: Any, configs: Sequence[SimulateConfig], writer: Writer, threads: int) -> None:
        self.client, self.configs, self.writer, self.threads = client, configs, writer, threads
        self.session = fence.Session(writer.scratch)
        self._executor = client.get_executor(pure=False)

    @property
    def slots(self) -> int:
        """Twice the threads of all workers, so that none of them waits for us."""
        return max(2, 2 * sum(self.client.nthreads().values()))

    def submit(self, number: int, report: Report) -> Future[Any]:
        path = str(self.writer.path.resolve())
        return self._executor.submit(work, path, self.configs[number], number, self.session.name, self.threads)

    def progress(self, numbers: Iterable[int], report: Report) -> None:
        """Acknowledged frames of the runs in flight, from the dataset itself."""
        for number in numbers:
            frames = int(np.asarray(self.writer.array("frames_written")[number]))
            if frames:
                config = self.configs[number]
                report(number, ((config.warmup or 0) + frames) * config.every)

    def stop(self) -> None:
        self.session.stop()

    def gave_up(self, number: int, error: Exception) -> Exception:
        return ResourceError(
            f"trajectory {number} was lost {RETRIES + 1} times, the last time by {_first(error)}: "
            "look at the workers (memory?), then go on with --resume"
        )


def work(path: str, config: SimulateConfig, number: int, session: str, threads: int) -> None:
    """One trajectory on a worker; a run that is finished already is left alone."""
    from lbm.vectors import prefer_wide_vectors

    prefer_wide_vectors()  # where numba is not loaded yet; speed, not bits
    if not Path(path).is_dir():
        raise ResourceError(f"{path} is not there on the worker: the cluster and this machine must share a file system")
    writer = Writer(Path(path))
    if int(np.asarray(writer.array("frames_written")[number])) >= config.frames:
        return
    claim = fence.Claim(writer.scratch, session, number)
    Trajectory(config, writer, number, threads=threads, order=claim).run()
    claim.release()


def dask_setup(worker: Any) -> None:
    """Called by dask in each worker process of ours: a terminal's Ctrl-C is for the client, which lets them save."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _client(scheduler: str, workers: int) -> Iterator[Any]:
    """A dask client; of a cluster of processes on this machine that only this machine can reach, or of `scheduler`."""
    import logging

    from distributed import Client, LocalCluster

    if scheduler == "processes":
        with (
            LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None,
                memory_limit=0, silence_logs=logging.CRITICAL, preload=["lbm.schedule"],
            ) as cluster,
            Client(cluster) as client,
        ):  # fmt: skip
            yield client
        return
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise ResourceError(f"no dask scheduler answers at {scheduler}: {_first(error)}") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise ResourceError(f"the dask cluster at {scheduler} has no workers") from None
        yield client
