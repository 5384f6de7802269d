"""The scorecard: every method, score and lead against a reference, and how sure the difference is.

As weather centres summarise a new version of their model: a triangle up where a method is better than the reference,
down where it is worse, filled and coloured where the 95 % interval of the paired bootstrap over runs excludes zero.
With many cells some are significant by chance: about one in twenty where nothing is different.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation import summary
from evaluation.curves import middle
from evaluation.errors import EvaluationError
from evaluation.metrics import METRICS, available, units_of
from evaluation.style import figure, with_units

BETTER, WORSE, UNSURE = "#1a6fb0", "#c4452e", "#9aa3ac"
PANELS = 6  # methods in the figure, at most
COLUMNS = 8  # leads shown, at most; and the periods
FULL = 50.0  # percent of the reference at which a symbol has its full size


@dataclass(frozen=True)
class Entry:
    """A row of the scorecard: a metric, at which threshold, window ..., and its name."""

    label: str
    metric: str
    pick: Mapping[str, Any] = field(default_factory=dict)


def entries(scores: xr.Dataset) -> list[Entry]:
    """The rows: what these scores can tell of, one threshold and one window for each kind."""
    rows = [Entry(METRICS[n].title, n) for n in ("crps", "rmse", "mae", "energy_score", "variogram_score", "acc")]
    cells = summary.terms(scores).cells
    if "event_forecast" in scores:
        for threshold in scores["threshold"].values:
            label = f"Brier score, threshold {with_units(float(threshold), scores.attrs['units'])}"
            rows.append(Entry(label, "brier", {"threshold": float(threshold)}))
        rows.append(Entry("ROC area, middle threshold", "roc_area", {"threshold": middle(scores["threshold"])}))
    if "fss_error" in scores:
        pick = {"threshold": middle(scores["threshold"]), "window": middle(scores["window"])}
        rows.append(Entry(f"fractions skill, {pick['window']:g} {cells}", "fss", pick))
    for name, what in (("crps_pooled", "means"), ("crps_pooled_max", "maxima")):
        if name in scores:
            scale = float(scores["scale"].values.max())
            rows.append(Entry(f"CRPS of {what} over {scale:g} {cells}", name, {"scale": scale}))
    rows += [Entry(METRICS[n].title, n) for n in ("ssim", "psnr", "lpips")]
    rows += [Entry(METRICS[n].title, n) for n in ("log_spectral_distance", "effective_resolution")]
    if "pod_crps" in scores:
        first = int(scores["mode"].values[0])
        rows.append(Entry("CRPS of the first POD mode", "pod_crps", {"mode": first}))
    rows.append(Entry(METRICS["wasserstein"].title, "wasserstein"))
    return [row for row in rows if available(scores, row.metric)]


def shown_leads(scores: xr.Dataset) -> dict[str, list[int]]:
    """The columns: at most `COLUMNS` leads from first to last, then the periods (leads averaged first)."""
    leads = [int(lead) for lead in scores["lead_time"].values]
    places = np.unique(np.round(np.geomspace(1, len(leads), min(COLUMNS, len(leads)))).astype(int)) - 1
    columns = {str(leads[i]): [leads[i]] for i in places}
    return columns | {k: v for k, v in summary.periods(scores).items() if len(v) > 1}


def scorecard(scores: xr.Dataset, reference: str | None = None) -> xr.Dataset:
    """Every score of every method against `reference` (default: the main one), on (method, lead, score).

    `value`, `reference` (the reference's value), `difference` (value minus reference) with `low` and `high`, all in
    the unit of the score; `relative`, the difference in percent of the reference; and `sign`: 1 where the method is
    significantly better (whichever direction that is), -1 where it is significantly worse, 0 where the interval holds
    zero or there is none. `better` is 1 where a larger value is better, -1 where a smaller one is. NaN where a score
    does not apply. Coordinates: `lead` names a lead or a period; `label`, `metric` and `units` (score) say what
    the rows are. Raises EvaluationError without a reference to compare with.
    """
    against = reference or summary.main_reference(scores)
    names = summary.names_of(scores)
    if against not in names:
        raise EvaluationError(f"a scorecard needs a reference among the methods ({', '.join(names)}), got {against!r}")
    columns, rows = shown_leads(scores), entries(scores)
    single = [leads[0] for leads in columns.values() if len(leads) == 1]
    some = scores.sel(lead_time=single)
    parts = []
    for row in rows:
        found = [summary.difference(some, row.metric, against, pick=row.pick).rename(lead_time="lead")]
        for leads in (leads for leads in columns.values() if len(leads) > 1):
            pooled = summary.difference(scores, row.metric, against, leads=leads, pick=row.pick)
            found.append(pooled.expand_dims("lead"))
        parts.append(xr.concat([f.drop_vars("lead", errors="ignore") for f in found], dim="lead"))
    card = xr.concat([p.reset_coords(drop=True) for p in parts], dim="score").rename(
        value="difference", low="low", high="high"
    )
    better = np.array([1 if METRICS[r.metric].best == "high" else -1 for r in rows])
    card = card.assign_coords(
        lead=list(columns),
        score=[_key(r) for r in rows],
        label=("score", [r.label for r in rows]),
        metric=("score", [r.metric for r in rows]),
        units=("score", [units_of(r.metric, scores.attrs["units"]) for r in rows]),
    )
    card["better"] = ("score", better)
    card["value"] = card["difference"] + card["reference"]
    card["sign"] = (card["sign"] * card["better"]).astype(int)
    card.attrs = {"reference": against, "runs": int(scores.sizes["trajectory"])}
    return card.sel({"method": [n for n in names if n != against]}).transpose("method", "lead", "score")


def _key(row: Entry) -> str:
    return row.metric + "".join(f" {k}={v:g}" for k, v in row.pick.items())


def _order(scores: xr.Dataset, card: xr.Dataset) -> list[str]:
    """Judged methods, then references, then ceilings."""
    names = [str(n) for n in card["method"].values]
    first, last = summary.candidates(scores), summary.ceilings(scores)
    return [
        *(n for n in names if n in first),
        *(n for n in names if n not in first and n not in last),
        *(n for n in names if n in last and n not in first),
    ]


def _shown(scores: xr.Dataset, names: list[str]) -> list[str]:
    """At most `PANELS` of them: judged methods, the best of the references, and ceilings."""
    if len(names) <= PANELS:
        return names
    crps = summary.value(scores, "crps", leads=[int(lead) for lead in scores["lead_time"].values])
    tops = [n for n in names if n in summary.ceilings(scores)]
    judged = summary.candidates(scores)
    rest = [n for n in names if n not in tops]
    rest.sort(key=lambda n: (n not in judged, float(crps.sel({"method": n}))))
    return [*rest[: PANELS - len(tops)], *tops]


def scorecard_figure(scores: xr.Dataset, reference: str | None = None) -> Figure:
    """The scorecard as a figure: a panel for each method, rows are scores, columns leads.

    Triangle up and blue: better than the reference; down and red: worse; grey and hollow: not significant. The size
    grows with the relative difference, up to 50 %.
    """
    card = scorecard(scores, reference)
    every = _order(scores, card)
    names = _shown(scores, every)
    columns = 2 if len(names) == 4 else min(len(names), 3)
    lines = -(-len(names) // columns)
    leads, rows = card.sizes["lead"], card.sizes["score"]
    with figure(1.0 + 1.9 + columns * max(0.27 * leads + 0.35, 1.6), lines * (0.24 * rows + 0.45) + 0.75) as drawing:
        grid = drawing.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        for axes, name in zip(grid.ravel(), names, strict=False):
            axes.grid(visible=False)
            axes.set_title(name, fontsize=10)
            axes.tick_params(length=0)
            axes.hlines(np.arange(1, rows) - 0.5, -0.5, leads - 0.5, color="#eceff1", linewidth=0.8)
            _symbols(axes, card.sel({"method": name}))
            for spine in axes.spines.values():
                spine.set_visible(False)
        for axes in grid.ravel()[len(names) :]:
            axes.set_visible(False)
        first = grid[0, 0]
        first.set(xlim=(-0.6, leads - 0.4), ylim=(rows - 0.4, -0.6))
        for axes in grid[:, 0]:
            axes.set_yticks(range(rows), [str(v) for v in card["label"].values], fontsize=8.5)
        for axes in grid.ravel():
            axes.set_xticks(range(leads), [str(v) for v in card["lead"].values], fontsize=7.5, rotation=60)
        drawing.supxlabel(f"lead time ({scores.attrs['lead_unit']}); last columns: leads averaged", fontsize=9.5)
        part = "" if len(names) == len(every) else f" ({len(names)} of {len(every)} methods; the table has all)"
        drawing.suptitle(f"Against {card.attrs['reference']}{part}", fontsize=11, fontweight="bold", x=0.01, ha="left")
    return drawing


def _symbols(axes: Axes, card: xr.Dataset) -> None:
    """The triangles of one method: those of equal direction and significance are drawn together."""
    relative, sign = (card[k].transpose("score", "lead").values for k in ("relative", "sign"))
    gain = relative * card["better"].values[:, None]
    y, x = np.nonzero(~np.isfinite(relative))
    axes.scatter(x, y, s=5, color="#cfd5da", linewidths=0)
    size = (3.0 + 5.5 * np.minimum(np.abs(np.nan_to_num(gain)) / FULL, 1.0)) ** 2
    for kind, colour in ((1, BETTER), (-1, WORSE), (0, UNSURE)):
        for marker, where in (("^", gain > 0), ("v", gain < 0), ("s", gain == 0)):
            y, x = np.nonzero(where & (sign == kind))
            face = colour if kind else "none"
            axes.scatter(x, y, s=size[y, x], marker=marker, facecolors=face, edgecolors=colour, linewidths=0.9)


STYLE = f"""<style>
.card td {{ text-align: center; padding: .12rem .2rem; min-width: 2.6rem; }}
.card td.better {{ background: color-mix(in srgb, {BETTER} var(--a), transparent); }}
.card td.worse {{ background: color-mix(in srgb, {WORSE} var(--a), transparent); }}
.card td.unsure {{ color: var(--muted); }}
.card tbody tr.head th {{ text-align: left; padding-top: .7rem; font-size: .95rem; }}
.card th[scope=row] {{ font-weight: 400; }}
</style>"""


def scorecard_html(scores: xr.Dataset, reference: str | None = None) -> str:
    """The scorecard as an HTML table: the difference to the reference in percent, signed so that plus is better.

    A cell is coloured where the difference is significant, with the numbers and their interval in its title. "" where
    there is nothing to compare with.
    """
    against = reference or summary.main_reference(scores)
    if not any(n != against for n in summary.names_of(scores)) or against not in summary.names_of(scores):
        return ""
    card = scorecard(scores, against)
    leads = [str(v) for v in card["lead"].values]
    head = "".join(f'<th scope="col">{escape(v)}</th>' for v in leads)
    bodies = [_method_rows(scores, card.sel({"method": name}), name, len(leads)) for name in _order(scores, card)]
    known, runs = scores.sizes["trajectory"] >= summary.SURE_RUNS, summary.terms(scores).runs
    sure = (
        f"Coloured: the 95 % interval of the paired bootstrap over {runs} excludes zero; about one cell in twenty "
        "would be coloured by chance alone. Hover over a cell for its numbers."
        if known
        else f"Fewer than {summary.SURE_RUNS} {runs}: significance cannot be said."
    )
    note = (
        f"Change against {against} in percent of its value: ▲ better, ▼ worse (whichever direction is better for the "
        f"score). {sure} Last columns: leads averaged before dividing. n/a: does not apply."
    )
    return (
        f'{STYLE}<div class="table" tabindex="0"><table class="card"><thead><tr><th scope="col">against '
        f"{escape(against)}</th>{head}</tr></thead>{''.join(bodies)}</table></div>"
        f'<p class="note">{escape(note)}</p>'
    )


def _method_rows(scores: xr.Dataset, card: xr.Dataset, name: str, columns: int) -> str:
    kind = ""
    if name in summary.ceilings(scores):
        kind = " (ceiling)"
    elif name not in summary.candidates(scores):
        kind = " (reference)"
    rows = [f'<tr class="head"><th colspan="{columns + 1}" scope="rowgroup">{escape(name + kind)}</th></tr>']
    for i, label in enumerate(card["label"].values):
        row = card.isel(score=i)
        if bool(row["relative"].isnull().all()):
            cells = f'<td class="none" colspan="{columns}">n/a</td>'
        else:
            plain = {
                k: row[k].values for k in ("relative", "relative_low", "relative_high", "sign", "value", "reference")
            }
            about = {"better": int(row["better"]), "units": str(row["units"].values)}
            cells = "".join(_cell({k: v[j] for k, v in plain.items()} | about) for j in range(columns))
        rows.append(f'<tr><th scope="row">{escape(str(label))}</th>{cells}</tr>')
    return f"<tbody>{''.join(rows)}</tbody>"


def _cell(cell: Mapping[str, Any]) -> str:
    relative, sign = float(cell["relative"]), int(cell["sign"])
    if not math.isfinite(relative):
        return '<td class="none" data-value="">n/a</td>'
    gain = relative * int(cell["better"])
    own, other = (with_units(float(cell[k]), cell["units"]) for k in ("value", "reference"))
    title = f"{own} against {other}"
    low, high = float(cell["relative_low"]), float(cell["relative_high"])
    title += (
        f": {relative:+.1f} % (95 %: {low:+.1f} to {high:+.1f} %)" if math.isfinite(low) else f": {relative:+.1f} %"
    )
    kind = {1: "better", -1: "worse", 0: "unsure"}[sign]
    shade = f' style="--a:{15 + 45 * min(abs(gain) / FULL, 1):.0f}%"' if sign else ""
    mark = "▲" if gain > 0 else "▼" if gain < 0 else "="
    size = f"{abs(gain):.0f}" if abs(gain) < 999.5 else ">999"
    return f'<td class="{kind}"{shade} data-value="{gain:.6g}" title="{escape(title)}">{mark} {size}</td>'
