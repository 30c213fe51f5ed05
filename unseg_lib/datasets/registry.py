"""The data sets by name: `load_dataset("voc", data_root(), "train")` gives images and label maps."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path

import yaml

from unseg_lib.datasets.coco import read_coco, read_nwpu, read_ssdd, read_whu
from unseg_lib.datasets.folders import read_camvid, read_folder, read_halves, read_hqseg, read_voc
from unseg_lib.datasets.panoptic import read_ade20k, read_cityscapes, read_coco_instances, read_coco_panoptic
from unseg_lib.datasets.scenes import CLASSES, COUNTS, SIZE, read_scenes
from unseg_lib.datasets.segmentation_set import HOLDOUT_SHARE, SegmentationSet, as_objects, cut, group_of, subset
from unseg_lib.datasets.sources import SOURCES, Source
from unseg_lib.errors import UnsegError, pick
from unseg_lib.images import image_size

WITH_VAL = ("train", "val", "test")
PARTS = ("fit", "holdout")  # a seeded 85/15 cut of "train", for tuning
OFFICIAL = yaml.safe_load(Path(__file__).with_name("official.yaml").read_text())  # see there
SAMPLED = 50  # images of a set whose size is read from their headers


@dataclass(frozen=True)
class DataSet:
    """A data set that can be read: `read(root, split, seed)` gives one of its `splits`."""

    read: Callable[..., SegmentationSet]
    source: Source | None = None  # where it comes from
    splits: tuple[str, ...] = ("train", "test")
    words: str = "nothing is known of its origin"  # of a set without source: what it is, ...
    of: tuple[str, ...] = ()  # ... and which sets it is made of
    takes_place: bool = False  # read as NAME:PLACE, with read(..., where=PLACE); the numbers in its names are frames


# a new data set is a reader and one line here; what completes one of them is in SOURCES alone
DATASETS: dict[str, DataSet] = {
    "voc": DataSet(read_voc, SOURCES["voc"], WITH_VAL),
    "camvid": DataSet(read_camvid, SOURCES["camvid"], WITH_VAL),
    "lung": DataSet(partial(read_halves, "lung", "LungSegmentation", "lung"), SOURCES["lung"]),
    "kvasir": DataSet(partial(read_halves, "kvasir", "Kvasir-SEG", "polyp"), SOURCES["kvasir"]),
    "nwpu": DataSet(read_nwpu, SOURCES["nwpu"], WITH_VAL),
    "coco": DataSet(read_coco, SOURCES["coco"], WITH_VAL),
    "coco-panoptic": DataSet(read_coco_panoptic, SOURCES["coco-panoptic"], WITH_VAL),
    "coco-instances": DataSet(
        read_coco_instances, None, WITH_VAL, "coco-panoptic with the objects of coco", of=("coco-panoptic",)
    ),
    "ade20k": DataSet(read_ade20k, SOURCES["ade20k"], WITH_VAL),
    "cityscapes": DataSet(read_cityscapes, SOURCES["cityscapes"], WITH_VAL),
    "whu": DataSet(read_whu, SOURCES["whu"], WITH_VAL),
    "ssdd": DataSet(read_ssdd, SOURCES["ssdd"], WITH_VAL),
    "hqseg44k": DataSet(partial(read_hqseg, "hqseg44k"), SOURCES["hqseg44k"]),
    "dis5k": DataSet(partial(read_hqseg, "dis5k"), SOURCES["dis5k"], WITH_VAL),
    "coift": DataSet(partial(read_hqseg, "coift"), SOURCES["coift"], ("test",)),
    "hrsod": DataSet(partial(read_hqseg, "hrsod"), SOURCES["hrsod"], ("test",)),
    "thinobject5k": DataSet(partial(read_hqseg, "thinobject5k"), SOURCES["thinobject5k"]),
    "scenes": DataSet(read_scenes, words="generated when first used; needs no download"),
    "folder": DataSet(
        read_folder, words="any folder with im/ (images) and gt/ (masks of the same names)", takes_place=True
    ),
}


def sources() -> dict[str, Source]:
    """All that can be got by name: SOURCES, and what the data sets bring with them."""
    return SOURCES | {name: one.source for name, one in DATASETS.items() if one.source}


def data_root(explicit: str | Path | None = None) -> Path:
    """The folder of the data sets: the given one, else UNSEG_DATA, else `data` of the current project."""
    return Path(explicit or os.environ.get("UNSEG_DATA") or "data")


def splits_of(name: str) -> tuple[str, ...]:
    """The splits of a data set, with PARTS where it has a "train"."""
    official = pick(DATASETS, name.partition(":")[0], "data set").splits
    return (*official, *PARTS) if "train" in official else official


def load_dataset(
    name: str,
    root: str | Path,
    split: str,
    *,
    task: str = "semantic",
    seed: int = 0,
    limit: int | None = None,
    working_size: Sequence[int] = (),
) -> SegmentationSet:
    """Read a split of a data set below the data root.

    name: a key of DATASETS; "folder:SUB+SUB" reads `im/`, `gt/` folders below the root.
    split: "train", "test", for some "val"; "fit" and "holdout" are a seeded 85/15 cut of "train" for tuning.
    task: "semantic" keeps the classes, "object" makes them object (1) against background (0).
    limit: a seeded choice of that many images. seed: of every choice made here; official splits have none.
    working_size: (height, width) at which images (bilinear, antialiased) and masks (nearest pixel) are read; empty: as
    they are. A copy that was poisoned at this size is read with the same one.
    """
    kind, _, where = name.partition(":")
    pick(dict.fromkeys(splits_of(name)), split, f"split of {kind}:")
    pick(dict.fromkeys(("semantic", "object")), task, "task")
    known = DATASETS[kind]
    if where and not known.takes_place:
        raise UnsegError(f"Expected '{kind}' without ':{where}'; only folder:SUB takes a place.")
    if working_size and (len(working_size) != 2 or min(working_size) < 1):
        raise UnsegError(f"Expected a working size of height and width, found {list(working_size)}.")
    found = known.read(Path(root), "train" if split in PARTS else split, seed, **{"where": where} if where else {})
    ids, size = found.ids, tuple(map(int, working_size)) or None
    if split in PARTS:
        # only in folders a name says which video an image is from; VOC's begin with the year
        group = group_of if known.takes_place else str
        ids = cut(ids, HOLDOUT_SHARE, seed, name, "holdout", group=group)[PARTS.index(split)]
    if limit is not None:
        ids = subset(ids, limit, seed, name, split, "limit")
    found = replace(found, split=split, ids=ids, working_size=size)
    return as_objects(found) if task == "object" else found


def extent(name: str, root: str | Path) -> tuple[int, int, float]:
    """Training images, classes, mean pixels of an image: of a set below `root`, else as published, or `UnsegError`."""
    if name == "scenes":  # reading would draw them
        return COUNTS["train"], len(CLASSES), SIZE**2
    try:
        found = load_dataset(name, root, "train")
    except UnsegError:
        if name not in OFFICIAL:
            raise
        return tuple(OFFICIAL[name])
    sizes = [prod(image_size(found.image_path(id))) for id in found.ids[:: max(1, len(found) // SAMPLED)]]
    return len(found), len(found.classes), sum(sizes) / len(sizes)
