"""Hand-made sets with instance masks, and what the tests of every family of victims check in the same way.

The sets show boxes and discs on ground below sky, for instances and panoptic segments.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from unseg_lib.datasets import Instance, SegmentationSet
from unseg_lib.images import write_image
from unseg_lib.victims import VictimRun

CLASSES = ("ground", "sky", "box", "disc")
COLOURS = np.array([(40, 90, 40), (120, 160, 220), (220, 60, 50), (240, 220, 60)])


def shapes(root: Path, split: str, count: int, shape=(48, 64), crowd: bool = False, dim: int = 0) -> SegmentationSet:
    """`count` images, `shape` (height, width), each with one to three things apart; `dim` darkens them.

    The last image has no thing; with `crowd` the first thing of every image is a crowd.
    """
    rng, labels, objects = np.random.default_rng([count, len(split)]), {}, {}
    for i in range(count):
        id = f"{split}{i}"
        labels[id] = np.zeros(shape, np.uint8)
        labels[id][: shape[0] // 3] = 1
        things = _things(rng, shape, rng.integers(1, 4) if i < count - 1 else 0)
        objects[id] = [Instance(mask, index, crowd and n == 0) for n, (mask, index) in enumerate(things)]
        for one in objects[id]:
            labels[id][one.mask] = 255 if one.crowd else one.class_index
        drawn = labels[id].copy()
        for one in objects[id]:
            drawn[one.mask] = one.class_index
        colour = COLOURS[drawn] + rng.integers(-20, 20, (*shape, 3)) - dim
        write_image(root / "im" / f"{id}.png", colour.clip(0, 255).astype(np.uint8))
    return SegmentationSet(
        name="shapes",
        root=root,
        split=split,
        classes=CLASSES,
        background=None,
        ids=tuple(labels),
        images={id: Path("im") / id for id in labels},
        read_label=labels.__getitem__,
        annotation_files=(),
        read_instances=objects.__getitem__,
        things=(2, 3),
    )


def _things(rng: np.random.Generator, shape: tuple[int, int], count: int) -> list[tuple[np.ndarray, int]]:
    found = []
    while len(found) < count:
        mask, index = _thing(rng, shape)
        if not any((mask & other).any() for other, _ in found):
            found.append((mask, index))
    return found


def _thing(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, int]:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    radius = rng.uniform(0.1, 0.2) * shape[0]
    row, column = (rng.uniform(radius, length - radius) for length in shape)
    if rng.random() < 0.5:
        return np.maximum(abs(rows - row), abs(columns - column)) <= radius, 2
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2, 3


def run_of(victim: str, sets: tuple[SegmentationSet, SegmentationSet], how: dict, **changes) -> VictimRun:
    """What `train_victim` hands to the family of a victim."""
    usual = {"name": victim.partition(":")[2], "train": sets[0], "test": sets[1], "out": None, "init": "random"}
    usual |= {"clean_fraction": 0.0, "threads": 0, "precision": "32"}
    return VictimRun(**(usual | how | changes))


def check_result(out: Path, result: dict, size: tuple[int, int], classes: tuple[str, ...] = CLASSES) -> dict:
    """The files and numbers that a training of two epochs leaves behind; returns the arrays of predictions.npz."""
    files = ["predictions.npz", "result.json", "speed.json", "training.json"]
    assert sorted(file.name for file in out.iterdir()) == files
    assert result["classes"] == list(classes) and [epoch["epoch"] for epoch in result["epochs"]] == [1, 2]
    assert all(epoch["loss"] > 0 for epoch in result["epochs"])
    if "miou" not in result["final"]:
        assert [set(epoch) for epoch in result["epochs"]] == [{"epoch", "loss", "scores"}] * 2
        assert result["final"] == result["epochs"][-1]["scores"]
        assert all(value is None or 0 <= value <= 1 for value in result["final"].values())
        for name, best in result["peak"].items():
            values = [epoch["scores"][name] for epoch in result["epochs"]]
            assert best == max(values, key=lambda value: -1 if value is None else value)
    seen = dict(np.load(out / "predictions.npz"))
    assert seen["image"].shape == (4, *size, 3)
    assert seen["image"].dtype == seen["truth"].dtype == seen["prediction"].dtype == np.uint8
    assert all(seen[name].shape == (4, *size) for name in seen if name not in ("image", "box"))
    return seen


def check_resume(monkeypatch, saving: tuple[object, str], train, out: Path, trained: tuple[Path, dict]) -> None:
    """`train(out)`, interrupted once it has saved an epoch, ends with the numbers and files of `trained`.

    saving: owner and name of the function that saves an epoch.
    """
    save = getattr(*saving)

    def save_and_stop(*arguments, **options):
        save(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*saving, save_and_stop)
        train(out)
    assert (out / "checkpoint.pt").exists() and not (out / "result.json").exists()
    np.random.seed(1), torch.manual_seed(1)
    assert train(out)["epochs"] == trained[1]["epochs"]  # bit for bit
    assert (out / "predictions.npz").read_bytes() == (trained[0] / "predictions.npz").read_bytes()
    assert not (out / "checkpoint.pt").exists()
