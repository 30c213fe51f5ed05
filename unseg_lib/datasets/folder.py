"""Any folders of images `im/` and masks `gt/` of the same names: one object against its background."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from unseg_lib.datasets.segmentation_set import SegmentationSet, check_all_masks, image_files
from unseg_lib.datasets.splits import TEST_SHARE, cut_groups
from unseg_lib.errors import UnsegError
from unseg_lib.images import read_label


@dataclass(frozen=True)
class PairFolder:
    """A folder of images and one of masks of the same names; `stems` are those that belong to the split."""

    images: Path  # below the data root
    masks: dict[str, Path]  # stem -> file, of all splits
    stems: tuple[str, ...]
    prefix: str = ""  # before the stem in an id: two folders may use one name
    originals: dict[str, Path] = field(default_factory=dict)  # as in SegmentationSet, by stem


def read_folder(root: Path, split: str, seed: int, where: str = "") -> SegmentationSet:
    """Read folders below `root`, joined by "+" ("interactive/davis+interactive/ccp"; "" = root itself).

    Of each, all pairs `im/`, `gt/` in it or up to two levels below are read. There are no official splits:
    a seeded fifth of each is "test", frames of one video together.
    """
    places = [pair.relative_to(root) for name in where.split("+") for pair in _find_pairs(root, name.strip())]
    folders = []
    for place in places:
        files = image_files(root / place / "gt")
        if (root / place / "im").is_dir():
            check_all_masks(image_files(root / place / "im"), files, root / place / "gt")
        train, test = cut_groups(tuple(files), TEST_SHARE, seed, place.as_posix(), "test")
        prefix = "" if len(places) == 1 else "-".join(place.parts) + "-"
        folders.append(PairFolder(place / "im", files, train if split == "train" else test, prefix))
    return pair_set(root, f"folder:{where}" if where else "folder", split, folders)


def pair_set(root: Path, name: str, split: str, folders: list[PairFolder], what: str = "object") -> SegmentationSet:
    """The set of all pairs in the folders, of the classes "background" and `what`."""
    keys = [(folder.prefix + stem, folder, stem) for folder in folders for stem in folder.stems]
    return SegmentationSet(
        name=name,
        root=root,
        split=split,
        classes=("background", what),
        background=0,
        ids=tuple(id for id, _, _ in keys),
        images={id: folder.images / stem for id, folder, stem in keys},
        read_label=partial(_binary_label, {id: folder.masks[stem] for id, folder, stem in keys}),
        annotation_files=tuple(path.relative_to(root) for folder in folders for path in folder.masks.values()),
        originals={id: folder.originals[stem] for id, folder, stem in keys if stem in folder.originals},
    )


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


def _binary_label(masks: dict[str, Path], id: str) -> np.ndarray:
    """Object 1, background 0: more than half of 255 is object (JPEG masks are not clean), of 0/1 masks the 1."""
    mask = read_label(masks[id])
    return (mask > (127 if mask.max(initial=0) > 1 else 0)).astype(np.uint8)
