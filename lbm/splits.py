"""Which runs are for training, validation and testing: whole runs, never windows of one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lbm.errors import UsageError
from lbm.sweep import column, combinations, digits

if TYPE_CHECKING:
    from lbm.config import SimulateConfig

SPLITS = ("train", "validation", "test")
DEFAULT_TRAJECTORIES = 10
PRIMES = (2, 3, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53)  # 5 is in the golden ratio
IRRATIONAL = ((math.sqrt(5) - 1) / 2, *(math.sqrt(prime) for prime in PRIMES))


def splits(config: SimulateConfig) -> list[str]:
    """Name of the split of each run of a resolved configuration.

    Without a sweep: train, then validation, then test. With one, runs inside a held-out range are `test`; of the
    others each split takes its count, spread evenly over the sweep, and train has its ends where it can.
    """
    counts = [int(count) for count in config.split]
    if not config.sweep:
        return [name for name, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    labels = np.full(combinations(config) * (config.trajectories or 1), "test", "U10")
    free = np.flatnonzero(~held_out(config))
    labels[free[_spread_order(config, free)]] = np.repeat(SPLITS, counts)
    return labels.tolist()


def held_out(config: SimulateConfig) -> np.ndarray:
    """Which runs lie inside a held-out range, (runs,) bool; both ends of a range belong to it."""
    inside = np.zeros(combinations(config) * (config.trajectories or 1), bool)
    for name, ranges in config.held_out.items():
        values = column(config, name)
        for low, high in ranges:
            inside |= (values >= low) & (values <= high)
    return inside


def _spread_order(config: SimulateConfig, free: np.ndarray) -> np.ndarray:
    """An order of the runs `free` of which any block is spread evenly over the sweep.

    By the fractional part of i . alpha, alpha being irrational and independent: the golden ratio, whose gaps are the
    most even there are, then roots of primes (Richtmyer 1951).
    """
    each = config.trajectories or 1
    places = [np.repeat(digit, each)[free] for digit in digits(config) if digit.max() > 0]
    if each > 1:
        places.append(free % each)
    place = sum((digit * alpha for digit, alpha in zip(places, IRRATIONAL, strict=False)), np.zeros(len(free))) % 1
    order = np.argsort(place, kind="stable")
    if len(order) < 3:
        return order
    first, last = (int(np.flatnonzero(order == end)[0]) for end in (0, len(order) - 1))
    start = first if (last - first) % len(order) <= (first - last) % len(order) else last
    return np.roll(order, -start)


def split_counts(
    split: tuple[float, float, float], trajectories: int | None, who: str = "--trajectories says"
) -> tuple[int, ...]:
    """Runs in (train, validation, test) from shares or counts. Raises `UsageError`.

    Every share above zero gets a run while there are any, in the order train, test, validation; the
    rest goes one by one to where most is missing.
    """
    total = sum(split)
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        if any(part != int(part) for part in split):
            raise UsageError(f"--split {_joined(split)}: wanted shares that sum to 1 (0.8,0.1,0.1) or counts (12,2,2)")
        if trajectories is not None and total != trajectories:
            raise UsageError(f"--split {_joined(split)} counts {total:g} runs, {who} {trajectories}")
        if total < 1:
            raise UsageError("--split 0,0,0 leaves no runs")
        return tuple(int(part) for part in split)
    number = trajectories if trajectories is not None else DEFAULT_TRAJECTORIES
    counts = [0, 0, 0]
    for index in (0, 2, 1):
        if split[index] > 0 and sum(counts) < number:
            counts[index] = 1
    counts = [max(count, int(number * part)) for count, part in zip(counts, split, strict=True)]
    while sum(counts) > number:  # a guaranteed run was taken from the largest share
        counts[counts.index(max(counts))] -= 1
    for _ in range(number - sum(counts)):
        deficits = [number * part - count for part, count in zip(split, counts, strict=True)]
        counts[deficits.index(max(deficits))] += 1
    return tuple(counts)


def _joined(split: tuple[float, ...]) -> str:
    return ",".join(f"{part:g}" for part in split)
