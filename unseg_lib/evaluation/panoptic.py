"""Panoptic quality, of all classes, of things and of stuff (Kirillov et al., CVPR 2019)."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest

import numpy as np

from unseg_lib.errors import UnsegError


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

    Not torchmetrics' PanopticQuality: it takes 30 seconds for an image of Cityscapes, and does not count what a
    victim misses where the victim says nothing.
    """
    counts = np.zeros((4, len(classes)))  # sum of IoU, true positives, false positives, false negatives
    for number, (truth, prediction) in enumerate(zip_longest(truths, predictions), start=1):
        if truth is None or prediction is None:
            raise UnsegError(f"Expected predictions for as many images as truths, found one without at {number}.")
        _check(number, truth, prediction, len(classes))
        counts += _match(_numbered(*truth[:2], things, *truth[2:]), _numbered(*prediction, things), len(classes))
    total, hits, wrong, missed = counts
    weight = hits + (wrong + missed) / 2
    present, stuff = weight > 0, ~np.isin(np.arange(len(classes)), things)
    with np.errstate(invalid="ignore"):
        quality = {"PQ": total / weight, "SQ": np.where(hits > 0, total / hits, 0), "RQ": hits / weight}
    parts = {"": present, "_things": present & ~stuff, "_stuff": present & stuff}
    return {
        **{name + end: _mean(values[part]) for end, part in parts.items() for name, values in quality.items()},
        **{f"PQ:{name}": _mean(quality["PQ"][i : i + 1][present[i : i + 1]]) for i, name in enumerate(classes)},
    }


def _check(number: int, truth: Sequence, prediction: Sequence, classes: int) -> None:
    sizes = ["x".join(map(str, np.shape(masks)[1:])) for masks in (truth[0], prediction[0])]
    if sizes[0] != sizes[1]:
        raise UnsegError(
            f"Expected segments of {sizes[0]} pixels for image {number}, as its true ones are, found {sizes[1]}; "
            "scale them to its size."
        )
    labels = np.concatenate([truth[1], prediction[1]])
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise UnsegError(
            f"Expected classes 0 to {classes - 1} in image {number}, found {labels.min():g} to {labels.max():g}."
        )


def _numbered(
    masks: np.ndarray, labels: np.ndarray, things: Sequence[int], crowds: Sequence[bool] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(number of the segment of each pixel, 0 = none, `(H,W)`; class of each, -1 for number 0; whether a crowd)."""
    numbers, kinds, many = np.zeros(np.shape(masks)[1:], np.int64), [-1], [False]
    for mask, label, crowd in zip(masks, labels, [False] * len(labels) if crowds is None else crowds, strict=True):
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
    return float(values.mean()) if values.size else None
