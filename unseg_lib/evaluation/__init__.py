"""Scores of a victim, and the rows that every table is made from."""

from unseg_lib.evaluation.instances import average_precision, pack, panoptic_quality, unpack
from unseg_lib.evaluation.metrics import (
    METRICS,
    Metric,
    boundary_iou,
    confusion,
    intersection_over_union,
    main_metric,
    mask_iou,
    mean_iou,
)
from unseg_lib.evaluation.perceptual import lpips
from unseg_lib.evaluation.rows import COLUMNS, curves, victim_rows

__all__ = ["COLUMNS", "METRICS", "Metric", "average_precision", "boundary_iou", "confusion", "curves"]
__all__ += ["intersection_over_union", "lpips", "main_metric", "mask_iou", "mean_iou", "pack", "panoptic_quality"]
__all__ += ["unpack", "victim_rows"]
