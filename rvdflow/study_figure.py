"""The figure of a study: mean CRPS of each cell as a dot with its interval; perfect model and references as lines."""

from __future__ import annotations

from typing import Any

from evaluation import style
from rvdflow.study_table import Row, Table

HEIGHT = 0.27  # inches of a row
CLOSE = 0.16  # lines less apart than this share of the axis have labels at different heights
STRETCH = 1.35  # a line further right than this, times the largest CRPS of a cell, is told in words instead


def pictures(table: Table) -> tuple[bytes, bytes]:
    """The figure as PNG and SVG."""
    from evaluation.style import pictures

    return pictures(figure(table))


def figure(table: Table) -> Any:
    """One panel for each group, one line of it for each cell that has scores; the cell compared with is marked."""
    groups = list(table.groups)
    names = [row.cell for row in table.of(groups[0]) if row.crps and row.kind not in ("method", "perfect", "store")]
    names = names or [row.cell for row in table.of(groups[0]) if row.crps]
    height = 1.6 + HEIGHT * len(names)
    with style.figure(4.2 + 3.6 * len(groups), height) as drawing:
        panels = drawing.subplots(1, len(groups), sharey=True, squeeze=False)[0]
        for axes, group in zip(panels, groups, strict=True):
            _panel(axes, table, group, names)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        for label, name in zip(panels[0].get_yticklabels(), names, strict=True):
            label.set_fontweight("bold" if name == table.against else "normal")
    return drawing


def _panel(axes: Any, table: Table, group: str, names: list[str]) -> None:
    rows = {row.cell: row for row in table.of(group) if row.crps}
    shown = [rows[name] for name in names if name in rows]
    for row in shown:
        _dot(axes, row, names.index(row.cell), row.cell == table.against)
    values = [x for row in shown for x in row.mean_crps if x is not None]
    limit = STRETCH * max(values)
    others = [
        (row.mean_crps[0], row) for row in rows.values() if row.cell not in names and row.mean_crps[0] is not None
    ]
    others.sort(key=lambda pair: pair[0])
    outside = [f"{row.cell} {x:.2f}" for x, row in others if x > limit]
    lines = [(x, row) for x, row in others if x <= limit]
    values += [x for x, _ in lines]
    against = rows.get(table.against)
    if against is not None and against.mean_crps[0] is not None:
        axes.axvline(against.mean_crps[0], color=style.CANDIDATES[0], linewidth=0.8, alpha=0.5, zorder=0)
    span = (max(values) - min(values)) or abs(max(values)) or 1.0
    axes.set_xlim(min(values) - 0.06 * span, max(values) + 0.08 * span)
    step, heights = 0, 0
    for i, (x, row) in enumerate(lines):  # labels of close neighbours stand above each other
        step = step + 1 if i and x - lines[i - 1][0] < CLOSE * span else 0
        heights = max(heights, step)
        _line(axes, x, row.cell, row.cell == table.groups[group]["perfect"], step)
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(group or table.title, pad=18 + 11 * heights)
    label = f"fair CRPS, mean of leads {table.leads[0]} to {table.leads[-1]} (standard deviations of the truth)"
    label += "\nbar: 95 % interval over runs" + ("; ticks: range over seeds" if len(table.seeds) > 1 else "")
    label += f"\nfurther right: {', '.join(outside)}" if outside else ""
    axes.set_xlabel(label, fontsize=9)


def _dot(axes: Any, row: Row, at: int, compared_with: bool) -> None:
    value, low, high = row.mean_crps
    if value is None:
        return
    colour = style.CANDIDATES[0] if compared_with else style.INK
    if low is not None and high is not None:
        axes.plot([low, high], [at, at], color=colour, linewidth=1.6, solid_capstyle="round", alpha=0.55)
    if row.mean_crps_seeds is not None:
        axes.plot(row.mean_crps_seeds, [at, at], linestyle="", marker="|", markersize=8, color=colour)
    marker = "D" if compared_with else "o"
    axes.plot([value], [at], marker=marker, markersize=6.5, color=colour, markeredgecolor="white", linestyle="")


def _line(axes: Any, value: float, name: str, ceiling: bool, step: int) -> None:
    """A vertical line with its name above, `step` lines up."""
    colour = style.CEILING if ceiling else style.REFERENCES.get(name.removesuffix("-dressed"), style.MUTED)
    axes.axvline(value, color=colour, linewidth=1.5, linestyle=(0, (4, 2)) if ceiling else "-", zorder=0.5)
    axes.annotate(
        name, (value, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3 + 11 * step), textcoords="offset points",
        ha="center", va="bottom", fontsize=8.5, color=colour,
    )  # fmt: skip
