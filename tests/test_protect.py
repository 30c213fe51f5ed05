"""Protecting a folder: budgets hold, originals stay, every refusal is a sentence and the rest goes on."""

import errno
import io
import json
import math
import os
import re
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from unseg_lib import cli
from unseg_lib.errors import UnsegError
from unseg_lib.files import append_line, read_csv, sha256_of, write_json
from unseg_lib.images import is_gray_file, read_image
from unseg_lib.protection import (
    COLUMNS,
    NO_COLOURS,
    ONE_CHANNEL,
    REPORT,
    alone,
    find_inputs,
    protect_files,
    read_photo,
    summary,
)


@pytest.fixture
def room(tmp_path):
    """A folder with images `a.jpg`, `b.png` and their masks, and a place for the output."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    add(tmp_path, "a.jpg")
    add(tmp_path, "b.png")
    return tmp_path


def pixels_of(channels=3, seed=0, size=(24, 32)):
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8).squeeze()


def disc(size=(24, 32)):
    mask = np.zeros(size, np.uint8)
    mask[5:18, 8:22] = 255
    return mask


def add(room, name, pixels=None, mask=None, **options):
    pixels, mask = pixels_of() if pixels is None else pixels, disc() if mask is None else mask
    Image.fromarray(pixels).save(room / "images" / name, **options)
    Image.fromarray(mask).save(room / "masks" / f"{name.rpartition('.')[0]}.png")


def replace(room, name, pixels=None, **options):
    """Another image in the place of b.png; its mask stays."""
    (room / "images" / "b.png").unlink()
    Image.fromarray(pixels_of() if pixels is None else pixels).save(room / "images" / name, **options)


def exif_of(**tags):
    exif, numbers = Image.Exif(), {"turn": 0x0112, "artist": 0x013B, "places": 0x8825}
    for name, value in tags.items():
        exif[numbers[name]] = value
    return exif


def run(room, weights, **options):
    options = {"masks": str(room / "masks"), "generator": weights, "device": "cpu"} | options
    return protect_files([room / "images"], room / "out", **options)


def hashes(*folders):
    return {path: sha256_of(path) for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()}


def change_of(room, name, written):
    return np.abs(read_image(room / "out" / written).astype(int) - read_image(room / "images" / name)).max(axis=2)


def test_images_are_protected_within_budget_and_originals_untouched(room, weights):
    before = hashes(room / "images", room / "masks")
    rows = run(room, weights)
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


@example(8.0, 2.0, 1, 3, "png", (16, 40))
@example(8.0, 2.0, 1, 3, "png", (40, 16))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    *(st.just(0.0) | st.floats(1, 16), st.floats(0, 16), st.integers(0, 1000), st.sampled_from([1, 2, 3, 4])),
    *(st.sampled_from(["png", "tif", "webp"]), st.tuples(st.integers(16, 50), st.integers(16, 50))),
)
def test_any_budget_holds_in_the_written_file(room, weights, eps, eps_bg, seed, channels, suffix, size):
    for path in (room / "images").glob("b.*"):
        path.unlink()
    mask = pixels_of(1, seed, size) > 128
    add(room, f"b.{suffix}", pixels_of(channels, seed, size), 255 * mask.astype(np.uint8))
    row = run(room, weights, eps=eps, eps_bg=eps_bg, format="keep", overwrite=True)[1]
    change = change_of(room, f"b.{suffix}", row["written"])
    assert change[mask].max() == row["linf_inside"] <= math.floor(eps)
    assert change[~mask].max() == row["linf_outside"] <= math.floor(eps_bg)


def test_a_second_call_does_nothing_and_another_budget_does_it_again(room, weights, monkeypatch):
    rows = run(room, weights)
    before = {path: path.stat().st_mtime_ns for path in (room / "out").glob("*.png")}
    with monkeypatch.context() as context:
        context.setattr("unseg_lib.protection.Protector.raw_noises", lambda *_: pytest.fail("noise was made twice"))
        assert run(room, weights) == rows
    assert {path: path.stat().st_mtime_ns for path in (room / "out").glob("*.png")} == before
    (room / "masks" / "b.png").unlink()
    Image.fromarray(255 - disc()).save(room / "masks" / "b.png")
    again = run(room, weights)
    assert again[0] == rows[0] and again[1]["sha256"] != rows[1]["sha256"]
    assert all(row["linf_inside"] == 4 for row in run(room, weights, eps=4.5))


def test_a_killed_run_goes_on_even_if_it_is_killed_again(room, weights, monkeypatch):
    """A line that is appended to a torn one would be lost, and its copy a foreign file."""
    whole, report = run(room, weights), room / "out" / REPORT
    lines = report.read_text().splitlines(keepends=True)
    report.write_text("".join(lines[:2]) + lines[2][:20])
    (room / "out" / "b.png").unlink()
    assert run(room, weights) == whole

    report.write_text(lines[0] + lines[1][:20])
    for path in (room / "out").glob("*.png"):
        path.unlink()

    def killed(path, cells):
        return append_line(path, cells) if cells[0] != "b.png" else pytest.fail("killed")

    with monkeypatch.context() as context, pytest.raises(pytest.fail.Exception):
        context.setattr("unseg_lib.poisons.manifest.append_line", killed)
        run(room, weights)
    assert (room / "out" / "a.png").exists() and not (room / "out" / "b.png").exists()
    assert run(room, weights) == whole


def test_the_report_of_an_older_version_is_continued(room, weights):
    whole, report = run(room, weights), room / "out" / REPORT
    text = report.read_text()
    report.write_text(text.replace("image,", "picture,", 1))
    (room / "out" / ".partial-1x2-b.png").write_bytes(b"of a killed run")
    before = [(room / "out" / name).stat().st_mtime_ns for name in ("a.png", "b.png")]
    assert run(room, weights) == whole and report.read_text() == text
    assert [(room / "out" / name).stat().st_mtime_ns for name in ("a.png", "b.png")] == before
    assert not list((room / "out").glob(".partial*"))


def test_a_copy_of_another_image_is_not_replaced(room, weights):
    run(room, weights)
    before = sha256_of(room / "out" / "b.png")
    add(room, "b.png", pixels_of(seed=1))
    assert "the copy of another image, or of" in run(room, weights)[1]["problem"]
    assert sha256_of(room / "out" / "b.png") == before
    assert not run(room, weights, overwrite=True)[1]["problem"] and sha256_of(room / "out" / "b.png") != before


def test_gray_images_are_remarked_where_the_noise_is_known_not_to_protect(room, weights):
    one, three = pixels_of(1), np.repeat(pixels_of(1)[..., None], 3, axis=2)
    add(room, "b.png", one)
    add(room, "c.png", three)
    add(room, "d.png", one, 0 * disc())  # nothing to protect, nothing to warn of

    def said(generator):
        rows = run(room, weights, generator=generator, overwrite=True)
        return [row["remark"] for row in rows], summary(rows, room / "out")

    for generator, no_colours in (("small", 1), ("texture", 1), ("colour", 0), (weights, 0)):
        remarks, text = said(generator)
        assert remarks == ["", ONE_CHANNEL, NO_COLOURS * no_colours, ""], generator
        assert "In 1 the file has one channel" in text and ("In 1 there are no colours" in text) == bool(no_colours)


@pytest.mark.parametrize("channels, mode", [(1, "RGB"), (2, "RGBA")])
def test_gray_images_take_all_of_the_noise_on_request(room, weights, channels, mode):
    profile = b"a profile of gray"
    add(room, "b.png", pixels_of(channels), icc_profile=profile)
    (room / "images" / "a.jpg").unlink()
    (row,) = run(room, weights, rgb=True)
    with Image.open(room / "out" / "b.png") as copy:
        assert copy.mode == mode and "icc_profile" not in copy.info
        noise = np.asarray(copy).astype(int)[..., :3] - pixels_of(channels).reshape(24, 32, -1)[..., :1]
    assert row["remark"] == "its colour profile, one of gray, was dropped"
    assert np.abs(noise).max() == row["linf_inside"] <= 8 and (noise[..., 0] != noise[..., 1]).any()
    assert run(room, weights, rgb=True) == [row]  # the same again does nothing ...
    assert run(room, weights)[0]["sha256"] != row["sha256"]  # ... another wish does


@pytest.mark.parametrize("channels, mode", [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_gray_stays_gray_and_transparency_is_kept(room, weights, channels, mode):
    add(room, "b.png", pixels_of(channels))
    run(room, weights)
    with Image.open(room / "out" / "b.png") as written:
        assert written.mode == mode and is_gray_file(room / "out" / "b.png") == (channels < 3)
        if mode.endswith("A"):
            assert np.array_equal(written.getchannel("A"), pixels_of(channels)[..., -1])


def test_transparency_of_a_palette_is_kept(room, weights):
    indexed = Image.fromarray(pixels_of(1) % 4).convert("P")
    indexed.putpalette([0, 0, 0, 90, 80, 70, 200, 10, 20, 250, 250, 250])
    indexed.save(room / "images" / "b.png", transparency=2)
    run(room, weights)
    written = Image.open(room / "out" / "b.png")
    assert written.mode == "RGBA"
    assert np.array_equal(np.asarray(written)[..., 3] == 0, pixels_of(1) % 4 == 2)


def test_orientation_is_applied_the_profile_kept_and_metadata_only_on_request(room, weights):
    replace(room, "b.jpg", exif=exif_of(turn=6, artist="somebody"), icc_profile=b"a profile", quality=95)
    Image.fromarray(np.rot90(disc(), -1).copy()).save(room / "masks" / "b.png")
    upright = np.rot90(np.asarray(Image.open(room / "images" / "b.jpg")), -1)
    for metadata in (False, True):
        run(room, weights, metadata=metadata)
        with Image.open(room / "out" / "b.png") as written:
            assert np.abs(np.asarray(written).astype(int) - upright).max() <= 8
            assert written.info["icc_profile"] == b"a profile"
            assert dict(written.getexif()) == ({0x013B: "somebody"} if metadata else {})


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("turn, times", [(3, 2), (6, -1), (8, 1)])
def test_a_tiff_is_turned_upright_whatever_its_channels(room, weights, turn, times, channels):
    replace(room, "b.tif", pixels_of(channels), exif=exif_of(turn=turn))
    run(room, weights, masks="")
    expected = np.rot90(np.asarray(Image.fromarray(pixels_of(channels)).convert("RGB")), times)
    assert np.abs(read_image(room / "out" / "b.png").astype(int) - expected).max() <= 8


def test_what_a_copy_does_not_have_is_remarked(room, weights):
    replace(room, "t.tif", exif=exif_of(artist="somebody"))
    Image.fromarray(pixels_of()).save(room / "images" / "plain.tif")
    Image.fromarray(pixels_of(4)).save(room / "images" / "clear.png")
    Image.fromarray(pixels_of()).convert("RGBA").save(room / "images" / "opaque.png")

    def remarks(**options):
        rows = run(room, weights, masks="", overwrite=True, **options)
        assert not any(row["problem"] for row in rows)
        return {row["image"]: row["remark"] for row in rows if row["remark"]}

    assert remarks() == {}
    assert remarks(metadata=True) == {"t.tif": "EXIF of a TIFF was not kept"}
    assert remarks(format="jpeg") == {"clear.png": "transparency was dropped, which JPEG does not have"}


def test_metadata_that_a_format_cannot_hold_leaves_out_its_image_alone(room, weights):
    replace(room, "b.tif", format="JPEG", exif=exif_of(places={1: "N", 2: (1.0, 2.0, 3.0)}))  # a JPEG by another name
    good, bad = run(room, weights, format="keep", metadata=True)
    assert not good["problem"] and "Could not write tiff" in bad["problem"]
    assert not run(room, weights, metadata=True)[1]["problem"]


@pytest.mark.parametrize("suffix", ["webp", "tif", "jpg", "bmp", "png"])
def test_keep_writes_the_format_of_the_original(room, weights, suffix):
    add(room, f"c.{suffix}", pixels_of(size=(40, 48)), disc((40, 48)))
    row = run(room, weights, format="keep")[-1]
    assert row["written"] == ("c.png" if suffix == "bmp" else f"c.{suffix}") and not row["problem"]
    if suffix != "jpg":
        assert change_of(room, row["image"], row["written"])[disc((40, 48)) == 0].max() <= 2


def test_jpeg_says_how_far_it_breaks_the_budget(room, weights):
    row = run(room, weights, format="jpeg", quality=60)[1]
    change = change_of(room, "b.png", "b.jpg")
    assert row["linf_outside"] == change[disc() == 0].max() > 2


def test_an_empty_mask_leaves_the_image_and_says_so(room, weights):
    add(room, "b.png", mask=np.zeros((24, 32), np.uint8))
    row = run(room, weights)[1]
    assert row["protected"] == row["rms"] == 0
    assert np.array_equal(read_image(room / "out" / "b.png"), pixels_of())


@pytest.mark.parametrize("kind", ["ones", "palette", "white first", "colour", "one bit", "opaque", "jpeg", "webp"])
def test_masks_of_any_kind_mean_the_same(room, weights, kind):
    run(room, weights)
    expected = hashes(room / "out")
    (room / "masks" / "b.png").unlink()
    masks = {
        "ones": Image.fromarray(disc() // 255),
        "palette": Image.fromarray(disc() // 17).convert("P"),
        "white first": Image.fromarray(disc()).quantize(2),
        "colour": Image.fromarray(np.stack([0 * disc(), disc(), 0 * disc()], axis=2)),
        "one bit": Image.fromarray(disc()).convert("1"),
        "opaque": Image.fromarray(disc()).convert("RGBA"),
        "jpeg": Image.fromarray(disc()),
        "webp": Image.fromarray(disc()),
    }
    masks[kind].save(room / "masks" / f"b.{kind if kind in ('jpeg', 'webp') else 'png'}")
    run(room, weights)
    assert hashes(room / "out") == expected


@pytest.mark.parametrize("suffix, classes", [("png", ""), ("png", "255"), ("jpg", ""), ("tif", ""), ("webp", "")])
@pytest.mark.parametrize("turn, times", [(3, 2), (6, -1)])
def test_a_mask_is_turned_upright_as_its_image_is(room, weights, turn, times, suffix, classes):
    replace(room, "b.png", exif=exif_of(turn=turn))
    (room / "masks" / "b.png").unlink()
    Image.fromarray(disc()).save(room / "masks" / f"b.{suffix}", exif=exif_of(turn=turn), quality=100)
    row = run(room, weights, classes=classes)[1]
    assert not row["problem"]
    change = np.abs(read_image(room / "out" / "b.png").astype(int) - np.rot90(pixels_of(), times)).max(axis=2)
    mask = np.rot90(disc(), times) > 0
    assert 2 < change[mask].max() <= 8 and change[~mask].max() <= 2


def test_classes_of_a_label_map(room, weights):
    label = np.zeros((24, 32), np.uint8)
    label[2:8], label[10:20] = 1, 15
    add(room, "b.png", mask=label)
    assert run(room, weights, classes="15")[1]["protected"] == pytest.approx((label == 15).mean(), abs=1e-6)
    indexed = Image.fromarray(label)
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 0])  # class 15 is drawn in black, too
    indexed.save(room / "masks" / "b.png")
    assert run(room, weights)[1]["protected"] == pytest.approx((label > 0).mean(), abs=1e-6)
    with pytest.raises(UnsegError, match="numbers of a label map's classes"):
        run(room, weights, classes="dog")


def coco_notes():
    """Annotations of b.png: a cup and a dog."""
    square = {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]], "iscrowd": 0}
    other = square | {"id": 2, "category_id": 5, "segmentation": [[12, 12, 20, 12, 20, 20, 12, 20]]}
    return {
        "images": [{"id": 7, "file_name": "b.png", "width": 32, "height": 24}],
        "annotations": [square, other],
        "categories": [{"id": 3, "name": "cup"}, {"id": 5, "name": "dog"}],
    }


def test_classes_of_cocos_json(room, weights):
    (room / "images" / "a.jpg").unlink()
    write_json(room / "notes.json", coco_notes())
    shares = [run(room, weights, masks=str(room / "notes.json"), classes=one)[0]["protected"] for one in ("cup", "dog")]
    both = run(room, weights, masks=str(room / "notes.json"))[0]["protected"]
    assert both == pytest.approx(sum(shares), abs=1e-5) and min(shares) > 0.05
    with pytest.raises(UnsegError, match=r"Unknown class 'dg'.*did you mean 'dog'"):
        run(room, weights, masks=str(room / "notes.json"), classes="dg")


@pytest.mark.parametrize(
    "spoilt, sentence",
    [
        (lambda notes: notes["categories"][0].pop("name"), "json without 'name'"),
        (lambda notes: notes["images"][0].pop("height"), "json without 'height'"),
        (lambda notes: notes["images"][0].update(height="24"), "whole pixels, found '24' and 32"),
        (lambda notes: notes["annotations"].append(3), "json of another form"),
    ],
)
def test_a_faulty_json_is_one_sentence(room, weights, spoilt, sentence):
    notes = coco_notes()
    spoilt(notes)
    write_json(room / "notes.json", notes)
    with pytest.raises(UnsegError, match=rf"^Expected .*notes\.json.*{sentence}"):
        run(room, weights, masks=str(room / "notes.json"))


def rle(size, counts):
    return lambda notes: notes["annotations"][0].update(segmentation={"size": size, "counts": counts})


def polygon(*corners):
    return lambda notes: notes["annotations"][0].update(segmentation=[[*corners, 0, 9, 9]])


@pytest.mark.parametrize(
    "spoilt, sentence",
    [
        (lambda notes: notes["annotations"][0].pop("segmentation"), "a polygon or RLE in annotation 1 of b.png"),
        (rle([24, 32], [10, 20]), "counts of 30 pixels, not 768"),
        (rle([24, 32], [10, -20, 778]), "counts of 768 pixels"),
        (rle([24, 32], "0"), "too few pixels"),
        (rle([10, 10], [10, 20, 70]), r"of the size \[10, 10\], not \[24, 32\]"),
        (polygon(0, 0, float("nan")), "corners far outside"),
        (polygon(0, 0, 1e9), "corners far outside"),
        (
            lambda notes: notes["images"][0].update(width=10**7, height=10**7),  # never becomes a mask
            "32x24 pixels as the image is, found 10000000x10000000",
        ),
    ],
)
def test_a_hostile_annotation_is_one_sentence_of_its_image_alone(room, weights, spoilt, sentence):
    """pycocotools answers the shapes with what lay in memory, with all memory, or not at all."""
    notes = coco_notes()
    notes["images"].append({"id": 8, "file_name": "a.jpg", "width": 32, "height": 24})
    spoilt(notes)
    (room / "notes.json").write_text(json.dumps(notes))
    good, bad = run(room, weights, masks=str(room / "notes.json"))
    assert not good["problem"] and re.search(sentence, bad["problem"])


def test_what_is_odd_about_one_image_does_not_stop_the_others(room, weights, monkeypatch):
    def odd(path):
        return read_photo(path) if path.name != "b.png" else 1 / 0

    monkeypatch.setattr("unseg_lib.protection.api.read_photo", odd)
    good, bad = run(room, weights, masks=str(room / "masks"))
    assert not good["problem"] and "found one that cannot (ZeroDivisionError" in bad["problem"]


def test_boxes_and_points_for_all_or_by_file(room, weights):
    box = np.zeros((24, 32), bool)
    box[3:9, 5:16] = True
    (room / "boxes.csv").write_text("image,x0,y0,x1,y1\na.jpg,5,3,15,8\nb.png,5,3,15,8\nb.png,0,0,1,1\n")
    (room / "points.csv").write_text("image,x,y\na.jpg,5,3\n")
    for row in run(room, weights, masks="", boxes="5,3,15,8"):
        assert (row["found_by"], row["protected"]) == ("box", round(float(box.mean()), 6))
    rows = run(room, weights, masks="", boxes=str(room / "boxes.csv"))
    assert rows[1]["protected"] == round(float(box.mean() + 4 / box.size), 6)
    (room / "old.csv").write_text((room / "boxes.csv").read_text().replace("image", "picture"))
    assert run(room, weights, masks="", boxes=str(room / "old.csv")) == rows
    rows = run(room, weights, masks="", points=str(room / "points.csv"))
    assert rows[0]["found_by"] == "points" and "Expected a line for b.png" in rows[1]["problem"]
    for options, sentence in (
        ({"boxes": "5,3,15"}, "Expected numbers as x0,y0,x1,y1"),
        ({"boxes": "none.csv"}, "Expected a CSV file"),
        ({"boxes": "1,1,2,2", "points": "1,1"}, "one of --masks, --boxes and --points"),
        ({"classes": "1"}, "Expected --masks beside --classes"),
    ):
        with pytest.raises(UnsegError, match=sentence):
            run(room, weights, masks="", **options)


def test_without_a_prompt_the_report_says_what_was_taken(room, weights):
    plain = np.full((60, 80, 3), 90, np.uint8)
    stands_out = plain.copy()
    stands_out[20:40, 30:50] = (200, 30, 30)
    add(room, "a.png", stands_out)
    add(room, "b.png", plain)
    (room / "images" / "a.jpg").unlink()
    rows = run(room, weights, masks="")
    assert [row["found_by"] for row in rows] == ["salient objects", "whole image"]
    assert rows[0]["protected"] == pytest.approx(400 / 4800, rel=0.3) and rows[1]["protected"] == 1


def test_the_summary_says_what_may_not_protect(room, weights):
    said = summary(run(room, weights), room / "out")
    assert "no exact masks" not in said and "the region is empty" not in said
    said = summary(run(room, weights, masks="", boxes="5,3,15,8", format="jpeg", quality=60), room / "out")
    assert "2 by box" in said and "2 regions are no exact masks" in said
    assert "JPEG has changed 2 of them beyond the budget" in said
    size = sum(path.stat().st_size for path in (room / "images").iterdir()) / 1e6
    assert f"Size of the files: {size:.1f} MB before" in said
    Image.fromarray(0 * disc()).save(room / "masks" / "b.png")
    assert "In 1 the region is empty, so no noise was added" in summary(run(room, weights), room / "out")


def test_a_region_of_one_pixel_counts_as_one(room, weights):
    mask = np.zeros((1500, 1500), np.uint8)
    mask[600, 600] = 255
    add(room, "b.png", np.full((1500, 1500, 3), 90, np.uint8), mask)
    rows = run(room, weights)
    assert rows[1]["protected"] == 1e-6 and "the region is empty" not in summary(rows, room / "out")


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


def lead_away(out, image):
    (image.parent / "sub").mkdir()
    image.rename(image.parent / "sub" / "b.png")
    (out.parent / "away").mkdir()
    out.mkdir()
    (out / "sub").symlink_to(out.parent / "away")


DEEP = Image.fromarray(np.zeros((24, 32), np.uint16))
SPOILT = {  # what is done to the file of an image, of its mask or of its copy: the sentence
    "no mask": (lambda i, m, o: m.unlink(), "Expected one mask called b .*found none"),
    "two masks": (lambda i, m, o: Image.fromarray(disc()).save(m.with_suffix(".bmp")), r"several \(b.bmp, b.png\)"),
    "mask of another size": (
        lambda i, m, o: Image.fromarray(disc()[:20]).save(m),
        "Expected a mask of 32x24 pixels.*found 32x20",
    ),
    "corrupt mask": (lambda i, m, o: cut(m, 50), "found a corrupt one"),
    "transparent mask": (lambda i, m, o: Image.fromarray(pixels_of(4)).save(m), "without transparency"),
    "mask of two pages": (
        lambda i, m, o: (m.unlink(), pages(m.with_suffix(".tif"))),
        "Expected one mask in.*found 2 pages",
    ),
    "corrupt image": (lambda i, m, o: cut(i, 300), "found a corrupt one"),
    "no image": (lambda i, m, o: i.write_text("this is text"), "found a corrupt one"),
    "16 bits": (lambda i, m, o: DEEP.save(i), "Expected 8 bits"),
    "16 bits of a tiff": (lambda i, m, o: (i.unlink(), DEEP.save(i.with_suffix(".tif"))), "Expected 8 bits"),
    # reading it would never end
    "a pipe": (lambda i, m, o: (i.unlink(), os.mkfifo(i)), "Expected a file at .*found something else"),
    "a link to nothing": (lambda i, m, o: (i.unlink(), i.symlink_to("gone.png")), "Expected a readable file"),
    "what Pillow calls a TypeError": (
        lambda i, m, o: (i.unlink(), second_page_is_empty(i.with_suffix(".tif"))),
        "found a corrupt one",
    ),
    "several frames": (lambda i, m, o: pages(i), "Expected one image in .*found 2"),
    "unknown format": (lambda i, m, o: i.rename(i.with_suffix(".heic")), "b.heic; convert it"),
    "raw": (lambda i, m, o: i.rename(i.with_suffix(".dng")), "b.dng; convert it"),
    "tiny": (
        lambda i, m, o: add(i.parent.parent, "b.png", pixels_of(size=(15, 40)), disc((15, 40))),
        "at least 16 pixels a side in .*found 40x15",
    ),
    "bomb": (
        lambda i, m, o: Image.new("1", (30_000, 30_000)).save(i),
        "at most 100 million pixels in .*found far more",
    ),
    "large": (lambda i, m, o: Image.new("1", (11_000, 11_000)).save(i), "100 million pixels in .*found 11000x11000"),
    "foreign file in the output": (lambda i, m, o: (o.mkdir(), (o / "b.png").write_text("mine")), "not from here"),
    "a link out of the output": (lambda i, m, o: lead_away(o, i), "a link that leads away"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_cannot_be_protected_is_named_and_the_rest_goes_on(room, weights, how):
    spoil, sentence = SPOILT[how]
    spoil(room / "images" / "b.png", room / "masks" / "b.png", room / "out")
    before = hashes(room / "images", room / "masks")
    good, bad = run(room, weights)
    assert hashes(room / "images", room / "masks") == before
    assert good["problem"] == "" and (room / "out" / "a.png").exists()
    assert re.search(sentence, bad["problem"]) and "\n" not in bad["problem"] and not bad["written"]
    assert read_csv(room / "out" / REPORT)[-1]["problem"] == bad["problem"]
    if how == "foreign file in the output":
        assert (room / "out" / "b.png").read_text() == "mine"
        assert not any(row["problem"] for row in run(room, weights, overwrite=True))
    if how == "a link out of the output":
        assert not list((room / "away").iterdir())


def test_copies_of_one_name_do_not_hide_each_other_and_keep_their_names(room, weights):
    def names():
        rows = run(room, weights)
        assert not any(row["problem"] for row in rows) and run(room, weights) == rows
        return [row["written"] for row in rows]

    add(room, "b.bmp")
    add(room, "B.tif")
    assert names() == ["B-tif.png", "a.png", "b-bmp.png", "b-png.png"]
    for name in ("b.png", "B.tif"):
        (room / "images" / name).unlink()
    assert names() == ["a.png", "b-bmp.png"]
    add(room, "a.png", pixels_of(seed=1))
    assert names() == ["a.png", "a-png.png", "b-bmp.png"]


def test_copies_of_two_folders_stay_apart_in_any_order(room, weights):
    for number, place in enumerate(("one", "two", "three")):
        (room / place).mkdir()
        Image.fromarray(pixels_of(seed=number)).save(room / place / "i.png")
    copies = {}
    for places in (["one"], ["one", "two"], ["two", "one"], ["three", "two", "one"]):
        rows = protect_files([room / place for place in places], room / "out", generator=weights, device="cpu")
        assert not any(row["problem"] for row in rows)
        for place, row in zip(places, rows):
            assert copies.setdefault(place, row["written"]) == row["written"]
    assert len(set(copies.values())) == 3


@pytest.mark.parametrize("pattern, out", [("**/*.*", "safe"), ("*", "safe"), ("*.jpg", "safe"), ("*.jpg", "")])
def test_a_pattern_finds_the_same_again_beside_its_own_copies(room, weights, pattern, out):
    (room / "images" / "sub").mkdir()
    (room / "images" / "b.png").rename(room / "images" / "sub" / "b.png")
    images = room / "images"
    first, second, third = (
        protect_files([f"{images}/{pattern}"], images / out, generator=weights, device="cpu") for _ in range(3)
    )
    assert first == second == third and first[0]["written"] == "a.png" and not first[0]["problem"]


def test_our_own_copies_are_not_protected_again(room, weights):
    rows = run(room, weights)
    copies = sorted((room / "out").glob("*.png"))
    again = protect_files(
        [room / "images" / "b.png", *copies], room / "out", masks=str(room / "masks"), generator=weights
    )
    assert again == rows[1:]
    with pytest.raises(UnsegError, match="found none but copies of ours"):
        protect_files(copies, room / "out", generator=weights)
    Image.fromarray(pixels_of()).save(room / "out" / "b.png")  # now it is somebody's image
    with pytest.raises(UnsegError, match=r"originals and copies in two folders, found b\.png"):
        protect_files(copies, room / "out", generator=weights)


def test_what_a_pattern_matches_and_nobody_can_read_is_named_and_the_rest_goes_on(room, weights):
    (room / "images" / "c.png").symlink_to("nowhere.png")
    (room / "images" / "d.png").symlink_to("d.png")
    by_folder = run(room, weights, masks="")
    by_pattern = protect_files([f"{room}/images/*"], room / "out", generator=weights, device="cpu")
    assert by_folder == by_pattern
    assert [row["written"] for row in by_pattern] == ["a.png", "b.png", "", ""]
    assert all("Expected a readable file at" in row["problem"] for row in by_pattern[2:])


def test_a_closed_folder_is_not_passed_over(room, weights, monkeypatch):
    (room / "images" / "sub").mkdir()
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("sub"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UnsegError, match=r"a readable folder at .*sub, found none \(Permission denied\)"):
        run(room, weights)


def test_a_image_whose_copy_cannot_be_named_leaves_the_rest_alone(room, weights):
    long = "x" * 251
    for name in (f"{long}.jpg", f"{long}.png"):  # together they would be called xx-jpg.png, too long for a disk
        Image.fromarray(pixels_of()).save(room / "images" / name)
    rows = run(room, weights, masks="")
    assert [row["written"] for row in rows] == ["a.png", "b.png", "", ""]
    assert all(row["problem"].startswith("Expected access to ") for row in rows[2:])
    (room / "images" / f"{long}.png").unlink()
    assert run(room, weights, masks="")[2]["written"] == f"{long}.png"  # 255 bytes, as long as a name can be


LONG = "y" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        *(["protect", LONG], ["protect", "images", "--out", LONG], ["protect", "images", "--masks", LONG]),
        *(["protect", "images", "--boxes", f"{LONG}.csv"], ["protect", "images", "--generator", LONG]),
        ["inspect", "images/b.png", LONG],
    ],
)
def test_a_path_that_the_system_refuses_is_one_sentence_and_code_2(room, monkeypatch, capfd, arguments):
    out = [] if "--out" in arguments or arguments[0] == "inspect" else ["--out", "out"]
    monkeypatch.chdir(room)
    monkeypatch.setattr(sys, "argv", ["unseg", *arguments, *out])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capfd.readouterr().err.splitlines()
    assert end.value.code == 2 and len(said) == 1
    assert re.fullmatch(rf"Expected access to {LONG}\S*, found none \(File name too long\); .*", said[0])


def days(room):
    """Two images of one name in two folders, and one of another."""
    for number, name in enumerate(("day1/i.png", "day2/i.png", "day2/top.png")):
        (room / "days" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels_of(seed=number)).save(room / "days" / name)
    return room / "days"


@pytest.mark.parametrize("kind", ["masks", "json", "boxes"])
@pytest.mark.parametrize("inputs", [[""], ["day1", "day2"], ["**/*.png"]])
def test_what_may_be_meant_for_several_images_is_taken_for_none(room, weights, kind, inputs):
    folder = days(room)
    for name in ("i.png", "top.png"):
        Image.fromarray(disc()).save(room / "masks" / name)
    notes = coco_notes()
    notes["images"] = [{"id": n, "file_name": f"{n}.png", "width": 32, "height": 24} for n in ("i", "top")]
    notes["annotations"] = [note | {"image_id": n} for n in ("i", "top") for note in notes["annotations"]]
    write_json(room / "notes.json", notes)
    (room / "boxes.csv").write_text("image,x0,y0,x1,y1\ni.png,5,3,15,8\ntop.png,5,3,15,8\n")
    given = {"masks": ("masks", "masks"), "json": ("masks", "notes.json"), "boxes": ("boxes", "boxes.csv")}[kind]
    options = {given[0]: str(room / given[1]), "generator": weights, "device": "cpu"}
    *shared, top = protect_files([folder / one for one in inputs], room / "out", **options)
    assert top["written"] == ("day2/top.png" if inputs == [""] else "top.png")
    for row in shared:
        assert re.match(r"Expected one image called i(\.png)?, as .* found some in several folders", row["problem"])


def test_images_of_one_name_are_told_apart_by_their_sub_folders(room, weights):
    folder = days(room)
    shares = {"day1/i": 3, "day2/i": 6, "day2/top": 9}
    for name, rows in shares.items():
        mask = np.zeros((24, 32), np.uint8)
        mask[:rows] = 255
        (room / "masks" / name).parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(room / "masks" / f"{name}.png")
    Image.fromarray(disc()).save(room / "masks" / "i.png")
    found = protect_files([folder], room / "out", masks=str(room / "masks"), generator=weights, device="cpu")
    assert [row["protected"] for row in found] == [rows / 24 for rows in shares.values()]
    lines = [f"{name}.png,0,0,31,{rows - 1}" for name, rows in shares.items()]
    (room / "boxes.csv").write_text("\n".join(["image,x0,y0,x1,y1", *lines, "i.png,1,1,2,2"]))
    again = protect_files([folder], room / "out", boxes=str(room / "boxes.csv"), generator=weights, device="cpu")
    assert [row["protected"] for row in again] == [row["protected"] for row in found]


def test_sub_folders_patterns_links_and_strange_names(room, monkeypatch):
    (room / "images" / "sub").mkdir()
    (room / "images" / "sub" / "new\nline.png").write_bytes(b"")
    (room / "images" / ".thumbs.png").write_text("x")
    (room / "images" / "notes.txt").write_text("x")
    (room / "secret.png").write_bytes(b"")
    (room / "images" / "leads-out.png").symlink_to(room / "secret.png")
    (room / "images" / "link.png").symlink_to(room / "images" / "b.png")  # a name of its own
    (room / "images" / "loop").symlink_to(room / "images")
    monkeypatch.chdir(room)

    def targets(*given):
        return [one.target for one in find_inputs(given, room / "out", "png")]

    assert targets(room / "images") == ["a.png", "b.png", "link.png", "sub/new_line.png"]
    assert "b.png" in targets(f"{room}/images/*.png")
    # one file by several paths is protected once
    assert targets("images", room / "images", "images/b.png", "images/loop/b.png") == targets("images")
    assert targets("images/../secret.png") == ["secret.png"]


def test_upper_case_suffixes_are_those_of_images_and_masks(room, weights):
    for folder in ("images", "masks"):
        (room / folder / "b.png").rename(room / folder / "b.PNG")
    assert [(row["image"], row["found_by"]) for row in run(room, weights)] == [("a.jpg", "mask"), ("b.PNG", "mask")]


def test_an_output_that_would_replace_originals_or_masks_is_refused(room, weights):
    before = hashes(room)
    for out, sentence in (("images", "images outside the output folder"), ("masks", "masks and copies")):
        with pytest.raises(UnsegError, match=sentence):
            options = {"masks": str(room / "masks"), "generator": weights, "overwrite": True}
            protect_files([room / "images"], room / out, **options)
    with pytest.raises(UnsegError, match=r"originals and copies in two folders, found b\.png"):
        protect_files([room / "images" / "b.png"], room / "images", generator=weights, overwrite=True)
    assert hashes(room) == before


def test_an_output_inside_the_input_is_not_read_again(room, weights):
    for _ in range(2):
        rows = protect_files([room / "images"], room / "images" / "safe", masks=str(room / "masks"), generator=weights)
        assert [row["written"] for row in rows] == ["a.png", "b.png"]


def test_what_makes_no_sense_is_refused(room, weights):
    (room / "empty").mkdir()
    (room / "file").write_text("x")
    images, out = room / "images", room / "out"
    for inputs, place, options, sentence in (
        ([room / "none"], out, {}, "Expected a file, a folder or a pattern"),
        ([room / "*.gif"], out, {}, "Expected a file, a folder or a pattern"),
        ([room / "empty"], out, {}, "found none"),
        ([images], room / "file", {}, "a file at"),
        ([images], room / "file" / "below", {}, "Could not write"),
        ([images], out, {"masks": str(room / "none")}, "folder of masks"),
        ([images], out, {"eps": 300}, "from 0 to 255"),
        ([images], out, {"format": "gif"}, "format png, keep or jpeg"),
        ([images], out, {"quality": 0}, "quality from 1 to 100"),
        ([images], out, {"generator": "huge"}, "Expected a generator's name"),
    ):
        with pytest.raises(UnsegError, match=sentence):
            protect_files(inputs, place, **{"generator": weights} | options)
    assert not out.exists()


def test_lines_are_kept_until_their_image_is_tried_again(room, weights, monkeypatch):
    """Those of other batches and of images that failed, even if a run is killed; a copy stays known meanwhile."""
    rows, image = run(room, weights), room / "images" / "b.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:300])
    assert "found a corrupt one" in run(room, weights)[1]["problem"]
    (room / "more").mkdir()
    Image.fromarray(pixels_of()).save(room / "more" / "c.png")
    with monkeypatch.context() as context, pytest.raises(pytest.fail.Exception):
        context.setattr("unseg_lib.protection.api.read_photo", lambda _: pytest.fail("killed"))
        protect_files([room / "more"], room / "out", generator=weights, device="cpu")
    protect_files([room / "more"], room / "out", generator=weights, device="cpu")
    lines = [(line["image"], bool(line["problem"])) for line in read_csv(room / "out" / REPORT)]
    assert sorted(lines) == [("a.jpg", False), ("b.png", False), ("b.png", True), ("c.png", False)]
    image.write_bytes(whole)
    assert run(room, weights) == rows
    assert [line["written"] for line in read_csv(room / "out" / REPORT)] == ["c.png", "a.png", "b.png"]


def test_a_full_disk_stops_at_once_and_the_next_run_goes_on(room, weights, monkeypatch):
    real = Path.write_bytes

    def full(path, content):
        if path.name.endswith("b.png"):
            real(path, b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    with monkeypatch.context() as context:
        context.setattr(Path, "write_bytes", full)
        with pytest.raises(UnsegError, match=r"^Could not write .*disk is full"):
            run(room, weights)
    assert {path.name for path in (room / "out").iterdir()} == {"a.png", REPORT}
    assert len(run(room, weights)) == 2


def test_two_runs_in_one_folder_do_not_lose_each_others_lines(room, weights):
    (room / "out").mkdir()
    with alone(room / "out"), pytest.raises(UnsegError, match="no other run in"):
        run(room, weights)
    assert len(run(room, weights)) == 2


def test_a_copy_that_cannot_be_read_or_was_changed_is_left_alone(room, weights, monkeypatch):
    rows = run(room, weights)

    def unreadable(path):
        if path == room / "out" / "b.png":
            raise PermissionError(errno.EACCES, "Permission denied")
        return sha256_of(path)

    with monkeypatch.context() as context:
        context.setattr("unseg_lib.files.sha256_of", unreadable)
        again = run(room, weights)
    assert again[0] == rows[0] and "not from here" in again[1]["problem"]
    (room / "out" / "b.png").write_bytes(b"edited by hand")
    assert "not from here" in run(room, weights)[1]["problem"]
    assert (room / "out" / "b.png").read_bytes() == b"edited by hand"


KINDS = {  # mode and suffix of the file -> mode of its copy; None: it cannot be protected
    ("RGB", "jpg"): "RGB",
    ("L", "jpg"): "L",
    ("CMYK", "jpg"): "RGB",
    ("RGB", "png"): "RGB",
    ("L", "png"): "L",
    ("LA", "png"): "LA",
    ("P", "png"): "RGB",
    ("1", "png"): "L",
    ("I;16", "png"): None,
    ("RGBA", "webp"): "RGBA",
    ("RGBA", "tif"): "RGBA",
    ("I;16", "tif"): None,
}


def many_mixed(folder, count=60):
    """Images of all kinds and sizes, every tenth cut off; what each copy is expected to be, by name."""
    rng, expected = np.random.default_rng(0), {}
    for number in range(count):
        mode, suffix = list(KINDS)[number % len(KINDS)]
        size = tuple(int(side) for side in rng.integers(16, 90, 2))
        image = Image.fromarray(pixels_of(3, number, size))
        if mode == "I;16":
            image = Image.fromarray(pixels_of(1, number, size).astype(np.uint16) * 257)
        elif mode in ("LA", "RGBA"):
            image = image.convert(mode)
            image.putalpha(Image.fromarray(pixels_of(1, number, size)))
        else:
            image = image.convert(mode)
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8
        path = folder / ("" if number % 3 else f"sub{number % 4}") / f"n{number}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        image.save(path, exif=exif)
        if number % 10 == 9:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
        good = KINDS[mode, suffix] and number % 10 < 9
        expected[path.relative_to(folder).as_posix()] = KINDS[mode, suffix] if good else None
    return expected


def test_many_mixed_images_in_one_call(room, weights):
    images, out = room / "mixed", room / "out"
    images.mkdir()
    expected = many_mixed(images)
    before = hashes(images)
    options = {"generator": weights, "device": "cpu"}
    rows = protect_files([images], out, **options, jobs=3)
    assert hashes(images) == before
    assert {row["image"] for row in rows if row["problem"]} == {name for name, mode in expected.items() if not mode}
    assert 0 < sum(not mode for mode in expected.values()) < 20 and len(rows) == 60
    for row in (row for row in rows if not row["problem"]):
        content = io.BytesIO((images / row["image"]).read_bytes())  # of some TIFFs by path, Pillow is wrong
        with Image.open(content) as original, Image.open(out / row["written"]) as written:
            upright = ImageOps.exif_transpose(original)
            assert written.mode == expected[row["image"]] and written.size == upright.size
            if "A" in written.mode:
                assert np.array_equal(written.getchannel("A"), upright.getchannel("A"))
            change = np.asarray(written.convert("RGB")).astype(int) - np.asarray(upright.convert("RGB"))
        assert np.abs(change).max() == max(row["linf_inside"], row["linf_outside"]) <= 8
        assert row["linf_outside"] <= 2 and row["found_by"] in ("salient objects", "whole image")
    written = hashes(out)
    assert protect_files([images], out, **options, jobs=1) == rows and hashes(out) == written
    by_four = protect_files([images], room / "by four", **options, batch=4)
    assert [(row["image"], row["problem"], row["found_by"]) for row in by_four] == [
        (row["image"], row["problem"], row["found_by"]) for row in rows
    ]
    for row in (row for row in rows if not row["problem"]):
        one, other = (read_image(folder / row["written"]).astype(int) for folder in (out, room / "by four"))
        assert np.abs(one - other).max() <= 1
    with pytest.raises(UnsegError, match="a batch of at least 1 image, found 0"):
        protect_files([images], out, **options, batch=0)
    with pytest.raises(UnsegError, match="at least 1 job, found -3"):
        protect_files([images], out, **options, jobs=-3)


def test_the_command_line_speaks_of_a_torn_exif_in_no_words_of_pillow(room, weights, monkeypatch, recwarn):
    torn = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\xff\xff\0\0\x06\0\0\0"
    add(room, "a.jpg", exif=torn)
    words = [room / "images", "--out", room / "out", "--masks", room / "masks", "--generator", weights]
    monkeypatch.setattr(sys, "argv", ["unseg", "protect", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert (room / "out" / "a.png").exists()
    assert not [one for one in recwarn if "PIL" in one.filename]


@pytest.mark.parametrize("kind", ["of a telephone", "16 bits of colour"])
def test_what_a_file_loses_is_remarked(room, weights, kind):
    if kind == "of a telephone":
        replace(room, "b.jpg", format="MPO", save_all=True, append_images=[Image.fromarray(pixels_of(3, 1))])
        expected, remark = read_image(room / "images" / "b.jpg"), "of 2 images in the file only the first was kept"
    else:
        (room / "images" / "b.png").unlink()
        tifffile.imwrite(room / "images" / "b.tif", pixels_of().astype(np.uint16) * 257, photometric="rgb")
        expected, remark = pixels_of(), "16 bits a channel were reduced to 8"
    assert run(room, weights)[1]["remark"] == remark
    assert np.abs(read_image(room / "out" / "b.png").astype(int) - expected).max() <= 8


def test_names_that_are_no_text_are_written_as_text(room, weights):
    good, strange = (room / "images" / "b.png").read_bytes(), os.fsencode(room / "images")
    for name, content in ((b"bad\xff.png", good), (b"red\x1b[31m.png", good), (b"two\nlines.png", b"no image")):
        Path(os.fsdecode(strange + b"/" + name)).write_bytes(content)
    rows = run(room, weights, masks="")
    assert [row["written"] for row in rows] == ["a.png", "b.png", "bad_.png", "red_[31m.png", ""]
    assert [row["image"] for row in rows[2:]] == ["bad?.png", "red?[31m.png", "two?lines.png"]
    assert "two?lines.png, found a corrupt one" in rows[4]["problem"]
    assert len((room / "out" / REPORT).read_text().splitlines()) == 6
    assert run(room, weights, masks="") == rows


def test_nothing_is_written_through_a_link_or_into_a_strangers_report(room, weights):
    (room / "out").mkdir()
    (room / "diary.txt").write_text("mine")
    (room / "out" / "b.png").symlink_to(room / "diary.txt")
    assert "not from here" in run(room, weights)[1]["problem"]
    report = room / "out" / REPORT
    (room / "elsewhere.csv").write_bytes(report.read_bytes())
    report.unlink()
    report.symlink_to(room / "elsewhere.csv")
    lines = (room / "elsewhere.csv").read_text()
    run(room, weights, overwrite=True)
    assert (room / "diary.txt").read_text() == "mine" and (room / "elsewhere.csv").read_text() == lines
    report.unlink()
    report.write_text("image,price\n")
    with pytest.raises(UnsegError, match="none but our own report"):
        run(room, weights)
    assert report.read_text() == "image,price\n"


def test_a_spreadsheets_csv_is_read_and_what_is_none_is_refused(room, weights):
    (room / "points.csv").write_bytes(b"\xef\xbb\xbfimage,x,y\r\na.jpg,5,3\r\nb.png,5,3\r\n")
    rows = run(room, weights, masks="", points=str(room / "points.csv"))
    assert [row["found_by"] for row in rows] == ["points", "points"]
    (room / "points.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UnsegError, match="CSV file in UTF-8"):
        run(room, weights, masks="", points=str(room / "points.csv"))


@pytest.mark.parametrize(("of_image", "of_mask"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_an_accent_is_the_same_however_it_is_spelt(room, weights, of_image, of_mask):
    (room / "images" / "b.png").rename(room / "images" / unicodedata.normalize(of_image, "café.png"))
    (room / "masks" / "b.png").rename(room / "masks" / unicodedata.normalize(of_mask, "café.png"))
    assert [row["problem"] for row in run(room, weights, masks=str(room / "masks"))] == ["", ""]
