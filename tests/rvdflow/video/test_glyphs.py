"""Moving glyphs: the motion obeys its stated law, the pictures show it, and the true distribution is what is said."""

import pickle
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from lbm.errors import DataError, UsageError
from rvdflow.video import glyphs as module
from rvdflow.video.digits import STROKES, ink
from rvdflow.video.glyphs import PALETTE, Glyphs, MovingGlyphs, all_futures, clip, continuations, render, trajectory
from rvdflow.video.motion import CORNER, State, next_wall, outgoing

SMALL = Glyphs(size=(32, 48), box=16, speed=(1, 4), frames=40)  # not square, so that y and x cannot be mistaken
ROUNDING = 1e-9  # pixels; lengths are some tens, a flight has some tens of operations
THREE = Glyphs(size=(32, 32), modes=3, probabilities=(0.5, 0.3, 0.2), frames=40)


def state_of(y, x, vy, vx):
    return State(np.array([[y, x]]), np.array([[vy, vx]]), np.array([3]), np.array([0]))


def mass_and_centre(frame):
    """Of one picture (y, x): its sum and its centre of mass."""
    mass = frame.sum(dtype=float)
    return mass, np.array(
        [np.arange(n) @ frame.sum(1 - axis, dtype=float) for axis, n in enumerate(frame.shape)]
    ) / mass


def turns(settings, clips=250):
    """Turns of all bounces of some clips. All: to leave some out for what came after them would bend their law."""
    return [bounce for k in range(clips) for bounce in trajectory(settings, 5, k).bounces]


@pytest.mark.parametrize("side", [6.0, 8.3, 14.0, 16.0, 28.0, 32.0, 45.7])
@pytest.mark.parametrize("digit", range(10))
def test_ink_of_every_digit_stays_in_its_square_about_the_centre_of_mass(digit, side):
    shape = ink(digit, side)
    assert max(-shape.y[0], shape.y[-1], -shape.x[0], shape.x[-1]) <= side / 2
    assert abs(shape.mask.sum(1) @ shape.y) < 1e-6
    assert abs(shape.mask.sum(0) @ shape.x) < 1e-6
    assert shape.y[-1] - shape.y[0] > 0.7 * side  # and fills it


def test_no_two_digits_look_alike():
    pictures = [ink(digit, 16.0).picture(15.5, 15.5, 32, 32) for digit in range(10)]
    assert len(STROKES) == 10
    for a in range(10):
        for b in range(a):
            differ = np.abs(pictures[a] - pictures[b]).sum() / max(pictures[a].sum(), pictures[b].sum())
            assert differ > 0.3, (a, b)  # of the ink, on the same centre of mass


@pytest.mark.parametrize("settings", [SMALL, Glyphs(size=(64, 64), frames=40), Glyphs(size=(32, 32), frames=40)])
def test_centre_of_mass_of_a_frame_is_the_place_and_the_ink_is_always_the_same(settings):
    for number in range(10):
        frames, path = clip(settings, 1, number)
        assert frames.dtype == np.uint8
        assert frames.shape == (40, *settings.size, 1)
        measured = [mass_and_centre(frame[..., 0]) for frame in frames]
        # Rounding to grey levels errs by at most 1/2, by 0.29 in the mean square, at some 200 pixels at the edges of
        # strokes, up to 16 pixels away from the centre, of a mass of about 10^4: below 0.01 pixel.
        np.testing.assert_allclose([centre for _, centre in measured], path.position[:, 0], atol=0.02)
        exact = 255 * ink(int(path.digit[0]), settings.side).mask.sum() / 16
        np.testing.assert_allclose([mass for mass, _ in measured], exact, rtol=3e-3)
        assert frames.max() >= 250


def test_pictures_before_rounding_have_the_exact_centre_of_mass_anywhere_in_the_room():
    rng = np.random.default_rng(3)
    low, high = SMALL.room
    for digit in range(10):
        for place in [low, high, *rng.uniform(low, high, (20, 2))]:
            picture = ink(digit, 16.0).picture(*place, *SMALL.size)
            mass, centre = mass_and_centre(picture)
            np.testing.assert_allclose(centre, place, atol=ROUNDING)
            assert mass == pytest.approx(ink(digit, 16.0).mask.sum() / 16)
            assert picture.max() <= 1 + ROUNDING


