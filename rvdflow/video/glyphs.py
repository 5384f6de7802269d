"""Moving digits that bounce off the walls at random: clips without a download, whose true distribution is known.

The law, with lengths in pixels and time t in frames (pixel (i, j) lies at y = i, x = j):

- A glyph is a rigid digit (`digits`) whose place is its centre of mass. It lives in a square of `side` pixels about
  that place, and the walls stop the square at the centres of the outermost pixels: side/2 <= y <= height - 1 - side/2,
  and so for x. This is the *room*. Glyphs do not see each other; where they overlap a pixel shows the maximum.
- At t = 0 the digit is any of `digits`, the place uniform in the room, the direction uniform over the circle, the speed
  uniform in `speed`, and the colour any of `PALETTE` (white in gray clips): all independent. Only the direction ever
  changes.
- A glyph flies straight until it reaches a wall, at any real t, there draws a direction, and flies on at once: within a
  frame, and more than once if need be (`motion`). The angle from the wall's inward normal, clockwise on the screen, is
      modes = None     turn uniform in (-pi/2, pi/2)
      modes = K        turn_k = pi ((k + 1/2) / K - 1/2),  k = 0..K-1,  with probability p_k (1/K unless given)
  independent of the way in and of all other draws. In a corner the normal is the diagonal, and turns are halved.

So the state (places, velocities, digits, colours) at a frame is all that the past says of the future. The future is
certain up to the next bounce; with K modes it is afterwards a mixture of K clips, of known weights, K more at every
further bounce. `continuations` draws from it, `all_futures` lists it. The idea is that of Stochastic Moving MNIST
(Denton & Fergus 2018, Stochastic video generation with a learned prior, ICML, arXiv:1802.07687), which redraws the
velocity at a wall; strokes, geometry and law are our own.

Clip `number` of `seed` is a function of these two and the settings: it does not depend on how many clips are made, its
first frames not on how many follow, and its motion not on `coloured`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lbm.errors import DataError, UsageError
from rvdflow.streams import numpy_generator, stream_seed
from rvdflow.video.digits import ink
from rvdflow.video.motion import Draw, Room, State, Trajectory, travel
from rvdflow.video.source import COLOUR, GRAY, Clip, Read, Series, Shrink, Source, unchanged

PALETTE = ((255, 80, 80), (80, 255, 80), (90, 120, 255), (255, 255, 60), (255, 80, 255), (60, 255, 255))
SMALLEST = 6  # pixels; in a smaller square digits cannot be told apart
SPLITS = ("train", "validation", "test")
MOST_FUTURES = 10_000


@dataclass(frozen=True)
class Glyphs:
    """What is in the clips. UsageError for what cannot be drawn."""

    size: tuple[int, int] = (64, 64)  # height, width in pixels
    glyphs: int = 1
    digits: tuple[int, ...] = tuple(range(10))
    box: float | None = None  # side of the square that a glyph fills, pixels; None: half the shorter side of the frame
    speed: tuple[float, float] = (1.5, 3.0)  # lowest and highest, pixels per frame
    modes: int | None = None  # number of directions after a bounce; None: any angle
    probabilities: tuple[float, ...] | None = None  # of the modes; None: equal
    coloured: bool = False
    frames: int = 20

    def __post_init__(self) -> None:
        for name, value in (("glyphs", self.glyphs), ("frames", self.frames), ("modes", self.modes)):
            if not (_whole(value, 1) or (name == "modes" and value is None)):
                raise UsageError(f"{name} {value!r} must be a whole number of at least 1")
        if len(self.size) != 2 or not all(_whole(n, 1) for n in self.size):
            raise UsageError(f"size {self.size!r} must be height and width in pixels")
        if not self.digits or not all(_whole(d, 0) and d <= 9 for d in self.digits):
            raise UsageError(f"digits {self.digits!r} must be some of 0..9")
        room = min(self.size) - 1 - self.side
        if not (self.side >= SMALLEST and room >= 1):
            wanted = f"at least {SMALLEST} pixels, and 2 less than the {min(self.size)} of the frame"
            raise UsageError(f"a glyph of {self.side:g} pixels (box) does not fit: {wanted}")
        if len(self.speed) != 2 or not 0 < self.speed[0] <= self.speed[1] <= room:
            wanted = f"lowest and highest, above 0 and at most the {room:g} pixels from wall to wall"
            raise UsageError(f"speed {self.speed!r} must be {wanted}")
        if self.probabilities is not None:
            given = self.probabilities
            if self.modes is None or len(given) != self.modes:
                raise UsageError(f"{len(given)} probabilities given for {self.modes or 'no'} modes")
            if not all(p > 0 for p in given) or not abs(math.fsum(given) - 1) < 1e-9:
                raise UsageError(f"probabilities {given!r} must be above 0 and add up to 1")

    @property
    def side(self) -> float:
        return min(self.size) / 2 if self.box is None else float(self.box)

    @property
    def room(self) -> Room:
        """Lowest and highest place (y, x) of a glyph."""
        margin = self.side / 2
        return (margin, margin), (self.size[0] - 1 - margin, self.size[1] - 1 - margin)

    @property
    def weights(self) -> tuple[float, ...]:
        """Probability of each mode; empty where any angle is possible."""
        return self.probabilities or (1 / self.modes,) * self.modes if self.modes else ()


@dataclass(frozen=True, eq=False)
class Future:
    """One of the futures of a state, and its probability."""

    probability: float
    trajectory: Trajectory

    @property
    def modes(self) -> tuple[int, ...]:
        """Which modes were drawn, in order of time over all glyphs."""
        return modes_of(self.trajectory)


def modes_of(path: Trajectory) -> tuple[int, ...]:
    """Modes of the bounces of a trajectory, in order of time over all glyphs; none where any angle is possible."""
    return tuple(bounce.mode for bounce in path.bounces if bounce.mode is not None)


def clip(settings: Glyphs, seed: int, number: int) -> tuple[np.ndarray, Trajectory]:
    """Clip `number` of `seed`: frames (time, y, x, channel) uint8, and how they came about."""
    path = trajectory(settings, seed, number)
    return render(settings, path), path


def trajectory(settings: Glyphs, seed: int, number: int) -> Trajectory:
    """The motion in clip `number` of `seed`, from the first frame to the last."""
    rng = numpy_generator(seed, "glyphs", number)
    part = rng.random((settings.glyphs, 6))  # digit, y, x, direction, speed, colour
    low, high = np.array(settings.room)
    angle, speed = 2 * np.pi * part[:, 3], settings.speed[0] + part[:, 4] * (settings.speed[1] - settings.speed[0])
    state = State(
        position=low + part[:, 1:3] * (high - low),
        velocity=speed[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1),
        digit=np.array(settings.digits)[(part[:, 0] * len(settings.digits)).astype(int)],
        colour=(part[:, 5] * len(PALETTE)).astype(int),
    )
    return travel(settings.room, state, np.arange(settings.frames), _drawn(settings, rng))


def render(settings: Glyphs, path: Trajectory) -> np.ndarray:
    """Frames (time, y, x, channel) uint8 of a trajectory."""
    colours = np.array(PALETTE)[path.colour] if settings.coloured else np.full((len(path.digit), 1), 255)
    frames = np.zeros((len(path), *settings.size, colours.shape[1]))
    for glyph, (digit, colour) in enumerate(zip(path.digit, colours, strict=True)):
        shape = ink(int(digit), settings.side)
        for frame, (y, x) in zip(frames, path.position[:, glyph], strict=True):
            np.maximum(frame, shape.picture(y, x, *settings.size)[..., None] * colour, out=frame)
    return np.rint(frames).astype(np.uint8)


def continuations(settings: Glyphs, state: State, frames: int, count: int, *, seed: int) -> list[Trajectory]:
    """`count` independent draws of the `frames` frames that follow a state, from their true distribution.

    Draw k is the same however many are made; draws for several clips need seeds of their own to be independent.
    UsageError when the state does not fit the settings.
    """
    times = _ahead(settings, state, frames)
    streams = (numpy_generator(seed, "continuation", member) for member in range(count))
    return [travel(settings.room, state, times, _drawn(settings, rng)) for rng in streams]


def all_futures(settings: Glyphs, state: State, frames: int, *, bounces: int | None = None) -> list[Future]:
    """Every future of a state over `frames` frames, in the order of their modes; the probabilities add up to 1.

    With `bounces` = n only the first n bounces are told apart: a future ends with the last frame before bounce n + 1,
    so that 0 gives what is certain. Futures of other modes may show the same frames again: their probabilities add.
    UsageError when modes is None, when the state does not fit, and when there are more than MOST_FUTURES.
    """
    if settings.modes is None:
        raise UsageError("with modes = None there are infinitely many futures: draw some of them by continuations")
    times = _ahead(settings, state, frames)
    found: list[Future] = []
    waiting: deque[tuple[int, ...]] = deque([()])
    while waiting:  # each beginning stands for the future that goes on with mode 0
        if len(found) + len(waiting) > MOST_FUTURES:
            raise UsageError(f"more than {MOST_FUTURES} futures in {frames} frames: lower frames or bounces")
        begun = waiting.popleft()
        path = travel(settings.room, state, times, _given(settings.modes, begun), bounces)
        taken = modes_of(path)
        found.append(Future(math.prod(settings.weights[k] for k in taken), path))
        for place in range(len(begun), len(taken)):
            waiting += [(*taken[:place], other) for other in range(1, settings.modes)]
    return sorted(found, key=lambda future: future.modes)


class MovingGlyphs(Source):
    """Moving glyphs as an archive: `counts` clips by split. Nothing lies on disk, and `folder` is not used.

    Clip `number` of a split is clip `number` of the seed stream_seed(seed, split): it does not depend on the counts.
    """

    name = "glyphs"
    title = "Moving glyphs"
    split_policy = "a seed for each split"

    def __init__(self, settings: Glyphs, counts: Mapping[str, int], *, seed: int = 0) -> None:
        super().__init__(Path())
        for split, count in counts.items():
            if split not in SPLITS or not _whole(count, 0):
                raise UsageError(f"{count!r} clips of {split!r}: wanted are whole numbers for {', '.join(SPLITS)}")
        self.settings, self.counts, self.seed = settings, dict(counts), seed
        self.size = settings.size
        self.channels = COLOUR if settings.coloured else GRAY
        axes = Series("glyph_axis", 2 * settings.glyphs, "y and x of each glyph, ")
        self.series = {
            "position": replace(axes, about=axes.about + "pixels"),
            "velocity": replace(axes, about=axes.about + "pixels per frame"),
            "bounced": Series("glyph", settings.glyphs, "bounces of each glyph since the frame before"),
        }

    def options(self) -> dict[str, Any]:
        return {**asdict(self.settings), "counts": self.counts, "seed": self.seed}

    def files(self, clip: Clip) -> list[Path]:
        """None: clips are drawn, not read."""
        return []

    def clips(self) -> list[Clip]:
        """All clips, with their motion but without their pictures."""
        return [self._clip(split, k) for split in SPLITS for k in range(self.counts.get(split, 0))]

    def _clip(self, split: str, number: int) -> Clip:
        path = trajectory(self.settings, stream_seed(self.seed, split), number)
        numbers = {"number": number, "bounces": len(path.bounces)}
        numbers |= {f"digit_{k}": int(digit) for k, digit in enumerate(path.digit)}
        if self.settings.coloured:
            numbers |= {f"colour_{k}": int(colour) for k, colour in enumerate(path.colour)}
        name = f"drawn/{self.seed}/{split}"  # no file, but where its numbers come from
        return Clip(f"{split}/{number:06d}", split, name, 0, self.settings.frames, numbers)

    def read(self, clip: Clip, shrink: Shrink = unchanged) -> Read:
        """The frames of a clip, and the truth: `position` and `velocity` (time, y and x of each glyph), `bounced`."""
        number = clip.numbers.get("number")
        if not (_whole(number, 0) and isinstance(number, int) and number < self.counts.get(clip.split, 0)):
            raise DataError(f"{clip.clip_id}: no clip of these moving glyphs")
        path = trajectory(self.settings, stream_seed(self.seed, clip.split), number)
        parts = {"position": path.position, "velocity": path.velocity, "bounced": path.bounced}
        extras = {
            name: part.reshape(len(path), -1).astype(np.float32)[clip.first : clip.stop] for name, part in parts.items()
        }
        return Read(shrink(render(self.settings, path)[clip.first : clip.stop]), extras)


def _drawn(settings: Glyphs, rng: np.random.Generator) -> Draw:
    limits = np.cumsum(settings.weights)

    def draw() -> tuple[float, int | None]:
        part = rng.random()
        if settings.modes is None:
            return np.pi * (part - 0.5), None
        mode = min(int(np.searchsorted(limits, part, side="right")), settings.modes - 1)
        return _turn(settings.modes, mode), mode

    return draw


def _given(modes: int, chosen: tuple[int, ...]) -> Draw:
    """The chosen modes, and then mode 0."""
    left = iter(chosen)

    def draw() -> tuple[float, int | None]:
        mode = next(left, 0)
        return _turn(modes, mode), mode

    return draw


def _turn(modes: int, mode: int) -> float:
    return np.pi * ((mode + 0.5) / modes - 0.5)


def _ahead(settings: Glyphs, state: State, frames: int) -> np.ndarray:
    """Times 1..frames after a state, which is checked."""
    if not _whole(frames, 1):
        raise UsageError(f"frames {frames!r} must be a whole number of at least 1")
    low, high = settings.room
    if not (state.position.shape == state.velocity.shape == (len(state.digit), 2) and len(state.digit)):
        got = f"{state.position.shape} and {state.velocity.shape}"
        raise UsageError(f"position and velocity of a state are (glyph, 2) for {len(state.digit)} glyphs, got {got}")
    if not ((state.position >= low) & (state.position <= high)).all():
        raise UsageError(f"a state with places (y, x) {state.position.tolist()} does not lie in the room {low}..{high}")
    if not (np.isfinite(state.velocity).all() and (state.velocity != 0).any(axis=1).all()):
        raise UsageError(f"a state with velocities {state.velocity.tolist()} has glyphs that do not move")
    return np.arange(1, frames + 1)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= least)
