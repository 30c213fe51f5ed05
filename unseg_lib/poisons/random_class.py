"""Random noise by class: one tile of uniform noise per class, the cheapest pattern that names the class."""

from collections.abc import Callable

import numpy as np

from unseg_lib.poisons.fixed_tile import CELLS, TILE, cell_of
from unseg_lib.poisons.settings import IGNORE, PoisonSettings, Sample, with_noise
from unseg_lib.seeds import numpy_rng


def random_class(settings: PoisonSettings) -> Callable[[Sample], np.ndarray]:
    """Every class has a tile of 8x8 uniform cells, drawn once, of the size of `fixed_tile`'s, times the budget:
    eps inside the mask, eps_bg for the classes outside.
    """

    def poison(image: Sample) -> np.ndarray:
        tiles = np.zeros((256, TILE, TILE, 3), np.float32)
        for index in np.unique(image.label[image.label != IGNORE]):
            tiles[index] = numpy_rng(settings.seed, "random_class", int(index)).uniform(-1, 1, (TILE, TILE, 3))
        side = max(image.label.shape)
        rows, columns = (cell_of(length, side, CELLS) % TILE for length in image.label.shape)
        return with_noise(image, tiles[image.label, rows[:, None], columns], settings)

    return poison
