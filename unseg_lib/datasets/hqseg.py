"""HQSeg-44K, which UnSeg's generator and SAM-HQ are trained on, and the four sets that SAM-HQ is tested on.

The layout is that of SAM-HQ's training data (Ke et al., NeurIPS 2023), below `interactive/hqseg44k`. An image has
one object and no class.
"""

from functools import partial
from pathlib import Path

from unseg_lib.datasets.folder import PairFolder, pair_set
from unseg_lib.datasets.segmentation_set import SegmentationSet, check_all_masks, image_files, need_folder

FOLDER = Path("interactive/hqseg44k")
_DIS, _CASCADE, _THIN = "DIS5K", "cascade_psp", "thin_object_detection"
# part -> its folders of images and of masks below FOLDER, and the set that `unseg data get` gets it with
PARTS = {
    "DIS5K-TR": (f"{_DIS}/DIS-TR/im", f"{_DIS}/DIS-TR/gt", "dis5k"),
    "ThinObject5K-TR": (f"{_THIN}/ThinObject5K/images_train", f"{_THIN}/ThinObject5K/masks_train", "thinobject5k"),
    "FSS": (f"{_CASCADE}/fss_all", f"{_CASCADE}/fss_all", "hqseg44k"),
    "DUTS-TR": (f"{_CASCADE}/DUTS-TR", f"{_CASCADE}/DUTS-TR", "hqseg44k"),
    "DUTS-TE": (f"{_CASCADE}/DUTS-TE", f"{_CASCADE}/DUTS-TE", "hqseg44k"),
    "ECSSD": (f"{_CASCADE}/ecssd", f"{_CASCADE}/ecssd", "hqseg44k"),
    "MSRA10K": (f"{_CASCADE}/MSRA_10K", f"{_CASCADE}/MSRA_10K", "hqseg44k"),
    "DIS5K-VD": (f"{_DIS}/DIS-VD/im", f"{_DIS}/DIS-VD/gt", "dis5k"),
    "COIFT": (f"{_THIN}/COIFT/images", f"{_THIN}/COIFT/masks", "coift"),
    "HRSOD": (f"{_THIN}/HRSOD/images", f"{_THIN}/HRSOD/masks_max255", "hrsod"),
    "ThinObject5K-TE": (f"{_THIN}/ThinObject5K/images_test", f"{_THIN}/ThinObject5K/masks_test", "thinobject5k"),
}
# set -> the parts of each split; DIS5K's "test" is its val, as SAM-HQ and the paper test on it
SETS = {
    "hqseg44k": {"train": tuple(PARTS)[:7], "test": tuple(PARTS)[7:]},
    "dis5k": {"train": ("DIS5K-TR",), "val": ("DIS5K-VD",), "test": ("DIS5K-VD",)},
    "coift": {"test": ("COIFT",)},
    "hrsod": {"test": ("HRSOD",)},
    "thinobject5k": {"train": ("ThinObject5K-TR",), "test": ("ThinObject5K-TE",)},
}


def read_hqseg(name: str, root: Path, split: str, seed: int) -> SegmentationSet:
    """Read a split of one of SETS; the seed has no effect. Ids of several parts begin with their part's name."""
    parts = SETS[name][split]
    folders = [_part(root, part, f"{part}-" if len(parts) > 1 else "") for part in parts]
    return pair_set(root, name, split, folders)


def _part(root: Path, part: str, prefix: str) -> PairFolder:
    images, masks, name = PARTS[part]
    images, folder = FOLDER / images, need_folder(root / FOLDER / masks, f"masks of {part}", name)
    if images != FOLDER / masks:
        files = image_files(folder)
        if (root / images).is_dir():  # a poisoned copy has the images of one split only
            check_all_masks(image_files(root / images), files, folder)
        return PairFolder(images, files, tuple(files), prefix)
    return _side_by_side(root, images, prefix)


def _side_by_side(root: Path, folder: Path, prefix: str) -> PairFolder:
    """CascadePSP's layout: `x.jpg` is the image and `x.png` its mask; a copy has its images in `im/`."""
    masks = {path.stem: path for path in sorted((root / folder).glob("*.png"))}
    originals = {path.stem: path.relative_to(root) for path in sorted((root / folder).glob("*.jpg"))}
    if originals:  # not in a copy
        check_all_masks(originals, masks, root / folder)
        masks = {stem: path for stem, path in masks.items() if stem in originals}  # SAM-HQ too goes by the images
    return PairFolder(folder / "im", masks, tuple(masks), prefix, originals)


READERS = {name: partial(read_hqseg, name) for name in SETS}
