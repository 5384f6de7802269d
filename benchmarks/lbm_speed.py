"""Speed of the solver beside plain NumPy and beside the memory of this machine.

    python benchmarks/lbm_speed.py [--narrow] [--seconds 3] [-o benchmarks/results/lbm_speed.json]

What `lbm benchmark` measures (million cell updates per second of the channel with a cylinder, all boundaries, the
memory bandwidth in the same run), and the ratio to the solver's NumPy reference, whole arrays in double precision,
which is spared the cylinder: its links would be followed one by one. Other codes: `lbm_peers.py`.
"""

import argparse
import datetime
import json
from pathlib import Path

from lbm.vectors import prefer_wide_vectors


def reference_run(ny: int, nx: int):
    """The NumPy form of the channel without its cylinder: a function that advances it by a number of ticks."""
    import numpy as np

    from lbm import boundaries, reference, units
    from lbm.benchmark import channel

    p = channel(ny, nx, "float64")
    flow = reference.Flow(
        body=np.full((ny, nx), -1),
        fraction=lambda *_: 0.5,
        wall_velocity=lambda *_: (0.0, 0.0),
        sides=p.sides,
        ends=p.ends,
        side_velocity=p.side_velocity,
        profile=boundaries.inlet_profile(ny, p.sides, p.profile),
        rates=units.relaxation_rates(p.viscosity, p.bulk_viscosity, None, p.collision),
        force=p.body_force,
        sponge=boundaries.sponge(0),
    )
    u = np.tile(p.inflow_velocity * flow.profile[1::2, :1], (1, nx))
    state = [reference.equilibrium(np.ones((ny, nx)), u, np.zeros((ny, nx)))]
    inflow = (p.inflow_velocity, 0.0, p.inflow_velocity)

    def advance(ticks: int) -> None:
        for _ in range(ticks):
            state[0], _forces = reference.step(state[0], flow, inflow=inflow, absorbed=np.zeros(9))
        if not np.isfinite(state[0]).all():
            raise SystemExit("the NumPy reference diverged: its speed would mean nothing")

    return advance


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--narrow", action="store_true", help="leave numba's choice of vector width")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each figure")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "lbm_speed.json")
    options = parser.parse_args()
    if not options.narrow:
        prefer_wide_vectors()
    from lbm.benchmark import SIZES, benchmark, table, take_turns

    plain = {}
    for ny, nx in SIZES[:2]:
        rates = take_turns({"numpy": reference_run(ny, nx)}, {"numpy": ny * nx}, options.seconds)
        plain[ny, nx] = max(rates["numpy"])
    report = benchmark(seconds=options.seconds)
    print(table(report))
    for row in report["rows"]:
        if row["what"] == "one thread" and (row["ny"], row["nx"]) in plain:
            numpy_rate = plain[row["ny"], row["nx"]]
            row |= {"reference_mlups": round(numpy_rate, 2), "ratio": round(row["mlups"] / numpy_rate, 1)}
            print(f"{row['ny']:>5}x{row['nx']:<5} {row['dtype']} {row['ratio']:6.0f} x NumPy ({numpy_rate:.2f} MLUPS)")
    report = {"benchmark": "lbm_speed", "date": datetime.date.today().isoformat(), **report}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
