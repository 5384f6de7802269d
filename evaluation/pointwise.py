"""NumPy arrays in, NumPy arrays out: lays out memory and brings threads for `evaluation.kernels`.

Arrays of one call: forecast (..., member, ...) and truth, the same shape without the member axis. The kernel wants
(outer, member, inner), contiguous. Any permutation of a contiguous array is brought to that form by views (members
in the middle stay in the middle), and the result is handed back as a view in the caller's order. Only an array with
gaps, such as a window cut out of a larger one, is copied.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .errors import EvaluationError, MissingValueError

NAMES = ("crps", "crps_fair", "variance", "bias", "squared_error", "absolute_error", "rank", "ties", "present")
"""crps and crps_fair: both estimators; variance: unbiased, of the members; bias, squared_error, absolute_error: of the
ensemble mean (bias = mean - truth); rank: members below the truth (-1 at a NaN), ties: members equal to it,
present: members that are not NaN. rank, ties and present are int32, the others float64."""

INTEGER_NAMES = ("rank", "ties", "present")
POLICIES = ("propagate", "omit", "raise")
_POINTS_PER_TASK = 1 << 15
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
) -> tuple[np.ndarray, ...]:
    """The statistics in `names` (see `NAMES`) at every point, each with the shape of truth.

    `threads=1` runs in the calling thread (inside a dask worker); any number of Python threads may call at once.
    uint8 is scored without conversion, in exact integer sums; other integers and bool are converted to float64.
    Raises MissingValueError for a NaN under nan_policy="raise".
    """
    if nan_policy not in POLICIES:
        raise EvaluationError(f"unknown nan_policy {nan_policy!r}: choose one of {', '.join(POLICIES)}")
    axis %= forecast.ndim
    forecast, truth = _common_types(forecast, truth)
    order = _memory_order(forecast)
    others = [k - (k > axis) for k in order if k != axis]
    blocks = _three_axes(np.ascontiguousarray(forecast.transpose(order)), order.index(axis))
    points = truth.transpose(others)
    out = _run(blocks, np.ascontiguousarray(points).ravel(), names, nan_policy, threads)
    back = [others.index(k) for k in range(len(others))]
    return tuple(a.reshape(points.shape).transpose(back) for a in out)


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


def _run(
    forecast: np.ndarray, truth: np.ndarray, names: Sequence[str], nan_policy: str, threads: int | None
) -> list[np.ndarray]:
    from . import kernels

    members = forecast.shape[1]
    if members == 0:
        raise EvaluationError("the ensemble has no members: at least one is needed")
    if forecast.dtype == np.uint8 and members > kernels.MOST_MEMBERS_8BIT:
        forecast, truth = forecast.astype(np.float32), truth.astype(np.float32)
    forecast, truth = _frozen(forecast), _frozen(truth)
    low, high = kernels.sorting_network(members)
    floats, rows = _room(kernels.FLOATS, set(names), truth.size, np.float64)
    also = {"rank", "ties"} if {"rank", "ties"} & set(names) else set()
    integers, integer_rows = _room(kernels.INTEGERS, set(names) | also, truth.size, np.int32)
    out = floats, rows, integers, integer_rows
    score = kernels.SCORE[forecast.dtype.name, truth.dtype.name]

    def work(bounds: tuple[int, int]) -> int:
        tile = np.zeros((members, kernels.LANES), forecast.dtype)
        sums = np.zeros((5, kernels.LANES), np.int32 if forecast.dtype == np.uint8 else np.float64)
        counts = np.zeros((2, kernels.LANES), np.int32)
        return score(forecast, truth, low, high, nan_policy == "omit", *bounds, tile, sums, counts, *out)

    threads = threads or (threads_available() if forecast.size > _SMALL else 1)
    starts = range(0, truth.size, _POINTS_PER_TASK if threads > 1 else max(truth.size, 1))
    tasks = [(start, min(start + starts.step, truth.size)) for start in starts]
    if threads == 1 or len(tasks) < 2:
        incomplete = sum(map(work, tasks))
    else:  # a pool for this call alone: nothing to survive a fork
        with ThreadPoolExecutor(threads) as pool:
            incomplete = sum(pool.map(work, tasks))
    if incomplete and nan_policy == "raise":
        raise MissingValueError(
            f'{incomplete} of {truth.size} points hold NaN: mask them, or use nan_policy="omit" or "propagate"'
        )
    where = dict(zip(kernels.FLOATS + kernels.INTEGERS, [*rows, *integer_rows], strict=True))
    return [(integers if name in INTEGER_NAMES else floats)[where[name]] for name in names]


def _room(
    names: Sequence[str], wanted: set[str], points: int, dtype: type[np.generic]
) -> tuple[np.ndarray, np.ndarray]:
    """An array (row, point) with a row for each wanted statistic, and the row of each statistic (-1: none)."""
    rows = np.cumsum([name in wanted for name in names]) - 1
    room = np.empty((int(rows[-1]) + 1, points), dtype)
    return room, np.where([name in wanted for name in names], rows, -1)


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
