"""Spectra of fields in space: how much variance lives at which scale, and how much of it is in the right place.

    power(k)  = sum over modes of shell k of |a|^2         variance of the field in that shell, unit squared
    cross(k)  = sum over modes of shell k of Re(a conj b)  covariance of two fields in that shell

Shells are rings of width 1/L about the wavenumbers k = 1/L, 2/L, ... (cycles per cell, L the longer side in cells);
the wavelength is 1/k cells. Rings beyond k = 1/2 lie in the corners of the plane of wavenumbers and are not complete.
There is no shell 0: the mean is removed.

Frames of a flow are not periodic, and have walls. With window w (zero in walls) and the mean m that it gives,
sum w (x - m) = 0, the transformed field is w (x - m) and its spectrum is divided by the mean of w^2, so that the sum
over shells is the variance of x under the weights w^2, exactly:

    "hann"    w = sin^2 across the frame. Edges hardly count; neighbouring shells mix, the first most.
    "mirror"  w = 1, and the frame is continued by its mirror images, which are periodic (a cosine transform: Denis,
              Cote and Laprise 2002, doi:10.1175/1520-0493(2002)130<1812:SDOTDA>2.0.CO;2). Slopes at the edges leak.
    "none"    w = 1: for periodic frames.

Walls are filled with the mean. They act as one more window: sharp edges scatter variance to small scales, in the
forecast and the truth alike, so that the two remain comparable while slopes of either get flatter.

Spectra are those of single members, averaged afterwards: an ensemble mean is smooth because it is a mean.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from .errors import EvaluationError

Window = Literal["hann", "mirror", "none"]
WINDOWS = ("hann", "mirror", "none")
BANDS = ((np.inf, 32.0), (32.0, 16.0), (16.0, 8.0), (8.0, 4.0), (4.0, 2.0))
"""Wavelengths in cells, from long to short, that a band energy ratio is given for."""
COHERENT = 0.5
FLOOR = 1e-10  # of the strongest shell of the truth: variance below it is rounding


def wavenumbers(shape: Sequence[int]) -> np.ndarray:
    """Centres of the shells of fields (y, x) of this shape, in cycles per cell: 1/L, 2/L, ..."""
    longest = max(shape[-2:])
    return np.arange(1, _count(longest) + 1) / longest


def modes_per_shell(shape: Sequence[int], window: Window = "none") -> np.ndarray:
    """How many modes (numbers that can vary by themselves) each shell holds: white noise has power in proportion."""
    mirror = window == "mirror"
    ky, kx = (np.asarray(np.arange(n) / (2 * n) if mirror else np.fft.fftfreq(n), float) for n in shape[-2:])
    shell = _shell(np.hypot(ky[:, None], kx), max(shape[-2:]))
    return np.bincount(shell.ravel(), minlength=_count(max(shape[-2:])) + 1)[1:]


def shell_spectra(fields: np.ndarray, fluid: np.ndarray, *, window: Window = "hann", gradient: int = 0) -> np.ndarray:
    """Variance of each field (..., y, x) by shell, float64 (..., wavenumber), in the unit of the field, squared.

    `fluid` (y, x) says which cells count. `gradient` multiplies each mode by (2 pi k)^(2 gradient): -1 turns the
    spectrum of vorticity into that of velocity. Raises EvaluationError where no cell counts.
    """
    weight = _weight(fluid, window)
    shells = wavenumbers(fluid.shape).size
    out = np.empty((*fields.shape[:-2], shells))
    for where in np.ndindex(fields.shape[:-3]):
        out[where] = _gather(_power(_modes(fields[where], weight, window)), fluid.shape, window, gradient)
    return out


def cross_spectra(a: np.ndarray, b: np.ndarray, fluid: np.ndarray, *, window: Window = "hann") -> np.ndarray:
    """Covariance of a (..., y, x) and b by shell, (..., wavenumber). b may lack leading dimensions of a."""
    weight = _weight(fluid, window)
    modes_a, modes_b = _modes(a, weight, window), _modes(b, weight, window)
    return _gather(_cross(modes_a, modes_b), fluid.shape, window)


def case_spectra(
    members: np.ndarray, truth: np.ndarray, fluid: np.ndarray, *, window: Window = "hann"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Power of the members (their mean), power of the truth, and cross power (mean), each (lead, wavenumber).

    `members` (member, lead, y, x), `truth` (lead, y, x): every field is transformed once.
    """
    weight = _weight(fluid, window)
    out = np.empty((3, len(truth), wavenumbers(fluid.shape).size))
    for lead, observed in enumerate(truth):
        modes, modes_truth = _modes(members[:, lead], weight, window), _modes(observed, weight, window)
        mean = modes.mean(axis=0)  # the cross power is linear in the members
        for row, value in enumerate((_power(modes).mean(axis=0), _power(modes_truth), _cross(mean, modes_truth))):
            out[row, lead] = _gather(value, fluid.shape, window)
    return out[0], out[1], out[2]


