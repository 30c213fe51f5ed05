"""Sets that are two folders of the same names, images and masks: CamVid, one object against its background, and yours.

Of HQSeg-44K, which UnSeg's generator and SAM-HQ are trained on, and the four sets that SAM-HQ is tested on, the layout
is that of SAM-HQ's training data (Ke et al., NeurIPS 2023). An image there has one object and no class.
"""

from pathlib import Path

import numpy as np

from unseg_lib.datasets.segmentation_set import (
    TEST_SHARE,
    SegmentationSet,
    check_all_masks,
    cut,
    group_of,
    image_files,
    label_set,
    mask_files,
    need_folder,
)
from unseg_lib.datasets.sources import SOURCES
from unseg_lib.errors import UnsegError
from unseg_lib.images import IGNORE, objects_of, read_label, read_objects

OBJECT = ("background", "object")


def read_camvid(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read `root/CamVid/{train,val,test}` and its masks `{split}annot`, SegNet's layout; the seed has no effect."""
    folder = need_folder(root / "CamVid", "CamVid", "camvid")
    masks = mask_files(folder / f"{split}annot", "CamVid's masks", "camvid", of=image_files(folder / split))
    images = {id: Path("CamVid", split, id) for id in masks}
    return label_set("camvid", root, split, SOURCES["camvid"].classes, images, masks, _camvid_label, background=None)


def _camvid_label(path: Path) -> np.ndarray:
    """The number behind the last class is void, which nobody scores."""
    label = read_label(path)
    return np.where(label == len(SOURCES["camvid"].classes), np.uint8(IGNORE), label)


def read_halves(name: str, place: str, what: str, root: Path, split: str, seed: int) -> SegmentationSet:
    """Read `root/place/{images,masks}`, of one class `what`: of the paper, without splits.

    A seeded fifth is "test". Images without a mask are left out: of 800 X-rays of Lung's official release 704 have one.
    """
    masks = mask_files(root / place / "masks", f"masks of {name}", name)
    ids = cut(tuple(masks), TEST_SHARE, seed, name, "test")[split != "train"]
    images = {id: Path(place, "images", id) for id in ids}
    return label_set(name, root, split, ("background", what), images, masks, _soft_label)


def _soft_label(path: Path) -> np.ndarray:
    """Object 1, background 0 of a published set of one object: its masks are white on black, some of them JPEG."""
    return objects_of(read_label(path), soft=True)


def read_folder(root: Path, split: str, seed: int, where: str = "") -> SegmentationSet:
    """Read folders below `root`, joined by "+" ("interactive/davis+interactive/ccp"; "" = root itself).

    Of each, all pairs `im/`, `gt/` in it or up to two levels below are read; what a mask file means says
    `images.read_objects`. There are no official splits: a seeded fifth of each is "test", frames of one video together.
    """
    places = [pair.relative_to(root) for name in where.split("+") for pair in _find_pairs(root, name.strip())]
    images, masks = {}, {}
    for place in places:
        files = mask_files(root / place / "gt", "masks", "folder", of=image_files(root / place / "im"))
        stems = cut(tuple(files), TEST_SHARE, seed, place.as_posix(), "test", group=group_of)[split != "train"]
        prefix = "" if len(places) == 1 else "-".join(place.parts) + "-"  # two folders may use one name
        images |= {prefix + stem: place / "im" / stem for stem in stems}
        masks |= {prefix + stem: file for stem, file in files.items()}
    return label_set(f"folder:{where}" if where else "folder", root, split, OBJECT, images, masks, read_objects)


def _find_pairs(root: Path, name: str) -> list[Path]:
    """Folders that hold `gt/`; the images may be missing in a poisoned copy."""
    folder = root / name
    if not folder.resolve().is_relative_to(root.resolve()):
        raise UnsegError(f"Expected a folder below the data root {root}, found '{name}'; name another data root.")
    if not folder.is_dir():
        raise UnsegError(f"Expected a folder {folder} with im/ and gt/ in it, found none; check --data or UNSEG_DATA.")
    found = sorted({gt.parent for depth in ("gt", "*/gt", "*/*/gt") for gt in folder.glob(depth) if gt.is_dir()})
    if not found:
        raise UnsegError(f"Expected folders im/ (images) and gt/ (masks) in {folder}, found no gt/.")
    return found


HQSEG = Path("interactive/hqseg44k")
_DIS, _CASCADE, _THIN = "DIS5K", "cascade_psp", "thin_object_detection"
# part -> its folders of images and of masks below HQSEG, and the set that `unseg data get` gets it with
HQSEG_PARTS = {
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
HQSEG_SETS = {
    "hqseg44k": {"train": tuple(HQSEG_PARTS)[:7], "test": tuple(HQSEG_PARTS)[7:]},
    "dis5k": {"train": ("DIS5K-TR",), "val": ("DIS5K-VD",), "test": ("DIS5K-VD",)},
    "coift": {"test": ("COIFT",)},
    "hrsod": {"test": ("HRSOD",)},
    "thinobject5k": {"train": ("ThinObject5K-TR",), "test": ("ThinObject5K-TE",)},
}


def read_hqseg(name: str, root: Path, split: str, seed: int) -> SegmentationSet:
    """Read a split of one of HQSEG_SETS; the seed has no effect. Ids of several parts begin with their part's name.

    Where image and mask lie in one folder (CascadePSP's layout: `x.jpg` is the image and `x.png` its mask), a copy has
    its images in `im/`.
    """
    images, masks, originals = {}, {}, {}
    for part in HQSEG_SETS[name][split]:
        place, folder, get = HQSEG_PARTS[part]
        place, folder = HQSEG / place, HQSEG / folder
        prefix = f"{part}-" if len(HQSEG_SETS[name][split]) > 1 else ""
        if place != folder:
            files = mask_files(root / folder, f"masks of {part}", get, of=image_files(root / place))
        else:
            need_folder(root / folder, f"masks of {part}", get)
            files = {path.stem: path for path in sorted((root / folder).glob("*.png"))}
            beside = {path.stem: path.relative_to(root) for path in sorted((root / folder).glob("*.jpg"))}
            if beside:  # not in a copy
                check_all_masks(beside, files, root / folder)
                files = {stem: files[stem] for stem in files if stem in beside}  # SAM-HQ too goes by the images
            originals |= {prefix + stem: path for stem, path in beside.items()}
            place = folder / "im"
        images |= {prefix + stem: place / stem for stem in files}
        masks |= {prefix + stem: file for stem, file in files.items()}
    return label_set(name, root, split, OBJECT, images, masks, _soft_label, originals=originals)
