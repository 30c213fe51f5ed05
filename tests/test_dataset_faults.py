"""Faults of data sets: one sentence each, which names the file and says what to do."""

import re
import shutil
from functools import partial, reduce

import numpy as np
import pytest
import tiny_sets
from PIL import Image
from tiny_sets import drawn, edit_json, label, refused, write_mask

from unseg_lib.datasets import check, data_root, load_dataset
from unseg_lib.images import write_image


def truncate(path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


# names and places


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("vocc", "train", r"Unknown data set 'vocc'; did you mean 'voc'\?"),
        ("voc", "tran", r"Unknown split of voc: 'tran'; did you mean 'train'\?"),
        ("lung", "val", "Unknown split of lung: 'val'"),
        ("voc:x", "train", "only folder:SUB takes a place"),
        ("folder:nowhere", "train", "im/ and gt/"),
        ("folder:empty", "train", "found no gt/"),
        ("folder:../other", "train", "below the data root"),
    ],
)
def test_unknown_names_and_places(name, split, words, tmp_path):
    (tmp_path / "root/empty").mkdir(parents=True)
    tiny_sets.folder(tmp_path / "other")
    with refused(words):
        load_dataset(name, tmp_path / "root", split)
    with refused("Unknown task 'instance'"):
        load_dataset("voc", tmp_path, "train", task="instance")


@pytest.mark.parametrize("name", sorted(set(tiny_sets.ALL) - {"folder", "scenes", "hqseg44k", "thinobject5k"}))
def test_absent_sets_say_how_to_get_them(name, tmp_path):
    wanted = {"coco-instances": "coco-panoptic"}.get(name, name)  # which brings coco along
    with refused(f"get it with `unseg data get {wanted}`"):
        load_dataset(name, tmp_path, "test")


def test_absent_parts_say_how_to_get_them(tmp_path):
    tiny_sets.ade20k(tmp_path)
    shutil.rmtree(tmp_path / "ADEChallengeData2016/annotations_instance")
    found = load_dataset("ade20k", tmp_path, "train")
    assert found.label(found.ids[0]).shape == (tiny_sets.HEIGHT, tiny_sets.WIDTH)  # semantic segmentation needs none
    with refused(r"annotations_instance/training, .*unseg data get ade20k-instances"):
        found.instances(found.ids[0])
    tiny_sets.coco_panoptic(tmp_path)
    shutil.rmtree(tmp_path / "coco/annotations/panoptic_val2017")
    with refused(r"panoptic_val2017, .*unseg data get coco-panoptic"):
        load_dataset("coco-panoptic", tmp_path, "val")
    for part, name in {"DIS5K": "dis5k", "thin_object_detection": "thinobject5k", "cascade_psp": "hqseg44k"}.items():
        tiny_sets.ALL["hqseg44k"](tmp_path / part)
        shutil.rmtree(tmp_path / part / "interactive/hqseg44k" / part)
        with refused(f"get it with `unseg data get {name}`"):
            load_dataset("hqseg44k", tmp_path / part, "train")


def test_data_root_is_given_or_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("UNSEG_DATA", raising=False)
    assert str(data_root()) == "data" and str(data_root("")) == "data"
    monkeypatch.setenv("UNSEG_DATA", str(tmp_path))
    assert data_root() == tmp_path and str(data_root("x")) == "x"


# images and masks


@pytest.mark.parametrize("kind", ["voc", "camvid", "folder", "ade20k", "cityscapes", "dis5k", "coco-panoptic"])
def test_missing_mask_is_named(kind, tmp_path):
    name = tiny_sets.ALL[kind](tmp_path)
    found = load_dataset(name, tmp_path, "train")
    (tmp_path / next(path for path in found.annotation_files if path.suffix == ".png")).unlink()
    with refused(r"Expected a mask called .* in .*, found none"):
        load_dataset(name, tmp_path, "train")


@pytest.mark.parametrize("kind", ["voc", "camvid", "scenes"])
def test_unknown_class_is_named(kind, tmp_path):
    found = load_dataset(tiny_sets.ALL[kind](tmp_path), tmp_path, "train")
    id = found.ids[-1]
    (mask,) = (tmp_path / path for path in found.annotation_files if path.stem == id)
    write_mask(mask, np.full_like(found.label(id), 77))
    with refused(f"in the mask of {id} of {kind}, found class 77"):
        found.label(id)


