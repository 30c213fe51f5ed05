"""Test of a Mask2Former, and what it makes of some test images.

All at the run's size: the areas of AP's small, medium and large objects are in its pixels.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from unseg_lib.datasets import IGNORE, SegmentationSet
from unseg_lib.evaluation import confusion, intersection_over_union, mean_iou, panoptic_quality
from unseg_lib.evaluation.average_precision import average_precision
from unseg_lib.victims import mask2former_outputs as outputs
from unseg_lib.victims.data import normalise, resized_label
from unseg_lib.victims.instance_data import MaskedImages, pack, unpack
from unseg_lib.victims.mask2former_model import Layout
from unseg_lib.victims.run import LABEL_TASKS, VictimRun
from unseg_lib.victims.training import autocast, save_predictions, shown

SURE = 0.5  # instances with a lower score count, but are not drawn

Logits = tuple[torch.Tensor, torch.Tensor]  # of one image: classes (Q,C+1), masks (Q,h,w)


def scores(layout: Layout, run: VictimRun, model: torch.nn.Module, data: MaskedImages) -> dict:
    """Scores of the run's task, see `train_victim`."""
    found = predict(run, model, data.x)
    if run.task == "instance":
        return {"scores": instance_scores(run, data, (_instances(run, one) for one in found))}
    if run.task == "panoptic":
        return {"scores": panoptic_scores(layout, run, data, found)}
    iou = intersection_over_union(sum(_confusion(run, data, i, one) for i, one in enumerate(found)))
    return {"miou": mean_iou(iou), "iou": iou}


@torch.inference_mode()
def predict(run: VictimRun, model: torch.nn.Module, x: torch.Tensor) -> Iterator[Logits]:
    """What the model says of every image, uint8 `(N,3,H,W)`."""
    model.eval()
    for some in x.split(run.batch_size):
        with autocast(run):
            found = model(normalise(some.to(run.device)))
        yield from zip(found.class_queries_logits.float(), found.masks_queries_logits.float())


def instance_scores(run: VictimRun, data: MaskedImages, found: Iterable[tuple]) -> dict[str, float | None]:
    """AP of (masks, classes, scores) of every image, over the things; what is found in crowds does not count."""

    def truths() -> Iterator[tuple]:
        for i, classes in enumerate(data.classes):
            thing = torch.isin(classes, torch.tensor(things(run.test)))
            yield tuple(part[thing].numpy() for part in (data.masks(i), classes, data.crowd[i]))

    return average_precision(truths(), found, run.test.classes)


def panoptic_scores(
    layout: Layout, run: VictimRun, data: MaskedImages, found: Iterable[Logits]
) -> dict[str, float | None]:
    """PQ; "AP_pan" of the instances and "mIoU_pan" of the label maps that the same model gives, as published."""
    matrix, segments, instances = 0, [], []
    for i, one in enumerate(found):
        matrix += _confusion(run, data, i, one)
        for kept, (masks, *more) in ((segments, _segments(layout, run, one)), (instances, _instances(run, one))):
            kept.append((pack(torch.from_numpy(masks)), *more))  # a large test set would not fit unpacked
    truths = ((data.masks(i).numpy(), data.classes[i].numpy(), data.crowd[i].numpy()) for i in range(len(data.x)))
    quality = panoptic_quality(truths, _unpacked(run, segments), run.test.classes, things(run.test))
    precision = instance_scores(run, data, _unpacked(run, instances))["AP"]
    return quality | {"AP_pan": precision, "mIoU_pan": mean_iou(intersection_over_union(matrix))}


def keep(layout: Layout, run: VictimRun, model: torch.nn.Module, data: MaskedImages) -> None:
    """Write predictions.npz of some test images: label maps, and of instances and segments also their numbers."""
    some = shown(len(data.x))
    rows = [_drawings(layout, run, data, i, one) for i, one in zip(some, predict(run, model, data.x[some]))]
    arrays = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
    save_predictions(run.out / "predictions.npz", data.x[some], **arrays)


def _drawings(layout: Layout, run: VictimRun, data: MaskedImages, i: int, one: Logits) -> dict[str, np.ndarray]:
    if run.task in LABEL_TASKS:
        return {"y": _true(data, i, IGNORE)[0], "prediction": outputs.label_map(*one, run.size).cpu().numpy()}
    if run.task == "panoptic":
        nothing, found = IGNORE, _segments(layout, run, one)
    else:
        nothing = IGNORE if run.test.background is None else run.test.background
        masks, classes, score = _instances(run, one)
        sure = np.flatnonzero(score >= SURE)[::-1]  # the best on top
        found = masks[sure], classes[sure]
    y, truth_segments = _true(data, i, nothing)
    prediction, prediction_segments = outputs.drawn(*found, nothing)
    return {
        **{"y": y, "prediction": prediction},
        **{"truth_segments": truth_segments, "prediction_segments": prediction_segments},
    }


def _true(data: MaskedImages, i: int, nothing: int) -> tuple[np.ndarray, np.ndarray]:
    """An image's true classes and segment numbers; small ones lie on top."""
    masks, classes = data.learnt(i)
    order = masks.flatten(1).sum(dim=1).argsort(descending=True, stable=True)
    return outputs.drawn(masks[order].numpy(), classes[order].numpy(), nothing)


def _confusion(run: VictimRun, data: MaskedImages, i: int, one: Logits) -> torch.Tensor:
    if run.task == "panoptic":  # the segments lack what only the label map has: crowds, things without a mask
        label = resized_label(run.test.label(run.test.ids[i]), run.size)
    else:
        label = torch.from_numpy(_true(data, i, IGNORE)[0])
    return confusion(outputs.label_map(*one, run.size).cpu(), label, len(run.test.classes))


def _instances(run: VictimRun, one: Logits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return outputs.instances(*one, run.size, things(run.test))


def _segments(layout: Layout, run: VictimRun, one: Logits) -> tuple[np.ndarray, np.ndarray]:
    return outputs.segments(*one, run.size, things(run.test), layout.threshold, layout.overlap)


def _unpacked(run: VictimRun, packed: list[tuple]) -> Iterator[tuple]:
    return ((unpack(masks, run.size).numpy(), *more) for masks, *more in packed)


def things(source: SegmentationSet) -> tuple[int, ...]:
    """Indices of the countable classes; where the set does not say, all but the background."""
    every = tuple(i for i in range(len(source.classes)) if i != source.background)
    return every if source.things is None else tuple(source.things)
