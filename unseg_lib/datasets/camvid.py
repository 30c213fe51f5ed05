"""CamVid in SegNet's layout: 11 classes of a street, every pixel of interest but the void."""

from functools import partial
from pathlib import Path

import numpy as np

from unseg_lib.datasets.segmentation_set import (
    IGNORE,
    SegmentationSet,
    check_all_masks,
    image_files,
    need_folder,
)
from unseg_lib.images import read_label

FOLDER = Path("CamVid")
CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian"),
    "bicyclist",
)
VOID = len(CLASSES)


def read_camvid(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read `root/CamVid/{train,val,test}` and its masks `{split}annot`; the seed has no effect."""
    need_folder(root / FOLDER, "CamVid", "camvid")
    folder = need_folder(root / FOLDER / f"{split}annot", "CamVid's masks", "camvid")
    masks = image_files(folder)
    images = root / FOLDER / split
    if images.is_dir():  # a poisoned copy has the images of one split only
        check_all_masks(image_files(images), masks, folder)
    return SegmentationSet(
        name="camvid",
        root=root,
        split=split,
        classes=CLASSES,
        background=None,
        ids=tuple(masks),
        images={id: FOLDER / split / id for id in masks},
        read_label=partial(_label, masks),
        annotation_files=tuple(path.relative_to(root) for path in masks.values()),
    )


def _label(masks: dict[str, Path], id: str) -> np.ndarray:
    label = read_label(masks[id])
    return np.where(label == VOID, np.uint8(IGNORE), label)
