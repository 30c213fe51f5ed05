"""Medical sets of the paper without official splits: chest X-rays (Lung) and polyps (Kvasir-SEG)."""

from functools import partial
from pathlib import Path

from unseg_lib.datasets.folder import binary_label
from unseg_lib.datasets.segmentation_set import SegmentationSet, need_folder, picture_files
from unseg_lib.datasets.splits import TEST_SHARE, cut


def read_lung(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read `root/LungSegmentation/{images,masks}` (Montgomery and Shenzhen), a seeded fifth as "test"."""
    return _read_pairs(root, split, seed, "lung", Path("LungSegmentation"), "lung")


def read_kvasir(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read `root/Kvasir-SEG/{images,masks}`, a seeded fifth as "test"."""
    return _read_pairs(root, split, seed, "kvasir", Path("Kvasir-SEG"), "polyp")


def _read_pairs(root: Path, split: str, seed: int, name: str, folder: Path, what: str) -> SegmentationSet:
    """X-rays without a mask are left out: of 800 in the official release 704 have one."""
    masks = picture_files(need_folder(root / folder / "masks", f"masks of {name}", name))
    train, test = cut(tuple(masks), TEST_SHARE, seed, name, "test")
    ids = train if split == "train" else test
    return SegmentationSet(
        name=name,
        root=root,
        split=split,
        classes=("background", what),
        background=0,
        ids=ids,
        pictures={id: folder / "images" / id for id in ids},
        read_label=partial(binary_label, masks),
        annotation_files=tuple(path.relative_to(root) for path in masks.values()),
    )
