"""Speed of the lattice-Boltzmann kernel: million cell updates per second (MLUPS), all boundaries included.

One thread, channel with cylinder, unsteady inflow and outlet, against the plain NumPy reference of the same physics.
The best of many short runs is reported, since other work on the machine can only slow a run down.

    python benchmarks/lbm_speed.py [--narrow] [--seconds 5] [-o benchmarks/results/lbm_speed.json]
"""

import argparse
import datetime
import json
import platform
import time
from pathlib import Path

from lbm.vectors import prefer_wide_vectors

SIZES = [(128, 128), (256, 512)]
PRECISIONS = ["float32", "float64"]


def machine() -> dict:
    """Processor, logical cores and versions."""
    import os

    import llvmlite
    import numba
    import numpy

    cpu = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if "model name" in line]
        if cpu.exists()
        else []
    )
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "numpy": numpy.__version__,
    }


def best(run, updates: int, seconds: float) -> float:
    """Highest rate of `run`, which makes `updates` cell updates, in MLUPS."""
    run()
    end, shortest = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        shortest = min(shortest, time.perf_counter() - start)
    return updates / shortest / 1e6


def kernel_rate(ny: int, nx: int, dtype: str, seconds: float) -> float:
    """MLUPS of the fused kernel through `Simulation.advance`."""
    from lbm.flow import FlowParameters, Simulation

    p = FlowParameters(ny=ny, nx=nx, dtype=dtype, diameter=ny / 6, noise_streamwise=0.06, noise_transverse=0.2)
    simulation, ticks = Simulation(p), max(2, 4_000_000 // (ny * nx) // 2 * 2)
    return best(lambda: simulation.advance(ticks), ticks * ny * nx, seconds)


def reference_rate(ny: int, nx: int, seconds: float) -> float:
    """MLUPS of the NumPy reference (double precision)."""
    import numpy as np

    from lbm import boundaries, obstacles, reference, units

    solid = obstacles.mask("cylinder", ny, nx, centre=(nx * 3 / 16, ny / 2), diameter=ny / 6)
    rates, profile = units.relaxation_rates(0.006, 0.05), boundaries.inlet_profile(ny, "periodic")
    f = reference.equilibrium(np.ones((ny, nx)), np.full((ny, nx), 0.1), np.zeros((ny, nx)))
    outlet = (0.1, np.zeros(9))

    def run():
        reference.step(f, rates, solid, sides="periodic", inflow=(0.1, 0.0), profile=profile, outlet=outlet)

    return best(run, ny * nx, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--narrow", action="store_true", help="leave numba's choice of vector width")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each figure")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "lbm_speed.json")
    options = parser.parse_args()
    wide = False if options.narrow else prefer_wide_vectors()
    rows = []
    for ny, nx in SIZES:
        plain = reference_rate(ny, nx, options.seconds / 2)
        for dtype in PRECISIONS:
            rate = kernel_rate(ny, nx, dtype, options.seconds)
            row = {"ny": ny, "nx": nx, "dtype": dtype, "mlups": round(rate, 1), "reference_mlups": round(plain, 2)}
            rows.append({**row, "ratio": round(rate / plain, 1)})
            print(f"{ny:>4} x {nx:<4} {dtype}  {rate:7.0f} MLUPS  {rate / plain:6.0f} x NumPy reference", flush=True)
    report = {
        "benchmark": "lbm_speed",
        "date": datetime.date.today().isoformat(),
        "wide_vectors": wide,
        "threads": 1,
        "machine": machine(),
        "rows": rows,
    }
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
