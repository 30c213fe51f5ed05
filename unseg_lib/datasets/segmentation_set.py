"""What every data set becomes: ids, images, label maps, and the files a poisoned copy must carry; how ids are cut."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from unseg_lib.errors import UnsegError
from unseg_lib.images import IGNORE, IMAGE_SUFFIXES, find_image, image_size, read_image, resize_image, resize_label
from unseg_lib.masks import OUTLINES, read_label
from unseg_lib.runtime import progress
from unseg_lib.seeds import numpy_rng

TEST_SHARE = 0.2  # of a set without official splits, as the paper cuts Lung
HOLDOUT_SHARE = 0.15  # of a train split, for tuning
Paths = Mapping[str, Path]  # id -> file, or place without suffix


@dataclass(frozen=True)
class Instance:
    """One object of an image, or a crowd: many that nobody told apart, neither learnt nor scored (COCO's `iscrowd`)."""

    mask: np.ndarray  # bool (H,W)
    class_index: int
    crowd: bool = False


@dataclass(frozen=True, eq=False)
class SegmentationSet:
    """One split of a data set.

    Ids come from annotation files, never from which images exist: a poisoned copy, which holds the images of one split
    and the annotations of all, has the same splits as its original.
    """

    name: str
    root: Path  # the data root
    split: str
    classes: tuple[str, ...]  # index -> name
    ids: tuple[str, ...]
    images: Paths  # id -> image below root, without suffix
    read_label: Callable[[str], np.ndarray]  # id -> uint8 (H,W), class indices and 255 = ignore
    annotation_files: tuple[Path, ...] = ()  # below root: label maps, split lists, json
    background: int | None = 0  # index of the background; None where every class is of interest
    read_instances: Callable[[str], list[Instance]] | None = None  # with crowds
    things: tuple[int, ...] | None = None  # indices of the countable classes; None = all but the background
    # id -> image below root, beside its mask of the same name; a copy, being PNG, has it at its place in `images`
    originals: Paths = field(default_factory=dict)
    labelled_crowds: bool = False  # whether its label maps count crowds, which nobody protects
    # (height, width) of the working copies that are read in place of the files' own pixels; None: as the files are
    working_size: tuple[int, int] | None = None
    # what is done to an image's pixels as they are read, one after the other: (pixels, id) -> pixels
    changes: tuple[Callable[[np.ndarray, str], np.ndarray], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Image i and its label map."""
        return self.image(self.ids[i]), self.label(self.ids[i])

    def image_path(self, id: str) -> Path:
        """The file of an image, found by stem: a poisoned copy has .png where the original has .jpg."""
        place = self.root / self._place(id)
        return self.root / self.originals[id] if id in self.originals else find_image(place.parent, place.name)

    def relative_image(self, id: str) -> Path:
        """Where a copy of the set has the image, below its root; nearly always where this set has it."""
        place = self._place(id)
        return place.with_name(place.name + self.image_path(id).suffix)

    def image(self, id: str) -> np.ndarray:
        """Image, uint8 RGB `(H,W,3)`, at the working size where there is one, after `changes`."""
        pixels = read_image(self.image_path(id))
        pixels = resize_image(pixels, self.working_size) if self.working_size else pixels
        for change in self.changes:
            pixels = change(pixels, id)
        return pixels

    def label(self, id: str) -> np.ndarray:
        """Class indices, uint8 `(H,W)`, 255 = ignore. A map of another size or with unknown classes is refused."""
        label = self.read_label(id)
        self._check_size(id, label)
        label = resize_label(label, self.working_size) if self.working_size else label
        highest = int(label[label != IGNORE].max(initial=0))
        if highest >= len(self.classes):
            where = f"in the mask of {id} of {self.name}, found class {highest}; is it a mask of this data set?"
            raise UnsegError(f"Expected classes 0 to {len(self.classes) - 1} or 255 {where}")
        return label

    def instances(self, id: str) -> list[Instance]:
        """The objects of an image, crowds left out."""
        return [one for one in self._with_crowds(id) if not one.crowd]

    def crowds(self, id: str) -> list[Instance]:
        """The crowds of an image: what is found there counts neither for nor against a detector."""
        return [one for one in self._with_crowds(id) if one.crowd]

    @property
    def countable(self) -> tuple[int, ...]:
        """Indices of the things; where the set does not say, of all classes but the background."""
        every = tuple(i for i in range(len(self.classes)) if i != self.background)
        return every if self.things is None else self.things

    @property
    def stuff(self) -> tuple[int, ...]:
        """Indices of the uncountable classes: neither things nor background."""
        return tuple(i for i in range(len(self.classes)) if i not in (*self.countable, self.background))

    def segments(self, id: str) -> list[Instance]:
        """The segments of an image for panoptic segmentation: its objects and one for every stuff class in it.

        Where an object lies on stuff (in ADE20K's masks they overlap), its pixels are the object's.
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
        if size := self.working_size:
            found = [replace(one, mask=resize_label(one.mask, size)) for one in found]
            found = [one for one in found if one.mask.any()]  # too small to be seen at this size
        return found

    def _check_size(self, id: str, mask: np.ndarray) -> None:
        size = image_size(self.image_path(id))
        # a poisoned working copy carries the original's masks
        if mask.shape != size and size != self.working_size:
            found = f"found {mask.shape[1]}x{mask.shape[0]}; replace one of the two."
            what = f"a mask of {size[1]}x{size[0]} pixels for {id} of {self.name}, the size of its image"
            raise UnsegError(f"Expected {what}, {found}")

    def _place(self, id: str) -> Path:
        if id not in self.images:
            raise UnsegError(f"Split {self.split} of {self.name} has no image '{id}'.")
        return self.images[id]


def as_objects(source: SegmentationSet) -> SegmentationSet:
    """The set as object (1, any class but the background) against background; 255 stays. Raises `UnsegError` where
    no class is the background: all that is labelled would be one object."""
    if source.background is None:
        found = f"found {source.name}, whose every class is of interest; take the task semantic."
        raise UnsegError(f"Expected a set with a background for the task object, {found}")
    readers = {"read_label": partial(_object_label, source)}
    readers["read_instances"] = source.read_instances and partial(_object_instances, source)
    return replace(source, classes=("background", "object"), background=0, things=None, **readers)


def _object_label(source: SegmentationSet, id: str) -> np.ndarray:
    label = source.read_label(id)
    return np.where(label == IGNORE, IGNORE, label != source.background).astype(np.uint8)


def _object_instances(source: SegmentationSet, id: str) -> list[Instance]:
    return [replace(one, class_index=1) for one in source.read_instances(id)]


def label_set(
    name: str, root: Path, split: str, classes: Iterable[str], images: Paths, masks: Paths, read=read_label, **more
) -> SegmentationSet:
    """The set of `images` (id -> place below root, without suffix) with a mask file each.

    masks: id -> file, those of other splits too where the splits are cut from them. read: makes a file a label map,
    outlines with the image's (height, width). more: other fields of the set, and `files`, which a copy must carry
    besides the images, else the masks.
    """
    files = tuple(path.relative_to(root) for path in more.pop("files", masks.values()))
    reader = partial(_read, read, root, images, masks)
    return SegmentationSet(name, root, split, tuple(classes), tuple(images), images, reader, files, **more)


def _read(read: Callable[..., np.ndarray], root: Path, images: Paths, masks: Paths, id: str) -> np.ndarray:
    if masks[id].suffix.lower() not in OUTLINES:
        return read(masks[id])
    place = root / images[id]
    return read(masks[id], image_size(find_image(place.parent, place.name)))


def need_folder(folder: Path, what: str, name: str) -> Path:
    """The folder, or a sentence on how to get the data set called `name`."""
    if not folder.is_dir():
        advice = f"get it with `unseg data get {name}`, or name the data root with --data or UNSEG_DATA."
        raise UnsegError(f"Expected {what} in {folder}, found no such folder; {advice}")
    return folder


def mask_files(folder: Path, what: str, name: str, of: Iterable[str] = (), suffixes=IMAGE_SUFFIXES) -> dict[str, Path]:
    """The mask files of a folder (see `need_folder`) by stem, in order; each of the stems `of` must have one."""
    files = image_files(need_folder(folder, what, name), suffixes)
    check_all_masks(of, files, folder)
    return files


def image_files(folder: Path, suffixes: str | tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """The images in a folder by stem, in order; none where there is no folder. Two of one stem are refused."""
    found, files = {}, folder.iterdir() if folder.is_dir() else ()
    for path in sorted(path for path in files if path.name.lower().endswith(suffixes) and path.name[0] != "."):
        if path.stem in found:
            raise UnsegError(f"Expected one image called {path.stem} in {folder}, found two; remove one.")
        found[path.stem] = path
    return found


def check_all_masks(stems: Iterable[str], masks: Paths, folder: Path) -> None:
    """Every stem has a mask in `folder`, or a sentence that names the first without."""
    if missing := sorted(set(stems) - set(masks)):
        what = f"{missing[0]} and {len(missing) - 1} more" if len(missing) > 1 else missing[0]
        advice = "complete the data set or take the image out."
        raise UnsegError(f"Expected a mask called {what} in {folder}, found none; {advice}")


def shuffled(ids: Sequence[str], *names: object) -> list[str]:
    """The ids in an order that depends on the names and on the set of ids, not on the order they come in."""
    ids = sorted(ids)
    return [ids[i] for i in numpy_rng(*names).permutation(len(ids))]


def cut(ids: Sequence[str], share: float, *names: object, group=str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Cut ids into (rest, share of them), both in the order they came in; each part gets at least one.

    Ids of one `group` stay together (`group_of`: the frames of a video); one that does not fit into the share any more
    stays in the rest. Where all ids are one group, they are cut one by one.
    """
    if len(ids) < 2:
        raise UnsegError(f"Expected at least two images to split, found {len(ids)}; complete the data set.")
    groups = defaultdict(list)
    for id in ids:
        groups[group(id)].append(id)
    if len(groups) < 2:
        return cut(ids, share, *names)
    wanted, taken = min(len(ids) - 1, max(1, round(share * len(ids)))), set()
    for one in shuffled(list(groups), *names):
        if len(taken) + len(groups[one]) <= wanted:
            taken.update(groups[one])
    taken = taken or set(min(groups.values(), key=len))
    return tuple(id for id in ids if id not in taken), tuple(id for id in ids if id in taken)


def group_of(id: str) -> str:
    """The video of a frame (`name_00012`): its name without the number at the end."""
    return re.sub(r"_\d+$", "", id)


def subset(ids: Sequence[str], limit: int, *names: object) -> tuple[str, ...]:
    """A seeded choice of `limit` ids, in their order; a smaller choice is part of a larger one."""
    if limit < 1:
        raise UnsegError(f"Expected a limit of at least 1, found {limit}; leave it out for all images.")
    kept = set(shuffled(ids, *names)[:limit])
    return tuple(id for id in ids if id in kept)


class MaskPairs:
    """Pairs (image uint8 `(H,W,3)`, mask uint8 `(H,W)` of 0 and 255) from data sets read with task "object".

    long_side > 0: images are shrunk to it once and kept in memory, and those without an object are left out; it should
    be the generator's input times the largest scale of its jitter. 0: every image is decoded each time it is asked for,
    which suits loaders with worker processes. Ignored pixels (255) count as background.
    """

    def __init__(self, sets: list[SegmentationSet], long_side: int = 0):
        self.places, self.kept = [(one, id) for one in sets for id in one.ids], None
        if long_side:
            everything = map(self._read, progress(range(len(self.places)), "reading pairs"))
            shrunk = (_shrink(image, mask, long_side) for image, mask in everything)
            self.kept = [pair for pair in shrunk if pair[1].any()]
            if not self.kept:
                raise UnsegError("Expected images with at least one object, found only empty masks.")

    def __len__(self) -> int:
        return len(self.places if self.kept is None else self.kept)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self._read(i) if self.kept is None else self.kept[i]

    def _read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        source, id = self.places[i]
        return source.image(id), np.where(source.label(id) == 1, 255, 0).astype(np.uint8)


def _shrink(image: np.ndarray, mask: np.ndarray, long_side: int) -> tuple[np.ndarray, np.ndarray]:
    ratio = min(1, long_side / max(mask.shape))
    size = [max(1, round(side * ratio)) for side in mask.shape]
    return resize_image(image, size), resize_image(mask, size)
