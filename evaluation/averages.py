"""Averages of pointwise statistics, block by block: nothing of the size of a statistic is ever made.

Each block of forecast and truth gives, for the groups of points that are averaged together,

    sums of weight times statistic, sums of weights        (what is counted: sums of weights)

on the dimensions kept. Sums of blocks add up, whatever the blocks are: in a tree over dask's chunks, or one after the
other over the chunks of a file. The division comes last.
"""

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from .pointwise import THRESHOLD_NAMES, EnsembleSums, ensemble_sums

BLOCK_BYTES = 1 << 23
"""Blocks of a forecast that is not in memory are made of whole chunks of its file up to this size, or of one chunk."""

_Block = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Request:
    """What is to be averaged or counted, and how: names of float statistics, ranks, events beyond thresholds."""

    names: tuple[str, ...]
    nan_policy: str = "propagate"
    ranks: bool = False
    thresholds: tuple[float, ...] = ()
    absolute: bool = True


def averages(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    member_dim: str,
    dims: Sequence[Hashable],
    weights: xr.DataArray | None,
    request: Request,
) -> dict[str, xr.DataArray]:
    """Averages over `dims` (not empty) of matching arrays (`dims.pair`), by name, on the dimensions kept.

    Also `missing`, the number of points of positive weight that hold a NaN; with ranks `histogram` (..., rank), with
    thresholds `events` (..., role, threshold, exceeding), role 0 counting all points and 1 those with the truth beyond.
    """
    points = [d for d in forecast.dims if d != member_dim]
    members, steps = forecast.sizes[member_dim], len(request.thresholds)
    axes = [points.index(d) for d in dims]
    light = None if weights is None else weights.transpose(*(d for d in points if d in weights.dims))
    weighted = [] if light is None else [d in light.dims for d in points]
    lazy = forecast.chunks is not None or truth.chunks is not None

    def block(f: np.ndarray, y: np.ndarray, w: np.ndarray | None = None) -> np.ndarray:
        if w is not None:
            w = w.reshape([next(rest) if has else 1 for rest in [iter(w.shape)] for has in weighted])
        sums = ensemble_sums(
            f,
            y,
            axis=forecast.dims.index(member_dim),
            over=axes,
            names=request.names,
            weights=w,
            nan_policy=request.nan_policy,
            threads=1 if lazy else None,
            ranks=request.ranks,
            thresholds=request.thresholds,
            absolute=request.absolute,
        )
        return _packed(sums, request.names)

    size = _packed_size(request, members)
    run = _over_chunks if lazy else _over_blocks
    packed = run(block, forecast, truth, light, member_dim, axes, size)
    whole = xr.apply_ufunc(
        lambda *_: packed,
        _light(forecast),
        _light(truth),
        input_core_dims=[[member_dim, *dims], list(dims)],
        output_core_dims=[["_sum"]],
        join="exact",
    )
    return _unpacked(whole, request, members, steps)


def _packed(sums: EnsembleSums, names: Sequence[str]) -> np.ndarray:
    """All sums behind one last axis."""
    parts = []
    for values in (sums.totals, sums.norms):
        parts += [np.moveaxis(values[n], 0, -1) if n in THRESHOLD_NAMES else values[n][..., None] for n in names]
    parts.append(sums.missing[..., None].astype(np.float64))
    if sums.histogram is not None:
        parts.append(sums.histogram)
    if sums.events is not None:
        events = np.moveaxis(sums.events, (0, 1), (-3, -2))
        parts.append(events.reshape(*events.shape[:-3], -1))
    return np.concatenate(parts, axis=-1)


def _packed_size(request: Request, members: int) -> int:
    steps = len(request.thresholds)
    rows = sum(steps if n in THRESHOLD_NAMES else 1 for n in request.names)
    return 2 * rows + 1 + (members + 1 if request.ranks else 0) + 2 * steps * (members + 1)


def _unpacked(whole: xr.DataArray, request: Request, members: int, steps: int) -> dict[str, xr.DataArray]:
    at, found = 0, {}

    def take(n: int) -> xr.DataArray:
        nonlocal at
        at += n
        return whole.isel(_sum=slice(at - n, at))

    widths = [steps if n in THRESHOLD_NAMES else 1 for n in request.names]
    totals = [take(width) for width in widths]
    for name, width, total in zip(request.names, widths, totals, strict=True):
        norm = take(width)
        mean = total / norm.where(norm > 0)
        found[name] = mean.rename(_sum="threshold") if name in THRESHOLD_NAMES else mean.isel(_sum=0)
    found["missing"] = take(1).isel(_sum=0)
    if request.ranks:
        found["histogram"] = take(members + 1).rename(_sum="rank")
    if steps:
        events = take(2 * steps * (members + 1))
        sizes = {"role": 2, "threshold": steps, "exceeding": members + 1}
        found["events"] = xr.apply_ufunc(
            lambda a: a.reshape(*a.shape[:-1], *sizes.values()),
            events,
            input_core_dims=[["_sum"]],
            output_core_dims=[list(sizes)],
            dask="allowed",
        )
    return found


