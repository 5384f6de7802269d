"""Every jitted function of the solver, in physical order: collision, rows, walls, outlet, sweep, frames, inflow noise.

**AA pattern** (Bailey et al. 2009, doi:10.1109/ICPP.2009.38): one array, updated in place. An even tick reads
population q of a cell from its own slot and leaves the result of population q in slot -c_q; an odd tick reads q from
slot -c_q of the neighbour at x - c_q and leaves it in slot q of the neighbour at x + c_q, where the next even tick
expects it. A cell reads and writes the same nine slots, which no other cell touches in that tick.
So an odd row can follow as soon as the even rows on both its sides are done: **one sweep makes two ticks**.

Populations are stored as deviations from the lattice weights (single precision needs it). Indices are unsigned:
with signed ones numba guards against negative wrap-around, and the loop does not become vector code (7 times slower).
fastmath is limited to contraction (fused multiply-add), reciprocal division and signless zeros: nothing here needs
re-association, and the flags which assume that no NaN exists would hide a divergence.
Kernels that call each other stay in this file, since numba's cache does not see edits elsewhere.
"""

import math
import os
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

FLAGS = {"contract", "arcp", "nsz"}
OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": FLAGS}
NOISE_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True}
U = np.uint64


@njit(inline="always")
def collide(f0, f1, f2, f3, f4, f5, f6, f7, f8, rates, one, half, third, quarter, general):
    """Hermite-consistent multiple relaxation times: nine deviations before, nine after.

    Second moments T = Pxx + Pyy (rate sb), N = Pxx - Pyy and P = Pxy (rate sv), third moments at sq, and the fourth
    *Hermite* moment at s4: R = R_eq + (1 - sb)(T - T_eq)/3 + (1 - s4)(R - R_eq - (T - T_eq)/3), T before its collision.
    Relaxing the raw fourth moment instead is unstable as soon as sb differs from sv.
    rates: (sv, sb, sq, s4, half the body force in x, in y). `general` is a constant: without it s4 is 1 and there is no
    force. A force (Guo, Zheng & Shi 2002, doi:10.1103/PhysRevE.65.046308) is half a kick before the collision and half
    after: to a moment of rate s and source S that adds (1 - s/2) S, with the velocity (j + F/2)/rho throughout.
    """
    sv, sb, sq = rates[0], rates[1], rates[2]
    p1 = f1 + f3
    m1 = f1 - f3
    p2 = f2 + f4
    m2 = f2 - f4
    p5 = f5 + f7
    m5 = f5 - f7
    p6 = f6 + f8
    m6 = f6 - f8
    r = p5 + p6
    drho = f0 + p1 + p2 + r
    jx = m1 + m5 - m6
    jy = m2 + m5 + m6
    if general:
        jx += rates[4]
        jy += rates[5]
    inverse = one / (one + drho)
    ux = jx * inverse
    uy = jy * inverse
    qx = jx * ux
    qy = jy * uy
    pressure = third * drho
    t = p1 + p2 + r + r
    n = p1 - p2
    p = p5 - p6
    xxy = m5 + m6
    xyy = m5 - m6
    if general:
        hx, hy = rates[4], rates[5]
        kick_x, kick_y = ux * hx + ux * hx, uy * hy + uy * hy
        kick_p = ux * hy + uy * hx
        kick_xxy = third * hy + ux * (uy * hx + kick_p)
        kick_xyy = third * hx + uy * (ux * hy + kick_p)
        kick_r = kick_x * (third + uy * uy) + kick_y * (third + ux * ux)
        t += kick_x + kick_y
        n += kick_x - kick_y
        p += kick_p
        xxy += kick_xxy
        xyy += kick_xyy
        r += kick_r
    excess = t - (pressure + pressure + qx + qy)
    t = t - sb * excess
    n = n + sv * (qx - qy - n)
    p = p + sv * (jx * uy - p)
    xxy = xxy + sq * (jy * (third + ux * ux) - xxy)
    xyy = xyy + sq * (jx * (third + uy * uy) - xyy)
    if general:
        ghost = r - third * (pressure + qx + qy + excess) - qx * uy * uy
        r = third * (pressure + qx + qy + excess - sb * excess) + qx * uy * uy + (one - rates[3]) * ghost
        t += kick_x + kick_y
        n += kick_x - kick_y
        p += kick_p
        xxy += kick_xxy
        xyy += kick_xyy
        r += kick_r
        jx += hx
        jy += hy
    else:
        r = third * (pressure + qx + qy + excess - sb * excess) + qx * uy * uy
    a = half * (half * (t + n) - r)
    b = half * (jx - xyy)
    c = half * (half * (t - n) - r)
    d = half * (jy - xxy)
    e = quarter * (r + p)
    g = quarter * (xxy + xyy)
    h = quarter * (r - p)
    k = quarter * (xxy - xyy)
    return drho - t + r, a + b, c + d, a - b, c - d, e + g, h + k, e - g, h - k


