"""How long `lbm simulate` takes, output included, and what share of it is output.

    python benchmarks/simulate_speed.py            # 10 trajectories x 1000 frames of 128x128, every 128 ticks
    python benchmarks/simulate_speed.py --quick    # a tenth of the frames

Wall and processor time of the command on all cores, and the share of a frame's processor time that is
not the solver: fields, forces and their Strouhal number, checks, compression, writing.
Writes benchmarks/results/simulate_speed.json.
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


def through_to_zarr(frames: int, folder: Path) -> float:
    """Processor seconds (all threads) of one trajectory without warm-up, written to a dataset."""
    config = SimulateConfig(frames=frames, every=128, trajectories=1, warmup=0)
    began = time.process_time()
    lbm.simulate(config, output=folder / "one.zarr", threads=1, overwrite=True)
    return time.process_time() - began


def solver_alone(frames: int) -> float:
    """Processor seconds of the same ticks by the solver alone."""
    simulation = lbm.Simulation(parameters(SimulateConfig().resolved(), 0))
    began = time.process_time()
    for _ in range(frames):
        simulation.advance(128)
    return time.process_time() - began


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
        # The difference of two lengths leaves out what a dataset costs once (allocation, manifest).
        long = min(through_to_zarr(400, folder) for _ in range(3))
        short = min(through_to_zarr(100, folder) for _ in range(3))
        alone = min(solver_alone(300) for _ in range(3))
        seconds, cpu = command_seconds(frames, folder)
    result = {
        "claim": "lbm simulate --size 128x128 --frames 1000 --trajectories 10 --every 128",
        "frames": 10 * frames,
        "seconds": round(seconds, 2),
        "processor_seconds": round(cpu, 2),
        "frames_per_second": round(10 * frames / seconds, 1),
        "output_share": round(1 - alone / (long - short), 4),
        "solver_mlups_one_core": round(300 * 128**3 / alone / 1e6, 1),
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
