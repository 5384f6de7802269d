"""Training curves of one or several runs as a picture, from their logs alone.

Panels share an axis of steps, with the minutes that each run took above it, or an axis of minutes. From top to bottom:
loss and its parts, validation scores, learning rate, gradient norm; a panel that no run has numbers for is left out.
The log of a run that is still training, or was stopped and resumed, is as good as that of a finished one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from evaluation.style import CANDIDATES, INK, MUTED, figure, pictures
from lbm.errors import DataError, UsageError
from rvdflow import runlog
from rvdflow.checkpoint import replace_file

By = Literal["steps", "minutes"]
NOT_LOSSES = {
    *("step", "samples", "seconds", "skipped", "learning_rate", "gradient_norm"),
    *("clips_per_second", "memory_mib"),
}
DASHES: Sequence[Any] = ((0, (4, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (2, 1)), (0, (7, 2)))
SMOOTH = 60  # with more points than this a curve is drawn thin, and its running mean strong
STEPS = (1, 2, 5, 10)  # of ticks
CLOCK = 0.21  # between two axes of minutes, in heights of the top panel
MOST_CLOCKS = 3  # more runs than this: no axis of minutes for each


@dataclass(frozen=True)
class Log:
    """Columns of a run's log. `times(name)` and `values(name)` leave out rows without that number."""

    name: str
    rows: list[dict[str, Any]]
    by: By = "steps"

    def names(self) -> list[str]:
        """Columns that hold numbers, as they came."""
        found = dict.fromkeys(name for row in self.rows for name, value in row.items() if _number(value))
        return list(found)

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(place on the axis, value) of a column; a number that was not finite is a gap."""
        kept = [row for row in self.rows if name in row]
        values = [float(row[name]) if _number(row[name]) else np.nan for row in kept]
        return np.array([self.place(row) for row in kept]), np.array(values)

    def place(self, row: dict[str, Any]) -> float:
        return float(row["step"]) if self.by == "steps" else float(row.get("seconds") or 0) / 60

    def losses(self) -> list[str]:
        """The loss, and then its parts."""
        other = ("validation_", "_gradient_norm")
        names = [n for n in self.names() if n not in NOT_LOSSES and not (n.startswith(other) or n.endswith(other))]
        return sorted(names, key=lambda name: name != "loss")

    def clock(self) -> tuple[np.ndarray, np.ndarray]:
        """(steps, minutes), both rising, for the second axis."""
        found = {int(row["step"]): float(row["seconds"]) / 60 for row in self.rows if _number(row.get("seconds"))}
        steps = np.array([0, *sorted(found)], dtype=float)
        minutes = np.maximum.accumulate(np.array([0.0, *(found[k] for k in sorted(found))]))
        return steps, minutes + 1e-9 * np.arange(len(minutes))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def draw_curves(runs: Sequence[Path], file: Path, *, by: By = "steps", overwrite: bool = False) -> Path:
    """Draw the training curves of run folders into `file`, a PNG or SVG by its suffix; returns it.

    `by` says what the axis counts: steps, or minutes. Raises UsageError for another suffix or an existing file,
    DataError when a run's log has no rows.
    """
    suffix = file.suffix.lower()
    if suffix not in (".png", ".svg"):
        raise UsageError(f"--curves {file}: wanted a name that ends in .png or .svg")
    if file.exists() and not overwrite:
        raise UsageError(f"{file} exists: replace it with --overwrite")
    if by not in get_args(By):
        raise UsageError(f"--by {by}: wanted steps or minutes")
    logs = [Log(name, _rows(run), by) for name, run in zip(_names(runs), runs, strict=True)]
    png, svg = pictures(curves_figure(logs), dpi=200)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, png if suffix == ".png" else svg)
    return file


def _rows(run: Path) -> list[dict[str, Any]]:
    rows = runlog.read(run)
    if not rows:
        raise DataError(f"{run}: no log with rows in it: give a run folder, once train.log_every steps are done")
    return sorted(rows, key=lambda row: row["step"])


def _names(runs: Sequence[Path]) -> list[str]:
    """Names of folders, with as much of the path before them as tells them apart."""
    parts = [run.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


# ------------------------------------------------------------------ drawing


def curves_figure(logs: Sequence[Log]) -> Figure:
    """The picture of `draw_curves` as a matplotlib Figure."""
    panels = [(kind, height) for kind, height in PANELS.items() if any(_has(log, kind) for log in logs)]
    with figure(7.4, 0.9 + sum(height for _, height in panels)) as drawing:
        heights = [height for _, height in panels]
        grid: list[Axes] = list(
            drawing.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        )
        colours = {log.name: CANDIDATES[i % len(CANDIDATES)] for i, log in enumerate(logs)}
        for axes, (kind, _) in zip(grid, panels, strict=True):
            DRAW[kind](axes, logs, colours)
        _step_axis(grid, logs, colours)
        if len(logs) > 1:
            handles = [Line2D([], [], color=colours[log.name], linewidth=2.6, label=log.name) for log in logs]
            drawing.legend(handles=handles, loc="outside lower center", ncols=min(4, len(logs)), frameon=False)
        else:
            drawing.suptitle(logs[0].name, x=0.01, ha="left", fontweight="bold", fontsize=12, color=INK)
    return drawing


def _has(log: Log, kind: str) -> bool:
    names = log.names()
    if kind == "loss":
        return bool(log.losses())
    if kind == "validation":
        return "validation_crps" in names or "validation_loss" in names
    return kind in names


def _step_axis(grid: Sequence[Axes], logs: Sequence[Log], colours: dict[str, str]) -> None:
    """The shared axis below, and one of minutes for each run above."""
    last = max(log.place(row) for log in logs for row in log.rows)
    for axes in grid:
        axes.set_xlim(0, last * 1.02 or 1)
        axes.tick_params(labelbottom=axes is grid[-1])
    grid[-1].set_xlabel("step" if logs[0].by == "steps" else "minutes of training")
    grid[-1].xaxis.set_major_locator(MaxNLocator(8, steps=STEPS, integer=logs[0].by == "steps"))
    if logs[0].by == "minutes" or len(logs) > MOST_CLOCKS:
        return
    for k, log in enumerate(logs):
        steps, minutes = log.clock()
        if minutes[-1] < 1e-6:
            continue
        above = grid[0].secondary_xaxis(
            1.0 + k * CLOCK, functions=(partial(_along, steps, minutes), partial(_along, minutes, steps))
        )
        colour = colours[log.name] if len(logs) > 1 else INK
        above.set_xlabel("minutes" + (f" of {log.name}" if len(logs) > 1 else ""), color=colour, labelpad=3, fontsize=9)
        above.tick_params(colors=colour, labelcolor=colour, labelsize=9, pad=1)
        above.xaxis.set_major_locator(MaxNLocator(8, steps=STEPS))


def _along(x: np.ndarray, y: np.ndarray, at: Any) -> np.ndarray:
    """Piecewise linear y(x), going on beyond the last point at the mean rate."""
    at = np.asarray(at, dtype=float)
    rate = (y[-1] - y[0]) / (x[-1] - x[0])
    beyond = np.where(at > x[-1], (at - x[-1]) * rate, np.where(at < x[0], (at - x[0]) * rate, 0.0))
    return np.interp(at, x, y) + beyond


def _loss(axes: Axes, logs: Sequence[Log], colours: dict[str, str]) -> None:
    parts = list(dict.fromkeys(name for log in logs for name in log.losses()))
    dashes = {"loss": "-"} | {
        name: DASHES[k % len(DASHES)] for k, name in enumerate(n for n in parts if n != "loss")
    }  # fmt: skip
    tints = {name: CANDIDATES[k % len(CANDIDATES)] for k, name in enumerate(parts)}
    seen = []
    for log in logs:
        for name in log.losses():
            colour = colours[log.name] if len(logs) > 1 else tints[name]
            total = name == "loss"
            seen.append(_curve(axes, log, name, colour, "-" if len(logs) == 1 else dashes[name], 2.0 if total else 1.3))
    _scale(axes, seen, room=0.22 if len(parts) > 1 else 0.0)
    axes.set_title("Loss and its parts" if len(parts) > 1 else "Loss")
    handles = [
        Line2D(
            [], [], color=tints[n] if len(logs) == 1 else MUTED, linestyle="-" if len(logs) == 1 else dashes[n],
            label=n.replace("_", " "),
        )
        for n in parts
    ]  # fmt: skip
    if len(parts) > 1:
        _legend(axes, handles)


def _validation(axes: Axes, logs: Sequence[Log], colours: dict[str, str]) -> None:
    crps = any("validation_crps" in log.names() for log in logs)
    name = "validation_crps" if crps else "validation_loss"
    stars: list[Line2D] = []
    for log in logs:
        x, y = log.series(name)
        if not np.isfinite(y).any():
            continue
        colour = colours[log.name]
        _, error = log.series(f"{name}_error")
        axes.plot(x, y, color=colour, marker="o", markersize=3.5, linewidth=1.8)
        if len(error) == len(y):
            axes.fill_between(x, y - error, y + error, color=colour, alpha=0.2, linewidth=0)
        if not crps:  # the unit of a loss, the deviation of the residual, changes with the steps
            continue
        best = int(np.nanargmin(y))
        stars += axes.plot(
            x[best], y[best], "*", color=colour, markersize=11, markeredgecolor="white", zorder=5,
            label=f"{y[best]:.3g}",
        )  # fmt: skip
    low, high = axes.get_ylim()
    axes.set_ylim(min(0.0, low), high + 0.06 * (high - low))
    if stars:
        _legend(axes, stars)
    axes.set_title("Validation: fair CRPS in normalised units, best starred" if crps else "Validation: loss")


def _rate(axes: Axes, logs: Sequence[Log], colours: dict[str, str]) -> None:
    for log in logs:
        axes.plot(*log.series("learning_rate"), color=colours[log.name], linewidth=1.6)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    axes.set_title("Learning rate")


def _gradient(axes: Axes, logs: Sequence[Log], colours: dict[str, str]) -> None:
    seen = [_curve(axes, log, "gradient_norm", colours[log.name], "-", 1.6) for log in logs]
    _scale(axes, seen)
    axes.set_title("Norm of the gradient")
    skipped = []
    for log in logs:
        x, total = log.series("skipped")
        new = np.flatnonzero(np.diff(total, prepend=0.0) > 0)
        if len(new):
            axes.plot(
                x[new], np.full(len(new), 0.04), "x", color=colours[log.name], transform=axes.get_xaxis_transform(),
                clip_on=False,
            )  # fmt: skip
            skipped.append(Line2D([], [], color=colours[log.name], marker="x", linestyle="",
                                  label=f"{int(np.nanmax(total))} steps skipped"))  # fmt: skip
    if skipped:
        _legend(axes, skipped)


PANELS = {"loss": 2.3, "validation": 2.0, "learning_rate": 1.15, "gradient_norm": 1.5}  # heights in inches
DRAW = {"loss": _loss, "validation": _validation, "learning_rate": _rate, "gradient_norm": _gradient}


def _curve(axes: Axes, log: Log, name: str, colour: str, dash: Any, width: float) -> np.ndarray:
    """One column; where it has many points, thin with its running mean over it. Returns its values."""
    x, y = log.series(name)
    if len(y) > SMOOTH:
        axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.3)
        y = running_mean(y, max(3, len(y) // 40))
    axes.plot(x, y, color=colour, linestyle=dash, linewidth=width, marker="o" if len(y) == 1 else "", markersize=4)
    return y


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over the `width` values around each, fewer at the ends, leaving out NaN; NaN where there are none."""
    known = np.isfinite(values)
    total, count = (np.convolve(a, np.ones(width), "same") for a in (np.where(known, values, 0.0), known.astype(float)))
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0.5)


def _scale(axes: Axes, seen: Sequence[np.ndarray], room: float = 0.0) -> None:
    """A logarithmic axis where all values are positive and span more than a factor of five; else one from zero.

    `room` is the share of its height to leave free at the top, for a legend.
    """
    finite = np.concatenate([y[np.isfinite(y)] for y in seen]) if seen else np.array([])
    if finite.size and finite.min() > 0 and finite.max() > 5 * finite.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if finite.max() < 60 * finite.min() else (1,)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** (room / (1 - room)))
    elif finite.size:
        low, high = axes.get_ylim()
        low = 0.0 if finite.min() >= 0 else low
        axes.set_ylim(low, high + (high - low) * room / (1 - room))


def _legend(axes: Axes, handles: Sequence[Line2D]) -> None:
    axes.legend(handles=handles, loc="upper right", ncols=min(4, len(handles)), frameon=False, fontsize=8.5)
