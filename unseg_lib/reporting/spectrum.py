"""The spectrum of noise as an image: which frequencies it is made of, and in which directions."""

import numpy as np

RANGE = 40  # dB from black to white


def spectrum(noise: np.ndarray) -> np.ndarray:
    """Power by frequency and direction, gray float32 `(H,W,3)` in [-1,1]: 1 = strongest, -1 = 40 dB below or less.

    noise `(H,W,C)`, the mean over channels of each one's power. Slow changes are in the middle, a checkerboard
    of single pixels in the corners; the mean of the noise is left out.
    """
    noise = np.asarray(noise, np.float64)
    waves = np.fft.fft2(noise - noise.mean(axis=(0, 1)), axes=(0, 1))
    power = np.fft.fftshift(np.square(np.abs(waves)).mean(axis=2))
    floor = power.max() * 10 ** (-RANGE / 10)
    # dB below the strongest, from -RANGE to 0; without any noise all are as weak as can be
    level = 10 * np.log10(np.maximum(power, floor) / power.max()) if floor else np.full(power.shape, -RANGE)
    return np.repeat((1 + 2 * level / RANGE).astype(np.float32)[..., None], 3, axis=2)
