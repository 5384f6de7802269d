"""Clips -> chunks of `frames`, in this process or in several.

A unit of work is a chunk row: the clips that share chunks, which is one clip mostly. A worker reads and writes, the
process that started it does the rest. Workers are processes (forkserver), end with the process that started them
however it ends, and leave signals to it.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from pathlib import Path

import numpy as np

from lbm.console import Stop
from lbm.dataset import Writer
from lbm.errors import DataError, ResourceError, UsageError
from rvdflow.video.files import regular_size
from rvdflow.video.source import Clip, Read, Source
from rvdflow.video.store import Done, Preparation, Shape

LOOK_EVERY = 0.2  # seconds between two looks at the signals


@dataclass(frozen=True)
class Job:
    """What is the same for all clips."""

    source: Source
    store: Path
    preparation: Preparation
    shape: Shape


@dataclass(frozen=True)
class Row:
    """Clips first, first + 1, ... that share chunks, and those whose files have to be hashed."""

    first: int
    clips: Sequence[Clip]
    hashed: Sequence[Clip]


def convert_row(job: Job, writer: Writer, row: Row) -> Done:
    """Read clips and write their frames; a clip that cannot be read has length 0 and a remark."""
    reads: list[Read] = []
    remarks: dict[int, str] = {}
    for k, clip in enumerate(row.clips, row.first):
        reads.append(_read(job, clip, k, remarks))
    # Chunks of an earlier attempt, beyond what is there now, must not stay.
    shutil.rmtree(writer.path / "frames" / "c" / str(row.first // job.shape.row), ignore_errors=True)
    longest = max(len(read.frames) for read in reads)
    for start in range(0, longest, job.shape.part):
        stop = min(start + job.shape.part, job.shape.frames)
        block = np.zeros((len(reads), stop - start, job.shape.channels, *job.shape.size), dtype=np.uint8)
        for target, read in zip(block, reads, strict=True):
            frames = read.frames[start:stop]
            target[: len(frames)] = np.moveaxis(frames, 3, 1)
        where = slice(row.first, row.first + len(reads))
        writer.write("frames", block, trajectory=where, time=slice(start, stop))
    digests = {clip.source_file: digest(job.source, clip) for clip in row.hashed}
    return Done(row.first, [len(read.frames) for read in reads], [read.extras for read in reads], digests, remarks)


def _read(job: Job, clip: Clip, number: int, remarks: dict[int, str]) -> Read:
    """A clip at the size of the store. UsageError when it cannot be brought to it."""
    shape = (job.shape.channels, *job.shape.size)
    try:
        read = job.source.read(clip, job.preparation)
    except DataError as error:
        remarks[number] = str(error)
        read = Read(np.zeros((0, *job.shape.size, job.shape.channels), dtype=np.uint8))
    except UsageError as error:
        raise UsageError(f"{clip.clip_id}: {error}") from error
    if read.note:
        remarks[number] = read.note
    got = (read.frames.shape[3], *read.frames.shape[1:3])
    if got != shape or read.frames.dtype != np.uint8 or len(read.frames) > clip.stop - clip.first:
        raise ValueError(f"{clip.clip_id}: frames {read.frames.shape} of type {read.frames.dtype}, wanted {shape}")
    return read


def digest(source: Source, clip: Clip) -> str:
    """SHA-256 of the file of a clip; of the hexadecimal SHA-256 of its files, one a line, where there are several.

    Empty where a file cannot be read, and where there is none.
    """
    try:
        found = [_sha256(path) for path in source.files(clip)]
    except (OSError, DataError):
        return ""
    return found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest() if found else ""


def _sha256(path: Path) -> str:
    regular_size(path)  # a pipe would never end
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def results(job: Job, rows: Sequence[Row], workers: int, stop: Stop) -> Iterator[Done]:
    """Convert rows with so many workers (1: this process) until all are done or `stop` is requested.

    What comes back first is yielded first. ResourceError when a worker dies, whatever ended a worker's row otherwise.
    """
    if workers == 1:
        writer = Writer(job.store)
        for row in rows:
            if stop.requested:
                return
            yield convert_row(job, writer, row)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # what workers import is loaded once
    waiting, running = deque(rows), dict[Future[Done], Row]()
    with ProcessPoolExecutor(min(workers, len(rows)), context, _start, (job,)) as pool:
        try:
            while waiting or running:
                while waiting and len(running) <= workers and not stop.requested:
                    row = waiting.popleft()
                    running[pool.submit(_work, row)] = row
                if stop.requested:
                    waiting.clear()
                    for future in [future for future in running if future.cancel()]:
                        del running[future]
                finished, _ = wait(running, timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)
                for future in finished:
                    done = future.result()
                    del running[future]
                    yield done
        except BrokenProcessPool as error:
            names = ", ".join(row.clips[0].clip_id for row in running.values())
            raise ResourceError(
                f"a worker process died (killed, out of memory?) at one of the clips {names}: "
                "go on with --resume, perhaps with fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_mine: tuple[Job, Writer]  # of a worker process


def _start(job: Job) -> None:
    """Called once in each worker process."""
    global _mine
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _mine = job, Writer(job.store)


def _end_with_parent() -> None:
    """A worker waits for work on a pipe of which it holds both ends: nothing else tells it that its parent is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
    os._exit(1)


def _work(row: Row) -> Done:
    return convert_row(*_mine, row)
