"""Scores of found objects: average precision of masks or boxes, as COCO computes it, and panoptic quality."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from itertools import zip_longest

import numpy as np

from unseg_lib.errors import UnsegError, pick

KINDS = {"mask": "segm", "box": "bbox"}
THRESHOLDS = {"AP50": 0, "AP75": 5}  # of IoU 0.50, 0.55, ..., 0.95
AREAS = {"APs": 1, "APm": 2, "APl": 3}  # up to 32², to 96², and more pixels; 0 is all


def average_precision(
    truths: Iterable[Sequence[np.ndarray]],
    predictions: Iterable[Sequence[np.ndarray]],
    classes: Sequence[str],
    kind: str = "mask",
) -> dict[str, float | None]:
    """AP, AP50, AP75, APs, APm, APl and "AP:NAME" of every class, in [0,1]; None where no image has such objects.

    truths: for every image (masks bool `(K,H,W)`, class indices `(K,)`), with a third array, bool `(K,)`, where
    some are crowds: what is found in these counts neither for nor against. predictions: for every image (masks,
    class indices, scores `(K,)`); of every class the 100 best count. kind "box": predictions have boxes `(K,4)`,
    left, top, right, bottom in pixels; truths have boxes or masks, and a mask is as small as its own area in pixels
    (COCO's json has that of polygons). Both may be generators: every image is packed at once.
    """
    iou_type, images, notes, found = pick(KINDS, kind, "kind of average precision"), [], [], []
    for number, truth, prediction in _pairs(truths, predictions):
        for what, arrays in {"truth": truth, "prediction": prediction}.items():
            where, lengths = f"the {what} of image {number}", [str(len(array)) for array in arrays]
            if len(set(lengths)) > 1:  # pycocotools would accept it or crash on it
                raise UnsegError(f"Expected arrays of one length in {where}, found lengths {', '.join(lengths)}.")
            _check_classes(arrays[1], len(classes), where)
        if kind == "mask" and len(truth[0]) and len(prediction[0]):
            _check_size("predicted masks", number, truth[0], prediction[0])
        images.append({"id": number, "height": 0, "width": 0})  # packed masks know their size
        crowds = truth[2] if len(truth) > 2 else np.zeros(len(truth[1]))
        notes += _annotations(number, *truth[:2], kind, iscrowd=crowds)
        found += _annotations(number, *prediction[:2], kind, score=prediction[2])
    precision = _precision(images, notes, found, len(classes), iou_type)
    return {
        "AP": _mean(precision[..., 0]),
        **{name: _mean(precision[threshold, ..., 0]) for name, threshold in THRESHOLDS.items()},
        **{name: _mean(precision[..., area]) for name, area in AREAS.items()},
        **{f"AP:{name}": _mean(precision[:, :, i, 0]) for i, name in enumerate(classes)},
    }


def _pairs(truths: Iterable[Sequence], predictions: Iterable[Sequence]) -> Iterator[tuple[int, Sequence, Sequence]]:
    """Number of the image from 1, its truth, its prediction."""
    for number, (truth, prediction) in enumerate(zip_longest(truths, predictions), start=1):
        if truth is None or prediction is None:
            raise UnsegError(f"Expected predictions for as many images as truths, found one without at {number}.")
        yield number, truth, prediction


def _check_classes(labels: Sequence[int], classes: int, where: str) -> None:
    if len(labels) and not 0 <= min(labels) <= max(labels) < classes:
        raise UnsegError(f"Expected classes 0 to {classes - 1} in {where}, found {min(labels):g} to {max(labels):g}.")


def _check_size(what: str, number: int, true: np.ndarray, found: np.ndarray) -> None:
    sizes = ["x".join(map(str, np.shape(masks)[1:])) for masks in (true, found)]
    if sizes[0] != sizes[1]:
        size = f"{sizes[0]} pixels for image {number}, as its true ones are"
        raise UnsegError(f"Expected {what} of {size}, found {sizes[1]}; scale them to its size.")


def pack(masks: np.ndarray) -> list[dict]:
    """Masks bool `(K,H,W)` as COCO's run lengths, a hundredth of their pixels."""
    from pycocotools import mask

    return mask.encode(np.asfortranarray(np.moveaxis(masks, 0, 2), np.uint8)) if len(masks) else []


def unpack(packed: list[dict], size: tuple[int, int]) -> np.ndarray:
    """The masks bool `(K,H,W)` that were packed; `size` is H, W."""
    from pycocotools import mask

    return np.moveaxis(mask.decode(packed), 2, 0).astype(bool) if packed else np.zeros((0, *size), bool)


def _annotations(number: int, objects: np.ndarray, labels: np.ndarray, kind: str, **more: np.ndarray) -> list[dict]:
    """COCO's annotations of the masks or boxes of one image; more: a further entry, with its value of each object."""
    from pycocotools import mask

    ((name, values),) = more.items()
    if np.ndim(objects) == 3:
        packed = pack(objects)
        areas, boxes = (mask.area(packed), mask.toBbox(packed)) if packed else ([], [])
    else:
        left, top, right, bottom = np.asarray(objects, float).reshape(-1, 4).T
        areas, boxes = (right - left) * (bottom - top), np.stack([left, top, right - left, bottom - top], 1)
        packed = [None] * len(areas)
    return [
        {"image_id": number, "category_id": int(label), "area": float(area), name: float(value)}
        | ({"segmentation": shape} if kind == "mask" else {"bbox": list(box)})
        for label, area, shape, box, value in zip(labels, areas, packed, boxes, values)
    ]


def _precision(images: list, notes: list, found: list, classes: int, iou_type: str) -> np.ndarray:
    """Precision of (10 IoU thresholds, 101 recalls, class, area range) for the 100 best; -1 where nothing is true."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    pair = COCO(), COCO()
    common = {"images": images, "categories": [{"id": i} for i in range(classes)]}
    with redirect_stdout(StringIO()):  # pycocotools prints what it does
        for one, annotations in zip(pair, (notes, found)):
            # numbers from 1: COCOeval takes 0 for "not matched"
            one.dataset = common | {"annotations": [each | {"id": i} for i, each in enumerate(annotations, start=1)]}
            one.createIndex()
        evaluation = COCOeval(*pair, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]
    return np.where(precision > -1, precision, np.nan)


def panoptic_quality(
    truths: Iterable[Sequence[np.ndarray]],
    predictions: Iterable[Sequence[np.ndarray]],
    classes: Sequence[str],
    things: Sequence[int],
) -> dict[str, float | None]:
    """PQ, SQ and RQ, each also with "_things" and "_stuff", and "PQ:NAME" of every class, in [0,1].

    truths, predictions: for every image (segments bool `(K,H,W)`, class indices `(K,)`); where segments overlap, the
    later one lies on top. things: the countable classes; the others are stuff, whose segments in an image are one.
    A truth may have a third part, bool `(K,)`: crowds, which nobody need find, and where what is found of their own
    class is no mistake. Pixels without a true segment (void) are ignored. Means are over the classes that are true
    or predicted somewhere, None where there is none. Both may be generators.
    """
    # not torchmetrics': 30 seconds for an image of Cityscapes, and what a silent victim misses does not count there
    counts = np.zeros((4, len(classes)))  # sum of IoU, true positives, false positives, false negatives
    for number, truth, prediction in _pairs(truths, predictions):
        _check_size("segments", number, truth[0], prediction[0])
        _check_classes([*truth[1], *prediction[1]], len(classes), f"image {number}")
        counts += _match(_numbered(*truth[:2], things, *truth[2:]), _numbered(*prediction, things), len(classes))
    total, hits, wrong, missed = counts
    weight = hits + (wrong + missed) / 2
    with np.errstate(invalid="ignore"):
        quality = {"PQ": total / weight, "SQ": np.where(hits > 0, total / hits, 0), "RQ": hits / weight}
    quality["SQ"][weight == 0] = np.nan  # as the others: a class that is neither true nor predicted
    stuff = ~np.isin(np.arange(len(classes)), things)
    parts = {"": slice(None), "_things": ~stuff, "_stuff": stuff}
    return {
        **{name + end: _mean(values[part]) for end, part in parts.items() for name, values in quality.items()},
        **{f"PQ:{name}": _mean(quality["PQ"][i : i + 1]) for i, name in enumerate(classes)},
    }


def _numbered(masks: np.ndarray, labels: np.ndarray, things: Sequence[int], crowds=()) -> tuple[np.ndarray, ...]:
    """(number of the segment of each pixel, 0 = none, `(H,W)`; class of each, -1 for number 0; whether a crowd)."""
    numbers, kinds, many = np.zeros(np.shape(masks)[1:], np.int64), [-1], [False]
    for mask, label, crowd in zip(masks, labels, crowds if len(crowds) else [False] * len(labels), strict=True):
        own = crowd or label in things
        if own or label not in kinds:
            kinds.append(int(label))
            many.append(bool(crowd))
        numbers[mask] = len(kinds) - 1 if own else kinds.index(label)
    return numbers, np.array(kinds), np.array(many)


def _match(truth: tuple, prediction: tuple, classes: int) -> np.ndarray:
    """The counts of one image `(4, classes)`: a match is more than half of the union of two of one class."""
    (true, true_kinds, crowd), (found, kinds, _) = truth, prediction
    shape = len(true_kinds), len(kinds)
    both = np.bincount((true * shape[1] + found).ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    true_area, area, void = both.sum(1), both.sum(0), both[0]
    union = true_area[:, None] + (area - void) - both
    iou = np.divide(both, union, out=np.zeros(shape), where=union > 0)
    same = true_kinds[:, None] == kinds
    hit = (iou > 0.5) & same & (kinds >= 0) & ~crowd[:, None]
    forgiven = void + (both * (same & crowd[:, None])).sum(0)
    counted = (true_area > 0) & (true_kinds >= 0) & ~crowd, (area > 0) & (kinds >= 0) & (forgiven <= area / 2)
    wrong, missed = counted[1] & ~hit.any(0), counted[0] & ~hit.any(1)
    per_class = ((true_kinds, (iou * hit).sum(1)), (true_kinds, hit.any(1)), (kinds, wrong), (true_kinds, missed))
    return np.stack([np.bincount(kind[1:], values[1:], classes) for kind, values in per_class])


def _mean(values: np.ndarray) -> float | None:
    """Mean over all that are numbers."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else None
