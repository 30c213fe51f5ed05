"""What people have: every form of mask, annotation and image, by `unseg protect`, as a data set, by notebook 00."""

import errno
import json
import math
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_sets import palette, refused

from unseg_lib.datasets import check, load_dataset
from unseg_lib.files import write_json
from unseg_lib.images import read_image, write_image
from unseg_lib.masks import read_mask
from unseg_lib.protection import Batch, find_inputs, summary
from unseg_lib.protection.inputs import Names, _places

HEIGHT, WIDTH = SIZE = (40, 50)
OBJECT, LEFT, RIM = (np.zeros(SIZE, bool) for _ in range(3))
OBJECT[10:22, 12:32] = LEFT[10:22, 12:20] = RIM[10:22, 12:32] = True
RIM[11:21, 13:31] = False  # the object's contour, a pixel wide
SHARE, INSIDE = OBJECT.mean(), (OBJECT & ~RIM).mean()


def pixels(seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, channels), dtype=np.uint8).squeeze()


def gray(inside, outside=0, rim=None, left=None):
    """Numbers of a mask: of the object, of the rest, of the contour, of the object's left part."""
    found = np.where(OBJECT, inside, outside)
    found = found if left is None else np.where(LEFT, left, found)
    return (found if rim is None else np.where(RIM, rim, found)).astype(np.uint8)


def picture(numbers, mode=None):
    image = Image.fromarray(numbers)
    return image.convert(mode) if mode else image


def colour(*channels):
    return Image.fromarray(np.stack(channels, axis=2))


def indexed(numbers, transparent=None):
    """A palette's as VOC's: black, then colours; PNG may say that one of them is transparent."""
    image = palette(numbers, [0, 0, 0, *(37 * i % 256 for i in range(3, 768))])
    image.info |= {} if transparent is None else {"transparency": transparent}
    return image


