"""Pictures of fields: where a forecast is good (maps), and what it looks like (film strip, animation).

All fields of one figure share one symmetric colour range; obstacles are grey; cells are square and not smoothed.
y points up, as in the simulation. Frames of natural video are shown as they are, in colour or grey, first row on top.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from evaluation import summary
from evaluation.style import INK, MUTED, RC, SOLID, figure, with_units

Origin = Literal["upper", "lower"]
FIELD = "RdBu_r"
ERROR = "viridis"
SKILL = "PuOr"
STRIP_LEADS = (1, 2, 4, 8, 12, 16)


@dataclass(frozen=True)
class Film:
    """One case of one method as arrays: what the film strip and the animation show."""

    method: str
    trajectory: int
    init_time: int
    leads: np.ndarray  # (lead_time,)
    truth: np.ndarray  # (lead_time, y, x), or (lead_time, y, x, 3) of a video in colour
    members: np.ndarray  # (member, lead_time, y, x[, 3])
    solid: np.ndarray  # (y, x)
    units: str
    variable: str
    levels: tuple[float, float] | None = None  # black and white of a video; None where it is a field

    @property
    def video(self) -> bool:
        """Whether frames are pictures already."""
        return self.levels is not None

    @property
    def spread(self) -> np.ndarray | None:
        """Standard deviation of the members (lead_time, y, x), mean over colours; None of a single one."""
        if len(self.members) == 1:
            return None
        spread = self.members.std(0, ddof=1)
        return spread if spread.ndim == 3 else spread.mean(-1)

    @property
    def limit(self) -> float:
        """Half the symmetric colour range: nearly all of the truth, but not the extremes at the walls."""
        fluid = np.abs(self.truth[:, ~self.solid])
        return float(np.quantile(fluid, 0.995)) or 1.0


def typical_case(scores: xr.Dataset, method: str) -> tuple[int, int]:
    """The case (trajectory, init_time) whose CRPS, over all leads, is the median of all cases: not hand-picked."""
    crps = scores["crps"].sel({"method": method}).mean("lead_time").stack(case=("trajectory", "init_time"))
    crps = crps.dropna("case").sortby(crps.dropna("case"))
    run, init = crps["case"].values[(crps.size - 1) // 2]
    return int(run), int(init)


def crps_maps(scores: xr.Dataset) -> Figure:
    """CRPS of every method in space, over all leads, in standard deviations of the truth, one colour range."""
    names = summary.names_of(scores)
    mean = _mean_map(scores).mean("lead_time") / summary.error_unit(scores)[0]
    fields = [mean.sel({"method": n}).transpose("y", "x").values for n in names]
    top = float(np.nanquantile(np.stack(fields), 0.99)) or 1.0
    label = f"CRPS ({summary.error_unit(scores)[1]})"
    return _panels(fields, names, ERROR, (0.0, top), label, extend="max", origin=_origin(scores))


def crps_map_at_lead(scores: xr.Dataset, lead: int = 10) -> Figure:
    """CRPS of every method in space at one lead (the scored lead nearest to `lead`), in the unit of the variable."""
    names = summary.names_of(scores)
    mean = _mean_map(scores).sel(lead_time=lead, method="nearest")
    fields = [mean.sel({"method": n}).transpose("y", "x").values for n in names]
    top = float(np.nanquantile(np.stack(fields), 0.99)) or 1.0
    units = scores.attrs["units"]
    label = f"CRPS at lead {int(mean['lead_time'])}" + ("" if units in ("", "1") else f" ({units})")
    return _panels(fields, names, ERROR, (0.0, top), label, extend="max", origin=_origin(scores))


def _origin(scores: xr.Dataset) -> Origin:
    return "upper" if summary.terms(scores).video else "lower"


def _mean_map(scores: xr.Dataset) -> xr.DataArray:
    """CRPS (method, lead_time, y, x), over all cases in which a cell is fluid; NaN where it never is."""
    weights = scores["fluid_cases"]
    total = weights.sum("block")
    return (scores["crps_map"].fillna(0) * weights).sum("block") / total.where(total > 0)


def skill_maps(scores: xr.Dataset, references: Sequence[str] | None = None) -> Figure:
    """CRPSS of the judged methods against each reference in space, over all leads; dots where its sign is unsure.

    Without `references`: against all of `summary.references`, or only the main one where many methods are judged.
    """
    judged = summary.candidates(scores)
    if references is None:
        found = summary.references(scores)
        references = found if len(judged) * len(found) <= 6 else found[:1]
    pairs = [(m, r) for m in judged for r in references if m != r]
    maps = [summary.significant(scores, method, reference) for method, reference in pairs]
    titles = [f"{method} against {reference}" for method, reference in pairs]
    fields = [m["value"].values for m in maps]
    sure = [m["sure"].values for m in maps]
    known = scores.sizes["block"] >= summary.SURE_RUNS
    return _panels(
        fields, titles, SKILL, (-1.0, 1.0), "CRPSS", extend="min", unsure=[~s for s in sure] if known else None,
        origin=_origin(scores),
    )  # fmt: skip


def _panels(
    fields: Sequence[np.ndarray],
    titles: Sequence[str],
    colours: str,
    limits: tuple[float, float],
    label: str,
    *,
    extend: str,
    origin: Origin,
    unsure: Sequence[np.ndarray] | None = None,
) -> Figure:
    height, width = fields[0].shape
    columns = min(len(fields), (3 if width <= 2 * height else 2) + (len(fields) > 6))
    rows = -(-len(fields) // columns)
    wide = 9.6 / columns
    with figure(9.6, rows * (wide * height / width + 0.35) + 0.75) as drawing:
        grid = drawing.subplots(rows, columns, squeeze=False).ravel()
        for axes, field, title in zip(grid, fields, titles, strict=False):
            image = _show(axes, field, colours, *limits, origin)
            axes.set_title(title, fontsize=10 if columns < 4 else 9)
        for axes, dots, field in zip(grid, unsure or [], fields, strict=False):
            _stipple(axes, dots & np.isfinite(field))
        for axes in grid[len(fields) :]:
            axes.set_visible(False)
        bar = drawing.colorbar(image, ax=list(grid), orientation="horizontal", shrink=0.5, aspect=40, extend=extend)
        bar.set_label(label)
        bar.outline.set_visible(False)
    return drawing


def _stipple(axes: Axes, where: np.ndarray) -> None:
    """Small dots on a coarse lattice of the cells where `where` holds."""
    step = max(1, round(max(where.shape) / 64))
    y, x = np.nonzero(where[::step, ::step])
    axes.plot(x * step, y * step, ".", color=INK, markersize=1.6, markeredgewidth=0, linestyle="none")


def film_strip(film: Film) -> Figure:
    """Rows: truth, ensemble mean, three members, spread; columns: leads growing from one."""
    wanted = [i for i, lead in enumerate(film.leads) if lead in STRIP_LEADS] or [len(film.leads) - 1]
    mean = film.members.mean(0)
    spread = film.spread
    rows = [("truth", film.truth), ("ensemble\nmean", mean)]
    rows += [(f"member {i + 1}", film.members[i]) for i in range(min(3, len(film.members)))]
    if spread is None:
        rows = [rows[0], ("forecast", mean)]
    height, width = film.solid.shape
    cell = min(9.9 / len(wanted), 3.0)
    lines = len(rows) + (spread is not None)
    with figure(cell * len(wanted) + 2.0, lines * (cell * height / width + 0.06) + 0.3) as drawing:
        grid = drawing.subplots(lines, len(wanted), squeeze=False)
        drawing.set_layout_engine("constrained", h_pad=0.02, w_pad=0.02, hspace=0.01, wspace=0.01)
        for (name, values), line in zip(rows, grid, strict=False):
            line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8, fontsize=10)
            for axes, i in zip(line, wanted, strict=True):
                field = _frame(axes, film, _seen(film, values[i]))
        for axes, i in zip(grid[0], wanted, strict=True):
            axes.set_title(f"lead {film.leads[i]}", fontsize=10, loc="center")
        unit = "" if film.units in ("", "1") else f" ({film.units})"
        bars = [] if film.video else [(field, grid[: len(rows)], f"{film.variable}{unit}", "both")]
        if spread is not None:
            grid[-1][0].set_ylabel("spread", rotation=0, ha="right", va="center", labelpad=8, fontsize=10)
            top = float(np.quantile(spread[:, ~film.solid], 0.995)) or 1.0
            for axes, i in zip(grid[-1], wanted, strict=True):
                error = _show(axes, _masked(spread[i], film.solid), ERROR, 0, top, _way(film))
            bars.append((error, grid[-1:], f"spread{unit}" if film.video else "spread", "max"))
        for image, axes_of, label, extend in bars:
            shrink, aspect = (0.6, 30) if len(axes_of) > 1 else (0.9, 8)
            bar = drawing.colorbar(
                image, ax=list(axes_of.ravel()), extend=extend, pad=0.01, shrink=shrink, aspect=aspect
            )
            bar.set_label(label)
            bar.outline.set_visible(False)
    return drawing


def methods_strip(film: Film, said: Mapping[str, np.ndarray]) -> Figure:
    """Rows: truth, and what each method said, frames (lead_time, y, x[, 3]) by its name; columns: leads."""
    wanted = [i for i, lead in enumerate(film.leads) if lead in STRIP_LEADS] or [len(film.leads) - 1]
    rows = {"truth": film.truth, **said}
    height, width = film.solid.shape
    cell = min(9.0 / len(wanted), 3.0)
    with figure(cell * len(wanted) + 3.0, len(rows) * (cell * height / width + 0.06) + 0.3) as drawing:
        grid = drawing.subplots(len(rows), len(wanted), squeeze=False)
        drawing.set_layout_engine("constrained", h_pad=0.02, w_pad=0.02, hspace=0.01, wspace=0.01)
        for (name, values), line in zip(rows.items(), grid, strict=True):
            line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8, fontsize=10)
            for axes, i in zip(line, wanted, strict=True):
                field = _frame(axes, film, _seen(film, values[i]))
        for axes, i in zip(grid[0], wanted, strict=True):
            axes.set_title(f"lead {film.leads[i]}", fontsize=10, loc="center")
        if not film.video:
            unit = "" if film.units in ("", "1") else f" ({film.units})"
            bar = drawing.colorbar(field, ax=list(grid.ravel()), extend="both", pad=0.01, shrink=0.5, aspect=30)
            bar.set_label(f"{film.variable}{unit}")
            bar.outline.set_visible(False)
    return drawing


def animation(film: Film, *, seconds_per_frame: float = 0.45, dpi: int = 100) -> bytes:
    """Truth, ensemble mean, two members and spread, lead after lead, as an animated WebP that repeats."""
    spread, top = film.spread, 1.0
    panels = [("truth", film.truth), ("ensemble mean", film.members.mean(0))]
    panels += [(f"member {i + 1}", film.members[i]) for i in range(min(3, len(film.members)))]
    if spread is None:
        panels = [panels[0], ("forecast", film.members[0])]
    drawn = [(name, _seen(film, values)) for name, values in panels]
    if spread is not None:
        drawn.append(("spread", _masked(spread, film.solid)))
        top = float(np.quantile(spread[:, ~film.solid], 0.995)) or 1.0
    height, width = film.solid.shape
    columns = 2 if width > height else 3
    rows = -(-len(drawn) // columns)
    with figure(9.0, rows * (9.0 / columns * height / width + 0.3) + 0.5) as drawing:
        grid = drawing.subplots(rows, columns, squeeze=False).ravel()
        images = []
        for axes, (name, values) in zip(grid, drawn, strict=False):
            spreads = name == "spread"
            image = _show(axes, values[0], ERROR, 0.0, top, _way(film)) if spreads else _frame(axes, film, values[0])
            images.append(image)
            axes.set_title(name, fontsize=10)
        for axes in grid[len(drawn) :]:
            axes.set_visible(False)
        clock = drawing.suptitle(" ", fontsize=11, color=MUTED)
        pictures = []
        for i, lead in enumerate(film.leads):
            clock.set_text(f"{film.method}: lead {lead} of {film.leads[-1]}")
            for image, (_, values) in zip(images, drawn, strict=True):
                image.set_data(values[i])
            pictures.append(_raster(drawing, dpi))
            drawing.set_layout_engine("none")  # the first frame settles the places: no jitter, and faster
    buffer = io.BytesIO()
    times = [round(1000 * seconds_per_frame)] * len(pictures)
    times[-1] *= 3
    pictures[0].save(
        buffer, format="WEBP", save_all=True, append_images=pictures[1:], duration=times, loop=0, quality=82, method=2
    )
    return buffer.getvalue()


def _raster(drawing: Figure, dpi: int) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with mpl.rc_context(RC):
        drawing.set_dpi(dpi)
        canvas = FigureCanvasAgg(drawing)
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _frame(axes: Axes, film: Film, values: np.ndarray) -> AxesImage:
    """A frame of a film, from `_seen`: a field in the colours of a map, a picture in its own."""
    if film.levels is None:
        return _show(axes, values, FIELD, -film.limit, film.limit)
    return _show(axes, values, "gray", 0.0, 1.0, "upper")


def _seen(film: Film, values: np.ndarray) -> np.ndarray:
    """What is drawn of frames: fields without their walls; of a video shares of white, in colour as they are."""
    if film.levels is None:
        return _masked(values, film.solid)
    low, high = film.levels
    return np.clip((values.astype(np.float64) - low) / (high - low), 0, 1)


def _way(film: Film) -> Origin:
    return "upper" if film.video else "lower"


def _show(axes: Axes, values: np.ndarray, colours: str, low: float, high: float, origin: Origin = "lower") -> AxesImage:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    table: Colormap = mpl.colormaps[colours].with_extremes(bad=SOLID)
    return axes.imshow(values, cmap=table, vmin=low, vmax=high, origin=origin, interpolation="nearest", aspect="equal")


def _masked(values: np.ndarray, solid: np.ndarray) -> np.ndarray:
    return np.where(solid, np.nan, values)


def film_caption(film: Film) -> str:
    """Which case is shown, in words."""
    if film.video:
        about = f"clip {film.trajectory}, last context frame {film.init_time}"
        return f"{film.method}, {about} (the case of median CRPS); frames in the colours they are stored in"
    start = f"run {film.trajectory}, last context frame {film.init_time}"
    return (
        f"{film.method}, {start} (the case of median CRPS); colours saturate at ±{with_units(film.limit, film.units)}"
    )
