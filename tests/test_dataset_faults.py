"""Faults of data sets: one sentence each, which names the file and says what to do."""

import json

import numpy as np
import pytest
import tiny_sets

from unseg_lib.datasets import check, data_root, load_dataset
from unseg_lib.errors import UnsegError
from unseg_lib.images import write_image

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_unknown_names_list_the_known(tmp_path):
    tiny_sets.voc(tmp_path)
    for arguments, words in {
        ("vocc", "train"): "Unknown data set 'vocc'; did you mean 'voc'?",
        ("voc", "tran"): "Unknown split of voc: 'tran'; did you mean 'train'?",
        ("lung", "val"): "Unknown split of lung: 'val'",
        ("voc:x", "train"): "only folder:SUB takes a place",
    }.items():
        with pytest.raises(UnsegError) as error:
            load_dataset(arguments[0], tmp_path, arguments[1])
        assert words in str(error.value)
    with pytest.raises(UnsegError, match="Unknown task 'instance'"):
        load_dataset("voc", tmp_path, "train", task="instance")


def test_absent_set_says_how_to_get_it(tmp_path):
    for name in ("voc", "camvid", "lung", "kvasir", "nwpu", "coco"):
        with pytest.raises(UnsegError, match=f"unseg data get {name}"):
            load_dataset(name, tmp_path, "train")
    with pytest.raises(UnsegError, match="im/ and gt/"):
        load_dataset("folder:nowhere", tmp_path, "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnsegError, match="found no gt/"):
        load_dataset("folder:empty", tmp_path, "train")


def test_folder_outside_the_data_root_is_refused(tmp_path):
    tiny_sets.folder(tmp_path / "other")
    (tmp_path / "root").mkdir()
    with pytest.raises(UnsegError, match="below the data root"):
        load_dataset("folder:../other/own/ccp", tmp_path / "root", "train")


def masks_of(root, name):
    return {
        "voc": root / "VOCdevkit/VOC2012/SegmentationClassAug",
        "camvid": root / "CamVid/trainannot",
        "folder:own/davis+own/ccp": root / "own/ccp/gt",
        "scenes": root / "scenes/labels",
        "lung": root / "LungSegmentation/masks",
    }[name]


@pytest.mark.parametrize("kind", ["voc", "camvid", "folder"])
def test_missing_mask_is_named(kind, tmp_path):
    name = tiny_sets.ALL[kind](tmp_path)
    mask = sorted(masks_of(tmp_path, name).iterdir())[0]
    mask.unlink()
    with pytest.raises(UnsegError, match=f"Expected a mask called {mask.stem} in .*, found none"):
        load_dataset(name, tmp_path, "train")


@pytest.mark.parametrize("kind", ["voc", "camvid", "lung", "folder", "scenes"])
def test_mask_of_another_size_is_named(kind, tmp_path):
    name = tiny_sets.ALL[kind](tmp_path)
    found = load_dataset(name, tmp_path, "train")
    for mask in masks_of(tmp_path, name).iterdir():
        write_image(mask, np.zeros((5, 7, 1), np.uint8), gray=True)
    with pytest.raises(UnsegError, match=f"for {found.ids[-1]} of .*, the size of its image, found 7x5"):
        found.label(found.ids[-1])
    with pytest.raises(UnsegError, match="found 7x5"):
        check(name, tmp_path)


def test_json_of_another_size_than_the_image(tmp_path):
    found = load_dataset(tiny_sets.coco(tmp_path), tmp_path, "val")
    write_image(found.image_path("val1"), np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(UnsegError, match="Expected a mask of 20x20 pixels for val1 of coco"):
        found.label("val1")


@pytest.mark.parametrize("kind", ["voc", "camvid"])
def test_unknown_class_is_named(kind, tmp_path):
    name = tiny_sets.ALL[kind](tmp_path)
    found = load_dataset(name, tmp_path, "train")
    write_image(masks_of(tmp_path, name) / f"{found.ids[0]}.png", tiny_sets.label(77)[..., None], gray=True)
    with pytest.raises(UnsegError, match=f"in the mask of {found.ids[0]} of {kind}, found class 77"):
        found.label(found.ids[0])


def test_unknown_category_in_json(tmp_path):
    tiny_sets.nwpu(tmp_path)
    path = tmp_path / "NWPU_VHR-10/annotations/NWPU_instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 99
    path.write_text(json.dumps(content))
    with pytest.raises(UnsegError, match="found unknown class 99"):
        load_dataset("nwpu", tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("images"), "found json without 'images'"),
        (lambda c: c["images"][0].update(file_name="../../x.jpg"), "found coco/train2017/../../x"),
        (lambda c: c["images"][0].update(file_name=c["images"][1]["file_name"]), "found two of one name"),
        (lambda c: c["annotations"][0].update(image_id=-5), "found json without -5"),
    ],
)
def test_broken_json_is_refused(change, words, tmp_path):
    tiny_sets.coco(tmp_path)
    path = tmp_path / "coco/annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UnsegError) as error:
        load_dataset("coco", tmp_path, "train")
    assert words in str(error.value)