GRAIN = np.random.default_rng(1).integers(0, 4, SIZE)
SOFT = np.where(OBJECT, 255 - GRAIN - 1, GRAIN).astype(np.uint8)
CORNERS = [[12, 10], [32, 10], [32, 22], [12, 22]]
CAT = {"label": "cat", "points": CORNERS, "shape_type": "polygon"}
LABELME = {"shapes": [CAT], "imageHeight": 40, "imageWidth": 50}
DOT = {"label": "eye", "points": [[3, 3]], "shape_type": "point"}
YOLO = "7 " + " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in CORNERS)
# name -> what is saved as p0.png and so on (or what it is called, with {}); the share that is protected
FORMS = {
    "white": (picture(gray(255)), SHARE),
    "ones": (picture(gray(1)), SHARE),
    "one bit": (picture(gray(255), "1"), SHARE),
    "three channels": (picture(gray(255), "RGB"), SHARE),
    "opaque": (picture(gray(255), "RGBA"), SHARE),
    "soft edges": (picture(gray(255, rim=130)), SHARE),
    "soft on gray": (picture(gray(255, outside=90, rim=130)), SHARE),
    "soft everywhere": (picture(SOFT), SHARE),
    "label map": (picture(gray(2, left=1)), SHARE),
    "contour": (picture(gray(15, rim=255, left=5)), INSIDE),
    "palette": (indexed(gray(2, left=1)), SHARE),
    "palette with a contour": (indexed(gray(15, rim=255, left=5)), INSIDE),
    "palette with transparency": (indexed(gray(15), transparent=0), SHARE),
    "palette with both": (indexed(gray(15, rim=255, left=5), transparent=0), INSIDE),
    "palette, soft edges": (picture(gray(255, rim=130), "P"), SHARE),
    "palette, soft everywhere": (picture(SOFT, "P"), SHARE),
    "palette, cut out": (indexed(gray(0, outside=1, left=2), transparent=1), SHARE),
    "two black classes": (palette(gray(2, left=1), [0, 0, 0, 0, 0, 0, 9, 9, 9]), SHARE),
    "white first": (palette(1 - gray(1), [255, 255, 255, 0, 0, 0]), SHARE),
    "green": (colour(gray(0), gray(100), gray(0)), SHARE),
    "colours": (colour(gray(128, left=0), gray(0, left=128), gray(64)), SHARE),
    "cut out": (Image.fromarray(np.dstack([pixels(), gray(255)])), SHARE),
    "white, transparent around": (Image.fromarray(np.dstack([gray(255, 255)] * 3 + [gray(255)])), SHARE),
    "black, transparent around": (Image.fromarray(np.dstack([gray(0)] * 3 + [gray(255)])), SHARE),
    "16 bits": (Image.fromarray(gray(255).astype(np.uint16) * 257), SHARE),
    "16 bits, labels": (Image.fromarray(gray(7, rim=255).astype(np.uint16)), INSIDE),
    "16 bits, instances": (Image.fromarray(np.where(OBJECT, 26001, 0).astype(np.uint16)), SHARE),
    "p{}.tif, 0 and 1": (picture(np.float32(gray(1))), SHARE),
    "p{}.tif, 0 and 255": (picture(np.float32(gray(255))), SHARE),
    "p{}.tif, probabilities": (picture(np.float32(SOFT / 255)), SHARE),
    "p{}.tif, low probabilities": (picture(np.float32(OBJECT * 0.6 + GRAIN / 10)), SHARE),
    "p{}.tif, -1 ignored": (picture(np.where(RIM, -1, np.int32(gray(5)))), INSIDE),
    "p{}.jpg": (picture(gray(255)), SHARE),
    "p{}.jpg, two colours": (colour(gray(128, left=0), gray(0), gray(0, left=128)), SHARE),
    "p{}.webp": (picture(gray(255)), SHARE),
    "p{}.webp, dark": (colour(gray(0), gray(64), gray(0)), SHARE),
    "p{}.gif": (picture(gray(255), "1"), SHARE),
    "p{}.gif, soft everywhere": (picture(SOFT), SHARE),
    "p{}_mask.png": (picture(gray(255)), SHARE),
    "P{}-Labels.PNG": (picture(gray(255)), SHARE),
    "p{}.png.png": (picture(gray(255)), SHARE),
    "p{}.json": (json.dumps(LABELME | {"shapes": [CAT, DOT]}), SHARE),
    "p{}.json, marked": ("\ufeff" + json.dumps(LABELME | {"imageHeight": None}), SHARE),
    "p{}.json, sizes as texts": (json.dumps(LABELME | {"imageHeight": "40", "imageWidth": "50.0"}), SHARE),
    "p{}.txt": (YOLO, SHARE),
    "p{}.txt, box": ("0 0.44 0.4 0.4 0.3\n", SHARE),
    "turned": (picture(np.rot90(gray(255)).copy()), SHARE),
    "all white": (picture(gray(255, 255)), 1.0),
    "nearly nothing": (picture((np.arange(2000) == 9).reshape(SIZE).astype(np.uint8)), 0.0005),
}


