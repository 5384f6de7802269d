"""How fast the solver runs on this machine, and how fast its memory would let it run: `lbm benchmark`.

Speed is counted in MLUPS, million updates of a lattice cell per second, of a channel with a cylinder, inlet, outlet,
walls and the forces on the cylinder, all boundary work included, in three ways: one thread, n threads on bands of
rows of one run, n independent runs side by side.

Memory bandwidth B is measured in between by three loops over arrays much larger than the last cache. What is counted
is what moves: an ordinary store to a line that is not in the cache reads that line first (write-allocate), so

    update  a = s a       2 words per element    read, write (the line is already there)
    copy    a = b         3 words                read, write-allocate, write
    triad   a = b + s c   4 words                two reads, write-allocate, write

(where a processor or a non-temporal store saves the write-allocate, the true figure is lower). B is the best of the
three. An update of a D2Q9 cell moves, where the grid does not fit the cache,

    two arrays            27 words               9 reads, 9 write-allocates, 9 writes
    in place              18 words               9 reads, 9 writes
    in place, two ticks in one sweep   9 words   what this solver does

and the bound of each is B / (words x bytes per word). A grid that fits the cache may exceed all of them.
"""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from lbm.errors import UsageError
from lbm.estimate import available_memory, cores
from lbm.flow import FlowParameters, Simulation
from lbm.obstacles import Obstacle
from lbm.provenance import provenance

SIZES = ((128, 128), (256, 512), (1024, 2048))
DTYPES = ("float32", "float64")
TWO_ARRAYS, IN_PLACE, FUSED = 27, 18, 9  # words that one update of a cell moves
MOVED = {"update": 2, "copy": 3, "triad": 4}  # words per element
CHUNK = 20_000_000  # cell updates between two looks at the clock


def benchmark(
    sizes: Sequence[tuple[int, int]] = SIZES,
    dtypes: Sequence[str] = DTYPES,
    threads: int | None = None,
    seconds: float = 2.0,
) -> dict[str, Any]:
    """Measure speed and memory bandwidth; plain numbers and text, ready for JSON. Nothing is written.

    sizes: (ny, nx) of each grid; threads: of the parallel figures, None: one per core; seconds: spent on each figure.
    The figures of one grid are taken in turns, so that other work on the machine disturbs all of them alike.
    Raises UsageError for sizes, precisions or times that make no sense or do not fit into memory.
    """
    threads = cores() if threads is None else threads
    _refuse(sizes, dtypes, threads, seconds)
    counts = sorted({1, threads})
    arrays = Arrays()
    before = [arrays.bandwidth(n) for n in counts]
    measured = [
        (ny, nx, dtype, *figure)
        for ny, nx in sizes
        for dtype in dtypes
        for figure in _figures(channel(ny, nx, dtype), threads, seconds)
    ]
    bandwidth = {}
    for n, early in zip(counts, before, strict=True):
        late = arrays.bandwidth(n)
        bandwidth[str(n)] = {name: round(max(early[name], late[name]), 2) for name in MOVED}
    return {
        "machine": machine(),
        "threads": threads,
        "seconds": seconds,
        "bandwidth": {"unit": "GB/s", "moved_words": MOVED, "array_mib": arrays.mib, "threads": bandwidth},
        "rows": [_row(*figure, max(bandwidth[str(figure[4])].values())) for figure in measured],
    }


def channel(ny: int, nx: int, dtype: str = "float32") -> FlowParameters:
    """The flow that is timed: Re 100 past a cylinder of an eighth of the height, parabolic inflow, walls."""
    diameter, speed = max(4.0, ny / 8), 0.06
    return FlowParameters(
        ny=ny,
        nx=nx,
        viscosity=speed * diameter / 100,
        bulk_viscosity=0.1,
        inflow_velocity=speed,
        obstacles=(Obstacle("cylinder", (nx / 4, ny / 2), diameter),),  # half a cell above the middle
        sides="no-slip",
        profile="parabolic",
        dtype=dtype,
    )


def bound(bandwidth: float, words: int, dtype: str) -> float:
    """MLUPS that a memory bandwidth (GB/s) allows where an update moves `words` words."""
    return 1e3 * bandwidth / (words * np.dtype(dtype).itemsize)