def test_half_a_json_is_refused(tmp_path):
    tiny_sets.coco(tmp_path)
    path = tmp_path / "coco/annotations/instances_train2017.json"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(UnsegError, match="Expected JSON in"):
        load_dataset("coco", tmp_path, "train")


def test_undecodable_polygon_is_named(tmp_path):
    tiny_sets.coco(tmp_path)
    path = tmp_path / "coco/annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [[1, 2]]
    path.write_text(json.dumps(content))
    with pytest.raises(UnsegError, match=r"Expected a polygon or RLE in annotation 1000 of val0\.jpg"):
        load_dataset("coco", tmp_path, "val").label("val0")


@pytest.mark.parametrize("kind", tiny_sets.WITH_TRAIN)
def test_corrupt_image_is_named(kind, tmp_path):
    name, root = tiny_sets.ALL[kind](tmp_path), tmp_path
    found = load_dataset(name, root, "train")
    path = found.image_path(found.ids[0])
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UnsegError, match=f"readable image in .*{path.name}, found a corrupt one"):
        found.image(found.ids[0])
    with pytest.raises(UnsegError, match="found a corrupt one"):
        check(name, root)


@pytest.mark.parametrize("kind", tiny_sets.WITH_TRAIN)
def test_missing_image_and_unknown_id_are_named(kind, tmp_path):
    name, root = tiny_sets.ALL[kind](tmp_path), tmp_path
    found = load_dataset(name, root, "train")
    found.image_path(found.ids[0]).unlink()
    with pytest.raises(UnsegError, match="Expected an image called"):
        found.image(found.ids[0])
    with pytest.raises(UnsegError, match="has no image 'nobody'"):
        found.image("nobody")


def test_a_list_that_is_no_text_is_named(tmp_path):
    tiny_sets.voc(tmp_path)
    (tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt").write_bytes(b"2007_\xff\xfe")
    with pytest.raises(UnsegError, match=r"Expected names of images in .*train_aug\.txt, found no text"):
        load_dataset("voc", tmp_path, "train")


def test_voc_without_the_list_of_sbd_says_so_once(tmp_path, capsys):
    tiny_sets.voc(tmp_path)
    lists = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    load_dataset("voc", tmp_path, "train")
    assert capsys.readouterr().err == ""
    (lists / "train_aug.txt").rename(lists / "train.txt")
    for split in ("train", "fit", "val"):
        load_dataset("voc", tmp_path, split)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no train_aug.txt" in said and "own 10 images" in said and "`unseg data get voc-aug`" in said


def test_two_masks_of_one_name_are_refused(tmp_path):
    tiny_sets.lung(tmp_path)
    write_image(tmp_path / "LungSegmentation/masks/CXR_0_0.jpg", tiny_sets.image(0))
    with pytest.raises(UnsegError, match="Expected one image called CXR_0_0"):
        load_dataset("lung", tmp_path, "train")


def test_sets_without_instances_say_so(tmp_path):
    found = load_dataset(tiny_sets.voc(tmp_path), tmp_path, "train")
    with pytest.raises(UnsegError, match="voc has no instance masks"):
        found.instances(found.ids[0])


def test_data_root_is_given_or_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("UNSEG_DATA", raising=False)
    assert str(data_root()) == "data" and str(data_root("")) == "data"
    monkeypatch.setenv("UNSEG_DATA", str(tmp_path))
    assert data_root() == tmp_path and str(data_root("x")) == "x"
