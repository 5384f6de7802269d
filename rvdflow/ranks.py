"""Several processes on one job: which one this is, and the few things they tell each other.

`torchrun --nproc-per-node K -m rvdflow ...` starts K processes, called ranks, and names each by environment variables.
Without them there is one process, nothing is initialised, and every call below returns at once.
Numbers of the host are exchanged by gloo over TCP, those of GPUs by NCCL.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from lbm.errors import ResourceError, UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `size`, and number `local` on its machine. Rank 0 does what only one may do."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.max([0.0])

    def mean_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its mean over all ranks; the result is the same, to the bit, on every rank."""
        if self.size > 1:
            _together(lambda: dist.all_reduce(tensor))
            tensor /= self.size
        return tensor

    def max(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over all ranks."""
        if self.size == 1:
            return [float(v) for v in values]
        tensor = torch.tensor([float(v) for v in values], dtype=torch.float64)
        _together(lambda: dist.all_reduce(tensor, dist.ReduceOp.MAX))
        return tensor.tolist()

    def all_true(self, flag: bool) -> bool:
        """Whether `flag` holds on every rank."""
        return self.max([float(not flag)]) == [0.0]

    def broadcast_object(self, value: T) -> T:
        """`value` of rank 0."""
        if self.size == 1:
            return value
        held = [value]
        _together(lambda: dist.broadcast_object_list(held, device=torch.device("cpu")))
        return held[0]

    def alone(self, work: Callable[[], T]) -> T:
        """What `work` returns on rank 0. Where it fails there, the other ranks end without a word of their own."""
        if self.size == 1:
            return work()
        value, code = None, 0
        try:
            if self.first:
                value = work()
        except BaseException as error:
            code = getattr(error, "exit_code", None) or 1
            raise
        finally:
            value, code = self.broadcast_object((value, code))
        if code:
            raise SystemExit(code)
        return value  # type: ignore[return-value]

    def stop(self) -> None:
        """Take leave of the other ranks; afterwards none of the above works."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def start(device: torch.device, *, patience: timedelta | None = None) -> Ranks:
    """The ranks that torchrun has named, connected; rank 0 of 1 without it. A GPU "cuda" becomes that of this rank.

    `patience` is how long one waits for another that is alive (default: that of torch); the end of one is noticed at
    once.

    UsageError when one GPU is named for several ranks, or a machine has fewer GPUs than ranks.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Ranks()
    ranks = Ranks(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        if device.index is not None:
            raise UsageError(f"--device {device}: with {size} processes each takes its own GPU, name --device cuda")
        if ranks.local >= torch.cuda.device_count():
            have = torch.cuda.device_count()
            raise UsageError(f"process {ranks.local + 1} on this machine has no GPU, there are {have}: start {have}")
        torch.cuda.set_device(ranks.local)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    _together(lambda: dist.init_process_group(backend, timeout=patience))
    return ranks


def _together(work: Callable[[], Any]) -> None:
    try:
        work()
    except RuntimeError as error:
        line = " ".join(str(error).split())[:160]
        raise ResourceError(f"another process of this job has ended or cannot be reached ({line})") from error
