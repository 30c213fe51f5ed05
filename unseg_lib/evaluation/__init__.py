"""Scores of a victim, and the rows that every table is made from."""

from unseg_lib.evaluation.metrics import confusion, intersection_over_union, mean_iou
from unseg_lib.evaluation.rows import COLUMNS, victim_rows

__all__ = ["COLUMNS", "confusion", "intersection_over_union", "mean_iou", "victim_rows"]
