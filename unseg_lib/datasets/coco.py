"""Instances in COCO's json: COCO 2017, NWPU VHR-10, WHU building, SSDD."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from unseg_lib.datasets.segmentation_set import IGNORE, Instance, SegmentationSet, need_folder
from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json
from unseg_lib.outlines import decode

# "test" is the official val: COCO's test masks are secret, and NWPU and SSDD are cut in two only
SPLITS = {"train": "train", "val": "val", "test": "val"}


def read_instances(
    name: str, place: str, notes: str, root: Path, split: str, seed: int, categories: int = 0, own_test: bool = False
) -> SegmentationSet:
    """Read the images in `root/place` with the json `root/notes`, in both of which {} is the split; no effect of seed.

    categories: how many the json must have, 0 = any number. own_test: there is an official test, and ids begin with the
    split, because images of one name are in train and test.
    """
    part, prefix = (split, f"{split}-") if own_test else (SPLITS[split], "")
    found = read_notes(root, name, Path(place.format(part)), Path(notes.format(part)), categories, prefix)
    with coco_json(found.path):
        objects = objects_of(found, lambda place: 1 + place)
        classes = ("background", *(category["name"] for category in found.categories))
    content = tuple(found.images), found.places, partial(_label, found.images, objects)
    more = {"read_instances": partial(instances_of, found.images, objects), "originals": found.originals}
    return SegmentationSet(name, root, split, classes, *content, (found.path.relative_to(root),), **more)


# the json of WHU and SSDD are RSPrompter's
read_coco = partial(read_instances, "coco", "coco/{}2017", "coco/annotations/instances_{}2017.json")
read_nwpu = partial(read_instances, "nwpu", "NWPU_VHR-10/images", "NWPU_VHR-10/annotations/NWPU_instances_{}.json")
read_whu = partial(read_instances, "whu", "WHU/imgs/{}/image", "WHU/annotations/WHU_building_{}.json")
read_whu = partial(read_whu, categories=1, own_test=True)
read_ssdd = partial(read_instances, "ssdd", "SSDD/imgs", "SSDD/annotations/SSDD_instances_{}.json", categories=1)


@dataclass(frozen=True)
class CocoNotes:
    """What a json of COCO's format holds, be it instances or panoptic segments."""

    path: Path
    annotations: list[dict]
    categories: list[dict]  # in the order of their numbers
    images: dict[str, dict]  # id, which is the file's name without suffix, or begins with more -> image; in order
    index: dict[int, int]  # COCO's number of a category -> its place in `categories`
    ids: dict[int, str]  # COCO's number of an image -> id
    places: dict[str, Path]  # id -> image below the data root, without suffix
    originals: dict[str, Path]  # id -> image below the data root, of those that only their suffixes tell apart

    def class_of(self, note: dict) -> int:
        """The place in `categories` of an annotation's or a segment's class."""
        number = note["category_id"]
        if number not in self.index:
            what = f"one of the {len(self.index)} categories of {self.path} in annotation {note['id']}"
            raise UnsegError(f"Expected {what}, found unknown class {number}; replace the file.")
        return self.index[number]


@contextmanager
def coco_json(path: Path) -> Iterator[None]:
    """Make a sentence of what is missing in a json, or something else than it should be."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        found = f"json without {error}" if isinstance(error, KeyError) else f"json of another form ({error})"
        raise UnsegError(f"Expected COCO annotations in {path}, found {found}; replace the file.") from error


def read_notes(root: Path, name: str, folder: Path, notes: Path, classes: int = 0, prefix: str = "") -> CocoNotes:
    """Read the json `notes` of the set `name`, whose images are in `folder`, both below root.

    classes: how many categories it must have, 0 = any number. prefix: what ids begin with.
    """
    path = root / notes
    need_folder(path.parent, f"annotations of {name}", name)
    if not path.is_file():
        raise UnsegError(f"Expected the annotations {path}, found none; complete the data set.")
    content = read_json(path)
    with coco_json(path):
        categories = sorted(content["categories"], key=lambda category: category["id"])
        index = {category["id"]: i for i, category in enumerate(categories)}
        files = [PurePosixPath(image["file_name"].replace("\\", "/")) for image in content["images"]]
        # without suffix, but of a.jpg beside a.png with it; by the plain name, or with its folder where several have it
        doubled = Counter(file.with_suffix("") for file in files)
        clear = [file.with_name(file.name.replace(".", "-")) for file in files]
        stems = [own if doubled[own] < 2 else other for own, other in zip((f.with_suffix("") for f in files), clear)]
        counts = Counter(stem.name for stem in stems)
        names = [prefix + (stem.name if counts[stem.name] < 2 else "-".join(stem.parts)) for stem in stems]
        images = dict(sorted(dict(zip(names, content["images"])).items()))
        ids = {image["id"]: id for id, image in images.items()}
        places = {id: folder / stem for id, stem in zip(names, stems)}
        other = {id: folder / file for id, stem, own, file in zip(names, stems, clear, files) if stem == own}
        other = {id: place for id, place in other.items() if (root / place).is_file()}  # not in a copy
        found = CocoNotes(path, content["annotations"], categories, images, index, ids, places, other)
        if len(ids) < len(content["images"]):
            raise UnsegError(f"Expected images of different names in {path}, found two of one name.")
    if outside := [place for place in places.values() if place.is_absolute() or ".." in place.parts]:
        raise UnsegError(f"Expected images below {root / folder} in {path}, found {outside[0]}.")
    if classes and len(categories) != classes:
        found = f"found {len(categories)}; is it the json of this data set?"
        raise UnsegError(f"Expected {classes} classes in {path}, {found}")
    return found


def objects_of(notes: CocoNotes, class_index: Callable[[int], int]) -> dict[str, list[dict]]:
    """id -> the annotations of an image, with the index of the class that has a place in `categories`."""
    for image in notes.images.values():  # else no masks could be drawn
        sides = image["height"], image["width"]
        if not all(type(side) is int and side > 0 for side in sides):
            what = f"height and width of {image['file_name']} in {notes.path} in whole pixels"
            raise UnsegError(f"Expected {what}, found {sides[0]!r} and {sides[1]!r}; mend the json.")
    objects = defaultdict(list)
    for note in notes.annotations:
        objects[notes.ids[note["image_id"]]].append(note | {"class_index": class_index(notes.class_of(note))})
    return dict(objects)


def _label(images: dict, objects: dict, id: str) -> np.ndarray:
    """Class indices, uint8 `(H,W)`: crowds are ignored, small objects lie on top of large ones."""
    label = np.zeros((images[id]["height"], images[id]["width"]), np.uint8)
    for one in sorted(instances_of(images, objects, id), key=lambda one: (not one.crowd, -int(one.mask.sum()))):
        label[one.mask] = IGNORE if one.crowd else one.class_index
    return label


def instances_of(images: dict, objects: dict, id: str) -> list[Instance]:
    notes = objects.get(id, [])
    return [Instance(decode(one, images[id]), one["class_index"], bool(one.get("iscrowd", 0))) for one in notes]
