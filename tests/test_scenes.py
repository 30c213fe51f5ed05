"""Generated scenes: deterministic, varied, learnable by shape and surface but not by colour."""

import time

import numpy as np
import pytest
from tiny_sets import refused

from unseg_lib.datasets import CLASSES, draw_scene, load_dataset, scenes, write_scenes
from unseg_lib.datasets.scenes import INDEX
from unseg_lib.files import read_json, sha256_of, write_json

MANY = [draw_scene(64, 0, f"scene {i}") for i in range(80)]


@pytest.mark.parametrize("size", [24, 33, 96, 128])
def test_same_arguments_same_bytes_others_differ(size):
    image, label = draw_scene(size, 0, "a")
    assert image.shape == (*label.shape, 3) == (size, size, 3) and image.dtype == label.dtype == np.uint8
    assert label.max() < len(CLASSES)
    assert all(np.array_equal(one, again) for one, again in zip((image, label), draw_scene(size, 0, "a")))
    for other in (draw_scene(size, 1, "a"), draw_scene(size, 0, "b")):
        assert not np.array_equal(image, other[0])


def test_scenes_are_those_of_every_commit_with_this_version():
    """Means, not bytes: another processor may round another way."""
    found = [(image.mean(), label.mean()) for image, label in (draw_scene(48, 0, name) for name in "abc")]
    assert np.allclose(found, [(135.98, 1.4497), (124.44, 1.3468), (125.89, 0.7331)], atol=0.01)


def test_colours_are_as_fine_as_a_cameras():
    """The finest contrast between neighbours is in brightness, as in photographs: of colours there is little."""
    neighbours = [np.diff(image.astype(float), axis=1) for image, _ in MANY]
    brightness = np.mean([np.square(one.mean(axis=2)).mean() for one in neighbours])
    colour = np.mean([np.square(one - one.mean(axis=2, keepdims=True)).mean() for one in neighbours])
    assert colour < 0.02 * brightness


def test_every_class_occurs_and_the_ground_is_the_larger_part():
    assert list(scenes.CONTOURS) == list(scenes.SURFACES) == list(CLASSES[1:]) and len(CLASSES) >= 6
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
    # they have contrast and are not clipped away
    assert all(image.std() > 12 and np.isin(image, (0, 255)).mean() < 0.2 for image, _ in MANY)


def test_natural_fields_fall_with_frequency():
    fields = scenes.natural_fields(np.random.default_rng(0), 128, 1.0)
    assert np.allclose(fields.mean(axis=(1, 2)), 0, atol=1e-5) and np.allclose(fields.std(axis=(1, 2)), 1, atol=1e-5)
    power = (np.abs(np.fft.fft2(fields)) ** 2).mean(axis=0)
    rings = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None]) * 128
    low, high = (power[(rings >= a) & (rings < 2 * a)].mean() for a in (4, 16))
    assert 10 < low / high < 26  # amplitude 1/f: power falls by 4 an octave, 16 in two

    colours = scenes.palette(np.random.default_rng(0), 1000)
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


def test_generated_when_first_asked_for_but_not_in_a_poisoned_copy(tmp_path, monkeypatch):
    monkeypatch.setattr("unseg_lib.datasets.scenes.COUNTS", {"train": 3, "test": 2})
    assert len(load_dataset("scenes", tmp_path / "new", "train")) == 3
    assert read_json(tmp_path / "new/scenes" / INDEX)["size"] == 96
    assert read_json(tmp_path / "new/scenes" / INDEX)["train"] == [f"train_{i:04d}" for i in range(3)]
    write_json(tmp_path / "poison.json", {})
    with refused("poison it again"):
        load_dataset("scenes", tmp_path, "train")
    assert not (tmp_path / "scenes").exists()
    (tmp_path / "file").write_text("")
    with refused("Expected a folder that can be written for the scenes"):
        load_dataset("scenes", tmp_path / "file", "train")


def test_interrupted_writing_is_not_taken_for_complete(tmp_path):
    folder = write_scenes(tmp_path, 24, {"train": 3, "test": 2})
    whole = {path.name: sha256_of(path) for path in folder.rglob("*.png")}
    (folder / INDEX).unlink()
    (folder / "images/train_0002.png").write_bytes(b"half")
    (folder / "labels/test_0001.png").unlink()
    write_scenes(tmp_path, 24, {"train": 3, "test": 2})
    assert {path.name: sha256_of(path) for path in folder.rglob("*.png")} == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda index: index | {"version": 0}, "found 0; delete that folder"),
        (lambda index: [index], "Expected scenes of version 2 in .*, found a list; delete that folder"),
        (lambda index: {"version": 2}, "Expected names of images under 'train' in .*scenes.json, found none; delete"),
        (lambda index: index | {"test": [7]}, "Expected names of images under 'test' in .*, found none; delete"),
    ],
)
def test_an_index_of_another_version_or_without_names_is_one_sentence(tmp_path, change, words):
    folder = write_scenes(tmp_path, 24, {"train": 2, "test": 2})
    write_json(folder / INDEX, change(read_json(folder / INDEX)))
    with refused(words):
        load_dataset("scenes", tmp_path, "train")
