"""Sets of the paper with panoptic masks, of SAM-HQ and of RSPrompter: labels, objects and segments by hand, faults."""

import json
import re
import shutil

import numpy as np
import pytest
import tiny_sets
from PIL import Image

from unseg_lib.datasets import ade20k, check, cityscapes, hqseg, load_dataset, splits_of
from unseg_lib.errors import UnsegError
from unseg_lib.images import write_image
from unseg_lib.poisons import PoisonSettings, poison_dataset, protected_classes

# of pycocotools with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PANOPTIC = {"ade20k": (7, 3), "cityscapes": (13, 0), "coco-panoptic": (2, 80)}  # the tiny sets' thing and stuff


def drawn(*shapes: tuple, outside: int) -> np.ndarray:
    """A label map of (place, class) on `outside`."""
    label = np.full((tiny_sets.HEIGHT, tiny_sets.WIDTH), outside, np.uint8)
    for place, index in shapes:
        label[place] = index
    return label


@pytest.fixture(params=PANOPTIC)
def panoptic(request, tmp_path):
    """(set, its thing, its stuff)."""
    name = tiny_sets.ALL[request.param](tmp_path / "data")
    return load_dataset(name, tmp_path / "data", "val"), *PANOPTIC[name]


# classes


def test_published_counts():
    assert len(ade20k.CLASSES) == len(set(ade20k.CLASSES)) == 150 and len(ade20k.THINGS) == 100
    assert not any("," in name for name in ade20k.CLASSES)  # names are given to `protect` joined by commas
    assert (ade20k.THINGS[0], ade20k.THINGS[-1]) == (7, 149)  # bed and flag, as the paper's script says
    assert {ade20k.CLASSES[ade20k.THINGS[k - 1]] for k in (4, 9, 50, 94)} == {"person", "car", "bus", "plate"}
    assert len(cityscapes.CLASSES) == 19
    names = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    assert tuple(cityscapes.CLASSES[i] for i in cityscapes.THINGS) == names
    assert len(hqseg.SETS["hqseg44k"]["train"]) == 7 and len(hqseg.SETS["hqseg44k"]["test"]) == 4


# labels, objects, segments


def test_ade20k_by_hand(tmp_path):
    found = load_dataset(tiny_sets.ade20k(tmp_path), tmp_path, "val")
    id = found.ids[0]
    assert len(found) == 3 and id == "ADE_validation_00000000" and found.background is None
    assert np.array_equal(found.label(id), drawn((tiny_sets.BOX, 7), (0, 255), outside=3))
    left, right, pillow = found.instances(id)
    assert [one.class_index for one in (left, right, pillow)] == [7, 7, 57] and found.classes[57] == "pillow"
    assert np.array_equal(left.mask, drawn((tiny_sets.LEFT, 1), outside=0)) and pillow.mask.sum() == 4
    floor = found.segments(id)[-1]
    assert floor.class_index == 3 and floor.mask.sum() == 11 * 16 - 48 - 4  # without the pillow's pixels


def test_cityscapes_by_hand(tmp_path):
    found = load_dataset(tiny_sets.cityscapes(tmp_path), tmp_path, "val")
    id = "valcity0_000000_000019"
    place = "cityscapes/leftImg8bit/val/valcity0/valcity0_000000_000019_leftImg8bit.png"
    assert found.ids[0] == id and str(found.relative_image(id)) == place
    # a row of persons that nobody told apart, a caravan, which nobody scores, and void
    expected = drawn((tiny_sets.BOX, 13), (-1, 11), ((slice(None), 0), 255), (0, 255), outside=0)
    assert np.array_equal(found.label(id), expected)
    assert [(one.class_index, int(one.mask.sum())) for one in found.instances(id)] == [(13, 24), (13, 24)]
    assert [(one.class_index, int(one.mask.sum())) for one in found.crowds(id)] == [(11, 15)]
    assert [one.class_index for one in found.segments(id)] == [13, 13, 0]


