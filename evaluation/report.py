"""The verification report: one page that needs nothing but itself, and its figures and numbers beside it.

    report/index.html     figures and the film viewer embedded, no request to anywhere, light and dark
    report/figures/*      the same figures as PNG and SVG, the animation as WebP
    report/scores.csv     every number of the page (and more), one per row
    report/curves.csv     the averaged statistics behind the figures, tidy
    report/scores.nc      everything that was stored, as netCDF

The page works without its script, which adds the film viewer and sorts tables; the browser runs that script alone
(the page names its SHA-256). Everything that comes from a file (names of methods, units, settings) is escaped before
it enters the page.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
import xarray as xr
from PIL import Image

from evaluation import export, maps, scorecard, summary, tables, viewer, words
from evaluation.figures import FIGURES, FigureSpec
from evaluation.style import pictures

Content = bytes | Callable[[Path], None]  # what a file is to hold, or what writes it


@dataclass(frozen=True)
class Picture:
    """A figure of the page. `caption` is HTML; `shape` is "", "wide" or "wide strip" (scrolls on a phone).

    `vector` is the same as SVG, for its file; a picture that is not `embedded` is a file only.
    """

    name: str
    title: str
    caption: str
    data: bytes
    shape: str = ""
    kind: str = "png"
    vector: bytes | None = None
    embedded: bool = True


def write_report(
    scores: xr.Dataset,
    folder: str | Path,
    *,
    films: Sequence[viewer.Scene] = (),
    film: maps.Film | None = None,
    title: str | None = None,
    overwrite: bool = False,
    on_figure: Callable[[str], None] | None = None,
) -> Path:
    """Write the report of `scores` into `folder` and return the path of its `index.html`.

    `films` (see `viewer.films`) adds the film viewer, the film strip and the animation; `film` (see `film_of`) the
    last two alone. `on_figure(name)` is called after each figure. Only the report's own files are written, all or
    none of them and the page last; other files in `folder` stay. Raises `FileExistsError` if `folder` is a file,
    or holds a report and `overwrite` is not set.
    """
    folder = Path(folder)
    check_folder(folder, overwrite=overwrite)
    film = film or next((scene.film for scene in films if scene.film is not None), None)
    pictures = []
    said = {name: clip.members[0] for name, clip in films[0].clips.items()} if films else {}
    for draw in _drawings(scores, film, said, animated=not films):
        pictures.append(draw())
        if on_figure is not None:
            on_figure(pictures[-1].name)
    files: dict[Path, Content] = {folder / "figures" / f"{p.name}.{p.kind}": p.data for p in pictures}
    files |= {folder / "figures" / f"{p.name}.svg": p.vector for p in pictures if p.vector is not None}
    files[folder / "scores.csv"] = summary.csv_text(scores).encode()
    files[folder / "curves.csv"] = export.curves_csv(scores).encode()
    files[folder / "scores.nc"] = lambda path: export.netcdf(scores, path)
    files[folder / "index.html"] = render(scores, pictures, films=films, title=title).encode()
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    _write_all(files)
    return folder / "index.html"


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that a report must not be written to."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: name a folder for the report")
    if (folder / "index.html").exists() and not overwrite:
        raise FileExistsError(f"{folder} holds a report already: choose another folder or give --overwrite")


def film_of(scores: xr.Dataset, truth: xr.Dataset, forecasts: Mapping[str, xr.Dataset]) -> maps.Film:
    """The case of median CRPS of the first judged method, read from its forecast and the truth."""
    method = viewer.judged(scores)
    (scene,) = viewer.films(scores, truth, {method: forecasts[method]}, cases=1, members=1)
    return scene.film  # type: ignore[return-value]


SECTIONS = {  # part of the page -> names of its figures; others come under "More"
    "scorecard": ("Scorecard", ("scorecard",)),
    "film": ("Film", ("animation", "film", "film-methods")),
    "curves": ("Scores by lead time", ("crps", "skill", "paper")),
    "reliability": ("Reliability", ("spread", "ranks", "coverage", "reliability", "roc", "brier")),
    "scales": ("Scales and physics", ("fss", "pooled", "spectra", "coherence", "probe", "pod", "pdf")),
    "maps": ("Maps", ("crps-map", "crps-map-lead", "skill-map")),
}
OBSTACLE = " The obstacle is grey."
WIDE = 1275  # pixels: a picture that is wider fills a row of its own
TALL = 1.3  # height over width from which a picture scrolls in its box
FEW_METHODS = 4  # with more, the table by lead time is folded


def render(
    scores: xr.Dataset, pictures: list[Picture], *, films: Sequence[viewer.Scene] = (), title: str | None = None
) -> str:
    """The page as one string of HTML."""
    a = scores.attrs
    names = [str(m) for m in scores["method"].values]
    sample = f"{tables.count(a['cases'], 'case')} from {tables.count(a['runs'], summary.terms(scores).run)}"
    subtitle = f"{', '.join(names)}: {sample}, lead times {words.lead_range(scores)} ({a['lead_unit']})"
    parts = _parts(scores, [p for p in pictures if p.embedded], films)
    contents = [("summary", "Summary"), *((key, heading) for key, heading, _ in parts)]
    page, style, script = (_read(name) for name in ("page.html", "page.css", "page.js"))
    return Template(page).substitute(
        title=escape(title or f"Forecast verification: {a['variable_long_name']}"),
        subtitle=escape(subtitle),
        summary=words.summary_html(scores),
        contents="".join(f'<li><a href="#{key}">{escape(heading)}</a></li>' for key, heading in contents),
        body="\n".join(
            f'<section id="{key}"><h2>{escape(heading)}</h2>{html}</section>' for key, heading, html in parts
        ),
        style=style,
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _read(name: str) -> str:
    return resources.files("evaluation").joinpath(name).read_text(encoding="utf-8")


def _parts(scores: xr.Dataset, pictures: list[Picture], films: Sequence[viewer.Scene]) -> list[tuple[str, str, str]]:
    """The parts of the page after the summary: anchor, heading, HTML; what there is nothing of is left out."""
    card = scorecard.scorecard_html(scores)
    before = {"film": "", "curves": tables.skill_table_html(scores)}
    if films:
        note = "The film viewer needs JavaScript; the film strip shows the first of its cases."
        before["film"] = f'<p class="note no-viewer">{note}</p>{viewer.viewer_html(list(films))}'
    if scores.sizes["method"] > FEW_METHODS:
        before["curves"] = _folded("Table of CRPS, skill, spread and RMSE by lead time", before["curves"])
    after = {"scorecard": _folded("The scorecard as a table, with numbers", card) if card else ""}
    parts = []
    for key, (heading, names) in SECTIONS.items():
        if key == "scales" and summary.terms(scores).video:
            heading = "Scales, motion and values"
        shown = _figures([p for name in names for p in pictures if p.name == name])
        parts.append((key, heading, before.get(key, "") + shown + after.get(key, "")))
    placed = {name for _, names in SECTIONS.values() for name in names}
    parts.append(("more", "More", _figures([p for p in pictures if p.name not in placed])))
    parts.append(("protocol", "Protocol", words.protocol_html(scores)))
    parts.append(("numbers", "Numbers", NUMBERS))
    return [part for part in parts if part[2]]


def _folded(title: str, html: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{html}</details>"


NUMBERS = (
    '<p>Beside this page: <a href="scores.csv">scores.csv</a> (metrics with intervals), '
    '<a href="curves.csv">curves.csv</a> (the averaged statistics of the figures), '
    '<a href="scores.nc">scores.nc</a> (everything that was stored, netCDF), and every figure as PNG and SVG in '
    "<code>figures</code>.</p>"
)


def _figures(pictures: list[Picture]) -> str:
    return f'<div class="figures">{"".join(_figure(p) for p in pictures)}</div>' if pictures else ""


def _figure(picture: Picture) -> str:
    data, kind = picture.data, picture.kind
    width, height = Image.open(io.BytesIO(data)).size
    if kind == "png":
        data, kind = _lossless(data), "webp"
    wide = "wide" in picture.shape or width > WIDE
    looks = ["picture"]
    looks += ["strip"] if "strip" in picture.shape or (width > WIDE and not picture.shape) else []
    looks += ["tall"] if height > TALL * width else []
    return (
        f'<figure{" class=wide" if wide else ""}><div class="{" ".join(looks)}" tabindex="0">'
        f'<img alt="{escape(picture.title, quote=True)}" width="{width}" height="{height}" '
        f'src="data:image/{kind};base64,{base64.b64encode(data).decode()}"></div>'
        f"<figcaption><b>{escape(picture.title)}.</b> {picture.caption}</figcaption></figure>"
    )


def _lossless(data: bytes) -> bytes:
    """The same picture as lossless WebP: half the size of PNG."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(buffer, "WEBP", lossless=True, method=1, quality=50)
    return buffer.getvalue()