def write_forms(root, form):
    """Three images in im/ and their masks in gt/; what notebook 00 would be given first."""
    content, _ = FORMS[form]
    name = form.partition(",")[0] if "{}" in form else "p{}.png"
    (root / "im").mkdir(), (root / "gt").mkdir()
    end = ".PNG" if form.endswith(".PNG") else ".png"
    side = {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"} if form == "turned" else {}
    for i in range(3):
        Image.fromarray(np.rot90(pixels(i)).copy() if side else pixels(i)).save(root / f"im/p{i}{end}", **side)
        path = root / "gt" / name.format(i)
        path.write_text(content) if isinstance(content, str) else content.save(path, quality=100, **side)
    return root / "gt" / name.format(0)


def change_of(root, row):
    return np.abs(read_image(root / "out" / row["written"]).astype(int) - read_image(root / "im" / row["image"])).max(2)


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_of_any_form_means_the_object(form, tmp_path, protect_files, capsys):
    first, share = write_forms(tmp_path, form), FORMS[form][1]
    rows = protect_files([tmp_path / "im"], tmp_path / "out", masks=str(tmp_path / "gt"))
    assert [row["protected"] for row in rows] == [share] * 3 and not any(row["problem"] for row in rows)
    mask = read_mask(first, size=SIZE)
    for row in rows:
        change = change_of(tmp_path, row)
        assert change[mask].max() == row["linf_inside"] <= 8 and change.max(where=~mask, initial=0) <= 2
    assert mask.mean() == share and (share in (1, 0.0005) or not (mask & ~OBJECT).any())
    train, test = (load_dataset("folder", tmp_path, split) for split in ("train", "test"))
    assert sorted(train.ids + test.ids) == ["p0", "p1", "p2"]
    assert [np.mean(label == 1) for _, label in (*train, *test)] == [share] * 3
    # what is hardly meant is said everywhere
    odd = share in (1, 0.0005)
    assert [f"the region is {100 * row['protected']:.3g} % of the image" in row["remark"] for row in rows] == [odd] * 3
    assert ("In 3 the region is nearly nothing or nearly everything" in summary(rows, tmp_path)) == odd
    check("folder", tmp_path)
    assert ("of all pixels are object" in capsys.readouterr().out) == odd


MODES, BUDGET = ("L", "1", "P", "RGB", "RGBA", "LA", "I;16"), st.just(0.0) | st.floats(1, 16)
SIZES = st.tuples(st.integers(16, 50), st.integers(16, 50))


@example("L", [255], 0, 8.0, 2.0, 3, "png", (16, 40))
@example("L", [255], 0, 8.0, 2.0, 3, "png", (40, 16))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    *(st.sampled_from(MODES), st.lists(st.integers(0, 255), max_size=6), st.integers(0, 99), BUDGET, BUDGET),
    *(st.integers(1, 4), st.sampled_from(["png", "tif", "webp"]), SIZES),
)
def test_the_file_obeys_the_budget_of_the_region_reported(
    tmp_path, protect_files, mode, values, number, eps, eps_bg, channels, suffix, size
):
    """Whatever the image, the form of the mask and the budget."""
    rng, image = np.random.default_rng(number), tmp_path / f"im/a.{suffix}"
    drawn = rng.choice([*values, 0], (*size, 4)).astype(np.uint8)
    if mode == "I;16":
        mask = Image.fromarray(drawn[..., 0].astype(np.uint16) * (1 + number))
    else:
        mask = Image.fromarray(drawn) if mode == "RGBA" else Image.fromarray(drawn[..., 0]).convert(mode)
    for folder in ("im", "gt"):
        (tmp_path / folder).mkdir(exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (*size, channels), dtype=np.uint8).squeeze()).save(image)
    mask.save(tmp_path / "gt/a.png")
    how = {"masks": str(tmp_path / "gt"), "format": "keep", "overwrite": True, "eps": eps, "eps_bg": eps_bg}
    (row,) = protect_files([image], tmp_path / "out", **how)
    if not row["problem"]:
        change, seen = change_of(tmp_path, row), read_mask(tmp_path / "gt/a.png")
        assert row["protected"] == pytest.approx(seen.mean(), abs=1e-6)
        assert change.max(where=seen, initial=0) == row["linf_inside"] <= math.floor(eps)
        assert change.max(where=~seen, initial=0) == row["linf_outside"] <= math.floor(eps_bg)


def test_outlines_of_another_form_are_refused_with_what_was_found(tmp_path):
    for name, content, words in (
        ("a.json", {"shapes": [DOT | {"shape_type": "mask"}]}, "rectangles in .*, found a mask"),
        ("a.json", {"shapes": 3}, "Expected LabelMe's shapes in .*a.json, found another form"),
        ("a.json", LABELME | {"imageWidth": 70}, "outlines in .*a.json to be of 50x40 pixels as .*, found 70x40"),
        ("a.txt", "cat 0.1 0.2", "as YOLO has them, in .*a.txt, found 'cat 0.1 0.2'"),
        ("a.txt", "0 10 10 30 10 30 20", "as YOLO has them"),
    ):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        with refused(words):
            read_mask(tmp_path / name, size=SIZE)
    with refused("the size of the image beside"):
        read_mask(tmp_path / "a.txt")


