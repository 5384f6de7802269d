"""What a simulation will cost, and the refusal of what this machine cannot hold, before allocating it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from lbm.config import SimulateConfig
from lbm.console import size
from lbm.errors import ResourceError, UsageError
from lbm.store import MAX_CHUNKS

CHUNK_FRAMES = 20
CHUNK_BYTES = 32 * 2**20
COMPRESSED = 0.85  # size on disk of a float32 flow field, relative to raw (measured 0.80 to 0.88)
PEAK = (
    6  # copies of the populations: at the start, when they are set, and whenever a state is saved (measured 4.5 to 5.8)
)
RATE = {"float32": 3.0e8, "float64": 1.6e8}  # cell updates a second on one core of a recent server


@dataclass(frozen=True)
class Estimate:
    """Memory and disk in bytes, time in seconds (rough: it assumes a recent server core)."""

    memory: float
    disk: float
    seconds: float


def chunk_frames(config: SimulateConfig) -> int:
    """Frames in a chunk: 20, fewer where a frame is so large that 20 would exceed 32 MiB."""
    ny, nx = config.frame_size or config.size
    return max(1, min(CHUNK_FRAMES, config.frames, CHUNK_BYTES // (4 * ny * nx)))


def estimate(config: SimulateConfig, threads: int) -> Estimate:
    """Cost of a resolved configuration on `threads` cores."""
    (ny, nx), (fy, fx) = config.size, config.frame_size or config.size
    runs, fields, bodies = config.runs, len(config.fields), len(config.obstacles or ())
    word = 4 if config.dtype == "float32" else 8
    at_once = min(threads, runs)
    populations = 9 * (ny + 4) * (nx + 64) * word
    states = 9 * ny * nx * word * runs * (-(-config.frames // config.save_states) if config.save_states else 0)
    samples = config.frames * config.every // config.forces_every if config.forces_every else 0
    chunk = chunk_frames(config) * fields * fy * fx * 4
    chunk += 2**14 * 2 * bodies * 8  # of forces
    memory = at_once * (PEAK * populations + 3 * chunk)
    memory += 32 * config.frames + 16 * samples + runs * (fy * fx + 200)
    disk = runs * (config.frames * fields * fy * fx * 4 * COMPRESSED + samples * 2 * bodies * 4)
    disk += states + at_once * populations
    ticks = (config.frames + (config.warmup or 0)) * config.every
    seconds = ticks * ny * nx * runs / RATE[config.dtype] / at_once
    return Estimate(memory, disk, seconds)


def refuse_impossible(config: SimulateConfig, cost: Estimate, path: Path) -> None:
    """Raise `UsageError` when memory, `ResourceError` when the disk cannot hold a simulation."""
    available = available_memory()
    if cost.memory > available:
        ny, nx = config.size
        raise UsageError(
            f"a grid of {ny}x{nx} needs {size(cost.memory)} of memory, {size(available)} are available: "
            "lower --size, --frames or --threads"
        )
    free = shutil.disk_usage(path.parent).free
    if cost.disk > free:
        raise ResourceError(
            f"{path} would take {size(cost.disk)}, {path.parent} has {size(free)} free: "
            "lower --frames, --trajectories or --frame-size, or choose another disk"
        )
    fields, runs = len(config.fields), config.runs
    if runs * fields * -(-config.frames // chunk_frames(config)) > MAX_CHUNKS:
        raise UsageError(
            f"{runs} trajectories of {config.frames} frames make more than {MAX_CHUNKS:,} files: lower them"
        )


def available_memory() -> int:
    """Bytes this process may still take: free and reclaimable memory, within the limit of its cgroup."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        return available
    return min(available, limit)


def cores() -> int:
    """Processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