def take_turns(
    runs: Mapping[str, Callable[[int], object]], cells: Mapping[str, int], seconds: float
) -> dict[str, list[float]]:
    """MLUPS of each run, measured in turns until each has had `seconds`: {name: [one figure per turn]}.

    runs: functions that advance by the given number of ticks; cells: how many cells a tick of each updates. Before
    each turn two ticks bring the run's populations back into the cache, as far as they fit.
    """
    ticks = {name: max(4, CHUNK // cells[name] // 2 * 2) for name in runs}
    for name, run in runs.items():  # how many ticks fill a quarter of the time at most; the first pair compiles
        run(2)
        start = time.perf_counter()
        run(4)
        fitting = int(seconds / 4 / (time.perf_counter() - start) * 4) // 2 * 2
        ticks[name] = max(2, min(ticks[name], fitting))
    rates: dict[str, list[float]] = {name: [] for name in runs}
    used = dict.fromkeys(runs, 0.0)
    while waiting := [name for name in runs if used[name] < seconds]:
        for name in waiting:
            begun = time.perf_counter()
            runs[name](2)
            start = time.perf_counter()
            runs[name](ticks[name])
            end = time.perf_counter()
            rates[name].append(ticks[name] * cells[name] / (end - start) / 1e6)
            used[name] += end - begun
    return rates


def side_by_side(simulations: Sequence[Simulation], pool: ThreadPoolExecutor) -> Callable[[int], object]:
    """Advance independent simulations at the same time, one thread each."""
    return lambda ticks: list(pool.map(lambda simulation: simulation.advance(ticks), simulations))


def _figures(p: FlowParameters, threads: int, seconds: float) -> list[tuple[str, int, list[float]]]:
    """(what, threads, MLUPS of each turn) of one grid."""
    cells = p.ny * p.nx
    one = Simulation(p)
    if threads == 1:
        rates = take_turns({"one thread": one.advance}, {"one thread": cells}, seconds)
        return [("one thread", 1, rates["one thread"])]
    with ThreadPoolExecutor(threads) as pool:
        runs = {
            "one thread": one.advance,
            "bands": Simulation(p, threads=threads).advance,
            "runs": side_by_side([one, *(Simulation(p) for _ in range(threads - 1))], pool),
        }
        updated = {"one thread": cells, "bands": cells, "runs": threads * cells}
        rates = take_turns(runs, updated, seconds)
    return [(name, 1 if name == "one thread" else threads, values) for name, values in rates.items()]


def _row(ny, nx, dtype, what, threads, rates, bandwidth):
    """One line of the report: what was reached, and the bounds at the bandwidth of as many threads."""
    best = max(rates)
    two_arrays, fused = bound(bandwidth, TWO_ARRAYS, dtype), bound(bandwidth, FUSED, dtype)
    runs = threads if what == "runs" else 1
    return {
        "ny": ny,
        "nx": nx,
        "dtype": dtype,
        "what": what,
        "threads": threads,
        "turns": len(rates),
        "mlups": round(best, 1),
        "mlups_median": round(statistics.median(rates), 1),
        "populations_mib": round(runs * 9 * ny * nx * np.dtype(dtype).itemsize / 2**20, 1),
        "two_array_bound": round(two_arrays, 1),
        "fused_bound": round(fused, 1),
        "of_two_array_bound": round(best / two_arrays, 2),
        "of_fused_bound": round(best / fused, 2),
    }


class Arrays:
    """Three arrays of float64, together eight times the last cache or at most a quarter of the free memory."""

    def __init__(self, size: int | None = None):
        wanted = max(2**30, 8 * (cache_bytes() or 2**26))
        total = min(wanted, available_memory() // 4) if size is None else 24 * size
        self.a, self.b, self.c = (np.full(total // 24, value) for value in (1.0, 2.0, 3.0))
        self.mib = round(3 * self.a.nbytes / 2**20)

    def bandwidth(self, threads: int, turns: int = 3) -> dict[str, float]:
        """Best GB/s of each loop, with the arrays split between the threads."""
        edges = np.linspace(0, self.a.size, threads + 1).astype(int)
        parts = [(self.a[i:j], self.b[i:j], self.c[i:j]) for i, j in itertools.pairwise(edges)]
        loops = {
            "update": lambda part: update(part[0], 1.000001),
            "copy": lambda part: copy(part[0], part[1]),
            "triad": lambda part: triad(part[0], part[1], part[2], 0.5),
        }
        best = dict.fromkeys(loops, 0.0)
        with ThreadPoolExecutor(threads) as pool:
            for _ in range(turns):
                for name, loop in loops.items():
                    start = time.perf_counter()
                    list(pool.map(loop, parts))
                    took = time.perf_counter() - start
                    best[name] = max(best[name], MOVED[name] * self.a.nbytes / took / 1e9)
        return best


@njit(cache=True, nogil=True)
def update(a, s):
    """a = s a."""
    for i in range(a.size):
        a[i] *= s


@njit(cache=True, nogil=True)
def copy(a, b):
    """a = b."""
    for i in range(a.size):
        a[i] = b[i]


@njit(cache=True, nogil=True)
def triad(a, b, c, s):
    """a = b + s c."""
    for i in range(a.size):
        a[i] = b[i] + s * c[i]


def cache_bytes() -> int | None:
    """Size of the last cache of the first core; None where the system does not tell."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        if text[:-1].isdigit() and text[-1] in "KMG":
            sizes.append(int(text[:-1]) * 1024 ** ("KMG".index(text[-1]) + 1))
    return max(sizes, default=None)


def machine() -> dict[str, Any]:
    """Processor, cores, cache, memory, load and versions of the machine that ran."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cache = cache_bytes()
    return {
        "processor": names[0] if names else platform.processor() or "unknown",
        "cores": cores(),
        "last_cache_mib": None if cache is None else round(cache / 2**20, 1),
        "free_memory_gib": round(available_memory() / 2**30, 1),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "wide_vectors": "-prefer-256-bit" in os.environ.get("NUMBA_CPU_FEATURES", ""),
        **provenance("llvmlite"),
    }


def _refuse(sizes, dtypes, threads, seconds):
    """UsageError for what makes no sense."""
    if threads < 1 or not 0 < seconds < float("inf"):
        raise UsageError(f"benchmark with {threads} threads for {seconds} seconds: wanted at least 1, and more than 0")
    wrong = [dtype for dtype in dtypes if dtype not in DTYPES]
    if wrong or not dtypes:
        raise UsageError(f"precision {', '.join(map(repr, wrong)) or 'missing'}: wanted {' or '.join(DTYPES)}")
    if not sizes:
        raise UsageError("no grid to run: wanted sizes such as 128x128 (rows x columns)")
    for size in sizes:
        if len(size) != 2 or any(int(n) != n or n < 32 for n in size):
            text = "x".join(map(str, size))
            raise UsageError(f"size {text}: wanted two whole numbers of cells, at least 32 each, such as 128x128")
        need = (threads + 2) * 14 * size[0] * size[1] * max(np.dtype(d).itemsize for d in dtypes)
        if need > available_memory():
            raise UsageError(
                f"{threads + 1} runs of {size[0]}x{size[1]} need {need / 2**30:.1f} GiB of memory, "
                f"{available_memory() / 2**30:.1f} GiB are free: choose a smaller size or fewer threads"
            )


def table(report: Mapping[str, Any]) -> str:
    """The report as text: machine, bandwidth, one line per figure."""
    about = report["machine"]
    cache = about["last_cache_mib"]
    lines = [
        f"{about['processor']}, {about['cores']} cores, last cache {'unknown' if cache is None else f'{cache:g} MiB'}, "
        f"{'512-bit vectors' if about['wide_vectors'] else 'vectors as numba chooses'}, load {about['load']}",
        f"memory bandwidth, arrays of {report['bandwidth']['array_mib']} MiB, write-allocate counted:",
    ]
    for threads, rates in report["bandwidth"]["threads"].items():
        words = ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items())
        lines.append(f"  {threads:>3} thread{' ' if threads == '1' else 's'}  {words} GB/s")
    lines += [
        "MLUPS: best (median); bounds at the best bandwidth of as many threads, which a grid in the cache may exceed",
        f"{'grid':>11} {'':7} {'':10} {'MiB':>7} {'MLUPS':>14} {'two-array bound':>17} {'fused in-place bound':>22}",
    ]
    for row in report["rows"]:
        what = row["what"] if row["threads"] == 1 else f"{row['threads']} {row['what']}"
        speed = f"{row['mlups']:.0f} ({row['mlups_median']:.0f})"
        lines.append(
            f"{row['ny']:>5}x{row['nx']:<5} {row['dtype']:7} {what:10} {row['populations_mib']:>7.1f} {speed:>14} "
            f"{row['two_array_bound']:>8.0f} x {row['of_two_array_bound']:<6.2f} "
            f"{row['fused_bound']:>11.0f} x {row['of_fused_bound']:<6.2f}"
        )
    return "\n".join(lines)
