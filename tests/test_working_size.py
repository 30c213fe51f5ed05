"""Working copies: a data set read, poisoned and learnt at the size at which a victim sees it."""

import numpy as np
import pytest

from unseg_lib.datasets import load_dataset, write_scenes
from unseg_lib.errors import UnsegError
from unseg_lib.images import read_image, resize_image, write_image
from unseg_lib.poisons import PoisonSettings, poison_dataset

SIZE = [24, 40]


@pytest.fixture
def folder(tmp_path):
    """Three images of 60x100 pixels, each with a box of 30x50 as its object, in a layout that any folder may have."""
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (60, 100, 3), np.uint8)
        mask = np.zeros((60, 100), np.uint8)
        mask[10:40, 20:70] = 255
        write_image(tmp_path / "set" / "im" / f"p{i}.png", pixels)
        write_image(tmp_path / "set" / "gt" / f"p{i}.png", mask)
    return tmp_path


def load(root, **how):
    return load_dataset("folder:set", root, "train", task="object", **how)


def test_images_and_masks_have_the_working_size(folder):
    large, small = load(folder), load(folder, working_size=SIZE)
    id = small.ids[0]
    assert large.image(id).shape == (60, 100, 3) and small.image(id).shape == (24, 40, 3)
    assert (small.image(id) == resize_image(large.image(id), SIZE)).all()
    # 30x50 of 60x100, at 0.4: 12 rows from row 4, 20 columns from column 8
    assert small.label(id).sum() == 12 * 20 and small.label(id)[4:16, 8:28].all()
    assert small.ids == large.ids


def test_a_poisoned_working_copy_is_read_at_its_size_and_keeps_the_budget(folder):
    small = load(folder, working_size=SIZE)
    rows = poison_dataset(small, "random", folder / "copy", PoisonSettings(eps=8, eps_bg=2))
    copy = load(folder / "copy", working_size=SIZE)
    id = small.ids[0]
    assert read_image(copy.image_path(id)).shape == (24, 40, 3)  # the files themselves are small
    change, inside = abs(copy.image(id).astype(int) - small.image(id)), small.label(id) == 1
    assert (copy.label(id) == small.label(id)).all()
    assert change[inside].max() == rows[0]["linf_inside"] == 8 and change[~inside].max() == 2
    # the same call keeps what is there, another size is another copy
    assert poison_dataset(small, "random", folder / "copy", PoisonSettings(eps=8, eps_bg=2)) == rows
    with pytest.raises(UnsegError, match="working_size"):
        poison_dataset(load(folder, working_size=[30, 50]), "random", folder / "copy", PoisonSettings(eps=8, eps_bg=2))
    # who reads it as if it were large is told so
    with pytest.raises(UnsegError, match="Expected a mask of 40x24"):
        load(folder / "copy").label(id)


@pytest.mark.parametrize("size", [[24], [0, 40], [24, 40, 3]])
def test_a_size_that_is_none_is_refused(folder, size):
    with pytest.raises(UnsegError, match="Expected a working size of height and width"):
        load(folder, working_size=size)


def test_objects_shrink_with_their_image(folder):
    write_scenes(folder, 96, {"train": 1, "test": 1})
    scenes = {size: load_dataset("scenes", folder, "train", working_size=size) for size in ((), (48, 48))}
    large, small = (scenes[size].instances(scenes[()].ids[0]) for size in ((), (48, 48)))
    assert len(large) == len(small) and {one.mask.shape for one in small} == {(48, 48)}
    assert all(abs(4 * b.mask.sum() / a.mask.sum() - 1) < 0.25 for a, b in zip(large, small))


def test_shrunk_is_poisoned_large(profiles):
    """The defence `shrunk` of a profile: no working copies, neither for the poison nor for the victim."""
    stages = profiles("small").stages
    plain, shrunk = (stages[f"victim/lung-unseg-unet-lite0{way}-s0"] for way in ("", "-shrunk"))
    assert plain.values["working_size"] == [96, 96] and shrunk.values["working_size"] == []
    (own,), (large,) = plain.needs, shrunk.needs
    assert own.values["working_size"] == [96, 96] and large.values["working_size"] == []
    assert own.values | {"working_size": [], "out": ""} == large.values | {"out": ""} and own.folder != large.folder
    assert shrunk.values["poisoned"] == (large.folder / "dataset").as_posix()
