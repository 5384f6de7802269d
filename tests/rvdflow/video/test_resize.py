"""Resizing: against Pillow, against sums written out, and the laws of a mean."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from lbm.errors import UsageError
from rvdflow.video.resize import METHODS, luma, resize, window, with_channels


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def half_even(fraction):
    return round(fraction)  # Python rounds a Fraction half to even, exactly


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(4, 6), (5, 5), (1, 1), (16, 24), (19, 31)])
@pytest.mark.parametrize("level", [0, 1, 127, 128, 255])
def test_a_constant_image_stays_constant(method, size, level):
    frames = np.full((2, 8, 12, 3), level, dtype=np.uint8)
    for fit in ("stretch", "crop"):
        new = resize(frames, size, method=method, fit=fit)
        assert new.shape == (2, *size, 3)
        assert new.dtype == np.uint8
        assert (new == level).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_area_is_the_exact_block_mean_rounded_half_to_even_where_sizes_divide(channels):
    frames = noise(2, 12, 20, channels)
    new = resize(frames, (4, 5), method="area", fit="stretch")
    for t, y, x, c in np.ndindex(new.shape):
        block = frames[t, 3 * y : 3 * y + 3, 4 * x : 4 * x + 4, c]
        assert new[t, y, x, c] == half_even(Fraction(sum(map(int, block.flat)), 12))


def test_ties_go_to_the_even_level():
    frames = np.array([[0, 1], [1, 2], [2, 3], [254, 255]], dtype=np.uint8).reshape(4, 1, 2, 1)
    assert resize(frames, (1, 1), fit="stretch").ravel().tolist() == [0, 2, 2, 254]  # of 0.5, 1.5, 2.5, 254.5
    assert resize(frames, (1, 1), method="aliased-bilinear", fit="stretch").ravel().tolist() == [0, 2, 2, 254]


def test_area_keeps_the_mean():
    frames = noise(1, 256, 128, 1, seed=3)
    new = resize(frames, (32, 16), method="area", fit="stretch")
    # rounding errors are even in [-1/2, 1/2], deviation sqrt(1/12): five deviations of the mean of 512
    assert new.mean() == pytest.approx(frames.mean(), abs=5 / np.sqrt(12 * new.size))


def test_area_of_sizes_that_do_not_divide_is_pillows_box():
    frames = noise(2, 11, 13, 1)
    new = resize(frames, (4, 5), method="area", fit="stretch")
    for frame, other in zip(new, frames, strict=True):
        image = Image.fromarray(other[..., 0]).resize((5, 4), Image.Resampling.BOX)
        np.testing.assert_array_equal(frame[..., 0], np.asarray(image))


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("channels", [1, 3])
def test_named_methods_are_pillows(method, channels):
    frames = noise(2, 12, 16, channels)
    new = resize(frames, (5, 7), method=method, fit="stretch")
    for frame, other in zip(new, frames, strict=True):
        for c in range(channels):  # channel by channel, which the code under test does not do
            image = Image.fromarray(other[..., c].copy()).resize((7, 5), Image.Resampling[method.upper()])
            np.testing.assert_array_equal(frame[..., c], np.asarray(image))


@pytest.mark.parametrize("size", [(3, 5), (8, 12), (13, 29), (1, 2)])
def test_aliased_bilinear_is_the_interpolation_between_pixel_centres(size):
    frames = noise(1, 8, 12, 1)
    new = resize(frames, size, method="aliased-bilinear", fit="stretch")[0, ..., 0]

    def along(line, k, count):
        """The line of pixels at the centre of new pixel k of `count`, as a piecewise linear function."""
        place = min(
            max((k + Fraction(1, 2)) * len(line) / count - Fraction(1, 2), Fraction(0)), Fraction(len(line) - 1)
        )
        before = min(int(place), len(line) - 2)
        return line[before] + (place - before) * (line[before + 1] - line[before])

    image = [[int(value) for value in row] for row in frames[0, ..., 0]]
    for y, x in np.ndindex(size):
        column = [along(row, x, size[1]) for row in image]
        assert new[y, x] == half_even(along(column, y, size[0]))


@pytest.mark.parametrize(("first", "seen"), [(0, 0), (1, 240), (2, 0)])
def test_of_stripes_three_pixels_apart_the_aliased_method_sees_all_or_nothing(first, seen):
    stripes = np.zeros((1, 9, 63, 1), dtype=np.uint8)
    stripes[:, :, first::3] = 240  # new centres fall on columns 1, 4, 7, ...
    for method in METHODS:
        new = resize(stripes, (3, 21), method=method, fit="stretch")[:, :, 3:-3]  # kernels are cut at the edges
        # Kernels whose shifts sum to one give the mean, 80; Lanczos' do so to 1 %.
        np.testing.assert_allclose(new, seen if method == "aliased-bilinear" else 80, atol=1)


@pytest.mark.parametrize(
    ("native", "size", "wanted"),
    [
        ((1024, 2048), (128, 128), (0, 512, 1024, 1024)),  # Cityscapes
        ((120, 160), (64, 64), (0, 20, 120, 120)),  # KTH
        ((160, 120), (64, 64), (20, 0, 120, 120)),
        ((10, 15), (4, 6), (0, 0, 10, 15)),
        ((7, 10), (1, 1), (0, 1, 7, 7)),  # margins 1 and 2
        ((5, 7), (3, 2), (0, 2, 5, 3)),  # 5 * 2 / 3 = 3.33, rounded down
        ((7, 5), (2, 3), (2, 0, 3, 5)),
        ((1, 1), (1, 100), (0, 0, 1, 1)),
        ((3, 3), (1, 100), (1, 0, 1, 3)),
    ],
)
def test_crop_keeps_the_largest_centred_window_of_the_wanted_aspect_ratio(native, size, wanted):
    assert window(native, size, "crop") == wanted


@pytest.mark.parametrize("method", METHODS)
def test_pixels_outside_the_window_never_enter(method):
    frames = noise(1, 20, 20, 3)
    inner = frames[:, 3:13, 5:19]
    other = noise(1, 20, 20, 3, seed=1)
    other[:, 3:13, 5:19] = inner
    for size in ((5, 7), (4, 4), (10, 14)):
        new = resize(frames, size, method=method, fit=(3, 5, 10, 14))
        np.testing.assert_array_equal(new, resize(other, size, method=method, fit=(3, 5, 10, 14)))
        np.testing.assert_array_equal(new, resize(inner, size, method=method, fit="stretch"))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_size_is_a_copy(method):
    frames = noise(2, 6, 8, 3)
    new = resize(frames, (6, 8), method=method)
    np.testing.assert_array_equal(new, frames)
    assert not np.shares_memory(new, frames)
    np.testing.assert_array_equal(resize(frames, (6, 6), method=method), frames[:, :, 1:7])


@pytest.mark.parametrize("method", METHODS)
def test_each_frame_is_resized_alone(method):
    frames = noise(3, 9, 9, 1)
    together = resize(frames, (4, 3), method=method, fit="stretch")
    np.testing.assert_array_equal(together[1:2], resize(frames[1:2], (4, 3), method=method, fit="stretch"))
    assert resize(frames[:0], (4, 3), method=method).shape == (0, 4, 3, 1)


def test_gray_is_pillows_gray_and_colour_repeats_it():
    colours = np.stack(np.meshgrid(*[np.arange(0, 256, 5, dtype=np.uint8)] * 3), axis=-1).reshape(1, 52, -1, 3)
    gray = with_channels(colours, 1)
    np.testing.assert_array_equal(gray[0, ..., 0], np.asarray(Image.fromarray(colours[0]).convert("L")))
    again = with_channels(gray, 3)
    assert again.shape == colours.shape
    for c in range(3):
        np.testing.assert_array_equal(again[..., c], gray[..., 0])
    np.testing.assert_array_equal(luma(again), gray)  # the weights sum to one
    assert with_channels(gray, 1) is gray


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        ((4, 4), {"method": "nearest"}, "'nearest' is unknown: choose one of area, bilinear"),
        ((4, 4), {"fit": "pad"}, "fit 'pad' is unknown"),
        ((4, 4), {"fit": (0, 0, 4)}, "is unknown"),
        ((0, 4), {}, "frames of 0 x 4 pixels wanted"),
        ((4, 4), {"fit": (-1, 0, 4, 4)}, "does not lie in frames of 8 x 8"),
        ((4, 4), {"fit": (0, 5, 4, 4)}, r"window 4 x 4 at \(0, 5\) does not lie"),
        ((4, 4), {"fit": (0, 0, 0, 4)}, "does not lie"),
    ],
)
def test_options_that_cannot_be_honoured_are_named(size, options, message):
    with pytest.raises(UsageError, match=message):
        resize(noise(1, 8, 8, 1), size, **options)


@pytest.mark.parametrize("frames", [np.zeros((1, 8, 8, 1)), noise(8, 8, 1), noise(1, 8, 8, 2), noise(1, 0, 8, 1)])
def test_other_arrays_are_refused(frames):
    with pytest.raises(UsageError, match=r"uint8 \(time, y, x, channel\)"):
        resize(frames, (4, 4))
    with pytest.raises(UsageError):
        with_channels(frames, 1)


def test_frames_have_one_or_three_channels():
    with pytest.raises(UsageError, match="2 channels wanted"):
        with_channels(noise(1, 4, 4, 1), 2)