def test_one_mask_file_classes_of_outlines_and_boxes_as_shares(tmp_path, protect_files):
    mask = write_forms(tmp_path, "p{}.json, marked")
    one, out = tmp_path / "im/p1.png", tmp_path / "out"
    how = partial(protect_files, [one], out, overwrite=True)
    shares = [how(masks=str(mask), classes=name)[0]["protected"] for name in ("cat", "dog,cat", "dog")]
    assert shares == [SHARE, SHARE, 0]
    (tmp_path / "a.txt").write_text(YOLO)
    assert [how(masks=str(tmp_path / "a.txt"), classes=c)[0]["protected"] for c in ("7", "8")] == [SHARE, 0]
    with refused("for 3 images, found the file .*a.txt; give its folder, or one image"):
        protect_files([tmp_path / "im"], out, masks=str(tmp_path / "a.txt"))
    # outlines beside their images, as LabelMe writes them; they are no images
    for path in (tmp_path / "gt").iterdir():
        path.rename(tmp_path / "im" / path.name)
    rows = protect_files([tmp_path / "im"], tmp_path / "beside", masks=str(tmp_path / "im"))
    assert [(row["protected"], row["remark"]) for row in rows] == 3 * [(SHARE, "")] + 3 * [(0, "no image, left alone")]
    assert "Protected images: 3" in (said := summary(rows, out)) and "no images: 3, left alone" in said
    both = [how(boxes=text)[0]["protected"] for text in ("0.25,0.25,0.6,0.5", "12.25,9.75,29.4,19.5")]
    assert both[0] == both[1] > 0  # shares of 49 and 39 pixels
    assert how(points="0.5,0.5")[0]["found_by"] == "points"
    assert how(boxes="0,0,1,1")[0]["protected"] == 4 / 2000  # whole numbers are pixels


