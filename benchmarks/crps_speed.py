"""How fast the CRPS is, beside properscoring and scoringrules, in one run on one machine.

Forecasts of shape (init 4, lead 16, member 32, y 128, x 128), one score per pixel, members in the middle as a
forecast file holds them; also members last, the fused pass over all statistics, and 8-bit values. Rounds are
interleaved, so that a busy moment of the machine hits everybody; the minimum says what the code can do, the median
what it did. Extra memory is the peak of allocations less the result.

    python benchmarks/crps_speed.py [--rounds 15] [--output benchmarks/results/crps_speed.json]
"""

import argparse
import json
import os
import platform
import time
import tracemalloc
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import scoringrules
import xarray as xr

from evaluation import bootstrap, crps, ensemble_statistics
from evaluation.pointwise import threads_available

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # properscoring is of 2015
    import properscoring

SHAPE = {"init_time": 4, "lead_time": 16, "member": 32, "y": 128, "x": 128}
POINTS = tuple(d for d in SHAPE if d != "member")
Job = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved repetitions of each contestant")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "crps_speed.json")
    options = parser.parse_args()
    result = {
        "benchmark": "crps_speed",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {n: version(n) for n in ("numpy", "numba", "xarray", "properscoring", "scoringrules")},
        "shape": SHAPE,
        "rounds": options.rounds,
        "agreement": agreement(),
        "float32": race(np.float32, options.rounds),
        "uint8": race(np.uint8, options.rounds),
        "bootstrap": bootstrap_race(options.rounds),
    }
    result["ratios"] = ratios(result)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    report(result)
    print(f"written to {options.output}")


def example(dtype: type, **sizes: int) -> tuple[xr.DataArray, xr.DataArray]:
    """A forecast and its truth, members in the middle."""
    shape = SHAPE | sizes
    rng = np.random.default_rng(0)
    forecast: np.ndarray = rng.normal(128, 40, size=tuple(shape.values())).clip(0, 255).astype(dtype)
    truth: np.ndarray = rng.normal(128, 40, size=tuple(shape[d] for d in POINTS)).clip(0, 255).astype(dtype)
    return xr.DataArray(forecast, dims=tuple(shape)), xr.DataArray(truth, dims=POINTS)


