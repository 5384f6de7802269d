"""What a study says in pictures: the verification of all its forecasts together, and a table as papers print them.

    FOLDER/report/index.html    film strips of all methods beside the truth, scores by lead, maps, and all else
    FOLDER/paper.md, .tex       methods as rows: what they score by a published protocol, and what they cost

Of cells that were trained several times the first training enters; `table.md` has them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbm import dataset as store
from lbm.console import say
from rvdflow.checkpoint import replace_file
from rvdflow.study import Workplace, forecast_store, only_cases
from rvdflow.study_jobs import Job, jobs, read_json, write_json
from rvdflow.study_text import NONE, count, grid, interval, number, tex

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Column:
    """One column: its heading, and a text for each method."""

    heading: str
    texts: list[str]


def report(place: Workplace) -> Path | None:
    """Verify all forecasts of a study that are done, write the page and the paper's table; returns the page.

    None where the study asks for none, or no forecast is there yet. What was made of the same forecasts is left as it
    is.
    """
    asked = place.study.report
    done = _done(place)
    if asked is None or not done:
        return None
    folder = place.folder.path
    page = folder / "report" / "index.html"
    made_of: dict[str, Any] = {
        "report": asked.model_dump(mode="json"),
        "forecasts": {job.cell.name: store.digest(forecast_store(place.folder, job)) for job in done},
    }
    if page.is_file() and read_json(folder / "report.json") == made_of:
        say(f"{page}: made of these forecasts already", quiet=place.quiet)
        return page
    scores = _verified(place, done, folder / "report")
    records = {job.cell.name: place.folder.record(job) or {} for job in done}
    columns = paper_columns(scores, records)
    names = [job.cell.name for job in done]
    replace_file(folder / "paper.md", markdown(place.study.title, names, columns, scores).encode())
    replace_file(folder / "paper.tex", latex(place.study.title, names, columns).encode())
    write_json(folder / "report.json", made_of)
    return page


def _done(place: Workplace) -> list[Job]:
    """The first job of each cell that is done, in the order of the study."""
    found: dict[str, Job] = {}
    for job in jobs(place.study):
        record = place.folder.record(job)
        if record is not None and record["status"] == "done":
            found.setdefault(job.cell.name, job)
    return [found[cell.name] for cell in place.study.cells if cell.name in found]


def _verified(place: Workplace, done: Sequence[Job], folder: Path) -> xr.Dataset:
    """Scores of all forecasts by the study's protocol; the page is written on the way."""
    from evaluation import report as page
    from evaluation import viewer
    from evaluation.verification import Verification
    from rvdflow.verify import networks

    asked = place.study.report
    assert asked is not None
    opened = {job.cell.name: only_cases(_opened(place, job), place.cases) for job in done}
    found, notes = networks("auto", "alex", asked.fvd_weights)
    planned = Verification(
        place.opened,
        opened,
        variable=place.study.protocol.variable,
        protocol=asked.protocol,
        families=asked.families,
        **found,
    )
    scores = planned.joined(planned.runs())
    scores.attrs.update(notes)
    films = viewer.films(scores, planned.truth, planned.forecasts)
    page.write_report(scores, folder, films=films, title=place.study.title, overwrite=True)
    return scores


def _opened(place: Workplace, job: Job) -> Any:
    return store.open_dataset(forecast_store(place.folder, job))


# ------------------------------------------------------------------ the table


def paper_columns(scores: xr.Dataset, records: dict[str, dict[str, Any]]) -> list[Column]:
    """What methods score over all leads, and what they cost, by column; methods in the order of `records`."""
    from evaluation import summary

    names = list(records)
    leads = [int(lead) for lead in scores["lead_time"].values]
    classical = "crps_classical" if scores.attrs.get("verification_protocol") else "crps"
    columns = []
    for name, heading in (("fvd", "FVD"), ("frechet_physics", "Fréchet")):
        if name in scores and bool(scores[name].notnull().any()):
            columns.append(Column(heading, [number(float(scores[name].sel({"method": n})), 3) for n in names]))
    for metric, heading, digits in (("lpips", "LPIPS", 3), (classical, "CRPS", 3), ("crps", "fair CRPS", 3)):
        if metric in scores and heading not in [c.heading for c in columns]:
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
