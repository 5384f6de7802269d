"""Which way a glyph went is told from its picture, and draws from the truth go all ways as often as they should."""

import numpy as np
import pytest

from lbm.errors import UsageError
from rvdflow.video.coverage import expected_ways, ways
from rvdflow.video.glyphs import Glyphs, continuations, render, trajectory

SETTINGS = Glyphs(size=(32, 32), modes=3, speed=(0.6, 1.2))


def found(settings, count):
    """(clip number, ways) of clips with a bounce in time."""
    each = ((k, ways(settings, trajectory(settings, 0, k), 3, 16)) for k in range(count))
    return [(k, one) for k, one in each if one is not None]


def test_futures_are_told_apart_and_a_blur_of_them_is_undecided():
    for _, one in found(SETTINGS, 40):
        assert one.taken(one.frames).tolist() == [0, 1, 2]
        blur = one.frames.astype(float).mean(0, keepdims=True)
        assert one.taken(blur).tolist() == [-1]
        assert one.taken(np.zeros_like(one.frames[:1])).tolist() == [-1]


def test_only_clips_with_one_bounce_in_time_have_ways():
    known = found(SETTINGS, 60)
    assert 10 < len(known) < 60
    for k, one in known:
        path = trajectory(SETTINGS, 0, k)
        bounced = path.bounced[4 : 4 + one.lead, 0]
        assert bounced.sum() >= 1  # the clip's own future is one of the ways
        assert path.bounced[4 : 4 + int(one.bounce), 0].sum() == 0
        assert one.lead - one.bounce >= 3
        assert one.probabilities == pytest.approx((1 / 3,) * 3)
        own = render(SETTINGS, path)[None, 4 : 4 + one.lead]
        assert one.taken(own)[0] >= 0


@pytest.mark.parametrize("probabilities", [(1 / 3, 1 / 3, 1 / 3), (0.6, 0.3, 0.1)])
def test_draws_from_the_truth_take_each_way_with_its_probability(probabilities):
    settings = Glyphs(size=(32, 32), modes=3, speed=(0.6, 1.2), probabilities=probabilities)
    shares, met, members = np.zeros(3), [], 8
    known = found(settings, 60)
    for k, one in known:
        paths = continuations(settings, trajectory(settings, 0, k).at(3), 16, members, seed=k)
        taken = one.taken(np.stack([render(settings, path) for path in paths]))
        assert (taken >= 0).all()
        shares += np.bincount(taken, minlength=3)
        met.append(len(set(taken)))
    count = len(known) * members
    assert shares / count == pytest.approx(probabilities, abs=4 * (0.25 / count) ** 0.5)
    deviation = np.std(met) / len(met) ** 0.5
    assert np.mean(met) == pytest.approx(expected_ways(probabilities, members), abs=4 * deviation)


def test_any_angle_has_no_ways_to_count():
    with pytest.raises(UsageError, match="infinitely many"):
        ways(Glyphs(size=(32, 32)), trajectory(Glyphs(size=(32, 32)), 0, 0), 3, 16)
