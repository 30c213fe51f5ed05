"""Tiny data sets in the official layouts, for tests: a few pictures of 12 x 16 pixels each."""

import json
from pathlib import Path

import numpy as np

from unseg_lib.pictures import write_picture

HEIGHT, WIDTH = 12, 16
BOX = (slice(2, 8), slice(3, 11))  # where the object of every picture is


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def label(inside: int, outside: int = 0) -> np.ndarray:
    found = np.full((HEIGHT, WIDTH), outside, np.uint8)
    found[BOX] = inside
    return found


def write_pair(folder: Path, stem: str, number: int, mask: np.ndarray, places: tuple[str, str], suffix: str = ".jpg"):
    write_picture(folder / places[0] / f"{stem}{suffix}", picture(number))
    write_picture(folder / places[1] / f"{stem}.png", mask[..., None], gray=True)


def voc(root: Path) -> str:
    folder = root / "VOCdevkit/VOC2012"
    lists = folder / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, years in {"train_aug": range(2007, 2017), "val": range(2017, 2020)}.items():
        (lists / f"{split}.txt").write_text("".join(f"{year}_000001\n" for year in years))
        for year in years:
            mask = label(year % 20 + 1)
            mask[BOX[0].start] = 255
            write_pair(folder, f"{year}_000001", year, mask, ("JPEGImages", "SegmentationClassAug"))
    return "voc"


def camvid(root: Path) -> str:
    for split, count in {"train": 10, "val": 3, "test": 3}.items():
        for i in range(count):
            mask = label(8, outside=3)
            mask[-1] = 11
            write_pair(root / "CamVid", f"{split}_{i}", i, mask, (split, f"{split}annot"), ".png")
    return "camvid"


def lung(root: Path) -> str:
    for i in range(10):
        write_pair(root / "LungSegmentation", f"CXR_{i}_0", i, label(255), ("images", "masks"), ".png")
    return "lung"


def kvasir(root: Path) -> str:
    for i in range(10):
        write_picture(root / f"Kvasir-SEG/images/p{i}.jpg", picture(i))
        # masks are JPEG there: 255 comes as 253, 0 as 2
        write_picture(root / f"Kvasir-SEG/masks/p{i}.jpg", label(255)[..., None], gray=True)
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


def coco_json(split: str, count: int) -> dict:
    """A large square, a small one on it and a crowd, in each picture; category numbers with gaps, in disorder."""

    def polygon(left, top, right, bottom):
        return [[left, top, right, top, right, bottom, left, bottom]]

    images = [
        {"id": 100 + i, "file_name": f"{split}{i}.jpg", "height": HEIGHT, "width": WIDTH, "license": 0}
        for i in range(count)
    ]
    crowd = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT, HEIGHT * (WIDTH - 1)]}  # the leftmost column
    shapes = [(7, polygon(4, 3, 7, 6), 0), (3, polygon(2, 1, 12, 9), 0), (3, crowd, 1)]
    annotations = [
        {
            **{"id": 10 * image["id"] + j, "image_id": image["id"], "category_id": category},
            **{"segmentation": shape, "iscrowd": is_crowd, "area": 1, "bbox": [0, 0, 1, 1]},
        }
        for image in images
        for j, (category, shape, is_crowd) in enumerate(shapes)
    ]
    categories = [{"id": 7, "name": "ship"}, {"id": 3, "name": "airplane"}]
    return {"images": images, "annotations": annotations, "categories": categories, "info": {}, "licenses": []}


def _coco(root: Path, pictures: dict[str, str], notes: str) -> None:
    for split, count in {"train": 8, "val": 3}.items():
        path = root / notes.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(coco_json(split, count)))
        for i in range(count):
            write_picture(root / pictures[split] / f"{split}{i}.jpg", picture(i))


def coco(root: Path) -> str:
    places = {"train": "coco/train2017", "val": "coco/val2017"}
    _coco(root, places, "coco/annotations/instances_{}2017.json")
    return "coco"


def nwpu(root: Path) -> str:
    places = dict.fromkeys(("train", "val"), "NWPU_VHR-10/images")
    _coco(root, places, "NWPU_VHR-10/annotations/NWPU_instances_{}.json")
    return "nwpu"


ALL = {make.__name__: make for make in (voc, camvid, lung, kvasir, nwpu, coco, folder, scenes)}
