"""Random numbers as a pure function of what they are for.

Every stream is named by the seed and by what it serves: a training step, or one member of one forecast case.
Nothing depends on what was drawn before, so a stopped job goes on with the same numbers, and a forecast
is the same (beyond rounding) however its cases and members are grouped into batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rvdflow.streams import numpy_generator, stream_seed

__all__ = ["Draws", "MemberNoise", "numpy_generator", "stream_seed", "torch_generator"]


def torch_generator(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator at the start of the stream called `names`."""
    return torch.Generator(device).manual_seed(stream_seed(seed, *names))


class Draws:
    """Random numbers of one training step, one row per clip.

    Of the `total` clips of a step this process handles `count`, from number `first` on. The numbers of all are drawn
    and those of the others thrown away, so a clip has the same ones however a step is divided among processes or into
    parts.
    """

    def __init__(self, generator: torch.Generator, total: int, first: int = 0, count: int | None = None):
        self.generator, self.total = generator, total
        self.rows = slice(first, first + (total if count is None else count))

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal numbers (count, *shape)."""
        return torch.randn(self.total, *shape, generator=self.generator, device=self.generator.device)[self.rows]

    def uniform(self, *shape: int) -> torch.Tensor:
        """Numbers (count, *shape) between 0 and 1."""
        return torch.rand(self.total, *shape, generator=self.generator, device=self.generator.device)[self.rows]

    def integers(self, low: int, high: int, *shape: int) -> torch.Tensor:
        """Integers (count, *shape), at least `low` and below `high`."""
        size, device = (self.total, *shape), self.generator.device
        return torch.randint(low, high, size, generator=self.generator, device=device)[self.rows]


class MemberNoise:
    """Standard normal frames for some members of some cases; calling it draws the next ones.

    `cases` are (trajectory, init_time) pairs, `members` member numbers, `frame` = (channel, y, x). A call returns
    (cases * members, channel, y, x), members of a case side by side. Each member draws from its own stream,
    always on the CPU: the numbers are the same on every device. Another shape may be asked for: `noise((16,))`.
    """

    def __init__(
        self,
        seed: int,
        cases: Sequence[tuple[int, int]],
        members: Sequence[int],
        frame: tuple[int, int, int],
        device: str | torch.device = "cpu",
    ):
        self.generators = [
            torch_generator(seed, "member", trajectory, init_time, member)
            for trajectory, init_time in cases
            for member in members
        ]
        self.frame = frame
        self.device = device

    def __call__(self, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        wanted = self.frame if shape is None else shape
        draws = torch.empty(len(self.generators), *wanted)
        for row, generator in zip(draws, self.generators, strict=True):
            torch.randn(wanted, generator=generator, out=row)
        return draws.to(self.device)
