"""One random tile, the same in every image: the trivial texture a learned noise is compared with."""

from collections.abc import Callable

import numpy as np

from unseg_lib.poisons.settings import PoisonSettings, Sample, with_noise
from unseg_lib.seeds import numpy_rng

TILE = 8  # cells along each side of the tile
CELLS = 96  # cells along the longer side of an image


def fixed_tile(settings: PoisonSettings, cells: int = CELLS) -> Callable[[Sample], np.ndarray]:
    """A tile of 8x8 cells of random signs per channel, repeated over every image at full budget.

    A victim sees images shrunk, and shrinking averages a tile of single pixels away. So a cell is
    max(H,W)/`cells` pixels (at least one): about one pixel of a victim whose longer side is `cells`.
    """
    tile = numpy_rng(settings.seed, "fixed_tile").choice(np.float32([-1, 1]), (TILE, TILE, 3))

    def poison(image: Sample) -> np.ndarray:
        height, width = image.mask.shape
        rows, columns = (cell_of(n, max(height, width), cells) % TILE for n in (height, width))
        return with_noise(image, tile[rows[:, None], columns], settings)

    return poison


def cell_of(length: int, side: int, cells: int) -> np.ndarray:
    """Which cell each of `length` pixels lies in, when `side` pixels hold `cells` cells: int `(length,)`."""
    cells = min(cells, side)
    return (np.arange(length) * 2 + 1) * cells // (2 * side)  # of the pixel's centre