LARGE = 64 * 2**20  # bytes of populations above which memory, not the caches, feeds the rows: then rows are prefetched
PIECE = U(16)  # cells between two prefetches, one or two cache lines: more stalls, fewer costs instructions


def _slot(number):
    """Load from and store to the number-th of the nine runs of memory that a row collides in.

    No two runs overlap, which the compiler cannot see and would check at the start of every row, 36 pairs: scoped
    no-alias metadata tells it (14 % on rows of 128 cells in single precision, the same bits).
    """

    def mark(module, instruction):
        domain = module.add_metadata(["slots of a row"])
        scopes = [module.add_metadata([f"slot {q}", domain]) for q in range(9)]
        instruction.set_metadata("alias.scope", module.add_metadata([scopes[number]]))
        instruction.set_metadata("noalias", module.add_metadata(scopes[:number] + scopes[number + 1 :]))
        return instruction

    @intrinsic
    def load(typing_context, array, index):
        def generate(context, builder, signature, arguments):
            pointer = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            return mark(builder.module, builder.load(builder.gep(pointer, [arguments[1]])))

        return array.dtype(array, types.uint64), generate

    @intrinsic
    def store(typing_context, array, index, value):
        def generate(context, builder, signature, arguments):
            pointer = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            mark(builder.module, builder.store(arguments[2], builder.gep(pointer, [arguments[1]])))
            return context.get_dummy_value()

        return types.void(array, types.uint64, array.dtype), generate

    return load, store


_LOAD, _STORE = zip(*(_slot(number) for number in range(9)), strict=True)
_l0, _l1, _l2, _l3, _l4, _l5, _l6, _l7, _l8 = _LOAD
_s0, _s1, _s2, _s3, _s4, _s5, _s6, _s7, _s8 = _STORE


@intrinsic
def _prefetch(typing_context, array, index):
    """Ask for the cache line of an element."""

    def generate(context, builder, signature, arguments):
        pointer = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, integer, integer, integer])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        address = builder.bitcast(builder.gep(pointer, [arguments[1]]), byte)
        builder.call(function, [address, integer(0), integer(3), integer(1)])  # for reading, every level, data
        return context.get_dummy_value()

    return types.void(array, types.uint64), generate


@njit(inline="always")
def collide_segment(f, a0, a1, a2, a3, a4, a5, a6, a7, a8, length, rates, general):
    """Collide `length` cells; population q starts at flat index a_q, its result goes where -c_q came from."""
    real = f.dtype.type
    one, half, third, quarter = real(1), real(0.5), real(1 / 3), real(0.25)
    values = (rates[0], rates[1], rates[2], rates[3], rates[4], rates[5])
    for j in range(length):
        g0, g1, g2, g3, g4, g5, g6, g7, g8 = collide(
            _l0(f, a0 + j), _l1(f, a1 + j), _l2(f, a2 + j), _l3(f, a3 + j), _l4(f, a4 + j), _l5(f, a5 + j),
            _l6(f, a6 + j), _l7(f, a7 + j), _l8(f, a8 + j), values, one, half, third, quarter, general,
        )  # fmt: skip
        _s0(f, a0 + j, g0)
        _s3(f, a3 + j, g1)
        _s4(f, a4 + j, g2)
        _s1(f, a1 + j, g3)
        _s2(f, a2 + j, g4)
        _s7(f, a7 + j, g5)
        _s8(f, a8 + j, g6)
        _s5(f, a5 + j, g7)
        _s6(f, a6 + j, g8)


