"""Fewer bits per channel: steps smaller than what is left vanish, but tip some pixels over an edge."""

import numpy as np
from PIL import Image, ImageOps

from unseg_lib.defenses.defense import Defense, need


def bit_depth(seed: int, *, bits: int = 2) -> Defense:
    """bits: the highest so many of 8 stay; 2 as in APBench (Qin et al. 2023)."""
    need("bits", bits, 1, 8)

    def image(pixels: np.ndarray, id: str) -> np.ndarray:
        return np.array(ImageOps.posterize(Image.fromarray(pixels), bits))

    return Defense(image=image)
