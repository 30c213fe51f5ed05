"""Gaussian blur: noise of single pixels goes first."""

import numpy as np

from unseg_lib.defenses.defense import Defense, as_pixels, need


def gaussian_blur(seed: int, *, sigma: float = 1.0) -> Defense:
    """sigma: in pixels of the file; the kernel reaches three of them. (The paper does not give its own.)"""
    from scipy.ndimage import gaussian_filter

    need("sigma", sigma, 0, 100)

    def image(pixels: np.ndarray, id: str) -> np.ndarray:
        return as_pixels(gaussian_filter(pixels.astype(np.float32), (sigma, sigma, 0), truncate=3))

    return Defense(image=image)
