"""A verification of far more data than fits in memory: lazily generated dask arrays through the public functions.

The forecast (trajectory, init_time, member 32, lead_time 16, y 128, x 128) float32 has a chunk for each case: one
block of noise, rolled by another amount each time, which costs one copy. `ensemble_statistics(..., dim=...)` averages
all statistics, ranks and events over trajectories, cases and cells, keeping the lead time; with `--verify` the same
arrays go through `evaluation.verify`. Prints GB/s and the peak of the resident set, and fails above the limit.

    python benchmarks/verify_large.py [--gigabytes 50] [--limit 4] [--verify [--scores points]]
"""

import argparse
import resource
import sys
import time

import dask
import dask.array as da
import numpy as np
import xarray as xr

from evaluation import ensemble_statistics, verify
from evaluation.pointwise import threads_available

MEMBERS, LEADS, SIDE, INITS = 32, 16, 128, 10
POINTS = ("trajectory", "init_time", "lead_time", "y", "x")
DIMS = ("trajectory", "init_time", "member", "lead_time", "y", "x")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=50.0, help="size of the forecast")
    parser.add_argument("--limit", type=float, default=4.0, help="most memory allowed, in GB")
    parser.add_argument("--verify", action="store_true", help="through evaluation.verify")
    parser.add_argument("--scores", help="only some of its families of statistics, as points,events; default: all")
    options = parser.parse_args(arguments)
    case = 4 * MEMBERS * LEADS * SIDE * SIDE
    runs = max(2, round(options.gigabytes * 1e9 / case / INITS))
    start = time.perf_counter()
    with dask.config.set(scheduler="threads", num_workers=threads_available()):
        if options.verify:
            through_verify(runs, options.scores.split(",") if options.scores else None)
        else:
            through_statistics(runs)
    seconds, size = time.perf_counter() - start, runs * INITS * case / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    print(f"{size:.1f} GB in {seconds:.1f} s: {size / seconds:.2f} GB/s, peak memory {peak:.2f} GB", flush=True)
    if peak > options.limit:
        raise SystemExit(f"more than {options.limit:g} GB")


def noise(shape: tuple[int, ...], chunks: tuple[int, ...]) -> da.Array:
    """Blocks of one and the same noise, rolled along x by the place of the block."""
    block = np.random.default_rng(0).normal(size=chunks).astype(np.float32)

    def rolled(block_info: dict | None = None) -> np.ndarray:
        place = block_info[None]["chunk-location"] if block_info else (0,)
        return np.roll(block, 7 * sum(place), axis=-1)

    full = tuple((c,) * (n // c) for n, c in zip(shape, chunks, strict=True))
    return da.map_blocks(rolled, chunks=full, dtype=np.float32, meta=np.empty((0,) * len(shape), np.float32))


def through_statistics(runs: int) -> None:
    forecast = noise((runs, INITS, MEMBERS, LEADS, SIDE, SIDE), (1, 1, MEMBERS, LEADS, SIDE, SIDE))
    truth = noise((runs, INITS, LEADS, SIDE, SIDE), (1, 1, LEADS, SIDE, SIDE))
    over = ["trajectory", "init_time", "y", "x"]
    found = ensemble_statistics(
        xr.DataArray(forecast, dims=DIMS), xr.DataArray(truth, dims=POINTS), dim=over, thresholds=[1.0]
    ).compute()
    print("fair CRPS by lead:", np.round(found["crps_fair"].values, 4))


def through_verify(runs: int, families: list[str] | None) -> None:
    forecast = noise((runs, INITS, MEMBERS, LEADS, SIDE, SIDE), (1, 1, MEMBERS, LEADS, SIDE, SIDE))
    frames = INITS + LEADS + 1
    truth = noise((runs, frames, SIDE, SIDE), (1, frames, SIDE, SIDE))
    axes = {"trajectory": np.arange(runs), "y": np.arange(SIDE), "x": np.arange(SIDE)}
    leads = {"init_time": np.arange(INITS), "lead_time": np.arange(1, LEADS + 1), "member": np.arange(MEMBERS)}
    scores = verify(
        xr.Dataset({"vorticity": (("trajectory", "time", "y", "x"), truth)}, axes | {"time": np.arange(frames)}),
        {"noise": xr.Dataset({"vorticity": (DIMS, forecast)}, axes | leads)},
        families=families,
    )
    print("fair CRPS by lead:", np.round(scores["crps"].mean(["method", "trajectory", "init_time"]).values, 4))


if __name__ == "__main__":
    main()
