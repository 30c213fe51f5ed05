"""Protecting a folder: budgets hold, originals stay, every refusal is a sentence and the rest goes on."""

import errno
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import unicodedata
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from unseg_lib.errors import UnsegError
from unseg_lib.files import append_line, read_csv, sha256_of, write_json
from unseg_lib.images import read_image
from unseg_lib.method import Region
from unseg_lib.protection import COLUMNS, NO_COLOURS, ONE_CHANNEL, REPORT, find_inputs, read_photo, summary
from unseg_lib.protection.report import Shard, alone


@pytest.fixture
def room(tmp_path):
    """A folder with images `a.jpg`, `b.png` and their masks, and a place for the output."""
    for name in ("a.jpg", "b.png"):
        add(tmp_path, name)
    return tmp_path


@pytest.fixture
def run(room, protect_files):
    """Protect the room's images by their masks, or by what else is given."""
    return partial(protect_files, [room / "images"], room / "out", masks=str(room / "masks"))


def pixels_of(channels=3, seed=0, size=(24, 32)):
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8).squeeze()


def disc(size=(24, 32)):
    mask = np.zeros(size, np.uint8)
    mask[5:18, 8:22] = 255
    return mask


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def add(room, name, pixels=None, mask=None, **options):
    save(room / "images" / name, pixels_of() if pixels is None else pixels, **options)
    save(room / "masks" / f"{name.rpartition('.')[0]}.png", disc() if mask is None else mask)


def replace(room, name, pixels=None, **options):
    """Another image in the place of b.png; its mask stays."""
    (room / "images" / "b.png").unlink()
    save(room / "images" / name, pixels_of() if pixels is None else pixels, **options)


def exif_of(**tags):
    exif, numbers = Image.Exif(), {"turn": 0x0112, "artist": 0x013B, "places": 0x8825}
    for name, value in tags.items():
        exif[numbers[name]] = value
    return exif


def hashes(*folders):
    return {path: sha256_of(path) for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()}


def times_of(room):
    return {path: path.stat().st_mtime_ns for path in (room / "out").glob("*.png")}


def change_of(room, name, written):
    return np.abs(read_image(room / "out" / written).astype(int) - read_image(room / "images" / name)).max(axis=2)


def test_images_are_protected_within_budget_and_originals_untouched(room, run):
    before = hashes(room / "images", room / "masks")
    rows = run()
    assert hashes(room / "images", room / "masks") == before
    assert [row["written"] for row in rows] == ["a.png", "b.png"]
    assert {path.name for path in (room / "out").iterdir()} == {"a.png", "b.png", REPORT}
    for row in rows:
        change = change_of(room, row["image"], row["written"])
        assert row["linf_inside"] == change[disc() > 0].max() and 2 < row["linf_inside"] <= 8
        assert row["linf_outside"] == change[disc() == 0].max() <= 2
        assert row["sha256"] == sha256_of(room / "out" / row["written"])
        assert row["source_sha256"] == sha256_of(room / "images" / row["image"])
        assert row["bytes_after"] == (room / "out" / row["written"]).stat().st_size
        assert (row["eps"], row["eps_bg"], row["found_by"], row["problem"]) == (8, 2, "mask", "")
    lines = read_csv(room / "out" / REPORT)
    assert list(lines[0]) == COLUMNS
    assert lines == [{name: str(row[name]) for name in COLUMNS} for row in rows]


def test_a_second_call_waits_its_turn_does_nothing_and_another_budget_does_it_again(room, run, monkeypatch):
    rows, before = run(), times_of(room)
    with alone(room / "out", Shard()), pytest.raises(UnsegError, match="no other run in"):
        run()
    with monkeypatch.context() as context:
        context.setattr("unseg_lib.method.Inference.__call__", lambda *_: pytest.fail("noise was made twice"))
        assert run() == rows and times_of(room) == before
    assert run(eps=8.0) == rows and times_of(room) == before
    save(room / "masks" / "b.png", 255 - disc())
    again = run()
    assert again[0] == rows[0] and again[1]["sha256"] != rows[1]["sha256"]
    assert all(row["linf_inside"] == 4 for row in run(eps=4.5))


def test_a_killed_run_goes_on_even_if_it_is_killed_again(room, run, monkeypatch):
    """A line that is appended to a torn one would be lost, and its copy a foreign file."""
    whole, out = run(), room / "out"
    lines = (out / REPORT).read_text().splitlines(keepends=True)
    (out / REPORT).write_text("".join(lines[:2]) + lines[2][:20])
    (out / "b.png").unlink()
    assert run() == whole

    (out / REPORT).write_text(lines[0] + lines[1][:20])
    for path in out.glob("*.png"):
        path.unlink()
    killed = lambda path, cells: append_line(path, cells) if cells[0] != "b.png" else pytest.fail("killed")  # noqa: E731
    with monkeypatch.context() as context, pytest.raises(pytest.fail.Exception):
        context.setattr("unseg_lib.poisons.manifest.append_line", killed)
        run()
    assert (out / "a.png").exists() and not (out / "b.png").exists()
    assert run() == whole


def test_the_report_of_an_older_version_is_continued(room, run):
    whole, report = run(), room / "out" / REPORT
    text, before = report.read_text(), times_of(room)
    report.write_text(text.replace("image,", "picture,", 1))
    (room / "out" / ".partial-1x2-b.png").write_bytes(b"of a killed run")
    assert run() == whole and report.read_text() == text
    assert times_of(room) == before and not list((room / "out").glob(".partial*"))


def test_gray_images_are_remarked_where_the_noise_is_known_not_to_protect(room, run, weights):
    add(room, "b.png", pixels_of(1))
    add(room, "c.png", np.repeat(pixels_of(1)[..., None], 3, axis=2))
    add(room, "d.png", pixels_of(1), 0 * disc())  # nothing to protect, nothing to warn of
    for generator, no_colours in (("small", 1), ("colour", 0), (weights, 0)):
        rows = run(generator=generator, overwrite=True)
        assert [row["remark"] for row in rows] == ["", ONE_CHANNEL, NO_COLOURS * no_colours, ""], generator
        said = summary(rows, room / "out")
        assert "In 1 the file has one channel" in said and ("In 1 there are no colours" in said) == bool(no_colours)
    drawn = run(generator="grating", overwrite=True)  # stripes of brightness, of which a gray file keeps all
    assert [(row["remark"], row["linf_inside"], row["linf_outside"]) for row in drawn[:3]] == 3 * [("", 8, 0)]


