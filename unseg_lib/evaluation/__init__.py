"""Scores of a victim, and the rows that every table is made from; loaded when asked for, since scores take torch."""

import lazy_loader

words = str.split

# the face of the package: what others import from it
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "instances": words("average_precision pack panoptic_quality unpack"),
        "metrics": words("METRICS Metric confusion intersection_over_union main_metric mean_iou"),
        "perceptual": words("lpips"),
        "rows": words("COLUMNS RUN check_columns curves victim_rows"),
    },
)
