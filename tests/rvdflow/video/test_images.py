"""Image files: what is read is what was written, and anything odd is one line that names the file."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lbm.errors import DataError
from rvdflow.video import images
from rvdflow.video.files import entries, natural_order
from rvdflow.video.images import read_image, read_images


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_png(path, width, height, *, depth=8, kind=2, content=b""):
    """A PNG with any header; `content` are the rows."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_lossless_files_give_their_pixels_back(tmp_path, suffix):
    colour, gray = noise(5, 7, 3), noise(5, 7)
    np.testing.assert_array_equal(read_image(png(tmp_path / f"a.{suffix}", colour), colour=True), colour)
    np.testing.assert_array_equal(read_image(png(tmp_path / f"b.{suffix}", gray), colour=False)[..., 0], gray)
    repeated = read_image(tmp_path / f"b.{suffix}", colour=True)
    np.testing.assert_array_equal(repeated, np.stack([gray] * 3, axis=-1))
    as_gray = read_image(tmp_path / f"a.{suffix}", colour=False)
    np.testing.assert_array_equal(as_gray[..., 0], np.asarray(Image.fromarray(colour).convert("L")))


def test_alpha_is_dropped_and_not_blended(tmp_path):
    pixels = noise(5, 7, 4)
    np.testing.assert_array_equal(read_image(png(tmp_path / "a.png", pixels), colour=True), pixels[..., :3])
    Image.merge("LA", [Image.fromarray(pixels[..., c].copy()) for c in (0, 3)]).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png", colour=False)[..., 0], pixels[..., 0])


def test_palettes_and_single_bits_are_looked_up(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128, 255]))
    wanted = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", colour=True), wanted)
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png", colour=False).ravel().tolist() == [255, 0]


def test_exif_does_not_turn_a_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees"
    Image.fromarray(noise(5, 7)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", colour=False).shape == (5, 7, 1)


def test_a_file_is_told_by_its_content(tmp_path):
    pixels = noise(4, 4, 3)
    png(tmp_path / "a.png", pixels)
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg", colour=True), pixels)


def test_images_of_one_size_become_frames_in_the_order_given(tmp_path):
    frames = noise(4, 3, 5, 3)
    paths = [png(tmp_path / f"{k}.png", frame) for k, frame in enumerate(frames)]
    np.testing.assert_array_equal(read_images(paths[::-1], colour=True), frames[::-1])
    png(tmp_path / "2.png", noise(5, 3, 3))
    with pytest.raises(DataError, match=r"2\.png: 5 x 3 pixels, 0\.png has 3 x 5"):
        read_images(paths, colour=True)
    with pytest.raises(DataError, match="without images"):
        read_images([], colour=True)


def test_16_bit_images_are_refused_and_not_cut_down(tmp_path):
    raw_png(tmp_path / "colour.png", 1, 1, depth=16, kind=2, content=b"\0" + bytes(6))
    raw_png(tmp_path / "gray.png", 1, 1, depth=16, kind=0, content=b"\0" + bytes(2))
    Image.fromarray(noise(4, 4).astype(np.uint16)).save(tmp_path / "gray.tif")
    Image.fromarray(noise(4, 4).astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(noise(4, 4, 4)).convert("CMYK").save(tmp_path / "cmyk.jpg")
    for name in ("colour.png", "gray.png", "gray.tif", "float.tif", "cmyk.jpg"):
        with pytest.raises(DataError, match=rf"{name}: pixels of kind .*8-bit gray or colour wanted"):
            read_image(tmp_path / name, colour=True)


def test_several_pictures_in_one_file_are_refused(tmp_path):
    pages = [Image.fromarray(noise(4, 4, seed=k)) for k in range(3)]
    for name in ("a.png", "a.tif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        with pytest.raises(DataError, match="holds 3 pictures, one per file wanted"):
            read_image(tmp_path / name, colour=False)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (8193, "8193 x 8193 pixels, more than 67108864"),
        (10_000, "10000 x 10000 pixels, more than 67108864"),  # Pillow warns
        (50_000, "DecompressionBombError"),
        (2**31 - 1, "DecompressionBombError"),
    ],
)
def test_decompression_bombs_are_refused_before_they_unfold(tmp_path, side, message):
    with pytest.raises(DataError, match=rf"bomb\.png: .*{message}"):
        read_image(raw_png(tmp_path / "bomb.png", side, side), colour=True)


def test_files_too_large_for_one_image_are_not_loaded(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)  # a hole: takes no space
    with pytest.raises(DataError, match="for one image: refused"):
        read_image(tmp_path / "a.png", colour=True)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_truncated_images_are_refused_wherever_they_end(tmp_path, suffix):
    whole = png(tmp_path / f"a.{suffix}", noise(24, 24, 3)).read_bytes()
    last = len(whole) - 5  # of a PNG the last 4 bytes are a checksum of nothing
    for length in {*range(0, last, max(1, last // 40)), last}:
        (tmp_path / f"b.{suffix}").write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"b\.{suffix}: cannot be read as an image \("):
            read_image(tmp_path / f"b.{suffix}", colour=True)


def test_a_changed_bit_in_a_png_never_changes_the_picture_unseen(tmp_path):
    pixels = noise(6, 6, 3)
    whole = png(tmp_path / "a.png", pixels).read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        (tmp_path / "b.png").write_bytes(damaged)
        try:
            read = read_image(tmp_path / "b.png", colour=True)
        except DataError:
            continue
        np.testing.assert_array_equal(read, pixels)  # only what follows the pixels


@pytest.mark.parametrize("content", [b"", b"\0", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a" + bytes(40)])
def test_files_that_are_no_image_are_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image"):
        read_image(tmp_path / "a.png", colour=True)


def test_things_that_are_no_file_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait forever
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(DataError, match="not an ordinary file"):
            read_image(tmp_path / name, colour=True)
    with pytest.raises(DataError, match=r"none\.png: cannot be read as a file"):
        read_image(tmp_path / "none.png", colour=True)


def test_numbers_in_names_are_sorted_as_numbers():
    wanted = ["9.png", "10.png", "f1.png", "f2.png", "f09.png", "f9.png", "f10.png", "f010a.png", "f.png", "g1.png"]
    for seed in range(5):
        assert sorted(np.random.default_rng(seed).permutation(wanted).tolist(), key=natural_order) == wanted


def test_names_that_cannot_be_printed_are_refused(tmp_path):
    (tmp_path / "a\nb.png").touch()
    with pytest.raises(DataError, match=r"the name 'a\\nb\.png' holds characters"):
        entries(tmp_path, tmp_path)
    with pytest.raises(DataError, match="cannot be read as a folder"):
        entries(tmp_path / "none", tmp_path)
