"""Boxes of our instances, and their average precision, as mmengine wants them.

Imported only after `mm_compat.import_mmdet`, by `dino.py`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.evaluator import BaseMetric

from unseg_lib.datasets import Instance, SegmentationSet
from unseg_lib.evaluation.average_precision import average_precision
from unseg_lib.method import boxes_of
from unseg_lib.victims.mask2former_scores import things


def truth(source: SegmentationSet, id: str) -> dict:
    """An image's truth for detection; mmdetection counts the countable classes from 0."""
    masks, classes = stacked(source, id, source.instances(id))
    order = things(source)
    return {
        "gt_bboxes": HorizontalBoxes(tight_boxes(masks), dtype=torch.float32),
        "gt_bboxes_labels": np.array([order.index(index) for index in classes.tolist()], np.int64),
        "gt_ignore_flags": np.zeros(len(classes), bool),
    }


def tight_boxes(masks: np.ndarray) -> torch.Tensor:
    """Left, top, right, bottom edges in pixels, float `(K,4)`, of masks bool `(K,H,W)` with a pixel each."""
    return boxes_of(torch.from_numpy(masks)) + torch.tensor([0.0, 0.0, 1.0, 1.0])


def stacked(source: SegmentationSet, id: str, objects: list[Instance]) -> tuple[np.ndarray, np.ndarray]:
    """Masks bool `(K,H,W)` and class indices int64 `(K,)` of the objects that have a pixel."""
    objects = [one for one in objects if one.mask.any()]
    size = objects[0].mask.shape if objects else source.image(id).shape[:2]
    masks = np.stack([one.mask for one in objects]) if objects else np.zeros((0, *size), bool)
    return masks, np.array([one.class_index for one in objects], np.int64)


class BoxPrecision(BaseMetric):
    """AP of boxes at every image's full size; what is found in crowds does not count."""

    def __init__(self, source: SegmentationSet):
        super().__init__()
        self.source = source

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        self.results += [(sample["img_path"], found(self.source, sample["pred_instances"])) for sample in data_samples]

    def compute_metrics(self, results: list[tuple]) -> dict:
        truths = (self._truth(id) for id, _ in results)
        predictions = (one for _, one in results)
        return {"scores": average_precision(truths, predictions, self.source.classes, "box")}

    def _truth(self, id: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        objects = [*self.source.instances(id), *self.source.crowds(id)]
        objects = [one for one in objects if one.mask.any()]
        masks, classes = stacked(self.source, id, objects)
        return masks, classes, np.array([one.crowd for one in objects], bool)


def found(source: SegmentationSet, instances: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes float `(K,4)`, our class indices and scores `(K,)` of a prediction of mmdetection."""
    boxes, labels, scores = (instances[name].cpu().numpy() for name in ("bboxes", "labels", "scores"))
    return boxes, np.array(things(source), np.int64)[labels], scores
