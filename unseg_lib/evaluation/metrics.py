"""Which metrics there are and how tables name them; intersection over union of label maps."""

from dataclasses import dataclass

import torch

from unseg_lib.datasets import IGNORE
from unseg_lib.errors import pick


@dataclass(frozen=True)
class Metric:
    """words: for headings. tasks: those whose victims are judged by it. least: percent; a victim below it has learnt
    nothing from clean images.
    """

    words: str
    tasks: tuple[str, ...] = ()
    least: float = 10.0


# "iou:NAME", "AP:NAME" and "PQ:NAME" are of one class, "miou_pictures:PART" and "biou:PART" of a part of the test set
METRICS = {
    "miou": Metric("mean IoU", ("semantic",)),
    "iou": Metric("IoU"),
    "iou_object": Metric("IoU of the object", ("object",)),
    "iou_protected": Metric("mean IoU of the protected classes"),
    "iou_foreground": Metric("mean IoU without the background"),
    "miou_pictures": Metric("IoU, mean over images", ("interactive",)),
    "biou": Metric("boundary IoU, mean over images"),
    "AP": Metric("average precision", ("instance", "detection"), least=5.0),
    "AP50": Metric("average precision at IoU 0.50"),
    "AP75": Metric("average precision at IoU 0.75"),
    "APs": Metric("average precision of small objects"),
    "APm": Metric("average precision of medium objects"),
    "APl": Metric("average precision of large objects"),
    "PQ": Metric("panoptic quality", ("panoptic",), least=5.0),
    "AP_pan": Metric("average precision of the things of a panoptic model"),
    "mIoU_pan": Metric("mean IoU of the label maps of a panoptic model"),
}


def main_metric(task: str) -> str:
    """The name of the metric that the field judges a task by."""
    return pick({task: name for name, metric in METRICS.items() for task in metric.tasks}, task, "task")


def confusion(prediction: torch.Tensor, label: torch.Tensor, classes: int) -> torch.Tensor:
    """Count pixels by (true class, predicted class): int64 `(classes,classes)`, to be summed over batches.

    prediction, label: class indices of one shape, any integer type; pixels labelled 255 do not count.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    prediction, label = prediction.long(), label.long()
    return multiclass_confusion_matrix(prediction, label, classes, ignore_index=IGNORE, validate_args=False)


def intersection_over_union(matrix: torch.Tensor) -> list[float | None]:
    """IoU of every class in [0,1], of a confusion matrix `(C,C)` indexed (true, predicted).

    None for a class that the test labels do not hold: predicting it anyway costs the class that was there.
    """
    matrix = matrix.cpu().double()
    hit, true, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    iou = (hit / (true + predicted - hit)).tolist()
    return [share if there else None for share, there in zip(iou, (true > 0).tolist())]


def mean_iou(iou: list[float | None]) -> float:
    """Mean over the classes present in the test labels; 0 where every pixel is ignored."""
    present = [value for value in iou if value is not None]
    return sum(present) / len(present) if present else 0.0
