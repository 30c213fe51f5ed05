"""Labels, objects and segments of every layout by hand; what panoptic sets and those of SAM-HQ have of their own."""

import shutil

import numpy as np
import pytest
import tiny_sets
from tiny_sets import BOX, LEFT, RIGHT, drawn, edit_json, label, refused
from toy_project import play

from unseg_lib.datasets import check, load_dataset, splits_of
from unseg_lib.datasets import panoptic as sets
from unseg_lib.datasets.folders import hqseg_parts
from unseg_lib.poisons import PoisonSettings, poison_dataset, protected_classes

PANOPTIC = {"ade20k": (7, 3), "cityscapes": (13, 0), "coco-panoptic": (2, 80)}  # the tiny sets' thing and stuff
LARGE, SMALL, COLUMN = np.s_[1:9, 2:12], np.s_[3:6, 4:7], np.s_[:, 0]


@pytest.fixture(params=PANOPTIC)
def panoptic(request, tmp_path):
    """(set, its thing, its stuff)."""
    name = tiny_sets.ALL[request.param](tmp_path / "data")
    return load_dataset(name, tmp_path / "data", "val"), *PANOPTIC[name]


def test_published_counts():
    assert len(sets.ADE_CLASSES) == len(set(sets.ADE_CLASSES)) == 150 and len(sets.ADE_THINGS) == 100
    assert not any("," in name for name in sets.ADE_CLASSES)  # names are given to `protect` joined by commas
    assert (sets.ADE_THINGS[0], sets.ADE_THINGS[-1]) == (7, 149)  # bed and flag, as the paper's script says
    assert {sets.ADE_CLASSES[sets.ADE_THINGS[k - 1]] for k in (4, 9, 50, 94)} == {"person", "car", "bus", "plate"}
    assert len(sets.CITY_LABELS) == 19
    names = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    assert tuple(list(sets.CITY_LABELS)[i] for i in sets.CITY_THINGS) == names
    assert [len(hqseg_parts("hqseg44k", split)) for split in ("train", "test")] == [7, 4]


