"""Any folders of pictures `im/` and masks `gt/` of the same names: one object against its background.

This is how HQSeg-44K, the data that UnSeg's generator is trained on, is laid out.
"""

from functools import partial
from pathlib import Path

import numpy as np

from unseg_lib.datasets.segmentation_set import SegmentationSet, check_all_masks, picture_files
from unseg_lib.datasets.splits import TEST_SHARE, cut_groups
from unseg_lib.errors import UnsegError
from unseg_lib.pictures import read_label


def read_folder(root: Path, split: str, seed: int, where: str = "") -> SegmentationSet:
    """Read folders below `root`, joined by "+" ("interactive/davis+interactive/ccp"; "" = root itself).

    Of each, all pairs `im/`, `gt/` in it or up to two levels below are read. There are no official splits:
    a seeded fifth of each is "test", frames of one video together.
    """
    pairs = [pair for name in where.split("+") for pair in _find_pairs(root, name.strip())]
    chosen, pictures, masks, annotations = [], {}, {}, []
    for pair in pairs:
        files = picture_files(pair / "gt")
        if (pair / "im").is_dir():
            check_all_masks(picture_files(pair / "im"), files, pair / "gt")
        place = pair.relative_to(root)
        prefix = "" if len(pairs) == 1 else "-".join(place.parts) + "-"  # two folders may use one name
        train, test = cut_groups(tuple(files), TEST_SHARE, seed, place.as_posix(), "test")
        for stem in train if split == "train" else test:
            chosen.append(prefix + stem)
            pictures[prefix + stem], masks[prefix + stem] = place / "im" / stem, files[stem]
        annotations += [path.relative_to(root) for path in files.values()]
    return SegmentationSet(
        name=f"folder:{where}" if where else "folder",
        root=root,
        split=split,
        classes=("background", "object"),
        background=0,
        ids=tuple(chosen),
        pictures=pictures,
        read_label=partial(binary_label, masks),
        annotation_files=tuple(annotations),
    )


def _find_pairs(root: Path, name: str) -> list[Path]:
    """Folders that hold `gt/`; the pictures may be missing in a poisoned copy."""
    folder = root / name
    if not folder.resolve().is_relative_to(root.resolve()):
        raise UnsegError(f"Expected a folder below the data root {root}, found '{name}'; name another data root.")
    if not folder.is_dir():
        raise UnsegError(f"Expected a folder {folder} with im/ and gt/ in it, found none; check --data or UNSEG_DATA.")
    found = sorted({gt.parent for depth in ("gt", "*/gt", "*/*/gt") for gt in folder.glob(depth) if gt.is_dir()})
    if not found:
        raise UnsegError(f"Expected folders im/ (pictures) and gt/ (masks) in {folder}, found no gt/.")
    return found


def binary_label(masks: dict[str, Path], id: str) -> np.ndarray:
    """Object 1, background 0: more than half of 255 is object (JPEG masks are not clean), of 0/1 masks the 1."""
    mask = read_label(masks[id])
    return (mask > (127 if mask.max(initial=0) > 1 else 0)).astype(np.uint8)
