"""Hand-made sets with instance masks: boxes and discs on ground below sky, for instances and panoptic segments."""

from pathlib import Path

import numpy as np

from unseg_lib.datasets import Instance, SegmentationSet
from unseg_lib.images import write_image

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