def _drawings(
    scores: xr.Dataset, film: maps.Film | None, said: Mapping[str, np.ndarray], *, animated: bool
) -> list[Callable[[], Picture]]:
    """What is to be drawn, in the order of the page."""
    draw: list[Callable[[], Picture]] = []
    if film is not None:
        draw += [lambda: _animation(film, embedded=animated), lambda: _film(film)]
        draw += [lambda: _methods(film, said)] * (len(said) > 1)
    draw += [lambda spec=spec: _drawn(spec, scores) for spec in FIGURES if spec.applies(scores)]  # type: ignore[misc]
    return draw


def _drawn(spec: FigureSpec, scores: xr.Dataset) -> Picture:
    raster, vector = pictures(spec.draw(_literal_names(scores)))
    return Picture(spec.name, spec.title, spec.caption(scores), raster, spec.shape, vector=vector)


def _literal_names(scores: xr.Dataset) -> xr.Dataset:
    """The same scores, with names that a figure writes as they are."""
    names = [_literal(str(m)) for m in scores["method"].values]
    attrs = {k: _literal(v) if isinstance(v, str) else v for k, v in scores.attrs.items()}
    return scores.assign_coords(method=np.array(names, object)).assign_attrs(attrs)


def _literal_film(film: maps.Film) -> maps.Film:
    method, units, variable = (_literal(text) for text in (film.method, film.units, film.variable))
    return replace(film, method=method, units=units, variable=variable)


