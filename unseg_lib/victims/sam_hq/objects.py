"""Images with one object each, and the box that asks for it: what a promptable victim learns, and its scores."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from unseg_lib.datasets import IGNORE, SegmentationSet
from unseg_lib.errors import UnsegError
from unseg_lib.images import boundary_iou, mask_iou, resize_image
from unseg_lib.method import boxes_of
from unseg_lib.runtime import progress
from unseg_lib.victims.data import MEMORY, resized_image

OBJECT = 1  # its class index

Pair = tuple[Tensor, Tensor]  # image uint8 (3,h,w), mask uint8 (h,w) from 0 to 255
Found = tuple[str, np.ndarray, np.ndarray]  # id, true label map uint8 (h,w), predicted mask bool (h,w)


def check_object(source: SegmentationSet) -> None:
    """Refuse a set with more than one class beside the background, or without any object."""
    if len(source.classes) != 2:
        raise UnsegError(
            f"Expected one object against its background in every image of {source.name} for the task interactive, "
            f"found {len(source.classes)} classes; load the set with task 'object'."
        )
    if next(asked(source), None) is None:
        raise UnsegError(f"Expected an object in some images of {source.name}, split {source.split}, found none.")


def one_object(source: SegmentationSet) -> SegmentationSet:
    """`source` with each image's largest object alone; of sets without instances all that is marked."""

    def largest(id: str) -> np.ndarray:
        label = source.label(id)
        chosen = max((one.mask for one in source.instances(id)), key=np.sum, default=np.zeros(label.shape, bool))
        return np.where(label == IGNORE, IGNORE, chosen).astype(np.uint8)

    return replace(source, read_label=largest) if source.read_instances else source


def pairs(source: SegmentationSet, longest: int, what: str) -> Callable[[int], Pair]:
    """Image number -> image and mask, with a long side of at most `longest` pixels; kept in memory where all of them
    fit, else read anew in every epoch. Ignored pixels are background. `what` names the progress.
    """
    if 4 * len(source) * longest**2 > MEMORY:
        return lambda i: pair(source, source.ids[i], longest)
    return [pair(source, id, longest) for id in progress(source.ids, f"reading {what} images")].__getitem__


def pair(source: SegmentationSet, id: str, longest: int) -> Pair:
    """One image and its mask; where they are scaled down, the mask gets soft edges."""
    mask = 255 * (source.label(id) == OBJECT).astype(np.uint8)
    scale = min(1, longest / max(mask.shape))
    size = [max(1, round(scale * side)) for side in mask.shape]
    return resized_image(source.image(id), size), torch.from_numpy(resize_image(mask, size))


def asked(source: SegmentationSet) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Id, label map and asking box, xyxy in pixels, inclusive, float `(4,)`, of the images that have an object."""
    for id in source.ids:
        label = source.label(id)
        if (label == OBJECT).any():
            yield id, label, boxes_of(torch.from_numpy(label == OBJECT)[None])[0].double().numpy()


def scaled_box(box: np.ndarray, before: tuple[int, int], after: tuple[int, int]) -> np.ndarray:
    """A box of an image of the size `before` (height, width) in the pixels of the size `after`."""
    scale = np.array([after[1] / before[1], after[0] / before[0]] * 2)
    return (box + 0.5) * scale - 0.5  # pixel 0 has its middle at 0.5


def boxed(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """An image uint8 `(H,W,3)` with a box, xyxy in its pixels, drawn into it in red; for figures."""
    from torchvision.utils import draw_bounding_boxes

    planes = torch.from_numpy(image.copy()).permute(2, 0, 1)
    return draw_bounding_boxes(planes, torch.from_numpy(box)[None], colors="red").permute(1, 2, 0).numpy()


def filled_boxes(source: SegmentationSet) -> Iterator[Found]:
    """The answer of somebody who has not learnt anything: all of the box."""
    for id, label, box in asked(source):
        left, top, right, bottom = box.astype(int)
        prediction = np.zeros(label.shape, bool)
        prediction[top : bottom + 1, left : right + 1] = True
        yield id, label, prediction


def object_scores(source: SegmentationSet, found: Iterable[Found]) -> dict[str, float | None]:
    """{"miou_pictures", "biou"} in [0,1]: IoU and boundary IoU of every image's mask, means over the images.

    As SAM-HQ is evaluated; "miou" of other victims comes from one confusion matrix instead. Ignored pixels do not
    count. Of a set with several parts also "NAME:PART" of each, e.g. "biou:DIS5K-VD". None where no image counts.
    """
    # an id has its part before the name of its file
    parts = {id: id.removesuffix(source.images[id].name).rstrip("-") for id in source.ids}
    values: dict[str, list[float]] = {"miou_pictures": [], "biou": []}
    for id, label, prediction in found:
        truth, prediction = label == OBJECT, prediction & (label != IGNORE)
        one = {"miou_pictures": mask_iou(prediction, truth), "biou": boundary_iou(prediction, truth)}
        if len(set(parts.values())) > 1:
            one |= {f"{metric}:{parts[id]}": value for metric, value in one.items()}
        for metric, value in one.items():
            values.setdefault(metric, []).append(value)
    return {metric: sum(all_of) / len(all_of) if all_of else None for metric, all_of in values.items()}
