"""Points that fly straight in a rectangular room and leave its walls in directions of somebody's choice.

Places and velocities are (y, x), y down the screen; the room is its lowest and its highest corner, the walls belong to
it. A point flies at constant velocity until it reaches a wall, at any real time, and goes on from there at once with
the same speed, in the direction that makes the angle `turn` with the wall's inward normal, clockwise on the screen:

    v = |v| (n cos(turn) + m sin(turn)),    n = (n_y, n_x) the normal, m = (n_x, -n_y) the normal turned clockwise.

In a corner (two walls within CORNER) the normal is the diagonal and turns are halved, so that turns between -pi/2 and
pi/2 always lead into the room. Nothing is stepped: a place is exact up to rounding however many walls are met between
two times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CORNER = 1e-9  # pixels from a second wall that count as being there

Point = tuple[float, float]
Room = tuple[Point, Point]
Signs = tuple[int, int]
Draw = Callable[[], tuple[float, int | None]]  # the next turn, and which mode that is
Leg = tuple[float, Point, Point]  # since when, from where, velocity


@dataclass(frozen=True, eq=False)
class State:
    """Places and velocities (glyph, 2) as (y, x), digits (glyph) and numbers of colours in the palette (glyph)."""

    position: np.ndarray
    velocity: np.ndarray
    digit: np.ndarray
    colour: np.ndarray


@dataclass(frozen=True)
class Bounce:
    """A new direction. `inward` has the signs (y, x) of the normal: (0, 1) at the left wall, (1, 1) at the top left."""

    time: float  # frames since the state that was set out from
    glyph: int
    inward: Signs
    turn: float  # radians, as drawn
    mode: int | None


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States at successive frames: position and velocity (time, glyph, 2), digit and colour (glyph).

    `bounced` (time, glyph) counts the bounces since the frame before; a frame at the very time of a bounce has the new
    velocity.
    """

    position: np.ndarray
    velocity: np.ndarray
    digit: np.ndarray
    colour: np.ndarray
    bounced: np.ndarray
    bounces: tuple[Bounce, ...]

    def __len__(self) -> int:
        return len(self.position)

    def at(self, frame: int) -> State:
        """The state at one frame."""
        return State(self.position[frame], self.velocity[frame], self.digit, self.colour)


def travel(room: Room, state: State, times: np.ndarray, draw: Draw, most: int | None = None) -> Trajectory:
    """Where all are at the rising `times`, counted from `state`; ends before bounce `most` + 1 if that is given.

    `draw` is called in order of time over all points: the first frames do not depend on how many follow.
    """
    legs: list[list[Leg]] = [
        [(0.0, (y, x), (v, u))] for (y, x), (v, u) in zip(state.position.tolist(), state.velocity.tolist(), strict=True)
    ]
    ahead = [next_wall(room, *flight[-1]) for flight in legs]
    bounces: list[Bounce] = []
    while True:
        glyph = min(range(len(legs)), key=lambda g: ahead[g][0])
        time, place, inward = ahead[glyph]
        if time > times[-1]:
            break
        if len(bounces) == most:
            times = times[times < time]
            break
        turn, mode = draw()
        y, x = outgoing(inward, turn)
        speed = math.hypot(*legs[glyph][-1][2])
        legs[glyph].append((time, place, (speed * y, speed * x)))
        ahead[glyph] = next_wall(room, *legs[glyph][-1])
        bounces.append(Bounce(time, glyph, inward, turn, mode))

    position, velocity = np.empty((2, len(times), len(legs), 2))
    bounced = np.zeros((len(times), len(legs)), dtype=int)
    for glyph, flight in enumerate(legs):
        since, start, pace = (np.array(column) for column in zip(*flight, strict=True))
        leg = np.searchsorted(since, times, side="right") - 1
        velocity[:, glyph] = pace[leg]
        position[:, glyph] = np.clip(start[leg] + pace[leg] * (times - since[leg])[:, None], *np.array(room))
        bounced[:, glyph] = np.diff(leg, prepend=0)
    return Trajectory(position, velocity, state.digit, state.colour, bounced, tuple(bounces))


def next_wall(room: Room, time: float, place: Point, velocity: Point) -> tuple[float, Point, Signs]:
    """When and where a wall is met from `place` at `time`, and the signs (y, x) of the inward normal there."""
    axes = list(zip(place, velocity, *room, strict=True))
    needed = [((high if v > 0 else low) - p) / v if v else math.inf for p, v, low, high in axes]
    first = needed.index(min(needed))
    met = [_beside(p + v * needed[first], low, high) for p, v, low, high in axes]
    _, v, low, high = axes[first]
    met[first] = (high, -1) if v > 0 else (low, 1)
    return time + needed[first], (met[0][0], met[1][0]), (met[0][1], met[1][1])


def _beside(place: float, low: float, high: float) -> tuple[float, int]:
    """A coordinate, put on the wall within CORNER, and the sign of that wall's normal: 0 away from both."""
    if place <= low + CORNER:
        return low, 1
    return (high, -1) if place >= high - CORNER else (place, 0)


def outgoing(inward: Signs, turn: float) -> Point:
    """Unit vector (y, x) at the angle `turn` from the inward normal; half of it in a corner."""
    y, x = inward[0] / math.hypot(*inward), inward[1] / math.hypot(*inward)
    angle = turn / 2 if all(inward) else turn
    return y * math.cos(angle) + x * math.sin(angle), x * math.cos(angle) - y * math.sin(angle)
