"""Our scores beside those of other libraries, in one run on one machine: time, memory, agreement, targets.

Peers: properscoring, scoringrules (backend "numba"), xskillscore, scores. Forecasts of shape (init 4, lead 16,
member 32, y 128, x 128), one score per pixel, members in the middle as a forecast file holds them; also members last,
the fused pass over all statistics, averages, and 8-bit values. Rounds are interleaved, so that a busy moment of the
machine hits everybody; the minimum says what the code can do, the median what it did. Extra memory is the peak of
NumPy's allocations (tracemalloc) less the result. Streaming from a Zarr store, one chunk for each case, runs in a
process of its own: memory there is the peak of the resident set less what it was after a warm-up on a small store.
Chunks have 8 MiB (frames of 64 x 64), as forecasts of this package do; with --large-cases those of 32 MiB (128 x 128)
are streamed too.

    python benchmarks/scores_peers.py [--rounds 15] [--cases 128] [--large-cases 0] [--folder FOLDER] [--output FILE]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import dask
import numpy as np
import xarray as xr

from evaluation import bootstrap, crps, ensemble_statistics
from evaluation.pointwise import ensemble_scores, threads_available

SHAPE = {"init_time": 4, "lead_time": 16, "member": 32, "y": 128, "x": 128}
POINTS = tuple(d for d in SHAPE if d != "member")
SMALL_FRAME = 64
STREAMS = {"streaming": "Zarr, 8 MiB", "streaming, 32 MiB": "Zarr, 32 MiB"}
FUSED = ("crps", "crps_fair", "variance", "bias", "squared_error", "brier_fair", "rank", "ties")
PACKAGES = ("numpy", "numba", "xarray", "dask", "zarr", "properscoring", "scoringrules", "xskillscore", "scores")
Job = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved repetitions of each contestant")
    parser.add_argument("--cases", type=int, default=128, help="cases of 8 MiB in the store that is streamed")
    parser.add_argument("--large-cases", type=int, default=0, help="cases of 32 MiB in a second such store; 0: none")
    parser.add_argument("--folder", type=Path, default=None, help="where that store is written, and removed again")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "scores_peers.json")
    parser.add_argument("--stream", nargs=2, metavar=("WHO", "STORE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stream:
        print(json.dumps(stream(options.stream[0], Path(options.stream[1]))))
        return
    result: dict = {
        "benchmark": "scores_peers",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {name: version(name) for name in PACKAGES},
        "backends": {"scoringrules": "numba", "xskillscore": "properscoring, dask threads", "scores": "xarray, numpy"},
        "shape": SHAPE,
        "rounds": options.rounds,
        "agreement": agreement(),
        "float32": race(np.float32, options.rounds),
        "uint8": race(np.uint8, options.rounds),
        "bootstrap": bootstrap_race(options.rounds),
        "streaming": streaming(options.cases, SMALL_FRAME, options.folder),
    }
    if options.large_cases:
        result["streaming, 32 MiB"] = streaming(options.large_cases, SHAPE["y"], options.folder)
    result["targets"] = targets(result)
    result["machine"]["load_after"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    report(result)
    print(f"written to {options.output}")


def peers() -> dict[str, Callable[[xr.DataArray, xr.DataArray, str], xr.DataArray | np.ndarray]]:
    """CRPS per point by each library, of (forecast, truth, estimator), where it has that estimator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # properscoring is of 2015, and xskillscore imports it
        import properscoring
        import scores.probability
        import scoringrules
        import xskillscore

    def of_scoringrules(f: xr.DataArray, y: xr.DataArray, estimator: str) -> np.ndarray:
        name, axis = ("fair" if estimator == "fair" else "nrg"), f.dims.index("member")
        return scoringrules.crps_ensemble(y.values, f.values, m_axis=axis, estimator=name, backend="numba")

    def of_scores(f: xr.DataArray, y: xr.DataArray, estimator: str) -> xr.DataArray:
        method = "fair" if estimator == "fair" else "ecdf"
        return scores.probability.crps_for_ensemble(f, y, "member", method=method, preserve_dims="all")

    return {
        "properscoring": lambda f, y, _: properscoring.crps_ensemble(y.values, f.values, axis=f.dims.index("member")),
        "scoringrules (numba)": of_scoringrules,
        "xskillscore": lambda f, y, _: xskillscore.crps_ensemble(y, f, member_dim="member", dim=[]),
        "scores": of_scores,
    }


