"""The words and tables of a verification: a summary in plain language, the skill table, the protocol stamp."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import xarray as xr

from evaluation import summary
from evaluation.style import with_units

FEW_RUNS = 6  # below this an interval from resampled runs is rough, and the page says so
NONE = "n/a"
STAMP = (  # the first rows of the protocol, where a forecast says them; whatever else it says comes after
    "members deterministic seed context sampler sampler_steps preset parameters training_steps checkpoint "
    "checkpoint_sha256 training_dataset_sha256 dataset_sha256 versions git_commit"
).split()


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
    scale: str  # what the number one means for errors


def skill_table(scores: xr.Dataset) -> SkillTable:
    """CRPS and RMSE of every method in standard deviations of the truth, CRPSS, spread-skill ratio."""
    groups = summary.periods(scores)
    names = [str(m) for m in scores["method"].values]
    scale = summary.truth_deviation(scores)
    columns = [_column(scores, "CRPS", "crps", n, groups, scale, 3, best="low") for n in names]
    for reference in summary.references(scores):
        judged = [n for n in summary.candidates(scores) if n != reference]
        for name in judged:
            column = _column(scores, "CRPSS against", "crpss", name, groups, 1.0, 1, reference, percent=True)
            columns.append(replace(column, heading=reference if len(judged) == 1 else f"{reference}: {name}"))
    columns += [_column(scores, "spread / RMSE", "spread_skill_ratio", n, groups, 1.0, 2) for n in names]
    columns += [_column(scores, "RMSE of the mean", "rmse", n, groups, scale, 3, best="low") for n in names]
    rows = [str(lead) for lead in scores["lead_time"].values] + [f"{label} (mean)" for label in groups]
    return SkillTable(rows, len(groups), columns, with_units(scale, scores.attrs["units"]))


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
    """The skill table for a terminal: lead, CRPS per method, CRPSS, spread/RMSE, and what the numbers are in."""
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
        f"CRPS in standard deviations of {a['variable_long_name']} (1 = {table.scale}); fair estimator; "
        f"{count(a['cases'], 'case')}, {count(a['runs'], 'run')}"
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
    """The skill table as HTML; the best method of a row is marked."""
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
        rows.append(f'<tr{pooled}><th scope="row">{escape(name)}</th>{cells}</tr>')
    note = (
        f"CRPS (fair estimator) and RMSE in standard deviations of the truth: 1 = {table.scale}. "
        f"{NONE}: not applicable; a forecast with one member has no spread, and its CRPS is its absolute error. "
        "The best of each row is shaded. The last rows average over leads before dividing. "
        "Intervals are in scores.csv."
    )
    return (
        f'<div class="table" tabindex="0"><table><thead><tr><th rowspan="2" scope="col">lead</th>{top}</tr>'
        f'<tr>{names}</tr></thead><tbody>{"".join(rows)}</tbody></table></div><p class="note">{escape(note)}</p>'
    )


def _cells(columns: list[Column], row: int) -> str:
    known = [c.values[row] for c in columns if math.isfinite(c.values[row])]
    cells = []
    for i, column in enumerate(columns):
        value = column.values[row]
        marks = ["first"] if i == 0 else []
        marks += ["best"] if column.best == "low" and len(known) > 1 and value == min(known) else []
        marks += [] if math.isfinite(value) else ["none"]
        cells.append(f'<td class="{" ".join(marks)}">{column.text(row)}</td>' if marks else f"<td>{column.text(row)}</td>")
    return "".join(cells)


def summary_html(scores: xr.Dataset) -> str:
    """What was found, as a list in plain words: skill with intervals, at which leads it wins, spread, and the sample."""
    items = summary_sentences(scores, bold="<b>{}</b>", quote=escape)
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items).replace(" %", "\u00a0%") + "</ul>"


def summary_sentences(scores: xr.Dataset, *, bold: str = "{}", quote: Any = str) -> list[str]:
    """The same as sentences; `bold` marks what matters and `quote` escapes names."""
    a = scores.attrs
    sentences = []
    for method in summary.candidates(scores):
        gains = [_gain(scores, method, r, bold, quote) for r in summary.references(scores) if r != method]
        if not gains:
            crps = float(summary.value(scores, "crps", leads=scores["lead_time"].values).sel({"method": method}))
            deviations = f"{crps / summary.truth_deviation(scores):.3f} standard deviations of the truth"
            gains = [f"The CRPS of {bold.format(quote(method))} is {deviations}; there is no reference to compare with."]
        sentences += [*gains, _spread_words(scores, method, quote)]
    members = [f"{quote(str(m))} {int(n)}" for m, n in zip(scores["method"].values, scores["members"].values, strict=True)]
    sentences.append(
        f"Scored on {quote(a['variable_long_name'])}: {count(a['cases'], 'case')} from {count(a['runs'], 'run')}, the same "
        f"for every method. Members: {', '.join(members)}. {interval_words(scores)}"
    )
    return sentences


def count(number: int, noun: str) -> str:
    """`1 run`, `4 runs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _gain(scores: xr.Dataset, method: str, reference: str, bold: str, quote: Any) -> str:
    phrases: list[str] = []
    for label, leads in summary.periods(scores).items():
        skill = summary.metric(scores, "crpss", reference=reference, leads=leads).sel({"method": method})
        value, low, high = (100 * float(skill[k]) for k in ("value", "low", "high"))
        interval = f" (95 % interval {low:.1f} to {high:.1f} %)" if math.isfinite(low) else ""
        amount = bold.format(f"{abs(value):.1f} % {'lower' if value >= 0 else 'higher'}")
        than = "" if phrases else f" than that of {quote(reference)}"
        phrases.append(f"{amount}{than} over leads {label}{interval}")
    curve = summary.value(scores, "crpss", reference=reference).sel({"method": method})
    wins = int((curve > 0).sum())
    where = "at every lead" if wins == curve.size else f"at {wins} of {curve.size} leads"
    return f"The CRPS of {bold.format(quote(method))} is {' and '.join(phrases)}; it is better {where}."


def _spread_words(scores: xr.Dataset, method: str, quote: Any) -> str:
    name = quote(method)
    if method not in summary.ensembles(scores):
        return f"{name} has one member: its CRPS is the absolute error, and spread and ranks do not apply."
    ratio = summary.value(scores, "spread_skill_ratio").sel({"method": method})
    low, high = float(ratio.min()), float(ratio.max())
    between = f"is {low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"lies between {low:.2f} and {high:.2f}"
    return f"The spread-skill ratio of {name} (1 is reliable) {between}."


def interval_words(scores: xr.Dataset) -> str:
    """What the intervals are, or why there are none."""
    runs = scores.attrs["runs"]
    if runs < summary.MINIMUM_RUNS:
        return f"No intervals: they need at least {summary.MINIMUM_RUNS} runs, and there are {runs}."
    few = f" With only {runs} runs they are rough." if runs < FEW_RUNS else ""
    return f"Intervals (95 %) come from a paired bootstrap over whole runs.{few}"


def lead_range(scores: xr.Dataset) -> str:
    """First and last lead, as "1-16"."""
    return list(summary.periods(scores))[-1]


def protocol_html(scores: xr.Dataset) -> str:
    """The stamp: how the forecasts were made (a column for each method) and how they were scored."""
    a = scores.attrs
    made = summary.protocol(scores)
    names = [str(m) for m in scores["method"].values]
    keys = [k for k in STAMP if k == "members" or any(k in made.get(n, {}) for n in names)]
    keys += list(dict.fromkeys(k for n in names for k in made.get(n, {}) if k not in STAMP and k != "method"))
    rows = []
    for key in keys:
        cells = [made.get(n, {}).get(key) for n in names]
        if key == "members":
            cells = [int(m) for m in scores["members"].values]
        if any(c is not None for c in cells):
            rows.append(f'<tr><th scope="row">{escape(_words(key))}</th>{"".join(_stamp(c) for c in cells)}</tr>')
    head = "".join(f'<th scope="col">{escape(n)}</th>' for n in names)
    forecasts = f'<table class="stamp"><thead><tr><th scope="col">forecast</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    scoring = {
        "variable": f"{a['variable']} ({a['units']})",
        "cases, runs": f"{count(a['cases'], 'case')} from {count(a['runs'], 'run')}",
        "runs (trajectory)": ", ".join(str(t) for t in scores["trajectory"].values),
        "lead times": lead_range(scores),
        "estimator": "fair CRPS (absolute error for one member); classical CRPS in the scores file",
        "reference": a["reference"] or "none",
        "intervals": "paired bootstrap over runs, 1000 resamples, seed 0" if a["runs"] >= summary.MINIMUM_RUNS else "none",
        "seed of the flatness band": a["seed"],
        "truth SHA-256": a.get("dataset_sha256"),
        "scored with": json.loads(a["software"]) if "software" in a else None,
    }
    rows = [f'<tr><th scope="row">{escape(k)}</th>{_stamp(v)}</tr>' for k, v in scoring.items() if v is not None]
    return (
        f'<div class="table" tabindex="0">{forecasts}</div><p></p>'
        f'<div class="table"><table class="stamp"><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _words(key: str) -> str:
    return key.replace("_sha256", " SHA-256").replace("_", " ")


def _stamp(value: Any) -> str:
    if value is None:
        return '<td class="none">-</td>'
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            pass
    if isinstance(value, dict):
        return f"<td>{escape(', '.join(f'{k} {v}' for k, v in value.items()))}</td>"
    text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    long = len(text) == 64 and all(c in "0123456789abcdef" for c in text)
    return f'<td><code title="{text}">{text[:16]}…</code></td>' if long else f"<td>{escape(text)}</td>"