def _literal(text: str) -> str:
    """Text in which a dollar is a dollar: two of them would begin and end a formula, and a wrong one is an error."""
    return text.replace("$", r"\$")


def _animation(film: maps.Film, *, embedded: bool) -> Picture:
    what = "Truth, ensemble mean, members and spread" if len(film.members) > 1 else "Truth and forecast"
    caption = (
        f"{escape(maps.film_caption(film))}. Every member is a possible future: sharp, and free to differ from "
        "the truth. The mean of the members blurs where they disagree, and the spread lights up there."
    )
    title, data = f"{what}, lead after lead", maps.animation(_literal_film(film))
    return Picture("animation", title, caption, data, "wide", "webp", embedded=embedded)


def _film(film: maps.Film) -> Picture:
    caption = (
        f"{escape(maps.film_caption(film))}. Read each column from top to bottom: members should look as real as the "
        f"truth and differ from each other about as much as from the truth.{'' if film.video else OBSTACLE}"
    )
    shape = "wide strip" if len(film.leads) > 3 else "wide"
    drawing = maps.film_strip(_literal_film(film))
    raster, vector = pictures(drawing)
    return Picture("film", "Film strip", caption, raster, shape, vector=vector)


def _methods(film: maps.Film, said: Mapping[str, np.ndarray]) -> Picture:
    caption = (
        f"One member of each method beside the truth, in the case of median CRPS of {escape(film.method)}. What is "
        f"sharp need not be right, and what is smooth may be an average of futures.{'' if film.video else OBSTACLE}"
    )
    drawing = maps.methods_strip(_literal_film(film), {_literal(name): frames for name, frames in said.items()})
    raster, vector = pictures(drawing)
    return Picture("film-methods", "All methods", caption, raster, "wide strip", vector=vector)


def _write_all(files: Mapping[Path, Content]) -> None:
    """Write every file beside its place before any takes its place: a full disk leaves an older report as it was."""
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in files}
    try:
        for path, content in files.items():
            _write(temporary[path], content, path)
        for path in files:
            temporary[path].replace(path)
    finally:
        for name in temporary.values():
            name.unlink(missing_ok=True)


def _write(temporary: Path, content: Content, path: Path) -> None:
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content)
    except OSError as error:
        if error.errno is None:
            raise
        needed = "" if callable(content) else f" ({len(content)} bytes needed)"
        raise OSError(error.errno, f"{error.strerror}{needed}", str(path)) from error
