"""The page docs/benchmarks/lbm.md, made from the figures of `lbm_peers.py`: tables, and how far to trust them."""

from __future__ import annotations

import statistics

# (rows, columns, threads): least ratio to lbmpy's default pattern, in single and in double precision
GOALS = {
    (128, 128, 1): (1.0, 1.3),
    (256, 512, 1): (1.6, 1.6),
    (1024, 2048, 1): (2.2, 2.2),
    (128, 128, 2): (1.4, 1.4),
    (256, 512, 2): (1.4, 1.4),
    (1024, 2048, 2): (2.2, 2.2),
}
OVER_ROOFLINE, OVER_PYLBM = 1.2, 10.0  # at 1024 x 2048 on one thread; everywhere
DEFAULT, IN_PLACE = "lbmpy, two arrays", "lbmpy, in place"


def page(report: dict) -> str:
    """Markdown; every figure in it comes from the report."""
    parts = [_heading(report), _speed(report, 1), _speed(report, 2), _ratios(report), _goals(report), _check(report)]
    return "\n".join(parts)


def _heading(report: dict) -> str:
    about, codes = report["machine"], ", ".join(f"{n} {v}" for n, v in report["codes"].items()) or "none"
    missing = f" Not installed: {', '.join(report['not_installed'])}." if report["not_installed"] else ""
    bandwidth = [
        f"{n} thread{'s' if n != '1' else ''}: " + ", ".join(f"{k} {v:.1f}" for k, v in rates.items())
        for n, rates in report["bandwidth"]["threads"].items()
    ]
    other, swing = report["other_work"], [r["mlups"] / r["mlups_median"] - 1 for r in report["rows"]]
    return f"""# Speed against other codes

Million updates of a lattice cell per second (MLUPS) of one flow: a channel between walls, parabolic inflow, a cylinder
of an eighth of the height at Reynolds number 100, outlet; D2Q9, two relaxation times for the two viscosities. All
boundary work is included. Ours also interpolates the cylinder's wall, absorbs sound at its outlet and sums the force
on the cylinder at every tick. Made by `benchmarks/lbm_peers.py`; its first lines say how to repeat it.

- Machine: {about["processor"]}, {about["cores"]} cores, last cache {about["last_cache_mib"]} MiB, {about["system"]};
  {report["date"]}; {about["versions"]}.
- Compared with: {codes}.{missing} lbmpy runs its MRT with explicit vector kernels (AVX-512 where there is
  one), sizes compiled in; pylbm its Cython generator (double precision, one core); XLB is JAX, BGK, on all cores.
- How: every code runs for a fraction of a second, in turns, until each has had {report["seconds"]:g} s for each
  figure. The table shows the best turn and, in brackets, the median: other work can only slow a code down, so the
  best is closer to what the code can do, and the distance to the median shows how quiet the machine was.
- Noise: the best turn exceeds the median by {statistics.median(swing):.0%} for half of the figures, by
  {max(swing):.0%} at most. Other programs used {other["cores"]:.2f} cores on average meanwhile, the host withheld
  {other["stolen"]:.2f}. A code that waits for all its threads at every tick (OpenMP) suffers most from others.
- Memory bandwidth in the same run (GB/s, arrays of {report["bandwidth"]["array_mib"]} MiB, write-allocate counted):
  {"; ".join(bandwidth)}.
"""


def _cases(report: dict, threads: int) -> list[tuple[int, int, str]]:
    return list(dict.fromkeys((r["ny"], r["nx"], r["dtype"]) for r in report["rows"] if r["threads"] == threads))


def _find(report: dict, case: tuple, threads: int) -> dict[str, dict]:
    return {r["code"]: r for r in report["rows"] if (r["ny"], r["nx"], r["dtype"]) == case and r["threads"] == threads}


