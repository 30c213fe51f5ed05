"""Statistics of pixels: what noise looks like to somebody who compares clean and protected images."""

from collections.abc import Sequence

import numpy as np


def histogram(images: Sequence[np.ndarray]) -> np.ndarray:
    """Share of pixels at each value, float `(3,256)`, each channel summing to 1; images uint8 `(H,W,3)`."""
    counts = np.zeros((3, 256))
    for image in images:
        for channel in range(3):
            counts[channel] += np.bincount(image[..., channel].ravel(), minlength=256)
    return counts / counts.sum(axis=1, keepdims=True)


def radial_spectrum(image: np.ndarray, bins: int = 32) -> np.ndarray:
    """Power at each spatial frequency, `(bins,)` from 0 to 0.5 cycles per pixel, averaged over directions.

    image: float `(H,W)` or `(H,W,C)` (then the mean over channels). The mean of the image is left out. White
    noise of variance v has power v in every bin, so a curve shows where noise is stronger than that.
    """
    image = np.atleast_3d(np.asarray(image, np.float64))
    power = np.abs(np.fft.fft2(image - image.mean(axis=(0, 1)), axes=(0, 1))) ** 2
    power = power.mean(axis=2) / (image.shape[0] * image.shape[1])
    rows, columns = np.fft.fftfreq(image.shape[0]), np.fft.fftfreq(image.shape[1])
    radius = np.hypot(rows[:, None], columns[None, :])
    index = np.minimum((radius / 0.5 * bins).astype(int), bins)  # the corners, beyond 0.5, go to an extra bin
    index[0, 0] = bins
    total = np.bincount(index.ravel(), power.ravel(), bins + 1)[:bins]
    return total / np.maximum(1, np.bincount(index.ravel(), minlength=bins + 1)[:bins])


def frequencies(bins: int = 32) -> np.ndarray:
    """The middle of each bin of `radial_spectrum`, in cycles per pixel."""
    return (np.arange(bins) + 0.5) / bins * 0.5


def gray_share(noise: np.ndarray) -> float:
    """Share of the noise's energy that is left when its image is turned gray: 1 = gray noise, 0 = pure colour.

    noise: `(H,W,3)`; gray means the channel mean.
    """
    energy = np.square(noise, dtype=np.float64).mean()
    return float(np.square(noise.mean(axis=2, dtype=np.float64)).mean() / energy) if energy else 0.0


def common_share(noises: Sequence[np.ndarray]) -> float:
    """Share of the noises' energy that is the same in all: 1 = one universal pattern, about 1/n = independent.

    noises: n arrays `(H,W,3)`; compared on their common top left part, since tiles and grids start there.
    """
    height, width = (min(noise.shape[axis] for noise in noises) for axis in (0, 1))
    stack = np.stack([noise[:height, :width] for noise in noises]).astype(np.float64)
    energy = np.square(stack).mean()
    return float(np.square(stack.mean(axis=0)).mean() / energy) if energy else 0.0


def separability(feature: np.ndarray, mask: np.ndarray) -> float:
    """How well one number per pixel tells object from background: the area under the ROC curve.

    feature `(H,W)`, mask bool `(H,W)`; 0.5 = not at all, 1 = perfectly (0 = perfectly, but inverted).
    """
    inside, outside = mask.sum(), (~mask).sum()
    if not inside or not outside:
        return 0.5
    _, index, counts = np.unique(feature, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # equal values share their mean rank, counted from 1
    total = ranks[index.ravel()][mask.ravel()].sum()
    return float((total - inside * (inside + 1) / 2) / (inside * outside))
