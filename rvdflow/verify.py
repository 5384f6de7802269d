"""Stores in, verdict out: what `rvdflow verify` does, as functions.

    forecast.zarr ... + flow.zarr  --evaluation.verify-->  scores.zarr, report/, and a table on the terminal

The scoring itself is in `evaluation`, which knows nothing of files; here stores are opened and checked (complete,
undamaged, made from this very truth), methods get their names, and results are written.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lbm import dataset as store
from lbm.console import Stop, progress, say
from lbm.errors import DataError, ResourceError, UsageError

if TYPE_CHECKING:
    import xarray as xr

    from evaluation.verification import Verification


def verify(
    forecasts: Sequence[Path | str],
    truth: Path | str,
    *,
    output: Path | str | None = None,
    report: Path | str | None = None,
    reference: str | None = None,
    variable: str | None = None,
    protocol: str | None = None,
    value_range: tuple[float, float] | None = None,
    thresholds: Sequence[float] | None = None,
    families: Sequence[str] | None = None,
    lpips_weights: Path | str | None = "auto",
    lpips_trunk: str = "alex",
    fvd_weights: Path | str | None = None,
    rename: Mapping[str, str] | None = None,
    scheduler: str = "threads",
    allow_incomplete: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> xr.Dataset:
    """Score `forecasts` against `truth`; returns the scores.

    Both may be stores of this package, or netCDF files and Zarr stores from elsewhere (`evaluation.foreign` says what
    is understood; `rename` maps names of theirs to ours). Methods are named by the attribute `method` of each store,
    else by the file (with the file name where two are equal); "NAME=PATH" names one. `reference` is the method that
    skill refers to: by default climatology if it is there, else persistence, else none. `variable` must be named
    only when the stores share several and vorticity is not among them. `output` is the scores store to write, run by
    run as they are scored, and `report` the folder for the page; None writes neither. `protocol`, `value_range`,
    `thresholds`, `families` as in `evaluation.verify`. `lpips_weights` is a trunk's weight file, "auto" for the one
    torchvision has downloaded, None for no LPIPS, `lpips_trunk` is alex or vgg; `fvd_weights` is that of the network of
    FVD. What is missing is said in
    the attributes `lpips` and `fvd` of the scores. `scheduler` is "threads", or the address of a dask cluster.
    With `allow_incomplete` an unfinished forecast is scored as far as it goes; only cases that every method has are
    ever scored.

    Raises `UsageError` (an output exists and `overwrite` is not set, unknown reference or variable), `DataError`
    (a store is missing, unfinished, damaged, or a forecast was made from another dataset), `ResourceError` (no
    cluster) and `evaluation.errors.EvaluationError` (no common cases, missing valid times, NaN in a forecast).
    """
    from evaluation import report as page
    from evaluation import viewer
    from evaluation.verification import Verification

    if not forecasts:
        raise UsageError("no forecast to verify: name at least one forecast store")
    _check_outputs(output, report, overwrite=overwrite)
    observed = _open(truth, rename, allow_incomplete=allow_incomplete)
    opened = open_forecasts(forecasts, rename=rename, allow_incomplete=allow_incomplete)
    _check_choices(opened, observed, reference, variable)
    _check_origin(opened, truth)
    found, notes = networks(lpips_weights, lpips_trunk, fvd_weights)
    planned = Verification(
        observed, opened, variable=variable, reference=reference, protocol=protocol, value_range=value_range,
        thresholds=thresholds, families=families, **found,
    )  # fmt: skip
    for name in set(found) - planned.recipe.families:
        notes[name] = f"not computed: the forecasts of {len(planned.leads)} leads are too short for its network"
    notes |= _strouhal(observed, len(planned.leads))
    sha256 = next((f.attrs["dataset_sha256"] for f in opened.values() if "dataset_sha256" in f.attrs), "")
    notes["dataset_sha256"] = sha256
    with (
        _client(scheduler) as client,
        progress(len(planned.cases), "verify", unit="cases", quiet=quiet) as bar,
        Stop() as stop,
    ):

        def on_case(done: int, of: int) -> None:
            bar.advance()
            if stop.requested:
                stop.exit()  # nothing is kept: a verification is short

        runs = planned.runs(client=client, on_case=on_case)
        scores = _written(planned, runs, notes, output) if output is not None else planned.joined(runs)
    scores.attrs.update(notes)
    if report is not None:
        films = viewer.films(scores, planned.truth, planned.forecasts)
        page.write_report(scores, report, films=films, overwrite=overwrite)
    return scores


def open_forecasts(
    paths: Sequence[Path | str], *, rename: Mapping[str, str] | None = None, allow_incomplete: bool = False
) -> dict[str, xr.Dataset]:
    """Open forecasts lazily, by the name of their method: {"rvd": ..., "persistence": ...}, as ordered."""
    given = [_named(p) for p in paths]
    files = [file for _, file in given]
    opened = [_open(f, rename, allow_incomplete=allow_incomplete) for f in files]
    for file, dataset in zip(files, opened, strict=True):
        if store.is_ours(file):
            missing = [d for d in ("trajectory", "init_time", "member", "lead_time") if d not in dataset.dims]
            if missing:
                raise DataError(
                    f"{file} is not a forecast (no dimension {missing[0]}): give a store of `rvdflow forecast`"
                )
    names = [n or str(d.attrs.get("method") or f.stem) for (n, f), d in zip(given, opened, strict=True)]
    twice = {n for n in names if names.count(n) > 1}
    names = [f"{n} ({f.stem})" if n in twice else n for n, f in zip(names, files, strict=True)]
    named: dict[str, xr.Dataset] = {}
    for name, dataset in zip(names, opened, strict=True):
        unique, number = name, 2
        while unique in named:
            unique, number = f"{name} {number}", number + 1
        named[unique] = dataset
    return named


def _named(given: Path | str) -> tuple[str, Path]:
    """A name and a file from NAME=FILE; no name where there is none, or where a file is called so."""
    name, equals, file = str(given).partition("=")
    return (name, Path(file)) if equals and not Path(given).exists() else ("", Path(given))


def _open(path: Path | str, rename: Mapping[str, str] | None, *, allow_incomplete: bool) -> xr.Dataset:
    """A store of ours, checked, or anything else that xarray reads."""
    from evaluation.foreign import open_any, renamed

    path = Path(path)
    if path.is_file() or (path.is_dir() and not store.is_ours(path)):
        return open_any(path, rename=rename)
    return renamed(store.open_dataset(path, allow_incomplete=allow_incomplete), rename or {}, str(path))


def networks(
    lpips_weights: Path | str | None, trunk: str, fvd_weights: Path | str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The networks that can be had, and what to say of each."""
    from evaluation.fvd import FvdNetwork
    from evaluation.lpips import FILES, Lpips
    from evaluation.weights import Unavailable

    if trunk not in FILES:
        raise UsageError(f"--lpips-trunk {trunk}: wanted {' or '.join(FILES)}")

    def file(given: Path | str) -> Path | None:
        return None if str(given) == "auto" else Path(given)

    found: dict[str, Any] = {}
    notes: dict[str, Any] = {"lpips": "not asked for", "fvd": "not asked for"}
    try:
        if lpips_weights is not None:
            found["lpips"] = Lpips.load(file(lpips_weights), trunk)  # type: ignore[arg-type]
    except Unavailable as reason:
        notes["lpips"] = str(reason)
    try:
        if fvd_weights is not None:
            found["fvd"] = FvdNetwork.load(file(fvd_weights))
    except Unavailable as reason:
        notes["fvd"] = str(reason)
    return found, notes | {name: network.description for name, network in found.items()}


