"""NumPy arrays in, NumPy arrays out: lays out memory and brings threads for `evaluation.kernels`.

Arrays of one call: forecast (..., member, ...) and truth, the same shape without the member axis. The kernel wants
(outer, member, inner), contiguous. Any permutation of a contiguous array is brought to that form by views (members
in the middle stay in the middle), and the result is handed back as a view in the caller's order. Only an array with
gaps, such as a window cut out of a larger one, is copied.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import EvaluationError, MissingValueError

if TYPE_CHECKING:
    from . import kernels

NAMES = ("crps", "crps_fair", "variance", "bias", "squared_error", "absolute_error", "rank", "ties", "present")
"""crps and crps_fair: both estimators; variance: unbiased, of the members; bias, squared_error, absolute_error: of the
ensemble mean (bias = mean - truth); rank: members below the truth (-1 at a NaN), ties: members equal to it,
present: members that are not NaN. rank, ties and present are int32, the others float64."""

THRESHOLD_NAMES = ("brier", "brier_fair", "exceeding")
"""Of events "beyond a threshold", with a first axis for the thresholds: both estimators of the Brier score (float64)
and the number of members beyond (int32; -1 at a NaN)."""

INTEGER_NAMES = ("rank", "ties", "present", "exceeding")
POLICIES = ("propagate", "omit", "raise")
_POINTS_PER_TASK = 1 << 16
_COLUMNS = 1 << 11  # points of a map that one thread adds up over all others: none is shared between threads
_SMALL = 1 << 18


def threads_available() -> int:
    """Cores this process may use, or fewer if NUMBA_NUM_THREADS says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("NUMBA_NUM_THREADS", "")
    return max(1, min(cores, int(limit))) if limit.isdigit() else cores


def ensemble_scores(
    forecast: np.ndarray,
    truth: np.ndarray,
    *,
    axis: int,
    names: Sequence[str],
    nan_policy: str = "propagate",
    threads: int | None = None,
    thresholds: Sequence[float] = (),
    absolute: bool = True,
) -> tuple[np.ndarray, ...]:
    """The statistics in `names` (see `NAMES`) at every point, each with the shape of truth.

    Those of `THRESHOLD_NAMES` have a further first axis: the event is x > threshold, or |x| > threshold if `absolute`.

    `threads=1` runs in the calling thread (inside a dask worker); any number of Python threads may call at once.
    uint8 is scored without conversion, in exact integer sums; other integers and bool are converted to float64.
    Raises MissingValueError for a NaN under nan_policy="raise".
    """
    job = _prepare(forecast, truth, axis, nan_policy, threads, thresholds, absolute)
    found = _score_points(job, names)
    back = [job.others.index(k) for k in range(len(job.others))]

    def restored(name: str, array: np.ndarray) -> np.ndarray:
        if name in THRESHOLD_NAMES:
            return array.reshape(-1, *job.shape).transpose(0, *(k + 1 for k in back))
        return array.reshape(job.shape).transpose(back)

    return tuple(restored(name, array) for name, array in zip(names, found, strict=True))


@dataclass
class EnsembleSums:
    """Sums of statistics over groups of points; those of two parts of the data add up (`+`).

    `totals` are sums of weight times statistic, `norms` the weights that entered: the mean is their ratio. `missing`
    counts points of positive weight with a NaN. `histogram` (..., rank) and `events` (2, threshold, ..., k) weigh
    points with all of their members: by rank of the truth; by the number of members beyond a threshold, first all of
    them, then those with the truth beyond it.
    """

    totals: dict[str, np.ndarray]
    norms: dict[str, np.ndarray]
    missing: np.ndarray
    histogram: np.ndarray | None = None
    events: np.ndarray | None = None

    def mean(self, name: str) -> np.ndarray:
        norm = self.norms[name]
        return np.divide(self.totals[name], norm, out=np.full(norm.shape, np.nan), where=norm > 0)