@pytest.mark.parametrize("channels, mode", [(1, "RGB"), (2, "RGBA")])
def test_gray_images_take_all_of_the_noise_on_request(room, run, channels, mode):
    replace(room, "b.png", pixels_of(channels), icc_profile=b"a profile of gray")
    row = run(rgb=True)[1]
    with Image.open(room / "out" / "b.png") as copy:
        assert copy.mode == mode and "icc_profile" not in copy.info
        noise = np.asarray(copy).astype(int)[..., :3] - pixels_of(channels).reshape(24, 32, -1)[..., :1]
    assert row["remark"] == "its colour profile, one of gray, was dropped"
    assert np.abs(noise).max() == row["linf_inside"] <= 8 and (noise[..., 0] != noise[..., 1]).any()
    assert run(rgb=True)[1] == row != run()[1]  # the same again does nothing, another wish does


def test_transparency_of_a_palette_is_kept(room, run):
    indexed = Image.fromarray(pixels_of(1) % 4).convert("P")
    indexed.putpalette([0, 0, 0, 90, 80, 70, 200, 10, 20, 250, 250, 250])
    indexed.save(room / "images" / "b.png", transparency=2)
    run()
    with Image.open(room / "out" / "b.png") as written:
        assert written.mode == "RGBA"
        assert np.array_equal(np.asarray(written)[..., 3] == 0, pixels_of(1) % 4 == 2)


def test_orientation_is_applied_the_profile_kept_and_metadata_only_on_request(room, run):
    replace(room, "b.jpg", exif=exif_of(turn=6, artist="somebody"), icc_profile=b"a profile", quality=95)
    save(room / "masks" / "b.png", disc(), exif=exif_of(turn=6))
    upright, mask = np.rot90(np.asarray(Image.open(room / "images" / "b.jpg")), -1), np.rot90(disc(), -1) > 0
    for metadata, classes in ((False, ""), (True, "255")):
        run(metadata=metadata, classes=classes)
        with Image.open(room / "out" / "b.png") as written:
            change = np.abs(np.asarray(written).astype(int) - upright).max(axis=2)
            assert 2 < change[mask].max() <= 8 and change[~mask].max() <= 2
            assert written.info["icc_profile"] == b"a profile"
            assert dict(written.getexif()) == ({0x013B: "somebody"} if metadata else {})


def test_what_a_copy_does_not_have_is_remarked(room, run):
    replace(room, "two.jpg", format="MPO", save_all=True, append_images=[Image.fromarray(pixels_of(3, 1))])
    tifffile.imwrite(room / "images" / "deep.tif", pixels_of().astype(np.uint16) * 257, photometric="rgb")
    save(room / "images" / "told.tif", pixels_of(), exif=exif_of(artist="somebody"))
    save(room / "images" / "plain.tif", pixels_of())
    save(room / "images" / "clear.png", pixels_of(4))
    save(room / "images" / "opaque.png", np.dstack([pixels_of(), np.full((24, 32), 255, np.uint8)]))
    deep, lost = "16 bits a channel were reduced to 8", "EXIF of a TIFF was not kept"
    always = {"two.jpg": "of 2 images in the file only the main one was kept", "deep.tif": deep}
    for options, expected in (
        ({"metadata": True}, {"told.tif": lost, "deep.tif": f"{deep}; {lost}"}),
        ({"format": "jpeg"}, {"clear.png": "transparency was dropped, which JPEG does not have"}),
        ({}, {}),
    ):
        rows = run(masks="", overwrite=True, **options)
        assert not any(row["problem"] for row in rows)
        assert {row["image"]: row["remark"] for row in rows if row["remark"]} == always | expected
    for name, expected in (("two", read_image(room / "images" / "two.jpg")), ("deep", pixels_of())):
        assert np.abs(read_image(room / "out" / f"{name}.png").astype(int) - expected).max() <= 8


def test_metadata_that_a_format_cannot_hold_leaves_out_its_image_alone(room, run):
    replace(room, "b.png", exif=exif_of(artist="somebody" * 9999))
    good, bad = run(format="jpeg", metadata=True)
    assert not good["problem"] and "Could not write jpeg (EXIF data is too long)" in bad["problem"]
    assert not run(metadata=True)[1]["problem"]


def test_the_content_of_a_file_decides_what_keeping_its_format_means(room, run):
    replace(room, "b.jpg", format="PNG")
    save(room / "images" / "c.png", pixels_of(), format="JPEG")
    save(room / "images" / "d.png", pixels_of(), format="BMP")
    run = partial(run, masks="", boxes="5,3,15,8", format="keep")
    rows = run()
    names = {"a.jpg": "JPEG", "b.png": "PNG", "c.png": "PNG", "d.png": "PNG"}  # what is no JPEG becomes none
    for row, (name, format) in zip(rows, names.items(), strict=True):
        with Image.open(room / "out" / row["written"]) as copy:
            assert (row["written"], copy.format) == (name, format) and not row["problem"]
    assert max(rows[1]["linf_inside"], rows[1]["linf_outside"]) <= 8 and run() == rows


@pytest.mark.parametrize("depth", ["gray", "gray of 8 bits", "colours"])
def test_the_transparent_colour_of_16_bits_is_kept(room, run, depth):
    values = pixels_of(1).astype(np.uint16) if "8" in depth else pixels_of(1) * np.uint16(256) + np.uint16(7)
    key = int(values[3, 4])
    replace(room, "b.png", values, transparency=key)
    if depth == "colours":
        (room / "images" / "b.png").write_bytes(png_of_16_bits(np.dstack([values] * 3), [key] * 3))
    run()
    with Image.open(room / "out" / "b.png") as copy:
        assert copy.mode == ("RGBA" if depth == "colours" else "LA")
        assert np.array_equal(np.asarray(copy)[..., -1] == 0, values == key)


