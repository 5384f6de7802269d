"""Which device computes, and with how many threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from lbm.errors import UsageError


def choose_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" takes a GPU when there is one. UsageError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r} is not known: use auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {name!r} asked for, but torch {torch.__version__} sees no GPU here: use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} asked for, there are {torch.cuda.device_count()}: cuda:0 is the first")
    return device


def choose_threads(threads: int | None = None) -> int:
    """Set the number of CPU threads torch computes with; returns it.

    Default: the cores this process may use, divided among the processes that torchrun started on this machine.

    Results are equal to the bit only for equal numbers of threads, because sums are then split alike.
    """
    if threads is None:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if threads < 1:
        raise UsageError(f"--threads {threads}: at least 1")
    torch.set_num_threads(threads)
    return threads


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Take numbers too small for full precision as zero, in this thread and in those that it starts meanwhile.

    Gates that are shut leave gradients of 1e-40, on which a processor computes many times slower than on others. The
    caller's arithmetic is as it was afterwards.
    """
    kept = bool(np.float32(1e-40) * np.float32(1.0) > 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(not kept)