def ensemble_sums(
    forecast: np.ndarray,
    truth: np.ndarray,
    *,
    axis: int,
    over: Sequence[int],
    names: Sequence[str] = (),
    weights: np.ndarray | None = None,
    nan_policy: str = "propagate",
    threads: int | None = None,
    ranks: bool = False,
    thresholds: Sequence[float] = (),
    absolute: bool = True,
) -> EnsembleSums:
    """Sums over the axes `over` of truth, of the statistics in `names` (float ones), in the pass that computes them.

    `weights` has as many axes as truth, of its length or of length one; points of weight zero never enter. With
    `ranks` and `thresholds` ranks and events are counted too. Arrays of the result have the axes kept, in truth's order
    (statistics of `THRESHOLD_NAMES` behind the one of thresholds). Nothing of the size of truth is allocated, and the
    result does not depend on the number of threads.
    """
    job = _prepare(forecast, truth, axis, nan_policy, threads, thresholds, absolute)
    summed = {k % truth.ndim for k in over}
    kept = [k for k in job.others if k not in summed]
    sums = _add_up(job, names, summed, weights, ranks)
    shape = [truth.shape[k] for k in kept]
    back = [kept.index(k) for k in sorted(kept)]

    def restored(array: np.ndarray, before: int = 0, after: int = 0) -> np.ndarray:
        full = array.reshape((*array.shape[:before], *shape, *array.shape[array.ndim - after :]))
        order = [*range(before), *(before + k for k in back), *range(full.ndim - after, full.ndim)]
        return full.transpose(order)

    totals, norms = {}, {}
    for name, rows in _rows_of(names, len(job.thresholds.forecast)).items():
        pick, axes = (rows, 1) if name in THRESHOLD_NAMES else (rows.start, 0)
        totals[name], norms[name] = restored(sums.totals[pick], axes), restored(sums.norms[pick], axes)
    return EnsembleSums(
        totals,
        norms,
        restored(sums.missing),
        restored(sums.histogram, 0, 1) if ranks else None,
        restored(sums.events, 2, 1) if len(job.thresholds.forecast) else None,
    )


@dataclass
class _Job:
    """Arrays as the kernel takes them, and how it is to be called."""

    forecast: np.ndarray  # (outer, member, inner)
    truth: np.ndarray  # (points)
    shape: tuple[int, ...]  # of the points, in the order of memory
    others: list[int]  # axes of truth in that order
    omit: bool
    refuse: bool
    threads: int
    thresholds: "kernels.Thresholds"


def _prepare(
    forecast: np.ndarray,
    truth: np.ndarray,
    axis: int,
    nan_policy: str,
    threads: int | None,
    thresholds: Sequence[float],
    absolute: bool,
) -> _Job:
    from . import kernels

    if nan_policy not in POLICIES:
        raise EvaluationError(f"unknown nan_policy {nan_policy!r}: choose one of {', '.join(POLICIES)}")
    axis %= forecast.ndim
    forecast, truth = _common_types(forecast, truth)
    order = _memory_order(forecast)
    others = [k - (k > axis) for k in order if k != axis]
    blocks = _three_axes(np.ascontiguousarray(forecast.transpose(order)), order.index(axis))
    points = truth.transpose(others)
    values = np.ascontiguousarray(points).ravel()
    members = blocks.shape[1]
    if members == 0:
        raise EvaluationError("the ensemble has no members: at least one is needed")
    if blocks.dtype == np.uint8 and members > kernels.MOST_MEMBERS_8BIT:
        blocks, values = blocks.astype(np.float32), values.astype(np.float32)
    limits = _thresholds(thresholds, absolute, blocks.dtype, values.dtype)
    threads = threads or (threads_available() if forecast.size > _SMALL else 1)
    omit, refuse = nan_policy == "omit", nan_policy == "raise"
    return _Job(_frozen(blocks), _frozen(values), points.shape, others, omit, refuse, threads, limits)


def _thresholds(
    thresholds: Sequence[float], absolute: bool, forecast: np.dtype, truth: np.dtype
) -> "kernels.Thresholds":
    from . import kernels

    values = np.atleast_1d(np.asarray(thresholds, np.float64))
    if values.ndim != 1 or np.isnan(values).any():
        raise EvaluationError(f"thresholds must be a list of numbers, got {thresholds!r}")
    always = values < 0 if absolute or forecast == np.uint8 else np.zeros(values.shape, bool)

    def rounded_down(dtype: np.dtype) -> np.ndarray:
        if dtype == np.uint8:
            return np.floor(values).clip(0, 255).astype(np.uint8)
        with np.errstate(over="ignore"):
            near = values.astype(dtype)
        return np.where(near > values, np.nextafter(near, dtype.type(-np.inf)), near)

    return kernels.Thresholds(
        _frozen(rounded_down(forecast)), _frozen(rounded_down(truth)), _frozen(always), bool(absolute)
    )


