"""Generated scenes: deterministic, varied, learnable by shape and surface but not by colour."""

import time

import numpy as np
import pytest

from unseg_lib.datasets import (
    CLASSES,
    CONTOURS,
    INDEX,
    SURFACES,
    draw_scene,
    load_dataset,
    natural_fields,
    palette,
    write_scenes,
)
from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json, sha256_of, write_json

MANY = [draw_scene(64, 0, f"scene {i}") for i in range(80)]


def test_same_arguments_same_bytes_others_differ():
    first = draw_scene(48, 0, "a")
    assert all(np.array_equal(one, again) for one, again in zip(first, draw_scene(48, 0, "a")))
    for other in (draw_scene(48, 1, "a"), draw_scene(48, 0, "b")):
        assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("size", [24, 33, 96, 128])
def test_sizes_and_types(size):
    image, label = draw_scene(size, 0, "a")
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert label.shape == (size, size) and label.dtype == np.uint8 and label.max() < len(CLASSES)


def test_every_class_has_an_outline_and_a_surface():
    assert list(CONTOURS) == list(SURFACES) == list(CLASSES[1:]) and len(CLASSES) >= 6


def test_every_class_occurs_and_the_ground_is_the_larger_part():
    share = np.mean([np.bincount(label.ravel(), minlength=len(CLASSES)) / label.size for _, label in MANY], axis=0)
    assert (share[1:] > 0.01).all() and 0.6 < share[0] < 0.9
    assert sum(len(np.unique(label)) >= 3 for _, label in MANY) > len(MANY) / 2


def test_colour_alone_does_not_tell_a_class():
    """A nearest-colour guess from one half of the scenes does no better than chance on the other."""
    colours = {name: ([], []) for name in CLASSES}
    for i, (image, label) in enumerate(MANY):
        for index in np.unique(label):
            colours[CLASSES[index]][i % 2].append(image[label == index].mean(axis=0))
    means = np.array([np.mean(colours[name][0], axis=0) for name in CLASSES])
    right = [
        np.argmin(np.linalg.norm(means - colour, axis=1)) == index
        for index, name in enumerate(CLASSES)
        for colour in colours[name][1]
    ]
    assert np.mean(right) < 2.5 / len(CLASSES)


def test_images_have_contrast_and_are_not_clipped_away():
    for image, _ in MANY:
        assert image.std() > 12
        assert ((image == 0) | (image == 255)).mean() < 0.2


def test_natural_fields_fall_with_frequency():
    fields = natural_fields(np.random.default_rng(0), 128, 1.0)
    assert np.allclose(fields.mean(axis=(1, 2)), 0, atol=1e-5) and np.allclose(fields.std(axis=(1, 2)), 1, atol=1e-5)
    power = (np.abs(np.fft.fft2(fields)) ** 2).mean(axis=0)
    rings = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None]) * 128
    low, high = (power[(rings >= a) & (rings < 2 * a)].mean() for a in (4, 16))
    assert 10 < low / high < 26  # amplitude 1/f: power falls by 4 an octave, 16 in two


def test_palette_is_in_range():
    colours = palette(np.random.default_rng(0), 1000)
    assert colours.shape == (1000, 3) and colours.min() >= 0 and colours.max() <= 1


def test_a_scene_takes_milliseconds():
    """On an idle machine 6 ms of one core for 96 pixels; the bound leaves room for a busy one."""
    start = time.process_time()
    for i in range(10):
        draw_scene(96, 0, str(i))
    assert (time.process_time() - start) / 10 < 0.05


def test_written_once_and_read_back(tmp_path):
    write_scenes(tmp_path, size=24, counts={"train": 4, "test": 2}, seed=5)
    index = tmp_path / "scenes" / INDEX
    before = sha256_of(index), index.stat().st_mtime_ns
    train = load_dataset("scenes", tmp_path, "train")
    assert train.ids == tuple(f"train_{i:04d}" for i in range(4)) and len(load_dataset("scenes", tmp_path, "test")) == 2
    image, label = draw_scene(24, 5, "train_0001")
    assert np.array_equal(train.image("train_0001"), image) and np.array_equal(train.label("train_0001"), label)
    assert (sha256_of(index), index.stat().st_mtime_ns) == before


def test_generated_when_first_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("unseg_lib.datasets.scenes.COUNTS", {"train": 3, "test": 2})
    assert len(load_dataset("scenes", tmp_path / "new", "train")) == 3
    assert read_json(tmp_path / "new/scenes" / INDEX)["size"] == 96


def test_interrupted_writing_is_not_taken_for_complete(tmp_path, monkeypatch):
    monkeypatch.setattr("unseg_lib.datasets.scenes.COUNTS", {"train": 3, "test": 2})
    monkeypatch.setattr("unseg_lib.datasets.scenes.SIZE", 24)
    folder = write_scenes(tmp_path, 24, {"train": 3, "test": 2})
    whole = {path.name: sha256_of(path) for path in folder.rglob("*.png")}
    (folder / INDEX).unlink()
    (folder / "images/train_0002.png").write_bytes(b"half")
    (folder / "labels/test_0001.png").unlink()
    write_scenes(tmp_path, 24, {"train": 3, "test": 2})
    assert {path.name: sha256_of(path) for path in folder.rglob("*.png")} == whole


def test_nothing_is_generated_in_a_poisoned_copy(tmp_path):
    write_json(tmp_path / "poison.json", {})
    with pytest.raises(UnsegError, match="poison it again"):
        load_dataset("scenes", tmp_path, "train")
    assert not (tmp_path / "scenes").exists()


def test_scenes_of_another_version_are_refused(tmp_path):
    folder = write_scenes(tmp_path, 24, {"train": 2, "test": 2})
    write_json(folder / INDEX, read_json(folder / INDEX) | {"version": 0})
    with pytest.raises(UnsegError, match="found 0; delete that folder"):
        load_dataset("scenes", tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda index: [index], "Expected scenes of version 1 in .*, found a list; delete that folder"),
        (lambda index: {"version": 1}, "Expected names of images under 'train' in .*scenes.json, found none; delete"),
        (lambda index: index | {"test": [7]}, "Expected names of images under 'test' in .*, found none; delete"),
    ],
)
def test_an_index_of_scenes_that_lists_none_is_one_sentence(tmp_path, change, words):
    folder = write_scenes(tmp_path, 24, {"train": 2, "test": 2})
    write_json(folder / INDEX, change(read_json(folder / INDEX)))
    with pytest.raises(UnsegError, match=words):
        load_dataset("scenes", tmp_path, "train")


def test_root_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnsegError, match="Expected a folder that can be written for the scenes"):
        load_dataset("scenes", tmp_path / "file", "train")