def test_masks_may_lie_beside_or_below_their_images(tmp_path, protect_files):
    write_forms(tmp_path, "p{}_mask.png")
    folder, image = tmp_path / "im", tmp_path / "im/p0.png"
    (tmp_path / "gt").rename(below := folder / "gt")
    names = [f"p{i}.png" for i in range(3)]
    assert [one.name for one in find_inputs([folder], tmp_path / "out", "png", str(below))] == names
    # a folder that is meant, with nothing else in it or with outlines, is not left out
    for path in (below, f"{below}/*.png"):
        assert len(find_inputs([image, path], tmp_path / "out", "png", str(below))) == 4
    (below / "p0.json").write_text("{}")
    assert len(find_inputs([folder], tmp_path / "out", "png", str(below))) == 7
    (below / "p0.json").unlink()
    for path in below.iterdir():
        path.rename(folder / path.name)
    for paths in (image, str(image), [image]):  # one path by itself is one input
        (row,) = protect_files(paths, tmp_path / "out", masks=str(folder))
        assert row["protected"] == SHARE and not row["problem"]
    rows = protect_files(folder, tmp_path / "both", masks=str(folder))
    assert {row["image"]: row["protected"] for row in rows if not row["problem"]} == dict.fromkeys(names, SHARE)
    assert "Expected one mask called p0_mask" in rows[1]["problem"]  # of a mask no image is the mask
    for paths, kind in ((None, "NoneType"), (7, "int"), ([image, b"a.png"], "bytes")):
        with refused(f"Expected files, folders or patterns, found {kind}; give their paths"):
            protect_files(paths, tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("no image")
    with refused(f"found none in {tmp_path}/other"):  # and not: none but copies of ours
        protect_files([tmp_path / "other"], tmp_path / "out")


TABLE = "image,x0,y0,x1,y1\np0.png,12,10,31,21\nsub/p1.png,5,3,20.5,30\n"
TABLES = {  # forms of a CSV file that say the same
    "plain": TABLE,
    "of a spreadsheet": "\ufeff" + TABLE.replace("\n", "\r\n") + ",,,,\r\n\r\n",
    "of an old one": TABLE.replace("\n", "\r"),
    "empty lines first": ",,,,\n".join(["", "image,x0,y0,x1,y1\n", TABLE.partition("\n")[2]]),
    "spaces": TABLE.replace(",", " , "),
    "quotes": re.sub(r"[^,\n]+", r'"\g<0>"', TABLE).replace(",", ", "),
    "upper case": TABLE.replace("image,x0,y0,x1,y1", "Image,X0,Y0,X1,Y1"),
    "semicolons": TABLE.replace(",", ";").replace("20.5", "20,5"),
    "tabs": TABLE.replace(",", "\t"),
    "tabs, numbered": "".join(f"{n or ''}\t{line}\n" for n, line in enumerate(TABLE.replace(",", "\t").splitlines())),
    "other columns": "label,x0,y0,x1,y1,image\ncat,12,10,31,21,p0.png\n,5,3,20.5,30,sub/p1.png\n",
    "./": TABLE.replace("p0", "./p0"),
    "a folder above": TABLE.replace("p0", "data/p0").replace("sub", "data/sub"),
    "absolute": TABLE.replace("p0", "/home/me/p0").replace("sub/", "/home/me/sub/"),
    "backslashes": TABLE.replace("p0", "C:\\data\\p0").replace("sub/", "..\\sub\\"),
    "without suffix": TABLE.replace(".png", ""),
}


@pytest.mark.parametrize("form", TABLES)
def test_boxes_are_read_from_a_csv_file_however_it_is_written(form, tmp_path):
    for path in ("p0.png", "sub/p1.png"):
        write_image(tmp_path / "im" / path, pixels())
    (tmp_path / "a.csv").write_bytes(TABLES[form].encode())
    files = find_inputs(tmp_path / "im", tmp_path / "out", "png")
    places_of = _places(f"{tmp_path}/a.csv", ("x0", "y0", "x1", "y1"), Names(files))
    assert [places_of(file, SIZE).tolist() for file in files] == [[[12, 10, 31, 21]], [[5, 3, 20.5, 30]]]


def test_a_csv_file_that_may_be_meant_otherwise_is_refused_and_its_lines_are_shares_together(tmp_path):
    for path in ("p0.png", "day1/p1.png", "p2.png", " p3.png"):
        write_image(tmp_path / "im" / path, pixels())
    files = find_inputs(tmp_path / "im", tmp_path / "out", "png")

    def places(*lines, header="image,x,y"):
        (tmp_path / "a.csv").write_text("\n".join([header, *lines]))
        return _places(f"{tmp_path}/a.csv", ("x", "y"), Names(files))

    by_name = {file.name: file for file in files}
    for lines, share in ((("p0.png,0,1", "p2.png,0.5,0.5"), 49), (("p0.png,0,1", "p2.png,0.5,7"), 1)):
        assert places(*lines)(by_name["p0.png"], (50, 50)).tolist() == [[0, share]]  # shares are of 49 pixels
    assert places(" p3.png,3,4")(by_name[" p3.png"], SIZE).tolist() == [[3, 4]]
    for lines, words in (
        (["a/p0.png,1,1", "b/p0.png,1,1"], r"one image like p0.png in .*, found several \(a/p0.png, b/p0.png\); name"),
        (["p0.jpg,1,1"], "Expected a line for p0.png in .*a.csv, found none; add it"),
        ([], "Expected a line for p0.png"),
    ):
        with refused(words):
            places(*lines)(by_name["p0.png"], SIZE)
    for lines, header, words in (
        (["p0.png,1,1"], "p1.png,2,2", "Expected the columns image,x,y in .*, found p1.png,2,2; name them"),
        ([], "", "Expected the columns image,x,y in .*, found nothing"),
        ([",3,4"], "image,x,y", "Expected an image's name in each line of .*, found ',3,4'; add it"),
        (["p0.png,3"], "image,x,y", "Expected numbers as x,y, found '3,' in"),
        (["p0.png,3 px,4"], "image,x,y", "Expected numbers as x,y, found '3 px,4' in"),
    ):
        with refused(words):
            places(*lines, header=header)


def test_a_closed_csv_file_is_called_closed(tmp_path, weights, unseg, monkeypatch):
    write_forms(tmp_path, "white")
    (table := tmp_path / "a.csv").write_text(TABLE)
    read = Path.read_text

    def closed(path, *given, **named):
        if path == table:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path, *given, **named)

    monkeypatch.setattr(Path, "read_text", closed)
    code, _, said = unseg(
        "protect", tmp_path / "im", "--out", tmp_path / "out", "--boxes", table, "--generator", weights
    )
    assert code == 2 and said.startswith(f"Expected access to {table}, found none (Permission denied)")


