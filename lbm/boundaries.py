"""Boundaries as index tables, so that the hot loop meets no branch.

The populations live in one flat array, nine planes of rows with a halo of one cell: population q of the cell
in row y, column x (both counted from 1; 0 and the last are halo) sits at q * plane + y * stride + lead + x - 1.

A *link* replaces a population q that would stream into a fluid cell from outside the flow by the post-collision
population r of a fluid cell, plus a velocity term:

    half-way bounce-back   r = -c_q          of the cell itself
    velocity inlet         the same          + 6 w_q c_q . u     (Ladd 1994, J. Fluid Mech. 271, eq. 3.3, rho = 1)
    free-slip side         r = mirror of q   of the neighbour along the wall
    periodic               r = q             of the wrapped neighbour

With rho = 1 in the velocity term each tick lets in exactly U per row, whatever the density does: measured beside a
cylinder, the mean flow rate is right to 2e-5 U where the regularised inlet (Latt et al. 2008) exceeds it by 1 %
and pumps up the density; both were stable to U / nu = 250 per cell.
In the AA pattern (see `lbm.kernels`) an even tick leaves population r of cell x in slot -c_r at x, and an odd
tick in slot r at x + c_r; the next tick looks for q in slot -c_q at x - c_q and in slot q at x respectively.
Hence two (target, source) pairs for each link.
"""

from typing import NamedTuple

import numpy as np

from lbm.lattice import CX, CY, MIRROR_Y, OPPOSITE, Q, W

SIDES = ("periodic", "free-slip")
ALIGN = 16  # in populations: rows start on a 64-byte boundary in single precision


class Geometry(NamedTuple):
    """Everything the kernels need to know about the domain. Indices are uint64, see `lbm.kernels`."""

    ny: int
    nx: int
    plane: np.uint64  # distance between two populations of a cell
    stride: np.uint64  # distance between two rows
    lead: np.uint64  # position of column 1 in its row
    segment_start: np.ndarray  # (ny + 2,) row y has segments segment_start[y] .. segment_start[y + 1]
    segments: np.ndarray  # (n, 2) first flat index and length of a run of fluid cells
    link_start: np.ndarray  # (ny + 2,) links by row of their source
    links: np.ndarray  # (n, 4) even target, even source, odd target, odd source
    pushes: np.ndarray  # (n, 2) factors of the inlet's u and v
    outlet: bool


def inlet_profile(ny: int, sides: str) -> np.ndarray:
    """Factors (ny, 2) of the inlet's u and v: uniform, but v dies off towards free-slip sides."""
    profile = np.ones((ny, 2))
    if sides == "free-slip":
        s = (np.arange(ny) + 0.5) / ny
        profile[:, 1] = 4 * s * (1 - s)
    return profile


def geometry(solid: np.ndarray, *, sides: str, open_ends: bool, dtype: str) -> Geometry:
    """Index tables for a solid mask (ny, nx); `open_ends`: inlet and outlet, else the flow is periodic in x."""
    ny, nx = solid.shape
    lead, stride = ALIGN, -(-(ALIGN + nx + 1) // ALIGN) * ALIGN
    plane = stride * (ny + 2)
    plane += (144 - plane) % 1024  # nine streams a multiple of 4 KiB apart evict each other from the cache
    flat = _Flat(plane, stride, lead)
    link_row, links, pushes = _links(solid, sides, open_ends, flat)
    order = np.argsort(link_row, kind="stable")
    segment_row, segments = _segments(solid, flat)
    return Geometry(
        ny=ny,
        nx=nx,
        plane=np.uint64(plane),
        stride=np.uint64(stride),
        lead=np.uint64(lead),
        segment_start=np.searchsorted(segment_row, np.arange(ny + 2)).astype(np.uint64),
        segments=segments.astype(np.uint64),
        link_start=np.searchsorted(link_row[order], np.arange(ny + 2)).astype(np.uint64),
        links=links[order].astype(np.uint64),
        pushes=pushes[order].astype(dtype),
        outlet=open_ends,
    )


def interior(f: np.ndarray, g: Geometry) -> np.ndarray:
    """View (9, ny, nx) of the cells' own slots in the flat populations: population q itself at even ticks."""
    stride, lead = int(g.stride), int(g.lead)
    rows = f.reshape(Q, int(g.plane))[:, : (g.ny + 2) * stride].reshape(Q, g.ny + 2, stride)
    return rows[:, 1:-1, lead : lead + g.nx]


class _Flat(NamedTuple):
    plane: int
    stride: int
    lead: int

    def __call__(self, q, y, x):
        """Flat index of population q at row y, column x (from 0; -1 and nx, ny are halo)."""
        return q * self.plane + (y + 1) * self.stride + self.lead + x


def _segments(solid, flat):
    """Runs of fluid cells: their row (from 1) and (first flat index of population 0, length)."""
    rows, runs = [], []
    for y, row in enumerate(solid):
        edges = np.flatnonzero(np.diff(np.r_[True, row, True].astype(int)))
        for first, last in edges.reshape(-1, 2):
            rows.append(y + 1)
            runs.append((flat(0, y, first), last - first))
    return np.array(rows, int), np.array(runs, int).reshape(-1, 2)


def _links(solid, sides, open_ends, flat):
    """All links: row of the source (from 1), the two index pairs, the velocity factors."""
    ny, nx = solid.shape
    profile, collected = inlet_profile(ny, sides), []
    halo = np.pad(solid, ((1, 1), (0, 0)), mode="edge" if sides == "free-slip" else "wrap")
    halo = np.pad(halo, ((0, 0), (1, 1)), mode="constant" if open_ends else "wrap")
    y, x = np.nonzero(~solid)
    for q in range(1, 9):
        from_y, from_x = y - CY[q], x - CX[q]
        wall = halo[from_y + 1, from_x + 1]
        inlet = ~wall & open_ends & (from_x < 0)
        outlet = ~wall & open_ends & (from_x >= nx)
        inside = (from_y >= 0) & (from_y < ny) & (from_x >= 0) & (from_x < nx)
        wrapped = ~wall & ~inlet & ~outlet & ~inside
        slip = wrapped & ((from_y < 0) | (from_y >= ny)) & (sides == "free-slip")
        bounced = wall | inlet
        r = np.where(bounced, OPPOSITE[q], np.where(slip, MIRROR_Y[q], q))
        source_y = np.where(bounced | slip, y, from_y % ny)
        source_x = np.where(bounced, x, from_x % nx)
        push = 6 * W[q] * np.array([CX[q], CY[q]]) * profile[y] * inlet[:, None]
        pairs = np.stack(
            [
                flat(OPPOSITE[q], from_y, from_x),
                flat(OPPOSITE[r], source_y, source_x),
                flat(q, y, x),
                flat(r, source_y + CY[r], source_x + CX[r]),
            ],
            axis=1,
        )
        take = bounced | wrapped
        collected.append((source_y[take] + 1, pairs[take], push[take]))
    return tuple(np.concatenate(parts) for parts in zip(*collected, strict=True))
