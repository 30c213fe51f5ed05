"""A grating of two colours, the same in every picture: the strongest cue that needs no training.

Natural pictures hold little colour contrast at fine scales, so stripes of opposite colours stand out there as
brightness never does; and unlike a constant colour they do not depend on what colour the picture is.
"""

from collections.abc import Callable

import numpy as np

from unseg_lib.poisons.settings import Picture, PoisonSettings, with_noise

PERIODS = 12  # along the longer side of a picture
STEEPNESS = 1.5  # of the sine before it is cut at the budget: between a sine and a square wave


def colour_grating(settings: PoisonSettings) -> Callable[[Picture], np.ndarray]:
    """Upright stripes of red and blue up, green down, and the opposite: eps inside the mask, eps_bg outside."""

    def poison(picture: Picture) -> np.ndarray:
        height, width = picture.mask.shape
        phase = 2 * np.pi * PERIODS * np.arange(width) / max(height, width)
        wave = np.clip(STEEPNESS * np.sin(phase), -1, 1).astype(np.float32)
        noise = np.broadcast_to(wave[:, None] * np.float32((1, -1, 1)), picture.pixels.shape)
        return with_noise(picture, noise, settings)

    return poison
