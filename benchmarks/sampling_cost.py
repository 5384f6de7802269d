"""What a forecast of 32 members x 16 frames costs: the published model with 1600 calls, the modern presets with a few.

    python benchmarks/sampling_cost.py [--size 64] [--members 32] [--device cuda --bfloat16 --compile]

Same machine, same run, same members; rounds are interleaved, so that a busy moment hits everybody. A frame of the
published model is not drawn in full: its 1600 calls are alike, so a few (--calls) are timed and scaled, together with
one whole pass of its mean predictor and context encoder. Frames of the others are drawn in full. Weights are untrained:
the time does not depend on them; what few calls cost in skill is the study's to say (configs/study/samplers.toml).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from rvdflow.build import compile_networks
from rvdflow.config import SamplerConfig
from rvdflow.device import choose_device, choose_threads
from rvdflow.model import ResidualVideoDiffusion
from rvdflow.networks import Given
from rvdflow.train_config import RunConfig

LEAD = 16
OTHERS = ("small", "modern", "one-step")


def build(preset: str, size: int, device: torch.device, compiled: bool) -> ResidualVideoDiffusion:
    """An untrained model for square frames of one channel."""
    config = RunConfig.model_validate({"preset": preset}).model
    torch.manual_seed(0)
    model = ResidualVideoDiffusion(config, channels=1, height=size, width=size).to(device).eval()
    if compiled:
        compile_networks(model)
    return model


def seconds_per_frame(
    model: ResidualVideoDiffusion, members: int, calls: int | None, device: torch.device
) -> Callable[[], float]:
    """A job that draws one frame of all members and returns its seconds, the encoding of the last frame included.

    With `calls` the denoiser is called so often only, and its share scaled to the calls of the default sampler.
    """
    channels, height, width = model.frame_shape
    given = Given(torch.ones(members, 1, height, width), torch.zeros(members, len(model.config.conditions)))
    given = Given(*(x.to(device) for x in given))
    frames = torch.randn(members, 2, channels, height, width).clamp(-1, 1).to(device)
    state = model.encode(frames, given)
    _, state = model.step(state, _noise(members, model, device), SamplerConfig(name="ddim", steps=1))

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def draw(steps: int) -> float:
        sampler = model.config.sampler.model_copy(update={"steps": steps})
        start = clock()
        with torch.inference_mode():
            model.step(state, _noise(members, model, device), sampler)
        return clock() - start

    def job() -> float:
        steps = model.config.sampler.steps
        if calls is None or calls + 1 >= steps:
            return draw(steps)
        one, more = draw(1), draw(1 + calls)
        return one + (steps - 1) * (more - one) / calls

    return job


def _noise(members: int, model: ResidualVideoDiffusion, device: torch.device) -> Callable[..., torch.Tensor]:
    return lambda shape=None: torch.randn(members, *(shape or model.frame_shape), device=device)


def main() -> None:
    """Time, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, choices=(64, 128), default=64, help="pixels of the square frames")
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--calls", type=int, default=4, help="calls of the published denoiser that are timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--bfloat16", action="store_true", help="the networks compute in bfloat16, all of them")
    parser.add_argument("--compile", action="store_true", help="all networks are compiled first")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    device = choose_device(options.device)
    threads = choose_threads()
    jobs, models = {}, {}
    for preset in (f"paper-{options.size}", *OTHERS):
        models[preset] = build(preset, options.size, device, options.compile)
        calls = options.calls if preset.startswith("paper") else None
        jobs[preset] = seconds_per_frame(models[preset], options.members, calls, device)
    rounds: dict[str, list[float]] = {name: [] for name in jobs}
    with torch.autocast(device.type, torch.bfloat16, enabled=options.bfloat16):
        for job in jobs.values() if options.compile or device.type == "cuda" else ():
            job()  # what is compiled, and tried out, when it is first called
        for _ in range(options.rounds):
            for name, job in jobs.items():
                rounds[name].append(job())
    paper = f"paper-{options.size}"
    rows: dict[str, Any] = {}
    for name, model in models.items():
        ratios = [p / t for p, t in zip(rounds[paper], rounds[name], strict=True)]
        rows[name] = {
            "seconds_per_frame": round(statistics.median(rounds[name]), 4),
            "seconds_for_the_forecast": round(LEAD * statistics.median(rounds[name]), 2),
            "times_faster": round(statistics.median(ratios), 1),
            "calls": 1 if model.config.objective == "crps" else model.config.sampler.steps,
            "parameters": sum(p.numel() for p in model.parameters()),
            "scaled_from_calls": options.calls if name == paper else None,
        }
    report = {
        "benchmark": "sampling_cost", "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": threads, "torch": torch.__version__, "frames": f"{options.size} x {options.size}",
        "members": options.members, "lead": LEAD, "precision": "bfloat16" if options.bfloat16 else "float32",
        "compiled": options.compile, "presets": rows,
    }  # fmt: skip
    print(f"{options.members} members x {LEAD} frames of {options.size} x {options.size} on {report['device']}")
    print("| preset | calls a frame | parameters | time | against the published model |\n|---|---|---|---|---|")
    for name, row in rows.items():
        print(
            f"| {name} | {row['calls']} | {row['parameters'] / 1e6:.2f} M | {row['seconds_for_the_forecast']:.1f} s "
            f"| {row['times_faster']:.0f} x |"
        )
    output = options.output or Path(__file__).parent / "results" / f"sampling_cost_{options.size}_{device.type}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
