"""All reference forecasts beside each other, and the perfect-model ensemble below them, on an unsteady wake.

    python benchmarks/references.py [--folder references] [--quick] [-o benchmarks/results/references.json]

From nothing: simulates configs/lbm/wake_unsteady.toml with saved states, forecasts it by the solver itself and by
every reference, all from the same init times and with as many members, verifies them, and writes fair CRPS and
spread-skill ratio by lead, with 95 % intervals of a bootstrap over test runs. CRPS is in standard deviations of the
truth; that of a deterministic method is its mean absolute error. What --folder holds already is not made again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LEADS = (1, 2, 4, 8, 16)
HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "lbm" / "wake_unsteady.toml"


def make(folder: Path, members: int, lead: int, init_times: range) -> tuple[Path, dict[str, Path], dict[str, Any]]:
    """The truth, a forecast store for every method, and what each took: {method: {fit_s, draw_s, stamp}}."""
    from lbm.dataset import open_dataset, read_attributes
    from rvdflow.baselines import fit, names
    from rvdflow.forecast import forecast

    flow, times = folder / "flow.zarr", f"{init_times.start}:{init_times.stop}:{init_times.step}"
    if not flow.exists():
        call("simulate", "--config", CONFIG, "--save-states", 20, "-o", flow)
    perfect = folder / "perfect.zarr"
    if not perfect.exists():
        more = ("--members", members, "--lead", lead, "--init-times", times)
        call("ensemble", "--from", flow, *more, "-o", perfect)
    stores, took, opened = {"perfect-model": perfect}, {}, open_dataset(flow, chunks=None)
    for name in names():
        stores[name] = folder / f"{name}.zarr"
        if stores[name].exists() and read_attributes(stores[name]).get("complete") is True:
            continue
        start = time.perf_counter()
        made = fit(name, opened, lead=lead)
        fitted = time.perf_counter()
        settings: dict[str, Any] = {"members": members, "lead": lead, "init_times": init_times}
        forecast(made, flow, stores[name], **settings, overwrite=True, quiet=True)
        drawn = time.perf_counter()
        took[name] = {"fit_s": round(fitted - start, 2), "forecast_s": round(drawn - fitted, 2), "stamp": made.stamp()}
        print(f"{name}: fitted in {fitted - start:.1f} s, forecast in {drawn - fitted:.1f} s", flush=True)
    return flow, stores, took


def call(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "lbm", *map(str, arguments), "--quiet"], check=True)


def rows(scores: Any) -> dict[str, dict[str, Any]]:
    """{method: {crps, spread_skill: {lead: [value, low, high]}}}; the lead "mean" is over all."""
    from evaluation import summary

    unit, leads = summary.truth_deviation(scores), [int(k) for k in scores["lead_time"].values]
    found: dict[str, dict[str, Any]] = {str(m): {} for m in scores["method"].values}
    for name, scale in (("crps", unit), ("spread_skill_ratio", 1.0)):
        single = summary.metric(scores, name) / scale
        pooled = summary.metric(scores, name, leads=leads) / scale
        for method, entry in found.items():
            picks = {str(k): single.sel({"method": method, "lead_time": k}) for k in LEADS if k in leads}
            picks["mean"] = pooled.sel({"method": method})
            values = {k: [float(p[v]) for v in ("value", "low", "high")] for k, p in picks.items()}
            if values["mean"][0] == values["mean"][0]:
                entry[name] = {k: [round(x, 4) for x in v] for k, v in values.items()}
    return dict(sorted(found.items(), key=lambda item: item[1]["crps"]["mean"][0]))


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """Two tables: methods x leads, value and interval."""
    parts = []
    for name, title in (("crps", "fair CRPS"), ("spread_skill_ratio", "spread-skill ratio")):
        methods = {m: e[name] for m, e in found.items() if name in e}
        heads = list(next(iter(methods.values())))
        parts += [f"| {title}, lead | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for method, entry in methods.items():
            cells = [f"{v:.3f} ({low:.3f}-{high:.3f})" for v, low, high in entry.values()]
            parts.append(f"| {method} | {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


def main() -> None:
    """Make, verify, print and record."""
    from evaluation.verification import verify
    from lbm.dataset import open_dataset

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("references"), help="where stores are kept")
    parser.add_argument("--quick", action="store_true", help="few cases and members: does it run?")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "references.json")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    members, init_times = (4, range(60, 380, 160)) if options.quick else (32, range(60, 380, 20))
    flow, stores, took = make(options.folder, members, 16, init_times)
    start = time.perf_counter()
    scores = verify(
        open_dataset(flow), {name: open_dataset(store) for name, store in stores.items()}, families=["points"]
    )
    report: dict[str, Any] = {
        "benchmark": "references", "date": datetime.date.today().isoformat(), "config": CONFIG.name,
        "cases": int(scores.attrs["cases"]), "runs": int(scores.attrs["runs"]), "members": members,
        "verify_s": round(time.perf_counter() - start, 1), "unit": "standard deviation of the truth",
        "methods": rows(scores), "made": took,
    }  # fmt: skip
    old = json.loads(options.output.read_text()) if options.output.exists() else {}
    if not took and old.get("members") == members:
        report["made"] = old.get("made", {})
    print(markdown(report["methods"]))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