RESOLVED = 0.1  # of the shedding frequency: what a forecast must tell apart for a Strouhal number of its own


def _strouhal(truth: xr.Dataset, leads: int) -> dict[str, Any]:
    """What forecasts of so many leads can say about the Strouhal number of a simulated flow, as a sentence."""
    try:
        flow = json.loads(truth.attrs["config"])
        per_frequency = flow["length"] / (flow["inflow_velocity"] * truth.attrs["frame_interval"])
        strouhal = float(truth.attrs["strouhal"])
    except (KeyError, TypeError, ValueError):
        return {}
    if not strouhal > 0:
        return {}
    step = per_frequency / leads
    found = f"The flow sheds at St {strouhal:.3f} ({strouhal / per_frequency:.3f} cycles per frame, from its lift). "
    if step > RESOLVED * strouhal:
        needed = int(np.ceil(per_frequency / (RESOLVED * strouhal)))
        return {
            "probe_strouhal": f"{found}Forecasts of {leads} frames tell frequencies {1 / leads:.3g} per frame apart, "
            f"which is {step:.2g} in St: no Strouhal number is given for them, which would take {needed} frames.",
        }
    return {
        "probe_strouhal": f"{found}Forecasts of {leads} frames resolve St to {step:.2g}.",
        "strouhal_factor": per_frequency,
    }


