"""docs/validation.md from a full validation: the tables between two marks of the page, and the figures beside it.

What stands outside the marks is written by hand and stays. Figures go to `figures/validation-*.png` next to the page,
without a date inside, so that equal results give equal files.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lbm import validation_cavity as published
from lbm.errors import DataError
from lbm.units import strouhal
from lbm.validate import cells
from lbm.validation_result import Outcome

BEGIN, END = "<!-- made by lbm validate --full --page: begin -->", "<!-- end -->"
Outcomes = Mapping[str, tuple[Outcome, float]]
INK, MUTED, OURS, OTHER, THIRD = "#22262b", "#6b7480", "#0072B2", "#D55E00", "#009E73"
RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def write(page: Path, outcomes: Outcomes) -> None:
    """Put tables and figures of a full run into `page` (made if missing); DataError when its marks are lost."""
    text = page.read_text(encoding="utf-8") if page.exists() else f"# Validation\n\n{BEGIN}\n{END}\n"
    if text.count(BEGIN) != 1 or END not in text.split(BEGIN)[1]:
        raise DataError(f"{page}: wanted the marks {BEGIN!r} and {END!r} once, in this order: put them back")
    head, rest = text.split(BEGIN)
    tail = rest.split(END, 1)[1]
    folder = page.parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (("convergence", convergence), ("cavity", cavity), ("strouhal", street), ("dfg", history)):
        draw(outcomes, folder / f"validation-{name}.png")
    page.write_text(f"{head}{BEGIN}\n{markdown(outcomes)}{END}{tail}", encoding="utf-8")


def markdown(outcomes: Outcomes) -> str:
    """One table of all results, and the time that each case took."""
    lines = [
        "| case | quantity | ours | reference | relative error | allowed | source | |",
        "|---|---|--:|--:|--:|--:|---|---|",
    ]
    results = [r for outcome, _ in outcomes.values() for r in outcome.results]
    for r in results:
        case, quantity, ours, reference, error, allowed = cells(r)
        mark = "pass" if r.passed else "**fails**"
        lines.append(f"| {case} | {quantity} | {ours} | {reference} | {error} | {allowed} | {r.source} | {mark} |")
    times = ", ".join(f"{name} {seconds:.0f} s" for name, (_, seconds) in outcomes.items())
    passed = sum(r.passed for r in results)
    total = sum(seconds for _, seconds in outcomes.values()) / 60
    lines += ["", f"{passed} of {len(results)} pass. Time on one core each, {total:.0f} min in all: {times}.", ""]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------- figures


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A Figure in the page's style, saved at the end."""
    with mpl.rc_context(RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(path, dpi=130, metadata={"Software": None})


def convergence(outcomes: Outcomes, path: Path) -> None:
    """Errors against resolution: channel, vortices, drag."""
    channel, vortices = outcomes["poiseuille"][0].curves, outcomes["taylor-green"][0].curves
    walls = outcomes["walls"][0].curves
    with drawing(path, 9.5, 3.1) as figure:
        left, middle, right = figure.subplots(1, 3, gridspec_kw={"wspace": 0.08})
        for name, colour, marker in (("1/12", OTHER, "s"), ("1/4", OURS, "o"), ("3/16", THIRD, "^")):
            left.loglog(channel["sizes"], channel[name], marker=marker, color=colour, label=f"Λ = {name}")
        left.set(title="Poiseuille flow", xlabel="cells across the channel", ylabel="largest error of u / U")
        left.legend(loc="center right")
        middle.loglog(vortices["sizes"], vortices["errors"], "o-", color=OURS, label="ours")
        _slope(middle, vortices["sizes"], vortices["errors"], 2)
        middle.set(title="Taylor–Green vortices", xlabel="cells across the box", ylabel="relative L2 error")
        for name, colour, marker in (("half-way", OTHER, "s"), ("interpolated", OURS, "o")):
            right.loglog(walls["diameters"], 100 * walls[name], marker=marker, color=colour, label=f"{name} walls")
        right.set(title="Drag, DFG 2D-1", xlabel="cells across the cylinder", ylabel="error of the drag (%)")
        right.legend()
        for axes, sizes in ((left, channel["sizes"]), (middle, vortices["sizes"]), (right, walls["diameters"])):
            axes.set_xticks(sizes, [str(n) for n in sizes])
            axes.minorticks_off()


def _slope(axes: Axes, x: np.ndarray, y: np.ndarray, order: int) -> None:
    """A line of the theoretical order, a little below the points."""
    line = 0.5 * y[0] * (x / x[0]) ** -order
    axes.loglog(x, line, "--", color=MUTED, linewidth=1, label=f"order {order}")
    axes.legend()


def cavity(outcomes: Outcomes, path: Path) -> None:
    """Velocity along the two centre lines of the cavity."""
    with drawing(path, 8.0, 3.8) as figure:
        left, right = figure.subplots(1, 2)
        for reynolds, colour in ((100, THIRD), (400, OTHER), (1000, OURS)):
            curves = outcomes[f"cavity-{reynolds}"][0].curves
            left.plot(curves["u"], curves["s"], color=colour, label=f"Re {reynolds}")
            right.plot(curves["s"], curves["v"], color=colour)
            rings: Any = {"color": colour, "fillstyle": "none", "zorder": 3, "clip_on": False}
            left.plot(published.GHIA_U[reynolds], published.GHIA_Y, "o", **rings)
            right.plot(published.GHIA_X, published.GHIA_V[reynolds], "o", **rings)
        left.plot(published.BOTELLA_U, published.BOTELLA_Y, "x", color=INK, markersize=4, zorder=4)
        right.plot(published.BOTELLA_X, published.BOTELLA_V, "x", color=INK, markersize=4, zorder=4)
        left.plot([], [], "o", color=MUTED, fillstyle="none", label="Ghia et al. (1982)")
        left.plot([], [], "x", color=INK, markersize=4, label="Botella & Peyret (1998)")
        left.set(title="u along x = 1/2", xlabel="u / U", ylabel="y", ylim=(0, 1))
        right.set(title="v along y = 1/2", xlabel="x", ylabel="v / U", xlim=(0, 1))
        left.legend(loc="lower right")


def street(outcomes: Outcomes, path: Path) -> None:
    """Strouhal number against Reynolds number, with the fit to the experiments."""
    runs = [o.curves for name, (o, _) in outcomes.items() if name.startswith(("strouhal-", "cylinder-"))]
    with drawing(path, 5.2, 3.6) as figure:
        axes = figure.subplots()
        re = np.linspace(49, 178, 200)
        axes.plot(re, [strouhal(float(x)) for x in re], color=INK, label="Williamson (1988), experiments")
        band = np.array([strouhal(float(x)) for x in re])
        axes.fill_between(re, 0.98 * band, 1.02 * band, color=MUTED, alpha=0.2, linewidth=0, label="± 2 %")
        axes.plot(
            [float(c["reynolds"]) for c in runs], [float(c["strouhal"]) for c in runs], "o", color=OURS, label="ours"
        )
        axes.set(xlabel="Reynolds number", ylabel="Strouhal number f D / U", xlim=(45, 185))
        axes.legend(loc="lower right")


def history(outcomes: Outcomes, path: Path) -> None:
    """Drag and lift of DFG 2D-2 from the start, and over its last periods."""
    curves = outcomes["dfg-2d2"][0].curves
    both, unit = curves["history"], float(curves["unit"])
    rows = (
        ("drag coefficient", (3.22, 3.24), (3.05, 3.3), (3.15, 3.25)),
        ("lift coefficient", (0.99, 1.01), (-1.2, 1.2), (-1.2, 1.2)),
    )
    with drawing(path, 8.5, 4.2) as figure:
        grid = figure.subplots(2, 2, width_ratios=(2, 1), sharex="col")
        for row, (name, (low, high), *limits) in enumerate(rows):
            for column, length in enumerate((len(both) - round(4 / unit / 2), round(10 / unit / 2))):
                axes, first = grid[row, column], max(0, len(both) - length)
                step = max(1, length // 4000)
                axes.plot(
                    np.arange(first, len(both))[::step] * 2 * unit,
                    both[first:, row][::step],
                    color=OURS,
                    linewidth=(0.8, 1.4)[column],
                )
                axes.axhspan(low, high, color=OTHER, alpha=0.35, linewidth=0)
                axes.set_ylim(*limits[column])
                axes.set_xlim(first * 2 * unit, len(both) * 2 * unit)
            grid[row, 0].set_ylabel(name)
            grid[1, row].set_xlabel("time (D / U)")
        grid[0, 0].set_title("growth of the street")
        grid[0, 1].set_title("the last three periods")
        grid[0, 0].text(
            0.99,
            0.03,
            "bands: maxima, Schäfer & Turek (1996)",
            color=OTHER,
            ha="right",
            fontsize=8.5,
            transform=grid[0, 0].transAxes,
        )
