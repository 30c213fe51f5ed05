"""JPEG: rounds high frequencies away, colours first. The strongest defence in the paper's Table 4."""

import io

import numpy as np
from PIL import Image

from unseg_lib.defenses.defense import Defense, need
from unseg_lib.errors import UnsegError

SUBSAMPLING = {420: "4:2:0", 422: "4:2:2", 444: "4:4:4"}


def jpeg(seed: int, *, quality: int = 10, subsampling: int = 420) -> Defense:
    """Save and load with Pillow's encoder.

    quality: 10 is that of Image Shortcut Squeezing (Liu et al. 2023), the paper does not give its own.
    subsampling: 420 halves both sides of the colour planes, 422 one, 444 none.
    """
    need("quality", quality, 1, 100)
    if subsampling not in SUBSAMPLING:
        raise UnsegError(f"Expected subsampling to be one of 420, 422, 444 for the defence jpeg, found {subsampling}.")

    def image(pixels: np.ndarray, id: str) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=SUBSAMPLING[subsampling])
        with Image.open(file) as saved:
            return np.array(saved.convert("RGB"))

    return Defense(image=image)
