"""Poisons that give every class of an image a pattern or a filter of its own, and know no `eps`.

The papers of `synper` and `ar` bound the L2 norm, which at a constant rms grows with the image as it does there.
`cuda` is bounded by nothing: PSNR and SSIM belong beside every score.
"""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from scipy.ndimage import find_objects

from unseg_lib.images import as_pixels
from unseg_lib.poisons.settings import IGNORE, Apply, Noise, PoisonSettings, Sample
from unseg_lib.seeds import numpy_rng

Box = tuple[slice, slice]  # rows and columns of the smallest rectangle around a region


def regions(image: Sample, settings: PoisonSettings) -> Iterator[tuple[int, np.ndarray]]:
    """The classes that get noise, each with its pixels, bool `(H,W)`: what is protected, and the background
    with `include_background`. None in an image with nothing to protect; ignored pixels are in no region.
    """
    treated = image.mask & (image.label != IGNORE)
    if settings.include_background and image.background is not None and image.mask.any():
        treated |= image.label == image.background
    for index in np.unique(image.label[treated]):
        yield int(index), treated & (image.label == index)


def class_noise(
    image: Sample, settings: PoisonSettings, rms: float, pattern: Callable[[int, Box], np.ndarray]
) -> np.ndarray:
    """Noise float32 `(H,W,3)` in steps over 255 whose rms over every class's region is `rms`; 0 elsewhere.

    `pattern(index, box)` draws a class over a box, float `(3,h,w)` of any strength. In a gray image all channels get
    the first one's: their mean would lose what makes it a class's own.
    """
    noise = np.zeros((3, *image.label.shape), np.float32)
    for index, region in regions(image, settings):
        box = find_objects(region.view(np.int8))[0]
        drawn = pattern(index, box)[: 1 if image.gray else 3]
        drawn = np.multiply(drawn, region[box], dtype=np.float32, casting="same_kind")
        drawn *= rms / np.sqrt(np.vdot(drawn, drawn) / (len(drawn) * region.sum()))
        noise[:, *box] += drawn
    return np.moveaxis(noise, 0, -1)


def in_steps(noise_of: Noise) -> Callable[[PoisonSettings], Apply]:
    """The poison that adds noise `(H,W,3)` in steps over 255, `noise_of(image, settings)`, rounded and clipped."""
    return lambda settings: lambda image: as_pixels(image.pixels + noise_of(image, settings))


# SynPer (LSP): linearly separable patterns (Yu et al., KDD 2022), written anew from the paper's description: a class is
# a cluster of random vectors around a vertex of a cube, far from all others.

SYNPER_RMS = 6  # over 255; the paper's L2 norm of (6/255) sqrt(values)
PATCH, TILE = 8, 32  # pixels along a cell of one colour, and along the tile that repeats
GRID = TILE // PATCH
LENGTH = 3 * GRID * GRID  # of a vector: 48
SEPARATION = 10  # distance of a class's centre from 0, per coordinate


def synper_noise(image: Sample, settings: PoisonSettings) -> np.ndarray:
    """A fresh vector per image and class as coarse cells, tiled, so that crops keep the pattern; rms 6."""

    def pattern(index: int, box: Box) -> np.ndarray:
        cells = class_vector(settings.seed, index, image.id).reshape(3, GRID, GRID)
        rows, columns = (np.arange(side.start, side.stop) % TILE // PATCH for side in box)
        return cells[:, rows[:, None], columns]

    return class_noise(image, settings, SYNPER_RMS, pattern)


synper = in_steps(synper_noise)


def class_vector(seed: int, index: int, id: str) -> np.ndarray:
    """One sample `(48,)` of a class's cluster, drawn for the image `id`."""
    shape, centre = cluster(seed, index)
    return numpy_rng(seed, "synper", index, id).standard_normal(LENGTH) @ shape + centre


@cache
def cluster(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """A class's cluster: shape `(48,48)`, a spread of 4 per coordinate, and centre `(48,)` of +-10, its own."""
    rng = numpy_rng(seed, "synper", index)
    return rng.uniform(-1, 1, (LENGTH, LENGTH)), SEPARATION * rng.choice([-1.0, 1.0], LENGTH)


# CUDA: convolution-based unlearnable data (Sadasivan et al., CVPR 2023), written anew from the paper's description: a
# 3x3 filter per class. Its 1 may lie off the centre, which shifts the class by a pixel against its label.

BLUR = 0.3  # a filter's entries are uniform below this, except for one that is 1


def cuda(settings: PoisonSettings, stretched: bool = True) -> Apply:
    """As published, every filtered image is stretched until its brightest value is white; else it is a pure blur."""

    def apply(image: Sample) -> np.ndarray:
        result = image.pixels.copy()
        for index, region in regions(image, settings):
            result[region] = filtered(image.pixels, kernel_of(settings.seed, index), stretched)[region]
        return result

    return apply


def kernel_of(seed: int, index: int) -> np.ndarray:
    """A class's filter `(3,3)`, the same for all images and channels."""
    rng = numpy_rng(seed, "cuda", index)
    kernel = rng.uniform(0, BLUR, 9)
    kernel[rng.integers(9)] = 1
    return kernel.reshape(3, 3)


def filtered(pixels: np.ndarray, kernel: np.ndarray, stretched: bool) -> np.ndarray:
    """The whole image uint8 `(H,W,3)` filtered, black beyond its border, divided by its brightest value or by the
    filter's sum, and rounded; the released code cuts decimals off, which darkens by half a step.
    """
    height, width = pixels.shape[:2]
    padded = np.pad(pixels.astype(np.float32), ((1, 1), (1, 1), (0, 0)))
    total = sum(padded[i : i + height, j : j + width] * np.float32(kernel[i, j]) for i in range(3) for j in range(3))
    total /= (total.max() / 255 or 1) if stretched else kernel.sum()
    return as_pixels(total)
