"""One look for every figure: light ground (the page shows it on a card, so it also reads at night), few lines,
colours that differ in lightness too, and labels at the curves, or one legend for all panels. What is judged is drawn
strong, reference forecasts muted, and a ceiling (a perfect model) dark and dashed; a method looks alike everywhere.

Figures are built on `matplotlib.figure.Figure` directly, without pyplot: no global state, no window system, and
nothing to close.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evaluation.summary import CEILINGS, DRESSED

INK = "#22262b"
MUTED = "#6b7480"
GRID = "#e4e7ea"
SOLID = "#8d949c"  # obstacles
CANDIDATES = (  # strong, told apart also by lightness; three of Okabe and Ito first
    *("#0072B2", "#C2438C", "#009E73", "#E08A00", "#5E3C99", "#56B4E9"),
    *("#B2182B", "#3C7D22", "#E7298A", "#00708A", "#8C510A", "#4D4DFF"),
)
REFERENCES = {  # muted, so that what is judged stands out
    "climatology": "#C27A3E",
    "persistence": "#7A6A4F",
    "damped-persistence": "#B3A36B",
    "linear-extrapolation": "#9FA8B0",
    "advection": "#6C93AD",
    "dmd": "#9586B5",
    "linear-inverse": "#5C9679",
    "analog": "#B5707F",
}
CEILING = INK
MARKERS = "os^DvPX<>*hp"
REFERENCE_MARKERS = dict(zip(REFERENCES, "sDdv>Ph^", strict=True))


@dataclass(frozen=True)
class Look:
    """How a method is drawn, in every figure alike."""

    colour: str
    marker: str
    dash: Any = "-"
    width: float = 2.2
    band: float = 0.2  # opacity of its interval


RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "axes.axisbelow": True,
    "lines.linewidth": 2.0,
    "hatch.linewidth": 0.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """A Figure of this size in inches, with the style in force while it is drawn."""
    with mpl.rc_context(RC):
        yield Figure(figsize=(width, height), layout="constrained")


def pictures(drawing: Figure, dpi: int = 150) -> tuple[bytes, bytes]:
    """The figure as a PNG and as an SVG file (text as text), cut to what is drawn.

    No dates and no random names inside: equal input gives equal bytes. The layout is settled once for both.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    raster, vector = io.BytesIO(), io.BytesIO()
    with mpl.rc_context({**RC, "svg.fonttype": "none", "svg.hashsalt": "rvdflow"}):
        drawing.draw_without_rendering()
        box = drawing.get_tightbbox(FigureCanvasAgg(drawing).get_renderer()).padded(0.08)
        drawing.set_layout_engine("none")
        drawing.savefig(raster, format="png", dpi=dpi, bbox_inches=box, metadata={"Software": None})
        drawing.savefig(vector, format="svg", bbox_inches=box, metadata={"Date": None})
    return raster.getvalue(), vector.getvalue()


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """Colour, marker and line of each method: judged ones strong, references muted, a ceiling dark and dashed.

    Where nothing but references is there to be judged, they are drawn in strong lines, in their own colours.
    """
    references = [m for m in methods if m.removesuffix(DRESSED) in REFERENCES]
    others = [m for m in methods if m not in references and m not in CEILINGS]
    styles = {m: Look(CEILING, "", (0, (4, 2)), 1.8, 0.15) for m in methods if m in CEILINGS}
    for m in references:
        base = m.removesuffix(DRESSED)
        dash: Any = "-" if base == m else (0, (1, 1.2))
        styles[m] = Look(REFERENCES[base], REFERENCE_MARKERS[base], dash, 1.4 if others else 1.9, 0.12)
    for i, m in enumerate(others):
        styles[m] = Look(CANDIDATES[i % len(CANDIDATES)], MARKERS[i % len(MARKERS)])
    return {m: styles[m] for m in methods}


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]], gap: float = 0.06) -> None:
    """Write names to the right of curves that end at (x, y), in their colour, moved apart where they would overlap.

    `ends` holds (x, y, text, colour); `gap` is the least distance between labels as a share of the axis. A thin line
    leads to a label that had to move.
    """
    inside = sorted(
        (float(axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[1]), text, colour)
        for x, y, text, colour in ends
        if np.isfinite(y)
    )
    ends_at = np.clip([height for height, _, _ in inside], 0.0, 1.0)
    heights = apart(ends_at, min(gap, 1.1 / max(len(inside), 1)))
    size = 9.5 if len(inside) <= 6 else 8.5
    for end, height, (_, text, colour) in zip(ends_at, heights, inside, strict=True):
        if abs(end - height) > 0.012:
            axes.plot(
                [1.002, 1.03], [end, height], color=colour, linewidth=0.7, transform=axes.transAxes, clip_on=False
            )
        axes.annotate(
            text,
            (1.037, height),
            xycoords="axes fraction",
            color=colour,
            va="center",
            ha="left",
            fontweight="bold",
            fontsize=size,
            annotation_clip=False,
        )


def apart(places: np.ndarray, gap: float) -> np.ndarray:
    """Ascending places moved as little as it takes (in the sum of squares) to be `gap` apart.

    Neighbours that collide form a group that keeps its mean place (pool adjacent violators).
    """
    groups: list[tuple[float, int]] = []  # mean of place - index * gap, members
    for i, place in enumerate(places):
        groups.append((float(place) - i * gap, 1))
        while len(groups) > 1 and groups[-1][0] < groups[-2][0]:
            (a, n), (b, k) = groups[-2:]
            groups[-2:] = [((a * n + b * k) / (n + k), n + k)]
    return np.repeat([g for g, _ in groups], [n for _, n in groups]) + gap * np.arange(len(places))


def key(
    drawing: Figure, methods: Sequence[str], every: Sequence[str], *, first: Sequence[Line2D] = (), notes: Any = None
) -> None:
    """One legend for all panels, below them: the methods shown, in the looks they have among `every` method.

    `first` are further lines (the truth), `notes` {method: text} is written behind names.
    """
    styles = looks(every)
    handles = list(first)
    for name in methods:
        look = styles[name]
        handles.append(
            Line2D(
                [], [], color=look.colour, marker=look.marker or None, markersize=4.5, linestyle=look.dash,
                linewidth=look.width, label=name + (notes or {}).get(name, ""),
            )
        )  # fmt: skip
    if not handles:
        return
    longest = max(len(str(h.get_label())) for h in handles)
    columns = min(len(handles), max(1, int(drawing.get_figwidth() / (0.55 + 0.075 * longest))))
    drawing.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def lead_axis(axes: Axes, leads: np.ndarray, unit: str) -> None:
    """Whole leads on the x axis, few enough to be read."""
    axes.set_xlabel(f"lead time ({unit})")
    place = axes.get_subplotspec()
    room = 8 if place is None or place.get_gridspec().ncols < 3 else 5
    step = max(1, int(np.ceil(len(leads) / room)))
    ticks = [lead for lead in leads if lead % step == 0 or lead == leads[0]]
    axes.set_xticks([t for t in ticks if t == leads[0] or t - leads[0] >= step / 2])
    axes.set_xlim(leads[0] - 0.3, leads[-1] + 0.3)


def with_units(value: float, units: str) -> str:
    """A number and its unit as people write them: `0.0097 / tick`, `0.1 lattice units`, `3`."""
    number = f"{value:.3g}"
    if units in ("", "1"):
        return number
    return f"{number} / {units[2:]}" if units.startswith("1/") else f"{number} {units}"
