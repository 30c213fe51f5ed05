"""Scores of a victim, and the rows that every table is made from."""

import lazy_loader

from unseg_lib.evaluation.metrics import confusion, intersection_over_union, mean_iou
from unseg_lib.evaluation.rows import COLUMNS, victim_rows

__all__ = ["COLUMNS", "confusion", "intersection_over_union", "mean_iou", "victim_rows"]

# the face of the package: what others import from it, loaded when it is asked for
__getattr__, __dir__, _names = lazy_loader.attach(
    __name__,
    submod_attrs={
        "boundary": ["boundary_iou"],
        "panoptic": ["panoptic_quality"],
        "rows": ["curves"],
    },
)