# name -> number of classes, one of them, split, its first image, label map
LABELS = {
    "camvid": (11, {8: "car"}, "test", "test_0", drawn((BOX, 8), (-1, 255), outside=3)),
    "coco": (3, {2: "ship"}, "val", "val0", drawn((COLUMN, 255), (LARGE, 1), (SMALL, 2))),  # by category number: 3, 7
    "nwpu": (3, {1: "airplane"}, "test", "val0", drawn((COLUMN, 255), (LARGE, 1), (SMALL, 2))),
    "whu": (2, {1: "building"}, "test", "test-100", drawn((COLUMN, 255), (LARGE, 1))),
    "ssdd": (2, {1: "ship"}, "test", "val0", drawn((COLUMN, 255), (LARGE, 1))),
    "ade20k": (150, {57: "pillow"}, "val", "ADE_validation_00000000", drawn((BOX, 7), (0, 255), outside=3)),
    # a row of persons that nobody told apart, a caravan, which nobody scores, and void
    "cityscapes": (19, {}, "val", "valcity0_000000_000019", drawn((BOX, 13), (-1, 11), (COLUMN, 255), (0, 255))),
    "coco-panoptic": (133, {}, "val", "val0", drawn((BOX, 2), (0, 255), (-1, 255), outside=80)),
    "coco-instances": (133, {}, "val", "val0", drawn((BOX, 2), (0, 255), (-1, 255), outside=80)),
    "kvasir": (2, {1: "polyp"}, "train", "p0", label(1)),  # of masks in JPEG
    "hqseg44k": (2, {1: "object"}, "test", "DIS5K-VD-test0", label(1)),
    **dict.fromkeys(("coift", "hrsod"), (2, {1: "object"}, "test", "test0", label(1))),
}
# name -> objects and crowds, as class and place, and the classes of segments that are no objects, with their pixels
OBJECTS = {
    **dict.fromkeys(("coco", "nwpu"), ([(2, SMALL), (1, LARGE)], [(1, COLUMN)], [])),
    **dict.fromkeys(("whu", "ssdd"), ([(1, SMALL), (1, LARGE)], [(1, COLUMN)], [])),
    "ade20k": ([(7, LEFT), (7, RIGHT), (57, np.s_[9, :4])], [], [(3, 11 * 16 - 48 - 4)]),  # without the pillow's pixels
    "cityscapes": ([(13, LEFT), (13, RIGHT)], [(11, np.s_[-1, 1:])], [(0, 10 * 15 - 48)]),
    "coco-panoptic": ([(2, LEFT), (2, RIGHT)], [(4, 0)], [(80, 10 * 16 - 48)]),
    # objects that overlap, and a crowd, of another file than the labels
    "coco-instances": ([(2, LARGE), (0, SMALL)], [(4, COLUMN)], [(80, 10 * 16 - 80)]),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_objects_and_segments_by_hand(name, tmp_path):
    count, classes, split, id, expected = LABELS[name]
    found = load_dataset(tiny_sets.ALL[name](tmp_path), tmp_path, split)
    assert len(found.classes) == count and classes.items() <= dict(enumerate(found.classes)).items()
    assert found.background == (0 if count < 10 else None)  # of the tiny sets of more classes every one is of interest
    assert found.ids[0] == id and np.array_equal(found.label(id), expected)
    if name in OBJECTS:
        *wanted, stuff = OBJECTS[name]
        for read, objects in zip((found.instances, found.crowds), wanted):
            masks = [drawn((place, 1)).astype(bool) for _, place in objects]
            assert [one.class_index for one in read(id)] == [index for index, _ in objects]
            assert all(np.array_equal(one.mask, mask) for one, mask in zip(read(id), masks, strict=True))
        assert [(one.class_index, one.mask.sum()) for one in found.segments(id)[len(wanted[0]) :]] == stuff


def test_compressed_rle_is_read_and_no_object_is_background(tmp_path):
    from pycocotools import mask

    tiny_sets.coco(tmp_path)
    path, square = tmp_path / "coco/annotations/instances_val2017.json", np.zeros((12, 16), np.uint8, order="F")
    square[5:7, 5:9] = 1
    packed = {"size": [12, 16], "counts": mask.encode(square)["counts"].decode()}
    edit_json(path, lambda c: c.update(annotations=[{**c["annotations"][0], "segmentation": packed}]))
    assert np.array_equal(load_dataset("coco", tmp_path, "val").label("val0"), square * 2)
    edit_json(path, lambda c: c.update(annotations=[]))
    found = load_dataset("coco", tmp_path, "val")
    assert not found.label("val0").any() and found.instances("val0") == []


# things and stuff


def test_segments_neither_overlap_nor_leave_labelled_pixels(panoptic):
    found, thing, stuff = panoptic
    for id in found.ids:
        segments, label = found.segments(id), found.label(id)
        times = np.sum([one.mask for one in segments], axis=0)
        assert times.max() == 1
        crowd = np.any([one.mask for one in found.crowds(id)] or [times < 0], axis=0)
        assert np.array_equal(times == 1, (label != 255) & ~crowd)
        assert {one.class_index for one in segments} >= {thing, stuff} and not any(one.crowd for one in segments)


def test_coco_has_things_first_and_its_masks_may_lie_where_detectron2_wants_them(tmp_path):
    found = load_dataset(tiny_sets.coco_panoptic(tmp_path), tmp_path, "val")
    assert found.things == tuple(range(80)) and found.stuff == tuple(range(80, 133))
    for year in ("train2017", "val2017"):
        (tmp_path / f"coco/annotations/panoptic_{year}").rename(tmp_path / f"coco/panoptic_{year}")
    moved = load_dataset("coco-panoptic", tmp_path, "val")
    assert np.array_equal(moved.label("val1"), drawn((BOX, 2), (0, 255), (-1, 255), outside=80))
    assert str(moved.annotation_files[1]) == "coco/panoptic_val2017/val0.png"


def test_coco_instances_are_the_panoptic_set_with_objects_of_another_file(tmp_path):
    found = load_dataset(tiny_sets.coco_instances(tmp_path), tmp_path, "val")
    other = load_dataset("coco-panoptic", tmp_path, "val")
    assert (found.classes, found.things, found.ids) == (other.classes, other.things, other.ids)
    more = set(map(str, found.annotation_files)) - set(map(str, other.annotation_files))
    assert more == {"coco/annotations/instances_val2017.json"}
    edit_json(tmp_path / min(more), lambda content: content["categories"][0].update(name="unicorn"))
    with refused("things of the panoptic set in .* found unicorn"):
        load_dataset("coco-instances", tmp_path, "val")


def test_crowds_are_protected_outside_the_mask(tmp_path):
    """Published: the mask is the union of the segments that are no crowd; a group of persons is only background."""
    root = tmp_path / "data"
    found = load_dataset(tiny_sets.cityscapes(root), root, "val")
    id = found.ids[0]
    (crowd,) = found.crowds(id)
    assert crowd.mask.any() and (found.label(id)[crowd.mask] == 11).all()  # it counts in the label map
    row = poison_dataset(found, "gray_offset", tmp_path / "out", PoisonSettings(eps=8, eps_bg=2))[0]
    copy = load_dataset("cityscapes", tmp_path / "out", "val")
    change = abs(copy.image(id).astype(int) - found.image(id)).max(axis=2)
    protected = (found.label(id) != 255) & ~crowd.mask
    assert change[crowd.mask].max() == 2 and change[protected].max() == 8
    assert row["protected"] == pytest.approx(protected.mean(), abs=1e-6)


def test_things_or_stuff_can_be_protected(panoptic, tmp_path):
    found, thing, stuff = panoptic
    assert protected_classes(found, "things") == list(found.things) and thing in found.things
    assert protected_classes(found, "stuff") == list(found.stuff) and stuff in found.stuff
    both = sorted(protected_classes(found, "things") + protected_classes(found, "stuff"))
    assert both == protected_classes(found, "all")
    rows = poison_dataset(found, "random", tmp_path / "out", PoisonSettings(seed=1), protect="things")
    protected = np.isin(found.label(found.ids[0]), found.things)
    for crowd in found.crowds(found.ids[0]):
        protected &= ~crowd.mask
    assert rows[0]["protected"] == pytest.approx(protected.mean(), abs=1e-6)
    plain = load_dataset(tiny_sets.ssdd(tmp_path), tmp_path, "train")
    with refused("tells things from stuff for protect=things, found ssdd"):
        protected_classes(plain, "things")


# one object against its background


@pytest.mark.parametrize(("name", "images"), [("lung", "LungSegmentation/images"), ("kvasir", "Kvasir-SEG/images")])
def test_medical_sets_take_a_fifth_and_leave_out_images_without_mask(name, images, tmp_path):
    tiny_sets.ALL[name](tmp_path)
    tiny_sets.write_image(tmp_path / images / "CXR_99_0.png", tiny_sets.image(0))
    assert [len(load_dataset(name, tmp_path, split)) for split in ("train", "test")] == [8, 2]


def test_hqseg_is_one_set_of_all_parts(tmp_path):
    train = load_dataset(tiny_sets.ALL["hqseg44k"](tmp_path), tmp_path, "train")
    test = load_dataset("hqseg44k", tmp_path, "test")
    assert len(train) == 14 and len(test) == 4
    assert "FSS-train1" in train.ids and test.ids[1] == "COIFT-test0"
    for id in train.ids:
        assert np.array_equal(train.label(id), label(1))
    # image and mask of one name lie in one folder
    assert train.image_path("FSS-train1").name == "train1.jpg"
    assert train.relative_image("FSS-train1").as_posix().endswith("cascade_psp/fss_all/im/train1.jpg")
    # a mask without image is left out, as SAM-HQ does
    folder = tmp_path / "interactive/hqseg44k/cascade_psp/ecssd"
    shutil.copy(folder / "train0.png", folder / "stray.png")
    assert not any("stray" in id for id in load_dataset("hqseg44k", tmp_path, "train").ids)
    shutil.copy(folder / "train0.jpg", folder / "bare.jpg")
    with refused(r"Expected a mask called bare in .*ecssd"):
        load_dataset("hqseg44k", tmp_path, "train")


@pytest.mark.parametrize("name", ["coift", "hrsod"])
def test_sets_that_are_only_tested_on(name, tmp_path, capsys):
    tiny_sets.ALL[name](tmp_path)
    assert splits_of(name) == ("test",)
    with refused(f"Unknown split of {name}: 'train'; Known: test"):
        load_dataset(name, tmp_path, "train")
    assert check(name, tmp_path) == {"test": 1} and "can be read" in capsys.readouterr().out


def test_notebook_02_knows_that_nobody_protects_a_crowd(project, tmp_path, monkeypatch):
    """It measured crowds as part of the inside, and stopped at Cityscapes for a difference to the manifest."""
    monkeypatch.chdir(tmp_path)
    how = {"dataset": tiny_sets.cityscapes(tmp_path), "data_root": str(tmp_path), "poison": "random"}
    metrics = play(project / "notebooks/02_poison_dataset.ipynb", **how, out=str(tmp_path / "out"))["metrics"]
    assert (metrics["linf_inside"], metrics["linf_outside"]) == (8, 2)
