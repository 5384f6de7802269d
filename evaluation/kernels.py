"""Pointwise ensemble statistics in one pass: sort the members of a tile of points, then add up.

For one point with members x_1..x_M, their order statistics x_(1) <= ... <= x_(M) and the truth y

    E = mean_m |x_m - y|        G = sum_m (2m - 1 - M) x_(m) = 1/2 sum_m sum_n |x_m - x_n|
    classical CRPS = E - G / M^2          fair CRPS = E - G / (M (M - 1))

so that sorting turns the double sum into a single one. A tile holds `LANES` neighbouring points as rows of one
member each, small enough for the first-level cache; Batcher's odd-even merge network, a list of row pairs made at
run time for any M, sorts all of its points at once with vector minima and maxima. Code is compiled per element
type, not per M, and kept on disk.

The sorted rows are then read in pairs a = x_(m), b = x_(M+1-m) from both ends. With a centre c (a member) and

    g = b - a,   s = (a - c) + (b - c):      G = sum (M + 1 - 2m) g,   sum_m (x_m - c) = sum s,
                                             sum_m (x_m - c)^2 = sum (g^2 + s^2) / 2

one loop over half of the rows gives the CRPS and both moments. What is counted (members below the truth, equal to it,
beyond a threshold) is compared and counted in the narrowest type that holds it.

If an average is wanted, a tile's results stay in a buffer of its size and are added to the sums of their groups
before the next tile begins: nothing of the size of the points is ever written.

Vector minima and maxima lose NaNs, so E is added up before sorting: a NaN shows there, and its point is scored
again one member at a time. (`fastmath` would let the compiler assume that there are none: it stays off but for
`reassoc`, the freedom to add in any order, in the sums over lanes of values already found to be finite.)

Kernels release the GIL and start no threads of their own: numba's parallel runtimes either abort when two Python
threads enter them (workqueue) or do not survive fork (OpenMP). `evaluation.pointwise` brings the threads.
"""

from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import types
from numba.extending import overload

LANES = 128
"""Points in a tile. The loops below take their length from the row, on purpose: told the number, the compiler
unrolls the compare-exchange completely and makes it up to four times slower."""

FLOATS = ("crps", "crps_fair", "variance", "bias", "squared_error", "absolute_error", "brier", "brier_fair")
INTEGERS = ("rank", "ties", "present", "exceeding")
CRPS, CRPS_FAIR, VARIANCE, BIAS, SQUARED_ERROR, ABSOLUTE_ERROR, BRIER, BRIER_FAIR = range(8)
RANK, TIES, PRESENT, EXCEEDING = range(4)
PER_THRESHOLD = ("brier", "brier_fair", "exceeding")

MOST_MEMBERS_8BIT = 4096
"""Up to here the sums of 8-bit values fit 32 bits: G <= 255 M^2 / 4 and 2 sum e^2 <= 2 255^2 M, both below 2^31."""

_ROWS_16BIT = 256
_PAIRS_16BIT = 256
"""As many 8-bit values fit a sum of 16 bits."""


class Room(NamedTuple):
    """Work space of one thread for one ensemble size and pair of types."""

    tile: np.ndarray  # (member, lane), as the forecast: the members, later sorted
    level: np.ndarray  # (lane), as the truth
    sums: np.ndarray  # (6, lane) float64 or, for 8-bit values, int32: y, sum |x - y|, G, sum e, 2 sum e^2, c
    counts: np.ndarray  # (2, lane) int32: members below and equal to the truth
    beyond: np.ndarray  # (threshold, lane) int32: members beyond the threshold
    seen: np.ndarray  # (threshold, lane) bool: the truth beyond it
    tally: np.ndarray  # (2, lane) int32 or, for 8-bit values, uint8: up to 255 things counted
    narrow: np.ndarray  # (2, lane) uint16: sums of few 8-bit values
    bins: np.ndarray  # (4, member + 1) int32: lanes by count


class Thresholds(NamedTuple):
    """Thresholds rounded down to the type compared with, which leaves `x > t` as it was."""

    forecast: np.ndarray
    truth: np.ndarray
    always: np.ndarray  # bool: every value is beyond it (negative thresholds of unsigned or absolute values)
    absolute: bool


