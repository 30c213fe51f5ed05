"""Gray images: noise that is only a colour has gone. The test stays in colour."""

import numpy as np
from PIL import Image

from unseg_lib.defenses.defense import Defense


def grayscale(seed: int) -> Defense:
    """Luma (ITU-R 601) in all three channels."""

    def image(pixels: np.ndarray, id: str) -> np.ndarray:
        return np.array(Image.fromarray(pixels).convert("L").convert("RGB"))

    return Defense(image=image)
