"""Working copies: a data set read, poisoned and learnt at the size at which a victim sees it."""

import pytest
import tiny_sets
from tiny_sets import refused

from unseg_lib.datasets import load_dataset, write_scenes
from unseg_lib.images import read_image, resize_image
from unseg_lib.poisons import PoisonSettings, poison_dataset

SIZE, PLAIN = [6, 8], PoisonSettings(eps=8, eps_bg=2)


@pytest.fixture
def folder(tmp_path):
    """Images of 12x16 pixels, each with a box of 6x8 as its object, in a layout that any folder may have."""
    tiny_sets.folder(tmp_path)
    return tmp_path


def load(root, **how):
    return load_dataset("folder:own", root, "train", task="object", **how)


def test_images_and_masks_have_the_working_size(folder):
    large, small = load(folder), load(folder, working_size=SIZE)
    id = small.ids[0]
    assert large.image(id).shape == (12, 16, 3) and small.image(id).shape == (6, 8, 3)
    assert (small.image(id) == resize_image(large.image(id), SIZE)).all()
    # each pixel is the one right below the middle of four: rows 3, 5, 7 of 2 to 7, columns 3 to 9 of 3 to 10
    assert small.label(id).sum() == 3 * 4 and small.label(id)[1:4, 1:5].all()
    assert small.ids == large.ids


def test_a_poisoned_working_copy_is_read_at_its_size_and_keeps_the_budget(folder):
    small = load(folder, working_size=SIZE)
    rows = poison_dataset(small, "random", folder / "copy", PLAIN)
    copy = load(folder / "copy", working_size=SIZE)
    id = small.ids[0]
    assert read_image(copy.image_path(id)).shape == (6, 8, 3)  # the files themselves are small
    change, inside = abs(copy.image(id).astype(int) - small.image(id)), small.label(id) == 1
    assert (copy.label(id) == small.label(id)).all()
    assert change[inside].max() == rows[0]["linf_inside"] == 8 and change[~inside].max() == 2
    # the same call keeps what is there, another size is another copy
    assert poison_dataset(small, "random", folder / "copy", PLAIN) == rows
    with refused("working_size"):
        poison_dataset(load(folder, working_size=[5, 8]), "random", folder / "copy", PLAIN)
    # who reads it as if it were large is told so
    with refused("Expected a mask of 8x6"):
        load(folder / "copy").label(id)


@pytest.mark.parametrize("size", [[24], [0, 40], [24, 40, 3]])
def test_a_size_that_is_none_is_refused(folder, size):
    with refused("Expected a working size of height and width"):
        load(folder, working_size=size)


def test_objects_shrink_with_their_image(tmp_path):
    write_scenes(tmp_path, 96, {"train": 1, "test": 1})
    large, small = (load_dataset("scenes", tmp_path, "train", working_size=size) for size in ((), (48, 48)))
    pairs = list(zip(large.instances(large.ids[0]), small.instances(small.ids[0]), strict=True))
    assert pairs and {b.mask.shape for _, b in pairs} == {(48, 48)}
    assert all(abs(4 * b.mask.sum() / a.mask.sum() - 1) < 0.25 for a, b in pairs)


def test_shrunk_is_poisoned_large(profiles):
    """The defence `shrunk` of a profile: no working copies, neither for the poison nor for the victim."""
    stages = profiles("small").stages
    plain, shrunk = (stages[f"victim/lung-unseg-unet-lite0{way}-s0"] for way in ("", "-shrunk"))
    assert plain.values["working_size"] == [96, 96] and shrunk.values["working_size"] == []
    (own,), (large,) = plain.needs, shrunk.needs
    assert own.values["working_size"] == [96, 96] and large.values["working_size"] == []
    assert own.values | {"working_size": [], "out": ""} == large.values | {"out": ""} and own.folder != large.folder
    assert shrunk.values["poisoned"] == (large.folder / "dataset").as_posix()
