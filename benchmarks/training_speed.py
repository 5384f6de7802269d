"""What a training step costs: presets, precisions, with and without torch.compile; throughput and memory.

    python benchmarks/training_speed.py [--presets paper-128 modern] [--size 128] [--batch-size 8] [--device cuda]

Each combination runs in a process of its own, so that its memory is its own; the rounds of all are interleaved, so that
a busy moment hits everybody. A first step, in which torch compiles and allocates, is told apart. Clips are random
numbers: the time does not depend on them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from rvdflow.build import build_model
from rvdflow.device import choose_device, choose_threads, denormals_as_zero
from rvdflow.networks import Batch, Given
from rvdflow.optimise import Optimiser
from rvdflow.run import memory_mib
from rvdflow.train_config import RunConfig


@denormals_as_zero()
def measure(preset: str, precision: str, compiled: bool, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the first step, and of each of some more, in this process."""
    device, threads = choose_device(options.device), choose_threads()
    train = {"batch_size": options.batch_size, "precision": precision, "compile": compiled}
    config = RunConfig.model_validate({"preset": preset, "train": train})
    height, width = options.size
    optimiser = Optimiser(build_model(config, (1, height, width)), config.train, device)
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(options.batch_size, config.model.clip_frames, 1, height, width, generator=generator)
    numbers = torch.zeros(options.batch_size, len(config.model.conditions))
    batch = Batch(clips.clamp(-1, 1), Given(torch.ones(options.batch_size, 1, height, width), numbers))

    def step() -> float:
        began = time.perf_counter()
        optimiser.advance(batch, 0.1)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    first = step()
    step()
    seconds = [step() for _ in range(options.steps)]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    return {
        "first_step": first, "step": statistics.median(seconds), "memory_mib": memory_mib(device),
        "parameters": sum(p.numel() for p in optimiser.model.parameters()), "device": name, "threads": threads,
    }  # fmt: skip


def main() -> None:
    """Time, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["paper-128", "modern"])
    parser.add_argument("--size", type=int, nargs="+", default=[128], help="pixels: one number, or height and width")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="steps timed in each round, after two that are not")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--device", default="auto")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.size = (options.size * 2)[:2]
    if options.one:
        preset, precision, compiled = options.one
        print(json.dumps(measure(preset, precision, compiled == "True", options)))
        return
    compiling = (False,) if options.no_compile else (False, True)
    variants = list(itertools.product(options.presets, options.precisions, compiling))
    found: dict[tuple[str, str, bool], list[dict[str, Any]]] = {variant: [] for variant in variants}
    for _, variant in itertools.product(range(options.rounds), variants):
        command = [sys.executable, __file__, *sys.argv[1:], "--one", *map(str, variant)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, variant))}: {done.stderr.strip().splitlines()[-1]}")
        found[variant].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for (preset, precision, compiled), rounds in found.items():
        step = statistics.median(one["step"] for one in rounds)
        rows.append({
            "preset": preset, "precision": precision, "compile": compiled, "seconds_per_step": round(step, 4),
            "clips_per_second": round(options.batch_size / step, 2), "parameters": rounds[0]["parameters"],
            "first_step": round(statistics.median(one["first_step"] for one in rounds), 2),
            "memory_mib": round(max(one["memory_mib"] for one in rounds)),
        })  # fmt: skip
    about = found[variants[0]][0]
    report = {
        "benchmark": "training_speed", "date": datetime.now(UTC).strftime("%Y-%m-%d"), "device": about["device"],
        "threads": about["threads"], "torch": torch.__version__, "batch_size": options.batch_size,
        "frames": " x ".join(map(str, options.size)), "rows": rows,
    }  # fmt: skip
    print(f"{options.batch_size} clips a step, frames of {report['frames']}, on {report['device']}")
    print("| preset | precision | compiled | clips/s | step | first step | memory |\n|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['preset']} | {row['precision']} | {'yes' if row['compile'] else 'no'} "
            f"| {row['clips_per_second']:.1f} | {row['seconds_per_step']:.3f} s | {row['first_step']:.1f} s "
            f"| {row['memory_mib']} MiB |"
        )
    kind = choose_device(options.device).type
    output = options.output or Path(__file__).parent / "results" / f"training_speed_{options.size[1]}_{kind}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
