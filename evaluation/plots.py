"""Curves and histograms of a verification: scores in, one matplotlib Figure out.

Errors are drawn in standard deviations of the truth (`summary.truth_deviation`), so that numbers of different
datasets can be compared at a glance; the axis says how much one is in the variable's own unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation import summary
from evaluation.style import INK, MUTED, figure, label_ends, lead_axis, looks, with_units


def crps_by_lead(scores: xr.Dataset) -> Figure:
    """CRPS of every method against lead time, with 95 % intervals."""
    with figure(7.2, 4.2) as drawing:
        axes = drawing.add_subplot()
        curve = summary.metric(scores, "crps") / summary.truth_deviation(scores)
        _curves(axes, scores, curve)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"CRPS in {_deviations(scores)}")
        axes.set_title("CRPS by lead time: lower is better")
        _name_curves(axes, scores, curve)
    return drawing


def skill_by_lead(scores: xr.Dataset, references: Sequence[str]) -> Figure:
    """CRPSS of the judged methods against each reference, by lead time, with 95 % intervals."""
    with figure(7.2, 4.2) as drawing:
        axes = drawing.add_subplot()
        styles = looks(list(scores["method"].values))
        ends = []
        lowest = 0.0
        for method in summary.candidates(scores):
            colour, marker = styles[method]
            for reference, dash in zip(references, ("-", "--", ":"), strict=False):
                if reference == method:
                    continue
                curve = summary.metric(scores, "crpss", reference=reference).sel({"method": method})
                _line(axes, curve, colour, marker, dash)
                value = curve["value"].values
                lowest = min(lowest, float(np.nanmin(value)))
                ends.append((0.0, float(value[-1]), f"{method}\nagainst {reference}", colour))
        axes.axhline(0, color=INK, linewidth=1)
        axes.set_ylim(max(lowest * 1.1, -1.5), 1)
        lead_axis(axes, scores["lead_time"].values, _lead_unit(scores))
        axes.set_ylabel("CRPSS (1 perfect, 0 no better)")
        axes.set_title("Skill against the references: higher is better")
        label_ends(axes, ends, gap=0.11)
    return drawing


def spread_and_skill(scores: xr.Dataset) -> Figure:
    """Left: RMSE of the ensemble mean and spread by lead time. Right: their ratio, which should be one."""
    with figure(10.6, 4.0) as drawing:
        left, right = drawing.subplots(1, 2)
        scale = summary.truth_deviation(scores)
        names = summary.ensembles(scores)
        styles = looks(list(scores["method"].values))
        rmse, spread = (summary.metric(scores, name) / scale for name in ("rmse", "spread"))
        ratio = summary.metric(scores, "spread_skill_ratio")
        ends = []
        for name in names:
            colour, marker = styles[name]
            one = {"method": name}
            _line(left, rmse.sel(one), colour, marker, "-")
            _line(left, spread.sel(one), colour, None, "--")
            ends.append((0.0, float(rmse["value"].sel(one)[-1]), name, colour))
        left.plot([], [], "-", color=MUTED, label="RMSE of ensemble mean")
        left.plot([], [], "--", color=MUTED, label="spread of members")
        left.set_ylim(bottom=0)
        left.set_ylabel(f"in {_deviations(scores)}")
        left.set_title("Error and spread")
        left.legend(frameon=False, loc="lower right", fontsize=9)
        label_ends(left, ends)
        right.axhspan(0.9, 1.1, color="#dfe9df", linewidth=0, zorder=0)
        right.axhline(1, color=INK, linewidth=1)
        _curves(right, scores, ratio, names)
        top = float(np.nanmax(ratio["value"])) if names else 1.0
        right.set_ylim(0, max(1.4, 1.1 * top))
        right.set_ylabel("spread / RMSE")
        right.set_title("Spread-skill ratio: 1 is reliable")
        right.text(0.02, 0.04, "below 1: too confident", transform=right.transAxes, color=MUTED, fontsize=9)
        right.text(0.02, 0.96, "above 1: too cautious", transform=right.transAxes, color=MUTED, fontsize=9, va="top")
        for axes in (left, right):
            lead_axis(axes, scores["lead_time"].values, _lead_unit(scores))
        _name_curves(right, scores, ratio, names)
    return drawing


def rank_histograms(scores: xr.Dataset) -> Figure:
    """Rank histogram of each ensemble at the first, a middle and the last lead and over all, with flatness bands."""
    names = summary.ensembles(scores)
    leads = [int(lead) for lead in scores["lead_time"].values]
    picks = {f"lead {lead}": [lead] for lead in dict.fromkeys((leads[0], leads[len(leads) // 2 - 1], leads[-1]))}
    picks |= {"all leads": leads} if len(leads) > 1 else {}
    styles = looks(list(scores["method"].values))
    with figure(2.75 * len(picks) + 0.6, 2.3 * len(names) + 0.5) as drawing:
        grid = drawing.subplots(len(names), len(picks), sharey="row", squeeze=False)
        for row, name in zip(grid, names, strict=True):
            tops = [
                _rank_histogram(axes, scores, name, picks[label], styles[name][0])
                for axes, label in zip(row, picks, strict=True)
            ]
            for axes, label in zip(row, picks, strict=True):
                axes.set_ylim(0, min(max(*tops, 1.6) * 1.08, 8))
                axes.set_title(f"{name}, {label}", fontsize=10)
            row[0].set_ylabel("frequency\n(1 = flat)")
        for axes in grid[-1]:
            axes.set_xlabel("members below the truth")
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


def _curves(axes: Axes, scores: xr.Dataset, curve: xr.Dataset, names: Sequence[str] | None = None) -> None:
    for name, (colour, marker) in looks(list(scores["method"].values)).items():
        if names is None or name in names:
            _line(axes, curve.sel({"method": name}), colour, marker, "-")
    lead_axis(axes, scores["lead_time"].values, _lead_unit(scores))


def _line(axes: Axes, curve: xr.Dataset, colour: str, marker: str | None, dash: str) -> None:
    leads = curve["lead_time"].values
    axes.fill_between(leads, curve["low"].values, curve["high"].values, color=colour, alpha=0.2, linewidth=0)
    axes.plot(leads, curve["value"].values, dash, color=colour, marker=marker, markersize=4.5)


def _name_curves(axes: Axes, scores: xr.Dataset, curve: xr.Dataset, names: Sequence[str] | None = None) -> None:
    styles = looks(list(scores["method"].values))
    last = curve["value"].isel(lead_time=-1)
    wanted = [n for n in styles if names is None or n in names]
    label_ends(axes, [(0.0, float(last.sel({"method": n})), n, styles[n][0]) for n in wanted])


def _deviations(scores: xr.Dataset) -> str:
    one = with_units(summary.truth_deviation(scores), scores.attrs["units"])
    return f"standard deviations of the truth,\n1 = {one}"


def _lead_unit(scores: xr.Dataset) -> str:
    return str(scores.attrs["lead_unit"])
