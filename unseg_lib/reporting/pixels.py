"""Statistics of pixels: what noise looks like to somebody who compares clean and protected images."""

from collections.abc import Sequence

import numpy as np

RANGE = 40  # dB from black to white in `spectrum`


def _power(image: np.ndarray) -> np.ndarray:
    """Power of every wave, the mean over channels; the mean of the image is left out. (H,W[,C]) -> (H,W)."""
    image = np.atleast_3d(np.asarray(image, np.float64))
    return np.square(np.abs(np.fft.fft2(image - image.mean(axis=(0, 1)), axes=(0, 1)))).mean(axis=2)


def radial_spectrum(image: np.ndarray, bins: int = 32) -> np.ndarray:
    """Power of an image `(H,W)` or `(H,W,C)` at each spatial frequency, `(bins,)` from 0 to 0.5 cycles per pixel, mean
    over directions and channels, without that of its mean. White noise of variance v has power v in every bin.
    """
    power = _power(image) / (image.shape[0] * image.shape[1])
    radius = np.hypot(np.fft.fftfreq(power.shape[0])[:, None], np.fft.fftfreq(power.shape[1])[None])
    index = np.minimum((radius / 0.5 * bins).astype(int), bins)  # the corners, beyond 0.5, go to an extra bin
    index[0, 0] = bins
    total = np.bincount(index.ravel(), power.ravel(), bins + 1)[:bins]
    return total / np.maximum(1, np.bincount(index.ravel(), minlength=bins + 1)[:bins])


def frequencies(bins: int = 32) -> np.ndarray:
    """The middle of each bin of `radial_spectrum`, in cycles per pixel."""
    return (np.arange(bins) + 0.5) / bins * 0.5


def spectrum(noise: np.ndarray) -> np.ndarray:
    """Power of noise `(H,W,C)` by frequency and direction, gray float32 `(H,W,3)` in [-1,1]: 1 = strongest, -1 = 40 dB
    below or less. Slow changes are in the middle, a checkerboard of single pixels in the corners; no mean.
    """
    power = np.fft.fftshift(_power(noise))
    floor = power.max() * 10 ** (-RANGE / 10)
    # dB below the strongest, from -RANGE to 0; without any noise all are as weak as can be
    level = 10 * np.log10(np.maximum(power, floor) / power.max()) if floor else np.full(power.shape, -RANGE)
    return np.repeat((1 + 2 * level / RANGE).astype(np.float32)[..., None], 3, axis=2)


def gray_share(noise: np.ndarray) -> float:
    """Share of the energy of noise `(H,W,3)` that is left in the mean of its channels: 1 = gray, 0 = pure colour."""
    return _share(noise, axis=2)


def common_share(noises: Sequence[np.ndarray]) -> float:
    """Share of the energy of n noises `(H,W,3)` that is the same in all: 1 = one pattern, about 1/n = independent."""
    # on their common top left part, since tiles and grids start there
    height, width = (min(noise.shape[axis] for noise in noises) for axis in (0, 1))
    return _share(np.stack([noise[:height, :width] for noise in noises]), axis=0)


def _share(values: np.ndarray, axis: int) -> float:
    """Share of the energy that the mean over an axis has."""
    energy = np.square(values, dtype=np.float64).mean()
    return float(np.square(values.mean(axis=axis, dtype=np.float64)).mean() / energy) if energy else 0.0
