"""Obstacle masks, boundary tables and the parted start flow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbm import boundaries, obstacles


@settings(max_examples=30, deadline=None)
@given(x=st.floats(30, 34), y=st.floats(30, 34), diameter=st.floats(8, 40))
def test_cylinder_covers_its_area_and_its_centre(x, y, diameter):
    solid = obstacles.mask("cylinder", 64, 64, centre=(x, y), diameter=diameter)
    # error of a count of lattice points in a circle: a few times the square root of the perimeter
    assert solid.sum() == pytest.approx(np.pi * diameter**2 / 4, abs=2 * np.sqrt(np.pi * diameter) + 2)
    rows, columns = np.nonzero(solid)
    assert columns.mean() == pytest.approx(x, abs=0.5)
    assert rows.mean() == pytest.approx(y, abs=0.5)


def test_cylinder_between_cells_is_symmetric():
    solid = obstacles.mask("cylinder", 20, 30, centre=(9.5, 9.5), diameter=9)
    np.testing.assert_array_equal(solid, solid[::-1])
    np.testing.assert_array_equal(solid[:, :20], solid[:, 19::-1])


def test_no_obstacle_is_all_fluid():
    assert not obstacles.mask("none", 8, 9, centre=(4, 4), diameter=3).any()


def test_coarse_mask_counts_half_covered_cells():
    solid = np.zeros((4, 6), bool)
    solid[0, 0] = solid[2:, 4:] = solid[0, 2] = solid[1, 3] = True
    np.testing.assert_array_equal(obstacles.coarsen_mask(solid, (2, 3)), [[0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize("y", [31.5, 34.2])
def test_parted_flow_is_at_rest_on_the_wall_and_carries_the_same_flow_through_every_column(y):
    options = {"centre": (30.0, y), "diameter": 12.0}
    u, v = obstacles.parted_flow("cylinder", 64, 128, **options)
    np.testing.assert_allclose(u.sum(0), 64, atol=1e-9)
    solid = obstacles.mask("cylinder", 64, 128, **options)
    wall = solid | np.roll(solid, 1, 0) | np.roll(solid, -1, 0)
    assert np.hypot(u, v)[wall].max() < 0.25
    assert np.hypot(u, v).max() < 2  # the obstacle blocks a fifth of the channel
    divergence = np.gradient(u, axis=1) + np.gradient(v, axis=0)
    strain = np.abs(np.gradient(u, axis=0)).max()
    assert np.abs(divergence).max() < 0.15 * strain  # differences of a stream function known at half cells


def test_every_fluid_cell_is_in_one_segment_and_every_open_direction_has_one_link():
    rng = np.random.default_rng(0)
    solid = rng.random((12, 17)) < 0.2
    g = boundaries.geometry(solid, sides="periodic", open_ends=False, dtype="float64")
    f = np.zeros(9 * int(g.plane))
    for start, length in g.segments.astype(int):
        f[start : start + length] += 1
    np.testing.assert_array_equal(boundaries.interior(f, g)[0], ~solid)
    even_targets = g.links[:, 0]
    assert len(np.unique(even_targets)) == len(even_targets)
    assert len(np.unique(g.links[:, 2])) == len(even_targets)
