"""Long roll-outs of a trained run: does it stay a vortex street?

    python benchmarks/stability.py --run runs/wake --data flow.zarr [--members 8] [--lead 1000] [--folder stability]

Rolls members out far beyond the data and compares what they do after --settle frames with the training runs of the
truth: the variance of vorticity, its enstrophy spectrum, and the frequency of shedding at the pixel downstream where
the truth varies most. Beside each figure stands how far single runs of the truth lie from the mean of all of them, over
their own length: no roll-out can be told from the truth more finely than that. Writes stability.json and stability.png.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

MARGIN = {"variance": 0.10, "spectrum": 0.10, "frequency": 0.03}  # what is asked for
ENSTROPHY = 0.99  # share of the truth's enstrophy in the shells that are compared
BLOCK = 50  # frames read at a time
SHOWN = 4  # members drawn in the figure, at the last lead


class Statistics:
    """Variance by frame, mean spectrum and one pixel's series of some sequences of frames (time, y, x)."""

    def __init__(self, fluid: np.ndarray, pixel: tuple[int, int]):
        self.fluid, self.pixel = fluid, pixel
        self.variance: list[np.ndarray] = []
        self.spectra: list[np.ndarray] = []
        self.series: list[np.ndarray] = []

    def add(self, read: Any, length: int, mean: np.ndarray, settle: int) -> None:
        """Take in one sequence; `read(start, stop)` gives its frames. Spectra are of every fifth frame."""
        from evaluation.spectra import shell_spectra

        variance, spectra, series = [], [], []
        for start in range(0, length, BLOCK):
            frames = read(start, min(start + BLOCK, length))
            if not np.isfinite(frames[:, self.fluid]).all():
                raise SystemExit(f"blow-up: a frame between {start} and {start + BLOCK} is not finite")
            variance.append(np.square(frames - mean)[:, self.fluid].mean(1))
            series.append(frames[(slice(None), *self.pixel)])
            if start >= settle:
                spectra.append(shell_spectra(frames[::5], self.fluid))
        self.variance.append(np.concatenate(variance))
        self.series.append(np.concatenate(series)[settle:])
        self.spectra.append(np.concatenate(spectra).mean(0))

    def frequencies(self) -> np.ndarray:
        """Shedding frequency of each sequence, cycles per frame."""
        from evaluation.temporal import peak_frequency

        return np.array([peak_frequency(one)[0] for one in self.series])


