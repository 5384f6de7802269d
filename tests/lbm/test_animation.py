"""Films: colours say what they should, every kind of store can be filmed, and what cannot be is refused."""

import numpy as np
import pytest
from PIL import Image

from lbm import dataset
from lbm.animation import DIVERGING, FLOW, FORECAST, SEQUENTIAL, VIDEO, animate, colours
from lbm.errors import UsageError

TIMES, NY, NX = 4, 6, 8
SOLID = np.zeros((NY, NX), bool)
SOLID[2:4, 2:4] = True


def store(path, dims, sizes, fields, **masks):
    variables = {
        name: dataset.Variable(dims, "uint8" if values.dtype == np.uint8 else "float32", {}, values=values)
        for name, values in fields.items()
    }
    for name, mask in masks.items():
        full = np.broadcast_to(mask, (sizes["trajectory"], NY, NX))
        variables[name] = dataset.Variable(("trajectory", "y", "x"), "bool", {}, values=full)
    coords = {"init_time": ("init_time", np.array([3, 7]), {})} if "init_time" in dims else {}
    with dataset.create(path, variables=variables, coords=coords, sizes=sizes, attrs={}) as writer:
        progress = "cases_written" if "member" in dims else "frames_written"
        writer.array(progress)[...] = 1 if "member" in dims else TIMES
        writer.finish()
    return path


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """Velocities that grow from left to right, vorticity that is minus at the bottom and plus at the top."""
    sizes = dict(zip(FLOW, (2, TIMES, NY, NX), strict=True))
    y, x = np.mgrid[:NY, :NX]
    shape = tuple(sizes.values())
    fields = {
        "velocity_x": np.broadcast_to(0.3 * x / (NX - 1), shape),
        "velocity_y": np.broadcast_to(0.4 * x / (NX - 1), shape),
        "vorticity": np.broadcast_to(y - (NY - 1) / 2, shape),
        "density": np.broadcast_to(1 + 0.01 * (y - (NY - 1) / 2), shape),
    }
    return store(tmp_path_factory.mktemp("film") / "flow.zarr", FLOW, sizes, fields, solid=SOLID)


@pytest.fixture(scope="module")
def forecast(tmp_path_factory):
    """A field that is everywhere +1 for member 1 from frame 7, and -1 for all others."""
    sizes = dict(zip(FORECAST, (1, 2, 3, TIMES, NY, NX), strict=True))
    values = np.full(tuple(sizes.values()), -1.0)
    values[:, 1, 1] = 1
    return store(tmp_path_factory.mktemp("film") / "forecast.zarr", FORECAST, sizes, {"vorticity": values})