def _speed(report: dict, threads: int) -> str:
    """All codes of one number of threads, and the bounds that memory sets to a grid outside the cache."""
    codes = list(dict.fromkeys(r["code"] for r in report["rows"] if r["threads"] == threads))
    what = "one thread" if threads == 1 else f"{threads} threads"
    lines = [f"## MLUPS, {what}", "", f"| rows x columns | | {' | '.join(codes)} | two-array bound | fused bound |"]
    lines.append("|---|---|" + "--:|" * (len(codes) + 2))
    for ny, nx, dtype in _cases(report, threads):
        found = _find(report, (ny, nx, dtype), threads)
        cells = [f"{found[c]['mlups']:.0f} ({found[c]['mlups_median']:.0f})" if c in found else "" for c in codes]
        one = found[codes[0]]
        cells += [f"{one['two_array_bound']:.0f}", f"{one['fused_bound']:.0f}"]
        lines.append(f"| {ny} x {nx} | {dtype} | {' | '.join(cells)} |")
    if threads == 1:
        note = "The bounds are bandwidth over 27 words (two arrays) and 9 words (in place, two ticks in one sweep)."
        lines += ["", f"{note} A grid in the cache may exceed them."]
    else:
        lines += ["", f"*runs*, *processes*: {threads} independent runs; *bands* and the rest: one run on all threads."]
    return "\n".join([*lines, ""])


def _ratios(report: dict) -> str:
    lines = ["## Ratios to lbmpy, best (median)", ""]
    lines += ["| rows x columns | | threads | ours | / two arrays | / in place |", "|---|---|--:|---|--:|--:|"]
    for threads in (1, 2):
        for case in _cases(report, threads):
            found = _find(report, case, threads)
            for name in (c for c in found if c.startswith("ours")):
                ending = ", processes" if name == "ours, runs" else ""
                cells = [_ratio(found, name, other + ending) for other in (DEFAULT, IN_PLACE)]
                lines.append(f"| {case[0]} x {case[1]} | {case[2]} | {threads} | {name} | {' | '.join(cells)} |")
    lines += ["", "*ours, runs* is set against as many lbmpy processes, everything else against lbmpy with OpenMP.", ""]
    return "\n".join(lines)


def _ratio(found: dict[str, dict], mine: str, other: str) -> str:
    if other not in found:
        return ""
    best, median = (found[mine][k] / found[other][k] for k in ("mlups", "mlups_median"))
    return f"{best:.2f} ({median:.2f})"


def goals(report: dict) -> list[tuple[str, float, float]]:
    """(what, wanted, reached) of each goal whose codes and grids are in the report; ratios of the best turns.

    Where OpenMP stalled, which other programs make it do, the other code's processes are what counts.
    """
    found = []
    for threads in (1, 2):
        for ny, nx, dtype in _cases(report, threads):
            rows = _find(report, (ny, nx, dtype), threads)
            mine = max(r["mlups"] for c, r in rows.items() if c.startswith("ours"))
            where = f"{ny} x {nx} {dtype}, {threads} thread{'s' if threads > 1 else ''}"
            wanted = GOALS.get((ny, nx, threads))
            if wanted and DEFAULT in rows:
                least, other = wanted[dtype == "float64"], DEFAULT
                processes = f"{DEFAULT}, processes"
                if processes in rows and rows[DEFAULT]["mlups"] < rows[processes]["mlups"] / 2:
                    other = processes  # OpenMP stalled
                found.append((f"{where}: / {other}", least, mine / rows[other]["mlups"]))
            if "pylbm" in rows:
                found.append((f"{where}: / pylbm", OVER_PYLBM, mine / rows["pylbm"]["mlups"]))
            if (ny, nx, threads) == (1024, 2048, 1):
                found.append((f"{where}: / two-array bound", OVER_ROOFLINE, mine / rows["ours"]["two_array_bound"]))
    return found


def _goals(report: dict) -> str:
    lines = ["## Goals", "", "| | wanted | reached | |", "|---|--:|--:|---|"]
    for what, wanted, reached in goals(report):
        lines.append(f"| {what} | {wanted:.1f} | {reached:.2f} | {'yes' if reached >= wanted else '**no**'} |")
    return "\n".join([*lines, "", "With two threads the faster of bands and runs counts.", ""])


def _check(report: dict) -> str:
    lines = ["## The same flow", "", "On 128 x 128 cells in double precision, second half of the run:", ""]
    lines += ["| code | Strouhal number | mean velocity differs by | the same flow |", "|---|--:|--:|---|"]
    for name, result in report["check"].items():
        verdict = "yes" if result["same"] else "roughly"
        lines.append(f"| {name} | {result['strouhal']:.4f} | {result['mean_difference']:.1%} | {verdict} |")
    note = "The outlet lies six diameters behind the cylinder and walls lie where each code puts them, so the flows"
    return "\n".join([*lines, "", f"{note} agree,", "but not to the last digit.", ""])
