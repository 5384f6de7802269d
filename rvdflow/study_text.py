"""A study's table in words: Markdown for a page and the terminal, LaTeX for a paper, JSON for programs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from evaluation.summary import SURE_RUNS
from rvdflow.checkpoint import replace_file
from rvdflow.study_table import Interval, Range, Row, Table

NONE = "-"
MINUS = "\N{MINUS SIGN}"


def skill_cells(table: Table, row: Row) -> list[str]:
    """CRPS by lead, its mean, what it is beside the perfect model and the best reference, spread-skill, outliers."""
    return [
        row.cell + (" (compared with)" if row.cell == table.against else ""),
        *(number(row.crps.get(lead), 3) for lead in table.shown),
        interval(row.mean_crps, 3),
        number(row.of_perfect, 2),
        number(row.skill_first, 0),
        number(row.skill, 0),
        between(row.spread_skill, 2),
        number(row.outliers, 2),
    ]


def skill_heads(table: Table) -> list[str]:
    """Headings of `skill_cells`."""
    leads = [f"lead {lead}" if i == 0 else str(lead) for i, lead in enumerate(table.shown)]
    mean = f"mean {table.leads[0]}-{table.leads[-1]} (95 %)"
    return ["cell", *leads, mean, "x perfect", "skill %, lead 1", "mean", "spread/skill", "outliers"]


def change_cells(table: Table, row: Row) -> list[str]:
    """What a cell changes, by how much that changes the CRPS, and what it costs."""
    own = row.cell == table.against
    return [
        row.cell,
        (row.description or row.what).replace("|", "/"),
        NONE if own else interval(row.change_first, 1, sign=True),
        NONE if own else interval(row.change, 1, sign=True),
        between(row.change_seeds, 1, sign=True),
        between(row.mean_crps_seeds, 3),
        number(row.minutes, 1),
        NONE if row.steps is None else f"{row.steps:,}",
        NONE if row.calls is None else f"{row.calls:.3g}",
        NONE if row.milliseconds is None else f"{row.milliseconds:.3g}",
        count(row.parameters),
    ]


def change_heads(table: Table) -> list[str]:
    """Headings of `change_cells`."""
    return [
        *("cell", "what", "lead 1 % (95 %)", "mean % (95 %)", "over seeds %", "CRPS over seeds"),
        *("train min", "steps", "calls", "ms/frame", "parameters"),
    ]


def markdown(table: Table) -> str:
    """The table as Markdown: for each group skill, and then changes and costs; notes at the end."""
    parts = [f"# {table.title}", ""]
    for group in table.groups:
        parts += [f"## {group}", ""] if group else []
        parts += [_caption(table, group), ""]
        rows = [row for row in table.of(group) if row.crps]
        parts += [*grid(skill_heads(table), [skill_cells(table, row) for row in rows]), ""]
        parts += [f"CRPS beside that of {table.against}, and cost:", ""]
        parts += [*grid(change_heads(table), [change_cells(table, row) for row in rows]), ""]
    return "\n".join([*parts, *(f"- {note}" for note in notes(table)), ""])


def _caption(table: Table, group: str) -> str:
    about = table.groups[group]
    units = f" {table.units}" if table.units and table.units != "1" else ""
    seeds = ", ".join(map(str, table.seeds))
    training = f", {table.budget} of training, seeds {seeds}" if table.budget else ""
    return (
        f"Fair CRPS in standard deviations of the truth ({about['unit']:.4g}{units}); {about['cases']} cases of "
        f"{about['runs']} runs, {table.members} members{training}."
    )


def notes(table: Table) -> list[str]:
    """What a reader must know: how to read intervals, what failed, what is missing."""
    first = next(iter(table.groups))
    runs = min(about["runs"] for about in table.groups.values())
    said = [
        "Brackets: 95 % interval of a paired bootstrap over runs of the dataset, after averaging over seeds"
        + (f"; rough with {runs} runs." if runs < SURE_RUNS else "."),
        "A deterministic forecast has its mean absolute error as CRPS, and no spread.",
        "spread/skill: smallest and largest over leads, 1 is calibrated. outliers: truths outside the ensemble, times "
        "what a calibrated one has.",
        "calls: of the network per frame; ms: per frame and member, as measured, on the machine that drew it.",
    ]
    about = table.groups[first]
    best = {about["best_reference_first"]: "lead 1"} if about["best_reference"] != about["best_reference_first"] else {}
    if about["best_reference"]:
        other = f" ({', '.join(f'{name} at {at}' for name, at in best.items())})"
        said.append(f"skill: CRPSS against the best reference, {about['best_reference']}{other if best else ''}.")
    for row in table.of(first):
        said += [f"{job} failed: {reason}" for job, reason in row.failed.items()]
        if row.missing:
            said.append(f"not done yet: {', '.join(row.missing)}.")
    return said


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns line up: the first to the left, numbers to the right; empty columns left out."""
    kept = [i for i in range(len(heads)) if i == 0 or any(row[i] != NONE for row in rows)]
    cells = [[line[i] for i in kept] for line in (heads, *rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(kept))]
    left = [not rows or heads[i] in ("cell", "what") for i in kept]

    def line(parts: Sequence[str]) -> str:
        padded = [p.ljust(w) if is_left else p.rjust(w) for p, w, is_left in zip(parts, widths, left, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * w if is_left else "-" * (w - 1) + ":") for w, is_left in zip(widths, left, strict=True)]
    return [line(cells[0]), f"| {' | '.join(rule)} |", *(line(parts) for parts in cells[1:])]


