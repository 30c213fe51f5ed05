"""Pascal VOC 2012, with the SBD masks where they are ("aug"): 20 classes and background."""

import os
import shutil
import sys
from functools import cache
from pathlib import Path

import numpy as np

from unseg_lib.datasets.segmentation_set import SegmentationSet, image_files, label_set, mask_files, need_folder
from unseg_lib.datasets.sources import SOURCES
from unseg_lib.errors import UnsegError
from unseg_lib.files import whole_file, write_bytes
from unseg_lib.images import write_image
from unseg_lib.runtime import progress

FOLDER = Path("VOCdevkit/VOC2012")
# "train" is the list with SBD's images where it is there, as all papers mean it; "test" is val: test masks are secret
LISTS = {"train": ("train_aug", "train"), "val": ("val",), "test": ("val",)}
MASKS = ("SegmentationClassAug", "SegmentationClass")


def read_voc(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read a split from `root/VOCdevkit/VOC2012`; the seed has no effect, the splits are official.

    The palette's indices are the classes; 255 is the contour that nobody scores.
    """
    folder = need_folder(root / FOLDER, "Pascal VOC 2012", "voc")
    lists = [folder / "ImageSets/Segmentation" / f"{name}.txt" for name in LISTS[split]]
    chosen = next((path for path in lists if path.is_file()), None)
    if chosen is None:
        raise UnsegError(f"Expected the list of images {lists[-1]}, found none; complete the data set.")
    ids = _names(chosen)
    if chosen.stem != LISTS[split][0]:
        _tell_of_fallback(chosen, len(ids))
    place = next((folder / name for name in MASKS if (folder / name).is_dir()), folder / MASKS[-1])
    found = mask_files(place, "masks of Pascal VOC 2012", "voc", of=ids)
    masks, images = {id: found[id] for id in ids}, {id: FOLDER / "JPEGImages" / id for id in ids}
    files = (chosen, *masks.values())
    return label_set("voc", root, split, SOURCES["voc"].classes, images, masks, files=files)


def _names(path: Path) -> list[str]:
    """The names of images in a list of the data set."""
    try:
        return path.read_text().split()
    except UnicodeDecodeError as error:
        raise UnsegError(f"Expected names of images in {path}, found no text ({error}); replace it.") from error


@cache  # once: a notebook asks for the set several times
def _tell_of_fallback(chosen: Path, count: int) -> None:
    print(
        f"voc: there is no {LISTS['train'][0]}.txt beside {chosen.name}, so train is VOC's own {count} images, "
        "not the 10,582 with SBD's that papers mean; `unseg data get voc-aug` adds them",
        file=sys.stderr,
    )


def merge_sbd(sbd: Path, folder: Path) -> None:
    """Add SBD's masks ("aug") to VOC 2012 in `folder`: all masks in SegmentationClassAug, then the list train_aug.

    sbd holds `cls/*.mat` and the lists train.txt, val.txt. Where VOC has a mask of its own, that one is taken;
    the list is every image with a mask but VOC's val: 10,582.
    """
    masks, official = folder / MASKS[0], image_files(folder / MASKS[1])
    if not masks.is_dir():  # else an earlier call was killed just before it wrote the list
        _write_masks(sbd, official, masks.with_name(f".{masks.name}"))
        os.replace(masks.with_name(f".{masks.name}"), masks)
    lists = folder / "ImageSets/Segmentation"
    ids = {id for name in (sbd / "train.txt", sbd / "val.txt", lists / "train.txt") for id in _names(name)}
    chosen = sorted(ids - set(_names(lists / "val.txt")))
    write_bytes(lists / "train_aug.txt", ("\n".join(chosen) + "\n").encode())


def _write_masks(sbd: Path, official: dict[str, Path], masks: Path) -> None:
    from scipy.io import loadmat

    for path in progress(sorted((sbd / "cls").glob("*.mat")), "SBD masks"):
        if path.stem not in official:
            classes = loadmat(path)["GTcls"][0, 0]["Segmentation"].astype(np.uint8)
            write_image(masks / f"{path.stem}.png", np.ascontiguousarray(classes)[..., None], gray=True)
    for path in official.values():
        with whole_file(masks / path.name) as partial:
            shutil.copyfile(path, partial)