def _common_types(forecast: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Types the kernel is compiled for: (uint8, uint8), (float32, float32 or float64), (float64, float64)."""
    if forecast.dtype.kind not in "buif" or truth.dtype.kind not in "buif":
        raise EvaluationError(f"cannot score {forecast.dtype} against {truth.dtype}: real numbers are needed")
    if forecast.dtype == truth.dtype == np.uint8:
        return forecast, truth
    as_float = [np.float32 if a.dtype in (np.float16, np.float32, np.uint8) else np.float64 for a in (forecast, truth)]
    forecast = forecast.astype(as_float[0], copy=False)
    return forecast, truth.astype(max(as_float[1], as_float[0], key=lambda t: np.dtype(t).itemsize), copy=False)


def _memory_order(array: np.ndarray) -> list[int]:
    """Axes from the slowest to the fastest in memory; the given order if the array is already contiguous."""
    if array.flags.c_contiguous:
        return list(range(array.ndim))
    return sorted(range(array.ndim), key=lambda k: (-abs(array.strides[k]), k))


def _three_axes(array: np.ndarray, axis: int) -> np.ndarray:
    outer, inner = int(np.prod(array.shape[:axis])), int(np.prod(array.shape[axis + 1 :]))
    return array.reshape(outer, array.shape[axis], inner)


def _frozen(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written: to numba, read-only and writable arrays are of different types."""
    view = array.view()
    view.flags.writeable = False
    return view


def _room(job: _Job) -> "kernels.Room":
    from . import kernels

    members, lanes, limits = job.forecast.shape[1], kernels.LANES, len(job.thresholds.forecast)
    exact = job.forecast.dtype == np.uint8
    return kernels.Room(
        np.zeros((members, lanes), job.forecast.dtype),
        np.zeros(lanes, job.truth.dtype),
        np.zeros((6, lanes), np.int32 if exact else np.float64),
        np.zeros((2, lanes), np.int32),
        np.zeros((limits, lanes), np.int32),
        np.zeros((limits, lanes), bool),
        np.zeros((2, lanes), np.uint8 if exact else np.int32),
        np.zeros((2, lanes), np.uint16),
        np.zeros((4, members + 1), np.int32),
    )


def _rows_of(names: Iterable[str], thresholds: int) -> dict[str, slice]:
    """The rows of each statistic in an array of all of them."""
    rows, end = {}, 0
    for name in names:
        start, end = end, end + (thresholds if name in THRESHOLD_NAMES else 1)
        rows[name] = slice(start, end)
    return rows


def _out(job: _Job, names: Sequence[str], points: int) -> "kernels.Out":
    """Arrays (row, point) with rows for the wanted statistics, in the order of their names."""
    from . import kernels

    if "rank" in names or "ties" in names:  # written together
        names = [*(n for n in names if n not in ("rank", "ties")), "rank", "ties"]
    arrays = []
    for family, dtype in ((kernels.FLOATS, np.float64), (kernels.INTEGERS, np.int32)):
        rows = _rows_of([n for n in names if n in family], len(job.thresholds.forecast))
        height = max((r.stop for r in rows.values()), default=0)
        starts = [rows[n].start if n in rows and rows[n].stop > rows[n].start else -1 for n in family]
        arrays += [np.empty((height, points), dtype), np.array(starts, np.int64)]
    return kernels.Out(*arrays)


def _score_points(job: _Job, names: Sequence[str]) -> list[np.ndarray]:
    """Each statistic at every point: (points), or (threshold, points)."""
    from . import kernels

    unknown = set(names) - set(kernels.FLOATS) - set(kernels.INTEGERS)
    if unknown:
        raise EvaluationError(f"unknown statistics: {', '.join(sorted(unknown))}")
    points = job.truth.size
    out = _out(job, names, points)
    groups = kernels.Groups(0, *(_frozen(np.zeros(0, np.int64)), 0) * 2, _frozen(np.zeros(0)))
    sums = _empty_sums(job, 0, 0, 0, False)
    work = _worker(job, groups)
    step = _POINTS_PER_TASK if job.threads > 1 else max(points, 1)
    tasks = [(start, min(start + step, points)) for start in range(0, points, step)]
    incomplete = sum(_in_threads(lambda bounds: work(bounds, out, sums), tasks, job.threads))
    _refuse_missing(job, incomplete)
    where = {name: k for family in (kernels.FLOATS, kernels.INTEGERS) for k, name in enumerate(family)}
    found = []
    for name in names:
        integer = name in INTEGER_NAMES
        array, row = (out.integers, out.integer_rows) if integer else (out.floats, out.rows)
        start = int(row[where[name]])
        per_threshold = name in THRESHOLD_NAMES
        found.append(array[max(start, 0) :][: len(job.thresholds.forecast)] if per_threshold else array[start])
    return found


def _add_up(
    job: _Job, names: Sequence[str], summed: set[int], weights: np.ndarray | None, ranks: bool
) -> "kernels.Sums":
    """Sums of the groups of points that agree in all axes but those summed."""
    from . import kernels

    if set(names) - set(kernels.FLOATS):
        raise EvaluationError(f"no sums of {', '.join(sorted(set(names) - set(kernels.FLOATS)))}")
    groups, count = _groups(job, summed, weights)
    wanted = [*names, "rank", "ties"] if ranks else list(names)
    rows = sum(r.stop - r.start for r in _rows_of(names, len(job.thresholds.forecast)).values())
    work = _worker(job, groups)

    def task(bounds: tuple[int, int]) -> tuple[int, kernels.Sums]:
        first, last = _groups_between(groups, *bounds)
        part = _empty_sums(job, first, last - first, rows, ranks)
        return work(bounds, _out(job, wanted, kernels.LANES), part), part

    total, incomplete = _empty_sums(job, 0, count, rows, ranks), 0
    if groups.step and groups.run >= _COLUMNS:

        def column(start: int) -> int:
            out = _out(job, wanted, kernels.LANES)
            stop = min(start + _COLUMNS, groups.run)
            runs = range(0, job.truth.size, groups.run)
            return sum(work((run + start, run + stop), out, total) for run in runs)

        _refuse_missing(job, sum(_in_threads(column, range(0, groups.run, _COLUMNS), job.threads)))
        return total
    for missing, part in _in_threads(task, _tasks(groups.run, job.truth.size), job.threads):
        here = slice(part.offset, part.offset + len(part.missing))
        total.totals[:, here] += part.totals
        total.norms[:, here] += part.norms
        total.missing[here] += part.missing
        total.histogram[here] += part.histogram
        total.events[:, :, here] += part.events
        incomplete += missing
    _refuse_missing(job, incomplete)
    return total


def _empty_sums(job: _Job, offset: int, groups: int, rows: int, ranks: bool) -> "kernels.Sums":
    from . import kernels

    members, limits = job.forecast.shape[1], len(job.thresholds.forecast)
    return kernels.Sums(
        offset,
        np.zeros((rows, groups)),
        np.zeros((rows, groups)),
        np.zeros(groups, np.int64),
        np.zeros((groups if ranks else 0, members + 1)),
        np.zeros((2, limits, groups, members + 1)),
    )


def _worker(job: _Job, groups: "kernels.Groups") -> Callable[..., int]:
    from . import kernels

    low, high = kernels.sorting_network(job.forecast.shape[1])
    score = kernels.SCORE[job.forecast.dtype.name, job.truth.dtype.name]

    def work(bounds: tuple[int, int], out: kernels.Out, sums: kernels.Sums) -> int:
        room = _room(job)
        return score(job.forecast, job.truth, low, high, job.omit, *bounds, room, job.thresholds, out, groups, sums)

    return work


def _in_threads(task: Callable[[Any], Any], tasks: Sequence[Any], threads: int) -> Iterator[Any]:
    """Results in order. The pool is of this call alone: nothing to survive a fork."""
    if threads == 1 or len(tasks) < 2:
        yield from map(task, tasks)
    else:
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(task, tasks)


def _refuse_missing(job: _Job, incomplete: int) -> None:
    if incomplete and job.refuse:
        raise MissingValueError(
            f'{incomplete} of {job.truth.size} points hold NaN: mask them, or use nan_policy="omit" or "propagate"'
        )


def _groups(job: _Job, summed: set[int], weights: np.ndarray | None) -> tuple["kernels.Groups", int]:
    """Which points belong together, and their number. A run is a stretch of memory over which that is simple."""
    from . import kernels

    kept = [k not in summed for k in job.others]
    if weights is None:
        light, values = [False] * len(kept), np.zeros(0)
    else:
        values = weights.transpose(job.others)
        light = [size > 1 for size in values.shape]
    tail = len(kept)
    while tail > 0 and (kept[tail - 1], light[tail - 1]) == (kept[-1], light[-1]):
        tail -= 1
    run = int(np.prod(job.shape[tail:]))
    group, count = _numbering(job.shape, kept, tail)
    place, _ = _numbering(job.shape, light, tail)
    steps = [int(bool(flags) and flags[-1]) for flags in (kept, light)]
    flat = np.ascontiguousarray(values, np.float64).ravel()
    return kernels.Groups(max(run, 1), _frozen(group), steps[0], _frozen(place), steps[1], _frozen(flat)), count


def _numbering(shape: tuple[int, ...], varies: Sequence[bool], tail: int) -> tuple[np.ndarray, int]:
    """Number of the first point of each run among places that differ in the axes marked, and how many those are."""
    sizes = [n if flag else 1 for n, flag in zip(shape, varies, strict=True)]
    total = int(np.prod(sizes))
    strides = [int(np.prod(sizes[k + 1 :])) if flag else 0 for k, flag in enumerate(varies)]
    first = np.zeros((1,) * tail, np.int64)
    for k in range(tail):
        first = first + (strides[k] * np.arange(shape[k])).reshape([-1 if i == k else 1 for i in range(tail)])
    return np.ascontiguousarray(np.broadcast_to(first, shape[:tail])).ravel(), total


def _groups_between(groups: "kernels.Groups", start: int, stop: int) -> tuple[int, int]:
    """The range of groups that points start..stop belong to."""
    run = groups.run
    first = groups.first[start // run : (stop - 1) // run + 1]
    if len(first) == 1:
        a = int(first[0])
        return a + groups.step * (start % run), a + groups.step * ((stop - 1) % run) + 1
    return int(first.min()), int(first.max()) + groups.step * (run - 1) + 1


def _tasks(run: int, points: int) -> list[tuple[int, int]]:
    """Stretches of points: parts of one run or several whole runs, whatever the number of threads."""
    if run >= _POINTS_PER_TASK:
        step = -(-run // -(-run // _POINTS_PER_TASK))
        pieces = [(at, min(at + step, run)) for at in range(0, run, step)]
        return [(start + a, start + b) for start in range(0, points, run) for a, b in pieces]
    step = _POINTS_PER_TASK // run * run
    return [(start, min(start + step, points)) for start in range(0, points, step)]


def ensemble_scores_numpy(forecast: np.ndarray, truth: np.ndarray, *, axis: int) -> dict[str, np.ndarray]:
    """The same statistics in plain NumPy and float64, NaN propagated: the twin that the kernel is tested against.

    Needs several times the forecast in memory.
    """
    x = np.sort(np.moveaxis(forecast, axis, -1).astype(np.float64), axis=-1)
    y = truth.astype(np.float64)
    members = x.shape[-1]
    weights = 2 * np.arange(members) + 1 - members
    absolute = np.abs(x - y[..., None]).mean(axis=-1)
    spread = (weights * x).sum(axis=-1)
    missing = np.isnan(absolute)
    error = x.mean(axis=-1) - y
    nothing = np.full(y.shape, np.nan)
    return {
        "crps": absolute - spread / members**2,
        "crps_fair": absolute - spread / (members * (members - 1)) if members > 1 else nothing,
        "variance": np.where(np.isnan(y), np.nan, x.var(axis=-1, ddof=1)) if members > 1 else nothing,
        "bias": error,
        "squared_error": error**2,
        "absolute_error": abs(error),
        "rank": np.where(missing, -1, (x < y[..., None]).sum(axis=-1)),
        "ties": np.where(missing, 0, (x == y[..., None]).sum(axis=-1)),
        "present": np.where(np.isnan(y), 0, (~np.isnan(x)).sum(axis=-1)),
    }


def count_ranks(rank: np.ndarray, ties: np.ndarray, *, members: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Histograms (..., members + 1) over the last axis of rank and ties.

    A truth equal to t members could stand in any of t + 1 places: each gets an equal share of the point. Points of
    rank -1 do not count.
    """
    from . import kernels

    shape = rank.shape[:-1]
    rows = rank.reshape(-1, rank.shape[-1])
    share = np.ones(rank.shape[-1:]) if weights is None else weights
    out = np.zeros((rows.shape[0], members + 1))
    kernels.add_ranks(
        _frozen(np.ascontiguousarray(rows, np.int32)),
        _frozen(np.ascontiguousarray(ties.reshape(rows.shape), np.int32)),
        _frozen(np.ascontiguousarray(np.broadcast_to(share, rank.shape).reshape(rows.shape), np.float64)),
        out,
    )
    return out.reshape(*shape, members + 1)
