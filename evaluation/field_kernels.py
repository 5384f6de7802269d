"""Compiled loops of the scores that look at whole fields: distances, increments, neighbourhoods.

All take float64 (or int64) arrays that hold no NaN, run in the calling thread and release the GIL; any number of
threads may call at once. `fastmath` is narrowed to "reassoc" and "contract", which let sums run in vector lanes (four
times faster) and assume nothing about NaN or infinity.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

TILE = 512
"""Cells of every member that are compared before the next ones are read: 32 members of them fit the second cache."""


def _cached(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled once per machine, or, where no folder can be written, once per process."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract"}}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:
        return numba.njit(function, **options)


@_cached
def squared_distances(fields, out):
    """Sum over cells of (fields[m] - fields[n])^2 for every n < m, into the lower triangle of out.

    Differences are taken before squares are: a Gram matrix would be as fast and lose the distance between members that
    are close to each other. fields (member, cell).
    """
    members, cells = fields.shape
    out[:] = 0.0
    for start in range(0, cells, TILE):
        stop = min(start + TILE, cells)
        for m in range(1, members):
            a = fields[m, start:stop]
            for n in range(m):
                b = fields[n, start:stop]
                total = 0.0
                for i in range(len(a)):
                    total += (a[i] - b[i]) * (a[i] - b[i])
                out[m, n] += total


@_cached
def _increments(a, b, p, out):
    """|a - b|^p."""
    if p == 0.5:
        for i in range(len(out)):
            out[i] = np.sqrt(abs(a[i] - b[i]))
    elif p == 1.0:
        for i in range(len(out)):
            out[i] = abs(a[i] - b[i])
    else:
        for i in range(len(out)):
            out[i] = abs(a[i] - b[i]) ** p


@_cached
def variogram_errors(members, truth, fluid, dy, dx, p, fair):
    """Sum over pairs of fluid cells (y, x), (y + dy, x + dx) of the squared error of the mean increment; their number.

    The increment of a field f over a pair is |f(y + dy, x + dx) - f(y, x)|^p; the error is that of its mean over
    members (member, y, x), with the variance of that mean taken off if `fair`.
    """
    count, rows, columns = members.shape
    top, left = max(0, -dy), max(0, -dx)
    height, width = rows - abs(dy), columns - abs(dx)
    total, pairs = 0.0, 0
    if height <= 0 or width <= 0:
        return total, pairs
    increment, observed, first, second = np.empty(width), np.empty(width), np.empty(width), np.empty(width)
    for y in range(top, top + height):
        here, there = slice(left, left + width), slice(left + dx, left + dx + width)
        _increments(truth[y, here], truth[y + dy, there], p, observed)
        first[:] = 0.0
        second[:] = 0.0
        for m in range(count):
            _increments(members[m, y, here], members[m, y + dy, there], p, increment)
            for i in range(width):
                error = increment[i] - observed[i]
                first[i] += error
                second[i] += error * error
        for i in range(width):
            if fluid[y, left + i] and fluid[y + dy, left + dx + i]:
                mean = first[i] / count
                square = mean * mean
                if fair:
                    square -= (second[i] / count - square) / (count - 1)
                total += square
                pairs += 1
    return total, pairs


@_cached
def pool(fields, step, largest, out):
    """Sum (or maximum) of blocks of step x step cells of fields (k, y, x), the last ones being smaller, into out."""
    for k in range(out.shape[0]):
        field, row = fields[k], out[k]
        for y in range(row.shape[0]):
            line = row[y]
            line[:] = -np.inf if largest else 0.0
            for j in range(y * step, min((y + 1) * step, field.shape[0])):
                source = field[j]
                for x in range(len(line)):
                    total = line[x]
                    for i in range(x * step, min((x + 1) * step, len(source))):
                        total = max(total, source[i]) if largest else total + source[i]
                    line[x] = total


@_cached
def _integral(values, fluid, table):
    """table[y, x] = sum of values over fluid cells above and left of (y, x)."""
    for y in range(values.shape[0]):
        row = 0
        for x in range(values.shape[1]):
            if fluid[y, x]:
                row += values[y, x]
            table[y + 1, x + 1] = table[y, x + 1] + row


@_cached
def fraction_errors(beyond, event, fluid, windows, members, error, reference):
    """For each window: sums over fluid cells of (p - o)^2, into error, and of p^2 + o^2, into reference.

    p is the fraction of members and fluid cells of the window around a cell that beyond (y, x; members beyond the
    threshold) counts, o that of cells in event (y, x; 0 or 1).
    """
    rows, columns = fluid.shape
    forecast, observed, cells = (
        np.zeros((rows + 1, columns + 1), np.int64),
        np.zeros((rows + 1, columns + 1), np.int64),
        np.zeros((rows + 1, columns + 1), np.int64),
    )
    _integral(beyond, fluid, forecast)
    _integral(event, fluid, observed)
    _integral(np.ones_like(event), fluid, cells)
    for w in range(len(windows)):
        half = windows[w] // 2
        difference, square = 0.0, 0.0
        for y in range(rows):
            top, bottom = max(0, y - half), min(rows, y + half + 1)
            for x in range(columns):
                if fluid[y, x]:
                    left, right = max(0, x - half), min(columns, x + half + 1)
                    number = cells[bottom, right] - cells[top, right] - cells[bottom, left] + cells[top, left]
                    p = forecast[bottom, right] - forecast[top, right] - forecast[bottom, left] + forecast[top, left]
                    o = observed[bottom, right] - observed[top, right] - observed[bottom, left] + observed[top, left]
                    fp, fo = p / (number * members), o / number
                    difference += (fp - fo) * (fp - fo)
                    square += fp * fp + fo * fo
        error[w] = difference
        reference[w] = square


@_cached
def count_values(field, fluid, low, per_unit, counts):
    """Add the cells of a field (cell) that are fluid to counts (bin) of bins of width 1 / per_unit from low on.

    Values beyond the bins count in the first and the last of them.
    """
    last = len(counts) - 1
    for i in range(len(field)):
        if fluid[i]:
            place = (field[i] - low) * per_unit
            counts[min(max(int(np.floor(place)), 0), last) if abs(place) < 1e9 else (0 if place < 0 else last)] += 1