def test_glyphs_stay_in_the_room_and_keep_their_speed():
    for settings in (SMALL, THREE):
        low, high = settings.room
        for number in range(100):
            path = trajectory(settings, 2, number)
            assert ((path.position >= low) & (path.position <= high)).all()
            speed = np.hypot(*np.moveaxis(path.velocity, -1, 0))
            np.testing.assert_allclose(speed, speed[:1].repeat(len(path), 0), rtol=1e-12)
            assert settings.speed[0] <= speed[0, 0] <= settings.speed[1]


def test_between_bounces_places_are_linear_in_time_and_a_bounce_is_met_exactly_on_the_wall():
    low, high = SMALL.room
    free = met = 0
    for number in range(100):
        path = trajectory(SMALL, 3, number)
        steps, pace = np.diff(path.position[:, 0], axis=0), path.velocity[:, 0]
        straight = path.bounced[1:, 0] == 0
        np.testing.assert_allclose(steps[straight], pace[:-1][straight], atol=ROUNDING)
        np.testing.assert_array_equal(pace[1:][straight], pace[:-1][straight])
        free += straight.sum()
        assert path.bounced.sum() == len(path.bounces)
        for bounce in path.bounces:
            frame = int(np.ceil(bounce.time))  # the first frame that shows it
            if path.bounced[frame, 0] != 1:
                continue
            part = bounce.time - (frame - 1)
            before = path.position[frame - 1, 0] + part * pace[frame - 1]
            after = path.position[frame, 0] - (1 - part) * pace[frame]
            np.testing.assert_allclose(before, after, atol=ROUNDING)
            axis = int(np.flatnonzero(bounce.inward)[0])
            assert before[axis] == pytest.approx((low if bounce.inward[axis] > 0 else high)[axis], abs=ROUNDING)
            assert pace[frame, axis] * bounce.inward[axis] > 0
            out = np.degrees(np.arctan2(pace[frame, 0], pace[frame, 1]))  # clockwise from the right, as y is down
            normal = {(0, 1): 0, (1, 0): 90, (0, -1): 180, (-1, 0): -90}[bounce.inward]
            assert (out - normal + 180) % 360 - 180 == pytest.approx(np.degrees(bounce.turn), abs=1e-6)
            met += 1
    assert free > 2500
    assert met > 300


def test_angles_of_a_bounce_are_uniform_in_the_half_plane_and_independent_of_the_ones_before():
    drawn = np.array([bounce.turn for bounce in turns(SMALL)])
    assert len(drawn) > 1000
    assert stats.kstest(drawn, stats.uniform(-np.pi / 2, np.pi).cdf).pvalue > 0.01
    for wall in [(0, 1), (0, -1), (1, 0), (-1, 0)]:
        here = [bounce.turn for bounce in turns(SMALL) if bounce.inward == wall]
        assert stats.kstest(here, stats.uniform(-np.pi / 2, np.pi).cdf).pvalue > 0.01
    assert stats.pearsonr(drawn[1:], drawn[:-1]).pvalue > 0.01


@pytest.mark.parametrize("probabilities", [None, (0.5, 0.3, 0.2)])
def test_modes_are_drawn_with_their_probabilities_and_mean_the_stated_angles(probabilities):
    bounces = turns(Glyphs(size=(32, 32), modes=3, probabilities=probabilities, frames=40))
    counts = np.bincount([bounce.mode for bounce in bounces], minlength=3)
    assert counts.sum() > 1000
    assert stats.chisquare(counts, counts.sum() * np.array(probabilities or (1 / 3,) * 3)).pvalue > 0.01
    for bounce in bounces:
        assert np.degrees(bounce.turn) == pytest.approx((-60, 0, 60)[bounce.mode])


def test_clips_begin_anywhere_in_any_direction_with_any_speed_and_digit():
    paths = [trajectory(Glyphs(size=(32, 48), box=16, frames=1), 4, k) for k in range(1000)]
    places, pace = np.array([p.position[0, 0] for p in paths]), np.array([p.velocity[0, 0] for p in paths])
    uniform = {"y": (places[:, 0], 8, 15), "x": (places[:, 1], 8, 31), "speed": (np.hypot(*pace.T), 1.5, 1.5)}
    uniform["angle"] = np.arctan2(*pace.T), -np.pi, 2 * np.pi
    for name, (values, low, width) in uniform.items():
        assert stats.kstest(values, stats.uniform(low, width).cdf).pvalue > 0.01, name
    assert stats.chisquare(np.bincount([p.digit[0] for p in paths], minlength=10)).pvalue > 0.01
    assert {trajectory(Glyphs(digits=(3, 7)), 4, k).digit[0] for k in range(20)} == {3, 7}


