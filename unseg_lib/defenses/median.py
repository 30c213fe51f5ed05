"""Median filter: removes what is thinner than half its window and keeps edges."""

import numpy as np
from PIL import Image, ImageFilter

from unseg_lib.defenses.defense import Defense
from unseg_lib.errors import UnsegError


def median(seed: int, *, size: int = 3) -> Defense:
    """size: side of the window in pixels of the file, odd."""
    if size < 1 or size % 2 == 0:
        raise UnsegError(f"Expected an odd size of at least 1 for the defence median, found {size}.")

    def image(pixels: np.ndarray, id: str) -> np.ndarray:
        return np.array(Image.fromarray(pixels).filter(ImageFilter.MedianFilter(size)))

    return Defense(image=image)
