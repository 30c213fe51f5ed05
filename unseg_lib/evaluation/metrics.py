"""Intersection over union, from one confusion matrix over the whole test set."""

import torch

from unseg_lib.datasets import IGNORE


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
    union = true + predicted - hit
    return [(hit[i] / union[i]).item() if true[i] > 0 else None for i in range(len(matrix))]


def mean_iou(iou: list[float | None]) -> float:
    """Mean over the classes present in the test labels; 0 where every pixel is ignored."""
    present = [value for value in iou if value is not None]
    return sum(present) / len(present) if present else 0.0
