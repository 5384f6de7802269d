"""The frequency at which a wake sheds, with its uncertainty, from a lift history or any probe.

    St = f L / U,   f = 1 / T,   T = (t_n - t_0) / n from n + 1 upward zero crossings t_i

The length of a record bounds the resolution of its spectrum, but not that of its mean period: the spectrum only finds
the peak. The signal is then freed of what is slower than a period (its running mean over one) and smoothed over a
tenth of one; its zero crossings are interpolated between samples.

**Uncertainty.** A period differs from the mean for two reasons: the flow's own phase wanders (w_i, adds up over the
record) and the crossings are found with an error (e_i, which cancels between neighbouring periods):
T_i = T + w_i + e_(i+1) - e_i. The first two autocovariances of the periods tell them apart. Where c_1 < 0, w is taken
as white: var(e) = -c_1, var(w) = c_0 + 2 c_1, and the mean period has the variance var(w)/n + 2 var(e)/n^2. Where
c_1 > 0, w is taken as autoregressive with r = c_1 / c_0, which leaves n (1 - r) / (1 + r) independent periods.
The result is one standard error.
"""

from __future__ import annotations

import math

import numpy as np

PERIODS = 5  # fewer in a record make no statistics
SAMPLES = 6  # fewer in a period cannot be told from noise
ENOUGH = 64  # in a period
SHARE = 0.35  # of the variance, that a shedding signal has within a quarter of its peak frequency
DECAY = 0.5  # amplitude of the last third of a record, relative to the first, below which the oscillation dies out
FLOOR = 1e-3  # standard deviation of a lift coefficient below which nothing sheds
NOTHING = (math.nan, math.nan)


def strouhal_number(lift: np.ndarray, interval: float, *, length: float, velocity: float) -> tuple[float, float]:
    """(St, standard error) of a lift coefficient (samples,) taken every `interval` ticks; NaN where nothing sheds.

    Of several obstacles, (bodies, samples), the one whose lift varies most decides.
    """
    signals = np.atleast_2d(np.asarray(lift, float))
    deviations = [np.std(signal[np.isfinite(signal)]) if np.isfinite(signal).any() else 0.0 for signal in signals]
    strongest = int(np.argmax(deviations))
    if deviations[strongest] < FLOOR:
        return NOTHING
    frequency, error = shedding_frequency(signals[strongest], interval)
    return frequency * length / velocity, error * length / velocity


def shedding_frequency(signal: np.ndarray, interval: float = 1.0) -> tuple[float, float]:
    """(frequency, standard error), cycles per unit of `interval`, of a signal (samples,); NaN where it has none.

    It has none when it is short (fewer than 5 periods), dies out, or has no peak in its spectrum. Missing samples
    are allowed at its ends.
    """
    good = np.flatnonzero(np.isfinite(signal))
    if good.size < PERIODS * SAMPLES:
        return NOTHING
    signal = np.asarray(signal[good[0] : good[-1] + 1], float)
    period = _rough_period(signal)
    if not math.isfinite(period) or not np.isfinite(signal).all():
        return NOTHING
    if (width := int(period / ENOUGH)) > 1:  # long records of every tick: means over blocks lose nothing
        signal = signal[: len(signal) // width * width].reshape(-1, width).mean(axis=1)
        period, interval = period / width, interval * width
    wave = _band(signal, period)
    thirds = [part.std() for part in np.array_split(wave, 3)]
    if thirds[2] < DECAY * thirds[0]:
        return NOTHING
    times = _upward_crossings(wave)
    if len(times) <= PERIODS:
        return NOTHING
    mean, error = mean_period(times)
    return 1 / (mean * interval), error / (mean**2 * interval)


def mean_period(times: np.ndarray) -> tuple[float, float]:
    """(mean, standard error of the mean) of the periods between successive crossing times (n + 1,)."""
    periods = np.diff(times)
    n, mean = len(periods), float(periods.mean())
    deviation = periods - mean
    c = [float(deviation[: n - k] @ deviation[k:]) / (n - 1) for k in (0, 1)]
    correlation = c[1] / c[0] if c[0] > 0 else 0.0
    if correlation > 0:
        correlation = min((1 + n * correlation) / (n - 3), 0.95)  # its estimate is low by about (1 + 3 r) / n
        wander, jitter = c[0] * (1 + correlation) / (1 - correlation), 0.0
    else:
        wander, jitter = max(0.0, c[0] + 2 * c[1]), -c[1]
    return mean, math.sqrt(wander / n + 2 * jitter / n**2)


def _rough_period(signal: np.ndarray) -> float:
    """Samples in a period at the peak of the spectrum; NaN where no peak stands out."""
    signal = signal[len(signal) % 1024 :] if len(signal) > 2**14 else signal  # prime lengths are slow to transform
    n = len(signal)
    x = np.arange(n) - (n - 1) / 2
    straight = signal - signal.mean()
    straight -= x * (x @ straight / (x @ x))  # the straight line of least squares
    spectrum = np.abs(np.fft.rfft(straight * np.hanning(n))) ** 2
    low, high = PERIODS - 2, n // SAMPLES  # cycles in the record
    if high <= low or not spectrum[low:].sum() > 0:
        return math.nan
    peak = low + int(np.argmax(spectrum[low : high + 1]))
    near = spectrum[max(low, math.floor(0.75 * peak)) : math.ceil(1.25 * peak) + 1]
    return n / peak if near.sum() > SHARE * spectrum[low:].sum() else math.nan


def _band(signal: np.ndarray, period: float) -> np.ndarray:
    """The signal without what is much slower than a period, or faster than a tenth of one."""
    smooth = _running_mean(signal, max(1, round(period / 20)))
    slow = _running_mean(_running_mean(signal, max(1, round(period / 2))), max(1, round(period / 2)))
    cut = (len(smooth) - len(slow)) // 2
    return smooth[cut : cut + len(slow)] - slow


def _running_mean(signal: np.ndarray, half: int) -> np.ndarray:
    """Mean over 2 half + 1 samples about each sample that has them all."""
    total = np.cumsum(np.concatenate([[0.0], signal - signal.mean()]))
    width = 2 * half + 1
    return (total[width:] - total[:-width]) / width + signal.mean()


def _upward_crossings(wave: np.ndarray) -> np.ndarray:
    """Interpolated times at which the wave rises through zero, from below to above a quarter of its deviation.

    Where noise crosses several times in one rise, the mean of the first and the last one counts.
    """
    level = wave.std() / 4
    far = np.flatnonzero(np.abs(wave) > level)
    above = wave[far] > 0
    rises = np.flatnonzero(~above[:-1] & above[1:])
    times = []
    for begin, end in zip(far[rises], far[rises + 1], strict=True):
        part = wave[begin : end + 1]
        crossings = np.flatnonzero((part[:-1] < 0) & (part[1:] >= 0))
        fractions = part[crossings] / (part[crossings] - part[crossings + 1])
        found = begin + crossings + fractions
        times.append((found[0] + found[-1]) / 2)
    return np.array(times)
