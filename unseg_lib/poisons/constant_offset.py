"""A constant colour or brightness: the cheapest cue that betrays a mask.

A generator that saturates to one colour is no better than this, so every table shows both rows.
"""

from collections.abc import Callable

import numpy as np

from unseg_lib.poisons.settings import PoisonSettings, Sample, with_noise


def colour_offset(settings: PoisonSettings) -> Callable[[Sample], np.ndarray]:
    """Red and blue up, green down, by the whole budget: eps inside the mask, eps_bg outside."""
    return _constant((1, -1, 1), settings)


def gray_offset(settings: PoisonSettings) -> Callable[[Sample], np.ndarray]:
    """All channels up by the whole budget: eps inside the mask, eps_bg outside."""
    return _constant((1, 1, 1), settings)


def _constant(colour: tuple[int, int, int], settings: PoisonSettings) -> Callable[[Sample], np.ndarray]:
    def poison(image: Sample) -> np.ndarray:
        return with_noise(image, np.broadcast_to(np.float32(colour), image.pixels.shape), settings)

    return poison
