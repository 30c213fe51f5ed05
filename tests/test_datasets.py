"""Data sets: the same splits on every copy, labels as the papers read them."""

import json
import pickle
import shutil

import numpy as np
import pytest
import tiny_sets
from hypothesis import given
from hypothesis import strategies as st

from unseg_lib.datasets import (
    DATASETS,
    SegmentationSet,
    check,
    cut,
    cut_groups,
    group_of,
    load_dataset,
    shuffled,
    splits_of,
    subset,
)
from unseg_lib.errors import UnsegError
from unseg_lib.images import read_image, write_image

# of pycocotools with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(params=tiny_sets.WITH_TRAIN)
def tiny(request, tmp_path):
    """(name, root) of each kind of data set."""
    return tiny_sets.ALL[request.param](tmp_path / "data"), tmp_path / "data"


def poisoned_copy(source: SegmentationSet, out) -> None:
    """What a poisoned set holds: the annotation files and the images of its split, as PNG."""
    for path in source.annotation_files:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.root / path, out / path)
    for id in source.ids:
        write_image(out / source.relative_image(id).with_suffix(".png"), 255 - source.image(id))


# every kind of set


def test_every_kind_is_tested():
    assert set(tiny_sets.ALL) == set(DATASETS)


def test_images_and_labels_agree(tiny):
    name, root = tiny
    for split in splits_of(name):
        found = load_dataset(name, root, split)
        assert len(found) == len(found.ids) == len(set(found.ids)) > 0
        assert found.split == split and found.root == root
        for i, id in enumerate(found.ids):
            image, label = found[i]
            assert image.dtype == label.dtype == np.uint8 and image.shape == (*label.shape, 3)
            assert np.array_equal(image, found.image(id)) and np.array_equal(label, found.label(id))
            assert set(np.unique(label)) <= {*range(len(found.classes)), 255}
            assert id in found.originals or found.image_path(id) == root / found.relative_image(id)


def test_train_and_test_are_apart_and_holdout_is_cut_from_train(tiny):
    name, root = tiny
    ids = {split: set(load_dataset(name, root, split).ids) for split in splits_of(name)}
    assert not ids["train"] & ids["test"]
    assert ids["fit"] | ids["holdout"] == ids["train"] and not ids["fit"] & ids["holdout"]
    assert len(ids["fit"]) > len(ids["holdout"]) > 0


@pytest.mark.parametrize("split", ["train", "test", "fit", "holdout"])
def test_poisoned_copy_has_the_same_splits_and_labels(tiny, split, tmp_path):
    name, root = tiny
    source = load_dataset(name, root, split, limit=2)
    poisoned_copy(source, tmp_path / "poisoned")
    copy = load_dataset(name, tmp_path / "poisoned", split, limit=2)
    assert copy.ids == source.ids and copy.classes == source.classes
    for id in copy.ids:
        assert copy.relative_image(id).suffix == ".png"
        assert np.array_equal(copy.label(id), source.label(id))
        assert np.array_equal(copy.image(id), 255 - source.image(id))


def test_same_seed_same_ids_and_limits_are_nested(tiny):
    name, root = tiny
    large, small = (load_dataset(name, root, "train", seed=3, limit=n) for n in (5, 2))
    assert set(small.ids) < set(large.ids) and len(small) == 2
    assert load_dataset(name, root, "train", seed=3, limit=5).ids == large.ids
    assert load_dataset(name, root, "train", limit=10**6).ids == load_dataset(name, root, "train").ids


def test_object_task_is_object_against_background(tiny):
    name, root = tiny
    plain, objects = load_dataset(name, root, "train"), load_dataset(name, root, "train", task="object")
    assert objects.ids == plain.ids
    assert objects.classes == ("background", "object") and objects.background == 0
    for id in plain.ids:
        before, after = plain.label(id), objects.label(id)
        assert np.array_equal(after == 255, before == 255)
        of_interest = (before != 255) & (before != (-1 if plain.background is None else plain.background))
        assert np.array_equal(after == 1, of_interest)


def test_sets_travel_to_worker_processes(tiny):
    name, root = tiny
    found = load_dataset(name, root, "train", task="object")
    again = pickle.loads(pickle.dumps(found))
    assert np.array_equal(again[0][1], found[0][1])


def test_check_reads_everything_and_counts(tiny, capsys):
    name, root = tiny
    counts = check(name, root)
    assert counts["train"] == len(load_dataset(name, root, "train"))
    assert "can be read" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".PNG", ".JPG"])
