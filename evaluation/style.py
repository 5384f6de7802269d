"""One look for every figure: light ground (the page shows it on a card, so it also reads at night), few lines,
colour-blind-safe colours (Okabe & Ito), labels at the curves instead of legends.

Figures are built on `matplotlib.figure.Figure` directly, without pyplot: no global state, no window system, and
nothing to close.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#22262b"
MUTED = "#6b7480"
GRID = "#e4e7ea"
SOLID = "#8d949c"  # obstacles
CANDIDATES = ("#0072B2", "#CC79A7", "#009E73", "#56B4E9", "#5e3c99")
REFERENCES = {"climatology": "#D55E00", "persistence": "#7a6a4f"}
MARKERS = "os^Dv"
REFERENCE_MARKERS = {"climatology": "s", "persistence": "D"}
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


def png(drawing: Figure, dpi: int = 150) -> bytes:
    """The figure as a PNG file, cut to what is drawn; no date inside, so that equal input gives equal bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context(RC):
        drawing.savefig(
            buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.08, metadata={"Software": None}
        )
    return buffer.getvalue()


def looks(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method: references have their own, the others take theirs in order."""
    others = [m for m in methods if m not in REFERENCES]
    styles = {m: (c, REFERENCE_MARKERS[m]) for m, c in REFERENCES.items()}
    for i, name in enumerate(others):
        styles[name] = (CANDIDATES[i % len(CANDIDATES)], MARKERS[i % len(MARKERS)])
    return {m: styles[m] for m in methods}


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]], gap: float = 0.06) -> None:
    """Write names to the right of curves that end at (x, y), in their colour, moved apart where they would overlap.

    `ends` holds (x, y, text, colour); `gap` is the least distance between labels as a share of the axis.
    """
    low, high = axes.get_ylim()
    inside = sorted(((y - low) / (high - low), x, text, colour) for x, y, text, colour in ends if np.isfinite(y))
    heights = np.array([min(max(item[0], 0.0), 1.0) for item in inside])
    for _ in range(200):
        tight = np.flatnonzero(np.diff(heights) < gap - 1e-9)
        if not tight.size:
            break
        for i in tight:
            middle = (heights[i] + heights[i + 1]) / 2
            heights[i], heights[i + 1] = middle - gap / 2, middle + gap / 2
    for height, (_, _, text, colour) in zip(heights, inside, strict=True):
        axes.annotate(
            text,
            (1.015, height),
            xycoords="axes fraction",
            color=colour,
            va="center",
            ha="left",
            fontweight="bold",
            fontsize=9.5,
            annotation_clip=False,
        )


def lead_axis(axes: Axes, leads: np.ndarray, unit: str) -> None:
    """Whole leads on the x axis, few enough to be read."""
    axes.set_xlabel(f"lead time ({unit})")
    step = max(1, int(np.ceil(len(leads) / 8)))
    ticks = [lead for lead in leads if lead % step == 0 or lead == leads[0]]
    axes.set_xticks([t for t in ticks if t == leads[0] or t - leads[0] >= step / 2])
    axes.set_xlim(leads[0] - 0.3, leads[-1] + 0.3)


def with_units(value: float, units: str) -> str:
    """A number and its unit as people write them: `0.0097 / tick`, `0.1 lattice units`, `3`."""
    number = f"{value:.3g}"
    if units in ("", "1"):
        return number
    return f"{number} / {units[2:]}" if units.startswith("1/") else f"{number} {units}"
