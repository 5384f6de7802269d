"""Stores in, verdict out: what `rvdflow verify` does, as functions.

    forecast.zarr ... + flow.zarr  --evaluation.verify-->  scores.zarr, report/, and a table on the terminal

The scoring itself is in `evaluation`, which knows nothing of files; here stores are opened and checked (complete,
undamaged, made from this very truth), methods get their names, and results are written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbm import dataset as store
from lbm.console import progress, say
from lbm.errors import DataError, UsageError

if TYPE_CHECKING:
    import xarray as xr


def verify(
    forecasts: Sequence[Path | str],
    truth: Path | str,
    *,
    output: Path | str | None = None,
    report: Path | str | None = None,
    reference: str | None = None,
    variable: str | None = None,
    allow_incomplete: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> xr.Dataset:
    """Score `forecasts` (stores written by `rvdflow forecast`) against the dataset `truth`; returns the scores.

    Methods are named by the attribute `method` of each store (with the file name where two are equal). `reference`
    is the method that skill refers to: by default climatology if it is there, else persistence, else none.
    `variable` must be named only when the stores share several and vorticity is not among them. `output` is the
    scores store to write and `report` the folder for the page; None writes neither. With `allow_incomplete` an
    unfinished forecast is scored as far as it goes; only cases that every method has are ever scored.

    Raises `UsageError` (an output exists and `overwrite` is not set, unknown reference or variable), `DataError`
    (a store is missing, unfinished, damaged, or a forecast was made from another dataset) and
    `evaluation.errors.EvaluationError` (no common cases, missing valid times, NaN in a forecast).
    """
    from evaluation import report as page
    from evaluation.verification import common_cases
    from evaluation.verification import verify as score

    if not forecasts:
        raise UsageError("no forecast to verify: name at least one forecast store")
    _check_outputs(output, report, overwrite=overwrite)
    observed = store.open_dataset(truth, allow_incomplete=allow_incomplete)
    opened = open_forecasts(forecasts, allow_incomplete=allow_incomplete)
    _check_choices(opened, observed, reference, variable)
    _check_origin(opened, truth)
    total = len(common_cases(opened)[0])
    with progress(total, "verify", unit="cases", quiet=quiet) as bar:
        scores = score(observed, opened, variable=variable, reference=reference, on_case=lambda done, of: bar.advance())
    scores.attrs["dataset_sha256"] = next(
        (f.attrs["dataset_sha256"] for f in opened.values() if "dataset_sha256" in f.attrs), ""
    )
    if output is not None:
        write_scores(scores, output, overwrite=overwrite)
    if report is not None:
        film = page.film_of(scores, observed, opened)
        page.write_report(scores, report, film=film, overwrite=overwrite)
    return scores


def open_forecasts(paths: Sequence[Path | str], *, allow_incomplete: bool = False) -> dict[str, xr.Dataset]:
    """Open forecast stores lazily, by the name of their method: {"rvd": ..., "persistence": ...}, as ordered."""
    files = [Path(p) for p in paths]
    opened = [store.open_dataset(f, allow_incomplete=allow_incomplete) for f in files]
    for file, dataset in zip(files, opened, strict=True):
        missing = [d for d in ("trajectory", "init_time", "member", "lead_time") if d not in dataset.dims]
        if missing:
            raise DataError(f"{file} is not a forecast (no dimension {missing[0]}): give a store of `rvdflow forecast`")
    names = [str(d.attrs.get("method") or f.stem) for f, d in zip(files, opened, strict=True)]
    twice = {n for n in names if names.count(n) > 1}
    names = [f"{n} ({f.stem})" if n in twice else n for n, f in zip(names, files, strict=True)]
    named: dict[str, xr.Dataset] = {}
    for name, dataset in zip(names, opened, strict=True):
        unique, number = name, 2
        while unique in named:
            unique, number = f"{name} {number}", number + 1
        named[unique] = dataset
    return named


def _check_outputs(output: Path | str | None, report: Path | str | None, *, overwrite: bool) -> None:
    from evaluation.report import check_folder

    if output is not None:
        store.check_output(output, overwrite=overwrite)
    if report is not None:
        try:
            check_folder(Path(report), overwrite=overwrite)
        except FileExistsError as error:
            raise UsageError(str(error)) from error


def _check_choices(
    opened: dict[str, xr.Dataset], truth: xr.Dataset, reference: str | None, variable: str | None
) -> None:
    if reference is not None and reference not in opened:
        raise UsageError(
            f"reference {reference!r} is not among the forecasts ({', '.join(opened)}): "
            f"add a forecast made with --method {reference}, or name another --reference"
        )
    fields = [str(name) for name, v in truth.data_vars.items() if {"time", "y", "x"} <= set(v.dims)]
    if variable is not None and variable not in fields:
        raise UsageError(f"variable {variable!r} is not in the truth; it has: {', '.join(fields)}")


def _check_origin(opened: dict[str, xr.Dataset], truth: Path | str) -> None:
    if store.read_attributes(truth).get("complete") is not True:
        return  # no digest yet
    here = store.digest(truth)
    for name, forecast in opened.items():
        there = forecast.attrs.get("dataset_sha256")
        if there and there != here:
            raise DataError(
                f"the forecast of {name} was made from another dataset (SHA-256 {str(there)[:12]}..., "
                f"{truth} has {here[:12]}...): give that dataset as the truth, or forecast again"
            )


def write_scores(scores: xr.Dataset, path: Path | str, *, overwrite: bool = False) -> None:
    """Write scores as a store with checksums, manifest, and `complete` last. Errors as `lbm.dataset.create`."""

    def chunks(name: str) -> tuple[int, ...]:
        array = scores[name]
        return tuple(array.sizes[d] if d in ("lead_time", "rank", "y", "x", "init_time") else 1 for d in array.dims)

    variables = {
        str(name): store.Variable(
            tuple(map(str, v.dims)), str(v.dtype), v.attrs, chunks=chunks(str(name)), values=v.values
        )
        for name, v in scores.data_vars.items()
    }
    coords = {
        str(name): (tuple(map(str, c.dims)), c.values.astype(str) if c.dtype.kind == "O" else c.values, c.attrs)
        for name, c in scores.coords.items()
    }
    sizes = {str(d): n for d, n in scores.sizes.items()}
    with store.create(
        path, variables=variables, coords=coords, sizes=sizes, attrs=scores.attrs, overwrite=overwrite
    ) as writer:
        writer.finish()


def print_skill_table(scores: xr.Dataset, *, quiet: bool = False) -> None:
    """The skill table and what it says, on standard output."""
    from evaluation import tables, words

    say(tables.skill_table_text(scores), quiet=quiet)
    for sentence in words.summary_sentences(scores):
        say(f"- {sentence}", quiet=quiet)


def summary_json(scores: xr.Dataset) -> dict[str, Any]:
    """The numbers of the skill table as plain data, for `--json`; null where something does not apply.

    Curves are lists over `lead_time`; `periods` holds leads averaged before dividing; errors are in `units`,
    `truth_deviation` too.
    """
    from evaluation import summary

    def numbers(name: str, method: str, **options: Any) -> Any:
        found = summary.value(scores, name, **options).sel({"method": method}).values
        return [None if x != x else float(x) for x in found.ravel()]

    result: dict[str, Any] = {k: scores.attrs[k] for k in ("variable", "units", "cases", "runs", "reference")}
    result["truth_deviation"] = summary.truth_deviation(scores)
    result["lead_time"] = [int(lead) for lead in scores["lead_time"].values]
    result["protocol"] = json.loads(scores.attrs["protocol"])
    result["methods"] = {}
    for method in map(str, scores["method"].values):
        entry: dict[str, Any] = {"members": int(scores["members"].sel({"method": method}))}
        against = {f"crpss_{r}": {"name": "crpss", "reference": r} for r in summary.references(scores) if r != method}
        wanted = {n: {"name": n} for n in ("crps", "rmse", "spread", "spread_skill_ratio", "bias")} | against
        for key, options in wanted.items():
            entry[key] = numbers(method=method, **options)
        entry["periods"] = {
            label: {key: numbers(method=method, leads=leads, **options)[0] for key, options in wanted.items()}
            for label, leads in summary.periods(scores).items()
        }
        result["methods"][method] = entry
    return result