@pytest.mark.parametrize("kind", tiny_sets.WITH_TRAIN)
def test_misshapen_corrupt_and_missing_images_and_unknown_ids_are_named(kind, tmp_path):
    name = tiny_sets.ALL[kind](tmp_path)
    found = load_dataset(name, tmp_path, "train")
    id = found.ids[0]
    path, (height, width) = found.image_path(id), found.label(id).shape
    write_image(path, np.repeat(found.image(id), 2, axis=0))
    with refused(rf"{width}x{2 * height} pixels for {id} of .*, the size of its image, found {width}x{height}"):
        found.label(id)
    with refused(f"found {width}x{height}"):
        check(name, tmp_path)
    truncate(path, 60)
    with refused(f"readable image in .*{path.name}, found a corrupt one"):
        found.image(id)
    with refused("found a corrupt one"):
        check(name, tmp_path)
    path.unlink()
    with refused(f"Expected an image called {path.stem} in "):
        found.image(id)
    with refused("has no image 'nobody'"):
        found.image("nobody")


def test_masks_of_a_folder_that_cannot_be_meant(tmp_path):
    for i in range(3):
        tiny_sets.write_pair(tmp_path, f"p{i}", i, label(255), ("im", "gt"))
    found = load_dataset("folder", tmp_path, "train")
    mask = tmp_path / f"gt/{found.ids[0]}.png"
    Image.fromarray(np.dstack([label(255)] * 3 + [label(255)[::-1]])).save(mask)
    with refused(r"either black or transparency as the background of .*png, found both; save it as black and white"):
        check("folder", tmp_path)
    truncate(mask, 60)
    with refused(r"readable mask in .*png, found a corrupt one"):
        found.label(found.ids[0])
    write_image(mask.with_suffix(".jpg"), tiny_sets.image(0))
    with refused(f"Expected one image called {found.ids[0]}"):
        load_dataset("folder", tmp_path, "train")


def test_voc_without_instances_or_with_a_list_that_is_no_text_or_none(tmp_path):
    found = load_dataset(tiny_sets.voc(tmp_path), tmp_path, "train")
    with refused("voc has no instance masks"):
        found.instances(found.ids[0])
    (names := tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt").write_bytes(b"2007_\xff\xfe")
    with refused(r"Expected names of images in .*train_aug\.txt, found no text"):
        load_dataset("voc", tmp_path, "train")
    names.unlink()
    with refused(r"Expected the list of images .*/train\.txt, found none"):
        load_dataset("voc", tmp_path, "train")


# COCO's json


def update(*where, **changes):
    """A change of the entry at `where` of a json."""
    return lambda content: reduce(lambda part, step: part[step], where, content).update(changes)


def drop(*where):
    return lambda content: reduce(lambda part, step: part[step], where[:-1], content).pop(where[-1])


of_image, of_annotation = partial(update, "images", 0), partial(update, "annotations", 0)
of_segment = partial(update, "annotations", 0, "segments_info", 0)


def one_more_class(content):
    content["categories"].append({"id": 999, "name": "more", "isthing": 1})


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("coco", drop("images"), "found json without 'images'"),
        ("coco", of_image(file_name="../../x.jpg"), r"found coco/val2017/\.\./\.\./x"),
        ("coco", of_image(file_name="val1.jpg"), "found two of one name"),
        ("coco", of_annotation(image_id=-5), "found json without -5"),
        ("nwpu", of_annotation(category_id=99), "found unknown class 99"),
        ("ssdd", drop("categories", 0, "name"), "found json without 'name'"),
        ("ssdd", drop("images", 0, "width"), "found json without 'width'"),
        ("ssdd", of_image(height="11"), r"height and width of val0\.jpg in .* found '11' and 16"),
        ("ssdd", of_image(height=0), "found 0 and 16"),
        ("ssdd", lambda c: c.update(annotations=[3]), "found json of another form"),
        ("coco-panoptic", one_more_class, r"133 classes in .*, found 134; is it the json"),
        ("whu", one_more_class, r"1 classes in .*, found 2; is it the json"),
        ("ssdd", one_more_class, r"1 classes in .*, found 2; is it the json"),
        ("coco-panoptic", drop("annotations"), "found json without 'annotations'"),
        ("coco-panoptic", drop("annotations", 0, "segments_info"), "found json without 'segments_info'"),
        ("coco-panoptic", drop("annotations", 0, "segments_info", 0, "iscrowd"), "without 'iscrowd'"),
        ("coco-panoptic", of_segment(category_id=91), "found unknown class 91"),
        ("coco-panoptic", drop("annotations", 0), r"an annotation of every image in .*, found none of val0"),
        ("coco-panoptic", drop("categories", 0, "isthing"), "found json without 'isthing'"),
        ("coco-panoptic", drop("categories", 0, "name"), "found json without 'name'"),
    ],
)
def test_a_json_that_lacks_what_is_needed_is_refused(name, change, words, tmp_path):
    path = tmp_path / load_dataset(tiny_sets.ALL[name](tmp_path), tmp_path, "val").annotation_files[0]
    edit_json(path, change)
    with refused(f"^Expected .*{words}"):
        load_dataset(name, tmp_path, "val")
    path.write_text(path.read_text()[:-20])
    with refused(f"Expected JSON in {re.escape(str(path))}"):
        load_dataset(name, tmp_path, "val")
    path.unlink()
    with refused(f"Expected the annotations {re.escape(str(path))}, found none"):
        load_dataset(name, tmp_path, "val")


