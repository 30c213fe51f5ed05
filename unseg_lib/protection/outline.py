"""The region of an image as an outline, to see whether it is what was meant."""

from pathlib import Path

import numpy as np
from PIL import Image

from unseg_lib.files import whole_file
from unseg_lib.images import resize_label
from unseg_lib.method import shrunk
from unseg_lib.protection.report import writing

SIDE = 1024  # pixels; the longer side of a preview
INNER, OUTER = (220, 30, 40), (255, 255, 255)  # two lines, of which one is seen on any ground


def outlined(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image uint8 `(H,W,3)` with the border of a mask bool `(H,W)` drawn on it, red inside and white outside."""
    from scipy.ndimage import binary_dilation, binary_erosion

    width, done = max(1, round(max(mask.shape) / 300)), pixels.copy()
    done[mask & ~binary_erosion(mask, iterations=width)] = INNER
    done[~mask & binary_dilation(mask, iterations=width)] = OUTER
    return done


def write_outline(path: Path, pixels: np.ndarray, mask: np.ndarray) -> None:
    """Write a preview as JPEG, at most `SIDE` pixels a side; an older one is replaced."""
    small = shrunk(pixels, SIDE)
    with writing(path), whole_file(path) as partial:
        Image.fromarray(outlined(small, resize_label(mask, small.shape[:2]))).save(partial, "JPEG", quality=90)