def coherence(power: np.ndarray, power_truth: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Squared correlation of forecast and truth by shell, 0 to 1: cross^2 / (power power_truth), 0 where cross < 0.

    Of sums or means over cases and members. From n modes in all (of a shell, in all the cases averaged) it is on
    average 1/(2n), not 0, for fields that have nothing to do with each other. NaN where either has no variance.
    """
    product = power * power_truth
    squared = np.maximum(cross, 0) ** 2
    return np.divide(squared, product, out=np.full(np.shape(product), np.nan), where=product > 0)


def effective_resolution(
    power: np.ndarray, power_truth: np.ndarray, cross: np.ndarray, wavenumber: np.ndarray
) -> np.ndarray:
    """Wavelength in cells at which the squared coherence first falls below 1/2, going from large to small scales.

    Interpolated between shells, linearly in k. Smaller is better; 2 (the finest wave) if it never falls, inf if even
    the first shell is below: nothing is resolved. Shells beyond k = 1/2, or without variance, are not looked at.
    """
    squared = coherence(power, power_truth, cross)
    inside = wavenumber <= 0.5 * (1 + 1e-12)
    rows = squared[..., inside].reshape(-1, int(inside.sum()))
    found = [_crossing(row, wavenumber[inside]) for row in rows]
    return np.array(found).reshape(squared.shape[:-1])


def _crossing(squared: np.ndarray, wavenumber: np.ndarray) -> float:
    known = ~np.isnan(squared)
    squared, wavenumber = squared[known], wavenumber[known]
    below = np.flatnonzero(squared < COHERENT)
    if squared.size == 0:
        return np.nan
    if below.size == 0:
        return 2.0
    if (i := int(below[0])) == 0:
        return np.inf
    part = (squared[i - 1] - COHERENT) / (squared[i - 1] - squared[i])
    return 1 / (wavenumber[i - 1] + part * (wavenumber[i] - wavenumber[i - 1]))


def log_spectral_distance(power: np.ndarray, power_truth: np.ndarray) -> np.ndarray:
    """sqrt(mean over shells of (10 log10(power / power_truth))^2), in dB, >= 0; 0 is best.

    Every shell counts alike, however little variance it has; what is below 1e-10 of the truth's strongest shell is
    taken as that, which bounds the distance. NaN where the truth has no variance.
    """
    floor = FLOOR * power_truth.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(np.maximum(power, floor) / np.maximum(power_truth, floor))
    return np.sqrt(np.square(ratio).mean(axis=-1))


def band_energy_ratio(
    power: np.ndarray,
    power_truth: np.ndarray,
    wavenumber: np.ndarray,
    bands: Sequence[tuple[float, float]] = BANDS,
) -> np.ndarray:
    """Variance of the forecast over that of the truth in each band [long, short) of wavelengths, (..., band).

    1 is best; below it the forecast is too smooth at these scales. NaN in a band without shells or variance.
    """
    length = 1 / wavenumber
    out = np.full((*power.shape[:-1], len(bands)), np.nan)
    for i, (long, short) in enumerate(bands):
        if not long > short:
            raise EvaluationError(f"a band of wavelengths is [long, short), got ({long}, {short})")
        inside = (length <= long * (1 + 1e-12)) & (length > short * (1 + 1e-12))
        total, total_truth = power[..., inside].sum(axis=-1), power_truth[..., inside].sum(axis=-1)
        out[..., i] = np.divide(total, total_truth, out=out[..., i], where=total_truth > 0)
    return out


def _count(longest: int) -> int:
    """Shells up to the corner, where both wavenumbers are 1/2."""
    return int(longest * np.sqrt(0.5) + 0.5)


def _shell(k: np.ndarray, longest: int) -> np.ndarray:
    """Number of the shell; 0 for the mean alone."""
    return np.minimum(np.floor(k * longest + 0.5 + 1e-9).astype(np.int64), _count(longest))


@lru_cache(maxsize=16)
def _plan(shape: tuple[int, int], window: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Modes in the order of their shells, where each shell begins, how often each counts, and its k."""
    if window not in WINDOWS:
        raise EvaluationError(f"unknown window {window!r}: choose one of {', '.join(WINDOWS)}")
    size = (2 * shape[0], 2 * shape[1]) if window == "mirror" else shape
    ky, kx = np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None, :]
    k = np.hypot(ky, kx)
    twice = np.where((kx > 0) & (kx < 0.5), 2.0, 1.0) * np.ones_like(k)  # what rfft leaves out: the conjugates
    shell = _shell(k, max(shape)).ravel()
    order = np.argsort(shell, kind="stable")[1:]  # without the mean
    starts = np.searchsorted(shell[order], np.arange(1, _count(max(shape)) + 2))
    return order, starts, twice.ravel()[order], k.ravel()[order]


