"""Sets of the paper with panoptic masks, of SAM-HQ and of RSPrompter: labels, objects and segments by hand."""

import shutil

import numpy as np
import pytest
import tiny_sets
from tiny_sets import BOX, drawn, label, refused

from unseg_lib.datasets import check, load_dataset, splits_of
from unseg_lib.datasets import panoptic as sets
from unseg_lib.datasets.folders import hqseg_parts
from unseg_lib.files import read_json
from unseg_lib.pipeline import project_root, run_notebook
from unseg_lib.poisons import PoisonSettings, poison_dataset, protected_classes

# of pycocotools with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PANOPTIC = {"ade20k": (7, 3), "cityscapes": (13, 0), "coco-panoptic": (2, 80)}  # the tiny sets' thing and stuff


@pytest.fixture(params=PANOPTIC)
def panoptic(request, tmp_path):
    """(set, its thing, its stuff)."""
    name = tiny_sets.ALL[request.param](tmp_path / "data")
    return load_dataset(name, tmp_path / "data", "val"), *PANOPTIC[name]


def told(objects) -> list[tuple[int, int]]:
    """(class, pixels) of each object."""
    return [(one.class_index, int(one.mask.sum())) for one in objects]


def test_published_counts():
    assert len(sets.ADE_CLASSES) == len(set(sets.ADE_CLASSES)) == 150 and len(sets.ADE_THINGS) == 100
    assert not any("," in name for name in sets.ADE_CLASSES)  # names are given to `protect` joined by commas
    assert (sets.ADE_THINGS[0], sets.ADE_THINGS[-1]) == (7, 149)  # bed and flag, as the paper's script says
    assert {sets.ADE_CLASSES[sets.ADE_THINGS[k - 1]] for k in (4, 9, 50, 94)} == {"person", "car", "bus", "plate"}
    assert len(sets.CITY_LABELS) == 19
    names = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    assert tuple(list(sets.CITY_LABELS)[i] for i in sets.CITY_THINGS) == names
    assert [len(hqseg_parts("hqseg44k", split)) for split in ("train", "test")] == [7, 4]


# labels, objects, segments


def test_ade20k_by_hand(tmp_path):
    found = load_dataset(tiny_sets.ade20k(tmp_path), tmp_path, "val")
    id = found.ids[0]
    assert len(found) == 3 and id == "ADE_validation_00000000" and found.background is None
    assert np.array_equal(found.label(id), drawn((BOX, 7), (0, 255), outside=3))
    left, right, pillow = found.instances(id)
    assert [one.class_index for one in (left, right, pillow)] == [7, 7, 57] and found.classes[57] == "pillow"
    assert np.array_equal(left.mask, drawn((tiny_sets.LEFT, 1))) and pillow.mask.sum() == 4
    floor = found.segments(id)[-1]
    assert floor.class_index == 3 and floor.mask.sum() == 11 * 16 - 48 - 4  # without the pillow's pixels


def test_cityscapes_by_hand(tmp_path):
    found = load_dataset(tiny_sets.cityscapes(tmp_path), tmp_path, "val")
    id = "valcity0_000000_000019"
    place = "cityscapes/leftImg8bit/val/valcity0/valcity0_000000_000019_leftImg8bit.png"
    assert found.ids[0] == id and str(found.relative_image(id)) == place
    # a row of persons that nobody told apart, a caravan, which nobody scores, and void
    expected = drawn((BOX, 13), (-1, 11), ((slice(None), 0), 255), (0, 255))
    assert np.array_equal(found.label(id), expected)
    assert told(found.instances(id)) == [(13, 24), (13, 24)]
    assert told(found.crowds(id)) == [(11, 15)]
    assert [one.class_index for one in found.segments(id)] == [13, 13, 0]


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


def test_coco_instances_by_hand(tmp_path):
    """The panoptic set's images, labels and things; objects that overlap, and a crowd, of the other file."""
    found = load_dataset(tiny_sets.coco_instances(tmp_path), tmp_path, "val")
    other = load_dataset("coco-panoptic", tmp_path, "val")
    assert (found.classes, found.things, found.ids) == (other.classes, other.things, other.ids)
    assert np.array_equal(found.label("val1"), other.label("val1"))
    assert told(found.instances("val1")) == [(2, 80), (0, 9)] and told(found.crowds("val1"))[0][0] == 4
    large, small = (one.mask for one in found.instances("val1"))
    assert not (small & ~large).any()
    assert set(map(str, found.annotation_files)) - set(map(str, other.annotation_files)) == {
        "coco/annotations/instances_val2017.json"
    }
    path = tmp_path / "coco/annotations/instances_val2017.json"
    tiny_sets.edit_json(path, lambda content: content["categories"][0].update(name="unicorn"))
    with refused("things of the panoptic set in .* found unicorn"):
        load_dataset("coco-instances", tmp_path, "val")


