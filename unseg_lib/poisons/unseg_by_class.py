"""UnSeg with a noise for every class: the generator is prompted by each class alone, and the noises are put together.

Not in the paper, whose noise is made for the union of all that is protected: where the union is the whole
picture, its mask tells the generator nothing about what is where.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from unseg_lib.poisons.settings import Picture, PoisonSettings, with_noise
from unseg_lib.poisons.unseg import open_generator, raw_noise


def unseg_by_class(settings: PoisonSettings) -> Callable[[Picture], np.ndarray]:
    """Inside the mask each pixel has the noise of its own class, outside the noise of the union, as in `unseg`."""
    from unseg_lib.method.generator import place_noise

    generator, name = open_generator(settings)

    def noise_for(picture: Picture, mask: np.ndarray) -> np.ndarray:
        return place_noise(raw_noise(generator, name, replace(picture, mask=mask), settings), *mask.shape)

    def poison(picture: Picture) -> np.ndarray:
        if not picture.mask.any():
            return picture.pixels
        classes = np.unique(picture.label[picture.mask])
        noise = noise_for(picture, picture.mask)
        for one in classes if len(classes) > 1 else ():
            region = picture.mask & (picture.label == one)
            noise = np.where(region[..., None], noise_for(picture, region), noise)
        return with_noise(picture, noise, settings, ignored=True)

    return poison