@contextmanager
def _client(scheduler: str) -> Iterator[Any]:
    """None for threads, else a client of the cluster at this address."""
    if scheduler == "threads":
        yield None
        return
    if "://" not in scheduler:
        raise UsageError(f"--scheduler {scheduler}: wanted threads or an address such as tcp://host:8786")
    from distributed import Client

    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise ResourceError(f"no dask scheduler answers at {scheduler}: {str(error).splitlines()[0]}") from None
    with client:
        yield client


def _written(
    planned: Verification, runs: Iterator[xr.Dataset], notes: dict[str, Any], output: Path | str
) -> xr.Dataset:
    """The scores, each run written as soon as it is scored; read back from the store.

    It takes its place (and that of an older one) only when it is whole.
    """
    output = Path(output)
    partial, old = (output.with_name(f".{output.name}.{state}") for state in ("scoring", "old"))
    try:
        with _create(partial, planned, notes) as writer:
            _write_runs(writer, runs)
            for name, values in planned.totals().data_vars.items():
                writer.write(str(name), values.values)
            writer.finish()
        if output.exists():
            output.rename(old)
        partial.rename(output)
    except BaseException:
        if old.exists() and not output.exists():
            old.rename(output)
        raise
    finally:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
    return store.open_dataset(output).load()


CHUNK_BYTES = 2**20  # of a statistic, of several runs together where one takes less


def _runs_together(run_bytes: int, runs: int) -> int:
    """Runs of a statistic in one chunk: a file for each would be thousands of files for thousands of short clips."""
    return max(1, min(runs, CHUNK_BYTES // max(1, run_bytes)))


def _write_runs(writer: store.Writer, runs: Iterator[xr.Dataset]) -> None:
    """Write the statistics of one run after the other, each by whole chunks."""
    waiting: dict[str, list[np.ndarray]] = {}
    axes: dict[str, int] = {}
    done: dict[str, int] = {}

    def flush(name: str) -> None:
        parts, first = waiting.pop(name), done.get(name, 0)
        stop = done[name] = first + len(parts)
        writer.write(name, np.concatenate(parts, axes[name]), trajectory=slice(first, stop))

    for run in runs:
        for key, values in run.data_vars.items():
            name = str(key)
            axes[name] = values.dims.index("trajectory")
            waiting.setdefault(name, []).append(values.values)
            if len(waiting[name]) == writer.array(name).chunks[axes[name]]:
                flush(name)
    for name in list(waiting):
        flush(name)


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
    if not store.is_ours(Path(truth)) or store.read_attributes(truth).get("complete") is not True:
        return  # no digest yet
    here = store.digest(truth)
    for name, forecast in opened.items():
        there = forecast.attrs.get("dataset_sha256")
        if there and there != here:
            raise DataError(
                f"the forecast of {name} was made from another dataset (SHA-256 {str(there)[:12]}..., "
                f"{truth} has {here[:12]}...): give that dataset as the truth, or forecast again"
            )


def _create(path: Path, planned: Verification, notes: dict[str, Any]) -> store.Writer:
    """The store of scores that are not there yet, with what is known beforehand."""
    known = planned.template
    sizes: dict[str, int] = dict(planned.sums.sizes)
    sizes |= {str(d): n for d, n in known.sizes.items()}

    def variable(dims: tuple[str, ...], dtype: Any, attrs: dict[str, Any], values: Any = None) -> store.Variable:
        apart = "trajectory" if "trajectory" in dims else "method"  # written run by run, or method by method
        whole = {d: max(1, sizes[d]) for d in dims} | {apart: 1}
        if apart == "trajectory":
            whole[apart] = _runs_together(np.dtype(dtype).itemsize * math.prod(whole[d] for d in dims), sizes[apart])
        chunks = tuple(whole[d] for d in dims)
        return store.Variable(dims, str(dtype), attrs, chunks=chunks, values=values)

    variables = {name: variable(*about) for name, about in planned.statistics.items()}
    for name, array in known.data_vars.items():
        variables[str(name)] = variable(tuple(map(str, array.dims)), array.dtype, array.attrs, array.values)
    coords = {
        str(name): (tuple(map(str, c.dims)), c.values.astype(str) if c.dtype.kind == "O" else c.values, c.attrs)
        for name, c in known.coords.items()
    }
    attrs = {**planned.attributes, **notes}
    return store.create(path, variables=variables, coords=coords, sizes=sizes, attrs=attrs, overwrite=True)


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
