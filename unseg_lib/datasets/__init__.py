"""Data sets: `load_dataset("voc", data_root(), "train")` gives images and label maps; DATASETS lists them."""
# ruff: noqa: F401, I001 - the face of the package: what others import from it

from unseg_lib.datasets.archives import fetch, name_of, unpack
from unseg_lib.datasets.download import CHECKSUMS, DOWNLOADS, check, get, list_sets
from unseg_lib.datasets.registry import DATASETS, DataSet, data_root, extent, load_dataset, sources, splits_of
from unseg_lib.datasets.scenes import CLASSES, COUNTS, draw_scene, write_scenes
from unseg_lib.datasets.segmentation_set import IGNORE, Instance, MaskPairs, SegmentationSet, cut, group_of
from unseg_lib.datasets.segmentation_set import label_set, shuffled, subset
from unseg_lib.datasets.sources import SOURCES, Archive, Source, read_sources, record_of
