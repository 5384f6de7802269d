"""Curves and histograms of a verification: scores in, one matplotlib Figure out.

    plots.crps_by_lead(scores).savefig("crps.png")

Errors are drawn in standard deviations of the truth (`summary.truth_deviation`), so that numbers of different
datasets can be compared at a glance; the axis says how much one is in the variable's own unit. The figures of events,
scales, spectra, modes and of the scorecard live in modules of their own and are gathered here, so that every figure
is `plots.NAME`. A figure whose statistics were not stored raises `EvaluationError` (see `evaluation.figures` for
which can be drawn).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from evaluation import summary
from evaluation.curves import all_leads, curves, deviations, in_deviations, limits, name_curves, some_leads
from evaluation.diagrams import brier_skill, fractions_skill, pooled_crps, reliability, roc
from evaluation.maps import crps_map_at_lead, crps_maps, skill_maps
from evaluation.physics_plots import coherence, distributions, modes, probes, spectra
from evaluation.scorecard import scorecard_figure
from evaluation.style import INK, MUTED, figure, key, looks

__all__ = [
    "brier_skill",
    "coherence",
    "coverage",
    "crps_by_lead",
    "crps_map_at_lead",
    "crps_maps",
    "distributions",
    "fractions_skill",
    "inverse_crps_by_lead",
    "modes",
    "pooled_crps",
    "probes",
    "rank_histograms",
    "reliability",
    "roc",
    "scorecard_figure",
    "skill_by_lead",
    "skill_maps",
    "spectra",
    "spread_and_skill",
]
GRID = 3  # more ensembles than this: rank histograms in a grid, one panel each


def crps_by_lead(scores: xr.Dataset) -> Figure:
    """CRPS of every method against lead time, with 95 % intervals."""
    with figure(7.2, 4.4) as drawing:
        axes = drawing.add_subplot()
        curve = in_deviations(scores, summary.metric(scores, "crps"))
        curves(axes, scores, curve)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"CRPS in {deviations(scores)}")
        axes.set_title("CRPS by lead time: lower is better")
        name_curves(axes, scores, curve)
    return drawing


def inverse_crps_by_lead(scores: xr.Dataset) -> Figure:
    """1 / CRPS (classical estimator) of every method against lead time, in the unit the CRPS was stored in."""
    with figure(7.2, 4.4) as drawing:
        axes = drawing.add_subplot()
        curve = summary.metric(scores, "inverse_crps")
        curves(axes, scores, curve)
        found = curve["value"].values[np.isfinite(curve["value"].values)]
        if found.size and found.max() > 10 * found.min():
            axes.set_yscale("log")
        else:
            limits(axes, [curve["value"].values, curve["high"].values], low=0.0)
        units = scores.attrs["units"]
        axes.set_ylabel("1 / CRPS" if units in ("", "1") else f"1 / CRPS   (CRPS in {units})")
        axes.set_title("1 / CRPS by lead time: higher is better")
        name_curves(axes, scores, curve)
    return drawing


def skill_by_lead(scores: xr.Dataset, references: Sequence[str] | None = None) -> Figure:
    """CRPSS of the judged methods (and ceilings) by lead time, with 95 % intervals: a panel for each reference."""
    against = list(summary.references(scores) if references is None else references)
    names = [*summary.candidates(scores), *summary.ceilings(scores)]
    against = [r for r in against if any(n != r for n in names)]
    with figure(max(3.5 * len(against) + 0.9, 6.4), 4.2) as drawing:
        panels = drawing.subplots(1, max(len(against), 1), sharey=True, squeeze=False)[0]
        lowest = 0.0
        for axes, reference in zip(panels, against, strict=False):
            curve = summary.metric(scores, "crpss", reference=reference)
            others = [n for n in names if n != reference]
            axes.axhline(0, color=INK, linewidth=1)
            curves(axes, scores, curve, others)
            found = curve["value"].sel({"method": others}).values
            lowest = min(lowest, float(np.nanmin(found))) if np.isfinite(found).any() else lowest
            axes.set_title(f"against {reference}")
        panels[0].set_ylim(max(lowest * 1.1, -1.5), 1)
        panels[0].set_ylabel("CRPSS (1 perfect, 0 no better)")
        key(drawing, names, summary.names_of(scores))
    return drawing


def spread_and_skill(scores: xr.Dataset) -> Figure:
    """RMSE of the ensemble mean, spread, and their ratio, which should be one, by lead time."""
    with figure(10.6, 4.2) as drawing:
        left, centre, right = drawing.subplots(1, 3)
        names = summary.ensembles(scores)
        rmse, spread = (in_deviations(scores, summary.metric(scores, name)) for name in ("rmse", "spread"))
        ratio = summary.metric(scores, "spread_skill_ratio")
        curves(left, scores, rmse, names)
        curves(centre, scores, spread, names)
        own = [c[k].sel({"method": names}).values for c in (rmse, spread) for k in ("value", "high")]
        for axes, title in ((left, "Error: RMSE of the ensemble mean"), (centre, "Spread of the members")):
            limits(axes, own, low=0.0)
            axes.set_title(title)
        left.set_ylabel(f"in {deviations(scores)}")
        right.axhspan(0.9, 1.1, color="#dfe9df", linewidth=0, zorder=0)
        right.axhline(1, color=INK, linewidth=1)
        curves(right, scores, ratio, names)
        found = ratio["value"].values
        top = float(np.nanmax(found)) if np.isfinite(found).any() else 1.0
        right.set_ylim(0, max(1.4, 1.1 * top))
        right.set_ylabel("spread / RMSE")
        right.set_title("Ratio: 1 is reliable")
        right.text(0.03, 0.04, "below 1: too confident", transform=right.transAxes, color=MUTED, fontsize=9)
        right.text(0.03, 0.96, "above 1: too cautious", transform=right.transAxes, color=MUTED, fontsize=9, va="top")
        key(drawing, names, summary.names_of(scores))
    return drawing


def coverage(scores: xr.Dataset) -> Figure:
    """How often the truth is inside the central interval of the members, by lead time, for three intervals."""
    curve = summary.metric(scores, "coverage")
    nominals = [float(n) for n in curve["nominal"].values]
    names = summary.ensembles(scores)
    with figure(10.6, 4.0) as drawing:
        panels = drawing.subplots(1, len(nominals), squeeze=False)[0]
        for axes, nominal in zip(panels, nominals, strict=True):
            part = curve.sel(nominal=nominal)
            axes.axhline(nominal, color=INK, linewidth=1)
            curves(axes, scores, part, names)
            limits(axes, [part["value"].values, np.array([nominal - 0.1, min(nominal + 0.1, 1)])])
            axes.set_title(f"central {100 * nominal:.0f} % interval")
        panels[0].set_ylabel("share of the truth inside")
        key(drawing, names, summary.names_of(scores))
    return drawing


def rank_histograms(scores: xr.Dataset) -> Figure:
    """Rank histogram of each ensemble with flatness bands.

    Few ensembles: at the first, a middle and the last lead and over all. Many: a grid with one panel for each, over all
    leads, the first and the last lead as outlines.
    """
    names = summary.ensembles(scores)
    if len(names) > GRID:
        return _rank_grid(scores, names)
    leads = all_leads(scores)
    picks = {f"lead {lead}": [lead] for lead in some_leads(scores)}
    picks |= {"all leads": leads} if len(leads) > 1 else {}
    styles = looks(summary.names_of(scores))
    with figure(2.75 * len(picks) + 0.6, 2.3 * len(names) + 0.5) as drawing:
        grid = drawing.subplots(len(names), len(picks), sharey="row", squeeze=False)
        for row, name in zip(grid, names, strict=True):
            tops = [
                _rank_histogram(axes, scores, name, picks[label], styles[name].colour)
                for axes, label in zip(row, picks, strict=True)
            ]
            for axes, label in zip(row, picks, strict=True):
                axes.set_ylim(0, min(max(*tops, 1.6) * 1.08, 8))
                axes.set_title(f"{name}, {label}", fontsize=10)
            row[0].set_ylabel("frequency\n(1 = flat)")
        for axes in grid[-1]:
            axes.set_xlabel("members below the truth")
    return drawing


def _rank_grid(scores: xr.Dataset, names: list[str]) -> Figure:
    leads = all_leads(scores)
    styles = looks(summary.names_of(scores))
    columns = 4 if len(names) > 6 else 3
    rows = -(-len(names) // columns)
    with figure(2.6 * columns + 0.6, 2.1 * rows + 0.6) as drawing:
        grid = drawing.subplots(rows, columns, squeeze=False)
        for axes, name in zip(grid.ravel(), names, strict=False):
            tops = [_rank_histogram(axes, scores, name, leads, styles[name].colour)]
            for lead, dash in ((leads[0], ":"), (leads[-1], "-")) if len(leads) > 1 else ():
                observed = summary.rank_frequencies(scores, name, [lead])["observed"].values
                edges = np.arange(len(observed) + 1) - 0.5
                axes.stairs(observed, edges, color=INK, linewidth=1, linestyle=dash, label=f"lead {lead}")
                tops.append(float(np.nanmax(observed)))
            axes.set_ylim(0, min(max(*tops, 1.6) * 1.08, 8))
            axes.set_title(name, fontsize=10)
        for axes in grid.ravel()[len(names) :]:
            axes.set_visible(False)
        for row in grid:
            row[0].set_ylabel("frequency\n(1 = flat)")
        drawing.supxlabel("members below the truth", fontsize=10)
        if len(leads) > 1:
            handles = [Patch(color=MUTED, alpha=0.75), *grid[0, 0].get_legend_handles_labels()[0]]
            drawing.legend(
                handles, ["all leads", f"lead {leads[0]}", f"lead {leads[-1]}"], loc="outside upper right", ncols=3,
                frameon=False, fontsize=9,
            )  # fmt: skip
    return drawing


def _rank_histogram(axes: Axes, scores: xr.Dataset, name: str, leads: list[int], colour: str) -> float:
    shape = summary.rank_frequencies(scores, name, leads)
    observed = shape["observed"].values
    edges = np.arange(len(observed) + 1) - 0.5
    axes.bar(np.arange(len(observed)), observed, width=0.86, color=colour, alpha=0.75)
    low, high = shape["low"].values, shape["high"].values
    axes.stairs(high, edges, baseline=low, fill=True, color=INK, alpha=0.16, linewidth=0)
    axes.axhline(1, color=INK, linewidth=1)
    axes.grid(visible=False, axis="x")
    axes.set_xlim(edges[0], edges[-1])
    return float(max(np.nanmax(observed), np.nanmax(high)))
