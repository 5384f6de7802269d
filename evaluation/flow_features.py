"""Features of a clip of a flow: some 30 numbers that need no weights, for `frechet.frechet_physics_distance`.

q is one scalar field less the clip's mean, v its variance, both over frames and fluid cells; walls are zero and never
counted. All features are free of units but two, which are in `scale`.
"""

import numpy as np

from .errors import EvaluationError

BANDS = 5
FLOOR = 1e-6  # of the variance: a band or an increment with less is taken to be empty
LEAST_FRAMES = 3


def physics_feature_names(frames: int, y: int, x: int) -> tuple[str, ...]:
    """What each feature of a clip of that size is."""
    names = ["mean", "log_deviation", "skewness", "log_flatness"]
    names += [f"log_increment_{axis}{lag}" for axis, n in (("y", y), ("x", x)) for lag in (1, 4) if lag < n]
    names += [f"log_increment_t{lag}" for lag in (1, 2, 4) if lag < frames]
    names += ["log_flatness_t", "log_acceleration"]
    bands = _band_count(y, x)
    names += [f"log_energy_{2 << b}" for b in range(bands)]
    names += [f"log_change_{2 << b}" for b in range(bands)]
    names += ["motion_y", "motion_x", "log_growth", "log_growth_2"]
    return (*names, *(f"log_variance_{row}{column}" for row in range(2) for column in range(3)))


