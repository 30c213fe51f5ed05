"""COIN (Li et al., AAAI 2025): every pixel is fetched from a random place nearby. Made against CUDA's blur."""

import numpy as np

from unseg_lib.defenses.defense import Defense, as_pixels, need
from unseg_lib.seeds import numpy_rng


def coin(seed: int, *, alpha: float = 2.0) -> Defense:
    """alpha: largest shift along each axis, in pixels of the file; the published ladder is 0.8 to 3.2, 2.0 its fourth.

    Drawn once per image. Unlike published, it reflects at the border instead of wrapping around. Labels
    stay where they are, so up to alpha pixels at an object's edge are mixed.
    """
    from scipy.ndimage import map_coordinates

    need("alpha", alpha, 0, 100)

    def image(pixels: np.ndarray, id: str) -> np.ndarray:
        shift = numpy_rng(seed, "coin", id).uniform(-alpha, alpha, (2, *pixels.shape[:2]))
        place = np.indices(pixels.shape[:2]) + shift
        planes = [map_coordinates(pixels[..., c].astype(np.float32), place, order=1, mode="mirror") for c in range(3)]
        return as_pixels(np.stack(planes, axis=-1))

    return Defense(image=image)
