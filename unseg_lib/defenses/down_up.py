"""Shrink and enlarge again: what is finer than the small image is lost."""

import numpy as np
from PIL import Image

from unseg_lib.defenses.defense import Defense
from unseg_lib.errors import UnsegError


def down_up(seed: int, *, factor: float = 0.5) -> Defense:
    """factor: side of the small image over that of the file; both ways bilinear, down with antialiasing."""
    if not 0 < factor <= 1:
        raise UnsegError(f"Expected factor above 0 and at most 1 for the defence down_up, found {factor:g}.")

    def image(pixels: np.ndarray, id: str) -> np.ndarray:
        large = Image.fromarray(pixels)
        small = large.resize([max(1, round(factor * n)) for n in large.size], Image.Resampling.BILINEAR)
        return np.array(small.resize(large.size, Image.Resampling.BILINEAR))

    return Defense(image=image)
