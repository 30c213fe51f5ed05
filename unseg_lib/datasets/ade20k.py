"""ADE20K, the scene parsing benchmark of 2016: 150 classes, of which 100 are things with masks of their own."""

from functools import partial
from pathlib import Path

import numpy as np

from unseg_lib.datasets.segmentation_set import (
    Instance,
    SegmentationSet,
    check_all_masks,
    image_files,
    need_folder,
)
from unseg_lib.errors import UnsegError
from unseg_lib.images import read_image, read_label

FOLDER = Path("ADEChallengeData2016")
# "test" is the official validation: test masks are secret
PARTS = {"train": "training", "val": "validation", "test": "validation"}
# the first name of each class in objectInfo150.txt
CLASSES = (
    *("wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet"),
    *("sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water"),
    *("painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk"),
    *("rock", "wardrobe", "lamp", "bathtub", "railing", "cushion", "base", "box", "column", "signboard"),
    *("chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand"),
    *("path", "stairs", "runway", "case", "pool table", "pillow", "screen door", "stairway", "river", "bridge"),
    *("bookcase", "blind", "coffee table", "toilet", "flower", "book", "hill", "bench", "countertop", "stove"),
    *("palm", "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine", "hovel", "bus"),
    *("towel", "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth", "television receiver"),
    *("airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator", "ottoman", "bottle"),
    *("buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything"),
    *("swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven"),
    *("ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake"),
    *("dishwasher", "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan"),
    *("fan", "pier", "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock"),
    "flag",
)
_STUFF = (
    *("wall", "building", "sky", "floor", "tree", "ceiling", "road", "grass", "sidewalk", "earth", "mountain"),
    *("plant", "water", "house", "sea", "rug", "field", "rock", "base", "sand", "skyscraper", "grandstand"),
    *("path", "runway", "stairway", "river", "bridge", "blind", "hill", "bar", "hovel", "tower", "dirt track"),
    *("land", "escalator", "buffet", "poster", "stage", "conveyer belt", "canopy", "swimming pool", "waterfall"),
    *("tent", "cradle", "tank", "lake", "blanket", "pier", "crt screen", "shower"),
)
# class of thing k, counted from 1 in the instance masks, is THINGS[k - 1]
THINGS = tuple(i for i, name in enumerate(CLASSES) if name not in _STUFF)


def read_ade20k(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read `root/ADEChallengeData2016/{images,annotations}/{training,validation}`; the seed has no effect.

    Objects come from `annotations_instance`, a download of its own, which semantic segmentation does without.
    """
    part = PARTS[split]
    folder = need_folder(root / FOLDER / "annotations" / part, "ADE20K's masks", "ade20k")
    images, objects = root / FOLDER / "images" / part, root / FOLDER / "annotations_instance" / part
    masks = image_files(folder)
    if images.is_dir():
        check_all_masks(image_files(images), masks, folder)
    things = image_files(objects) if objects.is_dir() else {}
    if things:
        check_all_masks(masks, things, objects)
    return SegmentationSet(
        name="ade20k",
        root=root,
        split=split,
        classes=CLASSES,
        background=None,
        ids=tuple(masks),
        images={id: FOLDER / "images" / part / id for id in masks},
        read_label=partial(_label, masks),
        annotation_files=tuple(path.relative_to(root) for path in (*masks.values(), *things.values())),
        read_instances=partial(_instances, objects),
        things=THINGS,
    )


def _label(masks: dict[str, Path], id: str) -> np.ndarray:
    """The files count classes from 1; 0, "other", becomes 255."""
    return read_label(masks[id]) - np.uint8(1)


def _instances(folder: Path, id: str) -> list[Instance]:
    """Red is the thing's class, counted from 1 to 100, green the object's number, 0 = none."""
    file = need_folder(folder, "ADE20K's instance masks", "ade20k-instances") / f"{id}.png"
    kind, number, _ = np.moveaxis(read_image(file), 2, 0)
    found = []
    for one in np.unique(number[number > 0]):
        mask = number == one
        kinds = np.unique(kind[mask])
        if len(kinds) > 1 or not 1 <= kinds[0] <= len(THINGS):
            raise UnsegError(
                f"Expected one class from 1 to {len(THINGS)} for object {one} in {file}, found "
                f"{', '.join(map(str, kinds))}; get ade20k-instances again."
            )
        found.append(Instance(mask, THINGS[kinds[0] - 1]))
    return found
