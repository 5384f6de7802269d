"""Figures of events and of scales: reliability, ROC, Brier skill, fractions skill, pooled CRPS.

An event is "beyond the threshold": |value| above it where the scores say `event_absolute`, else the value itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evaluation import summary
from evaluation.curves import all_leads, curves, deviations, in_deviations, limits, line, middle, shown, some_leads
from evaluation.errors import EvaluationError
from evaluation.events import roc_from_counts
from evaluation.percentiles import expanded_level
from evaluation.resampling import bootstrap
from evaluation.style import INK, MUTED, Look, figure, key, looks, with_units

BINS = 11  # of forecast probability: 0, 0.1 ... 1, each with what rounds to it
USEFUL: Any = {"color": INK, "linewidth": 1, "linestyle": (0, (2, 2))}
FEWEST = 30  # cells in a bin, below which no frequency is drawn


def event_words(scores: xr.Dataset, threshold: float) -> str:
    """The event in words: `|vorticity| above 0.02 / tick`."""
    name = summary.terms(scores).picture
    what = f"|{name}|" if int(scores.attrs.get("event_absolute", 0)) else name
    return f"{what} above {with_units(threshold, scores.attrs['units'])}"


def reliability_curve(
    scores: xr.Dataset,
    method: str,
    threshold: float,
    leads: Sequence[int] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """How often the event happened where it was forecast with some probability, from the stored event counts.

    On `bin` (`BINS` classes of probability, fewer where there are fewer members): `probability`, the mean of those
    forecast; `frequency`, `low`, `high`, how often it happened, with the interval of a bootstrap over runs; `share` of
    the cells in the class. And `base_rate`, how often it happened at all. Leads are pooled (default: all).
    """
    names = ["event_forecast", "event_observed"]
    runs, cases = summary.run_means(scores, names, all_leads(scores) if leads is None else leads)
    members = int(scores["members"].sel({"method": method}))
    runs = runs.sel({"method": method}).sel(threshold=threshold, method="nearest", drop=True)
    p = np.arange(scores.sizes["exceeding"]) / members
    classes = min(BINS, members + 1)
    own = np.round(np.minimum(p, 1) * (classes - 1)).astype(int)
    into = xr.DataArray(np.eye(classes)[own], dims=("exceeding", "bin"))
    chance = xr.DataArray(p, dims="exceeding")
    sums = xr.Dataset(
        {
            "cells": xr.dot(runs["event_forecast"], into, dim="exceeding"),
            "happened": xr.dot(runs["event_observed"], into, dim="exceeding"),
            "probability": xr.dot(runs["event_forecast"] * chance, into, dim="exceeding"),
        }
    )
    total = sums.weighted(cases.fillna(0)).mean("trajectory")
    known = total["cells"] * float(cases.sum()) * len(all_leads(scores) if leads is None else leads) >= FEWEST
    frequency = (total["happened"] / total["cells"]).where(known)
    low = high = xr.full_like(frequency, np.nan)
    if scores.sizes["trajectory"] >= summary.MINIMUM_RUNS:
        level = expanded_level(0.95, scores.sizes["trajectory"])
        found = bootstrap(
            sums, lambda m: m["happened"] / m["cells"].where(m["cells"] > 0),
            weights=cases, resamples=resamples, level=level, seed=seed,
        )  # fmt: skip
        low, high = found["lower"].where(known), found["upper"].where(known)
    return xr.Dataset(
        {
            "probability": total["probability"] / total["cells"].where(total["cells"] > 0),
            "frequency": frequency,
            "low": low,
            "high": high,
            "share": total["cells"] / total["cells"].sum(),
            "base_rate": total["happened"].sum() / total["cells"].sum(),
        }
    )


def reliability(scores: xr.Dataset, threshold: float | None = None, leads: Sequence[int] | None = None) -> Figure:
    """Reliability diagram of each ensemble for one threshold, leads pooled: observed frequency against probability.

    Each panel: points with 95 % intervals, the diagonal, the base rate; inset, how often which probability was said.
    """
    _need(scores, "event_forecast")
    threshold = middle(scores["threshold"]) if threshold is None else threshold
    names = summary.ensembles(scores)
    styles = looks(summary.names_of(scores))
    columns = (len(names) or 1) if len(names) <= 4 else 3 if len(names) <= 6 else 4
    rows = max(-(-len(names) // columns), 1)
    with figure(2.75 * columns + 0.5, 2.75 * rows + 0.6) as drawing:
        grid = drawing.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, name in zip(grid.ravel(), names, strict=False):
            _reliability_panel(axes, reliability_curve(scores, name, threshold, leads), name, styles[name])
        for axes in grid.ravel()[len(names) :]:
            axes.set_visible(False)
        for row in grid:
            row[0].set_ylabel("observed frequency")
        drawing.supxlabel("forecast probability", fontsize=10)
        drawing.suptitle(event_words(scores, threshold), fontsize=11, fontweight="bold", x=0.01, ha="left")
    return drawing


def _reliability_panel(axes: Axes, curve: xr.Dataset, name: str, look: Look) -> None:
    base = float(curve["base_rate"])
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1)
    axes.axhline(base, color=MUTED, linewidth=0.8, linestyle=":")
    p, frequency = curve["probability"].values, curve["frequency"].values
    low, high = curve["low"].values, curve["high"].values
    axes.vlines(p, low, high, color=look.colour, linewidth=1.5, alpha=0.6)
    known = np.isfinite(frequency)
    axes.plot(p[known], frequency[known], "-", color=look.colour, marker="o", markersize=4, linewidth=1.6)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
    axes.set_title(name, fontsize=10)
    inset = axes.inset_axes((0.07, 0.62, 0.36, 0.26))
    share = curve["share"].values
    centres = np.linspace(0, 1, len(share))
    inset.bar(centres, share, width=0.8 / max(len(share) - 1, 1), color=MUTED)
    inset.set(xticks=[], yticks=[], xlim=(-0.08, 1.08))
    inset.set_title("how often said", fontsize=7, color=MUTED, pad=2, fontweight="normal")
    inset.grid(visible=False)


def roc(scores: xr.Dataset, threshold: float | None = None) -> Figure:
    """Left: hits against false alarms for one threshold, leads pooled. Right: the area below it by lead time."""
    _need(scores, "event_forecast")
    threshold = middle(scores["threshold"]) if threshold is None else threshold
    names = summary.names_of(scores)
    styles = looks(names)
    runs, cases = summary.run_means(scores, ["event_forecast", "event_observed"], all_leads(scores))
    total = runs.weighted(cases).mean("trajectory").sel(threshold=threshold, method="nearest")
    area = summary.metric(scores, "roc_area", pick={"threshold": threshold})
    with figure(10.2, 4.5) as drawing:
        left, right = drawing.subplots(1, 2, width_ratios=[1, 1.5])
        left.plot([0, 1], [0, 1], color=MUTED, linewidth=1)
        for name in names:
            counts = [total[k].sel({"method": name}).values for k in ("event_forecast", "event_observed")]
            members = int(scores["members"].sel({"method": name}))
            false_alarm, hit, _ = roc_from_counts(*(c[: members + 1] for c in counts))
            look = styles[name]
            single = name in summary.deterministic(scores)  # one warning level: one point
            faint = {"linewidth": 0.7, "alpha": 0.6} if single else {"linewidth": look.width}
            left.plot(false_alarm, hit, color=look.colour, linestyle=look.dash, **faint)
            if single:
                left.plot(false_alarm[1:-1], hit[1:-1], look.marker or "o", color=look.colour, markersize=6)
        left.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        left.set_xlabel("false alarm rate")
        left.set_ylabel("hit rate")
        left.set_title("ROC, all leads")
        curves(right, scores, area)
        right.axhline(0.5, color=MUTED, linewidth=1)
        limits(right, [area["value"].values, np.array([0.5, 1.0])])
        right.set_ylabel("area below the ROC curve (0.5: no skill)")
        right.set_title("ROC area by lead time: higher is better")
        drawing.suptitle(event_words(scores, threshold), fontsize=11, fontweight="bold", x=0.01, ha="left")
        key(drawing, shown(area), names)
    return drawing


def brier_skill(scores: xr.Dataset) -> Figure:
    """Brier skill against the main reference by lead time: a panel for each threshold (at most three)."""
    _need(scores, "event_forecast")
    reference = summary.main_reference(scores)
    name = "brier_skill" if reference else "brier"
    names = [n for n in summary.names_of(scores) if n != reference]
    curve = summary.metric(scores, name, reference=reference or None)
    every = scores["threshold"].values
    thresholds = [every[i] for i in sorted({0, len(every) // 2, len(every) - 1})]
    with figure(10.6, 4.3) as drawing:
        panels = drawing.subplots(1, len(thresholds), sharey=True, squeeze=False)[0]
        for axes, threshold in zip(panels, thresholds, strict=True):
            axes.axhline(0, color=INK, linewidth=1)
            curves(axes, scores, curve.sel(threshold=threshold), names)
            axes.set_title(event_words(scores, float(threshold)), fontsize=10)
        values = curve["value"].sel({"method": names}).values
        low = max(float(np.nanmin(values, initial=0.0)) * 1.1, -1.5)
        panels[0].set_ylim(*((low, 1.0) if reference else (0, float(np.nanmax(values, initial=0.01)) * 1.1)))
        panels[0].set_ylabel(
            f"Brier skill against\n{reference} (1 perfect)" if reference else "Brier score (0 is best)"
        )
        key(drawing, shown(curve, names), summary.names_of(scores))
    return drawing


def fractions_skill(scores: xr.Dataset, threshold: float | None = None) -> Figure:
    """Fractions skill score against the width of the neighbourhood: a panel for the first, a middle, the last lead."""
    _need(scores, "fss_error")
    threshold = middle(scores["threshold"]) if threshold is None else threshold
    curve = summary.metric(scores, "fss", pick={"threshold": threshold})
    leads = some_leads(scores)
    names = shown(curve)
    useful: list[Line2D] = []
    with figure(max(3.4 * len(leads) + 0.4, 6.0), 4.3) as drawing:
        panels = drawing.subplots(1, len(leads), sharey=True, squeeze=False)[0]
        for axes, lead in zip(panels, leads, strict=True):
            curves(axes, scores, curve.sel(lead_time=lead), names, along="window")
            if "event_observed" in scores:
                axes.axhline(0.5 + _base_rate(scores, threshold, lead) / 2, **USEFUL)
                useful = [Line2D([], [], label="useful above", **USEFUL)]
            _window_axis(axes, scores["window"].values, f"width of the neighbourhood ({summary.terms(scores).cells})")
            axes.set_title(f"lead {lead}")
        panels[0].set_ylim(min(0.0, float(np.nanmin(curve["value"].values))), 1.02)
        panels[0].set_ylabel("fractions skill score (1 perfect)")
        drawing.suptitle(event_words(scores, threshold), fontsize=11, fontweight="bold", x=0.01, ha="left")
        key(drawing, names, summary.names_of(scores), first=useful)
    return drawing


def pooled_crps(scores: xr.Dataset) -> Figure:
    """CRPS of fields averaged over windows, and of their maxima, against the window, leads pooled."""
    _need(scores, "crps_pooled")
    kinds = {"crps_pooled": "Means over windows", "crps_pooled_max": "Maxima over windows"}
    kinds = {k: v for k, v in kinds.items() if k in summary.listed(scores)}
    styles = looks(summary.names_of(scores))
    leads = all_leads(scores)
    with figure(4.6 * len(kinds) + 0.6, 4.4) as drawing:
        panels = drawing.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
        every: list[str] = []
        for axes, (kind, title) in zip(panels, kinds.items(), strict=True):
            curve = in_deviations(scores, summary.metric(scores, kind, leads=leads))
            if kind == "crps_pooled" and 1 not in curve["scale"].values:  # a single cell is a window too
                cell = in_deviations(scores, summary.metric(scores, "crps", leads=leads))
                curve = xr.concat([cell.expand_dims(scale=[1]), curve], dim="scale")
            for name in shown(curve):
                line(
                    axes, curve.sel({"method": name}), styles[name], along="scale", band=not summary.is_reference(name)
                )
            every += [n for n in shown(curve) if n not in every]
            _window_axis(axes, curve["scale"].values, f"width of the window ({summary.terms(scores).cells})")
            axes.set_title(title)
        panels[0].set_ylim(bottom=0)
        panels[0].set_ylabel(f"CRPS in {deviations(scores)}")
        key(drawing, every, summary.names_of(scores))
    return drawing


def _window_axis(axes: Axes, widths: np.ndarray, label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [f"{w:g}" for w in widths])
    axes.minorticks_off()
    axes.set_xlabel(label)


def _base_rate(scores: xr.Dataset, threshold: float, lead: int) -> float:
    """How often the event happens in the truth at a lead."""
    counts = scores[["event_forecast", "event_observed"]].isel(method=0).sel(lead_time=lead)
    total = counts.sel(threshold=threshold, method="nearest").sum()
    return float(total["event_observed"] / total["event_forecast"])


def _need(scores: xr.Dataset, name: str) -> None:
    if name not in scores:
        raise EvaluationError(f"{name} is not in the scores: it was not asked for, or not available")