def race(dtype: type, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds (minimum, median) and extra memory of each contestant."""
    forecast, truth = example(dtype)
    last = forecast.transpose(*POINTS, "member").copy()
    f, y = forecast.values, truth.values
    jobs: dict[str, Job] = {
        "evaluation.crps": lambda: crps(forecast, truth, dim=()),
        "evaluation.crps, one thread": lambda: one_thread(lambda: crps(forecast, truth, dim=())),
        "evaluation.crps, members last": lambda: crps(last, truth, dim=()),
        "evaluation.crps, averaged": lambda: crps(forecast, truth),
        "evaluation.ensemble_statistics": lambda: ensemble_statistics(forecast, truth),
        "properscoring": lambda: properscoring.crps_ensemble(y, f, axis=2),
        "scoringrules (numba)": lambda: scoringrules.crps_ensemble(y, f, m_axis=2, estimator="fair", backend="numba"),
    }
    return measure(jobs, rounds, size=f.nbytes)


def bootstrap_race(rounds: int) -> dict[str, dict[str, float]]:
    """A thousand resamples of ten runs: from their means, and by scoring again (ten resamples, times a hundred)."""
    forecast, truth = example(np.float32, init_time=10, lead_time=4, member=8, y=64, x=64)
    runs = crps(forecast, truth, dim=["y", "x"]).to_dataset(name="crps")
    rng = np.random.default_rng(0)

    def score_again() -> None:
        for _ in range(10):
            pick = rng.integers(10, size=10)
            crps(forecast.isel(init_time=pick), truth.isel(init_time=pick), dim=["init_time", "y", "x"])

    jobs: dict[str, Job] = {
        "bootstrap, 1000 resamples": lambda: bootstrap(runs, lambda mean: mean["crps"], block_dim="init_time"),
        "scoring again, 10 resamples": score_again,
    }
    return measure(jobs, min(rounds, 5), size=forecast.values.nbytes)


def measure(jobs: dict[str, Job], rounds: int, size: int) -> dict[str, dict[str, float]]:
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    found = {}
    for name, job in jobs.items():  # compiles, and measures memory, which slows down
        job()
        tracemalloc.start()
        result = job()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        extra = peak - getattr(result, "nbytes", 0)
        found[name] = {"extra_mib": round(extra / 2**20, 2), "extra_of_input": round(extra / size, 4)}
        del result
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        found[name] |= {"min_s": round(min(times), 5), "median_s": round(float(np.median(times)), 5)}
    return found


def one_thread(job: Job) -> object:
    os.environ["NUMBA_NUM_THREADS"] = "1"
    try:
        return job()
    finally:
        del os.environ["NUMBA_NUM_THREADS"]


def agreement() -> dict[str, float]:
    """Largest difference per pixel: float64 noise of order one, and 8-bit values."""
    rng = np.random.default_rng(1)
    forecast = xr.DataArray(rng.normal(size=(4, 32, 64, 64)), dims=("init_time", "member", "y", "x"))
    truth = xr.DataArray(rng.normal(size=(4, 64, 64)), dims=("init_time", "y", "x"))
    bytes_f, bytes_y = example(np.uint8, lead_time=2)
    fair = scoringrules.crps_ensemble(truth.values, forecast.values, m_axis=1, estimator="fair", backend="numba")
    classical = properscoring.crps_ensemble(truth.values, forecast.values, axis=1)
    grey = properscoring.crps_ensemble(bytes_y.values.astype(float), bytes_f.values.astype(float), axis=2)
    return {
        "classical float64 vs properscoring": greatest(crps(forecast, truth, estimator="classical", dim=()), classical),
        "fair float64 vs scoringrules": greatest(crps(forecast, truth, estimator="fair", dim=()), fair),
        "classical uint8 vs properscoring": greatest(crps(bytes_f, bytes_y, estimator="classical", dim=()), grey),
    }


def greatest(a: xr.DataArray, b: np.ndarray) -> float:
    return float(np.abs(a.values - b).max())


def ratios(result: dict) -> dict[str, float]:
    """How many times faster, from minima and from medians."""
    out = {}
    for kind in ("float32", "uint8"):
        times = result[kind]
        for which in ("min_s", "median_s"):
            ours, tag = times["evaluation.crps"][which], f"{kind}, {which.removesuffix('_s')}"
            single = times["evaluation.crps, one thread"][which]
            for other in ("properscoring", "scoringrules (numba)"):
                out[f"{other} / ours ({tag})"] = round(times[other][which] / ours, 2)
                out[f"{other} / ours on one thread ({tag})"] = round(times[other][which] / single, 2)
            out[f"members last / middle ({tag})"] = round(times["evaluation.crps, members last"][which] / ours, 2)
            out[f"all statistics / crps ({tag})"] = round(times["evaluation.ensemble_statistics"][which] / ours, 2)
    boot = result["bootstrap"]
    again = 100 * boot["scoring again, 10 resamples"]["min_s"]
    out["scoring again / bootstrap (min)"] = round(again / boot["bootstrap, 1000 resamples"]["min_s"], 1)
    return out


def machine() -> dict[str, object]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    threads = threads_available()
    return {"cpu": model, "threads": threads, "python": platform.python_version(), "load_before": load}


def report(result: dict) -> None:
    for kind in ("float32", "uint8", "bootstrap"):
        print(f"\n{kind:<34}{'min s':>9}{'median s':>10}{'extra MiB':>11}")
        for name, row in result[kind].items():
            print(f"{name:<34}{row['min_s']:9.4f}{row['median_s']:10.4f}{row['extra_mib']:11.1f}")
    print()
    for part in ("ratios", "agreement"):
        for name, value in result[part].items():
            print(f"{name:<66}{value:10.3g}")


if __name__ == "__main__":
    main()
