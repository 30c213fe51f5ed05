"""Sets that tell things, which can be counted, from stuff: ADE20K (100 of its 150 classes are things, as in the scene
parsing benchmark of 2016), Cityscapes (8 of 19), COCO 2017 panoptic (80 of 133).
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from unseg_lib.datasets.archives import unpack
from unseg_lib.datasets.coco import SPLITS, CocoNotes, coco_json, instances_of, objects_of, read_notes
from unseg_lib.datasets.segmentation_set import (
    IGNORE,
    Instance,
    SegmentationSet,
    check_all_masks,
    image_files,
    label_set,
    mask_files,
    need_folder,
)
from unseg_lib.datasets.sources import SOURCES
from unseg_lib.errors import UnsegError
from unseg_lib.images import opened, read_image
from unseg_lib.masks import read_label

# of one image: a segment's number -> (class index, whether it is a crowd)
Segments = dict[int, tuple[int, bool]]


def _objects(numbers: np.ndarray, segments: Segments, things: Sequence[int]) -> list[Instance]:
    return [Instance(numbers == one, index, crowd) for one, (index, crowd) in segments.items() if index in things]


ADE = Path("ADEChallengeData2016")
ADE_CLASSES = SOURCES["ade20k"].classes  # the first name of each class in objectInfo150.txt
# class of thing k, counted from 1 in the instance masks, is ADE_THINGS[k - 1]
ADE_THINGS = tuple(i for i, name in enumerate(ADE_CLASSES) if name not in SOURCES["ade20k"].stuff)


def read_ade20k(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read `root/ADEChallengeData2016/{images,annotations}/{training,validation}`; the seed has no effect.

    "test" is the official validation: test masks are secret. Objects come from `annotations_instance`, a download of
    its own, which semantic segmentation does without.
    """
    part = "training" if split == "train" else "validation"
    images, objects = ADE / "images" / part, root / ADE / "annotations_instance" / part
    masks = mask_files(root / ADE / "annotations" / part, "ADE20K's masks", "ade20k", of=image_files(root / images))
    if things := image_files(objects):
        check_all_masks(masks, things, objects)
    files, places = (*masks.values(), *things.values()), {id: images / id for id in masks}
    more = {"read_instances": partial(_ade_instances, objects), "things": ADE_THINGS, "files": files}
    return label_set("ade20k", root, split, ADE_CLASSES, places, masks, _ade_label, background=None, **more)


def _ade_label(path: Path) -> np.ndarray:
    """The files count classes from 1; 0, "other", becomes 255."""
    return read_label(path) - np.uint8(1)


def _ade_instances(folder: Path, id: str) -> list[Instance]:
    """Red is the thing's class, counted from 1 to 100, green the object's number, 0 = none."""
    file = need_folder(folder, "ADE20K's instance masks", "ade20k-instances") / f"{id}.png"
    kind, number, _ = np.moveaxis(read_image(file), 2, 0)
    found = []
    for one in np.unique(number[number > 0]):
        mask = number == one
        kinds = np.unique(kind[mask])
        if len(kinds) > 1 or not 1 <= kinds[0] <= len(ADE_THINGS):
            strange = f"found {', '.join(map(str, kinds))}; get ade20k-instances again."
            raise UnsegError(f"Expected one class from 1 to {len(ADE_THINGS)} for object {one} in {file}, {strange}")
        found.append(Instance(mask, ADE_THINGS[kinds[0] - 1]))
    return found


CITY = Path("cityscapes")
CITY_IMAGE, CITY_MASK = "_leftImg8bit", "_gtFine_instanceIds.png"  # ends of the files' names
# label id in the files of each class; the other labels (void, caravan ...) are ignored, as the benchmark does
CITY_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITY_LABELS = dict(zip(SOURCES["cityscapes"].classes, CITY_IDS, strict=True))
CITY_THINGS = tuple(i for i, name in enumerate(CITY_LABELS) if name not in SOURCES["cityscapes"].stuff)
# label id -> class index
CITY_INDEX = np.full(max(CITY_IDS) + 1, IGNORE, np.uint8)
CITY_INDEX[list(CITY_IDS)] = range(len(CITY_IDS))


