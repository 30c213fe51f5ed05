"""Pascal VOC 2012, with the SBD masks where they are ("aug"): 20 classes and background."""

from functools import partial
from pathlib import Path

import numpy as np

from unseg_lib.datasets.segmentation_set import SegmentationSet, check_all_masks, need_folder, picture_files
from unseg_lib.errors import UnsegError
from unseg_lib.pictures import read_label

FOLDER = Path("VOCdevkit/VOC2012")
CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
# "train" is the list with SBD's pictures where it is there, as all papers mean it; "test" is val: test masks are secret
LISTS = {"train": ("train_aug", "train"), "val": ("val",), "test": ("val",)}
MASKS = ("SegmentationClassAug", "SegmentationClass")


def read_voc(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read a split from `root/VOCdevkit/VOC2012`; the seed has no effect, the splits are official."""
    folder = need_folder(root / FOLDER, "Pascal VOC 2012", "voc")
    lists = [folder / "ImageSets/Segmentation" / f"{name}.txt" for name in LISTS[split]]
    chosen = next((path for path in lists if path.is_file()), None)
    if chosen is None:
        raise UnsegError(f"Expected the list of pictures {lists[-1]}, found none; complete the data set.")
    ids = tuple(chosen.read_text().split())
    masks = next((folder / name for name in MASKS if (folder / name).is_dir()), folder / MASKS[-1])
    need_folder(masks, "masks of Pascal VOC 2012", "voc")
    check_all_masks(ids, picture_files(masks), masks)
    return SegmentationSet(
        name="voc",
        root=root,
        split=split,
        classes=CLASSES,
        background=0,
        ids=ids,
        pictures={id: FOLDER / "JPEGImages" / id for id in ids},
        read_label=partial(_label, masks),
        annotation_files=(chosen.relative_to(root), *(masks.relative_to(root) / f"{id}.png" for id in ids)),
    )


def _label(folder: Path, id: str) -> np.ndarray:
    """Palette indices are the classes; 255 is the contour that nobody scores."""
    return read_label(folder / f"{id}.png")
