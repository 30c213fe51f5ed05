"""Tiny data sets in the official layouts, for tests: a few images of 12 x 16 pixels each."""

import json
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from unseg_lib.images import write_image

HEIGHT, WIDTH = 12, 16
BOX = (slice(2, 8), slice(3, 11))  # where the object of every image is


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def label(inside: int, outside: int = 0) -> np.ndarray:
    found = np.full((HEIGHT, WIDTH), outside, np.uint8)
    found[BOX] = inside
    return found


def write_pair(folder: Path, stem: str, number: int, mask: np.ndarray, places: tuple[str, str], suffix: str = ".jpg"):
    write_image(folder / places[0] / f"{stem}{suffix}", image(number))
    write_image(folder / places[1] / f"{stem}.png", mask[..., None], gray=True)


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
        write_image(root / f"Kvasir-SEG/images/p{i}.jpg", image(i))
        # masks are JPEG there: 255 comes as 253, 0 as 2
        write_image(root / f"Kvasir-SEG/masks/p{i}.jpg", label(255)[..., None], gray=True)
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
    """A large square, a small one on it and a crowd, in each image; category numbers with gaps, in disorder."""

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


def _coco(root: Path, images: dict[str, str], notes: str) -> None:
    for split, count in {"train": 8, "val": 3}.items():
        path = root / notes.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(coco_json(split, count)))
        for i in range(count):
            write_image(root / images[split] / f"{split}{i}.jpg", image(i))


def coco(root: Path) -> str:
    places = {"train": "coco/train2017", "val": "coco/val2017"}
    _coco(root, places, "coco/annotations/instances_{}2017.json")
    return "coco"


def nwpu(root: Path) -> str:
    places = dict.fromkeys(("train", "val"), "NWPU_VHR-10/images")
    _coco(root, places, "NWPU_VHR-10/annotations/NWPU_instances_{}.json")
    return "nwpu"


def whu(root: Path) -> str:
    for split, count in {"train": 8, "val": 3, "test": 2}.items():
        content = coco_json(split, count)
        for note in content["annotations"]:
            note["category_id"] = 1
        for entry in content["images"]:
            entry["file_name"] = f"{entry['id']}.tif"  # the same names in every split, as in the official release
            write_image(root / f"WHU/imgs/{split}/image/{entry['id']}.tif", image(entry["id"]))
        path = root / f"WHU/annotations/WHU_building_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content | {"categories": [{"id": 1, "name": "building"}]}))
    return "whu"


def ssdd(root: Path) -> str:
    _coco(root, dict.fromkeys(("train", "val"), "SSDD/imgs"), "SSDD/annotations/SSDD_instances_{}.json")
    for path in (root / "SSDD/annotations").iterdir():
        content = json.loads(path.read_text())
        for note in content["annotations"]:
            note["category_id"] = 1
        path.write_text(json.dumps(content | {"categories": [{"supercategory": None, "id": 1, "name": "ship"}]}))
    return "ssdd"


LEFT, RIGHT = (slice(2, 8), slice(3, 7)), (slice(2, 8), slice(7, 11))  # the halves of BOX: two objects


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
        (root / f"coco/annotations/panoptic_{split}2017.json").write_text(json.dumps(content))
    return "coco-panoptic"


def ade20k(root: Path) -> str:
    """Two beds (class 7, thing 1) on a floor (class 3), the right one with a pillow's mask on the floor beside it."""
    for part, count in {"training": 8, "validation": 3}.items():
        for i in range(count):
            folder, mask = root / "ADEChallengeData2016", label(7 + 1, outside=3 + 1)
            mask[0] = 0
            objects = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            objects[LEFT], objects[RIGHT], objects[9, :4] = (1, 1, 0), (1, 2, 0), (34, 3, 0)
            places = (f"images/{part}", f"annotations/{part}")
            write_pair(folder, f"ADE_{part}_{i:08d}", i, mask, places)
            write_image(folder / f"annotations_instance/{part}/ADE_{part}_{i:08d}.png", objects)
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
    from unseg_lib.datasets.hqseg import FOLDER, PARTS, SETS

    for split, parts in SETS[name].items():
        for part in parts:
            images, masks, _ = PARTS[part]
            for i in range(1 if split != "train" else 2 if len(parts) > 1 else 8):
                write_pair(root / FOLDER, f"{split}{i}", i, label(255), (images, masks))
    return name


ALL = {make.__name__: make for make in (voc, camvid, lung, kvasir, nwpu, coco, folder, scenes)}
ALL |= {make.__name__: make for make in (whu, ssdd, ade20k, cityscapes)} | {"coco-panoptic": coco_panoptic}
HQSEG = ("hqseg44k", "dis5k", "coift", "hrsod", "thinobject5k")
ALL |= {name: partial(_hqseg, name) for name in HQSEG}
WITH_TRAIN = sorted(set(ALL) - {"coift", "hrsod"})
