"""Tiny data sets in the official layouts, for tests: a few images of 12 x 16 pixels each.

python tests/tiny_sets.py FOLDER      those of the profile paper, and weights, for the profile paper-tiny
"""

import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json, write_json
from unseg_lib.images import write_image

HEIGHT, WIDTH = 12, 16
BOX = (slice(2, 8), slice(3, 11))  # where the object of every image is
LEFT, RIGHT = (slice(2, 8), slice(3, 7)), (slice(2, 8), slice(7, 11))  # its halves: two objects


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def drawn(*shapes: tuple, outside: int = 0) -> np.ndarray:
    """A label map of (place, class) on `outside`."""
    found = np.full((HEIGHT, WIDTH), outside, np.uint8)
    for place, index in shapes:
        found[place] = index
    return found


def label(inside: int, outside: int = 0) -> np.ndarray:
    return drawn((BOX, inside), outside=outside)


def palette(numbers: np.ndarray, colours=(0, 0, 0, *(37 * i % 256 for i in range(3, 768)))) -> Image.Image:
    """As VOC's masks: the background black, all else in colours."""
    image = Image.fromarray(numbers, "P")
    image.putpalette(colours)
    return image


def write_mask(path: Path, mask: np.ndarray) -> None:
    write_image(path, mask[..., None], gray=True)


def write_pair(folder: Path, stem: str, number: int, mask: np.ndarray, places: tuple[str, str], suffix: str = ".jpg"):
    write_image(folder / places[0] / f"{stem}{suffix}", image(number))
    write_mask(folder / places[1] / f"{stem}.png", mask)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def refused(words: str):
    return pytest.raises(UnsegError, match=words)


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    content = read_json(path)
    change(content)
    write_json(path, content)


def voc(root: Path, five: bool = False) -> str:
    """An object of one class in each image; five: the first five classes instead, side by side in all of them."""
    stripes = [((BOX[0], slice(BOX[1].start + i, BOX[1].start + i + 1)), 1 + i) for i in range(5)]
    folder = root / "VOCdevkit/VOC2012"
    for split, years in {"train_aug": range(2007, 2017), "val": range(2017, 2020)}.items():
        write_text(folder / f"ImageSets/Segmentation/{split}.txt", "".join(f"{year}_000001\n" for year in years))
        for year in years:
            shapes = stripes if five else [(BOX, year % 20 + 1), (BOX[0].start, 255)]
            write_pair(folder, f"{year}_000001", year, drawn(*shapes), ("JPEGImages", "SegmentationClassAug"))
    return "voc"


def camvid(root: Path) -> str:
    for split, count in {"train": 10, "val": 3, "test": 3}.items():
        for i in range(count):
            mask = drawn((BOX, 8), (-1, 11), outside=3)
            write_pair(root / "CamVid", f"{split}_{i}", i, mask, (split, f"{split}annot"), ".png")
    return "camvid"


def lung(root: Path) -> str:
    for i in range(10):
        write_pair(root / "LungSegmentation", f"CXR_{i}_0", i, label(255), ("images", "masks"), ".png")
    return "lung"


def kvasir(root: Path) -> str:
    for i in range(10):
        write_image(root / f"Kvasir-SEG/images/p{i}.jpg", image(i))
        # masks are JPEG there: 255 comes as 253, 0 as 2
        write_mask(root / f"Kvasir-SEG/masks/p{i}.jpg", label(255))
    return "kvasir"


def folder(root: Path) -> str:
    for video in ("bear", "goat-run", "kid", "mallard", "rhino"):
        for frame in (0, 7, 14):
            write_pair(root / "own/davis", f"{video}_{frame:05d}", frame, label(255), ("im", "gt"))
    for i in range(5):
        write_pair(root / "own/ccp", f"{i:04d}", i, label(255), ("im", "gt"))
    return "folder:own/davis+own/ccp"


def scenes(root: Path) -> str:
    from unseg_lib.datasets import write_scenes

    write_scenes(root, size=24, counts={"train": 10, "test": 3})
    return "scenes"