def test_coco_panoptic_by_hand(tmp_path):
    found = load_dataset(tiny_sets.coco_panoptic(tmp_path), tmp_path, "val")
    assert len(found.classes) == 133 and found.things == tuple(range(80)) and found.stuff == tuple(range(80, 133))
    expected = drawn((BOX, 2), (0, 255), (-1, 255), outside=80)
    assert np.array_equal(found.label("val1"), expected)
    assert [one.class_index for one in found.instances("val1")] == [2, 2]
    assert told(found.crowds("val1")) == [(4, 16)]
    assert [one.class_index for one in found.segments("val1")] == [2, 2, 80]
    for year in ("train2017", "val2017"):  # the layout that detectron2 wants
        (tmp_path / f"coco/annotations/panoptic_{year}").rename(tmp_path / f"coco/panoptic_{year}")
    found = load_dataset("coco-panoptic", tmp_path, "val")
    assert np.array_equal(found.label("val1"), expected)
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


@pytest.mark.parametrize(("name", "what", "first"), [("whu", "building", "test-100"), ("ssdd", "ship", "val0")])
def test_remote_sensing_json(name, what, first, tmp_path):
    found = load_dataset(tiny_sets.ALL[name](tmp_path), tmp_path, "test")
    assert found.classes == ("background", what) and found.ids[0] == first and found.stuff == ()
    assert np.array_equal(found.label(first), drawn(((slice(None), 0), 255), (np.s_[1:9, 2:12], 1)))
    assert told(found.segments(first)) == [(1, 9), (1, 80)] and told(found.crowds(first)) == [(1, tiny_sets.HEIGHT)]
    assert {split: len(load_dataset(name, tmp_path, split)) for split in splits_of(name)[:2]} == {"train": 8, "val": 3}


# SAM-HQ's sets


def test_hqseg_is_one_set_of_all_parts(tmp_path):
    train = load_dataset(tiny_sets.ALL["hqseg44k"](tmp_path), tmp_path, "train")
    test = load_dataset("hqseg44k", tmp_path, "test")
    assert len(train) == 14 and len(test) == 4 and train.classes == ("background", "object")
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
    assert np.array_equal(load_dataset(name, tmp_path, "test")[0][1], label(1))
    with refused(f"Unknown split of {name}: 'train'; Known: test"):
        load_dataset(name, tmp_path, "train")
    assert check(name, tmp_path) == {"test": 1} and "can be read" in capsys.readouterr().out


# poisoned copies


def test_masks_beside_images_survive_in_a_poisoned_copy_and_the_images_lie_apart_from_them(tmp_path):
    source = load_dataset(tiny_sets.ALL["hqseg44k"](tmp_path / "data"), tmp_path / "data", "train")
    poison_dataset(source, "random", tmp_path / "out", PoisonSettings(seed=1))
    place = "interactive/hqseg44k/cascade_psp/DUTS-TR"
    before, after = ((tmp_path / root / place / "train0.png").read_bytes() for root in ("data", "out"))
    assert before == after
    copy = load_dataset("hqseg44k", tmp_path / "out", "train")
    assert copy.image_path("DUTS-TR-train0") == tmp_path / "out" / place / "im/train0.png"


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
    (tmp_path / "ssdd").mkdir()
    plain = load_dataset(tiny_sets.ssdd(tmp_path / "ssdd"), tmp_path / "ssdd", "train")
    with refused("tells things from stuff for protect=things, found ssdd"):
        protected_classes(plain, "things")


def test_notebook_02_knows_that_nobody_protects_a_crowd(tmp_path):
    """It measured crowds as part of the inside, and stopped at Cityscapes for a difference to the manifest."""
    tiny_sets.ALL["cityscapes"](tmp_path)
    notebook = project_root() / "notebooks/02_poison_dataset.ipynb"
    values = {"dataset": "cityscapes", "data_root": str(tmp_path), "poison": "random", "out": str(tmp_path / "out")}
    metrics = run_notebook(notebook, tmp_path / "out", values, threads=1) / "metrics.json"
    assert read_json(metrics)["linf_inside"] == 8 and read_json(metrics)["linf_outside"] == 2
