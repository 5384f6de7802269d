"""Spectra in time at a place, and the frequency at which a wake sheds, with its uncertainty.

    power(f) = variance of the series by frequency, one-sided, sum over f = variance         f = 1/N, 2/N, ... 1/2
    St       = f L / U                                                                      Strouhal number

A record of N frames tells frequencies apart that differ by 1/N: 16 frames give 1/16 and no Strouhal number worth the
name. A tone in a long record is found far more precisely than 1/N, because its phase can be followed:

  1. The spectrum (Hann window) gives a first f_0; a peak must stand out, else there is no frequency (NaN).
  2. The record is cut into n + 1 stretches of two periods. A window sin^2 over a stretch has its zeros at 0 and at the
     image of the tone, so that the phase p_i of exp(-2 pi i f_0 t) in each is not disturbed by the mean.
  3. f = f_0 + (p_n - p_0) / (2 pi n T), T the length of a stretch.

**Standard error.** The phase is measured with an error e_i, independent between stretches, and the flow's own phase
wanders by w_i per stretch: d_i = p_(i+1) - p_i = c + w_i + e_(i+1) - e_i. The first two autocovariances of d tell them
apart, var(e) = -c_1 and var(w) = c_0 + 2 c_1 (both at least 0), and the mean of the n differences has the variance
var(w)/n + 2 var(e)/n^2.
"""

import math

import numpy as np
import xarray as xr

from .dims import over
from .errors import EvaluationError

STRETCH = 2  # periods
STRETCHES = 5  # fewer make no error estimate
SAMPLES = 4  # in a period, at least
CAUTION = 1.0  # standard deviations of c_1 that it must lie below 0 before measurement error explains the scatter
FLOOR = 1e-3  # cycles in a record, the error that is left where there is no noise
SHARE = 0.45  # of the variance, that a shedding signal has within a quarter of its peak frequency


def frequencies(length: int) -> np.ndarray:
    """Of `temporal_power` for records of this length, in cycles per frame: 1/N to 1/2."""
    return np.fft.rfftfreq(length)[1:]


