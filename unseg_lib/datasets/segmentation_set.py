"""What every data set becomes: ids, images, label maps, and the files a poisoned copy must carry."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from unseg_lib.errors import UnsegError
from unseg_lib.images import IMAGE_SUFFIXES, find_image, image_size, read_image

IGNORE = 255


@dataclass(frozen=True)
class Instance:
    """One object of an image: mask bool `(H,W)` and the index of its class.

    crowd: many objects that nobody told apart; they are neither learnt nor scored (COCO's `iscrowd`).
    """

    mask: np.ndarray
    class_index: int
    crowd: bool = False


@dataclass(frozen=True, eq=False)
class SegmentationSet:
    """One split of a data set.

    The ids come from the annotation files, never from which images exist: a poisoned copy, which holds
    the images of one split and the annotations of all, has the same splits as its original.
    """

    name: str
    root: Path  # the data root
    split: str
    classes: tuple[str, ...]  # index -> name
    background: int | None  # index of the background; None where every class is of interest
    ids: tuple[str, ...]
    images: Mapping[str, Path]  # id -> image below root, without suffix
    read_label: Callable[[str], np.ndarray]  # id -> uint8 (H,W), class indices and 255 = ignore
    annotation_files: tuple[Path, ...]  # below root: label maps, split lists, json
    read_instances: Callable[[str], list[Instance]] | None = None  # with crowds
    things: tuple[int, ...] | None = None  # indices of the countable classes; None = all but the background
    # id -> image below root, where the original has it beside its mask of the same name, which a copy, being PNG,
    # cannot: it has it at its place in `images`
    originals: Mapping[str, Path] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Image i and its label map."""
        return self.image(self.ids[i]), self.label(self.ids[i])

    def image_path(self, id: str) -> Path:
        """The file of an image, found by stem: a poisoned copy has .png where the original has .jpg."""
        place = self.root / self._place(id)
        if id in self.originals:
            return self.root / self.originals[id]
        return find_image(place.parent, place.name)

    def relative_image(self, id: str) -> Path:
        """Where a copy of the set has the image, below its root; nearly always where this set has it."""
        place = self._place(id)
        return place.with_name(place.name + self.image_path(id).suffix)

    def image(self, id: str) -> np.ndarray:
        """Image, uint8 RGB `(H,W,3)`."""
        return read_image(self.image_path(id))

    def label(self, id: str) -> np.ndarray:
        """Class indices, uint8 `(H,W)`, 255 = ignore. A map of another size or with unknown classes is refused."""
        label = self.read_label(id)
        self._check_size(id, label)
        highest = int(label[label != IGNORE].max(initial=0))
        if highest >= len(self.classes):
            raise UnsegError(
                f"Expected classes 0 to {len(self.classes) - 1} or 255 in the mask of {id} of {self.name}, "
                f"found class {highest}; is it a mask of this data set?"
            )
        return label

    def instances(self, id: str) -> list[Instance]:
        """The objects of an image, crowds left out."""
        return [one for one in self._with_crowds(id) if not one.crowd]

    def crowds(self, id: str) -> list[Instance]:
        """The crowds of an image: what is found there counts neither for nor against a detector."""
        return [one for one in self._with_crowds(id) if one.crowd]

    @property
    def stuff(self) -> tuple[int, ...]:
        """Indices of the uncountable classes: neither things nor background."""
        things = range(len(self.classes)) if self.things is None else self.things
        return tuple(i for i in range(len(self.classes)) if i not in things and i != self.background)

    def segments(self, id: str) -> list[Instance]:
        """The segments of an image for panoptic segmentation: its objects and one for every stuff class in it.

        Where an object lies on stuff (in ADE20K's masks they overlap), its pixels are the object's. A set
        without `things` has no stuff: its segments are its objects.
        """
        segments = self.instances(id)
        if not self.stuff:
            return segments
        label = self.label(id)
        free = ~np.any([one.mask for one in segments] or [np.zeros(label.shape, bool)], axis=0)
        present = sorted(set(self.stuff) & set(np.unique(label[free]).tolist()))
        return segments + [Instance((label == index) & free, index) for index in present]

    def _with_crowds(self, id: str) -> list[Instance]:
        if self.read_instances is None:
            raise UnsegError(f"{self.name} has no instance masks; use coco or nwpu, or its label maps.")
        found = self.read_instances(id)
        for one in found[:1]:  # all are of one file
            self._check_size(id, one.mask)
        return found

    def _check_size(self, id: str, mask: np.ndarray) -> None:
        size = image_size(self.image_path(id))
        if mask.shape != size:
            raise UnsegError(
                f"Expected a mask of {size[1]}x{size[0]} pixels for {id} of {self.name}, the size of its image, "
                f"found {mask.shape[1]}x{mask.shape[0]}; replace one of the two."
            )

    def _place(self, id: str) -> Path:
        if id not in self.images:
            raise UnsegError(f"Split {self.split} of {self.name} has no image '{id}'.")
        return self.images[id]


def object_label(read_label: Callable[[str], np.ndarray], background: int | None, id: str) -> np.ndarray:
    """Label map of object against background: 1 = any class but the background, 255 stays."""
    label = read_label(id)
    objects = label != IGNORE if background is None else (label != background) & (label != IGNORE)
    return np.where(label == IGNORE, IGNORE, objects).astype(np.uint8)


def as_objects(source: SegmentationSet) -> dict:
    """The fields that turn a set into object against background."""
    return {
        "classes": ("background", "object"),
        "background": 0,
        "read_label": partial(object_label, source.read_label, source.background),
        "read_instances": source.read_instances and partial(_object_instances, source.read_instances),
        "things": None,
    }


def _object_instances(read_instances: Callable[[str], list[Instance]], id: str) -> list[Instance]:
    return [replace(one, class_index=1) for one in read_instances(id)]


def need_folder(folder: Path, what: str, name: str) -> Path:
    """The folder, or a sentence on how to get the data set called `name`."""
    if not folder.is_dir():
        raise UnsegError(
            f"Expected {what} in {folder}, found no such folder; get it with `unseg data get {name}`, "
            "or name the data root with --data or UNSEG_DATA."
        )
    return folder


def image_files(folder: Path) -> dict[str, Path]:
    """The images in a folder by stem, in order; two of one stem are refused."""
    found = {}
    files = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    for path in sorted(path for path in files if not path.name.startswith(".")):
        if path.stem in found:
            raise UnsegError(f"Expected one image called {path.stem} in {folder}, found two; remove one.")
        found[path.stem] = path
    return found


def check_all_masks(stems: Iterable[str], masks: Mapping[str, Path], folder: Path) -> None:
    """Every stem has a mask in `folder`, or a sentence that names the first without."""
    missing = sorted(set(stems) - set(masks))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UnsegError(
            f"Expected a mask called {missing[0]}{more} in {folder}, found none; "
            "complete the data set or take the image out."
        )
