"""Images and files: whole or absent, and one sentence for what cannot be read."""

import errno
import io
import struct
import zlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms
from tiny_sets import palette, refused

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_csv, read_json, sha256_of, whole_file, write_bytes, write_csv, write_json
from unseg_lib.images import find_image, has_colours, image_size, open_image, png_of, read_image, write_image
from unseg_lib.masks import objects_of, read_label, read_mask
from unseg_lib.protection import find_inputs, read_photo


@pytest.mark.parametrize("gray", [False, True])
def test_png_is_lossless_gray_stays_gray_and_size_is_read_from_the_header(gray, tiny_image, tmp_path):
    image = np.repeat(tiny_image[..., :1], 3, axis=2) if gray else tiny_image
    write_image(tmp_path / "a.png", image, gray=gray)
    assert np.array_equal(read_image(tmp_path / "a.png"), image)
    assert image_size(tmp_path / "a.png") == image.shape[:2]
    assert (open_image(tmp_path / "a.png").mode == "L") == gray != has_colours(image)
    image[2, 3, 1] ^= 1
    assert has_colours(image)


def test_labels_of_a_palette_of_one_bit_and_of_three_channels(tmp_path):
    numbers = np.array([[0, 5], [15, 255]], np.uint8)
    for image, expected in (
        (palette(numbers, [7 * i % 256 for i in range(768)]), numbers.tolist()),
        (Image.fromarray(np.array([[True, False]])), [[255, 0]]),
        (Image.fromarray(np.array([[[3, 9, 9]]], np.uint8)), [[3]]),
    ):
        image.save(tmp_path / "a.png")
        assert read_label(tmp_path / "a.png").tolist() == expected
    Image.fromarray(np.full((2, 2, 4), 9, np.uint8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (2, 2, 3)


# what a mask means


def test_one_rule_of_what_a_mask_means(tmp_path):
    for numbers, options, expected in (
        ([0, 1, 127], {}, [0, 1, 1]),  # a label map
        ([0, 2, 255], {}, [0, 1, 0]),  # one with ignored pixels
        ([3, 200, 100], {}, [0, 1, 0]),
        ([0, 64] + 30 * [255], {}, [0, 0] + 30 * [1]),  # soft edges too, though no number is above 127
        ([0, 200, 255], {"indexed": True}, [0, 1, 0]),
        ([0, 64] + 30 * [255], {"indexed": True}, [0, 1] + 30 * [0]),
        ([2, 100, 253], {"soft": True}, [0, 0, 1]),
        ([2, 3, 2], {"soft": True}, [0, 0, 0]),
    ):
        found = objects_of(np.array([numbers], np.uint8), **options) == 1
        assert found.tolist() == [[bool(n) for n in expected]], numbers
    palette(np.array([[0, 15, 255]], np.uint8), [0, 0, 0] + 255 * [9, 9, 9]).save(tmp_path / "p.png")
    assert read_mask(tmp_path / "p.png", [15, 255]).tolist() == [[False, True, True]]
    Image.fromarray(np.array([[[0, 0, 0], [0, 128, 0]]], np.uint8)).save(tmp_path / "a.png")
    with refused(r"for classes 120, found the colours \[0, 0, 0\], \[0, 128, 0\]; save"):
        read_mask(tmp_path / "a.png", [120])
    page = Image.fromarray(np.zeros((2, 2), np.uint8))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    with refused(r"Expected one mask in .*a\.tif, found 2 pages"):
        read_mask(tmp_path / "a.tif")


NO_MASKS = {"-6 to 4.2": [-6, 4.2], "0 to inf": [0, np.inf], "0 to 3": [0, 0.5, 3], "0 to 1000": [0, 1000]}


@pytest.mark.parametrize("found", [*NO_MASKS, "NaN", "-6 to 4"])
def test_numbers_that_are_no_mask_are_refused_with_their_range(found, tmp_path):
    numbers = np.float32(NO_MASKS.get(found, [0, np.nan])) if found != "-6 to 4" else np.int32([-6, 4])
    Image.fromarray(numbers[None]).save(tmp_path / "a.tif")
    # of a label map whole numbers may be asked for, whatever there is
    readers = [read_mask, lambda path: read_mask(path, (1,)), read_label][: 3 if numbers.dtype == np.float32 else 1]
    for read in readers:
        with refused(rf"from 0 to 255, or shares from 0 to 1, in the mask .*a\.tif, found .*{found}\)?; save"):
            read(tmp_path / "a.tif")


# what cannot be read, and what lies on its side


@pytest.mark.parametrize("read", [read_image, read_label, image_size, read_mask])
@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\x00\x10JFIF"])
def test_corrupt_images_are_one_sentence(read, content, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    with refused(r"a\.png, found a corrupt one"):
        read(tmp_path / "a.png")


def test_other_formats_and_closed_files_are_not_called_corrupt(tiny_image, tmp_path, monkeypatch):
    for suffix in ("tga", "ico", "pcx", "SGI"):
        Image.fromarray(tiny_image).save(tmp_path / f"a.{suffix}")
    (tmp_path / "a.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    for path in tmp_path.iterdir():
        for read in (read_image, image_size, read_mask, read_photo):
            with refused(rf"found a format that is not read \({path.suffix.lower()}\); convert it"):
                read(path)
        assert [one.path for one in find_inputs(tmp_path, tmp_path / "out", "png") if one.target and one.path == path]
    write_image(tmp_path / "a.png", tiny_image)
    monkeypatch.setattr(Image, "open", Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    for read in (read_image, image_size, read_mask, read_photo):
        with refused(r"Expected access to .*a\.png, found none \(Permission denied\); check its name and perm"):
            read(tmp_path / "a.png")


@given(height=st.integers(1, 200), width=st.integers(1, 40), channels=st.integers(1, 4), seed=st.integers(0, 99))
def test_readers_find_in_a_png_what_was_written(height, width, channels, seed):
    rng = np.random.default_rng(seed)
    layers = rng.integers(0, rng.choice([1, 2, 255]), (height, width, channels), dtype=np.uint8, endpoint=True)
    layers = layers[..., 0] if channels == 1 else layers
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "A. Person"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for told in ({}, {"profile": profile, "exif": exif.tobytes()}):
        content = png_of(layers, **told)
        with Image.open(io.BytesIO(content)) as file:
            file.verify()  # checksums
        with Image.open(io.BytesIO(content)) as file:
            assert np.array_equal(np.asarray(file), layers) and file.info.get("icc_profile") == told.get("profile")
            assert dict(file.getexif()) == (dict(exif) if told else {})


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_truncated_absurd_deep_and_absent_images_are_one_sentence(tiny_image, tmp_path):
    path = tmp_path / "a.png"
    for name in ("a.png", "a.jpg"):
        write_image(tmp_path / name, tiny_image)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-200])
        with refused("corrupt"):
            read_image(tmp_path / name)
    # a header that claims 30000 x 30000 pixels: refused before memory is taken
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))
    with refused("at most 300 million pixels in .*, found far more"):
        read_image(path)
    for read in (read_image, image_size):
        with refused("found no such file"):
            read(tmp_path / "none.png")
    with refused("Expected an image called none in"):
        find_image(tmp_path, "none")


def test_images_are_found_by_stem(tiny_image, tmp_path):
    write_image(tmp_path / "a.b.jpg", tiny_image)
    assert find_image(tmp_path, "a.b").name == "a.b.jpg"
    for name in ("c.JPG", "d[1].Png", "e.Tiff"):
        write_image(tmp_path / "any.png", tiny_image)
        (tmp_path / "any.png").rename(tmp_path / name)
        (tmp_path / f"{name}.txt").touch()
        assert find_image(tmp_path, Path(name).stem).name == name


def on_its_side(pixels: np.ndarray, turn: int) -> np.ndarray:
    """The pixels as a camera stores them that says `turn` in EXIF."""
    times, flipped = {1: (0, 0), 2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (1, 1), 6: (1, 0), 7: (3, 1), 8: (3, 0)}[turn]
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if flipped else pixels, times))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_whatever_lies_on_its_side_is_read_upright(tiny_image, tmp_path, turn, mode):
    exif = Image.Exif()
    exif[0x0112] = turn
    upright = np.asarray(Image.fromarray(tiny_image).convert(mode))
    colours = np.asarray(Image.fromarray(upright).convert("RGB"))
    stored = Image.fromarray(on_its_side(upright, turn))
    for name in ("a.tif", "a.png", "a.webp", "late.png"):
        path = tmp_path / name
        stored.save(path, **({} if name == "late.png" else {"exif": exif}), lossless=True)
        if name == "late.png":  # EXIF behind the pixels
            path.write_bytes(path.read_bytes()[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + chunk(b"IEND", b""))
        assert np.array_equal(read_image(path), colours) and np.array_equal(read_photo(path).pixels, colours), name
        assert image_size(path) == upright.shape[:2], name
        assert np.array_equal(read_label(path), colours[..., 0]), name
        if mode == "L":
            assert np.array_equal(read_mask(path), upright > 127), name
        assert open_image(path).size == upright.shape[1::-1]


def test_damaged_exif_leaves_an_image_as_it_lies(tiny_image, tmp_path):
    Image.fromarray(tiny_image).save(tmp_path / "a.jpg", exif=b"Exif\0\0garbage that is no TIFF header")
    assert read_image(tmp_path / "a.jpg").shape == tiny_image.shape
    assert image_size(tmp_path / "a.jpg") == tiny_image.shape[:2]


# files


@pytest.mark.parametrize("error", [UnsegError("the disk is full"), OSError(errno.ENOSPC, "No space left on device")])
def test_a_failed_write_leaves_nothing_and_a_full_disk_is_one_sentence(error, tmp_path):
    write_bytes(tmp_path / "a.txt", b"old")
    with refused("the disk is full"), whole_file(tmp_path / "a.txt") as partial:
        partial.write_bytes(b"half")
        raise error
    assert (tmp_path / "a.txt").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_json_is_sorted_and_broken_json_is_one_sentence(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5]})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": [\n    1.5\n  ],\n  "b": 1\n}\n'
    assert read_json(tmp_path / "a.json") == {"a": [1.5], "b": 1}
    for content in (b'{"a": ', b"\xff\xfe"):
        (tmp_path / "a.json").write_bytes(content)
        with refused("Expected JSON in"):
            read_json(tmp_path / "a.json")


def test_csv_round_trip_and_the_sha256_of_a_known_text(tmp_path):
    rows = [{"a": "1", "b": "x,y"}, {"a": "2", "b": ""}]
    write_csv(tmp_path / "a.csv", rows)
    assert read_csv(tmp_path / "a.csv") == rows
    write_csv(tmp_path / "a.csv", [], ["a", "b"])
    assert (tmp_path / "a.csv").read_text() == "a,b\n"
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
