"""What to protect: the region of an image that gets the full budget, from a mask, a box, points, or nothing.

The noise must lie on the object's own pixels, so whatever is not a mask becomes one by a segmenter: the small one that
ships, or SAM. The generator is always shown the region as a mask prompt, from which the shipped ones have learnt; so
does the released code.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unseg_lib.errors import UnsegError
from unseg_lib.method.segmenter import Segment, segmenter_called

Box = Sequence[float]  # x0, y0, x1, y1 in pixels, corners included
SMALLEST = 0.02  # share of a box; less of it is not what somebody drew it around
DISC = 0.02  # of the shorter side; what a point protects at least, around itself


class Region(NamedTuple):
    """mask bool `(H,W)`, True = protect; found_by: "mask", "box", "points", "salient objects", or "whole box" and
    "whole image" where nothing was found there; with " (sam)" where SAM has found it.
    """

    mask: np.ndarray
    found_by: str


def find_region(pixels: np.ndarray, box=None, points=None, labels=None, segmenter="small", *, mask=None) -> Region:
    """The region that the given prompt means in an image uint8 `(H,W,3)`; without a prompt what stands out.

    box: one box or several, an object in each. points: `(k,2)` x, y on what to protect, or, where its label in `labels`
    `(k,)` is 0, beside it. mask: `(H,W)`, anything but 0 is protected. segmenter: "small", or "sam:FILE" for SAM's own
    checkpoint. Raises `UnsegError` for a prompt that does not fit the image, and for an unknown segmenter.
    """
    given = [kind for kind, value in {"mask": mask, "box": box, "points": points}.items() if value is not None]
    if len(given) > 1:
        raise UnsegError(f"Expected one of mask, box and points, found {' and '.join(given)}; give one of them.")
    if labels is not None and points is None:
        raise UnsegError("Expected points beside labels, found none; labels say which points lie on the object.")
    if mask is not None:
        return Region(checked_mask(pixels, mask), "mask")
    segment, how = segmenter_called(segmenter), " (sam)" * segmenter.startswith("sam:")
    if box is not None:
        return in_boxes(pixels, checked_boxes(pixels, box), segment, how)
    if points is not None:
        return Region(at_points(pixels, *checked_points(pixels, points, labels), segment), f"points{how}")
    salient = segment(pixels)
    return Region(salient, f"salient objects{how}") if salient.any() else Region(~salient, "whole image")


def in_boxes(pixels: np.ndarray, boxes: np.ndarray, segment: Segment, how: str) -> Region:
    """The object in each box, cut at the box; all of a box in which next to nothing is found."""
    mask, whole = np.zeros(pixels.shape[:2], bool), ""
    for x0, y0, x1, y1 in boxes:
        rows, columns = (slice(max(0, int(low)), int(np.ceil(high)) + 1) for low, high in ((y0, y1), (x0, x1)))
        found = segment(pixels, (x0, y0, x1 + 1, y1 + 1))[rows, columns]
        if found.mean() < SMALLEST:
            found, whole = True, "whole "
        mask[rows, columns] |= found
    return Region(mask, f"{whole}box{how}")


def at_points(pixels: np.ndarray, points: np.ndarray, labels: np.ndarray, segment: Segment) -> np.ndarray:
    """The object at the points, and a small disc around each point on it, so that a thin part counts."""
    mask = segment(pixels, None, points, labels)
    y, x = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
    for px, py in points[labels == 1].astype(int):
        if not mask[py, px]:
            mask |= (x - px) ** 2 + (y - py) ** 2 <= (DISC * min(mask.shape)) ** 2
    return mask


def checked_mask(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A mask as bool `(H,W)`, or a sentence where it does not fit the image."""
    mask, (height, width) = np.asarray(mask), pixels.shape[:2]
    if mask.ndim != 2 or mask.dtype.kind not in "biuf":
        raise UnsegError(f"Expected a mask of numbers, (H,W), found {mask.dtype} of the shape {mask.shape}.")
    if mask.dtype.kind == "f" and np.isnan(mask).any():
        raise UnsegError("Expected a mask of numbers, found NaN in it; say what that means, e.g. by numpy.nan_to_num.")
    if mask.shape != (height, width):
        found = "{1}x{0}".format(*mask.shape)
        raise UnsegError(f"Expected a mask of {width}x{height} pixels, found {found}; draw it on the image itself.")
    return mask != 0


def checked_boxes(pixels: np.ndarray, box: Box | Sequence[Box]) -> np.ndarray:
    """One box or several as `(k,4)`, or a sentence where they do not fit the image."""
    height, width = pixels.shape[:2]
    boxes = _numbers(box, 4, "boxes", "x0,y0,x1,y1")
    for x0, y0, x1, y1 in boxes:
        if not (x0 <= x1 and y0 <= y1 and x1 >= 0 and y1 >= 0 and x0 < width and y0 < height):
            raise UnsegError(
                f"Expected a box x0,y0,x1,y1 with x0 <= x1 and y0 <= y1 that meets the image of "
                f"{width}x{height} pixels, found {x0:g},{y0:g},{x1:g},{y1:g}."
            )
    return boxes


def checked_points(pixels: np.ndarray, points: Sequence[Sequence[float]], labels=None) -> tuple[np.ndarray, np.ndarray]:
    """Points `(k,2)` and their labels `(k,)`, or a sentence where they do not fit the image or each other."""
    height, width = pixels.shape[:2]
    points = _numbers(points, 2, "points", "x,y")
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            sentence = f"Expected points inside the image of {width}x{height} pixels, found {x:g},{y:g}; x comes first."
            raise UnsegError(sentence)
    labels = np.ones(len(points), int) if labels is None else np.asarray(labels)
    if labels.shape != (len(points),) or not np.isin(labels, (0, 1)).all() or not labels.any():
        found = f"{labels.tolist()} for {len(points)} points"
        raise UnsegError(f"Expected a label 1 (protect) or 0 (beside it) for each point, one of them 1, found {found}.")
    return points, labels.astype(int)


def _numbers(values: object, width: int, what: str, form: str) -> np.ndarray:
    """What a user gave as rows of so many numbers."""
    values = values.detach().cpu() if hasattr(values, "detach") else values
    try:
        found = np.asarray(values, float).reshape(-1, width)
        if found.size and np.isfinite(found).all():
            return found
    except (TypeError, ValueError):
        pass
    raise UnsegError(f"Expected {what} as {form}, found {values!r}.")