def latex(table: Table) -> str:
    """The skill table of each group as LaTeX (package booktabs), with changes of the mean in the last column."""
    parts = []
    for group in table.groups:
        rows = [row for row in table.of(group) if row.crps]
        heads = [*skill_heads(table), "change \\% (95 \\%)"]
        body = [[*map(tex, skill_cells(table, row)), tex(change_cells(table, row)[3])] for row in rows]
        parts += [
            f"% {table.title}{': ' + group if group else ''}",
            f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
            "\\toprule",
            " & ".join([*map(tex, heads[:-1]), heads[-1]]) + " \\\\",
            "\\midrule",
            *(" & ".join(cells) + " \\\\" for cells in body),
            "\\bottomrule",
            "\\end{tabular}",
            f"% {_caption(table, group)}",
        ]
    return "\n".join([*parts, ""])


def tex(text: str) -> str:
    """`text` with what LaTeX would take for commands escaped."""
    return re.sub(r"([%&#$_{}])", r"\\\1", text).replace(MINUS, "$-$").replace("\N{EN DASH}", "--")


def number(value: float | None, digits: int, *, sign: bool = False) -> str:
    """A number with so many digits behind the point, or "-"."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{abs(value):.{digits}f}"
    negative = value < 0 and float(text) != 0
    return (MINUS if negative else "+" if sign and float(text) != 0 else "") + text


def interval(found: Interval, digits: int, *, sign: bool = False) -> str:
    """`0.123 (0.110 to 0.140)`."""
    value, low, high = (number(x, digits, sign=sign) for x in found)
    return value if NONE in (low, high) else f"{value} ({low} to {high})"


def between(found: Range | None, digits: int, *, sign: bool = False) -> str:
    """`0.85 to 1.02`."""
    return NONE if found is None else " to ".join(number(x, digits, sign=sign) for x in found)


def count(value: int | None) -> str:
    """A number of parameters: 0.45 M."""
    return NONE if value is None else f"{value / 1e6:.3g} M" if value >= 1e5 else f"{value:,}"


def write(table: Table, folder: Path) -> list[Path]:
    """Write table.md, .tex, .json, .png and .svg; returns their paths. What does not exist is null in the JSON."""
    from rvdflow.study_figure import pictures

    folder.mkdir(parents=True, exist_ok=True)
    raster, vector = pictures(table)
    content = {
        "md": markdown(table).encode(),
        "tex": latex(table).encode(),
        "json": (json.dumps(table.json(), indent=1, allow_nan=False) + "\n").encode(),
        "png": raster,
        "svg": vector,
    }
    for ending, octets in content.items():
        replace_file(folder / f"table.{ending}", octets)
    return [folder / f"table.{ending}" for ending in content]
