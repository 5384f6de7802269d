"""Boundaries as index tables, so that the hot loop meets no branch.

The populations live in one flat array, nine planes of rows with a halo of one cell: population q of the cell
in row y, column x (both counted from 1; 0 and the last are halo) sits at q * plane + y * stride + lead + x - 1.

A *link* replaces a population q that would stream into a fluid cell from outside the flow by the post-collision
population r of a fluid cell, plus a velocity term:

    no-slip side or end    r = -c_q          of the cell itself (half-way bounce-back)
    moving side            the same          + 6 w_q c_q . u     (Ladd 1994, J. Fluid Mech. 271, eq. 3.3, rho = 1)
    velocity inlet         the same, with the velocity of the tick where the link crosses the inlet
    free-slip side         r = mirror of q   of the neighbour along the wall
    periodic               r = q             of the wrapped neighbour

With rho = 1 in the velocity term each tick lets in exactly U per row, whatever the density does: measured beside a
cylinder, the mean flow rate is right to 2e-5 U where the regularised inlet (Latt et al. 2008) exceeds it by 1 %
and pumps up the density; both were stable to U / nu = 250 per cell.

Obstacles stand at their exact place. With d the share of the link that lies in the flow, i = -q the direction into the
wall and u the velocity of the wall there, the interpolated bounce-back of Bouzidi, Firdaouss & Lallemand (2001,
doi:10.1063/1.1399290) is

    d >= 1/2    f_q = f_i(x) / 2d + (1 - 1/2d) f_q(x) + 6 w_q c_q . u / 2d      sources in the cell: `near`
    d <  1/2    f_q = 2d f_i(x) + (1 - 2d) f_i(x + c_q) + 6 w_q c_q . u         sources in two cells: `far`

(post-collision on the right; d = 1/2 is half-way bounce-back, and what remains where x + c_q is no fluid).
In the AA pattern (see `lbm.kernels`) an even tick leaves population r of cell x in slot -c_r at x, and an odd
tick in slot r at x + c_r; the next tick looks for q in slot -c_q at x - c_q and in slot q at x respectively.
Hence two sets of indices for each link.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lbm.lattice import CX, CY, MIRROR_Y, OPPOSITE, Q, W
from lbm.obstacles import Obstacle, wall_fraction

SIDES = ("periodic", "free-slip", "no-slip")
ENDS = ("open", "periodic", "walls")
PROFILES = ("uniform", "parabolic")
ALIGN = 16  # in populations: rows start on a 64-byte boundary in single precision


class Grid(NamedTuple):
    """Where a cell lies in the flat array."""

    ny: int
    nx: int
    plane: np.uint64  # distance between two populations of a cell
    stride: np.uint64  # distance between two rows
    lead: np.uint64  # position of column 1 in its row


class Rows(NamedTuple):
    """Runs of fluid cells."""

    start: np.ndarray  # (ny + 2,) row y has the segments start[y] .. start[y + 1]
    segments: np.ndarray  # (n, 2) first flat index and length


class Links(NamedTuple):
    """Links at the edges of the domain, by row of their source."""

    start: np.ndarray  # (ny + 2,)
    slots: np.ndarray  # (n, 4) even target, even source, odd target, odd source
    push: np.ndarray  # (n, 3) factors of the inlet's u and v, and a constant


class Walls(NamedTuple):
    """Links from fluid cells to obstacles, by row of the cell."""

    start: np.ndarray  # (ny + 2,)
    slots: np.ndarray  # (n, 6) target, f_i(x), second source; after an even and after an odd tick
    weight: np.ndarray  # (n, 3) of the two sources, and the velocity term
    exchange: np.ndarray  # (n, 4) direction i into the wall, velocity of the wall
    body: np.ndarray  # (n,) number of the obstacle


class Sponge(NamedTuple):
    """An absorbing layer before the outlet."""

    damping: np.ndarray  # (length,) share by which the last columns are drawn to the undisturbed flow each tick
    profile: np.ndarray  # (ny,) that flow, in units of its mean
    after: np.ndarray  # (2, 9) where a collided population q lies from slot 0 of its cell, by parity
    lattice: np.ndarray  # (9, 2) velocities
    weights: np.ndarray  # (9,)


class Geometry(NamedTuple):
    """Everything the kernels need to know about the domain. Indices are uint64, see `lbm.kernels`.

    In small tables: a kernel gets only those it needs, since numba passes each array of a tuple by value.
    """

    grid: Grid
    rows: Rows
    links: Links
    near: Walls
    far: Walls
    sponge: Sponge
    wall_rows: tuple[int, int]  # first row with a link to an obstacle, and one past the last
    outlet: bool
    general: bool  # a body force, or a fourth-order rate other than 1


def inlet_profile(ny: int, sides: str, profile: str = "uniform") -> np.ndarray:
    """Factors (2 ny + 1, 2) of the inlet's u and v, every half row from the lower side to the upper one.

    "uniform" or "parabolic", the latter 0 on the walls; v dies off towards sides that let nothing through. Cell j has
    its centre at 2 j + 1. The links of a cell cross the inlet there and half a row above and below; were all given
    the velocity of the centre, a sheared inflow would let in a transverse velocity of the order of its shear. Scaled
    so that exactly U ny enters each tick (the corner links of no-slip sides are theirs, not the inlet's).
    """
    s = np.arange(2 * ny + 1) / (2 * ny)
    factors, parabola = np.ones((2 * ny + 1, 2)), 4 * s * (1 - s)
    if sides != "periodic":
        factors[:, 1] = parabola
    if profile == "parabolic":
        factors[:, 0] = 1.5 * parabola
    u = factors[:, 0]
    entering = 2 / 3 * u[1::2].sum() + (u[0:-1:2].sum() + u[2::2].sum()) / 6
    if sides == "no-slip":
        entering -= (u[0] + u[-1]) / 6
    factors[:, 0] *= ny / entering
    return factors


def sponge(length: int, strength: float = 0.05) -> np.ndarray:
    """Damping (length,) that rises smoothly towards the outlet: no column reflects what the next absorbs."""
    s = (np.arange(length) + 0.5) / max(length, 1)
    return strength * s * s * (3 - 2 * s)


def geometry(
    bodies: np.ndarray,
    *,
    sides: str,
    ends: str,
    dtype: str,
    obstacles: Sequence[Obstacle] = (),
    interpolated: bool = True,
    side_velocity: tuple[float, float] = (0.0, 0.0),
    profile: str = "uniform",
    sponge_length: int = 0,
    general: bool = False,
) -> Geometry:
    """Index tables for `bodies` (ny, nx), the number of the obstacle in each cell or -1 (see `obstacles.bodies`)."""
    ny, nx = bodies.shape
    lead, stride = ALIGN, -(-(ALIGN + nx + 1) // ALIGN) * ALIGN
    plane = stride * (ny + 2)
    plane += (144 - plane) % 1024  # nine streams a multiple of 4 KiB apart evict each other from the cache
    flat, factors = _Flat(plane, stride, lead), inlet_profile(ny, sides, profile)
    domain = _Domain(bodies, sides, ends)
    near, far, wall_rows = _walls(domain, flat, obstacles, interpolated, dtype)
    q = np.arange(Q)
    return Geometry(
        grid=Grid(ny, nx, np.uint64(plane), np.uint64(stride), np.uint64(lead)),
        rows=_segments(bodies >= 0, flat),
        links=_links(domain, flat, factors, side_velocity, dtype),
        near=near,
        far=far,
        sponge=Sponge(
            damping=sponge(sponge_length).astype(dtype),
            profile=factors[1::2, 0].astype(dtype),
            after=np.stack([OPPOSITE * plane, q * plane + CY * stride + CX]).astype(np.uint64),
            lattice=np.stack([CX, CY], axis=1),
            weights=W.astype(dtype),
        ),
        wall_rows=wall_rows,
        outlet=ends == "open",
        general=general,
    )


def populations(f: np.ndarray, g: Grid, tick: int) -> np.ndarray:
    """Array (9, ny, nx) of the populations that wait for a tick: a view at even ticks, a copy at odd ones."""
    rows = _rows(f, g)
    if tick % 2 == 0:
        return rows[:, 1:-1, int(g.lead) : int(g.lead) + g.nx]
    return np.stack([rows[_odd_slot(g, q)] for q in range(Q)])


def set_populations(f: np.ndarray, g: Grid, tick: int, values: np.ndarray) -> None:
    """Put populations (9, ny, nx) where the tick expects them."""
    rows = _rows(f, g)
    for q in range(Q):
        here = (q, slice(1, -1), slice(int(g.lead), int(g.lead) + g.nx))
        rows[here if tick % 2 == 0 else _odd_slot(g, q)] = values[q]


def _rows(f: np.ndarray, g: Grid) -> np.ndarray:
    stride = int(g.stride)
    return f.reshape(Q, int(g.plane))[:, : (g.ny + 2) * stride].reshape(Q, g.ny + 2, stride)


def _odd_slot(g: Grid, q: int) -> tuple[int, slice, slice]:
    """Slot -c_q at x - c_q, for every cell."""
    y, x = 1 - CY[q], int(g.lead) - CX[q]
    return int(OPPOSITE[q]), slice(y, y + g.ny), slice(x, x + g.nx)


class _Flat(NamedTuple):
    plane: int
    stride: int
    lead: int

    def __call__(self, q, y, x):
        """Flat index of population q at row y, column x (from 0; -1 and nx, ny are halo)."""
        return q * self.plane + (y + 1) * self.stride + self.lead + x

    def waiting(self, parity, r, y, x):
        """Where the population r of a cell lies after its collision in an even (0) or odd (1) tick."""
        return self(OPPOSITE[r], y, x) if parity == 0 else self(r, y + CY[r], x + CX[r])

    def wanted(self, parity, q, y, x):
        """Where the next tick, after an even (0) or odd (1) one, looks for the population q of a cell."""
        return self(OPPOSITE[q], y - CY[q], x - CX[q]) if parity == 0 else self(q, y, x)


class _Domain:
    """The bodies with a halo that says what lies beyond sides and ends."""

    def __init__(self, bodies: np.ndarray, sides: str, ends: str):
        self.bodies, self.sides, self.ends = bodies, sides, ends
        self.ny, self.nx = bodies.shape
        fluid = {"constant_values": -1}
        y = {"mode": "wrap"} if sides == "periodic" else {"mode": "edge"} if sides == "free-slip" else fluid
        halo = np.pad(bodies, ((1, 1), (0, 0)), **y)
        self.halo = np.pad(halo, ((0, 0), (1, 1)), **({"mode": "wrap"} if ends == "periodic" else fluid))
        rim, solid = np.zeros(bodies.shape, bool), self.halo >= 0
        rim[[0, -1]] = rim[:, [0, -1]] = True
        for q in range(1, Q):
            rim |= solid[1 - CY[q] : 1 - CY[q] + self.ny, 1 - CX[q] : 1 - CX[q] + self.nx]
        self.y, self.x = np.nonzero(rim & (bodies < 0))  # only cells at an edge or beside an obstacle have links

    def inside(self, y, x):
        return (y >= 0) & (y < self.ny) & (x >= 0) & (x < self.nx)

    def body(self, y, x):
        """The obstacle in a cell of the domain or its halo, -1 for none."""
        return self.halo[y + 1, x + 1]

    def fluid(self, y, x):
        """Whether a cell is one that collides (periodic images included)."""
        allowed = (self.sides == "periodic") | ((y >= 0) & (y < self.ny))
        allowed &= (self.ends == "periodic") | ((x >= 0) & (x < self.nx))
        return allowed & (self.body(y, x) < 0)


def _segments(solid, flat):
    rows, runs = [], []
    for y, row in enumerate(solid):
        edges = np.flatnonzero(np.diff(np.r_[True, row, True].astype(int)))
        for first, last in edges.reshape(-1, 2):
            rows.append(y + 1)
            runs.append((flat(0, y, first), last - first))
    start = np.searchsorted(rows, np.arange(len(solid) + 2))
    return Rows(start.astype(np.uint64), np.array(runs, np.uint64).reshape(-1, 2))


def _links(domain, flat, profile, side_velocity, dtype):
    """All links but those to obstacles."""
    ny, nx, y, x, collected = domain.ny, domain.nx, domain.y, domain.x, []
    for q in range(1, Q):
        from_y, from_x = y - CY[q], x - CX[q]
        missing = ~domain.inside(from_y, from_x) & (domain.body(from_y, from_x) < 0)
        beside, beyond = (from_y < 0) | (from_y >= ny), (from_x < 0) | (from_x >= nx)
        side = missing & beside & (domain.sides == "no-slip")
        end = missing & ~side & beyond
        inlet = end & (from_x < 0) & (domain.ends == "open")
        outlet = end & (from_x >= nx) & (domain.ends == "open")
        bounced = side | inlet | (end & (domain.ends == "walls"))
        slip = missing & ~bounced & ~outlet & beside & (domain.sides == "free-slip")
        r = np.where(bounced, OPPOSITE[q], np.where(slip, MIRROR_Y[q], q))
        source_y = np.where(bounced | slip, y, from_y % ny)
        source_x = np.where(bounced, x, from_x % nx)
        push = np.zeros((y.size, 3))
        push[:, :2] = 6 * W[q] * np.array([CX[q], CY[q]]) * profile[2 * y + 1 - CY[q]] * inlet[:, None]
        moving = side & ~(beyond & (domain.ends == "walls"))  # the link into a corner meets the end, which is at rest
        push[:, 2] = 6 * W[q] * CX[q] * np.where(from_y < 0, side_velocity[0], side_velocity[1]) * moving
        pairs = np.stack(
            [
                f
                for parity in (0, 1)
                for f in (flat.wanted(parity, q, y, x), flat.waiting(parity, r, source_y, source_x))
            ],
            axis=1,
        )
        take = missing & ~outlet
        collected.append((source_y[take] + 1, pairs[take], push[take]))
    row, slots, push = (np.concatenate(parts) for parts in zip(*collected, strict=True))
    order = np.argsort(row, kind="stable")
    start = np.searchsorted(row[order], np.arange(ny + 2))
    return Links(start.astype(np.uint64), slots[order].astype(np.uint64), push[order].astype(dtype))


def _walls(domain, flat, obstacles, interpolated, dtype):
    """Links to obstacles, those with sources in the row of the cell and the others, and the range of rows."""
    near: list[tuple[np.ndarray, ...]] = []
    far: list[tuple[np.ndarray, ...]] = []
    for q in range(1, Q):
        body = domain.body(domain.y - CY[q], domain.x - CX[q])
        for number in np.unique(body[body >= 0]):
            y, x = domain.y[body == number], domain.x[body == number]
            d, velocity = np.full(y.size, 0.5), np.zeros((y.size, 2))
            if obstacles:
                o = obstacles[number]
                exact = domain.inside(y - CY[q], x - CX[q]) & interpolated  # not an image of it beyond a side
                d[exact] = wall_fraction(o, x[exact], y[exact], -CX[q], -CY[q])
                velocity = o.spin * np.stack([-(y - d * CY[q] - o.centre[1]), x - d * CX[q] - o.centre[0]], axis=1)
            two_cells = (d < 0.5) & domain.fluid(y + CY[q], x + CX[q])
            d = np.where((d < 0.5) & ~two_cells, 0.5, d)
            push = 6 * W[q] * (velocity @ [CX[q], CY[q]])
            exchange = np.hstack([np.tile([-CX[q], -CY[q]], (y.size, 1)), velocity])
            own, beyond = (q, y, x), (OPPOSITE[q], (y + CY[q]) % domain.ny, (x + CX[q]) % domain.nx)
            for table, second, weight, take in (
                (near, own, (1 / (2 * d), 1 - 1 / (2 * d), push / (2 * d)), ~two_cells),
                (far, beyond, (2 * d, 1 - 2 * d, push), two_cells),
            ):
                slots = [
                    (flat.wanted(t, q, y, x), flat.waiting(t, OPPOSITE[q], y, x), flat.waiting(t, *second))
                    for t in (0, 1)
                ]
                columns = y + 1, np.stack([*slots[0], *slots[1]], 1), np.stack(weight, 1), exchange
                table.append((*(column[take] for column in columns), np.full(take.sum(), number)))
    rows = [row for table in (near, far) for row in np.concatenate([[], *(part[0] for part in table)])]
    span = (int(min(rows)), int(max(rows)) + 1) if rows else (1, 1)
    return _sorted_walls(near, domain.ny, dtype), _sorted_walls(far, domain.ny, dtype), span


def _sorted_walls(parts, ny, dtype):
    empty = (np.zeros(0, int), np.zeros((0, 6), int), np.zeros((0, 3)), np.zeros((0, 4)), np.zeros(0, int))
    row, slots, weight, exchange, body = (np.concatenate(columns) for columns in zip(empty, *parts, strict=True))
    order = np.argsort(row, kind="stable")
    return Walls(
        start=np.searchsorted(row[order], np.arange(ny + 2)).astype(np.uint64),
        slots=slots[order].astype(np.uint64),
        weight=weight[order].astype(dtype),
        exchange=exchange[order].astype(np.float64),
        body=body[order].astype(np.int64),
    )
