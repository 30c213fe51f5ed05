"""Boundary IoU: intersection over union of the two masks' borders, which fine details decide."""

import numpy as np

from unseg_lib.errors import UnsegError

SHARE = 0.02  # width of the border, as a share of the image's diagonal


def boundary_iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Boundary IoU of two masks, bool `(H,W)`, in [0,1]; 1 where both are empty.

    The border of a mask is what of it lies within 2 % of the diagonal of its outline, and the edge of the image
    is outline (Cheng et al., CVPR 2021, in the way of their code, which SAM-HQ is evaluated with).
    """
    if prediction.shape != truth.shape:
        sizes = " and ".join("x".join(map(str, mask.shape)) for mask in (prediction, truth))
        raise UnsegError(f"Expected masks of one size, found {sizes}; scale the prediction to the image's size.")
    ours, theirs = _border(prediction), _border(truth)
    either = int((ours | theirs).sum())
    return float((ours & theirs).sum() / either) if either else 1.0


def _border(mask: np.ndarray) -> np.ndarray:
    """The mask without its erosion by a square of `2 d + 1` pixels, which is `d` erosions by 3x3 pixels."""
    from scipy.ndimage import minimum_filter

    width = max(1, round(SHARE * float(np.hypot(*mask.shape))))
    return mask & ~minimum_filter(mask, 2 * width + 1, mode="constant", cval=0)
