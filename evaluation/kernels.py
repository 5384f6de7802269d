"""Pointwise ensemble statistics in one pass: sort the members of a tile of points, then add up.

For one point with members x_1..x_M, their order statistics x_(1) <= ... <= x_(M) and the truth y

    E = mean_m |x_m - y|        G = sum_m (2m - 1 - M) x_(m) = 1/2 sum_m sum_n |x_m - x_n|
    classical CRPS = E - G / M^2          fair CRPS = E - G / (M (M - 1))

so that sorting turns the double sum into a single one. A tile holds `LANES` neighbouring points as rows of one
member each, small enough for the first-level cache; Batcher's odd-even merge network, a list of row pairs made at
run time for any M, sorts all of its points at once with vector minima and maxima. Code is compiled per element
type, not per M, and kept on disk.

Vector minima and maxima lose NaNs, so E is added up before sorting: a NaN shows there, and its point is scored
again one member at a time. (`fastmath` would let the compiler assume that there are none: it stays off, and would
gain nothing measurable, since no sum runs across lanes.)

Kernels release the GIL and start no threads of their own: numba's parallel runtimes either abort when two Python
threads enter them (workqueue) or do not survive fork (OpenMP). `evaluation.pointwise` brings the threads.
"""

from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import overload

LANES = 128
"""Points in a tile. The loops below take their length from the row, on purpose: told the number, the compiler
unrolls the compare-exchange completely and makes it up to four times slower."""

FLOATS = ("crps", "crps_fair", "variance", "bias", "squared_error", "absolute_error")
INTEGERS = ("rank", "ties", "present")
CRPS, CRPS_FAIR, VARIANCE, BIAS, SQUARED_ERROR, ABSOLUTE_ERROR = range(6)
RANK, TIES, PRESENT = range(3)

MOST_MEMBERS_8BIT = 4096
"""Up to here the sums of 8-bit values fit 32 bits: G <= 255 M^2 / 4 and sum e^2 <= 255^2 M, both below 2^31."""


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """For functions called from a cached one, which takes their code with it."""
    return numba.njit(function, nogil=True, error_model="numpy")


def _cached(function: Callable[..., Any]) -> Callable[..., Any]:
    """For functions called from Python with arguments of always the same types.

    numba numbers the files of its cache in the order of compilation: two processes that compile one function for
    different types at the same moment can leave the code of one under the name of the other.
    """
    try:
        return numba.njit(function, nogil=True, cache=True, error_model="numpy")
    except RuntimeError:  # no folder to cache in can be written
        return _jit(function)