def png_of_16_bits(values, transparent):
    """With the chunk that names the transparent colour behind the header, which OpenCV leaves out."""
    content, chunk = cv2.imencode(".png", values)[1].tobytes(), b"tRNS" + struct.pack(">HHH", *transparent)
    return content[:33] + struct.pack(">I", 6) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]


def test_tiffs_of_16_bits_are_read_right_or_refused(tmp_path):
    """Pillow takes channels that lie apart, and negatives, for other images."""
    path, deep = tmp_path / "a.tif", pixels_of() * np.uint16(257)
    apart = deep.transpose(2, 0, 1).copy()
    for pixels, compression in ((deep, None), (deep, "zlib"), (apart, "zlib")):
        tifffile.imwrite(path, pixels, photometric="rgb", compression=compression)
        assert np.array_equal(read_photo(path).pixels, pixels_of())
    for pixels, photometric in ((apart, "rgb"), (deep[..., 0], "miniswhite")):
        tifffile.imwrite(path, pixels, photometric=photometric)
        with pytest.raises(UnsegError, match="found planes or a negative"):
            read_photo(path)


@pytest.mark.parametrize("name", ["b.jpg", "b.png", "b.webp"])
def test_damaged_exif_is_not_kept_and_keeps_no_image_out(room, run, name, monkeypatch):
    def told(metadata):
        row = run(metadata=metadata, overwrite=True)[1]
        return row["problem"], row["remark"]

    replace(room, name, exif=b"Exif\0\0JUNKJUNK")
    assert [told(False), told(True)] == [("", ""), ("", "damaged EXIF was not kept")]
    save(room / "images" / name, pixels_of(), exif=exif_of(turn=1, artist="somebody"))
    monkeypatch.setattr(Image.Exif, "tobytes", lambda *_: 1 / 0)
    assert [told(False), told(True)] == [("", ""), ("", "damaged EXIF was not kept")]


def test_classes_of_a_label_map(room, run):
    label = np.zeros((24, 32), np.uint8)
    label[2:8], label[10:20] = 1, 15
    add(room, "b.png", mask=label)
    assert run(classes="15")[1]["protected"] == pytest.approx((label == 15).mean(), abs=1e-6)
    with pytest.raises(UnsegError, match="numbers of a label map's classes"):
        run(classes="dog")
    write_json(room / "masks/settings.json", {})  # might be outlines, which have names
    assert all("numbers of classes for the label map" in row["problem"] for row in run(classes="15,dog"))


def coco_notes():
    """Annotations of b.png: a cup and a dog."""
    square = {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]], "iscrowd": 0}
    other = square | {"id": 2, "category_id": 5, "segmentation": [[12, 12, 20, 12, 20, 20, 12, 20]]}
    images = [{"id": 7, "file_name": "b.png", "width": 32, "height": 24}]
    categories = [{"id": 3, "name": "cup"}, {"id": 5, "name": "dog"}]
    return {"images": images, "annotations": [square, other], "categories": categories}


def test_classes_of_cocos_json(room, run):
    (room / "images" / "a.jpg").unlink()
    write_json(room / "notes.json", coco_notes())
    run = partial(run, masks=str(room / "notes.json"))
    shares = [run(classes=one)[0]["protected"] for one in ("cup", "dog")]
    assert run()[0]["protected"] == pytest.approx(sum(shares), abs=1e-5) and min(shares) > 0.05
    with pytest.raises(UnsegError, match=r"Unknown class 'dg'.*did you mean 'dog'"):
        run(classes="dg")


def test_a_faulty_json_is_one_sentence(room, run):
    without = {key: value for key, value in coco_notes().items() if key != "annotations"}
    for notes in (None, 5, [], [coco_notes()], {}, without, without | {"annotations": {"1": 2}}):
        write_json(room / "notes.json", notes)
        with pytest.raises(UnsegError, match=r"^Expected COCO .*notes\.json, found json without lists of images and"):
            run(masks=str(room / "notes.json"))


HOSTILE = [  # the shape of an annotation, the sentence
    (None, "a polygon or RLE in annotation 1 of b.png"),
    ({"size": [24, 32], "counts": [10, 20]}, "counts of 30 pixels, not 768"),
    ({"size": [24, 32], "counts": [10, -20, 778]}, "counts of 768 pixels"),
    ({"size": [24, 32], "counts": "0"}, "too few pixels"),
    ({"size": [10, 10], "counts": [10, 20, 70]}, r"of the size \[10, 10\], not \[24, 32\]"),
    ([[0, 0, float("nan"), 0, 9, 9]], "corners far outside"),
    ([[0, 0, 1e9, 0, 9, 9]], "corners far outside"),
]


@pytest.mark.parametrize("shape, sentence", HOSTILE)
def test_a_hostile_annotation_is_one_sentence_of_its_image_alone(room, run, shape, sentence):
    """pycocotools answers the shapes with what lay in memory, with all memory, or not at all."""
    notes = coco_notes()
    notes["images"].append({"id": 8, "file_name": "a.jpg", "width": 32, "height": 24})
    notes["annotations"][0]["segmentation"] = shape
    (room / "notes.json").write_text(json.dumps(notes))
    good, bad = run(masks=str(room / "notes.json"))
    assert not good["problem"] and re.search(sentence, bad["problem"])


def test_what_is_odd_about_one_image_does_not_stop_the_others(room, run, monkeypatch):
    odd = lambda path: read_photo(path) if path.name != "b.png" else 1 / 0  # noqa: E731
    monkeypatch.setattr("unseg_lib.protection.api.read_photo", odd)
    good, bad = run()
    assert not good["problem"] and "found one that cannot (ZeroDivisionError" in bad["problem"]


def test_boxes_and_points_for_all_or_by_file(room, run):
    run = partial(run, masks="")
    for row in run(boxes="5,3,15,8"):
        assert row["found_by"] in ("box", "whole box") and 0 < row["protected"] <= round(11 * 6 / 768, 6)
    boxes, old, points = (room / f"{name}.csv" for name in ("boxes", "old", "points"))
    boxes.write_text("image,x0,y0,x1,y1\na.jpg,5,3,15,8\nb.png,5,3,15,8\nb.png,0,0,1,1\n")
    old.write_text(boxes.read_text().replace("image", "picture"))
    rows = run(boxes=str(boxes))
    assert rows[1]["protected"] <= round((11 * 6 + 4) / 768, 6) and run(boxes=str(old)) == rows
    points.write_bytes(b"\xef\xbb\xbfimage,x,y\r\na.jpg,5,3\r\n")  # as a spreadsheet program writes it
    rows = run(points=str(points))
    assert rows[0]["found_by"] == "points" and "Expected a line for b.png" in rows[1]["problem"]


