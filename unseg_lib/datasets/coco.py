"""Instances in COCO's json: COCO 2017 and NWPU VHR-10. Polygons and RLE are decoded by pycocotools."""

from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from unseg_lib.datasets.segmentation_set import IGNORE, Instance, SegmentationSet, need_folder
from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json

# "test" is the official val: COCO's test masks are secret, and NWPU is cut in two only
SPLITS = {"train": "train", "val": "val", "test": "val"}


def read_coco(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read `root/coco/{train,val}2017` with `annotations/instances_*2017.json`; the seed has no effect."""
    year = f"{SPLITS[split]}2017"
    return _read(root, split, "coco", Path("coco") / year, Path(f"coco/annotations/instances_{year}.json"))


def read_nwpu(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read `root/NWPU_VHR-10/images` with `annotations/NWPU_instances_{train,val}.json`; the seed has no effect."""
    notes = Path(f"NWPU_VHR-10/annotations/NWPU_instances_{SPLITS[split]}.json")
    return _read(root, split, "nwpu", Path("NWPU_VHR-10/images"), notes)


def _read(root: Path, split: str, name: str, pictures: Path, notes: Path) -> SegmentationSet:
    need_folder(root / notes.parent, f"annotations of {name}", name)
    if not (root / notes).is_file():
        raise UnsegError(f"Expected the annotations {root / notes}, found none; complete the data set.")
    content = read_json(root / notes)
    images, objects, categories = _parse(content, root / notes)
    places = {id: pictures / Path(image["file_name"]).with_suffix("") for id, image in images.items()}
    outside = [place for place in places.values() if place.is_absolute() or ".." in place.parts]
    if outside:
        raise UnsegError(f"Expected pictures below {root / pictures} in {root / notes}, found {outside[0]}.")
    return SegmentationSet(
        name=name,
        root=root,
        split=split,
        classes=("background", *(category["name"] for category in categories)),
        background=0,
        ids=tuple(images),
        pictures=places,
        read_label=partial(_label, images, objects),
        annotation_files=(notes,),
        read_instances=partial(_instances, images, objects),
    )


def _parse(content: dict, path: Path) -> tuple[dict, dict, list]:
    """(id -> image, id -> its annotations with `class_index`, categories in the order of their numbers)."""
    try:
        categories = sorted(content["categories"], key=lambda category: category["id"])
        index = {category["id"]: i for i, category in enumerate(categories, start=1)}
        images = {Path(image["file_name"]).stem: image for image in content["images"]}
        names = {image["id"]: name for name, image in images.items()}
        if len(names) < len(content["images"]):
            raise UnsegError(f"Expected pictures of different names in {path}, found two of one name.")
        objects = defaultdict(list)
        for note in content["annotations"]:
            if note["category_id"] not in index:
                raise UnsegError(
                    f"Expected one of the {len(index)} categories of {path} in annotation {note['id']}, "
                    f"found unknown class {note['category_id']}; replace the file."
                )
            objects[names[note["image_id"]]].append(note | {"class_index": index[note["category_id"]]})
    except (KeyError, TypeError) as error:
        raise UnsegError(
            f"Expected COCO annotations in {path}, found json without {error}; replace the file."
        ) from error
    return dict(sorted(images.items())), dict(objects), categories


def _decode(note: dict, image: dict) -> np.ndarray:
    """The mask of one annotation, bool `(H,W)`: polygons, or RLE as counts or as text."""
    from pycocotools import mask

    height, width, shape = image["height"], image["width"], note["segmentation"]
    try:
        if isinstance(shape, list):
            shape = mask.merge(mask.frPyObjects(shape, height, width))
        elif isinstance(shape["counts"], list):
            shape = mask.frPyObjects(shape, height, width)
        return mask.decode(shape).astype(bool)
    except Exception as error:  # pycocotools raises bare Exceptions
        raise UnsegError(
            f"Expected a polygon or RLE in annotation {note.get('id')} of {image['file_name']}, "
            f"found one that cannot be decoded ({error}); mend the json."
        ) from error


def _label(images: dict, objects: dict, id: str) -> np.ndarray:
    """Class indices, uint8 `(H,W)`: crowds are ignored, small objects lie on top of large ones."""
    image = images[id]
    label = np.zeros((image["height"], image["width"]), np.uint8)
    notes = objects.get(id, [])
    for note in notes:
        if note.get("iscrowd", 0):
            label[_decode(note, image)] = IGNORE
    for one in sorted(_instances(images, objects, id), key=lambda one: -int(one.mask.sum())):
        label[one.mask] = one.class_index
    return label


def _instances(images: dict, objects: dict, id: str) -> list[Instance]:
    notes = [note for note in objects.get(id, []) if not note.get("iscrowd", 0)]
    return [Instance(_decode(note, images[id]), note["class_index"]) for note in notes]