def test_a_suffix_in_capitals_is_read_too(suffix, tmp_path):
    name = tiny_sets.folder(tmp_path)
    for path in sorted((tmp_path / "own/ccp").rglob("*.*")):
        write_image(path.with_suffix(suffix if path.parent.name == "im" else ".PNG"), read_image(path))
        path.unlink()
    found = load_dataset(name, tmp_path, "train")
    place = found.image_path(next(id for id in found.ids if "ccp" in str(found.images[id])))
    assert place.suffix == suffix and place.is_file()
    assert check(name, tmp_path)["train"] == len(found)


# labels, by hand


def test_voc_keeps_palette_indices_and_contour(tmp_path):
    found = load_dataset(tiny_sets.voc(tmp_path), tmp_path, "train")
    assert len(found) == 10 and found.classes[15] == "person" and found.background == 0
    label = found.label("2008_000001")
    assert label[3, 3] == 2008 % 20 + 1 and label[0, 0] == 0 and label[2, 0] == 255
    assert load_dataset("voc", tmp_path, "test").ids == load_dataset("voc", tmp_path, "val").ids


def test_voc_without_sbd_reads_the_official_list_and_masks(tmp_path):
    tiny_sets.voc(tmp_path)
    folder = tmp_path / "VOCdevkit/VOC2012"
    (folder / "ImageSets/Segmentation/train_aug.txt").unlink()
    (folder / "ImageSets/Segmentation/train.txt").write_text("2007_000001\n2009_000001\n")
    (folder / "SegmentationClassAug").rename(folder / "SegmentationClass")
    assert load_dataset("voc", tmp_path, "train").ids == ("2007_000001", "2009_000001")


def test_camvid_void_is_ignored_and_nothing_is_background(tmp_path):
    found = load_dataset(tiny_sets.camvid(tmp_path), tmp_path, "test")
    assert found.background is None and found.classes[8] == "car" and len(found.classes) == 11
    assert set(np.unique(found.label("test_0"))) == {3, 8, 255}
    assert set(np.unique(load_dataset("camvid", tmp_path, "test", task="object").label("test_0"))) == {1, 255}


def test_lung_takes_a_fifth_and_leaves_out_images_without_mask(tmp_path):
    tiny_sets.lung(tmp_path)
    write_image(tmp_path / "LungSegmentation/images/CXR_99_0.png", tiny_sets.image(0))
    assert len(load_dataset("lung", tmp_path, "train")) == 8 and len(load_dataset("lung", tmp_path, "test")) == 2
    assert np.array_equal(load_dataset("lung", tmp_path, "train")[0][1], tiny_sets.label(1))


def test_jpeg_masks_are_cut_at_one_half(tmp_path):
    found = load_dataset(tiny_sets.kvasir(tmp_path), tmp_path, "train")
    assert np.array_equal(found[0][1], tiny_sets.label(1))


@pytest.mark.parametrize("name", ["coco", "nwpu"])
def test_instances_small_on_large_crowd_ignored(name, tmp_path):
    found = load_dataset(tiny_sets.ALL[name](tmp_path), tmp_path, "val")
    assert found.classes == ("background", "airplane", "ship")  # by category number: 3, 7
    expected = np.zeros((12, 16), np.uint8)
    expected[:, 0] = 255
    expected[1:9, 2:12] = 1
    expected[3:6, 4:7] = 2
    assert np.array_equal(found.label("val0"), expected)
    ship, airplane = found.instances("val0")
    assert (ship.class_index, airplane.class_index) == (2, 1)
    assert ship.mask.dtype == bool and ship.mask.sum() == 9 and airplane.mask.sum() == 80
    objects = load_dataset(name, tmp_path, "val", task="object")
    assert [one.class_index for one in objects.instances("val0")] == [1, 1]


def test_compressed_rle_is_read(tmp_path):
    from pycocotools import mask

    tiny_sets.coco(tmp_path)
    path = tmp_path / "coco/annotations/instances_val2017.json"
    content, square = json.loads(path.read_text()), np.zeros((12, 16), np.uint8, order="F")
    square[5:7, 5:9] = 1
    packed = mask.encode(square)
    content["annotations"] = [
        {**content["annotations"][0], "segmentation": {"size": [12, 16], "counts": packed["counts"].decode()}}
    ]
    path.write_text(json.dumps(content))
    assert np.array_equal(load_dataset("coco", tmp_path, "val").label("val0"), square * 2)