def test_in_a_corner_a_glyph_leaves_through_the_quadrant_and_along_the_diagonal_when_straight():
    room = (0.0, 0.0), (10.0, 20.0)
    assert next_wall(room, 1.0, (6.0, 16.0), (2.0, 2.0)) == (3.0, (10.0, 20.0), (-1, -1))
    assert next_wall(room, 0.0, (6.0, CORNER / 2), (2.0, 0.0)) == (2.0, (10.0, 0.0), (-1, 1))  # along the left wall
    np.testing.assert_allclose(outgoing((-1, 1), 0), [-np.sqrt(0.5), np.sqrt(0.5)])
    for turn in np.linspace(-np.pi / 2, np.pi / 2, 7)[1:-1]:
        y, x = outgoing((-1, 1), turn)
        assert y < 0 < x


def test_a_fast_glyph_may_bounce_twice_between_two_frames():
    settings = Glyphs(size=(32, 32), box=28, speed=(3, 3), modes=1, frames=2)  # room 14..17, always along the normal
    (future,) = all_futures(settings, state_of(15.0, 17.0, 0.0, 3.0), 3)
    np.testing.assert_allclose(future.trajectory.position[:, 0], [[15, 14], [15, 17], [15, 14]], atol=ROUNDING)
    (future,) = all_futures(settings, state_of(15.0, 15.0, 0.0, 6.5), 2)  # 2 to the right wall, 3 back, 1.5; 1.5, 3, 2
    np.testing.assert_allclose(future.trajectory.position[:, 0], [[15, 15.5], [15, 16]], atol=ROUNDING)
    assert future.trajectory.bounced.ravel().tolist() == [2, 2]
    assert future.probability == 1


def test_a_clip_is_a_function_of_seed_and_number_alone():
    first, path = clip(SMALL, 7, 3)
    np.testing.assert_array_equal(first, clip(SMALL, 7, 3)[0])
    assert not np.array_equal(first, clip(SMALL, 8, 3)[0])
    assert not np.array_equal(first, clip(SMALL, 7, 4)[0])
    shorter = Glyphs(size=(32, 48), box=16, speed=(1, 4), frames=11)
    np.testing.assert_array_equal(first[:11], clip(shorter, 7, 3)[0])
    assert path.bounced[11:].any()
    two = Glyphs(size=(32, 48), box=16, speed=(1, 4), glyphs=2, frames=40)  # bounces of both, in order of time
    times = [bounce.time for bounce in trajectory(two, 7, 3).bounces]
    assert times == sorted(times)
    assert {bounce.glyph for bounce in trajectory(two, 7, 3).bounces} == {0, 1}


@pytest.mark.parametrize("count", [1, 2])
def test_the_futures_of_a_state_contain_what_the_clip_did_and_sum_to_one(count):
    settings = Glyphs(size=(64, 64), glyphs=count, modes=3, probabilities=(0.5, 0.3, 0.2), coloured=True, frames=16)
    for number in range(4):
        frames, path = clip(settings, 11, number)
        futures = all_futures(settings, path.at(5), 10)
        assert sum(future.probability for future in futures) == pytest.approx(1, abs=1e-12)
        assert len({future.modes for future in futures}) == len(futures)
        same = [f for f in futures if np.abs(f.trajectory.position - path.position[6:]).max() < ROUNDING]
        assert len(same) == 1
        assert same[0].modes == tuple(bounce.mode for bounce in path.bounces if bounce.time > 5)
        assert same[0].probability == pytest.approx(np.prod([(0.5, 0.3, 0.2)[m] for m in same[0].modes]))
        difference = render(settings, same[0].trajectory).astype(int) - frames[6:]
        assert abs(difference).max() <= 1  # places agree up to rounding, so grey levels may fall to either side


