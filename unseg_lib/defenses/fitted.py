"""Defences that are fitted to all training images first, and then change each of them."""

from typing import NamedTuple

import numpy as np

from unseg_lib.datasets import IGNORE, SegmentationSet
from unseg_lib.defenses.defense import Change, Defense, need
from unseg_lib.errors import UnsegError
from unseg_lib.images import as_pixels, cell_of
from unseg_lib.runtime import progress
from unseg_lib.seeds import numpy_rng

# of orthogonal_projection
TILES = 20_000  # tiles the classifier is fitted to, at most
# of universal_component
GRIDS = (0, 64, 96, 128)  # cells along the longer side of an image; 0 = cells of one pixel
PERIODS = (8, 16, 32)  # in cells
REPEATS = 6  # a tile comes at least so often along the longer side: fewer say nothing against natural content
LARGEST = 32.0  # residuals beyond it, in steps of 1/255, are edges of the image
IMAGES = 400  # images that are looked at, at most


def orthogonal_projection(seed: int, *, tile: int = 32, ridge: float = 0.1) -> Defense:
    """Orthogonal projection (Sandoval-Segura et al., NeurIPS 2023): take out what a linear classifier goes by.

    Made against class-wise noise; here on tiles, with the class of most of their pixels. It is not free: what natural
    about a tile tells its class, such as the colour of the sky, goes as well.

    tile: side of a tile in pixels of the file. ridge: over the mean variance of a pixel; a smaller one spares the
    images, and noise that lies among what is natural. Unlike published, the classifier is fitted by least squares, to
    tiles minus the mean tile; the default ridge is about the published 20 epochs of SGD at a rate of 0.1.
    """
    need("tile", tile, 2, 64)
    need("ridge", ridge, 1e-6, 1e6)

    def fit(source: SegmentationSet) -> Change:
        x, y = sample(source, tile, seed)
        mean = x.mean(axis=0) if len(x) else np.zeros(3 * tile**2, np.float32)
        directions = separating(x - mean, y, ridge)

        def image(pixels: np.ndarray, id: str) -> np.ndarray:
            height, width = pixels.shape[:2]
            padded = np.pad(pixels, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge").astype(np.float32)
            padded /= 255
            tiles = tiles_of(padded, tile)
            tiles -= ((tiles.reshape(-1, 3 * tile**2) - mean) @ directions @ directions.T).reshape(tiles.shape)
            return as_pixels(255 * padded[:height, :width])

        return image

    return Defense(fit=fit)


def sample(source: SegmentationSet, tile: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole tiles of all images, float32 `(n,tile*tile*3)` in [0,1], and the class of most of their pixels `(n,)`."""
    share = -(-TILES // max(1, len(source)))
    xs, ys = [np.empty((0, 3 * tile**2), np.float32)], [np.empty(0, np.int64)]
    for id in progress(source.ids, "reading tiles"):
        image, label = (tiles_of(values, tile) for values in (source.image(id), source.label(id)))
        label = label.reshape(-1, tile**2)
        counts = np.stack([(label == c).sum(axis=1) for c in range(len(source.classes))], axis=-1)
        chosen = np.flatnonzero(counts.any(axis=-1))  # not all ignored
        chosen = numpy_rng(seed, "orthogonal_projection", id).permutation(chosen)[:share]
        xs.append(image.reshape(-1, 3 * tile**2)[chosen].astype(np.float32) / 255)
        ys.append(counts[chosen].argmax(axis=-1))
    return np.concatenate(xs), np.concatenate(ys)


def tiles_of(values: np.ndarray, tile: int) -> np.ndarray:
    """The whole tiles of an image `(H,W,3)`, or of a map `(H,W)`, row by row: a view that can be written to."""
    from skimage.util import view_as_blocks

    height, width, *channels = values.shape
    return view_as_blocks(values[: height - height % tile, : width - width % tile], (tile, tile, *channels))


def separating(x: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """Orthonormal columns `(features,k)` that span the weights of a linear classifier; x `(n,features)` has mean 0.

    One less than there are classes: without a bias to learn, the last class is what the others are not.
    """
    there = np.unique(y)
    if len(there) < 2:
        return np.zeros((x.shape[1], 0), np.float32)
    target = (y[:, None] == there).astype(np.float32)
    gram = x.T @ x / len(x)
    gram[np.diag_indices_from(gram)] += ridge * np.trace(gram) / len(gram) + 1e-12
    weights = np.linalg.solve(gram, x.T @ (target - target.mean(axis=0)))
    left, strength, _ = np.linalg.svd(weights, full_matrices=False)
    return left[:, : len(there) - 1][:, strength[: len(there) - 1] > 1e-6 * strength[0]]


class Shared(NamedTuple):
    """An estimate: tile `(C,P,P,3)` in steps of 1/255, its grid, and how much of its energy two halves share."""

    grid: int
    tile: np.ndarray
    evidence: float


def universal_component(seed: int, *, grid: int = -1, period: int = 0) -> Defense:
    """Estimate the noise that all images share, class by class, and subtract it: what a fixed tile dies of.

    Every image is folded to one period and averaged there, minus the mean over one whole period around each cell: that
    keeps a tile's pattern, and removes most of the image. Of some grids and periods that one is taken on which two
    halves of the repeats, dealt like the fields of a chessboard, agree most; by their agreement the estimate is shrunk
    (Spearman-Brown), so nearly nothing is taken from clean images. It cannot see a tile's mean, hence any constant
    offset, nor noise that differs from image to image, nor grids not tried.

    grid: cells along the longer side, 0 = pixels; period: of the tile, in cells. -1 and 0: found by trying.
    """
    if grid < -1 or period < 0 or period == 1:
        wanted = "grid from 0 (or -1) and period from 2 (or 0) for the defence universal_component"
        raise UnsegError(f"Expected {wanted}, found {grid} and {period}.")

    def fit(source: SegmentationSet) -> Change:
        found = shared_tile(source, (grid,) if grid >= 0 else GRIDS, (period,) if period else PERIODS)

        def image(pixels: np.ndarray, id: str) -> np.ndarray:
            label = source.label(id)
            rows, columns = (place % found.tile.shape[1] for place in places(label.shape, found.grid))
            noise = found.tile[np.where(label == IGNORE, 0, label), rows[:, None], columns]
            return as_pixels(pixels - np.where((label == IGNORE)[..., None], 0, noise))

        return image

    return Defense(fit=fit)


def shared_tile(source: SegmentationSet, grids: tuple[int, ...] = GRIDS, periods: tuple[int, ...] = PERIODS) -> Shared:
    """The tile of the grid and period on which two halves agree most."""
    classes, step = len(source.classes), -(-len(source) // IMAGES)
    # of every grid and period: halves; classes; places in the tile; colours and count
    sums = {(grid, period): np.zeros((2, classes, period, period, 4)) for grid in grids for period in periods}
    for id in progress(source.ids[::step], "looking for shared noise"):
        pixels, label = source.image(id).astype(np.float32), source.label(id)
        for grid in grids:
            cells = to_cells(pixels, label, grid)
            for period in periods:
                sums[grid, period] += fold(*cells, period, classes)
    return max((estimate(total, grid) for (grid, _), total in sums.items()), key=lambda one: one.evidence)


def places(shape: tuple[int, int], grid: int) -> list[np.ndarray]:
    """The cell in which the middle of every row, and of every column, of an image lies."""
    return [cell_of(length, max(shape), grid or max(shape)) for length in shape]


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
    # only where the box is a whole period
    used, inside = np.full_like(label, IGNORE), tuple(slice(period // 2, n - (period - 1) // 2) for n in label.shape)
    used[inside] = label[inside]
    row, column = np.nonzero(used != IGNORE)
    # add up by half, class and place
    half, shape = (row // period + column // period) % 2, (2, classes, period, period)
    place = np.ravel_multi_index((half, used[row, column], row % period, column % period), shape)
    counted = [np.bincount(place, weight, np.prod(shape)) for weight in (*residual[row, column].T, None)]
    return np.stack(counted, axis=-1).reshape(*shape, 4)


def estimate(total: np.ndarray, grid: int) -> Shared:
    """From the sums of two halves `(2,C,P,P,4)` to what they share."""
    counts = total[..., 3:]
    halves = total[..., :3] / counts.clip(min=1)
    halves -= halves.mean(axis=(2, 3), keepdims=True)
    # how much the halves agree, class by class
    weight = counts.prod(axis=0) / counts.sum(axis=0).clip(min=1)  # a place that one half lacks says nothing
    weight /= weight.sum(axis=(1, 2), keepdims=True).clip(min=1e-9)
    pairs = (halves, halves[[0, 0]], halves[[1, 1]])
    together, first, second = ((weight * a * b).sum(axis=(1, 2)).mean(axis=-1) for a, b in pairs)
    agreement = (together / np.sqrt(first * second).clip(min=1e-9)).clip(0, 1)
    # the mean of both, shrunk by what is to be trusted of it
    trust = 2 * agreement / (1 + agreement)
    tile = total[..., :3].sum(axis=0) / counts.sum(axis=0).clip(min=1)
    tile = trust[:, None, None, None] * (weight > 0) * (tile - tile.mean(axis=(1, 2), keepdims=True))
    share = counts.sum(axis=(0, 2, 3, 4)) / counts.sum().clip(min=1)
    return Shared(grid, tile.astype(np.float32), float((share * agreement * together).sum()))
