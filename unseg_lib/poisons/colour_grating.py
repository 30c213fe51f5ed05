"""A grating of two colours, the same in every image: the strongest cue that needs no training.

Natural images hold little colour contrast at fine scales, so stripes of opposite colours stand out there as
brightness never does; and unlike a constant colour they do not depend on what colour the image is.
"""

from collections.abc import Callable

import numpy as np

from unseg_lib.poisons.settings import PoisonSettings, Sample, with_noise

PERIODS = 12  # along the longer side of an image
STEEPNESS = 1.5  # of the sine before it is cut at the budget: between a sine and a square wave


def colour_grating(settings: PoisonSettings) -> Callable[[Sample], np.ndarray]:
    """Upright stripes of red and blue up, green down, and the opposite: eps inside the mask, eps_bg outside."""

    def poison(image: Sample) -> np.ndarray:
        height, width = image.mask.shape
        phase = 2 * np.pi * PERIODS * np.arange(width) / max(height, width)
        wave = np.clip(STEEPNESS * np.sin(phase), -1, 1).astype(np.float32)
        noise = np.broadcast_to(wave[:, None] * np.float32((1, -1, 1)), image.pixels.shape)
        return with_noise(image, noise, settings)

    return poison