# shapes of objects as COCO writes them: two squares, and a crowd
LARGE = [[2, 1, 12, 1, 12, 9, 2, 9]]
SMALL = [[4, 3, 7, 3, 7, 6, 4, 6]]
COLUMN = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT, HEIGHT * (WIDTH - 1)]}  # the leftmost one


def write_coco(path: Path, images: list[dict], kinds: list[dict], shapes: list[tuple]) -> None:
    """COCO's json of images that all have the same objects: number of the category, shape, whether it is a crowd."""
    notes = []
    for image, (i, (kind, shape, crowd)) in product(images, enumerate(shapes)):
        numbers = {"id": 10 * image["id"] + i, "image_id": image["id"], "category_id": kind}
        notes.append(numbers | {"segmentation": shape, "iscrowd": crowd, "area": 1, "bbox": [0, 0, 1, 1]})
    write_json(path, {"images": images, "annotations": notes, "categories": kinds})


def _json_set(name: str, images: str, notes: str, root: Path, one_class: str = "", counts=(("train", 8), ("val", 3))):
    """A large square, a small one on it and a crowd, in each image; category numbers with gaps, in disorder.

    {} in the places is the split. one_class: the only category. Of three splits, the images' names are in each.
    """
    ship, plane = (1, 1) if one_class else (7, 3)
    kinds = [{"id": 1, "name": one_class}] if one_class else [{"id": 7, "name": "ship"}, {"id": 3, "name": "airplane"}]
    shapes, size = [(ship, SMALL, 0), (plane, LARGE, 0), (plane, COLUMN, 1)], {"height": HEIGHT, "width": WIDTH}
    for split, count in counts:
        files = [f"{100 + i}.tif" if len(counts) > 2 else f"{split}{i}.jpg" for i in range(count)]
        pictures = [{"id": 100 + i, "file_name": file, "license": 0} | size for i, file in enumerate(files)]
        write_coco(root / notes.format(split), pictures, kinds, shapes)
        for i, file in enumerate(files):
            write_image(root / images.format(split) / file, image(i))
    return name