FAIR = ("scoringrules (numba)", "scores")


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
        "ours": lambda: crps(forecast, truth, dim=()),
        "ours, one thread": lambda: one_thread(lambda: crps(forecast, truth, dim=())),
        "ours, members last": lambda: crps(last, truth, dim=()),
        "ours, fused, per point": lambda: ensemble_scores(f, y, axis=2, names=FUSED, thresholds=[150.0]),
        "ours, averaged": lambda: crps(forecast, truth),
        "ours, fused, averaged": lambda: ensemble_statistics(forecast, truth, dim=POINTS, thresholds=[150.0]),
    }
    for name, score in peers().items():
        jobs[name] = lambda name=name, score=score: score(forecast, truth, "fair" if name in FAIR else "classical")
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
        arrays = result if isinstance(result, tuple) else (result,)
        extra = peak - sum(getattr(array, "nbytes", 0) for array in arrays)
        found[name] = {"extra_mib": round(extra / 2**20, 2), "extra_of_input": round(extra / size, 4)}
        del result, arrays
    for turn in range(rounds):
        for name, job in jobs.items():
            if turn >= 5 and seconds[name][0] > 0.2:
                continue  # slow ones need fewer repetitions
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
    """Largest difference per pixel from each library: float64 noise of order one, and 8-bit values."""
    rng = np.random.default_rng(1)
    forecast = xr.DataArray(rng.normal(size=(2, 32, 64, 64)), dims=("init_time", "member", "y", "x"))
    truth = xr.DataArray(rng.normal(size=(2, 64, 64)), dims=("init_time", "y", "x"))
    found = {}
    for name, score in peers().items():
        for estimator in ("classical", "fair") if name in FAIR else ("classical",):
            ours = crps(forecast, truth, estimator=estimator, dim=())  # type: ignore[arg-type]
            found[f"{estimator} float64 vs {name}"] = greatest(ours, score(forecast, truth, estimator))
    grey = example(np.uint8, lead_time=2)
    exact = peers()["properscoring"](*(a.astype(float) for a in grey), "classical")
    found["classical uint8 vs properscoring"] = greatest(crps(*grey, estimator="classical", dim=()), exact)
    return found


def greatest(a: xr.DataArray, b: xr.DataArray | np.ndarray) -> float:
    other = b.transpose(*a.dims).values if isinstance(b, xr.DataArray) else b
    return float(np.abs(a.values - other).max())


def streaming(cases: int, frame: int, folder: Path | None) -> dict[str, dict[str, float]]:
    """Mean CRPS by lead of a Zarr store, each contestant twice in a process of its own; the better is kept."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write_store(Path(place) / "store.zarr", cases, frame)
        write_store(Path(place) / "small.zarr", 1, frame)
        for who in ("ours", "ours, dask", "xskillscore, dask") * 2:
            command = [sys.executable, __file__, "--stream", who, f"{place}/store.zarr"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
            if who not in found or row["seconds"] < found[who]["seconds"]:
                found[who] = row
    return found


def write_store(path: Path, cases: int, frame: int) -> None:
    """Cases of frame x frame points, an uncompressed chunk each: one block of noise, rolled."""
    forecast, truth = example(np.float32, init_time=1, y=frame, x=frame)
    empty = xr.Dataset(
        {
            "forecast": forecast.chunk().isel(init_time=[0] * cases).chunk(init_time=1),
            "truth": truth.chunk().isel(init_time=[0] * cases).chunk(init_time=1),
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = {name: {"compressors": None} for name in empty}  # noise: reading is to cost little for everybody
        empty.to_zarr(path, compute=False, zarr_format=3, consolidated=False, encoding=plain)
        for case in range(cases):
            one = xr.Dataset({"forecast": forecast.roll(x=case), "truth": truth.roll(y=case)})
            one.to_zarr(path, region={"init_time": slice(case, case + 1)}, zarr_format=3, consolidated=False)


def stream(who: str, path: Path) -> dict[str, float]:
    """Runs in a process of its own: seconds, and the peak of the resident set over the state after a warm-up."""
    if "xskillscore" in who:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import xskillscore
    lazy = "dask" in who

    def run(store: Path) -> xr.DataArray:
        data = xr.open_zarr(store, chunks={} if lazy else None, consolidated=False)
        if "xskillscore" in who:
            dims = ["init_time", "y", "x"]
            score = xskillscore.crps_ensemble(data["truth"], data["forecast"], member_dim="member", dim=dims)
        else:
            score = crps(data["forecast"], data["truth"], estimator="classical", dim=["init_time", "y", "x"])
        return score.compute()

    with dask.config.set(scheduler="threads", num_workers=threads_available()):
        run(path.with_name("small.zarr"))
        base = resident("VmRSS")
        clear = Path("/proc/self/clear_refs")
        if clear.exists():
            clear.write_text("5")  # the peak starts again from here
        start = time.perf_counter()
        score = run(path)
        seconds = time.perf_counter() - start
    stored = xr.open_zarr(path, chunks=None, consolidated=False)["forecast"]
    chunk = stored.nbytes / stored.sizes["init_time"]
    peak = resident("VmHWM") - base
    return {"seconds": round(seconds, 3), "peak_chunks": round(peak / chunk, 2), "value": float(score.mean())}


def resident(which: str) -> int:
    """Bytes of the resident set: VmRSS now, VmHWM at most (0 where the system does not say)."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(which)), 0)