@njit(inline="always")
def collide_even(f, g, i, length, rates, general):
    """Even tick of `length` cells from flat index i: every population in its own slot."""
    n = g.plane
    collide_segment(
        f, i, i + n, i + U(2) * n, i + U(3) * n, i + U(4) * n, i + U(5) * n, i + U(6) * n, i + U(7) * n,
        i + U(8) * n, length, rates, general,
    )  # fmt: skip


@njit(inline="always")
def collide_odd(f, g, i, length, rates, general):
    """Odd tick of `length` cells from flat index i: population q from slot -c_q of the cell it comes from."""
    n, s = g.plane, g.stride
    collide_segment(
        f, i, i + U(3) * n - U(1), i + U(4) * n - s, i + n + U(1), i + U(2) * n + s,
        i + U(7) * n - s - U(1), i + U(8) * n - s + U(1), i + U(5) * n + s + U(1), i + U(6) * n + s - U(1),
        length, rates, general,
    )  # fmt: skip


@njit(**OPTIONS)
def even_row(f, g, rows, y, rates):
    """Even tick of the fluid cells of row y."""
    for k in range(rows.start[y], rows.start[y + U(1)]):
        collide_even(f, g, rows.segments[k, 0], rows.segments[k, 1], rates, False)


@njit(**OPTIONS)
def odd_row(f, g, rows, y, rates):
    """Odd tick of the fluid cells of row y."""
    for k in range(rows.start[y], rows.start[y + U(1)]):
        collide_odd(f, g, rows.segments[k, 0], rows.segments[k, 1], rates, False)