def _specialised(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function under a name, and so with cache files, of its own."""
    copy = FunctionType(function.__code__, globals(), name)
    copy.__qualname__ = name
    return _cached(copy)


@lru_cache(maxsize=64)
def sorting_network(members: int) -> tuple[np.ndarray, np.ndarray]:
    """Comparators of Batcher's odd-even merge sort (Knuth, TAOCP 3, algorithm 5.2.2M): two int64 index arrays."""
    low: list[np.ndarray] = []
    high: list[np.ndarray] = []
    block = 1
    while block < members:
        step = block
        while step >= 1:
            i = np.arange(members - step)
            i = i[(i >= step % block) & ((i - step % block) % (2 * step) < step)]
            i = i[i // (2 * block) == (i + step) // (2 * block)]
            low.append(i)
            high.append(i + step)
            step //= 2
        block *= 2
    empty = np.empty(0, np.int64)
    return np.concatenate([empty, *low]), np.concatenate([empty, *high])


def _wide(x):
    """The type that sums are kept in: int32 for integers (numba would take 64 bits), float64 for floats.

    Exists in compiled code only, by the overload below.
    """


@overload(_wide)
def _wide_overload(x):
    if isinstance(x, types.Integer):
        return lambda x: np.int32(x)
    return lambda x: np.float64(x)


@_jit
def _compare_exchange(low, high):
    for lane in range(len(low)):
        x, y = low[lane], high[lane]
        low[lane] = min(x, y)
        high[lane] = max(x, y)


@_jit
def _sort(tile, low, high):
    for c in range(len(low)):
        _compare_exchange(tile[low[c]], tile[high[c]])


@_jit
def _load(forecast, tile, start, width):
    """Copy points start..start+width of forecast (outer, member, inner) into the rows of the tile."""
    members, inner = forecast.shape[1], forecast.shape[2]
    lane = 0
    while lane < width:
        a, k = divmod(start + lane, inner)
        run = min(width - lane, inner - k)
        if inner == 1:
            run = width
            for i in range(width):
                source = forecast[a + i, :, 0]
                for m in range(members):
                    tile[m, i] = source[m]
        else:
            for m in range(members):
                row, source = tile[m, lane : lane + run], forecast[a, m, k : k + run]
                for i in range(run):
                    row[i] = source[i]
        lane += run


@_jit
def _absolute_errors(tile, y, error):
    """Per lane: sum_m |x_m - y|."""
    error[:] = 0
    for m in range(tile.shape[0]):
        row = tile[m]
        for lane in range(len(row)):
            error[lane] = _wide(error[lane] + _wide(abs(_wide(_wide(row[lane]) - y[lane]))))


@_jit
def _half_gini(tile, spread):
    """Per lane of a sorted tile: G. The m-th member from below and from above have opposite weights."""
    members = tile.shape[0]
    spread[:] = 0
    for m in range(members // 2):
        lower, upper = tile[m], tile[members - 1 - m]
        weight = _wide(members - 1 - 2 * m)
        for lane in range(len(lower)):
            difference = _wide(_wide(upper[lane]) - _wide(lower[lane]))
            spread[lane] = _wide(spread[lane] + _wide(weight * difference))


@_jit
def _moments(tile, first, second):
    """Per lane: sums of e and e^2, where e is taken relative to a member.

    A member is at most sqrt(M) standard deviations from the mean, so that the one-pass variance cannot cancel
    however far the values are from zero.
    """
    members = tile.shape[0]
    centre = tile[members // 2]
    first[:] = 0
    second[:] = 0
    for m in range(members // 2):  # two rows at a time: half the traffic on the sums; a middle row has e = 0
        a, b = tile[m], tile[members - 1 - m]
        for lane in range(len(a)):
            c = _wide(centre[lane])
            d, e = _wide(_wide(a[lane]) - c), _wide(_wide(b[lane]) - c)
            first[lane] = _wide(first[lane] + _wide(d + e))
            second[lane] = _wide(second[lane] + _wide(_wide(d * d) + _wide(e * e)))


@_jit
def _count(tile, y, below, ties):
    """Per lane: how many members are less than the truth, and how many equal it."""
    below[:] = 0
    ties[:] = 0
    for m in range(tile.shape[0]):
        row = tile[m]
        for lane in range(len(row)):
            x = _wide(row[lane])
            below[lane] += np.int32(x < y[lane])
            ties[lane] += np.int32(x == y[lane])


@_jit
def _members_present(forecast, n, scratch):
    """Gather the members of point n that are not NaN into scratch, sorted; their number."""
    a, k = divmod(n, forecast.shape[2])
    present = 0
    for m in range(forecast.shape[1]):
        x = np.float64(forecast[a, m, k])
        if x == x:
            i = present
            while i > 0 and scratch[i - 1] > x:
                scratch[i] = scratch[i - 1]
                i -= 1
            scratch[i] = x
            present += 1
    return present


@_jit
def _score_incomplete(forecast, y, n, omit, scratch, floats, rows, integers, integer_rows):
    """The statistics of one point with a NaN, written out one member at a time."""
    members = _members_present(forecast, n, scratch)
    if integer_rows[PRESENT] >= 0:
        integers[integer_rows[PRESENT], n] = members if y == y else 0
    if integer_rows[RANK] >= 0:  # a rank among fewer members is not comparable with the others
        integers[integer_rows[RANK], n], integers[integer_rows[TIES], n] = -1, 0
    absolute = spread = mean = second = np.nan
    if omit and members > 0 and y == y:
        absolute = spread = mean = second = 0.0
        for m in range(members):
            absolute += abs(scratch[m] - y)
            spread += (2 * m + 1 - members) * scratch[m]
            mean += scratch[m] / members
        for m in range(members):
            second += (scratch[m] - mean) ** 2
    count = members if members > 0 else np.nan
    unbiased = 1.0 / (members - 1) if members > 1 else np.nan
    values = (
        (absolute - spread / count) / count,
        (absolute - spread * unbiased) / count,
        second * unbiased,
        mean - y,
        (mean - y) ** 2,
        abs(mean - y),
    )
    for k in range(len(values)):
        if rows[k] >= 0:
            floats[rows[k], n] = values[k]


@_jit
def _write_crps(absolute, spread, members, divisor, out):
    for lane in range(len(out)):
        out[lane] = absolute[lane] / members - spread[lane] / (members * divisor)


@_jit
def _write_variance(first, second, members, out):
    unbiased = 1.0 / (members - 1) if members > 1 else np.nan
    for lane in range(len(out)):
        out[lane] = (second[lane] - first[lane] * (first[lane] / members)) * unbiased


@_jit
def _write_mean_error(centre, y, first, members, kind, out):
    for lane in range(len(out)):
        error = _wide(_wide(centre[lane]) - y[lane]) + first[lane] / members
        out[lane] = error if kind == BIAS else abs(error) if kind == ABSOLUTE_ERROR else error * error


def _score(forecast, truth, low, high, omit, start, stop, tile, sums, counts, floats, rows, integers, integer_rows):
    """Statistics of points start..stop; returns how many of them hold a NaN.

    forecast (outer, member, inner) and truth (outer * inner) are contiguous. tile (member, LANES) has the
    forecast's type, sums (5, LANES) float64 or, for 8-bit values, int32, counts (2, LANES) int32: work space.
    Statistic k of `FLOATS` goes to row rows[k] of floats (row, point), or nowhere if that is negative; those of
    `INTEGERS` alike, RANK and TIES only together.

    A point with a NaN gets NaN (rank: -1), or with `omit` what its remaining members give.
    """
    members = forecast.shape[1]
    y, absolute, spread, first, second = sums[0], sums[1], sums[2], sums[3], sums[4]
    centre = tile[members // 2]
    scratch = np.empty(members, np.float64)
    moments = rows[VARIANCE] >= 0 or rows[BIAS] >= 0 or rows[SQUARED_ERROR] >= 0 or rows[ABSOLUTE_ERROR] >= 0
    incomplete = 0
    for base in range(start, stop, LANES):
        end = min(base + LANES, stop)
        _load(forecast, tile, base, end - base)
        for n in range(base, end):
            y[n - base] = _wide(truth[n])
        _absolute_errors(tile, y, absolute)
        if rows[CRPS] >= 0 or rows[CRPS_FAIR] >= 0:
            _sort(tile, low, high)
            _half_gini(tile, spread)
            if rows[CRPS] >= 0:
                _write_crps(absolute, spread, members, members, floats[rows[CRPS], base:end])
            if rows[CRPS_FAIR] >= 0:
                divisor = members - 1 if members > 1 else np.nan
                _write_crps(absolute, spread, members, divisor, floats[rows[CRPS_FAIR], base:end])
        if moments:
            _moments(tile, first, second)
            if rows[VARIANCE] >= 0:
                _write_variance(first, second, members, floats[rows[VARIANCE], base:end])
            for k in (BIAS, SQUARED_ERROR, ABSOLUTE_ERROR):
                if rows[k] >= 0:
                    _write_mean_error(centre, y, first, members, k, floats[rows[k], base:end])
        if integer_rows[RANK] >= 0:
            _count(tile, y, counts[0], counts[1])
            integers[integer_rows[RANK], base:end] = counts[0, : end - base]
            integers[integer_rows[TIES], base:end] = counts[1, : end - base]
        if integer_rows[PRESENT] >= 0:
            integers[integer_rows[PRESENT], base:end] = members
        for n in range(base, end):
            if absolute[n - base] != absolute[n - base]:
                incomplete += 1
                _score_incomplete(forecast, y[n - base], n, omit, scratch, floats, rows, integers, integer_rows)
    return incomplete


SCORE = {
    (f, y): _specialised(_score, f"score_{f}_{y}")
    for f, y in (("uint8", "uint8"), ("float32", "float32"), ("float32", "float64"), ("float64", "float64"))
}
"""`_score` for each pair of types of forecast and truth."""


@_cached
def add_ranks(rank, ties, weights, histogram):
    """Add points (row, point) to histogram (row, place); a tie of t members is shared among t + 1 places."""
    for row in range(rank.shape[0]):
        for n in range(rank.shape[1]):
            if rank[row, n] >= 0:
                share = weights[row, n] / (ties[row, n] + 1)
                for place in range(rank[row, n], rank[row, n] + ties[row, n] + 1):
                    histogram[row, place] += share
