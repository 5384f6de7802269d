"""What the figures share: curves of methods with their intervals, names at their ends, leads to show, the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from evaluation import summary
from evaluation.style import INK, Look, label_ends, lead_axis, looks, with_units

TRUTH = Line2D([], [], color=INK, linewidth=2.6, label="truth")
MANY = 5  # more curves than this in one of several panels: only judged methods and ceilings get their intervals drawn


def line(axes: Axes, curve: xr.Dataset, look: Look, *, along: str = "lead_time", band: bool = True) -> None:
    """One curve `value` along a dimension, its interval `low` to `high` shaded."""
    x = curve[along].values
    if band:
        low, high = curve["low"].values, curve["high"].values
        axes.fill_between(x, low, high, color=look.colour, alpha=look.band, linewidth=0)
    marker = look.marker if along not in ("wavenumber", "frequency") else ""
    marker = (look.marker or "_") if len(x) == 1 else marker
    axes.plot(
        x, curve["value"].values, color=look.colour, linestyle=look.dash, linewidth=look.width, marker=marker,
        markersize=4.2, markevery=max(1, len(x) // 12), zorder=2 + look.width,
    )  # fmt: skip


def curves(
    axes: Axes, scores: xr.Dataset, curve: xr.Dataset, names: Sequence[str] | None = None, *, along: str = "lead_time"
) -> None:
    """The curves of `names` (default: every method that has numbers)."""
    styles = looks(summary.names_of(scores))
    wanted = shown(curve, names)
    for name in wanted:
        strong = len(wanted) <= MANY or not summary.is_reference(name)
        line(axes, curve.sel({"method": name}), styles[name], along=along, band=strong)
    if along == "lead_time":
        lead_axis(axes, scores["lead_time"].values, str(scores.attrs["lead_unit"]))


def shown(curve: xr.Dataset, names: Sequence[str] | None = None) -> list[str]:
    """The methods of `names` that have any number in `curve`."""
    known = curve["value"].notnull()
    known = known.any([d for d in known.dims if d != "method"])
    return [str(n) for n in curve["method"].values if bool(known.sel({"method": n})) and (names is None or n in names)]


def name_curves(axes: Axes, scores: xr.Dataset, curve: xr.Dataset, names: Sequence[str] | None = None) -> None:
    """Write the names of methods at the ends of their curves."""
    styles = looks(summary.names_of(scores))
    last = curve["value"].isel(lead_time=-1)
    lead = float(curve["lead_time"][-1])
    ends = [(lead, float(last.sel({"method": n})), n, styles[n].colour) for n in shown(curve, names)]
    label_ends(axes, ends)


def in_deviations(scores: xr.Dataset, curve: xr.Dataset) -> xr.Dataset:
    """A curve of errors in standard deviations of the truth (`summary.error_unit`)."""
    return curve / summary.error_unit(scores)[0]


def deviations(scores: xr.Dataset, *, split: bool = True) -> str:
    """What errors are drawn in, for an axis: standard deviations of the truth, and what one of them is."""
    scale, unit = summary.error_unit(scores)
    if unit == scores.attrs["units"]:
        return unit
    return f"{unit}{',' + chr(10) if split else ', '}1 = {with_units(scale, scores.attrs['units'])}"


def some_leads(scores: xr.Dataset) -> list[int]:
    """The first, a middle and the last lead (fewer where they are the same)."""
    leads = [int(lead) for lead in scores["lead_time"].values]
    return list(dict.fromkeys((leads[0], leads[max(len(leads) // 2 - 1, 0)], leads[-1])))


def all_leads(scores: xr.Dataset) -> list[int]:
    """Every lead."""
    return [int(lead) for lead in scores["lead_time"].values]


def middle(values: xr.DataArray) -> float:
    """The middle one of the values of a coordinate: the threshold or window shown where there is room for one."""
    return float(np.sort(values.values)[(values.size - 1) // 2])


def limits(axes: Axes, values: Sequence[np.ndarray], *, low: float | None = None, room: float = 0.06) -> None:
    """Limits of y around what is finite among `values`, from `low` where given."""
    found = np.concatenate([np.ravel(v) for v in values]) if values else np.zeros(0)
    found = found[np.isfinite(found)]
    if found.size:
        bottom, top = (float(found.min()) if low is None else low), float(found.max())
        space = room * (top - bottom or abs(top) or 1.0)
        axes.set_ylim(bottom - (space if low is None else 0), top + space)