def test_right_after_a_bounce_there_are_as_many_futures_as_modes():
    settings = Glyphs(size=(64, 64), modes=4)  # room 16..47
    state = state_of(31.0, 45.0, 0.0, 2.0)  # at the right wall after exactly one frame
    futures = all_futures(settings, state, 4)
    assert [future.modes for future in futures] == [(0,), (1,), (2,), (3,)]
    assert [future.probability for future in futures] == [0.25] * 4
    angle = np.radians([-67.5, -22.5, 22.5, 67.5])  # clockwise from the normal, which points to the left
    expected = [31, 47] + 6 * np.stack([-np.sin(angle), -np.cos(angle)], axis=1)  # three frames later
    np.testing.assert_allclose([f.trajectory.position[-1, 0] for f in futures], expected, atol=ROUNDING)


def test_futures_can_be_told_apart_up_to_some_bounces_only():
    state = trajectory(THREE, 0, 0).at(0)
    everything = all_futures(THREE, state, 14)
    (certain,) = all_futures(THREE, state, 14, bounces=0)
    first = everything[0].trajectory.bounces[0].time
    assert certain.probability == 1
    assert len(certain.trajectory) == np.ceil(first) - 1
    np.testing.assert_array_equal(
        certain.trajectory.position, everything[0].trajectory.position[: len(certain.trajectory)]
    )
    for most in (1, 2):
        futures = all_futures(THREE, state, 14, bounces=most)
        expected = Counter()
        for future in everything:
            expected[future.modes[:most]] += future.probability
        assert {f.modes: pytest.approx(f.probability) for f in futures} == dict(expected)
    assert len(everything) > 9


def test_frequencies_of_continuations_agree_with_the_exact_probabilities():
    state = trajectory(THREE, 0, 1).at(3)
    exact = {future.modes: future.probability for future in all_futures(THREE, state, 12)}
    drawn = continuations(THREE, state, 12, 1000, seed=1)
    counts = Counter(tuple(bounce.mode for bounce in path.bounces) for path in drawn)
    assert set(counts) <= set(exact)
    assert len(exact) >= 5
    common = [modes for modes, p in exact.items() if p * 1000 >= 5]  # the rest together, as chi-square wants
    rest = 1000 - sum(counts[modes] for modes in common), 1000 * (1 - sum(exact[modes] for modes in common))
    pairs = [(counts[modes], 1000 * exact[modes]) for modes in common] + ([rest] if rest[1] > 1e-6 else [])
    assert stats.chisquare(*zip(*pairs, strict=True)).pvalue > 0.01


def test_continuations_share_what_is_certain_and_differ_after_the_bounce():
    path = trajectory(SMALL, 0, 2)
    drawn = continuations(SMALL, path.at(2), 20, 50, seed=0)
    until = int(np.ceil(path.bounces[0].time)) - 1 - 2
    assert path.bounces[0].time > 3
    for other in drawn:
        np.testing.assert_allclose(other.position[:until], path.position[3 : 3 + until], atol=ROUNDING)
    assert np.std([other.position[until + 3] for other in drawn], axis=0).min() > 0.3
    first = [other.bounces[0].turn for other in drawn]
    assert stats.kstest(first, stats.uniform(-np.pi / 2, np.pi).cdf).pvalue > 0.01
    fewer = continuations(SMALL, path.at(2), 20, 3, seed=0)
    np.testing.assert_array_equal([p.position for p in fewer], [p.position for p in drawn[:3]])


def test_colours_change_nothing_but_the_colour():
    settings = {"size": (32, 32), "frames": 5}
    for number in range(5):
        gray, coloured = (clip(Glyphs(**settings, coloured=c), 2, number) for c in (False, True))
        assert coloured[0].shape == (5, 32, 32, 3)
        np.testing.assert_array_equal(gray[1].position, coloured[1].position)
        expected = gray[0] / 255 * np.array(PALETTE[coloured[1].colour[0]])
        np.testing.assert_allclose(coloured[0], expected, atol=1)  # each is rounded by half a level
    seen = {int(trajectory(Glyphs(coloured=True), 2, k).colour[0]) for k in range(60)}
    assert seen == set(range(len(PALETTE)))


def test_several_glyphs_are_the_maximum_of_each_alone():
    settings = Glyphs(size=(32, 32), glyphs=3, coloured=True, frames=12)
    frames, path = clip(settings, 6, 0)
    alone = []
    for k in range(3):
        parts = {"position": path.position[:, [k]], "digit": path.digit[[k]], "colour": path.colour[[k]]}
        single = module.Trajectory(velocity=None, bounced=None, bounces=(), **parts)
        alone.append(render(settings, single))
    np.testing.assert_array_equal(frames, np.max(alone, axis=0))
    assert len(np.unique(path.position[0], axis=0)) == 3