def test_the_summary_says_what_may_not_protect(room, run):
    def said(**options):
        rows = run(**options)
        return rows[1], summary(rows, room / "out")

    _, text = said()
    assert "no exact masks" not in text and "the region is empty" not in text
    row, text = said(masks="", boxes="5,3,15,8", format="jpeg", quality=60)
    assert re.search("by (whole )?box", text) and "2 regions are no exact masks" in text
    assert "JPEG has changed 2 of them beyond the budget" in text
    outside = np.ones((24, 32), bool)
    outside[3:9, 5:16] = False
    assert row["linf_outside"] == change_of(room, "b.png", "b.jpg")[outside].max() > 2
    size = sum(path.stat().st_size for path in (room / "images").iterdir()) / 1e6
    assert f"Size of the files: {size:.1f} MB before" in text
    # an empty mask leaves the image as it is, a region of one pixel counts as one
    add(room, "b.png", mask=0 * disc())
    row, text = said()
    assert "In 1 the region is empty, so no noise was added" in text and row["protected"] == row["rms"] == 0
    assert np.array_equal(read_image(room / "out" / "b.png"), pixels_of())
    mask = np.zeros((1500, 1500), np.uint8)
    mask[600, 600] = 255
    add(room, "b.png", np.full((1500, 1500, 3), 90, np.uint8), mask)
    row, text = said(overwrite=True)
    assert row["protected"] == 1e-6 and "the region is empty" not in text


def second_page_is_empty(path):
    Image.new("RGB", (32, 24)).save(path)
    content = bytearray(path.read_bytes())
    first, pixels = int.from_bytes(content[4:8], "little"), content.index(bytes(1000))
    tags = int.from_bytes(content[first : first + 2], "little")
    content[first + 2 + 12 * tags : first + 6 + 12 * tags] = pixels.to_bytes(4, "little")
    path.write_bytes(content)


def pages(path):
    first, second = (Image.fromarray(disc()[::step].copy()) for step in (1, -1))
    first.save(path, save_all=True, append_images=[second])


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def renamed(path, suffix):
    path.rename(path.with_suffix(suffix))


