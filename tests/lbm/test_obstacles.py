"""Shapes against geometry: areas, wall distances, published aerofoil ordinates; masks, start flow, refusals."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lbm import obstacles
from lbm.obstacles import Obstacle, wall_fraction

TRIANGLE = ((-0.5, -0.4), (0.5, -0.3), (0.1, 0.5))
ARROW = ((-0.5, -0.5), (0.5, 0.0), (-0.5, 0.5), (-0.1, 0.0))  # not convex
EVERY = [
    Obstacle("cylinder", (30.2, 29.7), 25.3),
    Obstacle("ellipse", (30.2, 29.7), 30.0, angle=25, aspect=0.4),
    Obstacle("square", (30.2, 29.7), 21.0, angle=33),
    Obstacle("polygon", (30.2, 29.7), 30.0, angle=10, corners=5),
    Obstacle("polygon", (30.2, 29.7), 30.0, vertices=TRIANGLE),
    Obstacle("polygon", (30.2, 29.7), 30.0, angle=-20, vertices=ARROW),
    Obstacle("naca", (30.2, 29.7), 45.0, angle=-12, profile="4418"),
]
NAMES = [f"{o.shape}-{len(o.vertices)}" for o in EVERY]


def mask(o, ny=60, nx=60):
    return obstacles.bodies((o,), ny, nx) == 0


def shoelace(corners):
    (x, y), (xn, yn) = np.transpose(corners), np.transpose(np.roll(corners, -1, axis=0))
    return abs((x * yn - xn * y).sum()) / 2


def cut_links(o, ny=60, nx=60):
    """All links (x, y, dx, dy) from a fluid to a solid cell."""
    solid, found = mask(o, ny, nx), []
    for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, 1), (-1, -1), (1, -1)):
        y, x = np.nonzero(~solid & np.roll(solid, (-dy, -dx), (0, 1)))
        found.append(np.stack([x, y, np.full_like(x, dx), np.full_like(x, dy)]))
    return np.concatenate(found, axis=1).astype(float)


def test_areas_of_masks_converge_to_the_exact_areas():
    # A count of lattice points errs by about the square root of the perimeter, here 0.1 % of the area at most.
    exact = {
        "cylinder": math.pi / 4,
        "ellipse": math.pi / 4 * 0.4,
        "square": 1.0,
        "polygon": 5 / 8 * math.sin(2 * math.pi / 5),
        "naca": 0.18 * 0.685 / 2 * 2,  # the integral of the thickness formula, 0.6849 t c^2, in closed form below
    }
    c0, c1, c2, c3, c4 = 0.2969, 0.1260, 0.3516, 0.2843, 0.1036
    exact["naca"] = 10 * 0.18 * (c0 * 2 / 3 - c1 / 2 - c2 / 3 + c3 / 4 - c4 / 5)
    for shape, area in exact.items():
        o = Obstacle(shape, (700.3, 700.6), 1000, angle=20, aspect=0.4, corners=5, profile="0018")
        assert mask(o, 1400, 1400).sum() == pytest.approx(area * 1e6, rel=1e-3), shape
    o = Obstacle("polygon", (700.3, 700.6), 1000, angle=20, vertices=ARROW)
    assert mask(o, 1400, 1400).sum() == pytest.approx(shoelace(ARROW) * 1e6, rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(x=st.floats(30, 34), y=st.floats(30, 34), diameter=st.floats(8, 40))
def test_wall_of_a_circle_is_one_radius_from_its_centre(x, y, diameter):
    o = Obstacle("cylinder", (x, y), diameter)
    px, py, dx, dy = cut_links(o, 64, 64)
    q = wall_fraction(o, px, py, dx, dy)
    assert ((q > 0) & (q <= 1)).all()
    np.testing.assert_allclose(np.hypot(px + q * dx - x, py + q * dy - y), diameter / 2, atol=1e-12 * diameter)
    round_ellipse = Obstacle("ellipse", (x, y), diameter, angle=17)
    np.testing.assert_allclose(wall_fraction(round_ellipse, px, py, dx, dy), q, atol=1e-12 * diameter)


def test_wall_of_an_ellipse_has_a_constant_sum_of_distances_from_its_foci():
    o = Obstacle("ellipse", (30.2, 29.7), 30.0, angle=25, aspect=0.4)
    x, y, dx, dy = cut_links(o)
    q = wall_fraction(o, x, y, dx, dy)
    far = 15 * math.sqrt(1 - 0.4**2)
    fx, fy = far * math.cos(math.radians(25)), far * math.sin(math.radians(25))
    x, y = x + q * dx - 30.2, y + q * dy - 29.7
    np.testing.assert_allclose(np.hypot(x - fx, y - fy) + np.hypot(x + fx, y + fy), 30, atol=1e-10)


def test_wall_of_a_turned_square():
    # On its corner, half-diagonal h: |x| + |y| = h. The link along x from (-7, 1) meets it at x = -(h - 1).
    o = Obstacle("square", (0, 0), 8.0, angle=45)
    h = 8 / math.sqrt(2)
    q = wall_fraction(o, np.array([-6.0, 4.0, -4.0]), np.array([1.0, 4.0, -3.0]), np.array([2, -2, 2]), [0, -2, 1])
    np.testing.assert_allclose(q, [(6 - (h - 1)) / 2, (8 - h) / 4, (7 - h) / 3], atol=1e-14)


@pytest.mark.parametrize("o", EVERY, ids=NAMES)
def test_wall_lies_where_inside_begins(o):
    """Independent of the closed forms: the sign changes at q, to rounding, and the distance vanishes there."""
    x, y, dx, dy = cut_links(o)
    assert x.size > 100
    q = wall_fraction(o, x, y, dx, dy)
    assert ((q > 0) & (q <= 1)).all()
    for t, expected in ((q - 1e-7, False), (q + 1e-7, True)):
        # a link that cuts off a corner by less than 1e-7 would be an exception; there is none here
        np.testing.assert_array_equal(obstacles.inside(o, x + t * dx, y + t * dy), expected)
    np.testing.assert_allclose(obstacles.distance(o, x + q * dx, y + q * dy), 0, atol=1e-11)


@pytest.mark.parametrize("o", EVERY, ids=NAMES)
def test_distance_is_that_of_the_nearest_point_of_the_outline(o):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 60, (2, 600))
    edge_x, edge_y = obstacles.outline(o)
    brute = np.hypot(x[:, None] - edge_x, y[:, None] - edge_y).min(1)
    distance = obstacles.distance(o, x, y)
    tolerance = 0.25 * brute + 0.1 if o.shape == "ellipse" else 0.26  # half the spacing of the outline
    if o.shape == "ellipse":  # first order: asked of near points alone
        keep = (brute < 2) & (distance > 0)
        assert keep.sum() >= 5
        brute, distance, tolerance = brute[keep], distance[keep], tolerance[keep]
    assert (np.abs(np.abs(distance) - brute) <= tolerance).all()


@pytest.mark.parametrize("o", EVERY, ids=NAMES)
def test_a_quarter_turn_of_the_shape_is_a_quarter_turn_of_its_mask(o):
    values = {**vars(o), "centre": (29.5, 29.5)}
    turned = Obstacle(**{**values, "angle": o.angle + 90})
    np.testing.assert_array_equal(mask(turned), np.rot90(mask(Obstacle(**values)), -1))  # row 0 is at the bottom


@pytest.mark.parametrize("o", EVERY, ids=NAMES)
def test_bounds_hold_the_mask_tightly(o):
    x_min, x_max, y_min, y_max = obstacles.bounds(o)
    edge_x, edge_y = obstacles.outline(o)
    assert [edge_x.min(), edge_x.max(), edge_y.min(), edge_y.max()] == pytest.approx(
        [x_min, x_max, y_min, y_max], abs=0.05
    )
    y, x = np.mgrid[:60, :60]
    everywhere = obstacles.inside(o, x, y)
    rows, columns = np.nonzero(everywhere)
    assert x_min <= columns.min() <= columns.max() <= x_max
    assert y_min <= rows.min() <= rows.max() <= y_max
    np.testing.assert_array_equal(mask(o), everywhere)


def test_a_polygon_is_the_same_either_way_round_and_from_any_first_corner():
    y, x = np.mgrid[:60, :60] + 0.13
    o = Obstacle("polygon", (30.2, 29.7), 40.0, vertices=ARROW)
    for vertices in (ARROW[::-1], ARROW[2:] + ARROW[:2]):
        other = Obstacle("polygon", (30.2, 29.7), 40.0, vertices=vertices)
        np.testing.assert_allclose(obstacles.distance(other, x, y), obstacles.distance(o, x, y), atol=1e-12)


def test_a_square_is_a_polygon_of_four_corners_and_covers_whole_cells():
    square = Obstacle("square", (30.0, 30.0), 20.0, angle=12)
    four = Obstacle("polygon", (30.0, 30.0), 20.0 * math.sqrt(2), angle=57, corners=4)
    np.testing.assert_array_equal(mask(square), mask(four))
    upright = mask(Obstacle("square", (29.5, 29.5), 20.0))
    assert upright.sum() == 400
    assert upright[20:40, 20:40].all()


def surface(o, x):
    """(upper, lower) height of a shape at abscissae x, by rays from above and below."""
    far, zero = 2 * o.size, np.zeros_like(x)
    down = far - wall_fraction(o, x, zero + far, zero, zero - 2 * far) * 2 * far
    return down, -far + wall_fraction(o, x, zero - far, zero, zero + 2 * far) * 2 * far


def test_naca_0012_has_the_published_ordinates():
    # Abbott & von Doenhoff, Theory of Wing Sections (1959), table of the NACA 0012: % of chord. Theirs has a trailing
    # edge 0.252 % thick; closing it takes 0.126 % x^4 from each side, 0.003 % at 40 % of the chord.
    published = {1.25: 1.894, 2.5: 2.615, 5: 3.555, 10: 4.683, 15: 5.345, 20: 5.737, 25: 5.941, 30: 6.002, 40: 5.803}
    published |= {60: 4.563, 80: 2.623, 95: 0.807}
    x, half = np.array(list(published)), np.array(list(published.values()))
    upper, lower = surface(Obstacle("naca", (50.0, 0.0), 100.0), x)
    np.testing.assert_allclose(upper, half - 0.126 * (x / 100) ** 4, atol=0.004)
    np.testing.assert_allclose(lower, -upper, atol=1e-9)


def test_naca_camber_is_where_its_digits_say():
    o = Obstacle("naca", (50.0, 0.0), 100.0, profile="4415")
    upper, lower = surface(o, np.array([40.0]))
    assert (upper + lower) / 2 == pytest.approx(4, abs=0.005)  # 4 % at 40 %, where the camber line is level
    assert upper - lower == pytest.approx(2 * 7.254, abs=0.02)  # NACA 0015 at 40 %: 7.254 (ibid.)
    x = np.linspace(5, 95, 181)
    upper, lower = surface(o, x)
    assert x[np.argmax(upper + lower)] == pytest.approx(40, abs=4)
    assert obstacles.distance(o, np.array([0.0, 100.0]), np.zeros(2)) == pytest.approx(0, abs=1e-9)  # ends of the chord


def test_a_nose_up_aerofoil_has_a_negative_angle():
    rows, columns = np.nonzero(mask(Obstacle("naca", (29.5, 29.5), 45.0, angle=-10)))
    assert rows[columns < 15].mean() > rows[columns > 45].mean() + 4


def draw(path, solid, mode="L"):
    grey = np.where(solid, 0, 255).astype(np.uint8)
    if mode == "RGBA":  # black everywhere, transparent where fluid
        grey = np.stack([np.zeros_like(grey)] * 3 + [255 - grey], axis=-1)
    Image.fromarray(grey, mode).save(path) if mode == "RGBA" else Image.fromarray(grey).save(path)
    return str(path)


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_an_image_is_solid_where_it_was_drawn(tmp_path, mode):
    solid = np.random.default_rng(0).random((12, 20)) < 0.4
    file = draw(tmp_path / "drawn.png", solid, mode)
    o = Obstacle("image", (19.5, 29.5), 20.0, file=file)
    np.testing.assert_array_equal(mask(o)[24:36, 10:30], solid[::-1])  # rows of a picture come from the top
    assert mask(o).sum() == solid.sum()
    twice = Obstacle("image", (29.5, 29.5), 40.0, file=file)
    assert mask(twice).sum() == 4 * solid.sum()
    turned = Obstacle("image", (29.5, 29.5), 40.0, angle=90, file=file)
    np.testing.assert_array_equal(mask(turned), np.rot90(mask(twice), -1))
    x, y, dx, dy = cut_links(o)
    np.testing.assert_array_equal(wall_fraction(o, x, y, dx, dy), 0.5)
    x_min, x_max, y_min, y_max = obstacles.bounds(o)
    rows, columns = np.nonzero(mask(o))
    assert (x_min, x_max) == (columns.min() - 0.5, columns.max() + 0.5)
    assert (y_min, y_max) == (rows.min() - 0.5, rows.max() + 0.5)


def test_the_first_of_two_overlapping_bodies_wins():
    pair = (Obstacle("cylinder", (20.0, 20.0), 11.0), Obstacle("square", (24.0, 20.0), 11.0))
    body = obstacles.bodies(pair, 40, 50)
    first, second = mask(pair[0], 40, 50), mask(pair[1], 40, 50)
    np.testing.assert_array_equal(body, np.where(first, 0, np.where(second, 1, -1)))
    assert (obstacles.bodies((), 8, 9) == -1).all()


def test_coarse_mask_counts_half_covered_cells():
    solid = np.zeros((4, 6), bool)
    solid[0, 0] = solid[2:, 4:] = solid[0, 2] = solid[1, 3] = True
    np.testing.assert_array_equal(obstacles.coarsen_mask(solid, (2, 3)), [[0, 1, 0], [0, 0, 1]])


ROW = tuple(Obstacle("cylinder", (30.0 + 4 * k, y), 10.0) for k, y in enumerate((14.3, 32.0, 49.5)))
PARTED = {  # and the mean velocity in the narrowest gap
    "middle": ((Obstacle("cylinder", (30.0, 31.5), 12.0),), 64 / 52),
    "beside": ((Obstacle("cylinder", (30.0, 34.2), 12.0),), 64 / 52),
    "three": (ROW, 17.6 / 7.6),
    "aerofoil": ((Obstacle("naca", (50.0, 30.0), 50.0, angle=-8, profile="2418"),), 64 / 55),
}


@pytest.mark.parametrize("name", PARTED)
def test_parted_flow_is_at_rest_on_the_walls_and_carries_the_same_flow_through_every_column(name):
    several, squeezed = PARTED[name]
    u, v = obstacles.parted_flow(several, 64, 128)
    np.testing.assert_allclose(u.sum(0), 64, atol=1e-9)
    solid = obstacles.bodies(several, 64, 128) >= 0
    speed, wall = np.hypot(u, v), solid.copy()
    for axis in (0, 1):
        wall |= np.roll(solid, 1, axis) | np.roll(solid, -1, axis)
    assert np.median(speed[wall]) < 0.3  # centres up to a cell from the wall, gradients of up to 1 / cell
    assert speed[solid].mean() < 0.1
    assert speed.max() < 1.8 * squeezed  # a parabola between two walls has 1.5
    divergence = np.gradient(u, axis=1) + np.gradient(v, axis=0)
    strain = np.abs(np.gradient(u, axis=0)).max()
    assert np.abs(divergence[~wall]).max() < 0.15 * strain  # differences of a stream function known at half cells


def test_parted_flow_without_obstacles_is_uniform():
    u, v = obstacles.parted_flow((), 8, 9)
    assert (u == 1).all()
    assert (v == 0).all()


def test_parted_flow_passes_a_cylinder_symmetrically():
    u, v = obstacles.parted_flow((Obstacle("cylinder", (30.0, 31.5), 12.0),), 64, 128)
    np.testing.assert_allclose(u, u[::-1], atol=1e-12)
    np.testing.assert_allclose(v, -v[::-1], atol=1e-12)
    np.testing.assert_allclose(u[:, 0], 1)  # undisturbed two diameters away


CYLINDER = Obstacle("cylinder", (24.0, 32.0), 12.0)


@pytest.mark.parametrize("o", [CYLINDER, Obstacle("naca", (40.0, 32.0), 60.0, angle=-5)])
def test_a_good_obstacle_has_no_problem(o):
    assert obstacles.problems((o,), 64, 128, "open", "periodic") == ([], [])
    assert obstacles.problems((), 64, 128, "open", "periodic") == ([], [])


def bad(shape="cylinder", centre=(24.0, 32.0), size=12.0, **values):
    return Obstacle(shape, centre, size, **values)


@pytest.mark.parametrize(
    ("several", "message"),
    [
        ([bad("sphere")], "shape is 'sphere', wanted one of cylinder, ellipse"),
        ([bad(centre=(7.0, 32.0))], "reaches from x = 1 to 13, wanted 2 cells from the inlet"),
        ([bad(centre=(119.0, 32.0))], "reaches from x = 113 to 125"),
        ([bad(centre=(24.0, 6.0))], "reaches from y = 0 to 12"),
        ([bad(size=40.0)], r"fills 62% of the channel \(limit 50%\)"),
        ([bad(size=15.0, centre=(24.0, y)) for y in (12.0, 32.0, 52.0)], "beside each other fill 70%"),
        ([bad(size=3.0)], "size 3 is below 4 cells"),
        ([bad(size=math.nan)], "size of cylinder is nan, wanted finite"),
        ([bad("ellipse", aspect=-1.0)], "aspect -1"),
        ([bad("ellipse", centre=(24.0, 32.5), aspect=0.01)], "so thin that no cell centre lies inside"),
        ([bad("naca", profile="12")], "profile '12', wanted four NACA digits"),
        ([bad("naca", profile="2012")], "profile '2012'"),
        ([bad("polygon", corners=2)], "2 corners, wanted 3"),
        ([bad("polygon", vertices=((0.0, 0.0), (1.0, 1.0)))], "2 vertices, wanted 3"),
        ([bad("polygon", vertices=((0.0, 0.0), (0.5, 0.5), (0.5, 0.0), (0.0, 0.5)))], "crosses itself"),
        ([bad("polygon", vertices=((0.0, 0.0), (math.inf, 0.5), (0.5, 0.0)))], "wanted finite"),
        ([bad("square", spin=0.01)], "only a cylinder turns in its place"),
        ([bad(spin=0.1)], r"surface moves at Mach 1\.04 .* lower spin to 0\.029"),
        ([bad(), bad(centre=(36.5, 32.0))], "is 0.5 cells from the cylinder at .24, 32.*move one"),
        ([bad(), bad("square", centre=(30.0, 36.0))], "overlaps"),
        ([bad(size=30.0), bad(size=6.0)], "overlaps"),
        ([bad("image", file="nowhere.png")], "nowhere.png: No such file"),
        ([bad()] * 300, "300 obstacles are too many"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(several, message):
    errors, _ = obstacles.problems(several, 64, 128, "open", "periodic")
    assert errors
    assert any(re.search(message, line) for line in errors), errors
    assert all(len(line) < 250 for line in errors)


def test_a_closed_box_needs_no_room_for_inlet_and_outlet():
    o = bad(centre=(120.0, 32.0))
    assert obstacles.problems((o,), 64, 128, "open", "periodic")[0]
    assert obstacles.problems((o,), 64, 128, "walls", "no-slip") == ([], [])


@pytest.mark.parametrize(
    ("o", "message"),
    [
        (bad(size=14.0), "fills 22% of the channel"),
        (bad("naca", size=20.0, angle=-5.0), "of its outline is thinner than a cell"),
        (bad("polygon", (24.0, 32.3), vertices=((-0.5, 0.0), (0.5, 0.05), (0.5, -0.05))), "thinner than a cell"),
    ],
)
def test_what_may_disappoint_is_warned_about(o, message):
    errors, warnings = obstacles.problems((o,), 64, 128, "open", "periodic")
    assert errors == []
    assert message in " ".join(warnings)


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "white", "folder", "zero"])
def test_a_bad_image_is_a_reason_to_refuse(tmp_path, kind):
    path = tmp_path / "picture.png"
    whole = np.random.default_rng(0).random((40, 40)) < 0.5
    draw(path, whole if kind != "white" else np.zeros((40, 40), bool))
    if kind == "text":
        path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-60])
    file = {"folder": str(tmp_path), "zero": "a\0b"}.get(kind, str(path))
    errors, _ = obstacles.problems((bad("image", file=file),), 64, 128, "open", "periodic")
    assert len(errors) == 1
    assert "the obstacle's image" in errors[0]


def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (8192, 4096)).save(path)
    errors, _ = obstacles.problems((bad("image", file=str(path)),), 64, 128, "open", "periodic")
    assert "8192 x 4096 pixels" in errors[0]


def test_an_image_that_changes_is_read_again(tmp_path):
    import os

    path = tmp_path / "drawn.png"
    solid = np.zeros((10, 10), bool)
    solid[:5] = True
    o = Obstacle("image", (29.5, 29.5), 10.0, file=draw(path, solid))
    before = mask(o)
    draw(path, solid[::-1])
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(mask(o), before[::-1])
