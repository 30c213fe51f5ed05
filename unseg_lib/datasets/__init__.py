"""Data sets: `load_dataset("voc", data_root(), "train")` gives images and label maps; DATASETS lists them."""
# ruff: noqa: I001, RUF022 - by noun

# the face of the package: what others import from it
from unseg_lib.datasets.archives import fetch, name_of, unpack
from unseg_lib.datasets.coco import coco_json
from unseg_lib.datasets.download import CHECKSUMS, DOWNLOADS, check, get, list_sets
from unseg_lib.datasets.registry import DATASETS, DataSet, data_root, load_dataset, sources, splits_of
from unseg_lib.datasets.scenes import CLASSES, CONTOURS, COUNTS, INDEX, SURFACES, draw_scene, natural_fields, palette
from unseg_lib.datasets.scenes import write_scenes
from unseg_lib.datasets.segmentation_set import IGNORE, Instance, MaskPairs, SegmentationSet, cut, group_of
from unseg_lib.datasets.segmentation_set import label_set, shuffled, subset
from unseg_lib.datasets.sources import SOURCES, Archive, Source, read_sources, record_of

__all__ = ["DATASETS", "IGNORE", "SOURCES", "DataSet", "Instance", "MaskPairs", "SegmentationSet", "Source", "Archive"]
__all__ += ["data_root", "load_dataset", "splits_of", "sources", "read_sources", "label_set", "check", "get"]
__all__ += ["CLASSES", "CONTOURS", "COUNTS", "INDEX", "SURFACES", "draw_scene", "natural_fields", "palette"]
__all__ += ["list_sets", "write_scenes", "coco_json", "CHECKSUMS", "DOWNLOADS"]
__all__ += ["record_of", "fetch", "name_of", "unpack", "cut", "group_of", "shuffled", "subset"]
