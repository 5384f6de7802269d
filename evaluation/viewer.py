"""The film viewer of the report: chosen cases of several methods, small enough to be part of the page.

    forecasts + truth  --films-->  scenes (arrays)  --viewer_html-->  controls, panels, and the data they show

A field becomes one byte per cell: 0 is a wall, 1 to 255 divide the colour range evenly. A frame of natural video
becomes a byte per pixel and colour, 0 black and 255 white, its red, green and blue planes one below the other. The
bytes of a panel (lead_time, y, x) are differenced along x and along y (modulo 256), deflated and written in base64; the
script of the page undoes this with the browser's own inflate, so that what is drawn is exact to a 255th of the colour
range, and 8-bit video to the bit.
Numbers in the page come from the scores, never from these bytes.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.colors import to_rgb

from evaluation import maps, summary
from evaluation.colour import DIM, Channels
from evaluation.dims import ALIASES
from evaluation.style import SOLID, with_units

BUDGET = 4_500_000  # characters of encoded fields in a page
LEVELS = 255  # colours of a range; the byte 0 is left for walls
SEQUENTIAL = "cividis"  # for a quantity that is never negative


@dataclass(frozen=True)
class Clip:
    """One case of one method. `mean` and `spread` are of all members; `members` holds the first few."""

    members: np.ndarray  # (member, lead_time, y, x[, 3])
    mean: np.ndarray  # (lead_time, y, x[, 3])
    spread: np.ndarray | None  # (lead_time, y, x); None for a single member
    size: int  # members of the ensemble
    crps: np.ndarray  # (lead_time,), mean over the fluid cells of this case


@dataclass(frozen=True)
class Scene:
    """One case: the truth and what every method that has it said. `film` is the whole ensemble of one method."""

    label: str
    trajectory: int
    init_time: int
    leads: np.ndarray  # (lead_time,)
    truth: np.ndarray  # (lead_time, y, x), or (lead_time, y, x, 3) of a video in colour
    solid: np.ndarray  # (y, x)
    clips: Mapping[str, Clip]
    units: str  # of the fields
    score_units: str  # of the CRPS: others where a protocol changes the scale
    variable: str
    lead_unit: str
    film: maps.Film | None = None
    levels: tuple[float, float] | None = None  # black and white of a video; None where it is a field

    @property
    def planes(self) -> int:
        """Colours of a video that is shown: 1 or 3; 0 where it is a field."""
        return 0 if self.levels is None else 1 if self.truth.ndim == 3 else 3


def films(
    scores: xr.Dataset,
    truth: xr.Dataset,
    forecasts: Mapping[str, xr.Dataset],
    *,
    cases: int = 3,
    members: int = 8,
) -> list[Scene]:
    """The cases that the viewer shows, read from their forecasts and the truth: nothing else of them is read.

    The first is the case of median CRPS of the first judged method; then those where its gain over the reference is
    largest and smallest, then others spread evenly in between, `cases` in all (fewer where there are fewer). Of
    each ensemble the first `members` are kept, and the mean and spread of all. The first scene also has the `film`
    that the film strip is drawn from.
    """
    truth = _renamed(truth)
    named = {str(m): _renamed(forecasts[str(m)]) for m in scores["method"].values if str(m) in forecasts}
    method = judged(scores)
    scenes: list[Scene] = []
    for (run, init), label in choose_cases(scores, cases).items():
        scenes.append(_scene(scores, truth, named, (run, init), label, members, None if scenes else method))
    return scenes


def choose_cases(scores: xr.Dataset, count: int) -> dict[tuple[int, int], str]:
    """Cases (trajectory, init_time) to look at, and why each was chosen; see `films`."""
    method = judged(scores)
    against = [r for r in [scores.attrs.get("reference"), *summary.references(scores)] if r and r != method]
    crps = scores["crps"].mean("lead_time", skipna=False)
    rank = -crps.sel({"method": method})
    best, worst = f"lowest CRPS of {method}", f"highest CRPS of {method}"
    if against:
        rank = 1 - crps.sel({"method": method}) / crps.sel({"method": against[0]})
        best, worst = f"largest gain of {method} over {against[0]}", f"smallest gain of {method} over {against[0]}"
    cells = rank.reset_coords(drop=True).stack(case=("trajectory", "init_time")).dropna("case")
    cells = cells.sortby(cells, ascending=False)
    ordered = [(int(run), int(init)) for run, init in cells["case"].values]
    chosen = {maps.typical_case(scores, method): f"median CRPS of {method}"}
    for case, why in ((ordered[0], best), (ordered[-1], worst)) if ordered else ():
        chosen[case] = f"{chosen[case]}, {why}" if case in chosen else why
    for share in np.linspace(0, 1, count + 1)[1:-1] if len(chosen) < count else ():
        at = round(float(share) * (len(ordered) - 1))
        chosen.setdefault(ordered[at], f"gain of rank {at + 1} of {len(ordered)}")
    return dict(list(chosen.items())[: max(1, count)])


def judged(scores: xr.Dataset) -> str:
    """The method that the choice of cases is about: the first candidate, or the first of all."""
    return (summary.candidates(scores) or [str(m) for m in scores["method"].values])[0]


def _scene(
    scores: xr.Dataset,
    truth: xr.Dataset,
    forecasts: Mapping[str, xr.Dataset],
    case: tuple[int, int],
    label: str,
    members: int,
    whole: str | None,
) -> Scene:
    run, init = case
    a = scores.attrs
    variable = str(a["variable"])
    leads = scores["lead_time"].values
    valid = truth[variable].sel(trajectory=run).sel(time=init + leads).rename(time="lead_time")
    channels = Channels.of(valid)
    frame = ("lead_time", "y", "x") if channels is None else ("lead_time", DIM, "y", "x")
    observed = _pictures(valid.transpose(*frame).values, channels)
    levels = None if channels is None else (float(a["value_range"][0]), float(a["value_range"][1]))
    solid = np.zeros(observed.shape[1:3], bool)
    if "solid" in truth:
        walls = truth["solid"]
        walls = walls.sel(trajectory=run) if "trajectory" in walls.dims else walls
        solid = walls.transpose("y", "x").values.astype(bool)
    clips, film = {}, None
    units, name, lead_unit = str(valid.attrs.get("units", "1")), str(a["variable_long_name"]), str(a["lead_unit"])
    units = str(a["units"]) if units in ("", "1") and channels is not None else units
    for method, forecast in forecasts.items():
        if run not in forecast["trajectory"].values or init not in forecast["init_time"].values:
            continue
        picked = forecast[variable].sel(trajectory=run, init_time=init, lead_time=leads)
        values = _pictures(picked.transpose("member", *frame).values, channels)
        crps = scores["crps"].sel({"method": method, "trajectory": run, "init_time": init}).values
        mean = values.mean(0, dtype=np.float64)
        spread = values.std(0, ddof=1, dtype=np.float64) if len(values) > 1 else None
        spread = spread if spread is None or spread.ndim == 3 else spread.mean(-1)
        clips[method] = Clip(values[:members].copy(), mean, spread, len(values), crps)
        if method == whole:
            film = maps.Film(method, run, init, leads, observed, values, solid, units, name, levels)
    score_units = str(a["units"])
    return Scene(label, run, init, leads, observed, solid, clips, units, score_units, name, lead_unit, film, levels)


def _pictures(values: np.ndarray, channels: Channels | None) -> np.ndarray:
    """(..., y, x) as it is; of (..., channel, y, x) the colours, last, or the one picture."""
    return values if channels is None else np.ascontiguousarray(channels.colours(values))


def _renamed(data: xr.Dataset) -> xr.Dataset:
    return data.rename({alias: name for alias, name in ALIASES.items() if alias in data.dims and name not in data.dims})


@dataclass(frozen=True)
class Shades:
    """The values that black and white stand for in a video of 1 or 3 colours: no colour map, no walls."""

    low: float
    high: float
    planes: int

    def quantise(self, values: np.ndarray, solid: np.ndarray) -> np.ndarray:
        """Frames (lead_time, y, x[, 3]) as bytes (lead_time, planes * y, x)."""
        share = np.nan_to_num(np.clip((values.astype(np.float64) - self.low) / (self.high - self.low), 0, 1))
        levels = np.rint(255 * share).astype(np.uint8)
        if self.planes == 1:
            return levels
        return np.ascontiguousarray(np.moveaxis(levels, -1, -3)).reshape(len(levels), -1, levels.shape[2])


@dataclass(frozen=True)
class Range:
    """The values that the first and the last colour of a colour map stand for."""

    low: float
    high: float
    colours: str

    def quantise(self, values: np.ndarray, solid: np.ndarray) -> np.ndarray:
        """Fields (..., y, x) as bytes: 0 where `solid` or NaN, else 1 (`low` or less) to 255 (`high` or more)."""
        with np.errstate(invalid="ignore"):
            share = np.clip((values - self.low) / (self.high - self.low), 0, 1)
        known = np.isfinite(share) & ~solid
        return np.where(known, 1 + np.rint(np.where(known, share, 0) * (LEVELS - 1)), 0).astype(np.uint8)

    def palette(self) -> bytes:
        """Red, green, blue of each of the 256 bytes; the first is the colour of walls."""
        colours = mpl.colormaps[self.colours](np.linspace(0, 1, LEVELS))[:, :3]
        return np.rint(255 * np.vstack([to_rgb(SOLID), colours])).astype(np.uint8).tobytes()


def ranges(scenes: list[Scene]) -> tuple[Range | Shades, Range | None]:
    """One colour range for all fields and one for all spreads, so that cases and methods can be compared.

    The field's is symmetric about zero and holds 99.5 % of the truth; of a quantity that is never negative it goes
    from the 0.5 % to the 99.5 % quantile; of video from black to white.
    """
    field = _field_range(scenes)
    spreads = [_fluid(c.spread, s.solid) for s in scenes for c in s.clips.values() if c.spread is not None]
    if not spreads:
        return field, None
    return field, Range(0.0, max(float(np.quantile(v, 0.995)) for v in spreads if v.size) or 1.0, maps.ERROR)


def _field_range(scenes: list[Scene]) -> Range | Shades:
    if scenes[0].levels is not None:
        return Shades(*scenes[0].levels, scenes[0].planes)
    truth = np.concatenate([_fluid(s.truth, s.solid) for s in scenes])
    if truth.size and truth.min() >= 0:
        low, high = (float(q) for q in np.quantile(truth, [0.005, 0.995]))
        return Range(low, high if high > low else low + 1, SEQUENTIAL)
    limit = float(np.quantile(np.abs(truth), 0.995)) if truth.size else 1.0
    return Range(-(limit or 1.0), limit or 1.0, maps.FIELD)


def _fluid(values: np.ndarray, solid: np.ndarray) -> np.ndarray:
    inside = values[:, ~solid]
    return inside[np.isfinite(inside)].astype(np.float64)


def encode(frames: np.ndarray) -> str:
    """Bytes (lead_time, y, x) as text: differenced along x and y modulo 256, deflated, base64."""
    step = np.diff(np.diff(frames, axis=-1, prepend=np.uint8(0)), axis=-2, prepend=np.uint8(0))
    return base64.b64encode(zlib.compress(step.tobytes(), 9)).decode()


def decode(text: str, shape: tuple[int, int, int]) -> np.ndarray:
    """The inverse of `encode`; the script of the page does the same."""
    step = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(shape)
    return step.cumsum(-1, dtype=np.uint8).cumsum(-2, dtype=np.uint8)


def embed(scenes: list[Scene], budget: int = BUDGET) -> dict[str, Any]:
    """What the script needs, as plain data of at most about `budget` characters.

    As many members as fit (one at least); where that is too much, every second cell along each axis, and then every
    second lead. `words` says what was left out.
    """
    field, spread = ranges(scenes)
    names = list(dict.fromkeys(name for s in scenes for name in s.clips))
    cells, step = 1, 1
    while True:
        cases = [_encoded(s, names, field, spread, cells, step) for s in scenes]
        shown = max((len(c.members) for s in scenes for c in s.clips.values()), default=1)
        while shown > 1 and _size(cases, shown) > budget:
            shown -= 1
        smallest, leads = min(scenes[0].solid.shape) // cells, len(scenes[0].leads[::step])
        if _size(cases, shown) <= budget or (smallest < 32 and leads <= 2):
            break
        if smallest >= 32:
            cells *= 2
        else:
            step *= 2
    for case in cases:
        for film in filter(None, case["films"]):
            film["members"] = film["members"][:shown]
    first = scenes[0]
    height, width = first.solid[::cells, ::cells].shape
    return {
        "width": width,
        "height": height,
        "cells": cells,
        "leads": [int(lead) for lead in first.leads[::step]],
        "leadUnit": first.lead_unit,
        "variable": first.variable,
        "units": first.units,
        "scoreUnits": first.score_units,
        "field": _range(field),
        "planes": first.planes,
        "up": first.levels is None,
        "nothing": "wall, or no value" if first.levels is None else "no value",
        "spread": None if spread is None else _range(spread),
        "methods": names,
        "cases": cases,
        "words": _words(scenes, names, shown, cells, step),
    }


def _encoded(
    scene: Scene, names: list[str], field: Range | Shades, spread: Range | None, cells: int, step: int
) -> dict[str, Any]:
    solid = scene.solid[::cells, ::cells]

    def panel(values: np.ndarray, colours: Range | Shades) -> str:
        return encode(colours.quantise(values[::step, ::cells, ::cells], solid))

    entries: list[dict[str, Any] | None] = []
    for name in names:
        clip = scene.clips.get(name)
        if clip is None:
            entries.append(None)
            continue
        many = spread is not None and clip.spread is not None
        entries.append(
            {
                "size": clip.size,
                "mean": panel(clip.mean, field) if many else None,
                "spread": panel(clip.spread, spread) if spread is not None and clip.spread is not None else None,
                "members": [panel(m, field) for m in clip.members],
                "crps": [None if np.isnan(v) else float(f"{v:.4g}") for v in clip.crps[::step]],
            }
        )
    kind = "run" if scene.levels is None else "clip"
    about = f"{kind} {scene.trajectory}, last context frame {scene.init_time}"
    return {"label": scene.label, "about": about, "truth": panel(scene.truth, field), "films": entries}


def _size(cases: list[dict[str, Any]], shown: int) -> int:
    total = 0
    for case in cases:
        total += len(case["truth"])
        for film in filter(None, case["films"]):
            total += sum(map(len, film["members"][:shown])) + len(film["mean"] or "") + len(film["spread"] or "")
    return total


def _range(colours: Range | Shades) -> dict[str, Any]:
    if isinstance(colours, Shades):
        return {"low": colours.low, "high": colours.high}
    palette = base64.b64encode(colours.palette()).decode()
    return {"low": colours.low, "high": colours.high, "palette": palette}


def _words(scenes: list[Scene], names: list[str], shown: int, cells: int, step: int) -> str:
    size = max((c.size for s in scenes for c in s.clips.values()), default=1)
    words = f"In this page: {len(scenes)} of the cases, {len(names)} methods"
    words = words.replace("1 of the cases", "one case") if len(scenes) == 1 else words
    words = words.replace("1 methods", "one method") if len(names) == 1 else words
    if size > 1:
        which = "every member" if shown >= size else f"the first {shown} of up to {size} members"
        words += f", {which}; mean and spread are of all members"
    words += f". Colours in {LEVELS} steps" if scenes[0].levels is None else ". Frames in their own colours"
    kind = "cell" if scenes[0].levels is None else "pixel"
    words += f"; every {cells}th {kind} along each axis" if cells > 1 else ""
    words += f"; every {step}th lead" if step > 1 else ""
    return words.replace("2th", "2nd") + "."


def viewer_html(scenes: list[Scene], budget: int = BUDGET) -> str:
    """Controls, an empty stage, colour bars, and the data; hidden until the script of the page fills it."""
    data = embed(scenes, budget)
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":  # nothing in it can end the element that holds it
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    bars = "" if data["planes"] else _bar("field", data["field"], data["variable"], data["units"])
    if data["spread"] is not None:
        bars += _bar("spread", data["spread"], "spread of the members", data["units"])
    page = resources.files("evaluation").joinpath("viewer.html").read_text(encoding="utf-8")
    return Template(page).substitute(
        last=len(data["leads"]) - 1, bars=bars, words=escape(data["words"]), data=text,
        cell="pixel" if data["planes"] else "cell",
    )  # fmt: skip


def _bar(kind: str, colours: Mapping[str, Any], name: str, units: str) -> str:
    low, high = colours["low"], colours["high"]
    unit = "" if units in ("", "1") else f" ({escape(units)})"
    ends = f"<span>{low:.3g}</span><span>{(low + high) / 2:.3g}</span><span>{high:.3g}</span>"
    label = f"Colours of the {kind}: {with_units(low, units)} to {with_units(high, units)}"
    return (
        f'<div class="bar"><span>{escape(name)}{unit}</span><canvas id="viewer-bar-{kind}" width="{LEVELS}" height="1" '
        f'role="img" aria-label="{escape(label, quote=True)}"></canvas><div class="ends">{ends}</div></div>'
    )
