"""Speed of this solver against other lattice-Boltzmann codes: the same flow, in turns, in one run on one machine.

    python -m venv peers
    peers/bin/pip install -c constraints.txt -e . "lbmpy==2.0" pylbm mpi4py mpich "xlb==0.3.1" "warp-lang==1.10.0"
    peers/bin/python benchmarks/lbm_peers.py             # about ten minutes; --quick: two, written nowhere

lbmpy needs a C++ compiler, pylbm an MPI library (here the one in `mpich`). A code that is not installed is reported
as such. First every code has to show, on the smallest grid, that it computes the same flow: mean velocity and
frequency of the shedding. Then each grid and precision is timed with one thread and with two: every code runs for a
short while, one after the other, over and over, and the best and the median of its turns count. Ratios are taken from
both. Writes benchmarks/results/lbm_peers.json and, from it, docs/benchmarks/lbm.md.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import statistics
import sys
import time
from pathlib import Path

from lbm.vectors import prefer_wide_vectors

WIDE = prefer_wide_vectors()  # before numba is imported; the processes that lbmpy is given inherit it

import numpy as np  # noqa: E402
from lbm_peer_codes import CODES, Run, ours  # noqa: E402
from lbm_peers_page import page  # noqa: E402

from lbm.benchmark import FUSED, TWO_ARRAYS, Arrays, bound, channel, machine, take_turns  # noqa: E402
from lbm.flow import FlowParameters  # noqa: E402

SIZES = [(128, 128), (256, 512), (1024, 2048)]
DTYPES = ["float32", "float64"]
CHECK_TICKS, PROBE_EVERY = 12_000, 40  # about nine periods of shedding once it has settled
FREQUENCY_TOLERANCE, MEAN_TOLERANCE = 0.05, 0.1  # walls and outlets differ between the codes
ROOT = Path(__file__).resolve().parent


def signature(p: FlowParameters, run: Run) -> tuple[float, np.ndarray]:
    """Shedding frequency (per tick) from the second half of a run, and its mean velocity (2, ny, nx)."""
    (x, y), d = p.obstacles[0].centre, p.obstacles[0].size
    row, column = int(y), int(x + 1.5 * d)
    run.advance(CHECK_TICKS // 2)
    probe, mean = [], np.zeros((2, p.ny, p.nx))
    for _ in range(CHECK_TICKS // 2 // PROBE_EVERY):
        run.advance(PROBE_EVERY)
        velocity = run.velocity()
        if not np.isfinite(velocity).all():
            return float("nan"), velocity
        probe.append(velocity[1, row, column])
        mean += velocity
    v = np.array(probe) - np.mean(probe)
    if np.ptp(v) < 0.2 * p.inflow_velocity:
        return 0.0, mean / len(probe)
    up = np.flatnonzero((v[:-1] < 0) & (v[1:] >= 0))  # upward crossings of zero, interpolated between two samples
    times = (up - v[up] / (v[up + 1] - v[up])) * PROBE_EVERY
    return (len(times) - 1) / (times[-1] - times[0]), mean / len(probe)


def check(codes: dict) -> dict[str, dict]:
    """Whether each code computes the flow that ours does: {name: Strouhal number, difference of the mean flow}."""
    p, found = channel(128, 128, "float64"), {}
    frequency, mean = signature(p, ours(p, 1)["ours"])
    strouhal = p.obstacles[0].size / p.inflow_velocity

    def note(name: str, f: float, off: float) -> None:
        same = abs(f / frequency - 1) < FREQUENCY_TOLERANCE and off < MEAN_TOLERANCE
        found[name] = {"strouhal": round(f * strouhal, 4), "mean_difference": round(off, 4), "same": bool(same)}
        print(f"{name:<22} Strouhal {f * strouhal:.4f}, mean flow differs by {off:.1%}", flush=True)

    note("ours", frequency, 0.0)
    for make in codes.values():
        for name, run in (make(p, 1) or make(p, 2)).items():
            f, u = signature(p, run)
            off = float(np.linalg.norm(u - mean) / np.linalg.norm(mean))
            note(name, f, off)
            run.close()
            if not (abs(f / frequency - 1) < 0.2 and off < 0.3):
                raise SystemExit(f"{name} computes another flow: its speed would mean nothing")
    return found


def case(p: FlowParameters, threads: int, codes: dict, seconds: float) -> list[dict]:
    """Rows of one grid, precision and number of threads."""
    runs = ours(p, threads)
    for make in codes.values():
        runs |= make(p, threads)
    rates = take_turns({n: r.advance for n, r in runs.items()}, {n: r.cells for n, r in runs.items()}, seconds)
    rows = []
    for name, values in rates.items():
        if not name.endswith("processes"):
            u = runs[name].velocity()[0]
            through = float(u[:, : p.nx // 8].mean()) / p.inflow_velocity
            if not (np.isfinite(u).all() and 0.8 < through < 1.2):
                raise SystemExit(f"{name} at {p.ny}x{p.nx} {p.dtype}: mean flow {through:.3g} U, the run is worthless")
        row = {"ny": p.ny, "nx": p.nx, "dtype": p.dtype, "threads": threads, "code": name, "turns": len(values)}
        rows.append({**row, "mlups": round(max(values), 1), "mlups_median": round(statistics.median(values), 1)})
        print(f"{p.ny:>5}x{p.nx:<5} {p.dtype} {threads} {name:<30} {max(values):7.0f} {rows[-1]['mlups_median']:7.0f}")
        runs[name].close()
    sys.stdout.flush()
    return rows


def ratios(rows: list[dict]) -> list[dict]:
    """Ours over each other code of the same case, from the best and from the median turns."""
    found = []
    keys = ("ny", "nx", "dtype", "threads")
    for mine in (row for row in rows if row["code"].startswith("ours")):
        for other in (row for row in rows if not row["code"].startswith("ours")):
            if all(mine[k] == other[k] for k in keys):
                found.append(
                    {
                        **{k: mine[k] for k in keys},
                        "ours": mine["code"],
                        "other": other["code"],
                        "best": round(mine["mlups"] / other["mlups"], 2),
                        "median": round(mine["mlups_median"] / other["mlups_median"], 2),
                    }
                )
    return found


def busy() -> tuple[float, float, float]:
    """Processor seconds of the whole machine, of this program, and those the host took away (0 where not told)."""
    mine = os.times()
    own = mine.user + mine.system + mine.children_user + mine.children_system
    try:
        ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    except OSError:
        return own, own, 0.0
    second = os.sysconf("SC_CLK_TCK")
    return (ticks[0] + ticks[1] + ticks[2]) / second, own, ticks[7] / second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short, smaller grids, writes only where -o says")
    parser.add_argument("--seconds", type=float, help="for each figure [4; 0.5 with --quick]")
    parser.add_argument("--only", action="append", choices=sorted(CODES), help="code to compare with; may be repeated")
    parser.add_argument("-o", "--output", type=Path, help="[benchmarks/results/lbm_peers.json]")
    parser.add_argument("--page", type=Path, help="Markdown page made from it [docs/benchmarks/lbm.md]")
    options = parser.parse_args()
    seconds = options.seconds or (0.5 if options.quick else 4.0)
    installed = {n: f for n, f in CODES.items() if importlib.util.find_spec(n) and n in (options.only or CODES)}
    missing = [n for n in CODES if not importlib.util.find_spec(n)]
    for name in missing:
        print(f"{name}: not installed")
    began, before, arrays = time.time(), busy(), Arrays()
    bandwidth = {n: arrays.bandwidth(n) for n in (1, 2)}
    checked = check(installed)
    rows = []
    for ny, nx in SIZES[:2] if options.quick else SIZES:
        for dtype in DTYPES:
            for threads in (1, 2):
                rows += case(channel(ny, nx, dtype), threads, installed, seconds)
    for n in (1, 2):
        bandwidth[n] = {k: round(max(v, bandwidth[n][k]), 2) for k, v in arrays.bandwidth(n).items()}
    for row in rows:
        best = max(bandwidth[row["threads"]].values())
        row["two_array_bound"] = round(bound(best, TWO_ARRAYS, row["dtype"]), 1)
        row["fused_bound"] = round(bound(best, FUSED, row["dtype"]), 1)
    took, after = time.time() - began, busy()
    others = max(0.0, after[0] - before[0] - after[1] + before[1])
    report = {
        "benchmark": "lbm_peers",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "wide_vectors": WIDE,
        "seconds": seconds,
        "other_work": {"cores": round(others / took, 3), "stolen": round((after[2] - before[2]) / took, 3)},
        "codes": {n: importlib.metadata.version(n) for n in installed},
        "not_installed": missing,
        "bandwidth": {"unit": "GB/s", "array_mib": arrays.mib, "threads": {str(n): b for n, b in bandwidth.items()}},
        "check": checked,
        "rows": rows,
        "ratios": ratios(rows),
    }
    output = options.output or (None if options.quick else ROOT / "results" / "lbm_peers.json")
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=1) + "\n")
    text = page(report)
    target = options.page or (None if options.quick or options.output else ROOT.parent / "docs/benchmarks/lbm.md")
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
