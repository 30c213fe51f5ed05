"""Outlines of objects as annotation tools write them: COCO's polygons, RLE and boxes, LabelMe's json, YOLO's lines.

pycocotools draws polygons and decodes RLE. Boxes and points also come as CSV files.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np

from unseg_lib.errors import UnsegError, closest
from unseg_lib.files import read_json

OUTLINES = (".json", ".txt")  # of a file of outlines of one image: LabelMe's, YOLO's


def decode(note: dict, image: dict) -> np.ndarray:
    """The mask of one annotation of COCO's form, bool `(H,W)`: polygons, RLE as counts or as text, else its box.

    Parts of a polygon of less than three corners have no area and are left out.
    """
    from pycocotools import mask

    try:
        height, width, shape = image["height"], image["width"], note.get("segmentation")
        if not shape and "bbox" in note:
            left, top, across, down = np.asarray(note["bbox"], float).tolist()  # some tools write numbers as texts
            shape = [_corners(left, top, left + across, top + down)]
        if isinstance(shape, list):
            # pycocotools walks along every edge: one that leads far away, or nowhere, takes all memory
            parts = [part for part in (np.asarray(polygon, float).ravel() for polygon in shape) if part.size >= 6]
            corners = np.concatenate(parts) if parts else np.array([np.nan])
            if not (np.isfinite(corners).all() and np.abs(corners).max(initial=0) <= 10 * max(height, width)):
                raise ValueError("corners far outside the image" if parts else "no part of three corners")
            shape = mask.merge(mask.frPyObjects([part.tolist() for part in parts], height, width))
        else:
            if np.asarray(shape["size"], float).tolist() != [height, width]:
                raise ValueError(f"of the size {shape['size']}, not {[height, width]}")
            shape = shape | {"size": [height, width]}
            if isinstance(shape["counts"], list):
                if sum(shape["counts"]) != height * width or min(shape["counts"]) < 0:
                    raise ValueError(f"counts of {sum(shape['counts'])} pixels, not {height * width}")
                shape = mask.frPyObjects(shape, height, width)
        found = mask.decode(shape)
        if found.max(initial=0) > 1:  # of counts that end early it returns whatever lay in memory
            raise ValueError("counts of too few pixels")
        return found.astype(bool)
    except Exception as error:  # pycocotools raises bare Exceptions
        found = f"found none that can be decoded ({error!r}); mend the file."
        what = f"a polygon or RLE in annotation {note.get('id')} of {image['file_name']}"
        raise UnsegError(f"Expected {what}, {found}") from error


def _corners(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def read_coco(content: object, path: Path, classes: Sequence[str] = ()) -> tuple[list[dict], Callable[..., np.ndarray]]:
    """The images that COCO's json, the content of `path`, lists, and who draws the objects of one: by it and its
    (height, width), bool of that size.

    All its objects, crowds too, or those of the classes of these names. An odd entry costs its own image alone, when
    that is drawn; one that names no image costs nothing. Raises `UnsegError` for another json and unknown names.
    """
    found = content if isinstance(content, dict) else {}
    lists = [found.get(key, []) for key in ("images", "annotations", "categories")]
    if not {"images", "annotations"} <= found.keys() or not all(isinstance(entries, list) for entries in lists):
        found = "found json without lists of images and annotations; replace the file."
        raise UnsegError(f"Expected COCO annotations in {path}, {found}")
    images, notes, kinds = ([one for one in entries if isinstance(one, dict)] for entries in lists)
    named = [one for one in kinds if one.get("name") is not None and isinstance(one.get("id"), Hashable)]
    known = {one.get("id"): str(one["name"]) for one in named}
    for name in classes:
        if name not in known.values():
            raise UnsegError(f"Unknown class '{name}' in {path}; {closest(name, list(known.values()))}")
    objects = defaultdict(list)
    for note in notes:
        owners = note.get("image_id")
        for owner in owners if isinstance(owners, list) else [owners]:  # each of several is told that this is odd
            if isinstance(owner, Hashable):
                objects[owner].append(note)

    def mask_of(image: dict, size: tuple[int, int]) -> np.ndarray:
        check_size(image, ("height", "width"), size, f"{image['file_name']} in {path}", "is the json of this image?")
        mask, image = np.zeros(size, bool), image | {"height": size[0], "width": size[1]}
        for note in objects.get(_number(image, "id", image, path), ()):
            _number(note, "image_id", image, path)
            if not classes or known.get(_number(note, "category_id", image, path)) in classes:
                mask |= decode(note, image)
        return mask

    return images, mask_of


def _number(entry: dict, key: str, image: dict, path: Path) -> Hashable:
    """The number, or text, by which one entry of COCO's json names another."""
    found = entry.get(key)
    if found is None or not isinstance(found, Hashable):
        which = "" if entry is image else f" of annotation {entry.get('id')}"
        what = f"a number as {key}{which} of {image['file_name']} in {path}"
        raise UnsegError(f"Expected {what}, found {'none' if found is None else found}; mend the file.")
    return found


