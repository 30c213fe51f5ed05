"""Estimate the noise that all images share, class by class, and subtract it: what a fixed tile dies of.

The attacker has only poisoned images and their masks, so natural content has to average out. Three ideas:

* A tile that repeats with a period is found by folding every image to one period and averaging there. Before that
  the mean over one whole period around each cell is taken off: a box as long as the period leaves the tile's
  pattern exactly as it is, and removes most of the image.
* Which grid and period? Some are tried. The repeats of a tile are dealt to two halves like the fields of a
  chessboard, and the grid on which the halves agree most is taken: what is natural, even what lies at the same
  place in all images, does not come again one period further.
* Agreement between the halves also says how much of the estimate is to be trusted: it is shrunk by that
  (Spearman-Brown), so nearly nothing is taken from clean images, on which the halves do not agree.

What it cannot see: the mean of the tile, hence any constant offset (a class's colour is its own mean plus the
offset, and nobody knows the first); noise that differs from image to image; and grids that are not tried.
"""

from dataclasses import dataclass

import numpy as np

from unseg_lib.datasets import IGNORE, SegmentationSet
from unseg_lib.defenses.defense import Change, Defense, as_pixels
from unseg_lib.errors import UnsegError
from unseg_lib.poisons import cell_of
from unseg_lib.runtime import progress

GRIDS = (0, 64, 96, 128)  # cells along the longer side of an image; 0 = cells of one pixel
PERIODS = (8, 16, 32)  # in cells
REPEATS = 6  # a tile comes at least so often along the longer side: fewer say nothing against natural content
LARGEST = 32.0  # residuals beyond it, in steps of 1/255, are edges of the image
IMAGES = 400  # images that are looked at, at most


@dataclass(frozen=True)
class Shared:
    """An estimate: tile `(C,P,P,3)` in steps of 1/255, its grid, and how much of its energy two halves share."""

    grid: int
    tile: np.ndarray
    evidence: float


def universal_component(seed: int, *, grid: int = -1, period: int = 0) -> Defense:
    """grid: cells along the longer side, 0 = pixels; period: of the tile, in cells. -1 and 0: found by trying."""
    if grid < -1 or period < 0 or period == 1:
        raise UnsegError(
            f"Expected grid from 0 (or -1) and period from 2 (or 0) for the defence universal_component, "
            f"found {grid} and {period}."
        )

    def fit(source: SegmentationSet) -> Change:
        found = shared_tile(source, (grid,) if grid >= 0 else GRIDS, (period,) if period else PERIODS)

        def image(pixels: np.ndarray, id: str) -> np.ndarray:
            label = source.label(id)
            rows, columns = (place % found.tile.shape[1] for place in places(label.shape, found.grid))
            noise = found.tile[np.where(label == IGNORE, 0, label), rows[:, None], columns]
            return as_pixels(pixels - np.where((label == IGNORE)[..., None], 0, noise))

        return image

    return Defense(fit=fit)


def shared_tile(source: SegmentationSet, grids: tuple[int, ...], periods: tuple[int, ...]) -> Shared:
    """The tile of the grid and period on which two halves agree most."""
    classes, step = len(source.classes), -(-len(source) // IMAGES)
    tried = [(grid, period) for grid in grids for period in periods]
    sums = [np.zeros((2, classes, period, period, 4)) for _, period in tried]  # halves; colours and count
    for id in progress(source.ids[::step], "looking for shared noise"):
        pixels, label = source.image(id).astype(np.float32), source.label(id)
        for grid in grids:
            cells = to_cells(pixels, label, grid)
            for (its_grid, period), total in zip(tried, sums):
                if its_grid == grid:
                    total += fold(*cells, period, classes)
    found = [estimate(total, grid) for (grid, _), total in zip(tried, sums)]
    return max(found, key=lambda one: one.evidence)


def places(shape: tuple[int, int], grid: int) -> list[np.ndarray]:
    """The cell of every row and of every column of an image."""
    side = max(shape)
    return [cell_of(length, side, grid or side) for length in shape]


def to_cells(pixels: np.ndarray, label: np.ndarray, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour `(h,w,3)` and class `(h,w)` of every cell; 255 where a cell holds more than one class."""
    starts = [np.flatnonzero(np.diff(place, prepend=-1)) for place in places(label.shape, grid)]

    def over_cells(operation, values: np.ndarray) -> np.ndarray:
        return operation.reduceat(operation.reduceat(values, starts[0], axis=0), starts[1], axis=1)

    lengths = [np.diff(start, append=n) for start, n in zip(starts, label.shape)]
    mean = over_cells(np.add, pixels) / np.multiply.outer(*lengths)[..., None]
    low, high = over_cells(np.minimum, label), over_cells(np.maximum, label)
    return mean, np.where(low == high, low, IGNORE)


def fold(cells: np.ndarray, label: np.ndarray, period: int, classes: int) -> np.ndarray:
    """Sums over all cells of a class at one place of the tile: `(2,C,P,P,4)`, three colours and the count.

    The first axis are the halves: repeats of the tile that lie on black and on white fields.
    """
    from scipy.ndimage import uniform_filter

    height, width = label.shape
    if max(height, width) < REPEATS * period or min(height, width) < period:
        return np.zeros((2, classes, period, period, 4))
    residual = np.clip(cells - uniform_filter(cells, (period, period, 0)), -LARGEST, LARGEST)
    inside = (slice(period // 2, n - (period - 1) // 2) for n in label.shape)  # where the box is a whole period
    used = np.full_like(label, IGNORE)
    window = tuple(inside)
    used[window] = label[window]
    row, column = np.nonzero(used != IGNORE)
    half = (row // period + column // period) % 2
    shape = (2, classes, period, period)
    place = np.ravel_multi_index((half, used[row, column], row % period, column % period), shape)
    weights = [*residual[row, column].T, None]
    counted = [np.bincount(place, weight, 2 * classes * period**2) for weight in weights]
    return np.stack(counted, axis=-1).reshape(*shape, 4)


def estimate(total: np.ndarray, grid: int) -> Shared:
    """From the sums of two halves `(2,C,P,P,4)` to what they share."""
    counts = total[..., 3:]
    halves = total[..., :3] / counts.clip(min=1)
    halves -= halves.mean(axis=(2, 3), keepdims=True)
    weight = counts.prod(axis=0) / counts.sum(axis=0).clip(min=1)  # a place that one half lacks says nothing
    weight /= weight.sum(axis=(1, 2), keepdims=True).clip(min=1e-9)
    pairs = (halves, halves[[0, 0]], halves[[1, 1]])
    together, first, second = ((weight * a * b).sum(axis=(1, 2)).mean(axis=-1) for a, b in pairs)
    agreement = (together / np.sqrt(first * second).clip(min=1e-9)).clip(0, 1)
    trust = 2 * agreement / (1 + agreement)
    tile = total[..., :3].sum(axis=0) / counts.sum(axis=0).clip(min=1)
    tile = trust[:, None, None, None] * (weight > 0) * (tile - tile.mean(axis=(1, 2), keepdims=True))
    share = counts.sum(axis=(0, 2, 3, 4)) / counts.sum().clip(min=1)
    return Shared(grid, tile.astype(np.float32), float((share * agreement * together).sum()))
