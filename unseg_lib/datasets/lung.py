"""Medical sets of the paper without official splits: chest X-rays (Lung) and polyps (Kvasir-SEG)."""

from pathlib import Path

from unseg_lib.datasets.folder import PairFolder, pair_set
from unseg_lib.datasets.segmentation_set import SegmentationSet, image_files, need_folder
from unseg_lib.datasets.splits import TEST_SHARE, cut


def read_lung(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read `root/LungSegmentation/{images,masks}` (Montgomery and Shenzhen), a seeded fifth as "test"."""
    return _read_pairs(root, split, seed, "lung", Path("LungSegmentation"), "lung")


def read_kvasir(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read `root/Kvasir-SEG/{images,masks}`, a seeded fifth as "test"."""
    return _read_pairs(root, split, seed, "kvasir", Path("Kvasir-SEG"), "polyp")


def _read_pairs(root: Path, split: str, seed: int, name: str, folder: Path, what: str) -> SegmentationSet:
    """X-rays without a mask are left out: of 800 in the official release 704 have one."""
    masks = image_files(need_folder(root / folder / "masks", f"masks of {name}", name))
    train, test = cut(tuple(masks), TEST_SHARE, seed, name, "test")
    pairs = PairFolder(folder / "images", masks, train if split == "train" else test)
    return pair_set(root, name, split, [pairs], what)