def read_outlines(path: str | Path, size: tuple[int, int] | None, classes: Sequence[str] = ()) -> np.ndarray:
    """What the outlines of an image of this (height, width) hold, bool `(H,W)`; classes: only these.

    path: LabelMe's json (polygons and rectangles; classes are labels), or YOLO's txt (of each line a class and
    a polygon, or a box by its centre, width and height, as shares of the image; classes are numbers).
    """
    path = Path(path)
    if size is None:
        raise UnsegError(f"Expected the size of the image beside {path}, which has outlines, found none; give it.")
    mask, image = np.zeros(size, bool), {"height": size[0], "width": size[1], "file_name": path.name}
    for number, (kind, corners) in enumerate((_labelme if path.suffix.lower() == ".json" else _yolo)(path, size)):
        if not classes or kind in classes:
            mask |= decode({"id": number, "segmentation": [corners]}, image)
    return mask


def check_size(content: dict, keys: tuple[str, str], size: tuple[int, int], what: str, mend: str) -> None:
    """Raise `UnsegError` where annotations give their image another (height, width), as numbers or as texts."""
    sides = [content.get(key) or own for key, own in zip(keys, size)]
    try:
        same = tuple(map(float, sides)) == size
    except (TypeError, ValueError):
        same = False
    if not same:
        found = f"found {sides[1]}x{sides[0]}; {mend}"
        raise UnsegError(f"Expected {what} to be of {size[1]}x{size[0]} pixels as the image is, {found}")


def _labelme(path: Path, size: tuple[int, int]) -> Iterator[tuple[str, list[float]]]:
    content = read_json(path)
    try:
        check_size(content, ("imageHeight", "imageWidth"), size, f"outlines in {path}", "draw them on the image.")
        for shape in content["shapes"]:
            kind, points = shape.get("shape_type") or "polygon", np.asarray(shape["points"], float).reshape(-1, 2)
            if kind == "rectangle":
                points = np.reshape(_corners(*points.min(axis=0), *points.max(axis=0)), (4, 2))
            elif kind not in ("polygon", "point", "points", "line", "linestrip"):
                raise UnsegError(f"Expected polygons or rectangles in {path}, found a {kind}; draw it as a polygon.")
            if len(points) > 2 and kind in ("polygon", "rectangle"):  # points and lines have no area
                yield str(shape.get("label")), points.ravel().tolist()
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        found = f"found another form ({error!r}); mend the file."
        raise UnsegError(f"Expected LabelMe's shapes in {path}, {found}") from error


def _yolo(path: Path, size: tuple[int, int]) -> Iterator[tuple[str, list[float]]]:
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        for kind, *texts in lines:
            numbers = np.array(texts, float)
            if len(numbers) == 4:
                centre, half = numbers[:2], numbers[2:] / 2
                numbers = np.array(_corners(*(centre - half), *(centre + half)))
            if len(numbers) < 6 or len(numbers) % 2 or not (np.abs(numbers - 0.5) <= 1).all():
                raise ValueError(" ".join([kind, *texts])[:60])
            yield str(int(kind)), (numbers.reshape(-1, 2) * size[::-1]).ravel().tolist()
    except ValueError as error:
        what = f"lines of a class and corners as shares of the image, as YOLO has them, in {path}"
        raise UnsegError(f"Expected {what}, found '{error}'; mend the file.") from error


def read_places(path: Path, columns: Sequence[str]) -> dict[str, list[list[float]]]:
    """Boxes or points by the names of their images, of a CSV file as people and spreadsheet programs write it.

    Its header names the columns `image` and these, in any order and case. What parts the cells are commas, tabs, or
    semicolons, which go with decimal commas. Lines without anything in them do not count. `OSError` for a closed file.
    """
    wanted = ["image", *columns]
    if not path.is_file():
        raise UnsegError(f"Expected a CSV file with the columns {','.join(wanted)} at {path}, found none.")
    try:
        text = path.read_text(encoding="utf-8-sig").lstrip("\r\n ")
        mark = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text), delimiter=mark, skipinitialspace=True)
        lines = [[cell.strip() for cell in line] for line in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnsegError(f"Expected a CSV file in UTF-8 at {path}, found another ({error}); save it anew.") from error
    lines = [line for line in lines if any(line)] or [["nothing"]]
    header = [name.casefold() for name in lines[0]]
    header = ["image" if name == "picture" and "image" not in header else name for name in header]  # older versions
    if not set(wanted) <= set(header):
        found = f"found {','.join(lines[0])}; name them in the first line."
        raise UnsegError(f"Expected the columns {','.join(wanted)} in {path}, {found}")
    found = defaultdict(list)
    for line in lines[1:]:
        cells = dict(zip(header, line))
        if not cells.get("image"):
            raise UnsegError(f"Expected an image's name in each line of {path}, found '{mark.join(line)}'; add it.")
        numbers = [cells.get(column, "") for column in columns]
        numbers = numbers if mark == "," else [number.replace(",", ".") for number in numbers]
        found[cells["image"]].append(numbers_of(numbers, columns, str(path)))
    return found


def numbers_of(texts: Sequence[str], columns: Sequence[str], where: str) -> list[float]:
    """The numbers of a box or a point, `UnsegError` for other texts."""
    try:
        return [float(text) for _, text in zip(columns, texts, strict=True)]
    except ValueError:
        found = f"'{','.join(texts)}' in {where}"
        raise UnsegError(f"Expected numbers as {','.join(columns)}, found {found}.") from None
