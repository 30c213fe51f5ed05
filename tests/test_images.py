"""Images and files: whole or absent, and one sentence for what cannot be read."""

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_csv, read_json, sha256_of, whole_file, write_bytes, write_csv, write_json
from unseg_lib.images import (
    find_image,
    has_colours,
    image_size,
    is_gray_file,
    read_image,
    read_label,
    write_image,
)


def test_png_is_lossless_and_size_is_read_from_the_header(tiny_image, tmp_path):
    write_image(tmp_path / "a.png", tiny_image)
    assert np.array_equal(read_image(tmp_path / "a.png"), tiny_image)
    assert image_size(tmp_path / "a.png") == tiny_image.shape[:2]
    assert not is_gray_file(tmp_path / "a.png")


def test_one_value_of_one_channel_makes_colours():
    pixels = np.full((3, 4, 3), 7, np.uint8)
    assert not has_colours(pixels)
    pixels[2, 3, 1] = 8
    assert has_colours(pixels)


def test_gray_stays_gray(tiny_image, tmp_path):
    gray = np.repeat(tiny_image[..., :1], 3, axis=2)
    write_image(tmp_path / "a.png", gray, gray=True)
    assert is_gray_file(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), gray)


def test_jpeg_is_close_and_subsampled(tmp_path):
    smooth = np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    write_image(tmp_path / "a.jpg", smooth)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - smooth).max() <= 4
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.layer[0][1:3] == (2, 2)  # chroma at half size, as OpenCV writes it


def test_palette_labels_are_indices(tmp_path):
    image = Image.fromarray(np.array([[0, 5], [15, 255]], np.uint8), "P")
    image.putpalette([7 * i % 256 for i in range(768)])
    image.save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png").tolist() == [[0, 5], [15, 255]]


def test_labels_of_one_bit_and_of_three_channels(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bit.png")
    assert read_label(tmp_path / "bit.png").tolist() == [[255, 0]]
    Image.fromarray(np.array([[[3, 9, 9]]], np.uint8)).save(tmp_path / "rgb.png")
    assert read_label(tmp_path / "rgb.png").tolist() == [[3]]


def test_transparent_images_are_read_as_rgb(tmp_path):
    Image.fromarray(np.full((2, 2, 4), 9, np.uint8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (2, 2, 3)


@pytest.mark.parametrize("read", [read_image, read_label, image_size, is_gray_file])
@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\x00\x10JFIF"])
def test_corrupt_images_are_one_sentence(read, content, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnsegError, match=r"a\.png, found a corrupt one"):
        read(tmp_path / "a.png")


def test_truncated_images_are_one_sentence(tiny_image, tmp_path):
    for name in ("a.png", "a.jpg"):
        write_image(tmp_path / name, tiny_image)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-200])
        with pytest.raises(UnsegError, match="corrupt"):
            read_image(tmp_path / name)


def test_a_image_of_absurd_size_is_refused(tmp_path):
    """A header that claims 30000 x 30000 pixels: refused before memory is taken."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))
    with pytest.raises(UnsegError, match="corrupt"):
        read_image(tmp_path / "a.png")


def test_sixteen_bits_are_refused(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(UnsegError, match="Expected 8 bits a channel"):
        read_image(tmp_path / "a.png")


def test_absent_images_are_one_sentence(tmp_path):
    with pytest.raises(UnsegError, match="found no such file"):
        read_image(tmp_path / "a.png")
    with pytest.raises(UnsegError, match="Expected an image called a in"):
        find_image(tmp_path, "a")


def test_images_are_found_by_stem(tiny_image, tmp_path):
    write_image(tmp_path / "a.b.jpg", tiny_image)
    assert find_image(tmp_path, "a.b").name == "a.b.jpg"
    for name in ("c.JPG", "d[1].Png", "e.Tiff"):
        write_image(tmp_path / "any.png", tiny_image)
        (tmp_path / "any.png").rename(tmp_path / name)
        (tmp_path / f"{name}.txt").touch()
        assert find_image(tmp_path, Path(name).stem).name == name


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("turn, times", [(3, 2), (6, -1), (8, 1)])
def test_a_tiff_on_its_side_is_read_upright(tiny_image, tmp_path, turn, times, mode):
    exif = Image.Exif()
    exif[0x0112] = turn
    image = Image.fromarray(tiny_image).convert(mode)
    image.save(tmp_path / "a.tif", exif=exif)
    upright = np.rot90(np.asarray(image.convert("RGB")), times)
    assert np.array_equal(read_image(tmp_path / "a.tif"), upright)
    assert image_size(tmp_path / "a.tif") == upright.shape[:2]


def test_a_failed_write_leaves_nothing(tmp_path):
    write_bytes(tmp_path / "a.txt", b"old")
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a.txt") as partial:
        partial.write_bytes(b"half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_one_sentence(tmp_path):
    with pytest.raises(UnsegError, match="the disk is full"), whole_file(tmp_path / "a.txt") as partial:
        partial.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_json_is_sorted_and_broken_json_is_one_sentence(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5]})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": [\n    1.5\n  ],\n  "b": 1\n}\n'
    assert read_json(tmp_path / "a.json") == {"a": [1.5], "b": 1}
    for content in (b'{"a": ', b"\xff\xfe"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(UnsegError, match="Expected JSON in"):
            read_json(tmp_path / "a.json")


def test_csv_round_trip(tmp_path):
    rows = [{"a": "1", "b": "x,y"}, {"a": "2", "b": ""}]
    write_csv(tmp_path / "a.csv", rows)
    assert read_csv(tmp_path / "a.csv") == rows
    write_csv(tmp_path / "a.csv", [], ["a", "b"])
    assert (tmp_path / "a.csv").read_text() == "a,b\n"


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