def test_undecodable_shape_is_named(tmp_path):
    tiny_sets.coco(tmp_path)
    for change in (of_annotation(segmentation=[[1, 2]]), of_annotation(segmentation={"size": 3})):
        edit_json(tmp_path / "coco/annotations/instances_val2017.json", change)
        with refused(r"Expected a polygon or RLE in annotation 1000 of val0\.jpg"):
            load_dataset("coco", tmp_path, "val").label("val0")


# masks of objects


def test_damaged_panoptic_png(tmp_path):
    tiny_sets.coco_panoptic(tmp_path)
    found, folder = load_dataset("coco-panoptic", tmp_path, "val"), tmp_path / "coco/annotations/panoptic_val2017"
    shutil.copy(folder / "val1.png", folder / "val0.png")  # of another image
    for read in (found.label, found.instances):
        with refused(r"same segments in .*val0\.png and in the json, found 70000 in the json"):
            read("val0")
    write_image(folder / "val0.png", np.full((12, 16, 3), 1, np.uint8))
    with refused("found 7 in the json only"):
        found.label("val0")


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [((101, 1, 0), (101, 1, 0), "found 101"), ((0, 1, 0), (0, 1, 0), "found 0"), ((3, 1, 0), (9, 1, 0), "found 3, 9")],
)
def test_ade20k_objects_of_no_class_or_two(first, second, words, tmp_path):
    found = load_dataset(tiny_sets.ade20k(tmp_path), tmp_path, "val")
    objects = np.zeros((tiny_sets.HEIGHT, tiny_sets.WIDTH, 3), np.uint8)
    objects[0], objects[1] = first, second
    path = tmp_path / f"ADEChallengeData2016/annotations_instance/validation/{found.ids[0]}.png"
    write_image(path, objects)
    with refused(f"one class from 1 to 100 for object 1 in .*, {words}; get ade20k-instances"):
        found.instances(found.ids[0])
    write_image(path, np.ones((5, 7, 3), np.uint8))
    with refused(f"for {found.ids[0]} of ade20k, the size of its image, found 7x5"):
        check("ade20k", tmp_path)
    write_mask(tmp_path / f"ADEChallengeData2016/annotations/validation/{found.ids[0]}.png", drawn(outside=151))
    with refused(f"classes 0 to 149 or 255 in the mask of {found.ids[0]} of ade20k, found class 150"):
        found.label(found.ids[0])


def test_damaged_cityscapes_masks(tmp_path):
    found = load_dataset(tiny_sets.cityscapes(tmp_path), tmp_path, "val")
    first, second = (tmp_path / path for path in found.annotation_files[:2])
    Image.fromarray(np.full((12, 16), 34_000, np.uint16)).save(first)
    with refused(r"labels 0 to 33 in .*, found others; is it an _instanceIds\.png"):
        found.label(found.ids[0])
    write_image(first, np.zeros((12, 16, 3), np.uint8))
    with refused("found others"):
        found.instances(found.ids[0])
    truncate(second, 60)
    with refused(r"readable mask in .*, found a corrupt one"):
        found.label(found.ids[1])