def temporal_power(series: np.ndarray, *, window: str = "hann", segment: int | None = None) -> np.ndarray:
    """Variance by frequency of series (..., time), float64 (..., frequency); the sum over frequencies is the variance.

    The mean is removed, `window` ("hann" or "none") applied and accounted for, as in `evaluation.spectra`. `segment`
    averages over pieces of that many frames, overlapping by half (Welch 1967, doi:10.1109/TAU.1967.1161901): coarser
    and less noisy. Raises EvaluationError for fewer than 4 frames, or a segment longer than the record.
    """
    length = series.shape[-1]
    size = length if segment is None else int(segment)
    if size < 4 or size > length:
        raise EvaluationError(f"a spectrum in time needs 4 frames or more in a segment, got {size} of {length}")
    if window not in ("hann", "none"):
        raise EvaluationError(f'unknown window {window!r}: choose "hann" or "none"')
    shape = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2 if window == "hann" else np.ones(size)
    starts = range(0, length - size + 1, max(1, size // 2))
    twice = np.full(size // 2, 2.0)
    if size % 2 == 0:
        twice[-1] = 1.0
    total = np.zeros((*series.shape[:-1], size // 2))
    for start in starts:
        piece = series[..., start : start + size].astype(np.float64)
        piece = (piece - (piece @ (shape / shape.sum()))[..., None]) * shape
        modes = np.fft.rfft(piece)[..., 1:]
        total += twice * (np.square(modes.real) + np.square(modes.imag))
    return total / (len(starts) * size * np.square(shape).sum())


def peak_frequency(series: np.ndarray, *, resolution: float | None = None) -> tuple[float, float]:
    """(frequency, standard error) of the strongest tone of a series (time,), in cycles per frame; NaN without one.

    `resolution` is how near to each other, in cycles per frame, two frequencies may be that should be told apart.
    Raises EvaluationError for a record that is too short for it, or that cannot hold a tone for 12 periods of 4
    frames. NaN where no peak stands out, where it is too slow or too fast to be followed, or where a value is missing.
    """
    length = len(series)
    least = SAMPLES * STRETCH * (STRETCHES + 1)
    needed = least if resolution is None else max(least, math.ceil(1 / resolution - 1e-9))
    if length < needed:
        asked = (
            ""
            if resolution is None
            else f", a resolution of {resolution:g} at least {math.ceil(1 / resolution - 1e-9)}"
        )
        raise EvaluationError(
            f"{length} frames tell frequencies apart to {1 / length:.3g} cycles per frame, too short a record for a "
            f"peak frequency: any needs at least {least} frames{asked}"
        )
    if not np.isfinite(series).all():
        return math.nan, math.nan
    rough = _rough(np.asarray(series, np.float64))
    return _refined(np.asarray(series, np.float64), rough) if math.isfinite(rough) else (math.nan, math.nan)


def strouhal_number(
    series: xr.DataArray,
    *,
    length: float,
    velocity: float,
    interval: float = 1.0,
    resolution: float | None = None,
    time_dim: str = "time",
) -> xr.Dataset:
    """Strouhal number f L / U of each series along `time_dim`, and its standard error: `strouhal`, `standard_error`.

    `length` L in cells, `velocity` U in cells per tick, `interval` in ticks per frame; `resolution` in cycles per
    frame. Method and what NaN means: `evaluation.temporal`. Truth and forecast agree where their difference is within
    about two of its standard errors. Raises EvaluationError where the record is too short (see `peak_frequency`).
    """
    over(series, time_dim)
    if not (length > 0 and velocity > 0 and interval > 0):
        raise EvaluationError(f"length, velocity and interval must be above 0, got {length}, {velocity}, {interval}")
    factor = length / (velocity * interval)

    def each(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = values.reshape(-1, values.shape[-1])
        found = np.array([peak_frequency(row, resolution=resolution) for row in rows]).reshape(-1, 2) * factor
        return found[:, 0].reshape(values.shape[:-1]), found[:, 1].reshape(values.shape[:-1])

    if series.sizes[time_dim] < SAMPLES * STRETCH * (STRETCHES + 1):
        peak_frequency(np.zeros(series.sizes[time_dim]), resolution=resolution)  # refuses
    if series.chunks is not None:
        series = series.chunk({time_dim: -1})
    value, error = xr.apply_ufunc(
        each,
        series,
        input_core_dims=[[time_dim]],
        output_core_dims=[[], []],
        dask="parallelized",
        output_dtypes=[np.float64] * 2,
    )
    return xr.Dataset(
        {
            "strouhal": value.assign_attrs(long_name="Strouhal number", units="1"),
            "standard_error": error.assign_attrs(long_name="standard error of the Strouhal number", units="1"),
        }
    )


def temporal_spectrum(
    series: xr.DataArray, *, window: str = "hann", segment: int | None = None, time_dim: str = "time"
) -> xr.DataArray:
    """`temporal_power` along `time_dim`: variance by `frequency` (cycles per frame), other dimensions kept.

    Of single members, to be averaged afterwards. A NaN in a series makes its spectrum NaN.
    """
    over(series, time_dim)
    size = series.sizes[time_dim] if segment is None else int(segment)
    temporal_power(np.zeros(series.sizes[time_dim]), window=window, segment=segment)  # refuses what it would later
    if series.chunks is not None:
        series = series.chunk({time_dim: -1})
    result = xr.apply_ufunc(
        temporal_power,
        series,
        input_core_dims=[[time_dim]],
        output_core_dims=[["frequency"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"frequency": size // 2}},
        kwargs={"window": window, "segment": segment},
    )
    unit = series.attrs.get("units")
    attrs = {"long_name": "variance by frequency", "window": window}
    if unit is not None:
        attrs["units"] = f"({unit})^2" if unit != "1" else "1"
    frequency = xr.DataArray(frequencies(size), dims="frequency", attrs={"units": "cycles per frame"})
    return result.rename("spectrum").assign_attrs(attrs).assign_coords(frequency=frequency)


def _rough(signal: np.ndarray) -> float:
    """Frequency of the peak of the spectrum, between its bins; NaN where none stands out or it cannot be followed."""
    length = len(signal)
    t = np.arange(length) - (length - 1) / 2
    signal = signal - signal.mean()
    signal = signal - t * (t @ signal) / (t @ t)
    power = temporal_power(signal)
    f = frequencies(length)
    allowed = (f >= STRETCH * (STRETCHES + 1) / length * (1 - 1e-9)) & (f <= 1 / SAMPLES)
    if not power.sum() > 1e-24 * max(1.0, float(np.square(signal).max())):
        return math.nan
    peak = int(np.argmax(power))
    near = power[(f >= 0.75 * f[peak] - 1 / length) & (f <= 1.25 * f[peak] + 1 / length)]
    if not allowed[peak] or near.sum() < SHARE * power.sum():
        return math.nan
    around = np.sqrt(power[peak - 1 : peak + 2])
    return float(f[peak] + (around[2] - around[0]) / (2 * around[1] + around[0] + around[2]) * 2 / length)


def _refined(signal: np.ndarray, rough: float) -> tuple[float, float]:
    """Frequency from the phases of successive stretches, and its standard error."""
    width = round(STRETCH / rough)
    count = len(signal) // width
    if count < STRETCHES + 1:
        return math.nan, math.nan
    signal = signal - signal.mean()
    offset = (len(signal) - count * width) // 2
    rows = signal[offset : offset + count * width].reshape(count, width)
    times = np.arange(count * width).reshape(count, width)
    weight = np.sin(np.pi * (np.arange(width) + 0.5) / width) ** 2
    phase = np.unwrap(np.angle((rows * weight * np.exp(-2j * np.pi * rough * times)).sum(axis=1)))
    d = np.diff(phase)
    n, mean = len(d), float(d.mean())
    rest = d - mean
    c0, c1 = float(rest @ rest) / (n - 1), float(rest[1:] @ rest[:-1]) / (n - 1)
    jitter = max(0.0, -c1 - CAUTION * c0 / math.sqrt(n))
    wander = max(0.0, c0 - 2 * jitter)
    scale = 1 / (2 * np.pi * width)
    error = math.sqrt(wander / n + 2 * jitter / n**2) * scale
    return rough + mean * scale, math.hypot(error, FLOOR / len(signal))