def physics_features(clips: np.ndarray, fluid: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Features (n, d) of clips (n, time, y, x) of one scalar field, from fluid (y, x) cells; no weights, no unit.

    `scale` (the field's standard deviation in the truth) only sets the unit of `mean` and `log_deviation`. With q the
    field less the clip's mean, v its variance, <> a mean over frames and fluid cells (see `physics_feature_names`):

    values      mean, log sqrt(v), skewness, log flatness
    space       log <(q(x + lag) - q(x))^2> / 2v, lags of 1 and 4 cells along y and x: gradients, enstrophy, texture
    time        the same for lags of 1, 2, 4 frames; log flatness of the change from frame to frame (bursts); log ratio
                of the mean square second to first difference (jitter, wrong order)
    scales      log share of the energy in octaves of wavelength from 2 cells (the last one is open), Hann window, and
                log relative change from frame to frame in each: how fast each size of eddy decorrelates
    motion      correlation of the change in time with the slope along y and x: which way patterns move, and which way
                time runs
    growth      log variance in the second half of the clip over the first, and the same of the smallest octave: decay
                and blur that grow with lead time
    place       log variance in 2 x 3 equal parts of the frame over v

    About 30 numbers that together fix how much, how large, how fast, whereto and where; so some 50 to 100 clips give a
    covariance. Logarithms, since these are positive and range over decades; each has a floor of 1e-6, relative.
    EvaluationError for clips shorter than 3 frames. A clip with a value that is not finite has NaN features.
    """
    if clips.ndim != 4 or fluid.shape != clips.shape[2:]:
        raise EvaluationError(f"clips have shape {clips.shape}, fluid {fluid.shape}: wanted (n, time, y, x) and (y, x)")
    if clips.shape[1] < LEAST_FRAMES or min(clips.shape[2:]) < 2 or not fluid.any():
        raise EvaluationError(
            f"clips of shape {clips.shape[1:]} have no physics features: at least {LEAST_FRAMES} frames of 2 x 2 "
            "cells, and some fluid, are needed"
        )
    layout = _Layout(fluid)
    out = np.full((len(clips), len(physics_feature_names(*clips.shape[1:]))), np.nan)
    for row, clip in zip(out, clips, strict=True):
        values = np.where(fluid, clip, 0).astype(np.float64) / scale
        if np.isfinite(values).all():
            row[:] = _features(values, layout)
    return out


def _band_count(y: int, x: int) -> int:
    return min(BANDS, int(np.log2(max(y, x))))


class _Layout:
    """What depends on the walls alone: pairs of fluid cells, octaves, window, parts of the frame."""

    def __init__(self, fluid: np.ndarray):
        self.fluid = fluid.astype(np.float64)
        ny, nx = fluid.shape
        self.pairs = {(axis, lag): self._pair(fluid, axis, lag) for axis in (0, 1) for lag in (1, 4)}
        self.middle = [self._pair(fluid, axis, 2) for axis in (0, 1)]
        self.window = np.multiply.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (ny, nx))) * fluid
        wavenumber = np.hypot(np.fft.fftfreq(ny)[:, None], np.fft.rfftfreq(nx))
        wavenumber[0, 0] = 1
        octave = np.clip(np.floor(-np.log2(wavenumber)).astype(int) - 1, 0, _band_count(ny, nx) - 1)
        both = np.where((np.arange(wavenumber.shape[1]) == 0) | (2 * np.arange(wavenumber.shape[1]) == nx), 1.0, 2.0)
        self.octaves = (octave[..., None] == np.arange(_band_count(ny, nx))) * both[:, None]
        self.octaves[0, 0] = 0
        rows, columns = np.arange(ny) * 2 // ny, np.arange(nx) * 3 // nx
        self.parts = (rows[:, None] * 3 + columns)[..., None] == np.arange(6)
        self.parts = (self.parts * self.fluid[..., None]).reshape(ny * nx, 6)

    @staticmethod
    def _pair(fluid: np.ndarray, axis: int, lag: int) -> np.ndarray:
        """Where a cell and the one `lag` further are both fluid, as weights that sum to 1 (0 if there are none)."""
        a, b = _shifted(fluid, axis, lag)
        both = (a & b).astype(np.float64)
        return both / max(both.sum(), 1)


def _shifted(field: np.ndarray, axis: int, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Views (..., y, x) of the cells that have one `lag` further along y (0) or x (1), and of those."""
    n = field.shape[axis - 2]
    front, back = slice(0, max(n - lag, 0)), slice(lag, None)
    return (field[..., front, :], field[..., back, :]) if axis == 0 else (field[..., front], field[..., back])


def _features(values: np.ndarray, layout: _Layout) -> list[float]:
    """Features of one clip (time, y, x), zero at walls."""
    frames, ny, nx = values.shape
    weight = layout.fluid / layout.fluid.sum()
    mean = float((values * weight).sum()) / frames
    q = (values - mean) * layout.fluid
    square = q * q
    by_cell = square.mean(0)
    variance = max(float((by_cell * weight).sum()), 1e-12)
    third, fourth = (float(np.vdot(square, other)) / frames / layout.fluid.sum() for other in (q, square))
    found = [mean, 0.5 * np.log(variance), third / variance**1.5, np.log(fourth / variance**2 + FLOOR)]

    for axis, n in ((0, ny), (1, nx)):
        for lag in (1, 4):
            if lag < n:
                a, b = _shifted(q, axis, lag)
                found.append(
                    _log_share(float((np.square(b - a).mean(0) * layout.pairs[axis, lag]).sum()), 2 * variance)
                )

    change = np.diff(q, axis=0)
    first = float((np.square(change).mean(0) * weight).sum())
    found.append(_log_share(first, 2 * variance))
    for lag in (2, 4):
        if lag < frames:
            found.append(_log_share(float((np.square(q[lag:] - q[:-lag]).mean(0) * weight).sum()), 2 * variance))
    bursts = float((np.square(np.square(change)).mean(0) * weight).sum())
    second = float((np.square(np.diff(change, axis=0)).mean(0) * weight).sum())
    least = FLOOR * variance
    found.append(np.log((bursts + 3 * least**2) / (first + least) ** 2))
    found.append(np.log((second + least) / (first + least)))

    spectrum = np.fft.rfft2(q * layout.window)
    power = (spectrum.real**2 + spectrum.imag**2).mean(0)
    step = np.diff(spectrum, axis=0)
    energy = np.tensordot(power, layout.octaves, 2)
    moved = np.tensordot((step.real**2 + step.imag**2).mean(0), layout.octaves, 2)
    total = max(float(energy.sum()), 1e-12)
    found += list(np.log(energy / total + FLOOR))
    found += list(np.log((moved + FLOOR * total) / (2 * energy + FLOOR * total)))

    for axis in (0, 1):
        found.append(_motion(q, change, axis, layout.middle[axis]))
    half = frames // 2
    early, late = (float((part.mean(0) * weight).sum()) for part in (square[:half], square[-half:]))
    found.append(np.log((late + least) / (early + least)))
    small = layout.octaves[..., 0]
    early, late = (float((np.square(np.abs(s)).mean(0) * small).sum()) for s in (spectrum[:half], spectrum[-half:]))
    found.append(np.log((late + FLOOR * total) / (early + FLOOR * total)))

    cells = layout.parts.sum(0)
    shares = by_cell.ravel() @ layout.parts / np.maximum(cells, 1) / variance
    return [*found, *np.where(cells > 0, np.log(shares + FLOOR), 0.0)]


def _log_share(part: float, whole: float) -> float:
    return float(np.log(part / whole + FLOOR))


def _motion(q: np.ndarray, change: np.ndarray, axis: int, weight: np.ndarray) -> float:
    """Correlation of the change between two frames with the slope along an axis, midway between them."""
    a, b = _shifted(q, axis, 2)
    slope = b - a
    slope = slope[1:] + slope[:-1]
    middle = _shifted(change, axis, 1)[0]
    middle = _shifted(middle, axis, 1)[1]  # the cell between the two of the slope
    product, steps, slopes = (float((f.mean(0) * weight).sum()) for f in (middle * slope, middle**2, slope**2))
    return product / np.sqrt(steps * slopes + 1e-24)