def test_coco_panoptic_by_hand(tmp_path):
    found = load_dataset(tiny_sets.coco_panoptic(tmp_path), tmp_path, "val")
    assert len(found.classes) == 133 and found.things == tuple(range(80)) and found.stuff == tuple(range(80, 133))
    expected = drawn((tiny_sets.BOX, 2), (0, 255), (-1, 255), outside=80)
    assert np.array_equal(found.label("val1"), expected)
    assert [one.class_index for one in found.instances("val1")] == [2, 2]
    assert [(one.class_index, int(one.mask.sum())) for one in found.crowds("val1")] == [(4, 16)]
    assert [one.class_index for one in found.segments("val1")] == [2, 2, 80]


def test_coco_panoptic_in_the_layout_of_detectron2(tmp_path):
    tiny_sets.coco_panoptic(tmp_path)
    before = load_dataset("coco-panoptic", tmp_path, "val").label("val0")
    for year in ("train2017", "val2017"):
        (tmp_path / f"coco/annotations/panoptic_{year}").rename(tmp_path / f"coco/panoptic_{year}")
    found = load_dataset("coco-panoptic", tmp_path, "val")
    assert np.array_equal(found.label("val0"), before)
    assert str(found.annotation_files[1]) == "coco/panoptic_val2017/val0.png"


def test_segments_neither_overlap_nor_leave_labelled_pixels(panoptic):
    found, thing, stuff = panoptic
    for id in found.ids:
        segments, label = found.segments(id), found.label(id)
        times = np.sum([one.mask for one in segments], axis=0)
        assert times.max() == 1
        crowd = np.any([one.mask for one in found.crowds(id)] or [times < 0], axis=0)
        assert np.array_equal(times == 1, (label != 255) & ~crowd)
        assert {one.class_index for one in segments} >= {thing, stuff} and not any(one.crowd for one in segments)


def test_task_object_of_a_panoptic_set(panoptic):
    found, *_ = panoptic
    objects = load_dataset(found.name, found.root, "val", task="object")
    id = found.ids[0]
    assert objects.things is None and objects.stuff == ()
    assert [one.class_index for one in objects.segments(id)] == [1] * len(found.instances(id))
    assert np.array_equal(objects.label(id) == 1, found.label(id) != 255)


@pytest.mark.parametrize(("name", "what", "first"), [("whu", "building", "test-100"), ("ssdd", "ship", "val0")])
def test_remote_sensing_json(name, what, first, tmp_path):
    found = load_dataset(tiny_sets.ALL[name](tmp_path), tmp_path, "test")
    assert found.classes == ("background", what) and found.ids[0] == first and found.stuff == ()
    label = drawn(((slice(None), 0), 255), ((slice(1, 9), slice(2, 12)), 1), outside=0)
    assert np.array_equal(found.label(first), label)
    assert [int(one.mask.sum()) for one in found.segments(first)] == [9, 80]
    assert [int(one.mask.sum()) for one in found.crowds(first)] == [tiny_sets.HEIGHT]
    assert {split: len(load_dataset(name, tmp_path, split)) for split in splits_of(name)[:2]} == {"train": 8, "val": 3}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["categories"][0].pop("name"), "found json without 'name'"),
        (lambda c: c["images"][0].pop("width"), "found json without 'width'"),
        (lambda c: c["images"][0].update(height="11"), r"height and width of val0\.jpg in .* found '11' and 16"),
        (lambda c: c["images"][0].update(height=0), "found 0 and 16"),
        (lambda c: c.update(annotations=[3]), "found json of another form"),
    ],
)
def test_a_json_that_lacks_what_is_needed_is_refused(change, words, tmp_path):
    tiny_sets.ALL["ssdd"](tmp_path)
    notes = next(tmp_path.rglob("SSDD_instances_val.json"))
    content = json.loads(notes.read_text())
    change(content)
    notes.write_text(json.dumps(content))
    with pytest.raises(UnsegError, match=f"^Expected .*{words}"):
        load_dataset("ssdd", tmp_path, "val")


