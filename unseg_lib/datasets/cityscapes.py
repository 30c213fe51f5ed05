"""Cityscapes with fine annotations: 19 classes of a street, of which 8 are things."""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from unseg_lib.datasets.segmentation_set import IGNORE, Instance, SegmentationSet, check_all_masks, need_folder
from unseg_lib.errors import UnsegError

FOLDER = Path("cityscapes")
IMAGE, MASK = "_leftImg8bit", "_gtFine_instanceIds.png"  # ends of the files' names
# name -> label id in the files; the other labels (void, caravan ...) are ignored, as the benchmark does
LABELS = {
    **{"road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19},
    **{"traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26},
    **{"truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33},
}
HIGHEST = 33
CLASSES = tuple(LABELS)
THINGS = tuple(i for i, label in enumerate(LABELS.values()) if label >= LABELS["person"])
# label id -> class index
INDEX = np.full(HIGHEST + 1, IGNORE, np.uint8)
INDEX[list(LABELS.values())] = range(len(LABELS))


def read_cityscapes(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read `root/cityscapes/{leftImg8bit,gtFine}/{train,val}/CITY`; the seed has no effect.

    "test" is the official val: test masks are secret. Labels and objects both come from `*_instanceIds.png`.
    """
    part = "train" if split == "train" else "val"
    folder = need_folder(root / FOLDER / "gtFine" / part, "Cityscapes' fine annotations", "cityscapes")
    masks = {path.name.removesuffix(MASK): path for path in sorted(folder.glob(f"*/*{MASK}"))}
    found = (root / FOLDER / "leftImg8bit" / part).glob(f"*/*{IMAGE}.*")
    check_all_masks((path.stem.removesuffix(IMAGE) for path in found), masks, folder)
    return SegmentationSet(
        name="cityscapes",
        root=root,
        split=split,
        classes=CLASSES,
        background=None,
        ids=tuple(masks),
        images={id: FOLDER / "leftImg8bit" / part / masks[id].parent.name / f"{id}{IMAGE}" for id in masks},
        read_label=partial(_label, masks),
        annotation_files=tuple(path.relative_to(root) for path in masks.values()),
        read_instances=partial(_instances, masks),
        things=THINGS,
    )


def _label(masks: dict[str, Path], id: str) -> np.ndarray:
    """Class indices, uint8 `(H,W)`. A group of objects that were not told apart counts, as the benchmark does."""
    return INDEX[_labels(_numbers(masks[id]))]


def _instances(masks: dict[str, Path], id: str) -> list[Instance]:
    numbers = _numbers(masks[id])
    classes = {number: INDEX[_labels(number)] for number in np.unique(numbers)}
    return [
        Instance(numbers == number, int(index), crowd=bool(number < 1000))
        for number, index in classes.items()
        if index in THINGS
    ]


def _labels(numbers: np.ndarray) -> np.ndarray:
    """Label ids of numbers: `1000 label + object`, or the label alone where objects are not told apart."""
    return np.where(numbers < 1000, numbers, numbers // 1000)


def _numbers(file: Path) -> np.ndarray:
    """The 16-bit numbers of a file, int32 `(H,W)`."""
    try:
        with Image.open(file) as image:
            numbers = np.asarray(image).astype(np.int32)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnsegError(f"Expected a readable mask in {file}, found a corrupt one ({error}); replace it.") from error
    if numbers.ndim != 2 or numbers.min() < 0 or _labels(numbers).max() > HIGHEST:
        raise UnsegError(
            f"Expected Cityscapes' labels 0 to {HIGHEST} in {file}, found others; is it an _instanceIds.png?"
        )
    return numbers