@pytest.mark.parametrize("how", [{}, {"masks": "gt"}, {"boxes": "1,1,9,9"}])
def test_an_unknown_segmenter_is_refused_before_anything_is_done(how, tmp_path):
    write_forms(tmp_path, "white")
    how = {name: value.replace("gt", str(tmp_path / "gt")) for name, value in how.items()}
    with refused("segmenter.*nope"):
        Batch([tmp_path / "im"], tmp_path / "out", segmenter="nope", **how)


# COCO's json


def notes(*files, **changes):
    """A json of images called so, each with the object as a polygon."""
    images = [{"id": i, "file_name": name, "height": 40, "width": 50} for i, name in enumerate(files)]
    polygon = [np.ravel(CORNERS).tolist()]
    objects = [{"id": i, "image_id": i, "category_id": 1, "segmentation": polygon} | changes for i in range(len(files))]
    return {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}


RLE = {"size": [40, 50], "counts": [490, *(19 * [12, 28]), 12, 2000 - 490 - 20 * 12 - 19 * 28]}
SHAPES = {
    "polygon": {},
    "part of two points first": {"segmentation": [[0, 0, 9, 9], np.ravel(CORNERS).tolist()]},
    "box": {"segmentation": [], "bbox": [12, 10, 20, 12]},
    "box alone": {"segmentation": None, "bbox": [12, 10, 20, 12]},
    "box of texts": {"segmentation": [], "bbox": ["12", "10", "20", "12"]},
    "rle": {"segmentation": RLE},
    "rle, its size as texts": {"segmentation": RLE | {"size": ["40", "50"]}},
    "crowd": {"segmentation": RLE, "iscrowd": 1},
    "class unknown": {"category_id": 9},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_cocos_json_is_the_object(shape, tmp_path, protect_files):
    write_forms(tmp_path, "white")
    content = "\ufeff" + json.dumps(notes(*(f"p{i}.png" for i in range(3)), **SHAPES[shape]))
    (tmp_path / "a.json").write_text(content)
    rows = protect_files([tmp_path / "im"], tmp_path / "out", masks=str(tmp_path / "a.json"))
    assert [row["protected"] for row in rows] == [SHARE] * 3
    if shape != "class unknown":
        folder = tmp_path / "NWPU_VHR-10"
        (folder / "annotations").mkdir(parents=True)
        (tmp_path / "im").rename(folder / "images")
        (folder / "annotations/NWPU_instances_train.json").write_text(content)
        for _, label in load_dataset("nwpu", tmp_path, "train"):  # of a crowd nobody learns
            assert np.mean(label == (255 if shape == "crowd" else 1)) == SHARE


def test_one_odd_entry_of_cocos_json_costs_its_image_alone(tmp_path, protect_files):
    entries = {  # what a json calls an image -> where the image is
        "../up.png": "up.png",
        "/home/me/data/far.png": "far.png",
        "C:\\data\\back\\slash.png": "back/slash.png",
        "day1/i.png": "day1/i.png",
        "day2/i.png": "day2/i.png",
        "twice.jpg": "twice.jpg",
        "twice.png": "twice.png",
        "suffix.tif": "suffix.jpeg",
        "texts.png": "texts.png",
    }
    faulty = "wide.png", "odd.png", "unsized.png", "whose.png", "what.png", "nobody.png"
    content = notes("one/unclear.png", "two/unclear.png", *faulty, *entries)
    images, objects = (content[key][2:] for key in ("images", "annotations"))
    content["annotations"] += [{"id": 99, "image_id": 12345, "category_id": 1}, None, {"image_id": {}}]  # of no image
    content["images"] += [{"id": 98}, {"id": 97, "file_name": "/"}, None, 3, {"id": 96, "file_name": None}]
    content["categories"] += [None, {"id": 5}, {"id": [6], "name": "dog"}, {"id": 7, "name": 8}]
    images[0].update(width=10**7, height=10**7)  # no mask of this size may ever be made
    objects[1]["segmentation"] = [[1, 2]]
    del images[2]["height"], images[2]["width"], images[5]["id"]
    objects[3]["image_id"], objects[4]["category_id"] = [objects[3]["image_id"]], [1]
    images[-1].update(width="50", height="40")
    for path in (*entries.values(), "unclear.png", *faulty, "new.png"):
        write_image(tmp_path / "im" / path, pixels())
    write_json(tmp_path / "a.json", content)
    problems = {
        "unclear.png": "found several (one/unclear.png, two/unclear.png); name its folder",
        "wide.png": "to be of 50x40 pixels as the image is, found 10000000x10000000",
        "odd.png": "in annotation 3 of odd.png, found none that can be decoded",
        "whose.png": "a number as image_id of annotation 5 of whose.png in ",
        "nobody.png": f"a number as id of nobody.png in {tmp_path}/a.json, found none",
        "new.png": f"Expected the image new.png in {tmp_path}/a.json, found none",
    }
    of_class = {"what.png": "a number as category_id of annotation 6 of what.png in "}  # where classes are asked for
    run = partial(protect_files, [tmp_path / "im"], masks=f"{tmp_path}/a.json")
    for classes, odd in (("", problems), ("cat", problems | of_class)):
        rows = {row["image"]: row for row in run(tmp_path / f"out{classes}", classes=classes)}
        good = {name for name, row in rows.items() if row["protected"] == SHARE}
        assert good == {*entries.values(), "unsized.png", "what.png"} - odd.keys()
        assert rows.keys() - good == odd.keys()
        assert all(words in rows[name]["problem"] for name, words in odd.items())
    rows = run(tmp_path / "none", classes="8")  # a name that is a number
    assert not any(row["protected"] for row in rows)
    with refused("Unknown class 'dog'"):
        run(tmp_path / "none", classes="dog")


def test_a_json_of_a_data_set_may_tell_images_apart_by_folder_or_suffix(tmp_path):
    content = notes("day1\\i.png", "day2/i.png", "a.jpg", "a.png", "b.png")
    folder = tmp_path / "NWPU_VHR-10"
    for seed, image in enumerate(content["images"]):
        path = folder / "images" / image["file_name"].replace("\\", "/")
        write_image(path, np.full((*SIZE, 3), 40 * seed, np.uint8))
    write_json(folder / "annotations/NWPU_instances_train.json", content)
    found = load_dataset("nwpu", tmp_path, "train")
    seen = {id: round(found.image(id).mean() / 40) for id in found.ids}
    assert seen == {"day1-i": 0, "day2-i": 1, "a-jpg": 2, "a-png": 3, "b": 4}
    assert {id: found.relative_image(id).with_suffix("").name for id in ("a-jpg", "b")} == {"a-jpg": "a-jpg", "b": "b"}


# images


def test_images_are_known_by_their_content_and_every_file_of_a_folder_has_a_line(tmp_path, protect_files):
    im, smooth = tmp_path / "im", np.repeat(np.linspace(0, 4095, WIDTH, dtype=np.uint16)[None], HEIGHT, 0)
    im.mkdir()
    forms = {"a.jfif": "JPEG", "b.jpe": "JPEG", "c.heic": "PNG", "d": "JPEG", "e.avif": "AVIF", "f.gif": "GIF"}
    forms |= {"l.webp": "WEBP", "m.bmp": "BMP", "n.tif": "TIFF", "o.jpg": "JPEG"}
    for name, form in forms.items():
        Image.fromarray(pixels()).save(im / name, form)
    Image.fromarray(smooth).save(im / "g.png")
    Image.fromarray(16 * smooth).save(im / "h.tif")
    tifffile.imwrite(im / "i.tif", np.float32(smooth))
    (im / "j.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (im / "k.dng").write_bytes((im / "h.tif").read_bytes())  # a raw file has a small TIFF in front
    for name in ("notes.txt", "Thumbs.db", ".hidden"):
        (im / name).write_bytes(b"no image")
    rows = {row["image"]: row for row in protect_files([im], tmp_path / "out", format="keep")}
    assert sorted(rows) == sorted(path.name for path in im.iterdir() if path.name != ".hidden")
    assert {name for name, row in rows.items() if row["problem"]} == {"i.tif", "j.heic", "k.dng"}
    written = [rows[name]["written"] for name in forms]
    assert " ".join(written) == "a.jfif b.jpe c.png d.png e.png f.png l.webp m.png n.tif o.jpg"
    for name in written:
        with Image.open(tmp_path / "out" / name) as copy:  # what it is called, it is
            assert Image.registered_extensions()[Path(name).suffix] == copy.format
    assert {rows[name]["remark"] for name in ("notes.txt", "Thumbs.db")} == {"no image, left alone"}
    assert "found a corrupt one" in rows["j.heic"]["problem"]
    assert "numbers from 0.0 to 4095.0" in rows["i.tif"]["problem"] and "raw file" in rows["k.dng"]["problem"]
    for name, bits in {"g.png": 12, "h.tif": 16}.items():
        assert rows[name]["remark"].startswith(f"{bits} bits a channel were reduced to 8")
        assert np.abs(read_image(tmp_path / "out" / rows[name]["written"])[..., 0] - smooth / 16).max() <= 9
        assert np.abs(read_image(im / name)[..., 0] - smooth / 16).max() <= 1  # as data sets and notebook 00 see it


def test_of_a_phones_heic_the_main_image_is_protected_and_the_others_are_named(tmp_path, protect_files):
    """As bursts, stereo pairs and pictures with ten bits a channel come: these codecs lose a little."""
    smooth = np.repeat(np.linspace(20, 230, WIDTH)[None], HEIGHT, 0)[..., None] * [1, 0.7, 0.4]
    main, other = (Image.fromarray(x.astype(np.uint8)) for x in (smooth, smooth[::-1, ::-1]))
    (im := tmp_path / "im").mkdir()
    other.save(im / "burst.heic", save_all=True, append_images=[main], primary_index=1, quality=100)
    pillow_heif.encode("RGB;16", main.size, np.uint16(257 * smooth.round()).tobytes(), im / "deep.hif", quality=100)
    whole = (im / "burst.heic").read_bytes()
    (im / "cut.heic").write_bytes(whole[: len(whole) // 2])
    rows = {row["image"]: row for row in protect_files([im], tmp_path / "out")}
    assert "of 2 images in the file only the main one was kept" in rows["burst.heic"]["remark"]
    assert re.search("1[02] bits a channel were reduced to 8", rows["deep.hif"]["remark"])
    assert "found a corrupt one" in rows["cut.heic"]["problem"] and not rows["cut.heic"]["written"]
    for name in ("burst", "deep"):
        assert np.abs(read_image(tmp_path / f"out/{name}.png") - smooth).max() <= 8 + 4, name


MEASURED = """
import sys
from unseg_lib.protection import protect_files
from unseg_lib.runtime import resident
root, *names = sys.argv[1:]
for name in names:
    (row,) = protect_files([f"{root}/im/{name}"], f"{root}/out", masks=f"{root}/gt", device="cpu")
    assert 2 < row["linf_inside"] <= 8 and row["linf_outside"] <= 2, row
    print(resident("VmHWM"))
"""


def test_the_memory_of_an_image_grows_with_its_own_area(tmp_path):
    """In MB, one after the other: beside a small one, two long ones of 0.3 and 4 megapixels, and one of 27."""
    for folder in ("im", "gt"):
        (tmp_path / folder).mkdir()
    names = [f"{width}x{height}.jpg" for width, height in ((50, 40), (20_000, 16), (250, 16_000), (6_000, 4_500))]
    for name in names:
        size = tuple(map(int, name.removesuffix(".jpg").split("x")))
        Image.fromarray(pixels()).resize(size).save(tmp_path / "im" / name)
        picture(gray(255)).resize(size, 0).convert("1").save((tmp_path / "gt" / name).with_suffix(".png"))
    command = [sys.executable, "-c", MEASURED, tmp_path, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, *others = map(float, done.stdout.split())
    # 23 bytes a pixel: one more copy of the largest image would be 81 MB
    assert all(one - first < most for one, most in zip(others, (100, 200, 700), strict=True)), (first, others)