class Out(NamedTuple):
    """Where results go: statistic k to row rows[k] of floats or integers (row, point), nowhere if that is negative.

    A statistic of thresholds takes one row for each. RANK and TIES are only given together. Where results are
    averaged (`Groups.run > 0`) the arrays have room for one tile.
    """

    floats: np.ndarray
    rows: np.ndarray
    integers: np.ndarray
    integer_rows: np.ndarray


class Groups(NamedTuple):
    """Which points are averaged together, and with which weight; run = 0: none.

    Point n is number j = n % run of run r = n // run; it belongs to group first[r] + step j and has the weight
    number weight_first[r] + weight_step j (without weights: 1).
    """

    run: int
    first: np.ndarray
    step: int
    weight_first: np.ndarray
    weight_step: int
    weights: np.ndarray


class Sums(NamedTuple):
    """What a stretch of points adds to the groups from number `offset` on."""

    offset: int
    totals: np.ndarray  # (row, group): sums of weight times statistic
    norms: np.ndarray  # (row, group): sums of the weights that entered
    missing: np.ndarray  # (group): points of positive weight with a NaN
    histogram: np.ndarray  # (group, rank), of the truth among the members; no rows where it is not wanted
    events: np.ndarray  # (2, threshold, group, k): weights of points by members beyond; those with the truth beyond


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """For functions called from a cached one, which takes their code with it."""
    return numba.njit(function, nogil=True, error_model="numpy")


def _reassociated(function: Callable[..., Any]) -> Callable[..., Any]:
    """For sums whose order does not matter; NaN and infinity keep their meaning."""
    return numba.njit(function, nogil=True, error_model="numpy", fastmath={"reassoc"})


def _contracted(function: Callable[..., Any]) -> Callable[..., Any]:
    """For sums of products, which may be rounded once instead of twice."""
    return numba.njit(function, nogil=True, error_model="numpy", fastmath={"contract"})


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
def _load_truth(truth, level, y):
    for i in range(len(truth)):
        level[i] = truth[i]
    for i in range(len(truth)):
        y[i] = _wide(truth[i])


@_jit
def _finite(values):
    bad = 0
    for i in range(len(values)):
        bad += values[i] - values[i] != 0
    return bad == 0


@_jit
def _errors_8bit(tile, level, error, partial):
    """Per lane: sum_m |x_m - y| of 8-bit values, in 16 bits for as long as that holds it."""
    error[:] = 0
    for start in range(0, tile.shape[0], _ROWS_16BIT):
        partial[:] = 0
        for m in range(start, min(start + _ROWS_16BIT, tile.shape[0])):
            row = tile[m]
            for lane in range(len(row)):
                x, y = row[lane], level[lane]
                partial[lane] = np.uint16(partial[lane] + np.uint16(max(x, y) - min(x, y)))
        for lane in range(len(error)):
            error[lane] = np.int32(error[lane] + np.int32(partial[lane]))


@_contracted
def _errors_float(tile, y, error):
    """Per lane: sum_m |x_m - y|, four rows at a time to spare the traffic on the sum."""
    error[:] = 0
    members = tile.shape[0]
    for m in range(0, members - 3, 4):
        a, b, c, d = tile[m], tile[m + 1], tile[m + 2], tile[m + 3]
        for lane in range(len(a)):
            t = y[lane]
            lower = abs(np.float64(a[lane]) - t) + abs(np.float64(b[lane]) - t)
            error[lane] += lower + (abs(np.float64(c[lane]) - t) + abs(np.float64(d[lane]) - t))
    for m in range(members - members % 4, members):
        row = tile[m]
        for lane in range(len(row)):
            error[lane] += abs(np.float64(row[lane]) - y[lane])


def _absolute_errors(tile, level, y, error, partial):
    """Exists in compiled code only, by the overload below."""


@overload(_absolute_errors)
def _absolute_errors_overload(tile, level, y, error, partial):
    if isinstance(tile.dtype, types.Integer):
        return lambda tile, level, y, error, partial: _errors_8bit(tile, level, error, partial)
    return lambda tile, level, y, error, partial: _errors_float(tile, y, error)


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