DEEP, CORRUPT = Image.fromarray(np.ones((24, 32), np.float32)), "found a corrupt one"
SPOILT = {  # what is done to the file of an image or of its mask: the sentence
    "no mask": (lambda i, m: m.unlink(), "Expected one mask called b .*found none"),
    "two masks": (lambda i, m: save(m.with_suffix(".bmp"), disc()), r"several \(b.bmp, b.png\)"),
    "small mask": (lambda i, m: save(m, disc()[:20]), "Expected a mask of 32x24 pixels.*found 32x20"),
    "corrupt mask": (lambda i, m: cut(m, 50), CORRUPT),
    "mask of two pages": (lambda i, m: (renamed(m, ".tif"), pages(m.with_suffix(".tif"))), "one mask in.*found 2 p"),
    "corrupt image": (lambda i, m: cut(i, 300), CORRUPT),
    "no image": (lambda i, m: i.write_text("this is text"), CORRUPT),
    "32 bits": (lambda i, m: (i.unlink(), DEEP.save(i.with_suffix(".tif"))), "Expected 8 or 16 bits"),
    # reading it would never end
    "a pipe": (lambda i, m: (i.unlink(), os.mkfifo(i)), "Expected a file at .*found something else"),
    "a link to nothing": (lambda i, m: (i.unlink(), i.symlink_to("gone.png")), "Expected access to "),
    "TypeError": (lambda i, m: (i.unlink(), second_page_is_empty(i.with_suffix(".tif"))), CORRUPT),  # Pillow's
    "several frames": (lambda i, m: pages(i), "Expected one image in .*found 2"),
    "raw": (lambda i, m: renamed(i, ".dng"), "b.dng; develop it"),
    "tiny": (lambda i, m: save(i, pixels_of(size=(15, 40))), "at least 16 pixels a side in .*found 40x15"),
    "bomb": (lambda i, m: Image.new("1", (30_000, 30_000)).save(i), "at most 300 million pixels in .*found far more"),
    "large": (lambda i, m: Image.new("1", (18_000, 17_000)).save(i), "300 million pixels in .*found 18000x17000"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_cannot_be_protected_is_named_and_the_rest_goes_on(room, run, how):
    spoil, sentence = SPOILT[how]
    spoil(room / "images" / "b.png", room / "masks" / "b.png")
    before = hashes(room / "images", room / "masks")
    good, bad = run()
    assert hashes(room / "images", room / "masks") == before
    assert good["problem"] == "" and (room / "out" / "a.png").exists()
    assert re.search(sentence, bad["problem"]) and "\n" not in bad["problem"] and not bad["written"]
    assert read_csv(room / "out" / REPORT)[-1]["problem"] == bad["problem"]


def test_copies_of_one_name_do_not_hide_each_other_and_keep_their_names(room, run):
    def names():
        rows = run()
        assert not any(row["problem"] for row in rows) and run() == rows
        return [row["written"] for row in rows]

    add(room, "b.bmp")
    add(room, "B.tif")
    assert names() == ["B-tif.png", "a.png", "b-bmp.png", "b-png.png"]
    for name in ("b.png", "B.tif"):
        (room / "images" / name).unlink()
    assert names() == ["a.png", "b-bmp.png"]
    add(room, "a.png", pixels_of(seed=1))
    assert names() == ["a.png", "a-png.png", "b-bmp.png"]


def test_copies_of_two_folders_stay_apart_in_any_order(room, protect_files):
    for number, place in enumerate(("one", "two", "three")):
        save(room / place / "i.png", pixels_of(seed=number))
    copies = {}
    for places in (["one"], ["one", "two"], ["two", "one"], ["three", "two", "one"]):
        rows = protect_files([room / place for place in places], room / "out")
        assert not any(row["problem"] for row in rows)
        for place, row in zip(places, rows):
            assert copies.setdefault(place, row["written"]) == row["written"]
    assert len(set(copies.values())) == 3


@pytest.mark.parametrize("out, pattern", [*(("safe", one) for one in ("", "**/*.*", "*", "*.jpg")), ("", "*.jpg")])
def test_a_folder_or_a_pattern_finds_the_same_again_beside_its_own_copies(room, protect_files, pattern, out):
    images = room / "images"
    (images / "sub").mkdir()
    (images / "b.png").rename(images / "sub" / "b.png")
    first, second, third = (protect_files([f"{images}/{pattern}"], images / out) for _ in range(3))
    assert first == second == third and first[0]["written"] == "a.png" and not first[0]["problem"]


def test_our_own_copies_are_not_protected_again(room, run, protect_files):
    rows, copies = run(), sorted((room / "out").glob("*.png"))
    given = [room / "images" / "b.png", *copies]
    assert protect_files(given, room / "out", masks=str(room / "masks")) == rows[1:]
    with pytest.raises(UnsegError, match="found none but copies of ours"):
        protect_files(copies, room / "out")
    save(room / "out" / "b.png", pixels_of())  # now it is somebody's image
    with pytest.raises(UnsegError, match=r"originals and copies in two folders, found b\.png"):
        protect_files(copies, room / "out")


def test_what_a_pattern_matches_and_nobody_can_read_is_named_and_the_rest_goes_on(room, run, protect_files):
    (room / "images" / "c.png").symlink_to("nowhere.png")
    (room / "images" / "d.png").symlink_to("d.png")
    rows = run(masks="")
    assert rows == protect_files([f"{room}/images/*"], room / "out")
    assert [row["written"] for row in rows] == ["a.png", "b.png", "", ""]
    assert all("Expected access to " in row["problem"] for row in rows[2:])


def test_a_closed_folder_is_not_passed_over(room, run, monkeypatch):
    (room / "images" / "sub").mkdir()
    monkeypatch.setattr(os, "scandir", closed(os.scandir, "sub"))
    with pytest.raises(UnsegError, match=r"a readable folder at .*sub, found none \(Permission denied\)"):
        run()


def closed(function, ending):
    """A function of a path as if the system refused what ends so."""

    def refused(path):
        if str(path).endswith(ending):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return function(path)

    return refused


def test_a_image_whose_copy_cannot_be_named_leaves_the_rest_alone(room, run):
    long = "x" * 251
    for name in (f"{long}.jpg", f"{long}.png"):  # together they would be called xx-jpg.png, too long for a disk
        save(room / "images" / name, pixels_of())
    rows = run(masks="")
    assert [row["written"] for row in rows] == ["a.png", "b.png", "", ""]
    assert all(row["problem"].startswith("Expected access to ") for row in rows[2:])
    (room / "images" / f"{long}.png").unlink()
    assert run(masks="", preview=True)[2]["written"] == f"{long}.png"  # 255 bytes, as long as a name can be
    assert len(list((room / "out" / "preview").iterdir())) == 3


LONG = "y" * 300
OPTIONS = ["--masks LONG", "--boxes LONG.csv", "--generator LONG"]
COMMANDS = ["protect LONG --out out", "protect images --out LONG", "inspect images/b.png LONG"]


@pytest.mark.parametrize("line", COMMANDS + [f"protect images --out out {option}" for option in OPTIONS])
def test_a_path_that_the_system_refuses_is_one_sentence_and_code_2(room, monkeypatch, unseg, line):
    monkeypatch.chdir(room)
    code, _, said = unseg(*line.replace("LONG", LONG).split())
    assert code == 2 and said.count("\n") == 1
    assert re.fullmatch(rf"Expected access to {LONG}\S*, found none \(File name too long\); .*\n", said)


def days(room):
    """Two images of one name in two folders, and one of another."""
    for number, name in enumerate(("day1/i.png", "day2/i.png", "day2/top.png")):
        save(room / "days" / name, pixels_of(seed=number))
    return room / "days"


@pytest.mark.parametrize("kind, given", [("masks", "masks"), ("masks", "notes.json"), ("boxes", "boxes.csv")])
@pytest.mark.parametrize("inputs", [[""], ["day1", "day2"], ["**/*.png"]])
def test_what_may_be_meant_for_several_images_is_taken_for_none(room, protect_files, kind, given, inputs):
    folder, notes = days(room), coco_notes()
    for name in ("i.png", "top.png"):
        save(room / "masks" / name, disc())
    notes["images"] = [{"id": n, "file_name": f"{n}.png", "width": 32, "height": 24} for n in ("i", "top")]
    notes["annotations"] = [note | {"image_id": n} for n in ("i", "top") for note in notes["annotations"]]
    write_json(room / "notes.json", notes)
    (room / "boxes.csv").write_text("image,x0,y0,x1,y1\ni.png,5,3,15,8\ntop.png,5,3,15,8\n")
    *shared, top = protect_files([folder / one for one in inputs], room / "out", **{kind: str(room / given)})
    assert top["written"] == ("day2/top.png" if inputs == [""] else "top.png")
    for row in shared:
        assert re.match(r"Expected one image called i(\.png)?, as .* found some in several folders", row["problem"])


def test_no_image_takes_the_mask_of_one_in_the_folder_above(room, protect_files):
    for number, name in enumerate(("i.png", "day1/i.png", "day2/I.PNG")):  # the last is the same name on some disks
        save(room / "days" / name, pixels_of(seed=number), format="PNG")
    save(room / "masks" / "i.png", disc())
    rows = protect_files([room / "days"], room / "out", masks=str(room / "masks"))
    assert sorted("found some in several folders" in row["problem"] for row in rows) == [False, True, True]
    assert next(row for row in rows if row["image"] == "i.png")["written"]


def test_images_of_one_name_are_told_apart_by_their_sub_folders(room, protect_files, monkeypatch):
    folder, shares = days(room), {"day1/i": 3, "day2/i": 6, "day2/top": 9}
    for name, rows in shares.items():
        save(room / "masks" / f"{name}.png", np.where(np.arange(24)[:, None] < rows, 255, np.zeros((24, 32), np.uint8)))
    save(room / "masks" / "i.png", disc())
    found = protect_files([folder], room / "out", masks=str(room / "masks"))
    assert [row["protected"] for row in found] == [rows / 24 for rows in shares.values()]
    lines = [f"{name}.png,0,0,31,{rows - 1}" for name, rows in shares.items()]
    (room / "boxes.csv").write_text("\n".join(["image,x0,y0,x1,y1", *lines, "i.png,1,1,2,2"]))

    def whole(pixels, box, segmenter):  # all of a box, whatever is in it
        return Region(np.repeat(np.arange(24)[:, None] <= box[0][3], 32, axis=1), "box")

    monkeypatch.setattr("unseg_lib.protection.inputs.find_region", whole)
    again = protect_files([folder], room / "out", boxes=str(room / "boxes.csv"))
    assert [row["protected"] for row in again] == [row["protected"] for row in found]


def test_sub_folders_patterns_links_and_strange_names(room, monkeypatch):
    images, secret = room / "images", room / "secret.png"
    (images / "sub").mkdir()
    for path in (images / "sub" / "new\nline.png", images / ".thumbs.png", images / "notes.txt", secret):
        path.write_bytes(b"")
    (images / "leads-out.png").symlink_to(secret)
    (images / "link.png").symlink_to(images / "b.png")  # a name of its own
    (images / "loop").symlink_to(images)
    monkeypatch.chdir(room)
    targets = lambda *given: [one.target for one in find_inputs(given, room / "out", "png")]  # noqa: E731
    assert targets(images) == ["a.png", "b.png", "link.png", "sub/new_line.png", ""]  # the last is no image
    assert "b.png" in targets(f"{images}/*.png")
    # one file by several paths is protected once
    assert targets("images", images, "images/b.png", "images/loop/b.png") == targets("images")
    assert targets("images/../secret.png") == ["secret.png"]


def test_what_makes_no_sense_is_refused_and_neither_originals_nor_masks_are_replaced(room, protect_files):
    (room / "empty").mkdir()
    (room / "file").write_text("x")
    (room / "bytes.csv").write_bytes(b"\xff\xfe\x00\x81")
    images, masks, out, before = room / "images", room / "masks", room / "out", hashes(room)
    replacing = {"masks": str(masks), "overwrite": True}
    for inputs, place, options, sentence in (
        (images, images, replacing, "images outside the output folder"),
        (images, masks, replacing, "masks and copies"),
        (images / "b.png", images, replacing, r"originals and copies in two folders, found b\.png"),
        (room / "none", out, {}, "Expected a file, a folder or a pattern"),
        (room / "*.gif", out, {}, "Expected a file, a folder or a pattern"),
        (room / "empty", out, {}, "found none"),
        (images, room / "file", {}, "a file at"),
        (images, room / "file" / "below", {}, "Could not write"),
        (images, out, {"eps": 300}, "from 0 to 255"),
        (images, out, {"quality": 0}, "quality from 1 to 100"),
        (images, out, {"batch": 0}, "a batch of at least 1 image, found 0"),
        (images, out, {"jobs": -3}, "at least 1 job, or 0 for what suits it, found -3"),
        (images, out, {"points": str(room / "bytes.csv")}, "CSV file in UTF-8"),
        (images, out, {"boxes": "5,3,15"}, "Expected numbers as x0,y0,x1,y1"),
        (images, out, {"boxes": "none.csv"}, "Expected a CSV file"),
        (images, out, {"boxes": "1,1,2,2", "points": "1,1"}, "one of --masks, --boxes and --points"),
        (images, out, {"classes": "1"}, "Expected --masks beside --classes"),
    ):
        with pytest.raises(UnsegError, match=sentence):
            protect_files([inputs], place, **options)
    assert hashes(room) == before and not out.exists()


def test_lines_are_kept_until_their_image_is_tried_again(room, run, protect_files, monkeypatch):
    """Those of other batches and of images that failed, even if a run is killed; a copy stays known meanwhile."""
    rows, image = run(), room / "images" / "b.png"
    whole = image.read_bytes()
    cut(image, 300)
    assert "found a corrupt one" in run()[1]["problem"]
    save(room / "more" / "c.png", pixels_of())
    with monkeypatch.context() as context, pytest.raises(pytest.fail.Exception):
        context.setattr("unseg_lib.protection.api.read_photo", lambda _: pytest.fail("killed"))
        protect_files([room / "more"], room / "out")
    protect_files([room / "more"], room / "out")
    lines = [(line["image"], bool(line["problem"])) for line in read_csv(room / "out" / REPORT)]
    assert sorted(lines) == [("a.jpg", False), ("b.png", False), ("b.png", True), ("c.png", False)]
    image.write_bytes(whole)
    assert run() == rows
    with monkeypatch.context() as context:  # no copy can be read for a moment
        context.setattr("unseg_lib.protection.api.sha256_if_readable", lambda path: "")
        protect_files([room / "more"], room / "out", overwrite=True)
    assert run() == rows
    assert [line["written"] for line in read_csv(room / "out" / REPORT)] == ["c.png", "a.png", "b.png"]


def test_a_report_is_one_in_utf_8_in_every_country(tmp_path):
    code = "import sys; from pathlib import Path; from unseg_lib.files import append_line, write_csv; from unseg_lib"
    code += ".poisons import read_lines; path = Path(sys.argv[1]); write_csv(path, [{'a': chr(252)}])"
    code += "; append_line(path, [chr(26085)]); print(*(ord(line['a']) for line in read_lines(path, {'a': str})[1]))"
    abroad = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    told = subprocess.run([sys.executable, "-c", code, tmp_path / "a.csv"], env=abroad, capture_output=True, text=True)
    assert told.stdout.split() == ["252", "26085"], told.stderr


def test_a_full_disk_stops_at_once_and_the_next_run_goes_on(room, run, monkeypatch):
    real = Path.write_bytes

    def full(path, content):
        real(path, content[:4] if path.name.endswith("b.png") else content)
        if path.name.endswith("b.png"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as context, pytest.raises(UnsegError, match=r"^Could not write .*disk is full"):
        context.setattr(Path, "write_bytes", full)
        run()
    assert {path.name for path in (room / "out").iterdir()} == {"a.png", REPORT}
    assert len(run()) == 2


def test_shards_protect_each_image_once_into_one_report(room, run, monkeypatch):
    for number in range(9):
        add(room, f"n{number}.png", pixels_of(seed=number))
    save(room / "images" / "sub" / "odd.png", pixels_of())  # without mask: a line with a problem
    out = room / "out"
    whole = sorted(run(), key=lambda row: row["image"])
    made = {path.name: sha256_of(path) for path in out.glob("*.png")}
    shutil.rmtree(out)
    killed = lambda path, cells: append_line(path, cells) if cells[0] != "n8.png" else pytest.fail("killed")  # noqa: E731
    with monkeypatch.context() as context:
        context.setattr("unseg_lib.poisons.manifest.append_line", killed)
        with ThreadPoolExecutor(3) as pool:
            parts = [pool.submit(run, shard=f"{k}/3") for k in range(3)]
    (failed,) = (k for k, part in enumerate(parts) if part.exception())
    done = [row for k, part in enumerate(parts) if k != failed for row in part.result()]
    assert {one.name for one in out.glob("*.csv")} == {REPORT, f"protected-{failed}-of-3.csv"}
    assert [line["image"] for line in read_csv(out / REPORT)] == sorted(row["image"] for row in done)
    # what is left is done by the same command, or by the one without shards; nothing is made again
    before, half = times_of(room), room / "half"
    shutil.copytree(out, half)
    for shard in (f"{failed}/3", ""):
        shutil.rmtree(out)
        shutil.copytree(half, out)
        with alone(out, Shard(f"{failed}/3")), pytest.raises(UnsegError, match="no other run in"):
            run(shard=shard)
        run(shard=shard)
        assert before.items() <= times_of(room).items()
        lines = sorted(read_csv(out / REPORT), key=lambda line: line["image"])
        assert lines == [{name: str(row[name]) for name in COLUMNS} for row in whole]
        assert {path.name: sha256_of(path) for path in out.glob("*.png")} == made
        assert not list(out.glob("protected-*")) and not list(out.glob(".*"))
    (out / ".protected-0-of-2.csv.lock").write_bytes(b"")  # of a shard that was killed
    run()
    assert not list(out.glob(".*"))
    for text in ("3/3", "1", "a/b", "-1/2"):
        with pytest.raises(UnsegError, match="a shard k/n with k from 0 to n - 1"):
            run(shard=text)


def test_a_copy_that_is_not_known_or_of_another_image_is_left_alone(room, run, monkeypatch):
    rows, copy = run(), room / "out" / "b.png"
    save(room / "images" / "b.png", pixels_of(seed=1))
    assert "the copy of another image, or of" in run()[1]["problem"] and sha256_of(copy) == rows[1]["sha256"]
    assert not run(overwrite=True)[1]["problem"] and sha256_of(copy) != rows[1]["sha256"]
    with monkeypatch.context() as context:
        context.setattr("unseg_lib.files.sha256_of", closed(sha256_of, "out/b.png"))
        again = run()
    assert again[0] == rows[0] and "not from here" in again[1]["problem"]
    copy.write_bytes(b"edited by hand")
    assert "not from here" in run()[1]["problem"] and copy.read_bytes() == b"edited by hand"
    assert not any(row["problem"] for row in run(overwrite=True))


KINDS = {  # mode and suffix of the file -> mode of its copy
    **{("RGB", "jpg"): "RGB", ("L", "jpg"): "L", ("CMYK", "jpg"): "RGB", ("RGB", "png"): "RGB", ("L", "png"): "L"},
    **{("LA", "png"): "LA", ("P", "png"): "RGB", ("1", "png"): "L", ("I;16", "png"): "L"},
    **{("RGBA", "webp"): "RGBA", ("RGBA", "tif"): "RGBA", ("I;16", "tif"): "L"},
}


def many_mixed(folder):
    """Images of all kinds and sizes, every tenth cut off; what each copy is expected to be, by name."""
    rng, expected = np.random.default_rng(0), {}
    for number in range(60):
        mode, suffix = list(KINDS)[number % len(KINDS)]
        size = tuple(int(side) for side in rng.integers(16, 90, 2))
        gray = pixels_of(1, number, size)
        if mode == "I;16":
            image = Image.fromarray(gray.astype(np.uint16) * 257)
        else:
            image = Image.fromarray(pixels_of(3, number, size)).convert(mode)
            if mode in ("LA", "RGBA"):
                image.putalpha(Image.fromarray(gray))
        path = folder / ("" if number % 3 else f"sub{number % 4}") / f"n{number}.{suffix}"
        path.parent.mkdir(exist_ok=True, parents=True)
        image.save(path, exif=exif_of(turn=1 + number % 8))
        if number % 10 == 9:
            cut(path, path.stat().st_size // 3)
        expected[path.relative_to(folder).as_posix()] = KINDS[mode, suffix] if number % 10 < 9 else None
    return expected


def test_many_mixed_images_in_one_call(room, protect_files):
    images, out = room / "mixed", room / "out"
    expected = many_mixed(images)
    before, rows = hashes(images), protect_files([images], out, jobs=3)
    good = [row for row in rows if not row["problem"]]
    assert hashes(images) == before and len(rows) == 60
    assert {row["image"] for row in rows if row["problem"]} == {name for name, mode in expected.items() if not mode}
    assert 50 < len(good) < 60
    for row in good:
        content = io.BytesIO((images / row["image"]).read_bytes())  # of some TIFFs by path, Pillow is wrong
        with Image.open(content) as original, Image.open(out / row["written"]) as written:
            upright = ImageOps.exif_transpose(original)
            assert written.mode == expected[row["image"]] and written.size == upright.size
            if "A" in written.mode:
                assert np.array_equal(written.getchannel("A"), upright.getchannel("A"))
            before_it = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8)) if "I" in upright.mode else upright
            change = np.asarray(written.convert("RGB")).astype(int) - np.asarray(before_it.convert("RGB"))
        assert np.abs(change).max() == max(row["linf_inside"], row["linf_outside"]) <= 8
        assert row["linf_outside"] <= 2 and row["found_by"] in ("salient objects", "whole image")
    written = hashes(out)
    assert protect_files([images], out, jobs=1) == rows and hashes(out) == written
    by_four = protect_files([images], room / "by four", batch=4)
    for row, other in zip(rows, by_four, strict=True):
        assert [row[name] == other[name] for name in ("image", "problem", "found_by")] == [True] * 3
    for row in good:
        one, other = (read_image(folder / row["written"]).astype(int) for folder in (out, room / "by four"))
        assert np.abs(one - other).max() <= 1


def test_the_command_line_speaks_of_a_torn_exif_in_no_words_of_pillow(room, weights, unseg, recwarn):
    add(room, "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\xff\xff\0\0\x06\0\0\0")  # torn
    how = ("--out", room / "out", "--masks", room / "masks", "--generator", weights)
    assert unseg("protect", room / "images", *how)[0] == 0
    assert (room / "out" / "a.png").exists()
    assert not [one for one in recwarn if "PIL" in one.filename]


def test_names_that_are_no_text_are_written_as_text(room, run):
    good, strange = (room / "images" / "b.png").read_bytes(), os.fsencode(room / "images")
    for name, content in ((b"bad\xff.png", good), (b"red\x1b[31m.png", good), (b"two\nlines.png", b"no image")):
        Path(os.fsdecode(strange + b"/" + name)).write_bytes(content)
    rows = run(masks="")
    assert [row["written"] for row in rows] == ["a.png", "b.png", "bad_.png", "red_[31m.png", ""]
    assert [row["image"] for row in rows[2:]] == ["bad?.png", "red?[31m.png", "two?lines.png"]
    assert "two?lines.png, found a corrupt one" in rows[4]["problem"]
    assert len((room / "out" / REPORT).read_text().splitlines()) == 6
    assert run(masks="") == rows


def test_nothing_is_written_through_a_link_or_into_a_strangers_report(room, run):
    diary, elsewhere, report = room / "diary.txt", room / "elsewhere.csv", room / "out" / REPORT
    add(room, "sub/c.png")
    for folder in ("out", "away"):
        (room / folder).mkdir()
    (room / "out" / "sub").symlink_to(room / "away")
    diary.write_text("mine")
    (room / "out" / "b.png").symlink_to(diary)
    _, linked, led_away = run()
    assert "not from here" in linked["problem"] and "a link that leads away" in led_away["problem"]
    assert not list((room / "away").iterdir())
    report.rename(elsewhere)
    report.symlink_to(elsewhere)
    lines = elsewhere.read_text()
    run(overwrite=True)
    assert diary.read_text() == "mine" and elsewhere.read_text() == lines
    report.unlink()
    report.write_text("image,price\n")
    with pytest.raises(UnsegError, match="none but our own report"):
        run()
    assert report.read_text() == "image,price\n"
    report.unlink()
    report.mkdir()
    with pytest.raises(UnsegError, match=r"found none \(Is a directory\); move it away"):
        run()


NFC, NFD = (unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("image, mask", [(NFC, NFD), (NFD, NFC), ("b.PNG", "b.PNG")])
def test_a_mask_is_found_however_an_accent_is_spelt_and_its_suffix(room, run, image, mask):
    (room / "images" / "b.png").rename(room / "images" / image)
    (room / "masks" / "b.png").rename(room / "masks" / mask)
    assert [(row["image"], row["found_by"]) for row in run()] == [("a.jpg", "mask"), (image, "mask")]


def test_a_preview_replaces_no_copy(room, protect_files):
    """Whichever of the two comes first, in one run or in two, and even with --overwrite."""
    for name in ("a.png", "preview/a.png.jpg"):
        save(room / "q" / name, pixels_of(seed=len(name)))
    for before in ({}, {"preview": False}, {"preview": False, "overwrite": True}, {"inputs": [room / "q" / "a.png"]}):
        how = {"inputs": [room / "q"], "out": room / "o", "format": "keep", "eps": 16, "preview": True}
        protect_files(**how | before)
        first, second = protect_files(**how | {"overwrite": before.get("overwrite", False)})
        assert "found the place of a copy; rename a.png" in first["problem"]
        if "inputs" in before:
            assert "not from here" in second["problem"]
        else:
            assert second["sha256"] == sha256_of(room / "o" / second["written"])
        shutil.rmtree(room / "o")


def test_a_preview_replaces_only_our_own_and_follows_no_link(room, run):
    preview = room / "out" / "preview" / "b.png.jpg"
    run()
    save(preview, pixels_of())  # beside a copy of ours
    mine = preview.read_bytes()
    good, bad = run(preview=True)
    assert not good["problem"] and "not from here" in bad["problem"] and preview.read_bytes() == mine
    assert not run(preview=True, overwrite=True)[1]["problem"] and Image.open(preview).format == "JPEG"
    assert (before := preview.read_bytes()) != mine
    save(room / "masks" / "b.png", 255 - disc())
    assert not any(row["problem"] for row in run(preview=True)) and preview.read_bytes() != before
    shutil.rmtree(preview.parent)
    (room / "away").mkdir()
    preview.parent.symlink_to(room / "away")
    assert all("a link that leads away" in row["problem"] for row in run(preview=True))
    assert not list((room / "away").iterdir())


def test_previews_are_no_originals(room, protect_files):
    save(room / "photos/a.jpg", pixels_of())
    for pattern in ("**/*.jpg", "*", "**/*.jpg"):
        rows = protect_files([str(room / "photos" / pattern)], room / "photos", preview=True)
        assert [row["image"] for row in rows if row["written"]] == ["a.jpg"]


def test_a_copy_stays_known_if_its_preview_fails_and_a_killed_run_goes_on(room, run, monkeypatch):
    (room / "out" / "preview").mkdir(parents=True)
    (room / "out" / "preview" / "sub").write_text("in the way")
    add(room, "sub/c.png")
    assert "Could not write" in run(preview=True)[2]["problem"]
    before = times_of(room)
    assert not any(row["problem"] for row in run()) and times_of(room) == before
    shutil.rmtree(room / "out")
    with monkeypatch.context() as context, pytest.raises(pytest.fail.Exception):
        context.setattr("unseg_lib.protection.api.write_preview", lambda *_: pytest.fail("killed"))
        run(preview=True)
    assert not any(row["problem"] for row in run(preview=True))
    assert len(list((room / "out" / "preview").rglob("*.jpg"))) == 3