def test_the_archive_lists_clips_that_do_not_depend_on_how_many_there_are():
    settings = Glyphs(size=(32, 32), glyphs=2, coloured=True, frames=6)
    source = MovingGlyphs(settings, {"train": 3, "validation": 2, "test": 2}, seed=9)
    clips = source.clips()
    assert [c.clip_id for c in clips][2:5] == ["train/000002", "validation/000000", "validation/000001"]
    assert source.channels == ("red", "green", "blue")
    assert MovingGlyphs(Glyphs(), {"test": 1}).channels == ("gray",)
    copy = pickle.loads(pickle.dumps(source))
    other = MovingGlyphs(settings, {"validation": 5, "test": 1}, seed=9)
    for listed, again in ((clips[4], other.clips()[1]), (clips[5], other.clips()[5])):
        assert listed == again
        read = source.read(listed)
        np.testing.assert_array_equal(read.frames, other.read(again).frames)
        np.testing.assert_array_equal(read.frames, copy.read(listed).frames)
        assert read.frames.shape == (listed.stop - listed.first, 32, 32, 3)
        assert {name: array.shape for name, array in read.extras.items()} == {
            "position": (6, 4),
            "velocity": (6, 4),
            "bounced": (6, 2),
        }
        assert read.extras["bounced"].sum() == listed.numbers["bounces"]
        assert {"number", "digit_0", "digit_1", "colour_0", "colour_1"} < set(listed.numbers)
    assert len({source.read(c).frames.tobytes() for c in clips}) == len(clips)  # splits share no clip
    with pytest.raises(DataError, match="test/000001: no clip"):
        other.read(clips[6])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": (8, 64), "box": 7}, "does not fit"),
        ({"size": (64, 64), "box": 5}, "at least 6 pixels"),
        ({"size": (64, 64), "box": float("nan")}, "does not fit"),
        ({"size": (64, 0)}, "height and width"),
        ({"speed": (3, 1)}, "lowest and highest"),
        ({"speed": (0, 1)}, "above 0"),
        ({"speed": (1, 32)}, "at most the 31 pixels from wall to wall"),
        ({"speed": (1, float("nan"))}, "lowest and highest"),
        ({"glyphs": 0}, "glyphs 0 must be a whole number"),
        ({"frames": 2.5}, "frames 2.5 must be a whole number"),
        ({"modes": 0}, "modes 0 must be a whole number"),
        ({"modes": True}, "modes True must be a whole number"),
        ({"digits": ()}, "must be some of"),
        ({"digits": (3, 10)}, "must be some of"),
        ({"probabilities": (0.5, 0.5)}, "2 probabilities given for no modes"),
        ({"modes": 3, "probabilities": (0.5, 0.5)}, "2 probabilities given for 3 modes"),
        ({"modes": 2, "probabilities": (0.5, 0.6)}, "add up to 1"),
        ({"modes": 2, "probabilities": (0.0, 1.0)}, "above 0"),
    ],
)
def test_settings_that_cannot_be_drawn_are_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        Glyphs(**settings)


def test_states_and_wishes_that_cannot_be_continued_are_refused():
    inside = state_of(16.0, 16.0, 1.0, 0.0)
    with pytest.raises(UsageError, match="does not lie in the room"):
        continuations(THREE, state_of(2.0, 16.0, 1.0, 0.0), 4, 1, seed=0)
    with pytest.raises(UsageError, match="do not move"):
        continuations(THREE, state_of(16.0, 16.0, 0.0, 0.0), 4, 1, seed=0)
    with pytest.raises(UsageError, match="frames 0"):
        continuations(THREE, inside, 0, 1, seed=0)
    with pytest.raises(UsageError, match=r"\(glyph, 2\) for 1 glyphs"):
        continuations(THREE, State(inside.position[0], inside.velocity[0], inside.digit, inside.colour), 4, 1, seed=0)
    with pytest.raises(UsageError, match="infinitely many futures"):
        all_futures(SMALL, inside, 4)
    with pytest.raises(UsageError, match="more than 10000 futures in 1000 frames"):
        all_futures(THREE, inside, 1000)
    with pytest.raises(UsageError, match="clips of 'holdout'"):
        MovingGlyphs(THREE, {"holdout": 3})
    with pytest.raises(UsageError, match="-1 clips of 'train'"):
        MovingGlyphs(THREE, {"train": -1})
