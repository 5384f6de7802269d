"""How fast LPIPS is for ensembles, beside the `lpips` package, in one run on one machine and on the same trunk.

32 members against one truth, grey uint8 frames, as the package is commonly called (once for each pair), as it can be
called at best (all pairs in one batch), and by `evaluation.lpips`, which passes the truth once. The trunk's weights are
random: time and agreement do not depend on them. Rounds are interleaved, so that a busy moment of the machine hits
everybody; the ratio is the median of those of single rounds.

    python benchmarks/lpips_speed.py [--rounds 7] [--output benchmarks/results/lpips_speed.json]
"""

import argparse
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from evaluation.lpips import Lpips, Trunk, build_trunk, read_heads
from evaluation.pointwise import threads_available

MEMBERS = 32
CASES: tuple[tuple[Trunk, int], ...] = (("alex", 64), ("alex", 128), ("vgg", 64))
Job = Callable[[], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved repetitions of each contestant")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "lpips_speed.json")
    options = parser.parse_args()
    torch.set_num_threads(threads_available())
    result = {
        "benchmark": "lpips_speed",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {n: version(n) for n in ("numpy", "torch", "lpips")},
        "members": MEMBERS,
        "rounds": options.rounds,
        "weights": "random trunk, published heads",
        "cases": {f"{trunk}, {side} x {side}": race(trunk, side, options.rounds) for trunk, side in CASES},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    report(result)
    print(f"written to {options.output}")


def race(trunk: Trunk, side: int, rounds: int) -> dict[str, float]:
    """Seconds of each contestant, ratios, and the largest difference."""
    theirs, ours = both(trunk)
    rng = np.random.default_rng(0)
    members = rng.integers(0, 256, (MEMBERS, 1, side, side)).astype(np.uint8)
    truth = rng.integers(0, 256, (1, side, side)).astype(np.uint8)

    def rgb(frames: np.ndarray) -> torch.Tensor:
        return (torch.from_numpy(frames).float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)

    def pairs() -> np.ndarray:
        with torch.inference_mode():
            return np.array([theirs(rgb(member), rgb(truth)).item() for member in members])

    def batch() -> np.ndarray:
        with torch.inference_mode():
            return theirs(rgb(members[:, 0]), rgb(truth).expand(MEMBERS, -1, -1, -1)).ravel().numpy()

    jobs: dict[str, Job] = {
        "evaluation": lambda: ours.ensemble(members, truth)[:, 0],
        "lpips, pair by pair": pairs,
        "lpips, one batch": batch,
    }
    values = {name: job() for name, job in jobs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - start)
    found: dict[str, float] = {}
    for name, times in seconds.items():
        found |= {f"{name}: min s": round(min(times), 4), f"{name}: median s": round(float(np.median(times)), 4)}
    for name in list(jobs)[1:]:
        each = np.divide(seconds[name], seconds["evaluation"])
        found[f"{name} / evaluation"] = round(float(np.median(each)), 2)
        found[f"{name} / evaluation (min)"] = round(min(seconds[name]) / min(seconds["evaluation"]), 2)
        found[f"{name}: largest difference"] = float(np.abs(values[name] - values["evaluation"]).max())
    return found


def both(trunk: Trunk) -> tuple[torch.nn.Module, Lpips]:
    """The package's network and ours, with the same random trunk."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips_package().LPIPS(net=trunk, pretrained=True, pnet_rand=True, verbose=False).eval()
    state = {name.split(".", 1)[1]: values for name, values in theirs.net.state_dict().items()}
    stages = build_trunk(trunk)
    for stage in stages:
        stage.load_state_dict({name: state[name].clone() for name in stage.state_dict()})
    return theirs, Lpips(stages, read_heads(trunk)[0], trunk=trunk)


def lpips_package() -> ModuleType:
    """The package needs torchvision, which beside a CPU build of torch lacks two operators: they are declared."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        lpips_package.library = library  # type: ignore[attr-defined]  # declared as long as it lives
    import lpips

    return lpips


def machine() -> dict[str, object]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"cpu": model, "threads": threads_available(), "python": platform.python_version(), "load_before": load}


def report(result: dict) -> None:
    for case, row in result["cases"].items():
        print(f"\n{case}")
        for name, value in row.items():
            print(f"  {name:<48}{value:10.3g}")


if __name__ == "__main__":
    main()
