"""What is to be protected in each file of a batch: a folder of masks, COCO's json, boxes or points, or nothing."""

import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath

import numpy as np

from unseg_lib.errors import UnsegError, closest
from unseg_lib.images import IMAGE_SUFFIXES
from unseg_lib.method import Region, region_of
from unseg_lib.protection.inputs import Input
from unseg_lib.protection.mask_file import read_mask
from unseg_lib.protection.names import Names, without_suffix

Prompt = dict[str, object]  # one of mask, box, points, as `region_of` takes them; empty: nothing was given


@dataclass(frozen=True)
class Wanted:
    """How to find the region of a file; `of` says what was given for it."""

    of: Callable[[Input, tuple[int, int]], Prompt] = field(default=lambda file, shape: {})

    def region(self, file: Input, pixels: np.ndarray) -> Region:
        return region_of(pixels, **self.of(file, pixels.shape[:2]))


def wanted(
    masks: str = "", classes: str = "", boxes: str = "", points: str = "", files: Sequence[Input] = ()
) -> Wanted:
    """What the options of `unseg protect` say. At most one of masks, boxes and points; classes only with masks.

    masks: a folder with a mask for every image (same name without suffix, sub-folders as the images'), or COCO's
    json. classes: of label maps the numbers, of COCO's json the names, separated by commas. boxes: "x0,y0,x1,y1" for
    every image (several joined by ";"), or a CSV file with the columns image,x0,y0,x1,y1. points: likewise, x,y.
    files: all images of the batch; what is given for a name that several folders have is refused (see `Names`).
    """
    given = [name for name, value in (("--masks", masks), ("--boxes", boxes), ("--points", points)) if value]
    if len(given) > 1:
        raise UnsegError(f"Expected one of --masks, --boxes and --points, found {' and '.join(given)}.")
    if classes and not masks:
        raise UnsegError("Expected --masks beside --classes, found none; classes are those of the masks.")
    if masks:
        path = Path(masks)
        names = Names(files, without_suffix)
        of_json = path.suffix.lower() == ".json"
        return _coco_masks(path, classes, names) if of_json else _mask_files(path, classes, names)
    for name, text, columns in (("box", boxes, ("x0", "y0", "x1", "y1")), ("points", points, ("x", "y"))):
        if text:
            return _numbers(name, text, columns, Names(files, str))
    return Wanted()


def _mask_files(folder: Path, classes: str, names: Names) -> Wanted:
    if not folder.is_dir():
        raise UnsegError(f"Expected a folder of masks or COCO's json at {folder}, found neither; check --masks.")
    numbers = [int(text) for text in classes.split(",") if text.strip().isdecimal()]
    if classes and len(numbers) < len(classes.split(",")):
        raise UnsegError(f"Expected the numbers of a label map's classes, e.g. --classes 1,15, found '{classes}'.")

    listed = cache(_images_in)  # each sub-folder once, not for every image

    def called(name: str) -> list[Path]:
        return listed(folder / PurePath(name).parent).get(PurePath(name).name, [])

    def of(file: Input, shape: tuple[int, int]) -> Prompt:
        found = names.find(file, called, folder)
        if not found or len(found) > 1:
            count = f"several ({', '.join(path.name for path in found)})" if found else "none"
            raise UnsegError(f"Expected one mask called {Path(file.name).stem} in {folder}, found {count}.")
        return {"mask": read_mask(found[0], numbers)}

    return Wanted(of)


def _images_in(folder: Path) -> dict[str, list[Path]]:
    """{name without suffix: image files of that name}, be their suffixes upper or lower case."""
    found = defaultdict(list)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            found[path.stem].append(path)
    return found


def _coco_masks(path: Path, classes: str, names: Names) -> Wanted:
    """Masks of COCO's json: all objects of an image, or those of the named classes."""
    from unseg_lib.datasets import check_sizes, coco_json, decode, read_notes

    notes = read_notes(path.parent, "your images", Path(), Path(path.name))
    objects = defaultdict(list)
    with coco_json(path):
        check_sizes(notes)
        known = [category["name"] for category in notes.categories]
        chosen = [name.strip() for name in classes.split(",")] if classes else known
        for name in chosen:
            if name not in known:
                raise UnsegError(f"Unknown class '{name}' in {path}; {closest(name, known)}")
        for note in notes.annotations:
            if known[notes.class_of(note)] in chosen:
                objects[notes.ids[note["image_id"]]].append(note)
    ids = {id: id for id in notes.images} | {place.as_posix(): id for id, place in notes.places.items()}

    def of(file: Input, shape: tuple[int, int]) -> Prompt:
        id = names.find(file, ids.get, path)
        if id is None:
            raise UnsegError(f"Expected {Path(file.name).name} in {path}, found no such image there.")
        image = notes.images[id]
        if (image["height"], image["width"]) != shape:
            raise UnsegError(
                f"Expected {id} in {path} to be of {shape[1]}x{shape[0]} pixels as the image is, found "
                f"{image['width']}x{image['height']}; is the json of this image?"
            )
        mask = np.zeros(shape, bool)
        for note in objects[id]:
            mask |= decode(note, image)
        return {"mask": mask}

    return Wanted(of)


def _numbers(name: str, text: str, columns: tuple[str, ...], names: Names) -> Wanted:
    """Boxes or points: the same for every image, or from a CSV file by the image's name."""
    if not text.lower().endswith(".csv"):
        same = [_row(part.split(","), columns, text) for part in text.split(";")]
        return Wanted(lambda file, shape: {name: same})
    path = Path(text)
    if not path.is_file():
        raise UnsegError(f"Expected a CSV file with the columns image,{','.join(columns)} at {path}, found none.")
    found = defaultdict(list)
    for line in _lines(path):
        if not {"image", *columns} <= set(line):
            names = ",".join(map(str, line))
            raise UnsegError(f"Expected the columns image,{','.join(columns)} in {path}, found {names}.")
        found[line["image"]].append(_row([line[column] for column in columns], columns, str(path)))

    def of(file: Input, shape: tuple[int, int]) -> Prompt:
        values = names.find(file, found.get, path)
        if not values:
            raise UnsegError(f"Expected a line for {file.name} in {path}, found none; add it or protect it by itself.")
        return {name: values}

    return Wanted(of)


def _lines(path: Path) -> list[dict]:
    """The lines of a CSV file as dicts, whether or not it begins with the mark of a spreadsheet program."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as lines:
            return list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnsegError(f"Expected a CSV file in UTF-8 at {path}, found another ({error}); save it anew.") from error


def _row(texts: list[str], columns: tuple[str, ...], where: str) -> list[float]:
    try:
        values = [float(text) for text in texts]
    except (TypeError, ValueError):
        values = []
    if len(values) != len(columns):
        raise UnsegError(f"Expected numbers as {','.join(columns)}, found '{','.join(map(str, texts))}' in {where}.")
    return values
