"""SynPer (LSP): linearly separable patterns, one cluster per class (Yu et al., KDD 2022).

Written anew from the paper's description. A class is a cluster of random vectors around a vertex of a cube,
far from all others; every image draws one vector of each of its classes and paints it as coarse cells.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from unseg_lib.poisons.class_noise import Box, add_steps, class_noise
from unseg_lib.poisons.settings import PoisonSettings, Sample
from unseg_lib.seeds import numpy_rng

RMS = 6  # over 255; the paper's L2 norm of (6/255) sqrt(values)
PATCH, TILE = 8, 32  # pixels along a cell of one colour, and along the tile that repeats
GRID = TILE // PATCH
LENGTH = 3 * GRID * GRID  # of a vector: 48
SEPARATION = 10  # distance of a class's centre from 0, per coordinate


def synper(settings: PoisonSettings) -> Callable[[Sample], np.ndarray]:
    """A fresh vector per image and class, tiled, so that crops of an image keep the pattern; rms 6."""
    return lambda image: add_steps(image, synper_noise(image, settings))


def synper_noise(image: Sample, settings: PoisonSettings) -> np.ndarray:
    """The noise before rounding and clipping, float32 `(H,W,3)` in steps over 255."""

    def pattern(index: int, box: Box) -> np.ndarray:
        cells = class_vector(settings.seed, index, image.id).reshape(3, GRID, GRID)
        rows, columns = (np.arange(side.start, side.stop) % TILE // PATCH for side in box)
        return cells[:, rows[:, None], columns]

    return class_noise(image, settings, RMS, pattern)


def class_vector(seed: int, index: int, id: str) -> np.ndarray:
    """One sample `(48,)` of a class's cluster, drawn for the image `id`."""
    shape, centre = cluster(seed, index)
    return numpy_rng(seed, "synper", index, id).standard_normal(LENGTH) @ shape + centre


@cache
def cluster(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """A class's cluster: shape `(48,48)`, a spread of 4 per coordinate, and centre `(48,)` of +-10.

    Each class draws its centre by itself; that two share one has a chance of 2**-48.
    """
    rng = numpy_rng(seed, "synper", index)
    return rng.uniform(-1, 1, (LENGTH, LENGTH)), SEPARATION * rng.choice([-1.0, 1.0], LENGTH)