def truth_statistics(flow: Any, variable: str) -> tuple[Statistics, np.ndarray]:
    """Of the training runs, and their mean frame."""
    fluid = ~flow["solid"].values.any(0)
    runs = np.flatnonzero(flow["split"].values.astype(str) == "train")
    values = [np.where(fluid, flow[variable][int(k)].values, 0) for k in runs]
    mean = np.mean([v.mean(0) for v in values], axis=0)
    spread = np.mean([np.square(v - mean).mean(0) for v in values], axis=0)
    spread[:, : fluid.shape[1] // 2] = 0
    pixel = np.unravel_index(int(np.argmax(spread)), fluid.shape)
    found = Statistics(fluid, (int(pixel[0]), int(pixel[1])))
    for one in values:
        found.add(lambda a, b, one=one: one[a:b], len(one), mean, 0)
    return found, mean


def _mean_of_finite(values: list[float]) -> float:
    """NaN where there is none: no member sheds at a frequency that can be told."""
    finite = [v for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("nan")


def compare(truth: Statistics, drawn: Statistics, settle: int) -> dict[str, Any]:
    """Relative departures of the roll-outs from the truth, and those of single runs of the truth from all of them."""
    level = np.mean([v.mean() for v in truth.variance])
    spectrum = np.mean(truth.spectra, axis=0)
    kept = np.cumsum(spectrum) <= ENSTROPHY * spectrum.sum()
    frequency = np.nanmean(truth.frequencies())

    def departures(of: Statistics, start: int) -> dict[str, Any]:
        return {
            "variance": [v[start:].mean() / level - 1 for v in of.variance],
            "spectrum": [np.abs(s[kept] / spectrum[kept] - 1).max() for s in of.spectra],
            "frequency": (of.frequencies() / frequency - 1).tolist(),
        }

    ours, theirs = departures(drawn, settle), departures(truth, 0)
    pooled = {
        "variance": float(np.mean(ours["variance"])),
        "spectrum": float(np.abs(np.mean(drawn.spectra, axis=0)[kept] / spectrum[kept] - 1).max()),
        "frequency": _mean_of_finite(ours["frequency"]),
    }
    thirds = np.array_split(np.mean(drawn.variance, axis=0)[settle:], 3)
    rows = {
        name: {
            "departure": round(value, 4),
            "asked_for": MARGIN[name],
            "met": bool(abs(value) <= MARGIN[name] and np.isfinite(ours[name]).all()),
            "largest_of_a_member": round(float(np.nanmax(np.abs(ours[name]))), 4),
            "largest_of_a_run_of_the_truth": round(float(np.nanmax(np.abs(theirs[name]))), 4),
            "members_without": int(np.isnan(ours[name]).sum()),
        }
        for name, value in pooled.items()
    }
    drift = [round(float(t.mean() / level - 1), 4) for t in thirds]
    return {"figures": rows, "variance_in_thirds": drift, "shells": int(kept.sum())}


def draw_figure(path: Path, truth: Statistics, drawn: Statistics, frames: np.ndarray) -> None:
    """Variance by lead time, spectra, and members at the last lead."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.5), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.6, 1))
    left, right = top.subplots(1, 2)
    level = np.mean([v.mean() for v in truth.variance])
    for one in drawn.variance:
        left.plot(np.arange(1, len(one) + 1), one / level, color="C0", lw=0.6, alpha=0.6)
    low, high = np.percentile(np.concatenate(truth.variance) / level, [1, 99])
    left.axhspan(low, high, color="0.85", zorder=0, label="98 % of the truth's frames")
    left.set(xlabel="lead time (frames)", ylabel="variance / climatology", xlim=(1, None))
    left.legend(loc="upper right", frameon=False)
    spectrum = np.mean(truth.spectra, axis=0)
    shells = np.arange(1, len(spectrum) + 1)
    right.loglog(shells, spectrum, color="k", label="truth")
    right.loglog(shells, np.mean(drawn.spectra, axis=0), color="C0", ls="--", label="roll-outs")
    right.set(xlabel="waves across the frame", ylabel="enstrophy")
    right.legend(frameon=False)
    limit = float(np.percentile(np.abs(frames), 99.5))
    for axes, frame in zip(bottom.subplots(1, len(frames)), frames, strict=True):
        axes.imshow(frame, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
        axes.set(xticks=[], yticks=[])
    bottom.suptitle("members at the last lead", fontsize="medium")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Roll out, compare, print and record."""
    import rvdflow
    from lbm.dataset import open_dataset
    from rvdflow.forecast import forecast

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--lead", type=int, default=1000)
    parser.add_argument("--settle", type=int, default=100, help="leads that are left out: they remember the start")
    parser.add_argument("--variable", default="vorticity")
    parser.add_argument("--folder", type=Path, default=Path("stability"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    flow, model = open_dataset(options.data, chunks=None), rvdflow.load(options.run)
    store = options.folder / "long.zarr"
    settings: dict[str, Any] = {"members": options.members, "lead": options.lead, "cases": 1, "init_times": [60]}
    forecast(model, options.data, store, **settings, beyond=True, resume=store.exists())
    truth, mean = truth_statistics(flow, options.variable)
    values = open_dataset(store, chunks=None)[options.variable][0, 0]
    drawn = Statistics(truth.fluid, truth.pixel)
    for member in range(options.members):
        one = values[member]

        def read(start: int, stop: int, one: Any = one) -> np.ndarray:
            return np.where(truth.fluid, one[start:stop].values, 0)

        drawn.add(read, options.lead, mean, options.settle)
    report = {
        "benchmark": "stability", "date": datetime.now(UTC).strftime("%Y-%m-%d"), "run": str(options.run),
        "members": options.members, "lead": options.lead, "settle": options.settle,
        **compare(truth, drawn, options.settle), "stamp": model.stamp(),
    }  # fmt: skip
    for name, row in report["figures"].items():
        print(
            f"{name:10} {row['departure']:+.3f} (asked for: within {row['asked_for']}; single members up to "
            f"{row['largest_of_a_member']:.3f}, runs of the truth up to {row['largest_of_a_run_of_the_truth']:.3f})"
            + (f"; {row['members_without']} members have none" if row["members_without"] else "")
        )
    print(f"variance in thirds of the roll-out: {report['variance_in_thirds']}")
    last = np.where(truth.fluid, values[:SHOWN, -1].values, 0)
    draw_figure(options.folder / "stability.png", truth, drawn, last)
    (options.folder / "stability.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
