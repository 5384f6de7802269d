"""Pictures and numbers of the dataset cards, from the datasets themselves.

FOLDER holds the datasets, each made by `lbm simulate --config configs/lbm/NAME.toml -o FOLDER/NAME.zarr`:
vortex_street, wake_unsteady, cylinders, reynolds_sweep. Writes NAME.png for each and prints the numbers that the cards
quote. An analog forecast takes the training frame most like the present one, and what followed it; its error, and that
of persistence, is the root mean square over fluid pixels and test cases, divided by the standard deviation there.

    python benchmarks/dataset_pictures.py FOLDER [--only NAME] [--output docs/figures/datasets]
"""

import argparse
import itertools
import math
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.style import CANDIDATES, INK, MUTED, REFERENCES, SOLID, figure, pictures
from lbm.config import SimulateConfig
from lbm.dataset import open_dataset
from lbm.flow import Simulation
from lbm.recording import parameters
from lbm.settings import resolve

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "lbm"
LEADS = (1, 4, 16)
COARSE = 32  # pixels of height, at most, in which frames are compared
CASES = 25  # present frames in each test run
BLUE, PINK, GREEN = CANDIDATES[:3]
ORANGE = REFERENCES["climatology"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=PICTURES)
    parser.add_argument("--output", type=Path, default=Path("docs/figures/datasets"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, picture in PICTURES.items():
        if arguments.only in (None, name):
            data = open_dataset(arguments.folder / f"{name}.zarr")
            print(f"\n{name}")
            print_numbers(data)
            path = arguments.output / f"{name}.png"
            path.write_bytes(pictures(picture(data), dpi=100)[0])
            print(f"  {path}: {path.stat().st_size / 1000:.0f} kB")


def print_numbers(data: xr.Dataset) -> None:
    """Strouhal number, force coefficients of all bodies together, and how far simple forecasts get."""
    strouhal, error = data["strouhal"].values, data["strouhal_uncertainty"].values
    shed = np.isfinite(strouhal)
    if shed.any():
        print(
            f"  St {strouhal[shed].mean():.4f} in {shed.sum()} of {shed.size} runs, deviation between runs "
            f"{strouhal[shed].std():.1e}, standard error of one run {np.median(error[shed]):.1e}"
        )
    drag, lift = forces(data)
    print(f"  drag coefficient {drag.mean():.3f}, lift coefficient: deviation {lift.std():.3f}")
    split, reynolds = data["split"].values, data["reynolds"].values
    train, test = np.flatnonzero(split == "train"), np.flatnonzero(split == "test")
    inner = (reynolds[train].min(), reynolds[train].max())
    groups = {
        "below the training range": test[reynolds[test] < inner[0]],
        "within the training range": test[(reynolds[test] >= inner[0]) & (reynolds[test] <= inner[1])],
        "above the training range": test[reynolds[test] > inner[1]],
    }
    for label, runs in groups.items():
        if runs.size:
            analog, persistence = errors(data, train, runs)
            where = f" {label}" if runs.size < test.size else ""
            both = ", ".join(
                f"{lead}: {a:.2g} ({p:.2g})" for lead, a, p in zip(LEADS, analog, persistence, strict=True)
            )
            print(f"  error of analog (persistence) by lead{where}: {both}")


def forces(data: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Drag and lift coefficients (trajectory, force_time) of all bodies together."""
    both = [data[f"{name}_coefficient"] for name in ("drag", "lift")]
    drag, lift = (c.sum("body") if "body" in c.dims else c for c in both)
    return drag.values, lift.values


def errors(data: xr.Dataset, train: np.ndarray, test: np.ndarray) -> tuple[list[float], list[float]]:
    """Errors of analog forecasts and of persistence at LEADS."""
    vorticity, last = data["vorticity"], data.sizes["time"] - max(LEADS)
    fluid = ~data["solid"].values[0]
    past = vorticity[train].values
    library = past[:, :last].reshape(-1, *fluid.shape)
    features = coarse(library)
    squares = (features**2).sum(1)
    wrong, still, scale = np.zeros(len(LEADS)), np.zeros(len(LEADS)), 0.0
    for run in test:
        frames = vorticity[run].values
        scale += frames[:, fluid].std() ** 2
        for now in np.linspace(0, last - 1, CASES).astype(int):
            nearest = int(np.argmin(squares - 2 * features @ coarse(frames[now : now + 1])[0]))
            like, at = divmod(nearest, last)
            for k, lead in enumerate(LEADS):
                truth = frames[now + lead][fluid]
                wrong[k] += np.mean((past[like, at + lead][fluid] - truth) ** 2)
                still[k] += np.mean((frames[now][fluid] - truth) ** 2)
    cases, scale = CASES * len(test), scale / len(test)
    return np.sqrt(wrong / cases / scale).tolist(), np.sqrt(still / cases / scale).tolist()


def coarse(frames: np.ndarray) -> np.ndarray:
    """Frames (n, y, x) averaged in boxes, flat: (n, pixels)."""
    box = max(1, frames.shape[1] // COARSE)
    n, ny, nx = frames.shape
    return frames.reshape(n, ny // box, box, nx // box, box).mean((2, 4)).reshape(n, -1)


def vortex_street(data: xr.Dataset) -> Figure:
    """One frame, and drag and lift over three periods."""
    with figure(8.0, 3.6) as drawing:
        left, right = drawing.subplots(1, 2, width_ratios=(1, 1.25))
        show(left, data, 0, 0, "vorticity, one frame")
        time, (drag, lift) = convective_time(data), forces(data)
        shown = time < 3.2 / data["strouhal"].values[0]
        right.plot(time[shown], lift[0][shown], color=BLUE)
        right.plot(time[shown], drag[0][shown], color=ORANGE)
        frames = np.flatnonzero(np.isin(data["force_time"].values, data["tick"].values) & shown)
        right.plot(time[frames], lift[0][frames], "o", color=BLUE, ms=4)
        right.text(time[shown][-1], drag[0][shown].max() + 0.08, "drag", color=ORANGE, ha="right", weight="bold")
        right.text(
            time[shown][-1], lift[0][shown].max() + 0.08, "lift (dots: frames)", color=BLUE, ha="right", weight="bold"
        )
        right.set(xlabel="time (D/U)", title="force coefficients")
    return drawing


def wake_unsteady(data: xr.Dataset) -> Figure:
    """Three runs at one time, and their lift."""
    with figure(8.0, 4.2) as drawing:
        grid = drawing.add_gridspec(2, 3, height_ratios=(1, 1.1))
        time, (_, lift) = convective_time(data), forces(data)
        below = drawing.add_subplot(grid[1, :])
        shown = time < 60
        for run, colour in enumerate((BLUE, PINK, GREEN)):
            show(drawing.add_subplot(grid[0, run]), data, run, 0, f"run {run}", colour)
            below.plot(time[shown], lift[run][shown], color=colour, lw=1.3)
        below.set(xlabel="time (D/U)", title="lift coefficient")
    return drawing


def cylinders(data: xr.Dataset) -> Figure:
    """One frame, and how fast neighbouring flows part."""
    time, gaps, unrelated = partings()
    rate, error, doubling = growth(time, gaps)
    print(f"  neighbouring flows part as exp({rate:.3f} +- {error:.3f} t U/D), doubling in {doubling:.1f} D/U")
    with figure(8.0, 4.9) as drawing:
        above, below = drawing.subplots(2, 1, height_ratios=(1.5, 1))
        show(above, data, 0, 0, "vorticity, one frame")
        for gap in gaps:
            below.semilogy(time, gap, color=BLUE, lw=1.2, alpha=0.8)
        middle = np.exp(np.log(gaps[:, 0]).mean() + rate * time)
        below.semilogy(time[middle < 1], middle[middle < 1], color=ORANGE, ls="--")
        below.axhline(unrelated, color=MUTED, lw=1)
        below.text(0, 1.4 * unrelated, "unrelated runs", color=MUTED, fontsize=9)
        below.set(xlabel="time after a disturbance (D/U)", ylim=(1e-7, 20), title="difference of two runs / deviation")
        below.text(0.98, 0.08, f"doubles in {doubling:.1f} D/U", color=ORANGE, ha="right", transform=below.transAxes)
    return drawing


def partings(pairs: int = 4, until: int = 240, step: int = 2) -> tuple[np.ndarray, np.ndarray, float]:
    """(time in D/U, differences (pairs, times), that of unrelated runs) of flows of `cylinders` that differ by 1e-6.

    In double precision; the populations of one of two equal states are disturbed at random. The difference of two
    vorticity fields is the root mean square of it over that of the field's deviation.
    """
    config = resolve(SimulateConfig, file=CONFIGS / "cylinders.toml", sets=["dtype=float64"], flags={}).resolved()
    result, last = [], []
    for pair in range(pairs):
        flow = parameters(config, pair)
        first, second = Simulation(flow), Simulation(flow)
        passage = round(flow.reference_length / flow.inflow_velocity)  # ticks in D/U
        first.advance(150 * passage)
        state = first.state()
        noise = 2e-8 * np.random.default_rng(pair).standard_normal(state["populations"].shape)
        second.restore(state | {"populations": state["populations"] + noise * (state["populations"] != 0)})
        gaps = []
        for _ in range(0, until, step):
            fields = []
            for simulation in (first, second):
                simulation.advance(step * passage)
                fields.append(simulation.fields(("vorticity",))["vorticity"].astype(float))
            gaps.append(difference(*fields))
        result.append(gaps)
        last.append(fields[0])
    unrelated = float(np.mean([difference(a, b) for a, b in itertools.permutations(last, 2)]))
    return np.arange(step, until + 1, step, dtype=float), np.array(result), unrelated


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference of two fields over the deviation of the first."""
    return float(np.sqrt(np.mean((a - b) ** 2)) / a.std())


def growth(time: np.ndarray, gaps: np.ndarray) -> tuple[float, float, float]:
    """(rate, its standard error between pairs, doubling time), after 10 D/U and below a tenth of saturation."""
    rates = []
    for gap in gaps:
        end = int(np.argmax(gap > 0.1)) or len(gap)
        fitted = (time > 10) & (np.arange(len(gap)) < end)
        rates.append(float(np.polyfit(time[fitted], np.log(gap[fitted]), 1)[0]))
    rate = float(np.mean(rates))
    return rate, float(np.std(rates, ddof=1) / math.sqrt(len(rates))), math.log(2) / rate


def reynolds_sweep(data: xr.Dataset) -> Figure:
    """Frames at the ends and in the middle, and the Strouhal number against the Reynolds number by split."""
    reynolds, strouhal = data["reynolds"].values, data["strouhal"].values
    with figure(8.0, 4.6) as drawing:
        grid = drawing.add_gridspec(2, 3, height_ratios=(1, 1.7))
        for k, (wanted, colour) in enumerate(((80, ORANGE), (140, ORANGE), (240, ORANGE))):
            run = int(np.argmin(np.abs(reynolds - wanted)))
            show(drawing.add_subplot(grid[0, k]), data, run, 0, f"Re {reynolds[run]:.0f}", colour)
        axes = drawing.add_subplot(grid[1, :])
        fine = np.linspace(60, 178, 100)
        axes.plot(fine, williamson(fine), color=MUTED, lw=1.2)
        axes.text(84, williamson(84.0) - 0.006, "Williamson, unconfined", color=MUTED, fontsize=9, va="top")
        beside = 1 - 12 / 128
        axes.plot(fine, williamson(fine) / beside, color=MUTED, lw=1.2, ls="--")
        label = "the same with U / (1 - D/H)"
        axes.text(112, williamson(112.0) / beside - 0.005, label, color=MUTED, fontsize=9, va="top")
        split = data["split"].values
        for name, colour, marker in (("train", BLUE, "o"), ("validation", GREEN, "s"), ("test", ORANGE, "^")):
            of = split == name
            axes.plot(reynolds[of], strouhal[of], marker, color=colour, ms=5, label=name)
        axes.legend(frameon=False, loc="lower right")
        axes.set(xlabel="Reynolds number", title="Strouhal number", xlim=(75, 245))
    return drawing


def williamson(reynolds):
    """Strouhal number of an unconfined cylinder for Re 49 to 178, Williamson (1989), J. Fluid Mech. 206, 579-627."""
    return -3.3265 / reynolds + 0.1816 + 1.6e-4 * reynolds


def convective_time(data: xr.Dataset) -> np.ndarray:
    """Times of the force records since the first frame, in units of D/U of the first run."""
    ticks = data["force_time"].values - data["tick"].values[0]
    length = float(data["reynolds"][0] * data["viscosity"][0] / data["inflow_velocity"][0])
    return ticks * float(data["inflow_velocity"][0]) / length


def show(axes: Axes, data: xr.Dataset, run: int, frame: int, title: str, colour: str = INK) -> None:
    """One frame; obstacles grey, y upwards."""
    field, solid = data["vorticity"][run, frame].values, data["solid"].values[run]
    limit = float(np.quantile(np.abs(field[~solid]), 0.98))
    axes.imshow(np.ma.masked_array(field, solid), cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
    axes.set_facecolor(SOLID)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, color=colour)
    axes.grid(False)


PICTURES = {
    "vortex_street": vortex_street,
    "wake_unsteady": wake_unsteady,
    "cylinders": cylinders,
    "reynolds_sweep": reynolds_sweep,
}

if __name__ == "__main__":
    main()