def targets(result: dict) -> list[dict[str, object]]:
    """What was asked, what was measured (from minima), and whether that is enough."""
    rows: list[dict[str, object]] = []

    def row(
        what: str, asked: str, measured: float, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        met = measured >= at_least if at_least is not None else measured <= (at_most or 0.0)
        rows.append({"what": what, "asked": asked, "measured": float(f"{measured:.3g}"), "met": bool(met)})

    for kind, least in (("float32", 8.0), ("uint8", 30.0)):
        times = {name: r["min_s"] for name, r in result[kind].items()}
        ours = times["ours"]
        for peer in ("properscoring", "scoringrules (numba)", "xskillscore", "scores"):
            row(f"CRPS {kind}: {peer} / ours", f">= {least:g}", times[peer] / ours, at_least=least)
        row(f"CRPS {kind}: members middle / last", "<= 1.2", ours / times["ours, members last"], at_most=1.2)
        row(f"CRPS {kind}: extra memory / input", "<= 0.05", result[kind]["ours"]["extra_of_input"], at_most=0.05)
        extra = result[kind]["ours, averaged"]["extra_of_input"]
        row(f"CRPS {kind}, averaged: extra memory / input", "<= 0.05", extra, at_most=0.05)
        row(f"{kind}: fused / CRPS, per point", "<= 1.5", times["ours, fused, per point"] / ours, at_most=1.5)
        fused = times["ours, fused, averaged"]
        row(f"{kind}: fused averaged / CRPS per point", "<= 1.5", fused / ours, at_most=1.5)
        row(f"{kind}: fused averaged / CRPS averaged", "<= 1.5", fused / times["ours, averaged"], at_most=1.5)
    for name, value in result["agreement"].items():
        limit = 0.0 if "uint8" in name else 1e-12
        row(f"agreement, {name}", f"<= {limit:g}", value, at_most=limit)
    for key, label in STREAMS.items():
        streams = result.get(key, {})
        for who in ("ours", "ours, dask") if streams else ():
            ratio = streams["xskillscore, dask"]["seconds"] / streams[who]["seconds"]
            row(f"{label}: xskillscore + dask / {who}", ">= 5", ratio, at_least=5.0)
            row(f"{label}: peak memory in chunks, {who}", "<= 3", streams[who]["peak_chunks"], at_most=3.0)
    boot = {name: r["min_s"] for name, r in result["bootstrap"].items()}
    again = 100 * boot["scoring again, 10 resamples"] / boot["bootstrap, 1000 resamples"]
    row("1000 resamples: scoring again / bootstrap", ">= 20", again, at_least=20.0)
    return rows


def machine() -> dict[str, object]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"cpu": model, "threads": threads_available(), "python": platform.python_version(), "load_before": load}


def report(result: dict) -> None:
    for kind in ("float32", "uint8", "bootstrap"):
        print(f"\n{kind:<34}{'min s':>9}{'median s':>10}{'extra MiB':>11}")
        for name, row in result[kind].items():
            print(f"{name:<34}{row['min_s']:9.4f}{row['median_s']:10.4f}{row['extra_mib']:11.1f}")
    for key in STREAMS:
        if key in result:
            print(f"\n{key:<34}{'seconds':>9}{'peak, chunks':>14}")
            for name, row in result[key].items():
                print(f"{name:<34}{row['seconds']:9.2f}{row['peak_chunks']:14.2f}")
    print(f"\n{'target':<56}{'asked':>10}{'measured':>12}  met")
    for row in result["targets"]:
        print(f"{row['what']:<56}{row['asked']:>10}{row['measured']:12.3g}  {'yes' if row['met'] else 'NO'}")


if __name__ == "__main__":
    main()
