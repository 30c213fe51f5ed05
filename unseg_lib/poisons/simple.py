"""Poisons that need neither network nor filter: controls, and the cheapest cues that betray a mask.

A generator that is no better than one of these has learnt nothing more, so every table shows them beside it.
"""

from collections.abc import Callable

import numpy as np
import torch

from unseg_lib.images import cell_of, resize_label
from unseg_lib.method import digest
from unseg_lib.poisons.settings import IGNORE, Apply, Noise, PoisonSettings, Sample, within_budget
from unseg_lib.seeds import numpy_rng

TILE = 8  # cells along each side of a tile
CELLS = 96  # cells along the longer side of an image
PERIODS = 12  # of a grating, along the longer side of an image
FINE, COARSE = 5, 9  # cells in a period of stripes: natural images hold little brightness, or colour, that fine
FINEST = 3.5  # what is found soonest in gray, of the patterns that docs/defences.md lists
GRID = 960  # cells along the longer side of what `Grating` draws
STEEPNESS = 1.5  # of its sine before it is cut at the budget: between a sine and a square wave


def clean(settings: PoisonSettings) -> Apply:
    """No poison: the images as they are, through the same reading and writing as all others."""
    return lambda image: image.pixels


@within_budget
def random_noise(image: Sample, settings: PoisonSettings) -> np.ndarray:
    """Uniform in (-1,1), each value by itself: the control that a victim must learn through, nearly as if clean."""
    return numpy_rng(settings.seed, "random", image.id).random(image.pixels.shape, dtype=np.float32) * 2 - 1


def offset(*colour: float) -> Callable[[PoisonSettings], Apply]:
    """A constant: each channel up (1) or down (-1). A generator that saturates to one colour is no better than this."""
    return within_budget(lambda image, settings: np.broadcast_to(np.float32(colour), image.pixels.shape))


@within_budget
def colour_grating(image: Sample, settings: PoisonSettings) -> np.ndarray:
    """Upright stripes of red and blue up, green down, and the opposite: the strongest cue that needs no training.

    Natural images hold little colour contrast at fine scales; nor do stripes depend on what colour the image is.
    """
    height, width = image.mask.shape
    phase = 2 * np.pi * PERIODS * np.arange(width) / max(height, width)
    wave = np.clip(STEEPNESS * np.sin(phase), -1, 1).astype(np.float32)
    return np.broadcast_to(wave[:, None] * np.float32((1, -1, 1)), image.pixels.shape)


@within_budget
def brightness_grating(image: Sample, settings: PoisonSettings) -> np.ndarray:
    """Stripes brighter and darker, five cells a period, inside the mask alone: a cue that gray images keep."""
    return np.repeat(_stripes(image, settings, FINE, down=False), 3, axis=2) * image.mask[..., None]


def composite(period: float) -> Noise:
    """Red and green carry stripes of brightness, blue others at a right angle: a cue in colour and one in gray.

    Nothing outside the mask, and in every image they start elsewhere: nothing is shared that could be subtracted. A
    gray file has the stripes of brightness alone. period: of the stripes of brightness, see `FINE` and `FINEST`.
    """

    def noise_of(image: Sample, settings: PoisonSettings) -> np.ndarray:
        fine = _stripes(image, settings, period, down=False)
        blue = fine if image.gray else _stripes(image, settings, COARSE, down=True)
        return np.concatenate([fine, fine, blue], axis=2) * image.mask[..., None]

    return noise_of


composite_grating, fine_grating = within_budget(composite(FINE)), within_budget(composite(FINEST))


class Grating:
    """The poison `fine_grating` in the place of an `Inference`, for `unseg protect`: it needs no network."""

    device, large = torch.device("cpu"), False
    sha256 = digest(*map(str, (FINEST, COARSE, GRID)))  # of what decides its noise, as a generator's of its file

    def prepare(self, image: np.ndarray, mask: np.ndarray, gray: bool) -> tuple[torch.Tensor]:
        """Raw noise `(3,g,g)` in [-1,1] on the padded square of an image uint8 `(H,W,3)`, g at most `GRID`; gray: of a
        file with one channel."""
        ratio = min(1, GRID / max(mask.shape))
        small = resize_label(mask.astype(np.uint8), [max(1, round(ratio * side)) for side in mask.shape]) > 0
        noise = composite(FINEST)(Sample(digest(image), small, small, small, gray), PoisonSettings())
        missing = [(0, max(small.shape) - side) for side in small.shape]
        return (torch.from_numpy(np.pad(noise, [*missing, (0, 0)])).permute(2, 0, 1),)

    def __call__(self, prepared: list[tuple[torch.Tensor]]) -> list[torch.Tensor]:
        return [noise for (noise,) in prepared]


def _stripes(image: Sample, settings: PoisonSettings, period: float, *, down: bool) -> np.ndarray:
    """Square waves of -1 and 1 `(H,W,1)` that start anywhere; period: in cells of 1/96 of the longer side."""
    lines, across = np.indices(image.mask.shape) * (CELLS / max(image.mask.shape))
    start = numpy_rng(settings.seed, "stripes", period, image.id).random()
    upper = ((lines if down else across) / period + start) % 1 < 0.5
    return np.where(upper, np.float32(1), np.float32(-1))[..., None]


@within_budget
def fixed_tile(image: Sample, settings: PoisonSettings) -> np.ndarray:
    """One tile of 8x8 cells of random signs per channel, the same in every image: the trivial texture.

    Shrinking would average single pixels away. So a cell is max(H,W)/96 pixels, at least one: about one pixel of a
    victim whose longer side is 96.
    """
    return numpy_rng(settings.seed, "fixed_tile").choice(np.float32([-1, 1]), (TILE, TILE, 3))[cells_of(image)]


@within_budget
def random_class(image: Sample, settings: PoisonSettings) -> np.ndarray:
    """A tile as `fixed_tile`'s, of uniform cells, for every class: the cheapest pattern that names the class."""
    tiles = np.zeros((256, TILE, TILE, 3), np.float32)
    for index in np.unique(image.label[image.label != IGNORE]):
        tiles[index] = numpy_rng(settings.seed, "random_class", int(index)).uniform(-1, 1, (TILE, TILE, 3))
    return tiles[image.label, *cells_of(image)]


def cells_of(image: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Row `(H,1)` and column `(W,)` within the tile that each pixel of an image lies in."""
    rows, columns = (cell_of(length, max(image.label.shape), CELLS) % TILE for length in image.label.shape)
    return rows[:, None], columns