def clips(folder, channels, dims=VIDEO[0]):
    """Clips, or a forecast of some: red (white, where gray) at the top and black below, ever brighter."""
    sizes = dict.fromkeys(dims, 1) | {"time": TIMES, "lead_time": TIMES, "channel": channels, "y": NY, "x": NX}
    sizes |= {"init_time": 2}
    sizes = {name: sizes[name] for name in dims}
    frames = np.zeros((TIMES, channels, NY, NX), np.uint8)
    frames[:, 0, : NY // 2] = np.linspace(100, 250, TIMES).astype(np.uint8)[:, None, None]
    shape = tuple(sizes.values())
    return store(folder / "video.zarr", dims, sizes, {"frames": np.broadcast_to(frames, shape)})


def pictures(film):
    """RGB of each frame, (time, y, x, 3), from the file; y upwards."""
    with Image.open(film) as opened:
        frames = []
        for index in range(opened.n_frames):
            opened.seek(index)
            frames.append(np.asarray(opened.convert("RGB")).astype(int))
    return np.array(frames)[:, ::-1]


def brightness(rgb):
    return rgb @ np.array([0.2126, 0.7152, 0.0722])


# ------------------------------------------------------------------ colours


def test_the_sequential_scale_grows_brighter_all_the_way():
    rgb = colours(np.linspace(0, 1, 50)[None], 1.0, low=0.0)[0]
    assert (np.diff(brightness(rgb)) > -0.5).all()  # whole numbers: half a level
    assert rgb[0].tolist() == SEQUENTIAL[0].tolist()
    assert rgb[-1].tolist() == SEQUENTIAL[-1].tolist()


def test_the_diverging_scale_is_brightest_in_the_middle_and_blue_below():
    rgb = colours(np.linspace(-1, 1, 51)[None], 1.0)[0]
    assert brightness(rgb).argmax() == 25
    assert (rgb[:24, 2] > rgb[:24, 0]).all()
    assert (rgb[27:, 2] < rgb[27:, 0]).all()


def test_values_beyond_the_ends_take_their_colours_and_missing_ones_are_white():
    values = np.array([[-5.0, 0.0, 1.0, 9.0, np.nan]])
    rgb = colours(values, 1.0, low=0.0)[0]
    assert rgb[0].tolist() == rgb[1].tolist()
    assert rgb[2].tolist() == rgb[3].tolist()
    assert rgb[4].tolist() == [255, 255, 255]


# ------------------------------------------------------------------ films


@pytest.mark.parametrize("variable", ["speed", "velocity_x"])
def test_a_field_of_one_sign_is_shown_from_dark_to_bright(flow, tmp_path, variable):
    film = pictures(animate(flow, tmp_path / "a.gif", variable=variable, scale=1, frames=1))[0]
    assert film.shape == (NY, NX, 3)
    assert (np.diff(brightness(film[0])) > 0).all()
    np.testing.assert_allclose(film[0, 0], SEQUENTIAL[0], atol=3)
    np.testing.assert_allclose(film[SOLID], 128, atol=3)


def test_speed_is_the_length_of_the_velocity(flow, tmp_path):
    """3-4-5: at the right edge the speed is 0.5, so colours with that limit end there, those of 0.25 half way."""
    film = pictures(animate(flow, tmp_path / "a.gif", variable="speed", scale=1, frames=1, limit=0.5))[0]
    np.testing.assert_allclose(film[0, -1], SEQUENTIAL[-1], atol=3)
    clipped = pictures(animate(flow, tmp_path / "b.gif", variable="speed", scale=1, frames=1, limit=0.25))[0]
    assert len(np.unique(clipped[0, 4:], axis=0)) == 1  # 0.5 x / 7 is above 0.25 from x = 4 on
    assert len(np.unique(clipped[0, :5], axis=0)) == 5


@pytest.mark.parametrize("variable", ["vorticity", "density"])
def test_a_field_about_zero_or_its_mean_is_blue_below_red_above(flow, tmp_path, variable):
    film = pictures(animate(flow, tmp_path / "a.gif", variable=variable, scale=1, frames=1))[0]
    np.testing.assert_allclose(film[0], np.broadcast_to(DIVERGING[0], (NX, 3)), atol=3)  # y = 0 is at the bottom
    np.testing.assert_allclose(film[-1], np.broadcast_to(DIVERGING[-1], (NX, 3)), atol=3)


def test_a_member_of_a_forecast_can_be_chosen(forecast, tmp_path):
    red = pictures(animate(forecast, tmp_path / "a.gif", scale=1, member=1, init_time=7))
    blue = pictures(animate(forecast, tmp_path / "b.gif", scale=1, member=2, init_time=7))
    first = pictures(animate(forecast, tmp_path / "c.gif", scale=1, member=1))
    # equal frames are stored once, for as long as all of them
    np.testing.assert_allclose(red[0], np.broadcast_to(DIVERGING[-1], (NY, NX, 3)), atol=3)
    np.testing.assert_allclose(blue[0], np.broadcast_to(DIVERGING[0], (NY, NX, 3)), atol=3)
    np.testing.assert_array_equal(first[0], blue[0])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dims", VIDEO, ids=["clips", "forecast"])
def test_frames_of_video_are_shown_as_they_are_the_first_row_on_top(tmp_path, channels, dims):
    film = pictures(animate(clips(tmp_path, channels, dims), tmp_path / "a.gif", scale=1))[:, ::-1]
    assert film.shape == (TIMES, NY, NX, 3)
    for frame, level in zip(film, (100, 150, 200, 250), strict=True):
        top = (level, level, level) if channels == 1 else (level, 0, 0)
        np.testing.assert_allclose(frame[: NY // 2], np.broadcast_to(top, (NY // 2, NX, 3)), atol=4)
        np.testing.assert_allclose(frame[NY // 2 :], 0, atol=4)


def test_a_colour_scale_means_nothing_to_video(tmp_path):
    with pytest.raises(UsageError, match="frames of video are shown as they are"):
        animate(clips(tmp_path, 3), tmp_path / "a.gif", limit=1.0)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("flow", {"variable": "pressure"}, "choose from density, velocity_x, velocity_y, vorticity, speed"),
        ("flow", {"variable": "solid"}, "choose from"),
        ("flow", {"member": 1}, "no forecast"),
        ("flow", {"init_time": 3}, "no forecast"),
        ("flow", {"trajectory": 2}, "trajectories 0 to 1"),
        ("flow", {"start": 4}, "frames 0 to 3"),
        ("flow", {"limit": float("nan")}, "--limit nan"),
        ("forecast", {"variable": "speed"}, "choose from vorticity"),
        ("forecast", {"member": 3}, "members 0 to 2"),
        ("forecast", {"init_time": 4}, "starts from 3, 7"),
    ],
)
def test_films_that_do_not_exist_are_refused(request, tmp_path, kind, options, message):
    path = request.getfixturevalue(kind)
    with pytest.raises(UsageError, match=message):
        animate(path, tmp_path / "a.gif", **options)
    assert list(tmp_path.iterdir()) == []
