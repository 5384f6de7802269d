"""What a study says in pictures: the verification of all its forecasts together, and a table as papers print them.

    FOLDER/report/index.html    film strips of all methods beside the truth, scores by lead, maps, and all else
    FOLDER/paper.md, .tex       methods as rows: what they score by a published protocol, and what they cost

Of cells that were trained several times the first training enters; `table.md` has them all. Both are made once every
cell is done, of a study divided over machines where its parts are joined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbm import dataset as store
from lbm.console import Stop, progress, say
from rvdflow.checkpoint import replace_file
from rvdflow.study import Workplace, forecast_store, only_cases
from rvdflow.study_jobs import Folder, find_record, jobs, read_json, write_json
from rvdflow.study_text import NONE, count, grid, interval, number, tex

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Done:
    """The forecast of a cell, and the record of how it was made."""

    forecast: Path
    record: dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column: its heading, and a text for each method."""

    heading: str
    texts: list[str]


def report(place: Workplace, folders: Sequence[Folder]) -> Path | None:
    """Verify all forecasts of a study, in whichever of `folders` they are, and write the page and the paper's table.

    Returns the page; None where the study asks for none, or where jobs are still to be done. Cells that failed are left
    out. What was made of the same forecasts and records is left as it is.
    """
    asked = place.study.report
    found = [(job, find_record(job, folders)) for job in jobs(place.study)]
    if asked is None:
        return None
    if any(entry is None for _, entry in found):
        say("the report is made when all cells are done", quiet=place.quiet)
        return None
    first: dict[str, Done] = {}
    for job, entry in found:
        if entry is not None and entry[1]["status"] == "done":
            first.setdefault(job.cell.name, Done(forecast_store(entry[0], job), entry[1]))
    done = {cell.name: first[cell.name] for cell in place.study.cells if cell.name in first}
    if not done:
        return None
    folder = place.folder.path
    files = [folder / "report" / "index.html", folder / "paper.md", folder / "paper.tex"]
    made_of: dict[str, Any] = {
        "title": place.study.title,
        "report": asked.model_dump(mode="json"),
        "cells": [[name, store.digest(one.forecast), one.record] for name, one in done.items()],
    }
    if all(file.is_file() for file in files) and read_json(folder / "report.json") == made_of:
        say(f"{files[0]}: made of these forecasts already", quiet=place.quiet)
        return files[0]
    scores = _verified(place, done, folder / "report")
    columns = paper_columns(scores, {name: one.record for name, one in done.items()})
    replace_file(files[1], markdown(place.study.title, list(done), columns, scores).encode())
    replace_file(files[2], latex(place.study.title, list(done), columns).encode())
    write_json(folder / "report.json", made_of)
    return files[0]


def _verified(place: Workplace, done: Mapping[str, Done], folder: Path) -> xr.Dataset:
    """Scores of all forecasts by the study's protocol; the page is written on the way."""
    from evaluation import report as page
    from evaluation import viewer
    from evaluation.verification import Verification
    from rvdflow.verify import networks

    asked = place.study.report
    assert asked is not None
    opened = {name: only_cases(store.open_dataset(one.forecast), place.cases) for name, one in done.items()}
    found, notes = networks("auto", "alex", asked.fvd_weights)
    planned = Verification(
        place.opened, opened, variable=place.study.protocol.variable, protocol=asked.protocol,
        families=asked.families, **found,
    )  # fmt: skip
    with progress(len(planned.cases), "report", unit="cases", quiet=place.quiet) as bar, Stop() as stop:

        def on_case(done: int, of: int) -> None:
            bar.advance()
            if stop.requested:
                stop.exit()

        scores = planned.joined(planned.runs(threads=place.threads, on_case=on_case))
    scores.attrs.update(notes)
    films = viewer.films(scores, planned.truth, planned.forecasts)
    page.write_report(scores, folder, films=films, title=place.study.title, overwrite=True)
    return scores


# ------------------------------------------------------------------ the table


def paper_columns(scores: xr.Dataset, records: dict[str, dict[str, Any]]) -> list[Column]:
    """What methods score over all leads, and what they cost, by column; methods in the order of `records`."""
    from evaluation import summary

    names = list(records)
    leads = [int(lead) for lead in scores["lead_time"].values]
    columns = []
    for name, heading in (("fvd", "FVD"), ("frechet_physics", "Fréchet")):
        if name in scores and bool(scores[name].notnull().any()):
            columns.append(Column(heading, [number(float(scores[name].sel({"method": n})), 3) for n in names]))
    for metric, heading, digits in (("lpips", "LPIPS", 3), ("crps_classical", "CRPS", 3), ("crps", "fair CRPS", 3)):
        if metric in scores:
            found = summary.metric(scores, metric, leads=leads)
            columns.append(Column(f"{heading} (95 %)", [_bounded(found, n, digits) for n in names]))
    ratio = summary.value(scores, "spread_skill_ratio", leads=leads)
    columns.append(Column("spread/skill", [number(float(ratio.sel({"method": n})), 2) for n in names]))
    columns.append(Column("members", [str(int(scores["members"].sel({"method": n}))) for n in names]))
    return columns + _costs(records)


def _bounded(found: xr.Dataset, name: str, digits: int) -> str:
    value, low, high = (float(found[k].sel({"method": name})) for k in ("value", "low", "high"))
    return interval((value, low, high), digits)


def _costs(records: dict[str, dict[str, Any]]) -> list[Column]:
    def one(part: str, key: str, text: Any) -> list[str]:
        values = [(record.get(part) or {}).get(key) for record in records.values()]
        return [NONE if value is None else text(value) for value in values]

    return [
        Column("parameters", one("forecast", "parameters", count)),
        Column("train min", one("training", "minutes", lambda v: number(v, 1))),
        Column("steps", one("training", "steps", lambda v: f"{v:,}")),
        Column("calls", one("forecast", "calls", lambda v: f"{v:.3g}")),
        Column("ms/frame", one("forecast", "seconds", lambda v: f"{1000 * v:.3g}")),
    ]


def markdown(title: str, names: Sequence[str], columns: Sequence[Column], scores: xr.Dataset) -> str:
    """The table as Markdown, with what its numbers are."""
    rows = [[name, *(column.texts[i] for column in columns)] for i, name in enumerate(names)]
    units = "grey levels" if scores.attrs.get("verification_protocol") else str(scores.attrs["units"])
    return "\n".join(
        [
            f"# {title}",
            "",
            *grid(["cell", *(column.heading for column in columns)], rows),
            "",
            f"Means over leads {int(scores['lead_time'][0])} to {int(scores['lead_time'][-1])} of "
            f"{scores.attrs['cases']} cases from {scores.attrs['runs']} runs; CRPS in {units}, of a single member its "
            "absolute error. calls: of the network per frame and member; ms: per frame and member, on the machine that "
            "drew it.",
            "",
        ]
    )


def latex(title: str, names: Sequence[str], columns: Sequence[Column]) -> str:
    """The table as LaTeX (package booktabs)."""
    rows = [[name, *(column.texts[i] for column in columns)] for i, name in enumerate(names)]
    return "\n".join(
        [
            f"% {title}",
            f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
            "\\toprule",
            " & ".join(["method", *(tex(column.heading) for column in columns)]) + " \\\\",
            "\\midrule",
            *(" & ".join(map(tex, row)) + " \\\\" for row in rows),
            "\\bottomrule",
            "\\end{tabular}",
            "",
        ]
    )
