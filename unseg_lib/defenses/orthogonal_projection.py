"""Orthogonal projection (Sandoval-Segura et al., NeurIPS 2023): take out what a linear classifier goes by.

Made against class-wise noise, which is linearly separable; here on tiles, with the class of most of their
pixels. Noise that depends on the image is expected to survive. It is not free: what natural about a
tile tells its class, such as the colour of the sky, goes as well.
"""

import numpy as np

from unseg_lib.datasets import IGNORE, SegmentationSet
from unseg_lib.defenses.defense import Change, Defense, as_pixels, need
from unseg_lib.runtime import progress
from unseg_lib.seeds import numpy_rng

TILES = 20_000  # tiles the classifier is fitted to, at most


def orthogonal_projection(seed: int, *, tile: int = 32, ridge: float = 0.1) -> Defense:
    """tile: side of a tile in pixels of the file. ridge: over the mean variance of a pixel.

    Unlike published, the linear classifier is fitted by least squares, not by steps of SGD, and to tiles
    minus the mean tile. A smaller ridge is more steps: it spares the images, and noise that lies among what
    is natural; the default is about the published 20 epochs at a rate of 0.1.
    """
    need("tile", tile, 2, 64)
    need("ridge", ridge, 1e-6, 1e6)

    def fit(source: SegmentationSet) -> Change:
        x, y = sample(source, tile, seed)
        mean = x.mean(axis=0) if len(x) else np.zeros(3 * tile**2, np.float32)
        directions = separating(x - mean, y, ridge)

        def image(pixels: np.ndarray, id: str) -> np.ndarray:
            height, width = pixels.shape[:2]
            padded = np.pad(pixels, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
            flat = tiles_of(padded, tile)
            flat -= (flat - mean) @ directions @ directions.T
            return as_pixels(255 * image_of(flat, padded.shape, tile)[:height, :width])

        return image

    return Defense(fit=fit)


def sample(source: SegmentationSet, tile: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole tiles of all images, float32 `(n,tile*tile*3)` in [0,1], and their classes `(n,)`."""
    share = -(-TILES // max(1, len(source)))
    xs, ys = [np.empty((0, 3 * tile**2), np.float32)], [np.empty(0, np.int64)]
    for id in progress(source.ids, "reading tiles"):
        pixels, label = source.image(id), source.label(id)
        height, width = (n - n % tile for n in label.shape)
        classes = majority(label[:height, :width], tile, len(source.classes))
        chosen = np.flatnonzero(classes != IGNORE)
        chosen = numpy_rng(seed, "orthogonal_projection", id).permutation(chosen)[:share]
        xs.append(tiles_of(pixels[:height, :width], tile)[chosen])
        ys.append(classes[chosen])
    return np.concatenate(xs), np.concatenate(ys)


def tiles_of(pixels: np.ndarray, tile: int) -> np.ndarray:
    """An image `(H,W,3)` of whole tiles as float32 `(n,tile*tile*3)` in [0,1], row by row."""
    height, width = pixels.shape[:2]
    grid = pixels.reshape(height // tile, tile, width // tile, tile, 3).swapaxes(1, 2)
    return grid.reshape(-1, 3 * tile**2).astype(np.float32) / 255


def image_of(flat: np.ndarray, shape: tuple[int, ...], tile: int) -> np.ndarray:
    """The inverse of `tiles_of`, in [0,1]."""
    grid = flat.reshape(shape[0] // tile, shape[1] // tile, tile, tile, 3)
    return grid.swapaxes(1, 2).reshape(shape)


def majority(label: np.ndarray, tile: int, classes: int) -> np.ndarray:
    """The class of most pixels of every tile of `(H,W)`, 255 where all are ignored: `(n,)`."""
    grid = label.reshape(label.shape[0] // tile, tile, label.shape[1] // tile, tile).swapaxes(1, 2)
    counts = np.stack([(grid == c).sum(axis=(2, 3)).ravel() for c in range(classes)], axis=-1)
    return np.where(counts.any(axis=-1), counts.argmax(axis=-1), IGNORE)


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
