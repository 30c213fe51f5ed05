"""Random noise: the control that a victim must learn through (within a point or two of clean)."""

from collections.abc import Callable

import numpy as np

from unseg_lib.poisons.settings import PoisonSettings, Sample, with_noise
from unseg_lib.seeds import numpy_rng


def random_noise(settings: PoisonSettings) -> Callable[[Sample], np.ndarray]:
    """Uniform in (-1,1), independent for every image, pixel and channel, times the budget."""

    def poison(image: Sample) -> np.ndarray:
        rng = numpy_rng(settings.seed, "random", image.id)
        noise = rng.random(image.pixels.shape, dtype=np.float32) * 2 - 1
        return with_noise(image, noise, settings)

    return poison
