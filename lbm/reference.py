"""The oracle: one lattice tick in plain NumPy, two arrays, no tricks.

Same physics and boundaries as `lbm.kernels`, written from other formulae (full populations, product-form
equilibrium, projection on Hermite polynomials), so that agreement of the two means something.
Populations `f` have shape (9, ny, nx), before collision; walls are half-way between cells.
"""

import numpy as np

from lbm.lattice import CX, CY, MIRROR_Y, OPPOSITE, W

X2, Y2 = CX**2 - 1 / 3, CY**2 - 1 / 3  # Hermite polynomials, orthogonal under the weights W
HERMITE = {"bulk": [X2 + Y2], "shear": [X2 - Y2, CX * CY], "third": [X2 * CY, CX * Y2], "fourth": [X2 * Y2]}


def equilibrium(density, u, v):
    """Full product equilibrium, rho phi(u) phi(v), all orders up to u^2 v^2; shape (9, ny, nx)."""
    phi = [lambda c, a: 2 / 3 - a * a, lambda c, a: 1 / 6 + c * a / 2 + a * a / 2]
    return np.stack([density * phi[abs(cx)](cx, u) * phi[abs(cy)](cy, v) for cx, cy in zip(CX, CY, strict=True)])


def moments(f):
    """Density and the two velocity components."""
    density = f.sum(0)
    return density, np.tensordot(CX, f, 1) / density, np.tensordot(CY, f, 1) / density


def collide(f, rates):
    """Relax every Hermite moment at its own rate: rates = (s_v, s_b, s_q); the fourth order goes to equilibrium."""
    feq = equilibrium(*moments(f))
    rate = dict(zip(("shear", "bulk", "third", "fourth"), (*rates, 1.0), strict=True))
    post = feq.copy()
    for name, polynomials in HERMITE.items():
        for h in polynomials:
            amount = np.tensordot(h, f - feq, 1) / (W * h * h).sum()
            post += (1 - rate[name]) * (W * h)[:, None, None] * amount
    return post


def absorption(f, speed, sound_speed, gain):
    """What the outlet's plane sound wave and mean flow ask of each incoming population, see `lbm.kernels`."""
    gradient = (f[:, :, -2] - f[:, :, -1]).mean(1)
    gradient[[6, 7]] = gradient[[6, 7]].mean()
    density, momentum = f[:, :, -1].sum(0).mean(), np.tensordot(CX, f[:, :, -1], 1).mean()
    pull = gain * (momentum - speed - (speed + sound_speed) * (density - 1))
    return sound_speed * gradient + 6 * W * pull


def step(f, rates, solid, *, sides, inflow=None, profile=None, outlet=None):
    """Populations one tick later.

    sides: "periodic" or "free-slip"; inflow: (u, v) at the left boundary during this tick, None for a flow periodic
    in x; profile: (ny, 2) factors of u and v along the inlet; outlet: (convection speed, absorption (9,) computed
    at the last even tick).
    """
    post, new = collide(f, rates), np.empty_like(f)
    pad = np.pad(solid, ((1, 1), (0, 0)), mode="edge" if sides == "free-slip" else "wrap")
    for q in range(9):
        new[q] = np.roll(post[q], (CY[q], CX[q]), (0, 1))
        edge = {1: 0, -1: -1}.get(CY[q])
        if sides == "free-slip" and edge is not None:
            new[q, edge] = np.roll(post[MIRROR_Y[q], edge], CX[q])
        if inflow is not None and CX[q] == 1:
            push = CX[q] * inflow[0] * profile[:, 0] + CY[q] * inflow[1] * profile[:, 1]
            new[q, :, 0] = post[OPPOSITE[q], :, 0] + 6 * W[q] * push
        if inflow is not None and CX[q] == -1:
            speed, absorbed = outlet
            new[q, :, -1] = speed * f[q, :, -2] + (1 - speed) * f[q, :, -1] + absorbed[q]
        wall = np.roll(pad, (CY[q], CX[q]), (0, 1))[1:-1] & ~solid
        new[q][wall] = post[OPPOSITE[q]][wall]
    new[:, solid] = W[:, None]
    return new