def _weight(fluid: np.ndarray, window: str) -> np.ndarray:
    """The window, zero in walls."""
    if not fluid.any():
        raise EvaluationError("no cell counts: a spectrum needs some fluid")
    if window != "hann":
        return fluid.astype(np.float64)
    y, x = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in fluid.shape)
    return np.outer(y, x) * fluid


def _modes(fields: np.ndarray, weight: np.ndarray, window: str) -> np.ndarray:
    """Fourier coefficients (..., ky, kx) of w (x - m), scaled so that |a|^2 summed over all modes is the variance."""
    _plan(weight.shape, window)
    mean = np.tensordot(fields, weight / weight.sum(), axes=2)
    part = (fields - mean[..., None, None]) * weight
    if window == "mirror":
        part = np.concatenate([part, part[..., ::-1, :]], axis=-2)
        part = np.concatenate([part, part[..., ::-1]], axis=-1)
    scale = part.shape[-1] * part.shape[-2] * np.sqrt(np.square(weight).mean())
    return np.fft.rfft2(part) / scale


def _power(modes: np.ndarray) -> np.ndarray:
    flat = modes.reshape(*modes.shape[:-2], -1)
    return np.square(flat.real) + np.square(flat.imag)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    product = a.real * b.real + a.imag * b.imag
    return product.reshape(*product.shape[:-2], -1)


def _gather(values: np.ndarray, shape: tuple[int, ...], window: str, gradient: int = 0) -> np.ndarray:
    """Sums over the modes of each shell, of values (..., mode)."""
    order, starts, twice, k = _plan((shape[0], shape[1]), window)
    weight = twice if gradient == 0 else twice * (2 * np.pi * k) ** (2 * gradient)
    filled = np.flatnonzero(np.diff(starts))  # the corner of odd sizes may leave a shell without modes
    out = np.zeros((*values.shape[:-1], len(starts) - 1))
    out[..., filled] = np.add.reduceat(values[..., order] * weight, starts[filled], axis=-1)
    return out
