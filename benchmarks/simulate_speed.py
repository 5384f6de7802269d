"""How long `lbm simulate` takes, output included, and what share of it is not the solver.

    python benchmarks/simulate_speed.py            # 10 trajectories x 1000 frames of 128x128, every 128 ticks
    python benchmarks/simulate_speed.py --quick    # a tenth of the frames

Three figures, each from its own run: the command on all cores; one trajectory on one core through to
Zarr; the same ticks by the solver alone. Writes benchmarks/results/simulate_speed.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lbm
from lbm.config import SimulateConfig
from lbm.provenance import provenance
from lbm.recording import parameters
from lbm.vectors import prefer_wide_vectors


def processor() -> str:
    """Name of the processor, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def command_seconds(frames: int, folder: Path) -> tuple[float, float]:
    """(wall, processor) seconds of the command of the claim, the start of Python included."""
    output = folder / "command.zarr"
    options = f"--size 128x128 --frames {frames} --trajectories 10 --every 128 --quiet".split()
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "lbm", "simulate", *options, "-o", str(output)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, cpu


def one_core(frames: int, folder: Path, name: str) -> tuple[float, float]:
    """Processor seconds of one trajectory without warm-up: (through to Zarr, solver alone).

    Processor time of all threads, so that a busy machine does not decide the share.
    """
    config = SimulateConfig(frames=frames, every=128, trajectories=1, warmup=0)
    began = time.process_time()
    lbm.simulate(config, output=folder / f"{name}.zarr", threads=1)
    through = time.process_time() - began
    simulation = lbm.Simulation(parameters(config.resolved(), 0))
    began = time.process_time()
    for _ in range(frames - 1):  # frame 0 is the initial state
        simulation.advance(128)
    return through, time.process_time() - began


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the frames")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "simulate_speed.json")
    arguments = parser.parse_args()
    frames = 100 if arguments.quick else 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prefer_wide_vectors()  # as the command does
        lbm.simulate(size="16x32", diameter=4.0, frames=2, every=2, warmup=0, output=folder / "compile.zarr")
        pairs = [one_core(min(frames, 300), folder, f"one-{repeat}") for repeat in range(3)]
        seconds, cpu = command_seconds(frames, folder)
    through, alone = (min(values) for values in zip(*pairs, strict=True))
    result = {
        "claim": "lbm simulate --size 128x128 --frames 1000 --trajectories 10 --every 128",
        "frames": 10 * frames,
        "seconds": round(seconds, 2),
        "processor_seconds": round(cpu, 2),
        "frames_per_second": round(10 * frames / seconds, 1),
        "output_share_of_one_core": round(1 - alone / through, 4),
        "solver_mlups_one_core": round((min(frames, 300) - 1) * 128 * 128 * 128 / alone / 1e6, 1),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "processor": processor(),
        "date": datetime.date.today().isoformat(),
        **provenance(),
    }
    print(json.dumps(result, indent=2))
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
