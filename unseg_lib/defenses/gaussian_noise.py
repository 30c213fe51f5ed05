"""Gaussian noise, drawn once per image: drowns a weaker pattern."""

import numpy as np

from unseg_lib.defenses.defense import Defense, as_pixels, need
from unseg_lib.seeds import numpy_rng


def gaussian_noise(seed: int, *, sigma: float = 8.0) -> Defense:
    """sigma: over 255."""
    need("sigma", sigma, 0, 255)

    def image(pixels: np.ndarray, id: str) -> np.ndarray:
        return as_pixels(pixels + sigma * numpy_rng(seed, "gaussian_noise", id).standard_normal(pixels.shape))

    return Defense(image=image)