def coco_panoptic(root: Path) -> str:
    """Grass (class 80) around two things of class 2; the last row is void, the first a crowd of class 4."""
    kinds = [{"id": i + 1, "name": f"thing {i}", "isthing": 1} for i in range(80)]
    kinds += [{"id": 100 + i, "name": f"stuff {i}", "isthing": 0} for i in range(53)]
    for split, count in {"train": 8, "val": 3}.items():
        images, notes = [], []
        for i in range(count):
            numbers, stem = np.full((HEIGHT, WIDTH), 70_000 + i), f"{split}{i}"
            numbers[LEFT], numbers[RIGHT], numbers[0], numbers[-1] = 300, 7, 9, 0
            segments = [(70_000 + i, 100, 0), (300, 3, 0), (7, 3, 0), (9, 5, 1)]
            found = [{"id": n, "category_id": c, "iscrowd": k, "area": 1, "bbox": []} for n, c, k in segments]
            notes.append({"image_id": 50 + i, "file_name": f"{stem}.png", "segments_info": found})
            images.append({"id": 50 + i, "file_name": f"{stem}.jpg", "height": HEIGHT, "width": WIDTH})
            colours = np.stack([numbers % 256, numbers // 256 % 256, numbers // 256**2], 2).astype(np.uint8)
            write_image(root / f"coco/annotations/panoptic_{split}2017/{stem}.png", colours)
            write_image(root / f"coco/{split}2017/{stem}.jpg", image(i))
        content = {"images": images, "annotations": notes, "categories": kinds[::-1], "info": {}, "licenses": []}
        write_json(root / f"coco/annotations/panoptic_{split}2017.json", content)
    return "coco-panoptic"


def coco_instances(root: Path) -> str:
    """The same, with other objects: a square of class 2 that overlaps one of class 0, and a crowd of class 4."""
    coco_panoptic(root)
    for split in ("train", "val"):
        content = read_json(root / f"coco/annotations/panoptic_{split}2017.json")
        things = [one for one in content["categories"] if one["isthing"]]
        shapes = [(3, LARGE, 0), (1, SMALL, 0), (5, COLUMN, 1)]
        write_coco(root / f"coco/annotations/instances_{split}2017.json", content["images"], things, shapes)
    return "coco-instances"


def ade20k(root: Path) -> str:
    """Two beds (class 7, thing 1) on a floor (class 3), the right one with a pillow's mask on the floor beside it."""
    for part, count in {"training": 8, "validation": 3}.items():
        for i in range(count):
            folder, stem = root / "ADEChallengeData2016", f"ADE_{part}_{i:08d}"
            mask = drawn((BOX, 7 + 1), (0, 0), outside=3 + 1)
            objects = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            objects[LEFT], objects[RIGHT], objects[9, :4] = (1, 1, 0), (1, 2, 0), (34, 3, 0)
            write_pair(folder, stem, i, mask, (f"images/{part}", f"annotations/{part}"))
            write_image(folder / f"annotations_instance/{part}/{stem}.png", objects)
    return "ade20k"


def cityscapes(root: Path) -> str:
    """Two cars on a road, a group of persons in the last row, a caravan in the first column, the first row void."""
    for split, count in {"train": 8, "val": 3}.items():
        for i in range(count):
            city, numbers = f"{split}city{i % 2}", np.full((HEIGHT, WIDTH), 7, np.uint16)
            numbers[LEFT], numbers[RIGHT], numbers[-1], numbers[:, 0], numbers[0] = 26000, 26001, 24, 29000, 3
            stem = f"{city}_{i:06d}_000019"
            write_image(root / f"cityscapes/leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png", image(i))
            path = root / f"cityscapes/gtFine/{split}/{city}/{stem}_gtFine_instanceIds.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(numbers).save(path)
    return "cityscapes"


def _hqseg(name: str, root: Path) -> str:
    """Two images of each training part (of a set of one part eight), one of each test part."""
    from unseg_lib.datasets import DATASETS
    from unseg_lib.datasets.folders import HQSEG, hqseg_parts

    for split in DATASETS[name].splits:
        parts = hqseg_parts(name, split)
        for _, _, *places in parts.values():
            for i in range(1 if split != "train" else 2 if len(parts) > 1 else 8):
                write_pair(root / HQSEG, f"{split}{i}", i, label(255), places)
    return name


coco = partial(_json_set, "coco", "coco/{}2017", "coco/annotations/instances_{}2017.json")
nwpu = partial(_json_set, "nwpu", "NWPU_VHR-10/images", "NWPU_VHR-10/annotations/NWPU_instances_{}.json")
ssdd = partial(_json_set, "ssdd", "SSDD/imgs", "SSDD/annotations/SSDD_instances_{}.json", one_class="ship")
whu = partial(_json_set, "whu", "WHU/imgs/{}/image", "WHU/annotations/WHU_building_{}.json", one_class="building")
whu = partial(whu, counts=(("train", 8), ("val", 3), ("test", 2)))
ALL = {make.__name__: make for make in (voc, camvid, lung, kvasir, folder, scenes, ade20k, cityscapes)}
ALL |= {"nwpu": nwpu, "coco": coco, "whu": whu, "ssdd": ssdd, "coco-panoptic": coco_panoptic}
ALL["coco-instances"] = coco_instances
ALL |= {name: partial(_hqseg, name) for name in ("hqseg44k", "dis5k", "coift", "hrsod", "thinobject5k")}
WITH_TRAIN = sorted(set(ALL) - {"coift", "hrsod"})


def rehearsal(root: Path) -> None:
    """Write what the profile paper reads, and random weights in SAM's and MAE's formats; nothing where it is whole."""
    import torch
    from toys import mae_checkpoint, save_sam

    from unseg_lib.method import LAYOUTS, build_surrogate

    if (done := root / "weights/mae_tiny.pth").exists():
        return
    voc(root, five=True)
    for name in ("lung", "kvasir", "ade20k", "cityscapes", "coco-instances", "hqseg44k", "nwpu", "whu", "ssdd"):
        ALL[name](root)
    done.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_sam(done.with_name("sam_tiny.pth"))
    torch.save({"model": mae_checkpoint(build_surrogate("sam", LAYOUTS["tiny"]).image_encoder, 7)}, done)


if __name__ == "__main__":
    rehearsal(Path(sys.argv[1]))
