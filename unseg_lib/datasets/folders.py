"""Sets of images and of label maps in folders: Pascal VOC, CamVid, one object against its background, and yours.

The layout of HQSeg-44K, which UnSeg's generator and SAM-HQ are trained on, and of the four sets that SAM-HQ is tested
on, is that of SAM-HQ's training data (Ke et al., NeurIPS 2023). An image there has one object and no class.
"""

import os
import shutil
import sys
from functools import cache
from pathlib import Path

import numpy as np
import yaml

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
from unseg_lib.files import whole_file, write_bytes
from unseg_lib.images import IGNORE, write_image
from unseg_lib.masks import OUTLINES, mask_key, objects_of, read_label, read_objects
from unseg_lib.runtime import progress

OBJECT = ("background", "object")

VOC = Path("VOCdevkit/VOC2012")
# "train" is the list with SBD's images where it is there, as all papers mean it; "test" is val: test masks are secret
VOC_LISTS = {"train": ("train_aug", "train"), "val": ("val",), "test": ("val",)}
VOC_MASKS = ("SegmentationClassAug", "SegmentationClass")


def read_voc(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read `root/VOCdevkit/VOC2012`; no effect of seed. The palette's indices are the classes, 255 the contour."""
    folder = need_folder(root / VOC, "Pascal VOC 2012", "voc")
    lists = [folder / "ImageSets/Segmentation" / f"{name}.txt" for name in VOC_LISTS[split]]
    chosen = next((path for path in lists if path.is_file()), None)
    if chosen is None:
        raise UnsegError(f"Expected the list of images {lists[-1]}, found none; complete the data set.")
    ids = _names(chosen)
    if chosen != lists[0]:
        _tell_of_fallback(chosen, len(ids))
    place = next((folder / name for name in VOC_MASKS if (folder / name).is_dir()), folder / VOC_MASKS[-1])
    found = mask_files(place, "masks of Pascal VOC 2012", "voc", of=ids)
    masks, images = {id: found[id] for id in ids}, {id: VOC / "JPEGImages" / id for id in ids}
    return label_set("voc", root, split, SOURCES["voc"].classes, images, masks, files=(chosen, *masks.values()))


def _names(path: Path) -> list[str]:
    """The names of images in a list of the data set."""
    try:
        return path.read_text().split()
    except UnicodeDecodeError as error:
        raise UnsegError(f"Expected names of images in {path}, found no text ({error}); replace it.") from error


@cache  # once: a notebook asks for the set several times
def _tell_of_fallback(chosen: Path, count: int) -> None:
    print(
        f"voc: there is no train_aug.txt beside {chosen.name}, so train is VOC's own {count} images, not the 10,582 "
        "with SBD's that papers mean; `unseg data get voc-aug` adds them",
        file=sys.stderr,
    )


def merge_sbd(sbd: Path, folder: Path) -> None:
    """Add SBD's masks ("aug") to VOC 2012 in `folder`: all masks in SegmentationClassAug, then the list train_aug.

    sbd holds `cls/*.mat` and the lists train.txt, val.txt. VOC's own masks are preferred; the list is every image with
    a mask but VOC's val: 10,582.
    """
    from scipy.io import loadmat

    masks, official = folder / VOC_MASKS[0], image_files(folder / VOC_MASKS[1])
    half = masks.with_name(f".{masks.name}")
    if not masks.is_dir():  # else an earlier call was killed just before it wrote the list
        for path in progress(sorted((sbd / "cls").glob("*.mat")), "SBD masks"):
            if path.stem not in official:
                classes = loadmat(path)["GTcls"][0, 0]["Segmentation"].astype(np.uint8)
                write_image(half / f"{path.stem}.png", np.ascontiguousarray(classes)[..., None], gray=True)
        for path in official.values():
            with whole_file(half / path.name) as partial:
                shutil.copyfile(path, partial)
        os.replace(half, masks)
    lists = folder / "ImageSets/Segmentation"
    ids = {id for name in (sbd / "train.txt", sbd / "val.txt", lists / "train.txt") for id in _names(name)}
    write_bytes(lists / "train_aug.txt", ("\n".join(sorted(ids - set(_names(lists / "val.txt")))) + "\n").encode())


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

    Of each, all pairs `im/`, `gt/` in it or up to two levels below are read; what a file of a mask or of outlines means
    says `masks.read_objects`. There are no official splits: a seeded fifth of each is "test", frames of one video
    together.
    """
    places = [pair.relative_to(root) for name in where.split("+") for pair in _find_pairs(root, name.strip())]
    images, masks = {}, {}
    for place in places:
        files, names = _masks_of(root / place / "gt", image_files(root / place / "im"))
        stems = cut(tuple(files), TEST_SHARE, seed, place.as_posix(), "test", group=group_of)[split != "train"]
        prefix = "" if len(places) == 1 else "-".join(place.parts) + "-"  # two folders may use one name
        images |= {prefix + stem: place / "im" / names.get(stem, stem) for stem in stems}
        masks |= {prefix + stem: file for stem, file in files.items()}
    return label_set(f"folder:{where}" if where else "folder", root, split, OBJECT, images, masks, read_objects)


def _masks_of(folder: Path, images: dict[str, Path]) -> tuple[dict[str, Path], dict[str, str]]:
    """{id: mask}, {id: an image's stem that differs}. Ids are the masks' stems, or what counts of them (`mask_key`).

    The latter where no image has a mask of its own name; outlines are taken where there are no mask files.
    """
    files = image_files(folder) or {
        stem: path for stem, path in image_files(folder, OUTLINES).items() if stem != "classes"
    }
    names = {}
    if images and not images.keys() & files.keys():
        files = {mask_key(stem): path for stem, path in files.items()}
        names = {mask_key(stem): stem for stem in images}
    check_all_masks(names or images, files, folder)
    return files, names


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


def hqseg_parts(name: str, split: str) -> dict[str, list[str]]:
    """What hqseg.yaml says of the parts in a split of HQSeg-44K, or of one of the sets in it."""
    split = "test" if split == "val" else split
    parts = yaml.safe_load(Path(__file__).with_name("hqseg.yaml").read_text())
    return {part: row for part, row in parts.items() if row[1] == split and name in (row[0], "hqseg44k")}


def read_hqseg(name: str, root: Path, split: str, seed: int) -> SegmentationSet:
    """Read a split of HQSeg-44K or of a set in it; no effect of seed. Ids of several parts begin with the part's name.

    Where image and mask lie in one folder (CascadePSP's layout: `x.jpg` is the image and `x.png` its mask), a copy has
    its images in `im/`.
    """
    images, masks, originals, parts = {}, {}, {}, hqseg_parts(name, split)
    for part, (get, _, *places) in parts.items():
        place, folder = (HQSEG / place for place in places)
        prefix = f"{part}-" if len(parts) > 1 else ""
        if place != folder:
            files = mask_files(root / folder, f"masks of {part}", get, of=image_files(root / place))
        else:
            beside, place = image_files(root / folder, ".jpg"), folder / "im"
            files = mask_files(root / folder, f"masks of {part}", get, beside, ".png")
            if beside:  # not in a copy; SAM-HQ too goes by the images
                files = {stem: files[stem] for stem in files if stem in beside}
            originals |= {prefix + stem: path.relative_to(root) for stem, path in beside.items()}
        images |= {prefix + stem: place / stem for stem in files}
        masks |= {prefix + stem: file for stem, file in files.items()}
    return label_set(name, root, split, OBJECT, images, masks, _soft_label, originals=originals)