@_contracted
def _pair_sums(tile, spread, first, second, centre):
    """Per lane: G (of a sorted tile), the sum of e and twice the sum of e^2, where e = x - c, c a member.

    A member is at most sqrt(M) standard deviations from the mean, so that the one-pass variance cannot cancel
    however far the values are from zero. The middle one of an odd number is c.
    """
    members = tile.shape[0]
    middle = tile[members // 2]
    for lane in range(len(centre)):
        centre[lane] = _wide(middle[lane])
    spread[:] = 0
    first[:] = 0
    second[:] = 0
    for m in range(members // 2):
        lower, upper = tile[m], tile[members - 1 - m]
        weight = _wide(members - 1 - 2 * m)
        for lane in range(len(lower)):
            a, b, c = _wide(lower[lane]), _wide(upper[lane]), centre[lane]
            g, s = _wide(b - a), _wide(_wide(a - c) + _wide(b - c))
            spread[lane] = _wide(spread[lane] + _wide(weight * g))
            first[lane] = _wide(first[lane] + s)
            second[lane] = _wide(second[lane] + _wide(_wide(s * s) + _wide(g * g)))


@_jit
def _pair_sums_8bit(tile, spread, first, second, centre, within, total):
    """The same for up to `_PAIRS_16BIT` members of 8 bits, with c = 0, as far as possible in 16 bits.

    With w_m = M + 1 - 2m the weight of a pair and S_m = g_1 + ... + g_m, sum_m w_m g_m = 2 sum_{m < J} S_m + w_J S_J:
    no products. All sums are exact.
    """
    members = tile.shape[0]
    pairs = members // 2
    centre[:] = 0
    spread[:] = 0
    second[:] = 0
    within[:] = 0
    total[:] = 0
    for m in range(pairs):
        lower, upper = tile[m], tile[members - 1 - m]
        for lane in range(len(lower)):
            within[lane] = np.uint16(within[lane] + np.uint16(upper[lane] - lower[lane]))
            total[lane] = np.uint16(total[lane] + np.uint16(np.uint16(lower[lane]) + np.uint16(upper[lane])))
        for lane in range(len(lower)):  # apart, so that each loop works in the width that it needs
            spread[lane] = np.int32(spread[lane] + np.int32(within[lane]))
        for lane in range(len(lower)):
            a, b = np.int32(lower[lane]), np.int32(upper[lane])
            second[lane] = np.int32(second[lane] + np.int32(np.int32(a * a) + np.int32(b * b)))
    weight = np.int32(members - 1 - 2 * (pairs - 1) - 2)
    for lane in range(len(spread)):
        middle = np.int32(tile[pairs, lane]) if members % 2 == 1 else np.int32(0)
        first[lane] = np.int32(np.int32(total[lane]) + middle)
        second[lane] = np.int32(2 * (second[lane] + middle * middle))
        spread[lane] = np.int32(2 * spread[lane] + weight * np.int32(within[lane]))


def _moments(tile, spread, first, second, centre, within, total):
    """Exists in compiled code only, by the overload below."""


@overload(_moments)
def _moments_overload(tile, spread, first, second, centre, within, total):
    if isinstance(tile.dtype, types.Integer):

        def moments(tile, spread, first, second, centre, within, total):
            if tile.shape[0] <= _PAIRS_16BIT:
                _pair_sums_8bit(tile, spread, first, second, centre, within, total)
            else:
                _pair_sums(tile, spread, first, second, centre)

        return moments
    return lambda tile, spread, first, second, centre, within, total: _pair_sums(tile, spread, first, second, centre)


@_jit
def _rank(tile, level, below, ties, tally):
    """Per lane: how many members are less than the truth, and how many equal it.

    Up to 255 rows are counted in the type of `tally`, as narrow as the values are.
    """
    less, equal = tally[0], tally[1]
    one, zero = tally.dtype.type(1), tally.dtype.type(0)
    below[:] = 0
    ties[:] = 0
    for start in range(0, tile.shape[0], 255):
        less[:] = 0
        equal[:] = 0
        for m in range(start, min(start + 255, tile.shape[0])):
            row = tile[m]
            for lane in range(len(row)):
                less[lane] += one if row[lane] < level[lane] else zero
                equal[lane] += one if row[lane] == level[lane] else zero
        for lane in range(len(below)):
            below[lane] += np.int32(less[lane])
            ties[lane] += np.int32(equal[lane])


@_jit
def _beyond(tile, threshold, absolute, count, tally):
    """Per lane: how many members are beyond the threshold."""
    one, zero = tally.dtype.type(1), tally.dtype.type(0)
    count[:] = 0
    for start in range(0, tile.shape[0], 255):
        stop = min(start + 255, tile.shape[0])
        tally[:] = 0
        if absolute:
            for m in range(start, stop):
                row = tile[m]
                for lane in range(len(row)):
                    tally[lane] += one if abs(row[lane]) > threshold else zero
        else:
            for m in range(start, stop):
                row = tile[m]
                for lane in range(len(row)):
                    tally[lane] += one if row[lane] > threshold else zero
        for lane in range(len(count)):
            count[lane] += np.int32(tally[lane])


@_jit
def _find_events(tile, level, tally, below, above, always, absolute, beyond, seen):
    """Per threshold and lane: how many members are beyond it, and whether the truth is."""
    for t in range(len(below)):
        if always[t]:
            beyond[t, :] = tile.shape[0]
            seen[t, :] = True
        else:
            _beyond(tile, below[t], absolute, beyond[t], tally)
            row, threshold = seen[t], above[t]
            for lane in range(len(row)):
                row[lane] = (abs(level[lane]) if absolute else level[lane]) > threshold


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
def _score_incomplete(forecast, y, n, at, omit, scratch, thresholds, out):
    """The statistics of one point n with a NaN, written out one member at a time to column `at`."""
    floats, rows, integers, integer_rows = out
    members = _members_present(forecast, n, scratch)
    if integer_rows[PRESENT] >= 0:
        integers[integer_rows[PRESENT], at] = members if y == y else 0
    if integer_rows[RANK] >= 0:  # a rank among fewer members is not comparable with the others
        integers[integer_rows[RANK], at], integers[integer_rows[TIES], at] = -1, 0
    absolute = spread = mean = second = np.nan
    scored = omit and members > 0 and y == y
    if scored:
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
            floats[rows[k], at] = values[k]
    for t in range(len(thresholds.forecast)):
        beyond = 0
        for m in range(members):
            x = abs(scratch[m]) if thresholds.absolute else scratch[m]
            beyond += thresholds.always[t] or x > thresholds.forecast[t]
        seen = thresholds.always[t] or (abs(y) if thresholds.absolute else y) > thresholds.truth[t]
        if integer_rows[EXCEEDING] >= 0:
            integers[integer_rows[EXCEEDING] + t, at] = beyond if scored else -1
        share = beyond / count if scored else np.nan
        if rows[BRIER] >= 0:
            floats[rows[BRIER] + t, at] = (share - seen) ** 2
        if rows[BRIER_FAIR] >= 0:
            floats[rows[BRIER_FAIR] + t, at] = (share - seen) ** 2 - share * (1 - share) * unbiased


@_jit
def _write_crps(absolute, spread, a, b, out):
    for lane in range(len(out)):
        out[lane] = absolute[lane] * a - spread[lane] * b


@_jit
def _write_variance(first, second, members, out):
    """From integers without rounding before the last product."""
    half, factor = 0.5 * members, 1.0 / (members * (members - 1.0)) if members > 1 else np.nan
    for lane in range(len(out)):
        e = np.float64(first[lane])
        out[lane] = (half * second[lane] - e * e) * factor


@_jit
def _write_mean_error(centre, y, first, members, kind, out):
    share = 1.0 / members
    for lane in range(len(out)):
        error = _wide(_wide(centre[lane]) - y[lane]) + first[lane] * share
        out[lane] = error if kind == BIAS else abs(error) if kind == ABSOLUTE_ERROR else error * error


@_jit
def _write_brier(beyond, seen, members, penalty, out):
    share = 1.0 / members
    for lane in range(len(out)):
        p = beyond[lane] * share
        error = p - (1.0 if seen[lane] else 0.0)
        out[lane] = error * error - p * (1.0 - p) * penalty


@_jit
def _write_tile(members, sums, counts, beyond, seen, at, end, floats, rows, integers, integer_rows):
    """Write the statistics of the lanes of a tile to columns at..end."""
    share, unbiased = 1.0 / members, 1.0 / (members - 1) if members > 1 else np.nan
    if rows[CRPS] >= 0:
        _write_crps(sums[1], sums[2], share, share * share, floats[rows[CRPS], at:end])
    if rows[CRPS_FAIR] >= 0:
        _write_crps(sums[1], sums[2], share, share * unbiased, floats[rows[CRPS_FAIR], at:end])
    if rows[VARIANCE] >= 0:
        _write_variance(sums[3], sums[4], members, floats[rows[VARIANCE], at:end])
    for k in (BIAS, SQUARED_ERROR, ABSOLUTE_ERROR):
        if rows[k] >= 0:
            _write_mean_error(sums[5], sums[0], sums[3], members, k, floats[rows[k], at:end])
    if integer_rows[RANK] >= 0:
        integers[integer_rows[RANK], at:end] = counts[0, : end - at]
        integers[integer_rows[TIES], at:end] = counts[1, : end - at]
    if integer_rows[PRESENT] >= 0:
        integers[integer_rows[PRESENT], at:end] = members
    for t in range(len(beyond)):
        if integer_rows[EXCEEDING] >= 0:
            integers[integer_rows[EXCEEDING] + t, at:end] = beyond[t, : end - at]
        if rows[BRIER] >= 0:
            _write_brier(beyond[t], seen[t], members, 0.0, floats[rows[BRIER] + t, at:end])
        if rows[BRIER_FAIR] >= 0:
            _write_brier(beyond[t], seen[t], members, unbiased, floats[rows[BRIER_FAIR] + t, at:end])


@_reassociated
def _sum(values):
    total = 0.0
    for i in range(len(values)):
        total += values[i]
    return total


@_reassociated
def _weighted_sum(values, weights):
    total = 0.0
    for i in range(len(values)):
        total += weights[i] * values[i]
    return total


@_jit
def _add_finite(floats, at, share, weighted, group, step, totals, norms):
    """Add lanes without NaN or infinity to their groups: all to one, or each to the next."""
    width = len(share)
    if step == 0:
        norm = _sum(share) if weighted else float(width)
        for row in range(len(floats)):
            values = floats[row, at : at + width]
            totals[row, group] += _weighted_sum(values, share) if weighted else _sum(values)
            norms[row, group] += norm
        return
    for row in range(len(floats)):
        values = floats[row, at : at + width]
        total, norm_row = totals[row, group : group + width], norms[row, group : group + width]
        for i in range(width):
            total[i] += share[i] * values[i]
            norm_row[i] += share[i]


@_jit
def _add_any(floats, at, share, group, step, omit, totals, norms):
    """The same where lanes may hold NaN: left out with `omit`, and always where they have no weight."""
    for i in range(len(share)):
        if share[i] > 0:
            for row in range(len(floats)):
                value = floats[row, at + i]
                if value == value or not omit:
                    totals[row, group + step * i] += share[i] * value
                    norms[row, group + step * i] += share[i]


@_jit
def _add_rank(histogram, below, ties, weight):
    """One point; a tie of t members is shared among t + 1 places."""
    part = weight / (ties + 1)
    for place in range(below, below + ties + 1):
        histogram[place] += part


@_jit
def _count_any(absolute, counts, beyond, seen, at, share, group, step, missing, histogram, events):
    """Count ranks and events of the lanes from `at` on that have all of their members and a weight."""
    for i in range(len(share)):
        lane, g = at + i, group + step * i
        if share[i] > 0:
            if absolute[lane] != absolute[lane]:
                missing[g] += 1
                continue
            if len(histogram) > 0:
                _add_rank(histogram[g], counts[0, lane], counts[1, lane], share[i])
            for t in range(len(beyond)):
                k = beyond[t, lane]
                events[0, t, g, k] += share[i]
                if seen[t, lane]:
                    events[1, t, g, k] += share[i]


@_jit
def _count_ranks(below, ties, bins, histogram):
    """Count lanes of weight 1; those with few ties in integers, bins[ties, below], and shared out at the end."""
    bins[:] = 0
    most = 0
    for lane in range(len(below)):
        if ties[lane] < len(bins):
            bins[np.uint32(ties[lane]), np.uint32(below[lane])] += np.int32(1)
            most |= ties[lane]
        else:
            _add_rank(histogram, below[lane], ties[lane], 1.0)
    for t in range(min(most + 1, len(bins))):
        row, part = bins[t], 1.0 / (t + 1)
        for place in range(t + 1):
            shifted = histogram[place:]
            for k in range(len(shifted)):
                shifted[k] += part * row[k]


@_jit
def _count_events(beyond, seen, bins, everything, those_seen):
    """The same, by the number of members beyond a threshold."""
    bins[:2] = 0
    for lane in range(len(beyond)):
        bins[np.uint32(seen[lane]), np.uint32(beyond[lane])] += np.int32(1)
    for k in range(len(everything)):
        everything[k] += bins[0, k] + bins[1, k]
        those_seen[k] += bins[1, k]


def _score(forecast, truth, low, high, omit, start, stop, room, thresholds, out, groups, sums):
    """Statistics of points start..stop, written to `out` or added to `sums`; returns how many of them hold a NaN.

    forecast (outer, member, inner) and truth (outer * inner) are contiguous. A point with a NaN gets NaN (rank: -1),
    or with `omit` what its remaining members give.
    """
    # tuples are taken apart once: handing one on counts references to all of its arrays, for every tile
    tile, level, work, counts, beyond, seen, tally, narrow, bins = room
    limits_forecast, limits_truth, always, size = thresholds
    floats, rows, integers, integer_rows = out
    run, firsts, step, weight_firsts, weight_step, weights = groups
    offset, totals, norms, missing, histogram, events = sums
    y, absolute, members, weighted = work[0], work[1], forecast.shape[1], len(weights) > 0
    crps = rows[CRPS] >= 0 or rows[CRPS_FAIR] >= 0
    moments = rows[VARIANCE] >= 0 or rows[BIAS] >= 0 or rows[SQUARED_ERROR] >= 0 or rows[ABSOLUTE_ERROR] >= 0
    ranks = integer_rows[RANK] >= 0
    scratch, shares = np.empty(members, np.float64), np.ones(LANES)
    incomplete = 0
    for base in range(start, stop, LANES):
        end = min(base + LANES, stop)
        at = 0 if run > 0 else base
        _load(forecast, tile, base, end - base)
        _load_truth(truth[base:end], level, y)
        _absolute_errors(tile, level, y, absolute, narrow[0])
        if ranks:
            _rank(tile, level, counts[0], counts[1], tally)
        if len(limits_forecast) > 0:
            _find_events(tile, level, tally[0], limits_forecast, limits_truth, always, size, beyond, seen)
        if crps:
            _sort(tile, low, high)
        if moments:
            _moments(tile, work[2], work[3], work[4], work[5], narrow[0], narrow[1])
        elif crps:
            _half_gini(tile, work[2])
        _write_tile(members, work, counts, beyond, seen, at, at + end - base, floats, rows, integers, integer_rows)
        finite = _finite(absolute[: end - base])
        if not finite:
            for lane in range(end - base):
                if absolute[lane] != absolute[lane]:
                    incomplete += 1
                    _score_incomplete(forecast, y[lane], base + lane, at + lane, omit, scratch, thresholds, out)
        n = base if run > 0 else end
        while n < end:  # a stretch of the tile in one run of a group
            r, j = divmod(n, run)
            width, lane = min(end - n, run - j), n - base
            group = firsts[r] + step * j - offset
            share = shares[:width]
            if weighted:
                first = weight_firsts[r] + weight_step * j
                for i in range(width):
                    share[i] = weights[first + weight_step * i]
            if finite:
                _add_finite(floats, lane, share, weighted, group, step, totals, norms)
            else:
                _add_any(floats, lane, share, group, step, omit, totals, norms)
            if not finite or weighted or step > 0:
                _count_any(absolute, counts, beyond, seen, lane, share, group, step, missing, histogram, events)
            else:
                if len(histogram) > 0:
                    _count_ranks(counts[0, lane : lane + width], counts[1, lane : lane + width], bins, histogram[group])
                for t in range(len(beyond)):
                    stretch = slice(lane, lane + width)
                    _count_events(beyond[t, stretch], seen[t, stretch], bins, events[0, t, group], events[1, t, group])
            n += width
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