def test_image_without_objects_is_background(tmp_path):
    tiny_sets.coco(tmp_path)
    path = tmp_path / "coco/annotations/instances_val2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    found = load_dataset("coco", tmp_path, "val")
    assert not found.label("val0").any() and found.instances("val0") == []


def test_folder_masks_of_zero_and_one(tmp_path):
    for i in range(3):
        tiny_sets.write_pair(tmp_path, f"p{i}", i, tiny_sets.label(1), ("im", "gt"))
    assert np.array_equal(load_dataset("folder", tmp_path, "train")[0][1], tiny_sets.label(1))


def test_folder_finds_pairs_below_and_names_them_apart(tmp_path):
    tiny_sets.folder(tmp_path)
    named, found = (load_dataset(name, tmp_path, "train") for name in ("folder:own/ccp+own/davis", "folder:own"))
    assert set(found.ids) == set(named.ids) and all(id.startswith(("own-davis-", "own-ccp-")) for id in found.ids)
    assert "bear_00000" in load_dataset("folder:own/davis", tmp_path, "train").ids + (
        load_dataset("folder:own/davis", tmp_path, "test").ids
    )


def test_folder_splits_whole_videos(tmp_path):
    tiny_sets.folder(tmp_path)
    videos = [
        {group_of(id) for id in load_dataset("folder:own/davis", tmp_path, split).ids} for split in ("train", "test")
    ]
    assert not videos[0] & videos[1] and len(videos[1]) == 1


# splits


@given(
    st.sets(st.text("abc", min_size=1, max_size=6), min_size=2, max_size=40), st.floats(0.01, 0.99), st.integers(0, 9)
)
def test_cut_is_a_partition_that_ignores_order(ids, share, seed):
    ids = sorted(ids)
    rest, taken = cut(ids, share, seed, "x")
    assert sorted(rest + taken) == ids and rest and taken
    assert abs(len(taken) - share * len(ids)) <= 1
    assert [set(part) for part in cut(ids[::-1], share, seed, "x")] == [set(rest), set(taken)]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(0, 9))
def test_cut_groups_never_divides_a_group(lengths, seed):
    ids = [f"video-{v}_{frame:03d}" for v, length in enumerate(lengths) for frame in range(length)]
    if len(ids) < 2:
        return
    rest, taken = cut_groups(ids, 0.2, seed, "x")
    assert sorted(rest + taken) == ids and rest and taken
    if len(lengths) > 1:
        assert not {group_of(id) for id in rest} & {group_of(id) for id in taken}


def test_names_decide_the_order():
    ids = [str(i) for i in range(20)]
    assert shuffled(ids, 0, "a") == shuffled(ids[::-1], 0, "a") != shuffled(ids, 1, "a")
    assert shuffled(ids, 0, "a") != shuffled(ids, 0, "b")
    assert subset(ids, 20, 0) == tuple(ids)


def test_a_split_of_one_image_and_an_empty_limit_are_refused():
    with pytest.raises(UnsegError, match="at least two images to split, found 1"):
        cut(["a"], 0.2)
    with pytest.raises(UnsegError, match="limit of at least 1, found 0"):
        subset(["a"], 0)


# real images

CLASSES = {
    **{"voc": 21, "camvid": 11, "lung": 2, "nwpu": 11, "coco": 81},
    "folder:interactive/davis+interactive/ccp": 2,
}


@pytest.mark.real
@pytest.mark.parametrize("name", CLASSES)
def test_real_sets(name, data_root):
    for split in ("train", "test"):
        found = load_dataset(name, data_root, split, limit=8)
        assert len(found) == 8 and len(found.classes) == CLASSES[name]
        for image, label in (found[i] for i in range(8)):
            assert label.shape == image.shape[:2] and label[label != 255].max(initial=0) < CLASSES[name]


@pytest.mark.real
@pytest.mark.parametrize("name", CLASSES)
def test_real_splits_are_apart_and_whole_videos(name, data_root):
    train, test = (set(load_dataset(name, data_root, split).ids) for split in ("train", "test"))
    assert not train & test
    if "davis" in name:
        videos = [{group_of(id) for id in ids if "-davis-" in id} for ids in (train, test)]
        assert not videos[0] & videos[1]


@pytest.mark.real
def test_real_instances_cover_the_label(data_root):
    found = load_dataset("nwpu", data_root, "test", limit=6)
    for id in found.ids:
        union = np.any([one.mask for one in found.instances(id)], axis=0)
        assert np.array_equal(union, found.label(id) > 0)