@njit(**OPTIONS)
def odd_row_ahead(f, g, rows, y, rates):
    """`odd_row` that asks for the even row that comes next, y + 2, meanwhile: collision overlaps with memory."""
    line = U(64 // f.itemsize)
    for k in range(rows.start[y], rows.start[y + U(1)]):
        i, left = rows.segments[k, 0], rows.segments[k, 1]
        while left > U(0):
            length = min(left, PIECE)
            for q in range(U(9)):
                for x in range(U(0), length, line):
                    _prefetch(f, i + q * g.plane + U(2) * g.stride + x)  # type: ignore[call-arg]
            collide_odd(f, g, i, length, rates, False)
            i, left = i + length, left - length


@njit(**OPTIONS)
def general_even_row(f, g, rows, y, rates):
    """`even_row` with body force and a fourth-order rate."""
    for k in range(rows.start[y], rows.start[y + U(1)]):
        collide_even(f, g, rows.segments[k, 0], rows.segments[k, 1], rates, True)


@njit(**OPTIONS)
def general_odd_row(f, g, rows, y, rates):
    """`odd_row` with body force and a fourth-order rate."""
    for k in range(rows.start[y], rows.start[y + U(1)]):
        collide_odd(f, g, rows.segments[k, 0], rows.segments[k, 1], rates, True)


@njit(**OPTIONS)
def follow_links(f, links, y, parity, u, v):
    """Links at the edges whose source lies in row y, after that row's collision; parity 0 is an even tick."""
    target, source = U(2) * parity, U(2) * parity + U(1)
    for k in range(links.start[y], links.start[y + U(1)]):
        push = links.push[k, 0] * u + links.push[k, 1] * v + links.push[k, 2]
        f[links.slots[k, target]] = f[links.slots[k, source]] + push


@njit(**OPTIONS)
def follow_walls(f, walls, y, parity, partial):
    """Links from row y to obstacles, after the collision of all their sources; adds their force to `partial`.

    Interpolated bounce-back (Bouzidi, Firdaouss & Lallemand 2001, doi:10.1063/1.1399290), the weights in
    `boundaries`. Force: momentum exchange in the frame of the wall (Wen et al. 2014, doi:10.1016/j.jcp.2014.02.018).
    Without the weights, which are an ambient pressure: on a closed obstacle they sum to zero.
    """
    t, a, b = U(3) * parity, U(3) * parity + U(1), U(3) * parity + U(2)
    for k in range(walls.start[y], walls.start[y + U(1)]):
        gone = f[walls.slots[k, a]]
        back = walls.weight[k, 0] * gone + walls.weight[k, 1] * f[walls.slots[k, b]] + walls.weight[k, 2]
        f[walls.slots[k, t]] = back
        body, both, change = walls.body[k], float(gone) + float(back), float(gone) - float(back)
        partial[parity, y, body, 0] += walls.exchange[k, 0] * both - walls.exchange[k, 2] * change
        partial[parity, y, body, 1] += walls.exchange[k, 1] * both - walls.exchange[k, 3] * change


@njit(**OPTIONS)
def absorb(f, g, sponge, y, parity, speed):
    """Sponge: draw the last cells of row y towards the undisturbed flow, after their collision."""
    real, length = f.dtype.type, sponge.damping.size
    u = speed * sponge.profile[y - U(1)]
    base = y * g.stride + g.lead + U(g.nx - length)
    for q in range(9):
        along = real(2 / 3) - u * u
        if sponge.lattice[q, 0] != 0:
            along = real(1 / 6) + real(sponge.lattice[q, 0]) * real(0.5) * u + real(0.5) * u * u
        across = real(2 / 3) if sponge.lattice[q, 1] == 0 else real(1 / 6)
        target = along * across - sponge.weights[q]
        i = base + sponge.after[parity, q]
        for x in range(U(length)):
            f[i + x] += sponge.damping[x] * (target - f[i + x])


@njit(**OPTIONS)
def outlet_absorption(f, g, speed, absorption, held):
    """What the outlet's plane sound wave and mean pressure ask for, held for two ticks (even layout).

    A convective outlet, d_t f + U d_x f = 0, lets eddies go but throws back a fifth of a sound wave, which leaves at
    U + c_s. Averaged over the outlet an eddy vanishes and a plane wave remains: c_s times the mean gradient, applied to
    the mean, makes it leave at its own speed. That alone would let the mean density drift. So the mean is also pulled
    to the relation of a wave that leaves a flow of density 1 and velocity U, e = j - U - (U + c_s)(rho - 1) = 0,
    which costs no reflection. held: (a_3, a_6 = a_7).
    """
    n = g.plane
    axis, diagonal, density, momentum = 0.0, 0.0, 0.0, 0.0
    for y in range(U(1), U(g.ny + 1)):
        i = y * g.stride + g.lead + U(g.nx - 1)
        b = i - U(1)
        axis += f[b + U(3) * n] - f[i + U(3) * n]
        diagonal += f[b + U(6) * n] + f[b + U(7) * n] - f[i + U(6) * n] - f[i + U(7) * n]
        momentum += f[i + n] + f[i + U(5) * n] + f[i + U(8) * n] - f[i + U(3) * n] - f[i + U(6) * n] - f[i + U(7) * n]
        for q in range(U(9)):
            density += f[i + q * n]
    sound = absorption[0]
    pull = absorption[1] * (momentum / g.ny - speed - (speed + sound) * density / g.ny)
    held[0] = sound * axis / g.ny + pull * 2 / 3
    held[1] = sound * diagonal / g.ny / 2 + pull / 6


@njit(inline="always")
def outlet_row(f, g, y, parity, speed):
    """Populations 3, 6, 7 for the last cell of row y, convected from its neighbour (before the row's collision)."""
    n, s = g.plane, g.stride
    i = y * s + g.lead + U(g.nx - 1)
    if parity == 0:
        a3, a6, a7 = i + U(3) * n, i + U(6) * n, i + U(7) * n
    else:
        a3, a6, a7 = i + n + U(1), i + U(8) * n - s + U(1), i + U(5) * n + s + U(1)
    one = U(1)
    return (
        f[a3] + speed * (f[a3 - one] - f[a3]),
        f[a6] + speed * (f[a6 - one] - f[a6]),
        f[a7] + speed * (f[a7 - one] - f[a7]),
    )


@njit(**OPTIONS)
def set_outlet(f, g, y, parity, out3, out6, out7):
    """Leave the outlet's populations where the next tick of either layout looks for them."""
    n, s = g.plane, g.stride
    i = y * s + g.lead + U(g.nx - 1)
    if parity == 0:
        f[i + n + U(1)] = out3
        f[i + U(8) * n - s + U(1)] = out6
        f[i + U(5) * n + s + U(1)] = out7
    else:
        f[i + U(3) * n] = out3
        f[i + U(6) * n] = out6
        f[i + U(7) * n] = out7


if os.name == "posix":
    _yield = types.ExternalFunction("sched_yield", types.int32())
else:  # nothing like it in the C library: waiting threads spin

    @njit
    def _yield():
        return 0


@intrinsic
def _load(typing_context, array, index):
    """Atomic read of an element of a contiguous int64 vector."""

    def generate(context, builder, signature, arguments):
        pointer = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(builder.gep(pointer, [arguments[1]]), "acquire", 8)

    return types.int64(array, types.intp), generate


@intrinsic
def _store(typing_context, array, index, value):
    """Atomic write of an element of a contiguous int64 vector."""

    def generate(context, builder, signature, arguments):
        pointer = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.store_atomic(arguments[2], builder.gep(pointer, [arguments[1]]), "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), generate


@njit(**OPTIONS)
def meet(progress, band, bands):
    """Wait until every band has come here; False when the work was called off (progress[bands] is not 0).

    progress: (8 (bands + 1),) int64, how many meetings each band has reached, one cache line apart.
    """
    if bands == 1:
        return True
    mine = _load(progress, 8 * band) + 1  # type: ignore[call-arg]
    _store(progress, 8 * band, mine)
    for other in range(bands):
        tries = 0
        while _load(progress, 8 * other) < mine:
            if _load(progress, 8 * bands) != 0:
                return False
            tries += 1
            if tries > 2000:
                _yield()
    return True


@njit(**OPTIONS)
def collect(first, last, partial, parity, forces, t):
    """Sum the rows' forces of a tick in the order of the rows, so that bands do not matter; clears `partial`."""
    for y in range(first, last):
        for body in range(forces.shape[1]):
            for axis in range(2):
                forces[t, body, axis] += partial[parity, y, body, axis]
                partial[parity, y, body, axis] = 0.0


@njit(**OPTIONS)
def advance(f, held, geometry, rates, absorption, inflow, tick, forces, partial, band, bands, progress):
    """Advance by len(inflow) ticks from tick `tick`; the same bits however the ticks are split into calls or bands.

    f: flat populations (dtype of everything here); held: (2,) from `outlet_absorption`; rates as in `collide`;
    absorption: (speed of sound, gain of the pull); inflow: (ticks, 3) inlet velocity and the outlet's convection speed;
    forces: (ticks, bodies, 2) out; partial: (2, ny + 2, bodies, 2) zeros.
    Each of `bands` threads calls this with its number `band` for its share of the rows. The first and the last odd row
    of a band come last, when the even rows across the border (or across a periodic side) are done; links whose sources
    lie in two cells (`far`) are followed before the row they lead to collides again.
    """
    # every table once into a variable of its own: numba counts references whenever it takes one out of a tuple
    real, g, rows, links = f.dtype.type, geometry.grid, geometry.rows, geometry.links
    near, far, sponge, (first_wall, last_wall) = geometry.near, geometry.far, geometry.sponge, geometry.wall_rows
    outlet, general, absorbing = geometry.outlet, geometry.general, sponge.damping.size > 0
    low, high = 1 + band * g.ny // bands, 1 + (band + 1) * g.ny // bands
    done, ticks, large = 0, inflow.shape[0], f.nbytes > LARGE
    while done < ticks:
        with_even = (tick + done) % 2 == 0
        with_odd = not with_even or done + 1 < ticks
        now, later = done, done + 1 if with_even else done
        if band == 0 and with_even and outlet:
            outlet_absorption(f, g, inflow[now, 2], absorption, held)
        if not meet(progress, band, bands):
            return
        held3, held6 = real(held[0]), real(held[1])
        out3, out6, out7 = held3, held6, held6
        # Each step an even row and the odd row before it, but those at the edges of the band, which come last.
        for turn in range(2 * low, 2 * high + 4):
            parity, row, t = turn % 2, turn // 2, now
            if parity == 0:
                if not with_even or row >= high:
                    continue
            else:
                row, t = row - 1, later
                if row == high - 1:
                    row = low
                    if not meet(progress, band, bands):
                        return
                elif row == high:
                    row = high - 1
                elif row <= low:
                    continue
                if not with_odd:
                    continue
            y, side, speed = U(row), U(parity), inflow[t, 2]
            walled = first_wall <= row < last_wall
            if walled and with_even and parity == 1:
                follow_walls(f, far, y, U(0), partial)
            if outlet:
                out3, out6, out7 = outlet_row(f, g, y, side, speed)
            if general:
                if parity == 0:
                    general_even_row(f, g, rows, y, rates)
                else:
                    general_odd_row(f, g, rows, y, rates)
            elif parity == 0:
                even_row(f, g, rows, y, rates)
            elif large:
                odd_row_ahead(f, g, rows, y, rates)
            else:
                odd_row(f, g, rows, y, rates)
            if absorbing:
                absorb(f, g, sponge, y, side, speed)
            if outlet:
                set_outlet(f, g, y, side, out3 + held3, out6 + held6, out7 + held6)
            follow_links(f, links, y, side, inflow[t, 0], inflow[t, 1])
            if walled:
                follow_walls(f, near, y, side, partial)
        if not meet(progress, band, bands):
            return
        for row in range(max(low, first_wall), min(high, last_wall)):
            follow_walls(f, far, U(row), U(1) if with_odd else U(0), partial)
        if not meet(progress, band, bands):
            return
        if band == 0 and with_even:
            collect(first_wall, last_wall, partial, 0, forces, now)
        if band == 0 and with_odd:
            collect(first_wall, last_wall, partial, 1, forces, later)
        done = later + 1 if with_odd else done + 1


@njit(**OPTIONS)
def moments(f, g, offsets, solid, half_force, out):
    """Density and velocity of every cell into out (3, ny, nx); 1 and 0 inside obstacles.

    offsets: (9,) where population q of a cell sits from its own slot 0, which depends on the tick's parity;
    half_force: (2,) half the body force, which belongs to the momentum.
    """
    real = f.dtype.type
    zero, one = real(0), real(1)
    hx, hy = half_force[0], half_force[1]
    o1, o2, o3, o4 = offsets[1], offsets[2], offsets[3], offsets[4]
    o5, o6, o7, o8 = offsets[5], offsets[6], offsets[7], offsets[8]
    for y in range(U(g.ny)):
        i = (y + U(1)) * g.stride + g.lead
        for x in range(U(g.nx)):
            j = i + x
            east, west = f[j + o1] + (f[j + o5] + f[j + o8]), f[j + o3] + (f[j + o6] + f[j + o7])
            north, south = f[j + o2] + (f[j + o5] + f[j + o6]), f[j + o4] + (f[j + o7] + f[j + o8])
            drho = f[j] + (east + west) + (f[j + o2] + f[j + o4])
            inverse = one / (one + drho)
            wall = solid[y, x]  # a choice, not a factor 0: that would keep the sign of what lies in a wall
            out[0, y, x] = one if wall else one + drho
            out[1, y, x] = zero if wall else (east - west + hx) * inverse
            out[2, y, x] = zero if wall else (north - south + hy) * inverse


@njit(**OPTIONS)
def extremes(moments, work):
    """(largest speed^2, smallest and largest density, their mean) of moments (3, ny, nx); work: (4, nx).

    Column by column, which needs no reordering to become vector code. A value that is not finite makes the mean so.
    """
    density, u, v = moments[0], moments[1], moments[2]
    ny, nx = density.shape
    work[0], work[1], work[2], work[3] = 0, density[0], density[0], 0
    for y in range(ny):
        for x in range(nx):
            rho, speed = density[y, x], u[y, x] * u[y, x] + v[y, x] * v[y, x]
            work[0, x] = speed if speed > work[0, x] else work[0, x]
            work[1, x] = rho if rho < work[1, x] else work[1, x]
            work[2, x] = rho if rho > work[2, x] else work[2, x]
            work[3, x] += rho + (speed - speed)
    total = 0.0
    for x in range(nx):
        total += work[3, x]
    return work[0].max(), work[1].min(), work[2].max(), total / (ny * nx)


@njit(**OPTIONS)
def vorticity(u, v, solid, wrap_x, wrap_y, walls, out):
    """d_x v - d_y u by central differences into out (ny, nx); 0 inside obstacles, where the velocity is 0.

    Ends of the channel: one-sided, unless wrap_x. Sides: wrapped; else mirrored, walls (2,) holding the u of no-slip
    sides half a cell outside, or NaN for free slip, where d_y u = 0.
    """
    real = u.dtype.type
    ny, nx = u.shape
    zero, half = real(0), real(0.5)
    for y in range(ny):
        up, down = min(y + 1, ny - 1), max(y - 1, 0)
        if wrap_y:
            up, down = (y + 1) % ny, (y - 1) % ny
        for x in range(1, nx - 1):
            out[y, x] = half * (v[y, x + 1] - v[y, x - 1] - u[up, x] + u[down, x])
        first, last = v[y, 1] - v[y, 0], v[y, nx - 1] - v[y, nx - 2]
        if wrap_x:
            first, last = half * (v[y, 1] - v[y, nx - 1]), half * (v[y, 0] - v[y, nx - 2])
        out[y, 0] = first - half * (u[up, 0] - u[down, 0])
        out[y, nx - 1] = last - half * (u[up, nx - 1] - u[down, nx - 1])
        if y == 0 and walls[0] == walls[0]:
            for x in range(nx):
                out[y, x] += walls[0] - u[y, x]
        if y == ny - 1 and walls[1] == walls[1]:
            for x in range(nx):
                out[y, x] -= walls[1] - u[y, x]
        for x in range(nx):
            out[y, x] = zero if solid[y, x] else out[y, x]


@njit(**OPTIONS)
def box_mean(field, out):
    """Mean over the boxes of `field` that make the coarser `out`; sums in double precision."""
    by, bx = field.shape[0] // out.shape[0], field.shape[1] // out.shape[1]
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            total = 0.0
            for j in range(y * by, y * by + by):
                for i in range(x * bx, x * bx + bx):
                    total += field[j, i]
            out[y, x] = total / (by * bx)


@njit(**NOISE_OPTIONS)
def ornstein_uhlenbeck(state, normals, decay, out):
    """Unit-variance Ornstein-Uhlenbeck path, exact at each tick: n <- decay n + sqrt(1 - decay^2) xi.

    state: (2,) value before the first tick, replaced by the last; normals, out: (ticks, 2).
    """
    kick = math.sqrt(1 - decay * decay)
    for t in range(normals.shape[0]):
        for c in range(2):
            state[c] = decay * state[c] + kick * normals[t, c]
            out[t, c] = state[c]
