"""The skill table: metrics of methods by lead time, as text for a terminal and as HTML for the report.

Few methods: rows are leads, columns metrics of methods. Many: rows are methods, best CRPS first, columns a few leads
and the averages over all leads, so that the table can be sorted by any of them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from html import escape

import xarray as xr

from evaluation import summary
from evaluation.style import with_units

NONE = "n/a"
FEW = 4  # methods, with which rows are leads
LEADS = 6  # leads shown as columns, at most, where rows are methods


@dataclass(frozen=True)
class Column:
    """One column of the skill table: a metric of one method, for every lead and pooled over each period."""

    group: str
    heading: str
    values: list[float]  # leads, then periods; NaN where the metric does not apply
    digits: int
    percent: bool = False
    best: str = ""  # "low": the smallest value among the columns of the group is the best

    def text(self, row: int) -> str:
        """The value of a row as it is printed."""
        value = self.values[row]
        if not math.isfinite(value):
            return NONE
        return f"{100 * value:.{self.digits}f} %" if self.percent else f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class SkillTable:
    """Rows are leads, then periods (leads averaged first); columns are metrics of methods."""

    rows: list[str]
    pooled: int  # how many of the last rows are periods
    columns: list[Column]
    scale: str  # what errors are in


def skill_table(scores: xr.Dataset) -> SkillTable:
    """CRPS and RMSE of every method in standard deviations of the truth, CRPSS, spread-skill ratio."""
    groups = summary.periods(scores)
    names = [str(m) for m in scores["method"].values]
    scale, unit = summary.error_unit(scores)
    columns = [_column(scores, "CRPS", "crps", n, groups, scale, 3, best="low") for n in names]
    for reference in summary.references(scores):
        judged = [n for n in summary.candidates(scores) if n != reference]
        for name in judged:
            column = _column(scores, "CRPSS against", "crpss", name, groups, 1.0, 1, reference, percent=True)
            columns.append(replace(column, heading=reference if len(judged) == 1 else f"{reference}: {name}"))
    columns += [_column(scores, "spread / RMSE", "spread_skill_ratio", n, groups, 1.0, 2) for n in names]
    columns += [_column(scores, "RMSE of the mean", "rmse", n, groups, scale, 3, best="low") for n in names]
    rows = [str(lead) for lead in scores["lead_time"].values] + [f"{label} (mean)" for label in groups]
    return SkillTable(rows, len(groups), columns, _scale_words(scale, unit, scores.attrs["units"]))


def _scale_words(scale: float, unit: str, units: str) -> str:
    """`grey levels`, or `standard deviations of the truth (0.009 / tick)`."""
    return unit if unit == units else f"{unit} ({with_units(scale, units)})"


def count(number: int, noun: str) -> str:
    """`1 run`, `4 runs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _column(
    scores: xr.Dataset,
    group: str,
    name: str,
    method: str,
    periods: dict[str, list[int]],
    scale: float,
    digits: int,
    reference: str | None = None,
    *,
    percent: bool = False,
    best: str = "",
) -> Column:
    pick = {"method": method}
    values = [float(v) for v in summary.value(scores, name, reference=reference).sel(pick)]
    values += [float(summary.value(scores, name, reference=reference, leads=p).sel(pick)) for p in periods.values()]
    return Column(group, method, [v / scale for v in values], digits, percent, best)


def skill_table_text(scores: xr.Dataset) -> str:
    """The skill table for a terminal: CRPS, CRPSS, spread/RMSE, and what the numbers are in."""
    if scores.sizes["method"] > FEW:
        return _methods_text(scores)
    table = skill_table(scores)
    columns = [c for c in table.columns if c.group != "RMSE of the mean" and any(map(math.isfinite, c.values))]
    cells = [["", *(c.group for c in columns)], ["lead", *(c.heading for c in columns)]]
    for i in range(1, len(columns)):
        if columns[i].group == columns[i - 1].group:
            cells[0][i + 1] = ""
    body = [[name, *(c.text(i) for c in columns)] for i, name in enumerate(table.rows)]
    width = [max(len(row[i]) for row in [cells[1], *body]) for i in range(len(columns) + 1)]
    for i in range(1, len(columns) + 1):  # a heading may reach over the columns of its group
        span = [j for j in range(i, len(columns) + 1) if columns[j - 1].group == columns[i - 1].group]
        if cells[0][i]:
            width[span[-1]] += max(0, len(cells[0][i]) - sum(width[j] + 2 for j in span) + 2)
    lines = [_heading(cells[0], columns, width), _line(cells[1], width), "-" * (sum(width) + 2 * len(columns))]
    lines += [_line(row, width) for row in body]
    lines.insert(len(lines) - table.pooled, lines[2])
    a = scores.attrs
    lines.append(
        f"CRPS in {table.scale}; {summary.estimator(scores)} estimator; "
        f"{count(a['cases'], 'case')}, {count(a['runs'], summary.terms(scores).run)}"
    )
    return "\n".join(lines)


def _heading(titles: list[str], columns: list[Column], width: list[int]) -> str:
    parts = [" " * width[0]]
    i = 1
    while i < len(titles):
        span = [j for j in range(i, len(titles)) if columns[j - 1].group == columns[i - 1].group]
        parts.append(titles[i].rjust(sum(width[j] for j in span) + 2 * (len(span) - 1)))
        i = span[-1] + 1
    return "  ".join(parts).rstrip()


def _line(cells: list[str], width: list[int]) -> str:
    first, *rest = (c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, width, strict=True)))
    return "  ".join([first, *rest]).rstrip()


def skill_table_html(scores: xr.Dataset) -> str:
    """The skill table as HTML; the best method is marked. Cells carry their number as `data-value`, empty for none."""
    if scores.sizes["method"] > FEW:
        return _methods_html(scores)
    table = skill_table(scores)
    groups: dict[str, list[Column]] = {}
    for column in table.columns:
        groups.setdefault(column.group, []).append(column)
    top = "".join(f'<th class="group" colspan="{len(c)}" scope="colgroup">{escape(g)}</th>' for g, c in groups.items())
    names = "".join(
        f'<th scope="col"{" class=first" if i == 0 else ""}>{escape(c.heading)}</th>'
        for columns in groups.values()
        for i, c in enumerate(columns)
    )
    rows = []
    for i, name in enumerate(table.rows):
        pooled = ' class="pooled"' if i >= len(table.rows) - table.pooled else ""
        cells = "".join(_cells(columns, i) for columns in groups.values())
        rows.append(f'<tr{pooled}><th scope="row" data-value="{i + 1}">{escape(name)}</th>{cells}</tr>')
    note = (
        f"CRPS ({summary.estimator(scores)} estimator) and RMSE in {table.scale}. "
        f"{NONE}: not applicable; a forecast with one member has no spread, and its CRPS is its absolute error. "
        "The best of each row is shaded. The last rows average over leads before dividing. "
        "Intervals are in scores.csv."
    )
    return (
        f'<div class="table" tabindex="0"><table><thead><tr><th rowspan="2" scope="col">lead</th>{top}</tr>'
        f'<tr>{names}</tr></thead><tbody>{"".join(rows)}</tbody></table></div><p class="note">{escape(note)}</p>'
        + distances_html(scores)
    )


def _cell(column: Column, row: int, marks: list[str]) -> str:
    value = column.values[row]
    number = f"{value:.8g}" if math.isfinite(value) else ""
    kind = f' class="{" ".join(marks)}"' if marks else ""
    return f'<td{kind} data-value="{number}">{column.text(row)}</td>'


def _cells(columns: list[Column], row: int) -> str:
    known = [c.values[row] for c in columns if math.isfinite(c.values[row])]
    cells = []
    for i, column in enumerate(columns):
        value = column.values[row]
        marks = ["first"] if i == 0 else []
        marks += ["best"] if column.best == "low" and len(known) > 1 and value == min(known) else []
        marks += [] if math.isfinite(value) else ["none"]
        cells.append(_cell(column, row, marks))
    return "".join(cells)


def distances_html(scores: xr.Dataset) -> str:
    """Fréchet distances of whole clips, one number for each method, beside what two samples of truths are apart.

    "" where none was computed.
    """
    known = [n for n in ("fvd", "frechet_physics") if n in scores and bool(scores[n].notnull().any())]
    if not known:
        return ""
    features = "motion and texture (no network)" if summary.terms(scores).video else "physics features"
    titles = {"fvd": "FVD", "frechet_physics": f"Fréchet distance, {features}"}
    heads = "".join(
        f'<th scope="col">{titles[n]}</th><th scope="col">{"FVD" if n == "fvd" else "that"} of the truth</th>'
        for n in known
    )
    rows = []
    for name in summary.names_of(scores):
        cells = []
        for kind in known:
            for key in (kind, f"{kind}_floor"):
                found = scores[key] if key in scores else xr.DataArray(math.nan)
                value = float(found.sel({"method": name}) if "method" in found.dims else found)
                text, number = (f"{value:.4g}", f"{value:.8g}") if math.isfinite(value) else (NONE, "")
                cells.append(f'<td data-value="{number}">{text}</td>')
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    note = (
        "Fréchet distances compare the distributions of features of whole clips: smaller is better. Of the truth: the "
        "distance between two samples of truths of this size, below which nothing can be told. They depend on the "
        "number of clips and on the features: never compare them with values from elsewhere."
    )
    return (
        f'<div class="table" tabindex="0"><table><thead><tr><th scope="col">method</th>{heads}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div><p class="note">{escape(note)}</p>'
    )


def method_table(scores: xr.Dataset) -> SkillTable:
    """The table with methods as rows, best CRPS first: CRPS at some leads and over all, skill, reliability, errors."""
    groups = summary.periods(scores)
    label, every = list(groups.items())[-1]
    scale, unit = summary.error_unit(scores)
    pooled = summary.value(scores, "crps", leads=every)
    names = sorted(summary.names_of(scores), key=lambda n: _last(float(pooled.sel({"method": n}))))

    def column(
        group: str, heading: str, found: xr.DataArray, digits: int, best: str = "", percent: bool = False
    ) -> Column:
        return Column(group, heading, [float(found.sel({"method": n})) for n in names], digits, percent, best)

    crps = summary.value(scores, "crps") / scale
    leads = [int(lead) for lead in scores["lead_time"].values]
    places = sorted(
        {round((len(leads) - 1) * i / max(min(LEADS, len(leads)) - 1, 1)) for i in range(min(LEADS, len(leads)))}
    )
    columns = [column("CRPS at lead", str(leads[i]), crps.isel(lead_time=i), 3, "low") for i in places]
    over = f"leads {label}" if len(leads) > 1 else f"lead {label}"
    columns.append(column(over, "CRPS", pooled / scale, 3, "low"))
    for reference in summary.references(scores):
        skill = summary.value(scores, "crpss", reference=reference, leads=every)
        skill = skill.where(skill["method"] != reference)
        columns.append(column(over, f"CRPSS: {reference}", skill, 1, percent=True))
    columns.append(column(over, "spread / RMSE", summary.value(scores, "spread_skill_ratio", leads=every), 2))
    columns.append(column(over, "RMSE", summary.value(scores, "rmse", leads=every) / scale, 3, "low"))
    return SkillTable(names, 0, columns, _scale_words(scale, unit, scores.attrs["units"]))


def _last(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _methods_text(scores: xr.Dataset) -> str:
    table = method_table(scores)
    columns = [c for c in table.columns if c.heading != "RMSE" and any(map(math.isfinite, c.values))]
    head = ["", *(c.heading.removeprefix("CRPSS: ").removeprefix("spread ") for c in columns)]
    own = {"CRPSS": "CRPSS against", "spread": "spread"}
    groups = ["", *(own.get(re.split("[: ]", c.heading)[0], c.group) for c in columns)]
    above = [g if i == 0 or g != groups[i - 1] else "" for i, g in enumerate(groups)]
    body = [[name, *(c.text(i) for c in columns)] for i, name in enumerate(table.rows)]
    parts = [replace(c, group=g) for c, g in zip(columns, groups[1:], strict=True)]
    width = [max(len(row[i]) for row in [head, *body]) for i in range(len(columns) + 1)]
    for i in range(1, len(columns) + 1):
        span = [j for j in range(i, len(columns) + 1) if groups[j] == groups[i]]
        if above[i]:
            width[span[-1]] += max(0, len(above[i]) - sum(width[j] + 2 for j in span) + 2)
    lines = [_heading(above, parts, width), _line(head, width), "-" * (sum(width) + 2 * len(columns))]
    lines += [_line(row, width) for row in body]
    a = scores.attrs
    lines.append(
        f"CRPS in {table.scale}; {summary.estimator(scores)} estimator; "
        f"{count(a['cases'], 'case')}, {count(a['runs'], summary.terms(scores).run)}"
    )
    return "\n".join(lines)


def _methods_html(scores: xr.Dataset) -> str:
    table = method_table(scores)
    groups: dict[str, int] = {}
    for column in table.columns:
        groups[column.group] = groups.get(column.group, 0) + 1
    top = "".join(f'<th class="group" colspan="{n}" scope="colgroup">{escape(g)}</th>' for g, n in groups.items())
    first = {i for i, c in enumerate(table.columns) if i == 0 or c.group != table.columns[i - 1].group}
    heads = "".join(
        f'<th scope="col"{" class=first" if i in first else ""}>{escape(c.heading)}</th>'
        for i, c in enumerate(table.columns)
    )
    ceilings = summary.ceilings(scores)
    rows = []
    for i, name in enumerate(table.rows):
        cells = []
        for j, column in enumerate(table.columns):
            value = column.values[i]
            known = [
                v for v, n in zip(column.values, table.rows, strict=True) if math.isfinite(v) and n not in ceilings
            ]
            marks = ["first"] if j in first else []
            marks += ["best"] if column.best == "low" and name not in ceilings and known and value == min(known) else []
            marks += [] if math.isfinite(value) else ["none"]
            cells.append(_cell(column, i, marks))
        kind = " (ceiling)" if name in ceilings else ""
        rows.append(f'<tr><th scope="row" data-value="{i + 1}">{escape(name + kind)}</th>{"".join(cells)}</tr>')
    note = (
        f"CRPS ({summary.estimator(scores)} estimator) and RMSE in {table.scale}. CRPSS: against the "
        f"method named. {NONE}: not applicable; a forecast with one member has no spread, and its CRPS is its absolute "
        "error. The best of each column is shaded (a ceiling apart). Leads are averaged before dividing. Every lead "
        "and all intervals are in scores.csv."
    )
    return (
        f'<div class="table" tabindex="0"><table><thead><tr><th rowspan="2" scope="col">method</th>{top}</tr>'
        f'<tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div><p class="note">{escape(note)}</p>'
        + distances_html(scores)
    )