def test_an_annotation_without_a_shape_is_named(tmp_path):
    tiny_sets.ALL["ssdd"](tmp_path)
    notes = next(tmp_path.rglob("SSDD_instances_val.json"))
    content = json.loads(notes.read_text())
    number = content["annotations"][0]["id"]
    content["annotations"][0].pop("segmentation")
    notes.write_text(json.dumps(content))
    with pytest.raises(UnsegError, match=rf"a polygon or RLE in annotation {number} of val0\.jpg.*'segmentation'"):
        load_dataset("ssdd", tmp_path, "val").label("val0")


# SAM-HQ's sets


def test_hqseg_is_one_set_of_all_parts(tmp_path):
    train = load_dataset(tiny_sets.ALL["hqseg44k"](tmp_path), tmp_path, "train")
    test = load_dataset("hqseg44k", tmp_path, "test")
    assert len(train) == 14 and len(test) == 4 and train.classes == ("background", "object")
    assert "FSS-train1" in train.ids and test.ids[1] == "COIFT-test0"
    for id in train.ids:
        assert np.array_equal(train.label(id), tiny_sets.label(1))
    # image and mask of one name lie in one folder
    assert train.image_path("FSS-train1").name == "train1.jpg"
    assert train.relative_image("FSS-train1").as_posix().endswith("cascade_psp/fss_all/im/train1.jpg")


def test_a_mask_without_image_is_left_out_as_sam_hq_does(tmp_path):
    tiny_sets.ALL["hqseg44k"](tmp_path)
    folder = tmp_path / "interactive/hqseg44k/cascade_psp/ecssd"
    shutil.copy(folder / "train0.png", folder / "stray.png")
    assert not any("stray" in id for id in load_dataset("hqseg44k", tmp_path, "train").ids)
    shutil.copy(folder / "train0.jpg", folder / "bare.jpg")
    with pytest.raises(UnsegError, match=r"Expected a mask called bare in .*ecssd"):
        load_dataset("hqseg44k", tmp_path, "train")


@pytest.mark.parametrize("name", ["coift", "hrsod"])
def test_sets_that_are_only_tested_on(name, tmp_path, capsys):
    tiny_sets.ALL[name](tmp_path)
    assert splits_of(name) == ("test",)
    assert np.array_equal(load_dataset(name, tmp_path, "test")[0][1], tiny_sets.label(1))
    with pytest.raises(UnsegError, match=f"Unknown split of {name}: 'train'; Known: test"):
        load_dataset(name, tmp_path, "train")
    assert check(name, tmp_path) == {"test": 1} and "can be read" in capsys.readouterr().out


# poisoned copies


@pytest.mark.parametrize("name", [*PANOPTIC, "whu", "hqseg44k"])
def test_poisoned_copies_are_whole_sets(name, tmp_path):
    source = load_dataset(tiny_sets.ALL[name](tmp_path / "data"), tmp_path / "data", "train")
    poison_dataset(source, "random", tmp_path / "out", PoisonSettings(seed=1))
    copy = load_dataset(name, tmp_path / "out", "train")
    assert copy.ids == source.ids
    for id in copy.ids:
        change = np.abs(copy.image(id).astype(int) - source.image(id)).max(axis=2)
        wanted = np.isin(source.label(id), protected_classes(source, "all"))
        assert np.array_equal(copy.label(id), source.label(id))
        assert (
            change[wanted].max() > 2
            and change[wanted].max() <= 8
            and change[source.label(id) == 255].max(initial=0) <= 2
        )
        if source.read_instances:
            pairs = zip(copy.segments(id), source.segments(id), strict=True)
            assert all(np.array_equal(a.mask, b.mask) and a.class_index == b.class_index for a, b in pairs)


def test_masks_beside_images_survive_the_poisoning(tmp_path):
    source = load_dataset(tiny_sets.ALL["hqseg44k"](tmp_path / "data"), tmp_path / "data", "train")
    poison_dataset(source, "random", tmp_path / "out", PoisonSettings(seed=1))
    place = "interactive/hqseg44k/cascade_psp/DUTS-TR"
    assert (tmp_path / "out" / place / "train0.png").read_bytes() == (
        tmp_path / "data" / place / "train0.png"
    ).read_bytes()
    copy = load_dataset("hqseg44k", tmp_path / "out", "train")
    assert copy.image_path("DUTS-TR-train0") == tmp_path / "out" / place / "im/train0.png"


