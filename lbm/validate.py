"""The solver against exact solutions and published cases: what `lbm validate` runs, and the table it prints.

    validate() -> list of results      the quick set, under two minutes on two cores; full=True: everything
    table(results) -> text             case, quantity, ours, reference and its source, relative error, pass

The cases live in `lbm.validation_exact`, `lbm.validation_cavity` and `lbm.validation_wakes`; they run side by side in
threads, since the kernels release the GIL. `lbm.validation_page` makes docs/validation.md and its figures from them.
"""

import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from lbm import console
from lbm import validation_wakes as wakes
from lbm.errors import UsageError
from lbm.validation_cavity import cavity
from lbm.validation_exact import couette, poiseuille, shear_waves, sound_waves, taylor_green
from lbm.validation_result import Case, Outcome, Result

CASES = (
    Case("poiseuille", poiseuille, 3),
    Case("couette", couette, 0.1),
    Case("taylor-green", taylor_green, 3),
    Case("shear-wave", shear_waves, 3),
    Case("sound-wave", sound_waves, 1),
    Case("cavity-100", partial(cavity, 100, 96, 0.08, 20), 2),
    Case("cavity-400", partial(cavity, 400, 128, 0.08, 45), 10),
    Case("cavity-1000", partial(cavity, 1000, 192, 0.08, 70), 40, full=True),
    Case("dfg-2d1-20", partial(wakes.dfg_steady, 20), 8),
    Case("dfg-2d1", partial(wakes.dfg_steady, 40), 60, full=True),
    Case("dfg-2d2", partial(wakes.dfg_unsteady, 60), 150, full=True),
    Case("onset", wakes.onset, 10),
    Case("steady-20", partial(wakes.steady_drag, 20), 50, full=True),
    Case("steady-40", partial(wakes.steady_drag, 40), 50, full=True),
    Case("cylinder-100", partial(wakes.street, 100), 30),
    Case("cylinder-150", partial(wakes.street, 150), 30),
    Case("spinning", wakes.spinning, 40, full=True),
    Case("naca", wakes.aerofoil, 60, full=True),
    Case("walls", wakes.wall_study, 100, full=True),
    *(Case(f"strouhal-{re}", partial(wakes.street, re, forces=False), 30, full=True) for re in (60, 80, 120, 170)),
)


def validate(
    full: bool = False,
    only: Sequence[str] = (),
    threads: int | None = None,
    page: Path | None = None,
    quiet: bool = False,
) -> list[Result]:
    """Run the quick set, all cases (`full`) or those named (`only`); results in the order of the list.

    threads: cases at the same time, one per core by default. page: a Markdown file whose tables and figures are made
    anew, which takes the full set. Raises UsageError for a name that no case has.
    """
    if page is not None and (only or not full):
        raise UsageError("the page shows every case: ask for the full set (--full) without --only")
    outcomes = run(selected(full, only), threads, quiet)
    if page is not None:
        from lbm.validation_page import write

        write(page, outcomes)
    return [result for outcome, _ in outcomes.values() for result in outcome.results]


def selected(full: bool, only: Sequence[str]) -> list[Case]:
    """The cases of a request, in the order of the list."""
    names = {case.name for case in CASES}
    if unknown := sorted(set(only) - names):
        raise UsageError(f"unknown validation case {unknown[0]!r}: choose from {', '.join(sorted(names))}")
    return [case for case in CASES if (case.name in only if only else full or not case.full)]


def run(cases: Iterable[Case], threads: int | None = None, quiet: bool = False) -> dict[str, tuple[Outcome, float]]:
    """Outcome and seconds of each case by its name, the longest started first."""
    cases = list(cases)
    done: dict[str, tuple[Outcome, float]] = {}
    with (
        console.Stop("stopping after the cases that are running (once more to quit at once)") as stop,
        console.progress(len(cases), "validation", unit="cases", quiet=quiet) as bar,
        ThreadPoolExecutor(max_workers=threads or os.cpu_count()) as pool,
    ):
        waiting: dict[Future[tuple[Outcome, float]], str] = {}
        for case in sorted(cases, key=lambda case: -case.seconds):
            waiting[pool.submit(_timed, case)] = case.name
        try:
            for future in as_completed(waiting):
                done[waiting[future]] = future.result()
                bar.advance(note=waiting[future])
                if stop.requested:
                    break
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        if stop.requested:
            stop.exit()
    return {case.name: done[case.name] for case in cases}


def _timed(case: Case) -> tuple[Outcome, float]:
    began = time.perf_counter()
    return case.run(), time.perf_counter() - began


def table(results: Sequence[Result]) -> str:
    """The results as text in columns, one line each, and a last line that counts them."""
    rows = [("case", "quantity", "ours", "reference", "rel. error", "allowed", "", "source")]
    rows += [(*cells(r), "ok" if r.passed else "FAILED", r.source) for r in results]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    failed = sum(not r.passed for r in results)
    return "\n".join([*lines, f"{len(results) - failed} of {len(results)} passed"])


def cells(r: Result) -> tuple[str, str, str, str, str, str]:
    """Case, quantity, ours, reference, relative error and what is allowed, as text."""
    exact = r.reference == 0
    error = f"{r.relative_error:.1e}" if exact else f"{100 * r.relative_error:+.2f} %"
    if r.interval is not None:
        allowed = f"{r.interval[0]:g} to {r.interval[1]:g}"
    else:
        tolerance = r.tolerance or 0.0
        allowed = f"± {tolerance:.2g}" if exact else f"± {100 * tolerance:.2g} %"
    return r.case, r.quantity, f"{r.ours:.4g}" if exact else f"{r.ours:.5g}", f"{r.reference:.5g}", error, allowed