def _light(array: xr.DataArray) -> xr.DataArray:
    """The same dimensions, coordinates and attributes around next to no data."""
    return array.copy(data=np.broadcast_to(np.zeros((), np.int8), array.shape))


def _over_chunks(
    block: _Block,
    forecast: xr.DataArray,
    truth: xr.DataArray,
    weights: xr.DataArray | None,
    member_dim: str,
    axes: Sequence[int],
    size: int,
) -> np.ndarray:
    """Sums of dask's chunks, added up in a tree; lazy."""
    import dask.array as da

    points = [d for d in forecast.dims if d != member_dim]
    if forecast.chunks is None:
        forecast = forecast.chunk({d: truth.chunksizes[d] for d in points})
    forecast = forecast.chunk({member_dim: -1})
    if truth.chunks is None:
        truth = truth.chunk({d: forecast.chunksizes[d] for d in points})
    forecast, truth = xr.unify_chunks(forecast, truth)
    operands = [forecast.data, forecast.dims, truth.data, truth.dims]
    if weights is not None:
        whole = np.asarray(weights.values)
        operands += [da.from_array(whole, chunks=tuple(truth.chunksizes[d] for d in weights.dims)), weights.dims]

    def one(*arrays: np.ndarray) -> np.ndarray:
        return np.expand_dims(block(*arrays), tuple(sorted(axes)))

    parts = da.blockwise(
        one,
        (*points, "_sum"),
        *operands,
        new_axes={"_sum": size},
        adjust_chunks={points[k]: lambda n: 1 for k in axes},
        concatenate=True,
        dtype=np.float64,
        meta=np.empty((0,) * (len(points) + 1)),
    )
    return parts.sum(axis=tuple(axes))


def _over_blocks(
    block: _Block,
    forecast: xr.DataArray,
    truth: xr.DataArray,
    weights: xr.DataArray | None,
    member_dim: str,
    axes: Sequence[int],
    size: int,
) -> np.ndarray:
    """Sums of blocks, one after the other."""
    points = [d for d in forecast.dims if d != member_dim]
    sizes = _block_sizes(forecast, member_dim)
    kept = [k for k in range(len(points)) if k not in axes]
    total = np.zeros([*(forecast.sizes[points[k]] for k in kept), size])
    for place, arrays in _blocks(forecast, truth, points, sizes):
        pick = dict(zip(points, place, strict=True))
        if weights is not None:
            arrays = (*arrays, weights.isel({d: pick[d] for d in weights.dims}).values)
        total[tuple(place[k] for k in kept)] += block(*arrays)
        del arrays  # before the next is read
    return total


def _in_memory(array: xr.DataArray) -> bool:
    return bool(getattr(array.variable, "_in_memory", True))


def _block_sizes(forecast: xr.DataArray, member_dim: str) -> dict[Hashable, int]:
    """How many points of each dimension a block has: all of them if the array can be scored where it is."""
    points = [d for d in forecast.dims if d != member_dim]
    if _in_memory(forecast) and forecast.dtype in (np.uint8, np.float32, np.float64) and _without_gaps(forecast.values):
        return {d: forecast.sizes[d] for d in points}
    chunks = {} if _in_memory(forecast) else forecast.encoding.get("preferred_chunks", {})
    sizes = {d: min(forecast.sizes[d], int(chunks.get(d, 1))) or 1 for d in points}
    used = forecast.dtype.itemsize * forecast.sizes[member_dim] * int(np.prod(list(sizes.values())))
    for d in reversed(points):
        times = max(1, min(-(-forecast.sizes[d] // sizes[d]), BLOCK_BYTES // max(used, 1)))
        sizes[d] = min(forecast.sizes[d], times * sizes[d]) or 1
        used *= times
    return sizes


def _without_gaps(array: np.ndarray) -> bool:
    order = sorted(range(array.ndim), key=lambda k: -abs(array.strides[k]))
    return bool(array.flags.c_contiguous or array.transpose(order).flags.c_contiguous)


def _blocks(
    forecast: xr.DataArray,
    truth: xr.DataArray,
    points: Sequence[Hashable],
    sizes: dict[Hashable, int],
) -> Iterator[tuple[tuple[slice, ...], tuple[np.ndarray, ...]]]:
    """Blocks with their place, one at a time: reading ahead would cost a third block and gain little."""
    ranges = [
        [slice(a, min(a + sizes[d], forecast.sizes[d])) for a in range(0, forecast.sizes[d], sizes[d])] for d in points
    ]
    places = itertools.product(*ranges)

    def load(place: tuple[slice, ...]) -> tuple[np.ndarray, ...]:
        pick = dict(zip(points, place, strict=True))
        return forecast.isel(pick).values, truth.isel(pick).values

    yield from ((place, load(place)) for place in places)
