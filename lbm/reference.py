"""The oracle: one lattice tick in plain NumPy, two arrays, no tricks.

Same physics and boundaries as `lbm.kernels`, written from other formulae (full populations, product-form
equilibrium, projection on Hermite polynomials), so that agreement of the two means something.
Populations `f` have shape (9, ny, nx), before collision; sides and ends are half-way
between cells, obstacles where `Flow.fraction` says.
"""

from collections.abc import Callable
from typing import NamedTuple

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


def collide(f, rates, force=(0.0, 0.0)):
    """Relax every Hermite moment at its own rate, rates = (s_v, s_b, s_q, s_4), under a force per volume.

    Guo's forcing as two half kicks: the velocity of the equilibrium contains half of it, and each moment of the source
    dfeq/du . F / rho enters with (1 - rate / 2).
    """
    density, u, v = moments(f)
    u, v = u + force[0] / 2 / density, v + force[1] / 2 / density
    feq, source = equilibrium(density, u, v), kick(density, u, v, force)
    rate = dict(zip(HERMITE, (rates[1], rates[0], rates[2], rates[3]), strict=True))
    post = feq + source / 2
    for name, polynomials in HERMITE.items():
        for h in polynomials:
            amount = np.tensordot(h, f + source / 2 - feq, 1) / (W * h * h).sum()
            post += (1 - rate[name]) * (W * h)[:, None, None] * amount
    return post


def kick(density, u, v, force):
    """Change of the equilibrium by a force per volume in one tick, d feq / d(rho u) . F; shape (9, ny, nx)."""
    phi = [lambda c, a: 2 / 3 - a * a, lambda c, a: 1 / 6 + c * a / 2 + a * a / 2]
    slope = [lambda c, a: -2 * a, lambda c, a: c / 2 + a]
    return np.stack(
        [
            force[0] * slope[abs(cx)](cx, u) * phi[abs(cy)](cy, v)
            + force[1] * phi[abs(cx)](cx, u) * slope[abs(cy)](cy, v)
            for cx, cy in zip(CX, CY, strict=True)
        ]
    ) * np.ones_like(density)


def absorption(f, speed, sound_speed, gain):
    """What the outlet's plane sound wave and mean flow ask of each incoming population, see `lbm.kernels`."""
    gradient = (f[:, :, -2] - f[:, :, -1]).mean(1)
    gradient[[6, 7]] = gradient[[6, 7]].mean()
    density, momentum = f[:, :, -1].sum(0).mean(), np.tensordot(CX, f[:, :, -1], 1).mean()
    pull = gain * (momentum - speed - (speed + sound_speed) * (density - 1))
    return sound_speed * gradient + 6 * W * pull


class Flow(NamedTuple):
    """What the oracle needs of a flow."""

    body: np.ndarray  # (ny, nx) number of the obstacle in a cell, -1 for fluid
    fraction: Callable[[int, int, int, int], float]  # (y, x, q, body): share of the link to the wall in the flow
    wall_velocity: Callable[[float, float, int], tuple[float, float]]  # (y, x, body)
    sides: str
    ends: str
    side_velocity: tuple[float, float]
    profile: np.ndarray  # (2 ny + 1, 2) factors of u and v along the inlet, every half row
    rates: tuple[float, float, float, float]
    force: tuple[float, float]
    sponge: np.ndarray  # (length,)


def step(f, flow, *, inflow=(0.0, 0.0, 0.0), absorbed=None):
    """(populations one tick later, force on each obstacle (n, 2) during the tick).

    inflow: (u, v) at the left boundary and the speed at which the flow leaves; absorbed: (9,) by `absorption` at the
    last even tick.
    """
    post, solid = collide(f, flow.rates, flow.force), flow.body >= 0
    ny, length = len(solid), flow.sponge.size
    if length:
        calm = equilibrium(1.0, inflow[2] * flow.profile[1::2, 0], np.zeros(ny))[:, :, None]
        post[:, :, -length:] += flow.sponge * (calm - post[:, :, -length:])
    new, forces = np.empty_like(f), np.zeros((max(1, flow.body.max() + 1), 2))
    pad = _halo(flow)
    for q in range(9):
        new[q] = np.roll(post[q], (CY[q], CX[q]), (0, 1))
        edge, end = {1: 0, -1: -1}.get(CY[q]), {1: 0, -1: -1}.get(CX[q])
        if end is not None and flow.ends == "walls":
            new[q, :, end] = post[OPPOSITE[q], :, end]
        if flow.sides == "free-slip" and edge is not None:
            inner = slice(None) if flow.ends == "periodic" else slice(1, None) if end == 0 else slice(None, -1)
            inner = inner if end is not None else slice(None)
            new[q, edge, inner] = np.roll(post[MIRROR_Y[q], edge], CX[q])[inner]
        if CX[q] == 1 and flow.ends == "open":
            there = flow.profile[1 - CY[q] : 2 * ny + 1 - CY[q] : 2]  # where the links cross the inlet
            push = CX[q] * inflow[0] * there[:, 0] + CY[q] * inflow[1] * there[:, 1]
            new[q, :, 0] = post[OPPOSITE[q], :, 0] + 6 * W[q] * push
        if CX[q] == -1 and flow.ends == "open":
            speed = inflow[2]
            new[q, :, -1] = speed * f[q, :, -2] + (1 - speed) * f[q, :, -1] + absorbed[q]
        if flow.sides == "no-slip" and edge is not None:
            speed = np.full(f.shape[2], flow.side_velocity[edge])
            if end is not None and flow.ends == "walls":
                speed[end] = 0  # the end, which is at rest, goes up to the corner
            new[q, edge] = post[OPPOSITE[q], edge] + 6 * W[q] * CX[q] * speed
        beyond = np.roll(pad, (CY[q], CX[q]), (0, 1))[1:-1, 1:-1]
        for y, x in np.argwhere((beyond >= 0) & ~solid):
            new[q, y, x], impulse = _wall(post, flow, int(beyond[y, x]), q, y, x)
            forces[beyond[y, x]] += impulse
    new[:, solid] = W[:, None]
    return new, forces


def _halo(flow):
    halo = np.pad(flow.body, 1, constant_values=-1)
    if flow.sides != "no-slip":
        halo[[0, -1]] = halo[[-2, 1]] if flow.sides == "periodic" else halo[[1, -2]]
    if flow.ends == "periodic":
        halo[:, [0, -1]] = halo[:, [-2, 1]]
    return halo


def _wall(post, flow, body, q, y, x):
    """Interpolated bounce-back: the population q that comes back from an obstacle, and the impulse left there."""
    i, (ny, nx) = OPPOSITE[q], flow.body.shape
    d, there = flow.fraction(y, x, q, body), (y + CY[q], x + CX[q])
    inside = 0 <= there[0] < ny and 0 <= there[1] < nx
    if d < 0.5 and not (inside and flow.body[there] < 0):
        d = 0.5
    velocity = np.array(flow.wall_velocity(y - d * CY[q], x - d * CX[q], body))
    push = 6 * W[q] * (velocity @ [CX[q], CY[q]])
    if d < 0.5:
        back = 2 * d * post[i, y, x] + (1 - 2 * d) * post[(i, *there)] + push
    else:
        back = (post[i, y, x] + (2 * d - 1) * post[q, y, x] + push) / (2 * d)
    towards = np.array([-CX[q], -CY[q]])
    impulse = (towards - velocity) * (post[i, y, x] - W[i]) - (-towards - velocity) * (back - W[i])
    return back, impulse
