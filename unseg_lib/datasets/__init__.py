"""Data sets: `load_dataset("voc", data_root(), "train")` gives images and label maps."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import lazy_loader

from unseg_lib.datasets.ade20k import read_ade20k
from unseg_lib.datasets.camvid import read_camvid
from unseg_lib.datasets.cityscapes import read_cityscapes
from unseg_lib.datasets.coco import read_coco, read_nwpu, read_ssdd, read_whu
from unseg_lib.datasets.coco_panoptic import read_coco_panoptic
from unseg_lib.datasets.folder import read_folder
from unseg_lib.datasets.hqseg import READERS as HQSEG
from unseg_lib.datasets.lung import read_kvasir, read_lung
from unseg_lib.datasets.scenes import read_scenes, write_scenes
from unseg_lib.datasets.segmentation_set import IGNORE, Instance, SegmentationSet, as_objects
from unseg_lib.datasets.splits import HOLDOUT_SHARE, cut, cut_groups, subset
from unseg_lib.datasets.voc import read_voc
from unseg_lib.errors import UnsegError, pick

# name -> read(root, split, seed); a new data set is one file and one line here
DATASETS = {
    "voc": read_voc,
    "camvid": read_camvid,
    "lung": read_lung,
    "kvasir": read_kvasir,
    "nwpu": read_nwpu,
    "coco": read_coco,
    "coco-panoptic": read_coco_panoptic,
    "ade20k": read_ade20k,
    "cityscapes": read_cityscapes,
    "whu": read_whu,
    "ssdd": read_ssdd,
    **HQSEG,
    "scenes": read_scenes,
    "folder": read_folder,
}
# have an official split "val"
WITH_VAL = ("voc", "camvid", "nwpu", "coco", "coco-panoptic", "ade20k", "cityscapes", "whu", "ssdd", "dis5k")
TEST_ONLY = ("coift", "hrsod")
PARTS = ("fit", "holdout")  # a seeded 85/15 cut of "train", for tuning
TASKS = ("semantic", "object")


def data_root(explicit: str | Path | None = None) -> Path:
    """The folder of the data sets: the given one, else UNSEG_DATA, else `data` of the current project."""
    return Path(explicit or os.environ.get("UNSEG_DATA") or "data")


def splits_of(name: str) -> tuple[str, ...]:
    """The splits of a data set."""
    if name in TEST_ONLY:
        return ("test",)
    return ("train", "val", "test", *PARTS) if name.partition(":")[0] in WITH_VAL else ("train", "test", *PARTS)


def load_dataset(
    name: str,
    root: str | Path,
    split: str,
    *,
    task: str = "semantic",
    seed: int = 0,
    limit: int | None = None,
) -> SegmentationSet:
    """Read a split of a data set below the data root.

    name: a key of DATASETS; "folder:SUB+SUB" reads `im/`, `gt/` folders below the root.
    split: "train", "test", for some "val"; "fit" and "holdout" are a seeded 85/15 cut of "train" for tuning.
    task: "semantic" keeps the classes, "object" makes them object (1) against background (0).
    limit: a seeded choice of that many images. seed: of every choice made here; official splits have none.
    """
    root = Path(root)
    kind, _, where = name.partition(":")
    read = pick(DATASETS, kind, "data set")
    if where and kind != "folder":
        raise UnsegError(f"Expected '{kind}' without ':{where}'; only folder:SUB takes a place.")
    pick(dict.fromkeys(splits_of(name)), split, f"split of {kind}:")
    pick(dict.fromkeys(TASKS), task, "task")
    read = partial(read, where=where) if where else read
    found = read(root, "train" if split in PARTS else split, seed)
    changes = {"split": split}
    if split in PARTS:
        # only in folders a name says which video an image is from; VOC's begin with the year
        parts = (cut_groups if kind == "folder" else cut)(found.ids, HOLDOUT_SHARE, seed, name, "holdout")
        changes["ids"] = parts[PARTS.index(split)]
    if limit is not None:
        changes["ids"] = subset(changes.get("ids", found.ids), limit, seed, name, split, "limit")
    if task == "object":
        changes |= as_objects(found)
    return replace(found, **changes)


__all__ = [
    "DATASETS",
    "IGNORE",
    "Instance",
    "SegmentationSet",
    "data_root",
    "load_dataset",
    "splits_of",
    "write_scenes",
]

# the face of the package: what others import from it, loaded when it is asked for
__getattr__, __dir__, _names = lazy_loader.attach(
    __name__,
    submod_attrs={
        "coco": ["check_sizes", "coco_json", "decode", "read_notes"],
        "download": ["DOWNLOADS", "check", "get", "list_sets"],
        "fetch": ["CHECKSUMS", "name_of"],
        "hqseg": ["FOLDER", "SETS"],
        "pairs": ["MaskPairs"],
        "scene_surfaces": ["CONTOURS", "SURFACES", "natural_fields", "palette"],
        "scenes": ["CLASSES", "COUNTS", "INDEX", "draw_scene"],
        "source": ["Archive", "Source"],
        "sources": ["SOURCES"],
        "splits": ["group_of", "shuffled"],
    },
)
