"""UnSeg with a noise for every class: the generator is prompted by each class alone, and the noises are put together.

Not in the paper, whose noise is made for the union of all that is protected: where the union is the whole
image, its mask tells the generator nothing about what is where.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from unseg_lib.poisons.settings import PoisonSettings, Sample, with_noise
from unseg_lib.poisons.unseg import open_generator, raw_noise


def unseg_by_class(settings: PoisonSettings) -> Callable[[Sample], np.ndarray]:
    """Inside the mask each pixel has the noise of its own class, outside the noise of the union, as in `unseg`."""
    from unseg_lib.method import place_noise

    generator, name = open_generator(settings)

    def noise_for(image: Sample, mask: np.ndarray) -> np.ndarray:
        return place_noise(raw_noise(generator, name, replace(image, mask=mask), settings), *mask.shape)

    def poison(image: Sample) -> np.ndarray:
        if not image.mask.any():
            return image.pixels
        classes = np.unique(image.label[image.mask])
        noise = noise_for(image, image.mask)
        for one in classes if len(classes) > 1 else ():
            region = image.mask & (image.label == one)
            noise = np.where(region[..., None], noise_for(image, region), noise)
        return with_noise(image, noise, settings, ignored=True)

    return poison
