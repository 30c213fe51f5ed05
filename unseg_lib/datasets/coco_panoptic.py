"""COCO 2017 panoptic: 80 things and 53 stuff classes; a json says of which class each segment of a png is."""

import os
from functools import partial
from pathlib import Path

import numpy as np

from unseg_lib.datasets.coco import SPLITS, CocoNotes, coco_json, read_notes
from unseg_lib.datasets.segmentation_set import (
    IGNORE,
    Instance,
    SegmentationSet,
    check_all_masks,
    image_files,
    need_folder,
)
from unseg_lib.datasets.unpack import unpack
from unseg_lib.errors import UnsegError
from unseg_lib.images import read_image

CLASSES = 133
VOID = 0  # the number of pixels without a segment


def read_coco_panoptic(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read `root/coco/{train,val}2017` with `annotations/panoptic_*2017.json`; the seed has no effect.

    The png are in `coco/annotations/panoptic_*2017`, where they are unpacked, or in `coco/panoptic_*2017`, where
    detectron2 wants them. Class indices follow COCO's numbers, which puts things first. Crowds are ignored.
    """
    year = f"{SPLITS[split]}2017"
    notes = Path(f"coco/annotations/panoptic_{year}.json")
    places = [place for place in ("coco/annotations", "coco") if (root / place / f"panoptic_{year}").is_dir()]
    folder = root / (places or ["coco/annotations"])[0] / f"panoptic_{year}"
    found = read_notes(root, "coco-panoptic", Path("coco") / year, notes, CLASSES)
    files = image_files(need_folder(folder, "COCO's panoptic masks", "coco-panoptic"))
    check_all_masks(found.images, files, folder)
    with coco_json(found.path):
        segments = _segments(found)
        things = tuple(i for i, category in enumerate(found.categories) if category["isthing"])
    return SegmentationSet(
        name="coco-panoptic",
        root=root,
        split=split,
        classes=tuple(category["name"] for category in found.categories),
        background=None,
        ids=tuple(found.images),
        images=found.places,
        read_label=partial(_label, files, segments),
        annotation_files=(notes, *(files[id].relative_to(root) for id in found.images)),
        read_instances=partial(_instances, files, segments, things),
        things=things,
    )


# of one image: segment's number -> (class index, whether it is a crowd)
Segments = dict[int, tuple[int, bool]]


def _segments(notes: CocoNotes) -> dict[str, Segments]:
    """id -> the segments of the image; every image must have an annotation."""
    found = {
        notes.ids[note["image_id"]]: {
            segment["id"]: (notes.class_of(segment), bool(segment["iscrowd"])) for segment in note["segments_info"]
        }
        for note in notes.annotations
    }
    if missing := sorted(set(notes.images) - set(found)):
        raise UnsegError(f"Expected an annotation of every image in {notes.path}, found none of {missing[0]}.")
    return found


def _numbers(file: Path, segments: Segments) -> np.ndarray:
    """The segments' numbers, int64 `(H,W)`: red + 256 green + 256² blue."""
    numbers = read_image(file).astype(np.int64) @ (1, 256, 256**2)
    if strange := (set(np.unique(numbers).tolist()) - {VOID}) ^ set(segments):
        where = "json" if min(strange) in segments else "png"
        raise UnsegError(
            f"Expected the same segments in {file} and in the json, found {min(strange)} in the {where} only; "
            "get the set again."
        )
    return numbers


def _label(files: dict[str, Path], segments: dict[str, Segments], id: str) -> np.ndarray:
    """Class indices, uint8 `(H,W)`; void and crowds are ignored."""
    numbers = _numbers(files[id], segments[id])
    found, where = np.unique(numbers, return_inverse=True)
    known = {number: IGNORE if crowd else index for number, (index, crowd) in segments[id].items()}
    return np.array([known.get(number, IGNORE) for number in found.tolist()], np.uint8)[where].reshape(numbers.shape)


def _instances(
    files: dict[str, Path], segments: dict[str, Segments], things: tuple[int, ...], id: str
) -> list[Instance]:
    numbers = _numbers(files[id], segments[id])
    return [
        Instance(numbers == number, index, crowd) for number, (index, crowd) in segments[id].items() if index in things
    ]


def merge_panoptic(found: Path, coco: Path) -> None:
    """Add COCO's panoptic annotations to `coco`: json and png of both splits; `found` is their archive, unpacked."""
    for year in ("train2017", "val2017"):
        unpack(found / f"panoptic_{year}.zip", found / f"panoptic_{year}", f"panoptic_{year}")
    (coco / "annotations").mkdir(exist_ok=True)
    for year in ("train2017", "val2017"):  # the png of val last: they say that the set is there
        os.replace(found / f"panoptic_{year}.json", coco / f"annotations/panoptic_{year}.json")
        if not (coco / f"annotations/panoptic_{year}").exists():  # else an earlier call was killed just here
            os.replace(found / f"panoptic_{year}", coco / f"annotations/panoptic_{year}")
