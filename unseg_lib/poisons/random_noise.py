"""Random noise: the control that a victim must learn through (within a point or two of clean)."""

from collections.abc import Callable

import numpy as np

from unseg_lib.poisons.settings import Picture, PoisonSettings, with_noise
from unseg_lib.seeds import numpy_rng


def random_noise(settings: PoisonSettings) -> Callable[[Picture], np.ndarray]:
    """Uniform in (-1,1), independent for every picture, pixel and channel, times the budget."""

    def poison(picture: Picture) -> np.ndarray:
        rng = numpy_rng(settings.seed, "random", picture.id)
        noise = rng.random(picture.pixels.shape, dtype=np.float32) * 2 - 1
        return with_noise(picture, noise, settings)

    return poison
