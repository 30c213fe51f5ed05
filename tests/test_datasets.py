"""Data sets: the same splits on every copy, labels as the papers read them, records that can be added from outside."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import tiny_sets
from hypothesis import given
from hypothesis import strategies as st
from tiny_sets import label, refused

from unseg_lib import datasets
from unseg_lib.datasets import DATASETS, SegmentationSet, check, cut, group_of, load_dataset, shuffled, splits_of
from unseg_lib.images import read_image, write_image
from unseg_lib.poisons import PoisonSettings, poison_dataset, protected_classes


@pytest.fixture(params=tiny_sets.WITH_TRAIN)
def tiny(request, tmp_path):
    """(name, root) of each kind of data set."""
    return tiny_sets.ALL[request.param](tmp_path / "data"), tmp_path / "data"


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
            image, mask = found[i]
            assert image.dtype == mask.dtype == np.uint8 and image.shape == (*mask.shape, 3)
            assert np.array_equal(image, found.image(id)) and np.array_equal(mask, found.label(id))
            assert set(np.unique(mask)) <= {*range(len(found.classes)), 255}
            assert id in found.originals or found.image_path(id) == root / found.relative_image(id)


def test_train_and_test_are_apart_and_holdout_is_cut_from_train(tiny, capsys):
    name, root = tiny
    ids = {split: set(load_dataset(*tiny, split).ids) for split in splits_of(name)}
    assert not ids["train"] & ids["test"]
    assert ids["fit"] | ids["holdout"] == ids["train"] and not ids["fit"] & ids["holdout"]
    assert len(ids["fit"]) > len(ids["holdout"]) > 0
    assert check(name, root)["train"] == len(ids["train"]) and "can be read" in capsys.readouterr().out


@pytest.mark.parametrize("split", ["train", "test", "fit", "holdout"])
def test_poisoned_copies_are_whole_sets(tiny, split, tmp_path):
    name, root = tiny
    source = load_dataset(name, root, split, limit=2)
    poison_dataset(source, "random", tmp_path / "out", PoisonSettings(seed=1))
    copy = load_dataset(name, tmp_path / "out", split, limit=2)
    assert copy.ids == source.ids and copy.classes == source.classes
    for id in copy.ids:
        label, place = source.label(id), copy.relative_image(id)
        assert np.array_equal(copy.label(id), label)
        assert place.suffix == ".png" and copy.image_path(id) == tmp_path / "out" / place
        change = np.abs(copy.image(id).astype(int) - source.image(id)).max(axis=2)
        wanted = np.isin(label, protected_classes(source, "all"))
        assert 2 < change[wanted].max() <= 8 and change[label == 255].max(initial=0) <= 2
        if source.read_instances:
            pairs = zip(copy.segments(id), source.segments(id), strict=True)
            assert all(np.array_equal(a.mask, b.mask) and a.class_index == b.class_index for a, b in pairs)


def test_same_seed_same_ids_and_limits_are_nested(tiny):
    small, large, again = (load_dataset(*tiny, "train", seed=3, limit=n).ids for n in (2, 5, 5))
    assert set(small) < set(large) and len(small) == 2 and again == large
    assert load_dataset(*tiny, "train", limit=10**6).ids == load_dataset(*tiny, "train").ids


def test_object_task_is_object_against_background_also_in_worker_processes(tiny):
    plain = load_dataset(*tiny, "train")
    if plain.background is None:
        with refused(f"a background for the task object, found {plain.name}, whose every class"):
            load_dataset(*tiny, "train", task="object")
        return
    objects = load_dataset(*tiny, "train", task="object")
    assert objects.ids == plain.ids and objects.classes == ("background", "object") and objects.background == 0
    assert objects.things is None and objects.stuff == ()
    for id in plain.ids:
        before, after = plain.label(id), pickle.loads(pickle.dumps(objects)).label(id)
        assert np.array_equal(after, np.where(before == 255, 255, before != plain.background))
        if plain.read_instances:
            assert [one.class_index for one in objects.segments(id)] == [1] * len(plain.instances(id))


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


# a set from outside


def read_mine(root: Path, split: str, seed: int) -> SegmentationSet:
    masks = {path.stem: path for path in sorted((root / "Mine/gt").glob(f"{split}*"))}
    return datasets.label_set("mine", root, split, ("sky", "kite"), {id: Path("Mine/im", id) for id in masks}, masks)


def test_a_set_from_outside_is_one_line(tmp_path, monkeypatch, capsys):
    from unseg_lib.pipeline.engine import how_to_get

    source = datasets.Source("My kites", "Mine", "CC0", "nobody", by_hand="fly one", official="train 3, test 2")
    monkeypatch.setitem(DATASETS, "mine", datasets.DataSet(read_mine, source))
    monkeypatch.setitem(DATASETS, "bare", datasets.DataSet(read_mine))
    root = tmp_path / "data"
    for name, words in (("mine", "without a person: fly one, below"), ("bare", r"\(nothing is known of its origin")):
        with refused(f"cannot be downloaded {words}"):
            datasets.get(name, root)
    for i, split in enumerate(("train", "train", "train", "test", "test")):
        tiny_sets.write_pair(root / "Mine", f"{split}{i}", i, label(1), ("im", "gt"))
    assert splits_of("mine") == ("train", "test", "fit", "holdout")
    assert check("mine", root) == check("bare", root) == {"train": 3, "test": 2}
    assert "mine: every image and mask can be read: train 3, test 2 (the whole set: train 3" in capsys.readouterr().out
    datasets.get("mine", root)
    datasets.list_sets(root)
    printed = capsys.readouterr().out
    assert "My kites is there" in printed and "here  My kites; train 3" in printed and "\nbare " in printed
    assert how_to_get(["Mine"]) == "`unseg data get mine`"
    found = load_dataset("mine", root, "train")
    (row, *_) = poison_dataset(found, "random", tmp_path / "out", PoisonSettings(seed=1), protect="kite")
    assert row["protected"] == pytest.approx((label(1) > 0).mean(), abs=1e-6)
    assert len(load_dataset("mine", tmp_path / "out", "fit")) == 2
    with refused("Unknown data set 'mien'; did you mean 'mine'"):
        load_dataset("mien", root, "train")


# lists and folders


def test_voc_keeps_indices_and_contour_with_sbd_and_without(tmp_path, capsys):
    found = load_dataset(tiny_sets.voc(tmp_path), tmp_path, "train")
    assert len(found) == 10 and found.classes[15] == "person" and found.background == 0
    mask = found.label("2008_000001")
    assert mask[3, 3] == 2008 % 20 + 1 and mask[0, 0] == 0 and mask[2, 0] == 255
    assert load_dataset("voc", tmp_path, "test").ids == load_dataset("voc", tmp_path, "val").ids
    assert capsys.readouterr().err == ""
    # without SBD the official list and masks, which is said once
    folder = tmp_path / "VOCdevkit/VOC2012"
    (folder / "ImageSets/Segmentation/train_aug.txt").unlink()
    (folder / "ImageSets/Segmentation/train.txt").write_text("2007_000001\n2009_000001\n")
    (folder / "SegmentationClassAug").rename(folder / "SegmentationClass")
    for split in ("fit", "val", "train"):
        found = load_dataset("voc", tmp_path, split)
    assert found.ids == ("2007_000001", "2009_000001")
    (said,) = capsys.readouterr().err.splitlines()
    assert all(words in said for words in ("no train_aug.txt", "own 2 images", "`unseg data get voc-aug`"))


def test_folder_finds_pairs_below_and_names_them_apart(tmp_path):
    tiny_sets.folder(tmp_path)
    named, found = (load_dataset(name, tmp_path, "train") for name in ("folder:own/ccp+own/davis", "folder:own"))
    assert set(found.ids) == set(named.ids) and all(id.startswith(("own-davis-", "own-ccp-")) for id in found.ids)
    train, test = (load_dataset("folder:own/davis", tmp_path, split).ids for split in ("train", "test"))
    assert "bear_00000" in train + test
    videos = [{group_of(id) for id in ids} for ids in (train, test)]
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
def test_cut_never_divides_a_group(lengths, seed):
    ids = [f"video-{v}_{frame:03d}" for v, length in enumerate(lengths) for frame in range(length)]
    if len(ids) < 2:
        return
    rest, taken = cut(ids, 0.2, seed, "x", group=group_of)
    assert sorted(rest + taken) == ids and rest and taken
    if len(lengths) > 1:
        assert not {group_of(id) for id in rest} & {group_of(id) for id in taken}


def test_names_decide_the_order():
    ids = [str(i) for i in range(20)]
    assert shuffled(ids, 0, "a") == shuffled(ids[::-1], 0, "a") not in (shuffled(ids, 1, "a"), shuffled(ids, 0, "b"))
    assert datasets.subset(ids, 20, 0) == tuple(ids)
    with refused("at least two images to split, found 1"):
        cut(["a"], 0.2)
    with refused("limit of at least 1, found 0"):
        datasets.subset(["a"], 0)


# real images

REAL = {"voc": 21, "camvid": 11, "lung": 2, "nwpu": 11, "coco": 81, "folder:interactive/davis+interactive/ccp": 2}


@pytest.mark.real
@pytest.mark.parametrize(("name", "classes"), REAL.items())
def test_real_sets(name, classes, data_root):
    for split in ("train", "test"):
        found = load_dataset(name, data_root, split, limit=8)
        assert len(found) == 8 and len(found.classes) == classes
        for id, (image, mask) in zip(found.ids, found):
            assert mask.shape == image.shape[:2] and mask[mask != 255].max(initial=0) < classes
            if found.read_instances:  # the objects cover what the label map shows of them
                objects, shown = found.segments(id), (mask > 0) & (mask != 255)
                assert len(objects) == len(found.instances(id)) and found.stuff == ()
                assert np.array_equal(np.any([one.mask for one in objects] or [shown], axis=0), shown)
                assert {one.class_index for one in objects} >= set(np.unique(mask[shown]).tolist())
    train, test = (set(load_dataset(name, data_root, split).ids) for split in ("train", "test"))
    assert not train & test


@pytest.mark.real
def test_the_lists_of_the_reduced_data_name_real_images(data_root, project):
    lists = {"davis": "interactive/davis/im", "ccp": "interactive/ccp/im"}
    for name, place in (lists | dict.fromkeys(("voc_train", "voc_val"), "VOCdevkit/VOC2012/JPEGImages")).items():
        ids = (project / "data" / "small" / f"{name}.txt").read_text().split()
        assert len(ids) == len(set(ids)) > 100
        if (data_root / place).is_dir():
            assert all((data_root / place / f"{id}.jpg").is_file() for id in ids), name