def test_things_or_stuff_can_be_protected(panoptic, tmp_path):
    found, thing, stuff = panoptic
    assert protected_classes(found, "things") == list(found.things) and thing in found.things
    assert protected_classes(found, "stuff") == list(found.stuff) and stuff in found.stuff
    both = sorted(protected_classes(found, "things") + protected_classes(found, "stuff"))
    assert both == protected_classes(found, "all")
    rows = poison_dataset(found, "random", tmp_path / "out", PoisonSettings(seed=1), protect="things")
    label = found.label(found.ids[0])
    assert rows[0]["protected"] == pytest.approx(np.isin(label, found.things).mean(), abs=1e-6)


def test_things_of_a_set_without_them_are_refused(tmp_path):
    found = load_dataset(tiny_sets.ssdd(tmp_path), tmp_path, "train")
    with pytest.raises(UnsegError, match="tells things from stuff for protect=things, found ssdd"):
        protected_classes(found, "things")


# faults


@pytest.mark.parametrize("name", ["ade20k", "cityscapes", "coco-panoptic", "whu", "ssdd", "dis5k", "coift", "hrsod"])
def test_absent_sets_say_how_to_get_them(name, tmp_path):
    with pytest.raises(UnsegError, match=f"get it with `unseg data get {name}`"):
        load_dataset(name, tmp_path, "test")


def test_absent_parts_say_how_to_get_them(tmp_path):
    tiny_sets.ade20k(tmp_path)
    shutil.rmtree(tmp_path / "ADEChallengeData2016/annotations_instance")
    found = load_dataset("ade20k", tmp_path, "train")
    assert found.label(found.ids[0]).shape == (tiny_sets.HEIGHT, tiny_sets.WIDTH)  # semantic segmentation needs none
    with pytest.raises(UnsegError, match=r"annotations_instance/training, .*unseg data get ade20k-instances"):
        found.instances(found.ids[0])
    tiny_sets.coco_panoptic(tmp_path)
    shutil.rmtree(tmp_path / "coco/annotations/panoptic_val2017")
    with pytest.raises(UnsegError, match=r"panoptic_val2017, .*unseg data get coco-panoptic"):
        load_dataset("coco-panoptic", tmp_path, "val")
    for part, name in {"DIS5K": "dis5k", "thin_object_detection": "thinobject5k", "cascade_psp": "hqseg44k"}.items():
        tiny_sets.ALL["hqseg44k"](tmp_path / part)
        shutil.rmtree(tmp_path / part / "interactive/hqseg44k" / part)
        with pytest.raises(UnsegError, match=f"get it with `unseg data get {name}`"):
            load_dataset("hqseg44k", tmp_path / part, "train")


@pytest.mark.parametrize("name", ["coco-panoptic", "whu", "ssdd"])
def test_json_that_names_a_missing_image(name, tmp_path):
    found = load_dataset(tiny_sets.ALL[name](tmp_path), tmp_path, "val")
    found.image_path(found.ids[1]).unlink()
    with pytest.raises(UnsegError, match=f"Expected an image called {found.images[found.ids[1]].name} in "):
        check(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "notes", "count"),
    [
        ("coco-panoptic", "coco/annotations/panoptic_val2017.json", 133),
        ("whu", "WHU/annotations/WHU_building_val.json", 1),
        ("ssdd", "SSDD/annotations/SSDD_instances_val.json", 1),
    ],
)
def test_another_number_of_classes(name, notes, count, tmp_path):
    tiny_sets.ALL[name](tmp_path)
    content = json.loads((tmp_path / notes).read_text())
    content["categories"].append({"id": 999, "name": "more", "isthing": 1})
    (tmp_path / notes).write_text(json.dumps(content))
    with pytest.raises(UnsegError, match=f"Expected {count} classes in .*, found {count + 1}; is it the json"):
        load_dataset(name, tmp_path, "val")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("annotations"), "found json without 'annotations'"),
        (lambda c: c["annotations"][0].pop("segments_info"), "found json without 'segments_info'"),
        (lambda c: c["annotations"][0]["segments_info"][0].pop("iscrowd"), "found json without 'iscrowd'"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=91), "found unknown class 91"),
        (lambda c: c["annotations"].pop(0), "Expected an annotation of every image in .*, found none of val0"),
        (lambda c: c["categories"][0].pop("isthing"), "found json without 'isthing'"),
    ],
)
def test_damaged_panoptic_json(change, words, tmp_path):
    tiny_sets.coco_panoptic(tmp_path)
    path = tmp_path / "coco/annotations/panoptic_val2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UnsegError, match=words):
        load_dataset("coco-panoptic", tmp_path, "val")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UnsegError, match=f"Expected JSON in {re.escape(str(path))}"):
        load_dataset("coco-panoptic", tmp_path, "val")


