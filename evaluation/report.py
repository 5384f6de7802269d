"""The verification report: one page that needs nothing but itself, and its figures and numbers beside it.

    report/index.html     figures embedded, no script, no request to anywhere, light and dark
    report/figures/*      the same figures as files
    report/scores.csv     every number of the page (and more), one per row

Everything that comes from a file (names of methods, units, settings) is escaped before it enters the page.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import xarray as xr

from evaluation import maps, plots, summary, tables, words
from evaluation.style import png


@dataclass(frozen=True)
class Picture:
    """A figure of the page. `caption` is HTML; `shape` is "", "wide" or "wide strip" (scrolls on a phone)."""

    name: str
    title: str
    caption: str
    data: bytes
    shape: str = ""
    kind: str = "png"


def write_report(
    scores: xr.Dataset,
    folder: str | Path,
    *,
    film: maps.Film | None = None,
    title: str | None = None,
    overwrite: bool = False,
    on_figure: Callable[[str], None] | None = None,
) -> Path:
    """Write the report of `scores` into `folder` and return the path of its `index.html`.

    `film` (see `film_of`) adds the film strip and the animation. `on_figure(name)` is called after each figure.
    Only the report's own files are written, all or none of them and the page last; other files in `folder` stay.
    Raises `FileExistsError` if `folder` is a file, or holds a report and `overwrite` is not set.
    """
    folder = Path(folder)
    check_folder(folder, overwrite=overwrite)
    pictures = []
    for draw in _drawings(scores, film):
        pictures.append(draw())
        if on_figure is not None:
            on_figure(pictures[-1].name)
    files = {folder / "figures" / f"{p.name}.{p.kind}": p.data for p in pictures}
    files[folder / "scores.csv"] = summary.csv_text(scores).encode()
    files[folder / "index.html"] = render(scores, pictures, title=title).encode()
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
    method = summary.candidates(scores)[0]
    run, init = maps.typical_case(scores, method)
    variable = scores.attrs["variable"]
    leads = scores["lead_time"].values
    forecast = forecasts[method][variable].sel(trajectory=run, init_time=init, lead_time=leads)
    observed = truth[variable].sel(trajectory=run).sel(time=init + leads)
    observed = observed.rename(time="lead_time").transpose("lead_time", "y", "x").values
    walls = xr.zeros_like(truth[variable].isel(time=0, drop=True), bool)
    solid = truth.get("solid", walls).sel(trajectory=run).transpose("y", "x").values.astype(bool)
    members = forecast.transpose("member", "lead_time", "y", "x").values
    units, name = scores.attrs["units"], scores.attrs["variable_long_name"]
    return maps.Film(method, run, init, leads, observed, members, solid, units, name)


def render(scores: xr.Dataset, pictures: list[Picture], *, title: str | None = None) -> str:
    """The page as one string of HTML."""
    a = scores.attrs
    names = [str(m) for m in scores["method"].values]
    sample = f"{tables.count(a['cases'], 'case')} from {tables.count(a['runs'], 'run')}"
    subtitle = f"{', '.join(names)}: {sample}, lead times {words.lead_range(scores)} ({a['lead_unit']})"
    early = [p for p in pictures if p.name in ("animation", "film")]
    late = [p for p in pictures if p not in early]
    body = [_figures("What the forecast looks like", early)] if early else []
    body += [
        f"<h2>Scores by lead time</h2>{tables.skill_table_html(scores)}",
        _figures("How good, how sure, where", late),
        f"<h2>Protocol</h2>{words.protocol_html(scores)}",
    ]
    text = Template(resources.files("evaluation").joinpath("page.html").read_text(encoding="utf-8"))
    return text.substitute(
        title=escape(title or f"Forecast verification: {a['variable_long_name']}"),
        subtitle=escape(subtitle),
        summary=words.summary_html(scores),
        body="\n".join(body),
    )


def _figures(heading: str, pictures: list[Picture]) -> str:
    return f'<h2>{heading}</h2><div class="figures">{"".join(_figure(p) for p in pictures)}</div>'


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.data).decode()
    wide, strip = ("wide" in picture.shape), ("strip" in picture.shape)
    return (
        f'<figure{" class=wide" if wide else ""}><div class="picture{" strip" if strip else ""}" tabindex="0">'
        f'<img alt="{escape(picture.title, quote=True)}" src="data:image/{picture.kind};base64,{data}"></div>'
        f"<figcaption><b>{escape(picture.title)}.</b> {picture.caption}</figcaption></figure>"
    )


def _drawings(scores: xr.Dataset, film: maps.Film | None) -> list[Callable[[], Picture]]:
    """What is to be drawn, in the order of the page."""
    references = summary.references(scores)
    judged = set(summary.candidates(scores))
    compared = any(r not in judged for r in references) or (bool(references) and len(judged) > 1)
    draw: list[Callable[[], Picture]] = []
    if film is not None:
        draw += [lambda: _animation(film), lambda: _film(film)]
    draw.append(lambda: _curves(scores))
    if compared:
        draw.append(lambda: _skill(scores, references))
    if summary.ensembles(scores):
        draw += [lambda: _spread(scores), lambda: _ranks(scores)]
    draw.append(lambda: _crps_maps(scores))
    if compared:
        draw.append(lambda: _skill_maps(scores, references))
    return draw


def _animation(film: maps.Film) -> Picture:
    what = "Truth, ensemble mean, members and spread" if len(film.members) > 1 else "Truth and forecast"
    caption = (
        f"{escape(maps.film_caption(film))}. Every member is a possible future: sharp, and free to differ from "
        "the truth. The mean of the members blurs where they disagree, and the spread lights up there."
    )
    return Picture("animation", f"{what}, lead after lead", caption, maps.animation(film), "wide", "webp")


def _film(film: maps.Film) -> Picture:
    caption = (
        f"{escape(maps.film_caption(film))}. Read each column from top to bottom: members should look as real as the "
        "truth and differ from each other about as much as from the truth. The obstacle is grey."
    )
    shape = "wide strip" if len(film.leads) > 3 else "wide"
    return Picture("film", "Film strip", caption, png(maps.film_strip(film)), shape)


def _curves(scores: xr.Dataset) -> Picture:
    caption = (
        "The CRPS measures the distance between the forecast distribution and what happened; for a forecast with one "
        "member it is the absolute error. " + words.interval_words(scores)
    )
    return Picture("crps", "CRPS by lead time", caption, png(plots.crps_by_lead(scores)))


def _skill(scores: xr.Dataset, references: list[str]) -> Picture:
    caption = (
        "The share of the reference's CRPS that is gone: 1 is a perfect forecast, below 0 the reference is better."
    )
    return Picture("skill", "CRPSS against the references", caption, png(plots.skill_by_lead(scores, references)))


def _spread(scores: xr.Dataset) -> Picture:
    caption = (
        "In a reliable ensemble the spread of the members equals the error of their mean, so the ratio is 1 "
        "(green: within 10 %). Spread includes the factor √((M+1)/M) for M members."
    )
    single = [str(m) for m in scores["method"].values if m not in summary.ensembles(scores)]
    if single:
        caption += f" Not applicable to {escape(', '.join(single))}: one member has no spread."
    return Picture("spread", "Spread against skill", caption, png(plots.spread_and_skill(scores)), "wide strip")


def _ranks(scores: xr.Dataset) -> Picture:
    caption = (
        "How often the truth falls between which members. A reliable ensemble gives a flat histogram; a U means "
        "too little spread, a dome too much, a slope a bias. Grey: where 95 % of the bars would lie if the truth "
        "were one more member (found by letting each member play the truth, so that neighbouring cells count as "
        "alike as they are)."
    )
    shape = "wide strip" if scores.sizes["lead_time"] > 2 else "wide"
    return Picture("ranks", "Rank histograms", caption, png(plots.rank_histograms(scores)), shape)


def _crps_maps(scores: xr.Dataset) -> Picture:
    caption = (
        "Mean over all cases and lead times, one colour range for all methods. The obstacle is left out of all scores."
    )
    return Picture("crps-map", "Where the error is", caption, png(maps.crps_maps(scores)), "wide")


def _skill_maps(scores: xr.Dataset, references: list[str]) -> Picture:
    caption = "Purple: better than the reference, orange: worse. "
    if scores.sizes["block"] >= summary.MINIMUM_RUNS:
        caption += (
            "Without dots the sign is significant (95 % interval of a paired bootstrap over runs excludes zero); "
            "with dots it is not."
        )
    else:
        caption += "Fewer than three runs: significance cannot be said."
    return Picture("skill-map", "Where the skill is", caption, png(maps.skill_maps(scores, references)), "wide")


def _write_all(files: Mapping[Path, bytes]) -> None:
    """Write every file beside its place before any takes its place: a full disk leaves an older report as it was."""
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in files}
    try:
        for path, data in files.items():
            _write(temporary[path], data, path)
        for path in files:
            temporary[path].replace(path)
    finally:
        for name in temporary.values():
            name.unlink(missing_ok=True)


def _write(temporary: Path, data: bytes, path: Path) -> None:
    try:
        temporary.write_bytes(data)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, f"{error.strerror} ({len(data)} bytes needed)", str(path)) from error
