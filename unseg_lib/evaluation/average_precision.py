"""Average precision of instances, masks or boxes, as COCO computes it (pycocotools)."""

from collections.abc import Iterable, Sequence
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
    left, top, right, bottom in pixels, instead of masks; truths have boxes or masks, and of a mask the area, not
    that of its box, says whether it is small, as with COCO. Both may be generators: every image is packed at once.

    Areas are pixels; COCO's json has those of polygons, which moves single objects between APs and APm.
    """
    iou_type, images, notes, found = pick(KINDS, kind, "kind of average precision"), [], [], []
    for number, (truth, prediction) in enumerate(zip_longest(truths, predictions), start=1):
        if truth is None or prediction is None:
            raise UnsegError(f"Expected predictions for as many images as truths, found one without at {number}.")
        _check(number, truth, prediction, len(classes), kind)
        images.append({"id": number, "height": 0, "width": 0})  # packed masks know their size
        objects, labels, *crowds = truth
        notes += _annotations(number, objects, labels, kind, iscrowd=crowds[0] if crowds else np.zeros(len(labels)))
        regions, labels, scores = prediction
        found += _annotations(number, regions, labels, kind, score=scores)
    precision = _precision(images, notes, found, len(classes), iou_type)
    return {
        "AP": _mean(precision[..., 0]),
        **{name: _mean(precision[threshold, ..., 0]) for name, threshold in THRESHOLDS.items()},
        **{name: _mean(precision[..., area]) for name, area in AREAS.items()},
        **{f"AP:{name}": _mean(precision[:, :, i, 0]) for i, name in enumerate(classes)},
    }


def _check(number: int, truth: Sequence, prediction: Sequence, classes: int, kind: str) -> None:
    """Refuse what pycocotools would accept or crash on."""
    for what, arrays in {"truth": truth, "prediction": prediction}.items():
        if len({len(array) for array in arrays}) > 1:
            raise UnsegError(
                f"Expected arrays of one length in the {what} of image {number}, found lengths "
                f"{', '.join(str(len(array)) for array in arrays)}."
            )
        labels = np.asarray(arrays[1])
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise UnsegError(
                f"Expected classes 0 to {classes - 1} in the {what} of image {number}, found "
                f"{labels.min()} to {labels.max()}."
            )
    masks, regions = truth[0], prediction[0]
    if kind == "mask" and len(masks) and len(regions) and masks.shape[1:] != regions.shape[1:]:
        raise UnsegError(
            f"Expected predicted masks of {masks.shape[1]}x{masks.shape[2]} pixels for image {number}, as its true "
            f"ones are, found {'x'.join(map(str, regions.shape[1:]))}; scale them to its size."
        )


def _annotations(number: int, objects: np.ndarray, labels: np.ndarray, kind: str, **more: np.ndarray) -> list[dict]:
    """COCO's annotations of one image; `more`: a further entry, its values."""
    from pycocotools import mask

    if np.ndim(objects) == 3:
        packed = mask.encode(np.asfortranarray(np.moveaxis(objects, 0, 2), np.uint8)) if len(objects) else []
        areas, boxes = (mask.area(packed), mask.toBbox(packed)) if packed else ([], [])
    else:
        left, top, right, bottom = np.asarray(objects, float).reshape(-1, 4).T
        areas, boxes = (right - left) * (bottom - top), np.stack([left, top, right - left, bottom - top], 1)
        packed = [None] * len(areas)
    ((name, values),) = more.items()
    return [
        {"image_id": number, "category_id": int(label), "area": float(area), name: float(value)}
        | ({"segmentation": shape} if kind == "mask" else {"bbox": list(box)})
        for label, area, shape, box, value in zip(labels, areas, packed, boxes, values)
    ]


def _precision(images: list, notes: list, found: list, classes: int, iou_type: str) -> np.ndarray:
    """Precision of (10 IoU thresholds, 101 recalls, class, area range) for the 100 best; -1 where nothing is true."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    pair = []
    with redirect_stdout(StringIO()):  # pycocotools prints what it does
        for annotations in (notes, found):
            one = COCO()
            # numbers from 1: COCOeval takes 0 for "not matched"
            numbered = [annotation | {"id": i} for i, annotation in enumerate(annotations, start=1)]
            categories = [{"id": i} for i in range(classes)]
            one.dataset = {"images": images, "annotations": numbered, "categories": categories}
            one.createIndex()
            pair.append(one)
        evaluation = COCOeval(*pair, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., -1]


def _mean(precision: np.ndarray) -> float | None:
    """Mean over all that has true objects."""
    present = precision[precision > -1]
    return float(present.mean()) if present.size else None