def read_cityscapes(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read `root/cityscapes/{leftImg8bit,gtFine}/{train,val}/CITY`; the seed has no effect.

    "test" is the official val: test masks are secret. Labels and objects both come from `*_instanceIds.png`.
    """
    part = "train" if split == "train" else "val"
    folder = need_folder(root / CITY / "gtFine" / part, "Cityscapes' fine annotations", "cityscapes")
    masks = {path.name.removesuffix(CITY_MASK): path for path in sorted(folder.glob(f"*/*{CITY_MASK}"))}
    place = CITY / "leftImg8bit" / part
    found = (root / place).glob(f"*/*{CITY_IMAGE}.*")
    check_all_masks((path.stem.removesuffix(CITY_IMAGE) for path in found), masks, folder)
    images = {id: place / masks[id].parent.name / f"{id}{CITY_IMAGE}" for id in masks}
    more = {"read_instances": partial(_city_instances, masks), "things": CITY_THINGS, "labelled_crowds": True}
    return label_set("cityscapes", root, split, CITY_LABELS, images, masks, _city_label, background=None, **more)


def _city_label(path: Path) -> np.ndarray:
    """Class indices, uint8 `(H,W)`. A group of objects that were not told apart counts, as the benchmark does."""
    return _city_numbers(path)[1]


def _city_instances(masks: dict[str, Path], id: str) -> list[Instance]:
    numbers, label = _city_numbers(masks[id])
    found, places = np.unique(numbers, return_index=True)
    kinds = zip(found.tolist(), label.ravel()[places].tolist())
    return _objects(numbers, {number: (index, number < 1000) for number, index in kinds}, CITY_THINGS)


def _city_numbers(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """A file's numbers: `1000 label + object`, or the label alone where objects are not told apart; and its classes."""
    with opened(file, "mask") as image:  # of 16 bits
        numbers, most = np.asarray(image).astype(np.int32), max(CITY_IDS)
    labels = np.where(numbers < 1000, numbers, numbers // 1000)
    if numbers.ndim != 2 or numbers.min() < 0 or labels.max() > most:
        raise UnsegError(f"Expected Cityscapes' labels 0 to {most} in {file}, found others; is it an _instanceIds.png?")
    return numbers, CITY_INDEX[labels]


COCO_CLASSES = 133
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
    found = read_notes(root, "coco-panoptic", Path("coco") / year, notes, COCO_CLASSES)
    masks = mask_files(folder, "COCO's panoptic masks", "coco-panoptic", of=found.images)
    with coco_json(found.path):
        segments, classes = _coco_segments(found), [category["name"] for category in found.categories]
        things = tuple(i for i, category in enumerate(found.categories) if category["isthing"])
    masks = {id: masks[id] for id in found.images}
    more = {"read_instances": partial(_coco_instances, masks, segments, things), "things": things}
    more |= {"files": (found.path, *masks.values()), "background": None}
    return label_set("coco-panoptic", root, split, classes, found.places, masks, partial(_coco_label, segments), **more)


def read_coco_instances(root: Path, split: str, seed: int) -> SegmentationSet:
    """The same images and label maps with the objects of `annotations/instances_*2017.json`, which models of instances
    are trained and scored with: masks from polygons, which may overlap, and crowds. The seed has no effect.
    """
    found, year = read_coco_panoptic(root, split, seed), f"{SPLITS[split]}2017"
    notes = Path(f"coco/annotations/instances_{year}.json")
    own = read_notes(root, "coco", Path("coco") / year, notes)
    with coco_json(own.path):
        names = [category["name"] for category in own.categories]
        if strange := sorted(set(names) - {found.classes[i] for i in found.things}):
            told = f"found {strange[0]}; get coco again."
            raise UnsegError(f"Expected the things of the panoptic set in {own.path}, {told}")
        objects = objects_of(own, lambda place: found.classes.index(names[place]))
    files = (*found.annotation_files, notes)
    reader = partial(instances_of, own.images, objects)
    return replace(found, name="coco-instances", annotation_files=files, read_instances=reader)


def _coco_segments(notes: CocoNotes) -> dict[str, Segments]:
    """id -> the segments of the image; every image must have an annotation."""
    found = {}
    for note in notes.annotations:
        segments = {one["id"]: (notes.class_of(one), bool(one["iscrowd"])) for one in note["segments_info"]}
        found[notes.ids[note["image_id"]]] = segments
    if missing := sorted(set(notes.images) - set(found)):
        raise UnsegError(f"Expected an annotation of every image in {notes.path}, found none of {missing[0]}.")
    return found


def _coco_numbers(file: Path, segments: Segments) -> np.ndarray:
    """The segments' numbers, int64 `(H,W)`: red + 256 green + 256² blue."""
    numbers = read_image(file).astype(np.int64) @ (1, 256, 256**2)
    if strange := (set(np.unique(numbers).tolist()) - {VOID}) ^ set(segments):
        found = f"found {min(strange)} in the {'json' if min(strange) in segments else 'png'} only; get the set again."
        raise UnsegError(f"Expected the same segments in {file} and in the json, {found}")
    return numbers


def _coco_label(segments: dict[str, Segments], file: Path) -> np.ndarray:
    """Class indices, uint8 `(H,W)`; void and crowds are ignored."""
    numbers = _coco_numbers(file, segments[file.stem])
    found, where = np.unique(numbers, return_inverse=True)
    known = {number: IGNORE if crowd else index for number, (index, crowd) in segments[file.stem].items()}
    return np.array([known.get(number, IGNORE) for number in found.tolist()], np.uint8)[where].reshape(numbers.shape)


def _coco_instances(files: dict[str, Path], segments: dict[str, Segments], things: Sequence[int], id: str):
    return _objects(_coco_numbers(files[id], segments[id]), segments[id], things)


def merge_panoptic(found: Path, coco: Path) -> None:
    """Add COCO's panoptic annotations to `coco`: json and png of both splits; `found` is their archive, unpacked."""
    for year in ("train2017", "val2017"):
        unpack(found / f"panoptic_{year}.zip", found / f"panoptic_{year}", f"panoptic_{year}")
    (coco / "annotations").mkdir(exist_ok=True)
    for year in ("train2017", "val2017"):  # the png of val last: they say that the set is there
        os.replace(found / f"panoptic_{year}.json", coco / f"annotations/panoptic_{year}.json")
        if not (coco / f"annotations/panoptic_{year}").exists():  # else an earlier call was killed just here
            os.replace(found / f"panoptic_{year}", coco / f"annotations/panoptic_{year}")