def test_damaged_panoptic_png(tmp_path):
    tiny_sets.coco_panoptic(tmp_path)
    found, folder = load_dataset("coco-panoptic", tmp_path, "val"), tmp_path / "coco/annotations/panoptic_val2017"
    shutil.copy(folder / "val1.png", folder / "val0.png")  # of another image
    for read in (found.label, found.instances):
        with pytest.raises(UnsegError, match=r"same segments in .*val0\.png and in the json, found 70000 in the json"):
            read("val0")
    write_image(folder / "val0.png", np.full((12, 16, 3), 1, np.uint8))
    with pytest.raises(UnsegError, match="found 7 in the json only"):
        found.label("val0")
    (folder / "val1.png").write_bytes((folder / "val1.png").read_bytes()[:80])
    with pytest.raises(UnsegError, match=r"readable image in .*val1\.png, found a corrupt one"):
        found.label("val1")
    (folder / "val2.png").unlink()
    with pytest.raises(UnsegError, match=r"Expected a mask called val2 in .*panoptic_val2017, found none"):
        load_dataset("coco-panoptic", tmp_path, "val")


def test_masks_of_objects_of_another_size(tmp_path):
    found = load_dataset(tiny_sets.ade20k(tmp_path), tmp_path, "val")
    path = tmp_path / f"ADEChallengeData2016/annotations_instance/validation/{found.ids[0]}.png"
    write_image(path, np.ones((5, 7, 3), np.uint8))
    with pytest.raises(UnsegError, match=f"for {found.ids[0]} of ade20k, the size of its image, found 7x5"):
        check("ade20k", tmp_path)


@pytest.mark.parametrize(
    ("colours", "words"), [((101, 1, 0), "found 101"), ((0, 1, 0), "found 0"), (None, "found 3, 9")]
)
def test_ade20k_objects_of_no_class_or_two(colours, words, tmp_path):
    found = load_dataset(tiny_sets.ade20k(tmp_path), tmp_path, "val")
    objects = np.zeros((tiny_sets.HEIGHT, tiny_sets.WIDTH, 3), np.uint8)
    objects[0] = colours or (3, 1, 0)
    objects[1] = colours or (9, 1, 0)
    write_image(tmp_path / f"ADEChallengeData2016/annotations_instance/validation/{found.ids[0]}.png", objects)
    with pytest.raises(UnsegError, match=f"one class from 1 to 100 for object 1 in .*, {words}; get ade20k-instances"):
        found.instances(found.ids[0])


def test_ade20k_with_more_classes_than_published(tmp_path):
    found = load_dataset(tiny_sets.ade20k(tmp_path), tmp_path, "val")
    mask = np.full((tiny_sets.HEIGHT, tiny_sets.WIDTH, 1), 151, np.uint8)
    write_image(tmp_path / f"ADEChallengeData2016/annotations/validation/{found.ids[0]}.png", mask, gray=True)
    with pytest.raises(
        UnsegError, match=f"classes 0 to 149 or 255 in the mask of {found.ids[0]} of ade20k, found class 150"
    ):
        found.label(found.ids[0])


@pytest.mark.parametrize("kind", ["ade20k", "cityscapes", "dis5k"])
def test_images_without_mask(kind, tmp_path):
    found = load_dataset(tiny_sets.ALL[kind](tmp_path), tmp_path, "train")
    mask = tmp_path / found.annotation_files[0]
    mask.unlink()
    with pytest.raises(UnsegError, match=r"Expected a mask called .*, found none"):
        load_dataset(kind, tmp_path, "train")


