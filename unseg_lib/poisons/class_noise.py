"""Noise by class: every class of an image gets a pattern of its own, as strong as one number says.

These poisons know no L-inf budget, and so no `eps`: their papers bound the L2 norm, which at a constant
rms grows with the image as it does there. Rounding and clipping make the written noise differ a little.
"""

from collections.abc import Callable, Iterator

import numpy as np

from unseg_lib.poisons.settings import IGNORE, PoisonSettings, Sample

Box = tuple[slice, slice]  # rows and columns of the smallest rectangle around a region


def regions(image: Sample, settings: PoisonSettings) -> Iterator[tuple[int, np.ndarray]]:
    """The classes that get noise, each with its pixels, bool `(H,W)`: what is protected, and the background
    with `include_background`. None in an image with nothing to protect; ignored pixels are in no region.
    """
    if not image.mask.any():
        return
    treated = image.mask & (image.label != IGNORE)
    if settings.include_background and image.background is not None:
        treated |= image.label == image.background
    for index in np.unique(image.label[treated]):
        yield int(index), treated & (image.label == index)


def class_noise(
    image: Sample, settings: PoisonSettings, rms: float, pattern: Callable[[int, Box], np.ndarray]
) -> np.ndarray:
    """Noise float32 `(H,W,3)` in steps over 255 whose rms over every class's region is `rms`; 0 elsewhere.

    `pattern(index, box)` draws a class over a box, float `(3,h,w)` of any strength. In a gray image all
    channels get the first one's pattern, which keeps what makes it a class's own; their mean would not.
    """
    noise = np.zeros((3, *image.label.shape), np.float32)
    for index, region in regions(image, settings):
        box = box_of(region)
        drawn = pattern(index, box)[: 1 if image.gray else 3]
        drawn = np.multiply(drawn, region[box], dtype=np.float32, casting="same_kind")
        drawn *= rms / np.sqrt(np.vdot(drawn, drawn) / (len(drawn) * region.sum()))
        noise[:, *box] += drawn
    return np.moveaxis(noise, 0, -1)


def box_of(region: np.ndarray) -> Box:
    """The box of a region, bool `(H,W)` that is not empty."""
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def add_steps(image: Sample, noise: np.ndarray) -> np.ndarray:
    """The image with noise `(H,W,3)` in steps over 255, rounded and clipped: uint8 `(H,W,3)`."""
    return np.clip(np.rint(image.pixels + noise), 0, 255).astype(np.uint8)
