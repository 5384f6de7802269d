"""Are residuals drawn as large as they are, fine structures and coarse ones alike?

    python benchmarks/drawn_residuals.py --run runs/wake --data flow.zarr [--samplers ddim:8:even:20 ...] [--cases 192]

One frame ahead, for cases spread over the test runs: the standard deviation of true residuals (next frame minus the
network's mean) and of those that each sampler, NAME:CALLS:SPACING:SIGMA_MAX, draws without inflation from the same
noise. Taken of single pixels, of averages over square boxes, and of averages over the first column of pixels, where new
noise enters with the inflow. What the calls of a sampler do not resolve is missing here. In units of the normalised
frame; for runs of one variable.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rvdflow
from lbm.dataset import open_dataset
from rvdflow.config import SamplerConfig
from rvdflow.forecaster import Seen
from rvdflow.frames import Frames, split_trajectories
from rvdflow.portions import Truth

CONTEXT = 4
BOXES = (1, 4, 8)
SAMPLERS = (
    "dpmpp:8:karras:40", "dpmpp:8:karras:80", "dpmpp:8:even:20", "dpmpp:32:karras:40", "ddim:8:even:20",
    "ddim:64:even:20", "heun:8:karras:40", "heun:32:karras:40", "ancestral:32:karras:40",
)  # fmt: skip


def shown(flow: Any, frames: Frames, cases: int) -> tuple[Seen, np.ndarray]:
    """What a forecaster is shown of cases of the test runs, and the frame after each: (case, channel, y, x)."""
    runs = split_trajectories(flow, "test")
    times = np.linspace(CONTEXT - 1, frames.times - 2, max(1, cases // len(runs))).astype(int)
    chosen = [(run, int(t)) for run in runs for t in times]
    after = np.concatenate([frames.read(run, t + 1, t + 2) for run, t in chosen])
    return Truth.of(flow, frames).show(chosen, CONTEXT).seen, after


def deviations(residuals: torch.Tensor, fluid: torch.Tensor) -> list[float]:
    """Standard deviation of box averages and of the first column's, for residuals (case, 1, y, x), 0 in obstacles."""
    found = []
    for size in BOXES:
        share = torch.nn.functional.avg_pool2d(fluid, size)
        boxes = torch.nn.functional.avg_pool2d(residuals, size)
        found.append(float((boxes.square().mean(0) / share.mean(0).clamp(min=1e-6))[share.mean(0) > 0].mean().sqrt()))
    return [*found, float(residuals[..., 0].mean(-1).square().mean().sqrt())]


def main() -> None:
    """Print one row for the truth and one for each sampler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS, metavar="NAME:CALLS:SPACING:SIGMA_MAX")
    parser.add_argument("--cases", type=int, default=192)
    options = parser.parse_args()
    forecaster = rvdflow.load(options.run, threads=1)
    model = forecaster.model
    flow = open_dataset(options.data, chunks=None)
    seen, truth = shown(flow, Frames(flow, forecaster.variables), options.cases)
    state = forecaster._encode(seen)
    fluid = state.given.fluid
    residual = torch.from_numpy(forecaster.normalisation.apply(truth)) - state.outlook.mean
    print(f"{'':22}" + "".join(f"{f'boxes of {size}':>12}" for size in BOXES) + f"{'first column':>14}")
    rows = {"truth": deviations(residual * fluid, fluid)}
    for name in options.samplers:
        kind, calls, spacing, sigma_max = name.split(":")
        sampler = SamplerConfig(name=kind, steps=int(calls), spacing=spacing, sigma_max=float(sigma_max))
        g = torch.Generator().manual_seed(0)
        noise = lambda g=g: torch.randn(residual.shape, generator=g)  # noqa: E731
        with torch.inference_mode():
            rows[name] = deviations(model.sigma * model.draw(state.outlook, noise(), noise, sampler) * fluid, fluid)
    for name, row in rows.items():
        print(f"{name:22}" + "".join(f"{value:12.4f}" for value in row[:-1]) + f"{row[-1]:14.4f}")


if __name__ == "__main__":
    main()
