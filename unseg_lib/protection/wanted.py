"""What is to be protected in each file of a batch: a folder of masks, COCO's json, boxes or points, or nothing."""

import csv
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from unseg_lib.errors import UnsegError, closest
from unseg_lib.pictures import PICTURE_SUFFIXES, read_label, read_picture
from unseg_lib.protection.inputs import Input
from unseg_lib.protection.region import Region, region_of

Prompt = dict[str, object]  # one of mask, box, points, as `region_of` takes them; empty: nothing was given


@dataclass(frozen=True)
class Wanted:
    """How to find the region of a file; `of` says what was given for it."""

    of: Callable[[Input, tuple[int, int]], Prompt] = field(default=lambda file, shape: {})

    def region(self, file: Input, pixels: np.ndarray) -> Region:
        return region_of(pixels, **self.of(file, pixels.shape[:2]))


def wanted(masks: str = "", classes: str = "", boxes: str = "", points: str = "") -> Wanted:
    """What the options of `unseg protect` say. At most one of masks, boxes and points; classes only with masks.

    masks: a folder with a mask for every picture (same name without suffix, sub-folders as the pictures'), or COCO's
    json. classes: of label maps the numbers, of COCO's json the names, separated by commas. boxes: "x0,y0,x1,y1" for
    every picture (several joined by ";"), or a CSV file with the columns picture,x0,y0,x1,y1. points: likewise, x,y.
    """
    given = [name for name, value in (("--masks", masks), ("--boxes", boxes), ("--points", points)) if value]
    if len(given) > 1:
        raise UnsegError(f"Expected one of --masks, --boxes and --points, found {' and '.join(given)}.")
    if classes and not masks:
        raise UnsegError("Expected --masks beside --classes, found none; classes are those of the masks.")
    if masks:
        path = Path(masks)
        return _coco_masks(path, classes) if path.suffix.lower() == ".json" else _mask_files(path, classes)
    for name, text, columns in (("box", boxes, ("x0", "y0", "x1", "y1")), ("points", points, ("x", "y"))):
        if text:
            return _numbers(name, text, columns)
    return Wanted()


def _mask_files(folder: Path, classes: str) -> Wanted:
    if not folder.is_dir():
        raise UnsegError(f"Expected a folder of masks or COCO's json at {folder}, found neither; check --masks.")
    numbers = [int(text) for text in classes.split(",") if text.strip().isdecimal()]
    if classes and len(numbers) < len(classes.split(",")):
        raise UnsegError(f"Expected the numbers of a label map's classes, e.g. --classes 1,15, found '{classes}'.")

    def of(file: Input, shape: tuple[int, int]) -> Prompt:
        stem = Path(file.name).with_suffix("")
        found = [path for suffix in PICTURE_SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
        found = found or [path for suffix in PICTURE_SUFFIXES if (path := folder / f"{stem.name}{suffix}").is_file()]
        if len(found) != 1:
            count = "none" if not found else f"several ({', '.join(path.name for path in found)})"
            raise UnsegError(f"Expected one mask called {stem.name} in {folder}, found {count}.")
        return {"mask": np.isin(read_label(found[0]), numbers) if numbers else read_mask(found[0])}

    return Wanted(of)


def read_mask(path: Path) -> np.ndarray:
    """A mask file as bool `(H,W)`: of indexed and gray files any value but 0, of others any colour but black."""
    values = read_label(path)
    with Image.open(path) as file:
        if file.mode in ("RGBA", "LA", "PA"):
            raise UnsegError(f"Expected a mask without transparency in {path}, found some; save it as black and white.")
        indexed = file.mode in ("1", "L", "P")
    if not indexed:
        values = read_picture(path).max(axis=2)
    # JPEG leaves faint ripples around every edge
    return values >= 128 if path.suffix.lower() in (".jpg", ".jpeg") else values > 0


def _coco_masks(path: Path, classes: str) -> Wanted:
    """Masks of COCO's json: all objects of a picture, or those of the named classes."""
    from unseg_lib.datasets.coco import coco_json, decode, read_notes

    notes = read_notes(path.parent, "your pictures", Path(), Path(path.name))
    names = [category["name"] for category in notes.categories]
    chosen = [name.strip() for name in classes.split(",")] if classes else names
    for name in chosen:
        if name not in names:
            raise UnsegError(f"Unknown class '{name}' in {path}; {closest(name, names)}")
    objects = defaultdict(list)
    with coco_json(path):
        for note in notes.annotations:
            if names[notes.class_of(note)] in chosen:
                objects[notes.ids[note["image_id"]]].append(note)

    def of(file: Input, shape: tuple[int, int]) -> Prompt:
        id = Path(file.name).stem
        if id not in notes.images:
            raise UnsegError(f"Expected {Path(file.name).name} in {path}, found no such picture there.")
        image = notes.images[id]
        mask = np.zeros((image["height"], image["width"]), bool)
        for note in objects[id]:
            mask |= decode(note, image)
        return {"mask": mask}

    return Wanted(of)


def _numbers(name: str, text: str, columns: tuple[str, ...]) -> Wanted:
    """Boxes or points: the same for every picture, or from a CSV file by the picture's name."""
    if not text.lower().endswith(".csv"):
        same = [_row(part.split(","), columns, text) for part in text.split(";")]
        return Wanted(lambda file, shape: {name: same})
    path = Path(text)
    if not path.is_file():
        raise UnsegError(f"Expected a CSV file with the columns picture,{','.join(columns)} at {path}, found none.")
    found = defaultdict(list)
    for line in _lines(path):
        if not {"picture", *columns} <= set(line):
            names = ",".join(map(str, line))
            raise UnsegError(f"Expected the columns picture,{','.join(columns)} in {path}, found {names}.")
        found[line["picture"]].append(_row([line[column] for column in columns], columns, str(path)))

    def of(file: Input, shape: tuple[int, int]) -> Prompt:
        values = found.get(file.name) or found.get(Path(file.name).name)
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
