"""A small disturbance of a flow that leaves mass and momentum alone and makes no sound.

    psi   Gaussian random field of correlation length l, times a window that vanishes at walls and ends
    dj    = (d_y psi, -d_x psi)            change of momentum, cells/tick at density 1
    f_q  += feq_q(rho, u + dj / rho) - feq_q(rho, u)

dj comes from a stream function: it is free of divergence (in the central differences that define vorticity here), so
the density, whose rate of change is -div j, is not set ringing, and its sum over the flow is 0 because psi vanishes
wherever the flow ends. The density and the non-equilibrium part of the populations (the viscous stress, which follows
the velocity within a few ticks) stay as they are. Nothing happens in obstacles. l is a quarter of the reference length,
which makes eddies about as large as the obstacle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lbm.lattice import CX, CY

if TYPE_CHECKING:
    from lbm.flow import FlowParameters

SHARE = 0.25  # correlation length, in reference lengths
SMALLEST = 2.0  # the same in cells: what the grid resolves


def disturb(populations: np.ndarray, momentum: np.ndarray) -> np.ndarray:
    """`populations` (9, ny, nx), deviations from the weights, with `momentum` (2, ny, nx) added; same dtype."""
    from lbm.reference import equilibrium

    f = populations.astype(float)
    density = 1 + f.sum(axis=0)
    u, v = np.tensordot(CX, f, 1) / density, np.tensordot(CY, f, 1) / density
    moved = equilibrium(density, u + momentum[0] / density, v + momentum[1] / density)
    return (f + (moved - equilibrium(density, u, v))).astype(populations.dtype)


def momentum(p: FlowParameters, solid: np.ndarray, amplitude: float, rng: np.random.Generator) -> np.ndarray:
    """A random change of momentum (2, ny, nx), its root mean square over the flow `amplitude` times U.

    It is 0 where `solid` (ny, nx), and as likely as its negative.
    """
    length = max(SMALLEST, SHARE * p.reference_length)
    wraps = (p.sides == "periodic", p.ends == "periodic")
    psi = smooth_noise(solid.shape, length, rng) * window(solid, max(2, round(length)), wraps)
    change = np.stack([_slope(psi, 0, wraps[0]), -_slope(psi, 1, wraps[1])])
    size = np.sqrt((change**2).sum(axis=0)[~solid].mean())
    return change * (amplitude * p.inflow_velocity / size) if size > 0 else change


def smooth_noise(shape: tuple[int, ...], length: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian random field (ny, nx), periodic, with the correlation exp(-r^2 / (2 length^2))."""
    ky, kx = (2 * np.pi * np.fft.fftfreq(n) for n in shape)
    damping = np.exp(-((kx[None, :] ** 2 + ky[:, None] ** 2) * length**2) / 4)
    return np.fft.ifft2(np.fft.fft2(rng.standard_normal(shape)) * damping).real


def window(solid: np.ndarray, width: int, wraps: tuple[bool, bool]) -> np.ndarray:
    """0 in obstacles and in the first layer of cells at walls and ends, rising smoothly to 1 over `width` layers.

    `wraps` says which axes (y, x) are periodic.
    """
    inner, layers = ~solid, np.zeros(solid.shape)
    for _ in range(width):
        for axis, periodic in enumerate(wraps):
            inner = inner & _shifted(inner, 1, axis, periodic) & _shifted(inner, -1, axis, periodic)
        layers += inner
    s = layers / width
    return s * s * (3 - 2 * s)


def _slope(field: np.ndarray, axis: int, periodic: bool) -> np.ndarray:
    return (_shifted(field, -1, axis, periodic) - _shifted(field, 1, axis, periodic)) / 2


def _shifted(field: np.ndarray, by: int, axis: int, periodic: bool) -> np.ndarray:
    """`numpy.roll`, with zeros coming in where the axis is not periodic."""
    moved = np.roll(field, by, axis)
    if not periodic:
        edge = [slice(None), slice(None)]
        edge[axis] = slice(0, 1) if by > 0 else slice(-1, None)
        moved[tuple(edge)] = 0
    return moved