def test_damaged_cityscapes_masks(tmp_path):
    found = load_dataset(tiny_sets.cityscapes(tmp_path), tmp_path, "val")
    first, second = (tmp_path / path for path in found.annotation_files[:2])
    Image.fromarray(np.full((12, 16), 34_000, np.uint16)).save(first)
    with pytest.raises(UnsegError, match=r"labels 0 to 33 in .*, found others; is it an _instanceIds\.png"):
        found.label(found.ids[0])
    write_image(first, np.zeros((12, 16, 3), np.uint8))
    with pytest.raises(UnsegError, match="found others"):
        found.instances(found.ids[0])
    second.write_bytes(second.read_bytes()[:60])
    with pytest.raises(UnsegError, match=r"readable mask in .*, found a corrupt one"):
        found.label(found.ids[1])


# real images


@pytest.mark.real
@pytest.mark.parametrize("name", ["nwpu", "coco"])
def test_segments_of_real_instances_are_the_objects(name, data_root):
    found = load_dataset(name, data_root, "test", limit=6)
    assert found.things is None and found.stuff == ()
    for id in found.ids:
        objects, label = found.segments(id), found.label(id)
        assert objects and not found.crowds(id)
        assert np.array_equal(np.any([one.mask for one in objects], axis=0), label > 0)
        assert {one.class_index for one in objects} >= set(np.unique(label[label > 0]).tolist())


@pytest.mark.real
def test_real_images_in_the_layout_of_coco_panoptic(data_root, tmp_path):
    """COCO's real images with the panoptic annotations that their instances give: the labels must not change."""
    source = load_dataset("coco", data_root, "test", limit=3)
    kinds = [{"id": i, "name": name, "isthing": 1} for i, name in enumerate(source.classes[1:], start=1)]
    kinds += [{"id": 100 + i, "name": f"stuff {i}", "isthing": 0} for i in range(53)]
    images, notes = [], []
    for number, id in enumerate(source.ids):
        (tmp_path / "coco/val2017").mkdir(parents=True, exist_ok=True)
        shutil.copy(source.image_path(id), tmp_path / "coco/val2017")
        numbers, label = np.zeros(source.label(id).shape, np.int64), source.label(id)
        for index in np.unique(label[label > 0]).tolist():
            numbers[label == index] = 1000 * index + number
        segments = [{"id": n, "category_id": n // 1000, "iscrowd": 0} for n in np.unique(numbers[numbers > 0]).tolist()]
        notes.append({"image_id": number, "file_name": f"{id}.png", "segments_info": segments})
        images.append({"id": number, "file_name": f"{id}.jpg"})
        colours = np.stack([numbers >> shift & 255 for shift in (0, 8, 16)], 2).astype(np.uint8)
        write_image(tmp_path / f"coco/annotations/panoptic_val2017/{id}.png", colours)
    content = {"images": images, "annotations": notes, "categories": kinds}
    (tmp_path / "coco/annotations/panoptic_val2017.json").write_text(json.dumps(content))
    found = load_dataset("coco-panoptic", tmp_path, "val")
    for id in source.ids:
        before, after = source.label(id), found.label(id)
        assert np.array_equal(after == 255, before == 0)
        assert np.array_equal(found.image(id), source.image(id))
        assert np.array_equal(after[before > 0], before[before > 0] - 1)


@pytest.mark.real
def test_the_lists_of_the_reduced_data_name_real_images(data_root, project):
    lists = {"davis": "interactive/davis/im", "ccp": "interactive/ccp/im"}
    for name, place in (lists | dict.fromkeys(("voc_train", "voc_val"), "VOCdevkit/VOC2012/JPEGImages")).items():
        ids = (project / "data" / "small" / f"{name}.txt").read_text().split()
        assert len(ids) == len(set(ids)) > 100
        if (data_root / place).is_dir():
            assert all((data_root / place / f"{id}.jpg").is_file() for id in ids), name
