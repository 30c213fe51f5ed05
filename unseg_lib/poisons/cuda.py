"""CUDA: convolution-based unlearnable data, one 3x3 filter per class (Sadasivan et al., CVPR 2023).

Written anew from the paper's description. Not noise but a change of the image, and bounded by nothing: PSNR
and SSIM belong beside every score. The 1 of a filter may lie off its centre, which shifts the class by
a pixel against its label.
"""

from collections.abc import Callable

import numpy as np

from unseg_lib.errors import pick
from unseg_lib.poisons.class_noise import regions
from unseg_lib.poisons.settings import PoisonSettings, Sample
from unseg_lib.seeds import numpy_rng

BLUR = 0.3  # the filter's entries are uniform below this, except for one that is 1
# what a filtered image is divided by: its brightest value, as published, or the filter's sum
SCALES = {
    "image": lambda filtered, kernel: filtered.max() / 255 or 1,
    "kernel-sum": lambda filtered, kernel: kernel.sum(),
}


def cuda(settings: PoisonSettings) -> Callable[[Sample], np.ndarray]:
    """As published: every filtered image is stretched until its brightest value is white."""
    return _cuda(settings, "image")


def cuda_blur(settings: PoisonSettings) -> Callable[[Sample], np.ndarray]:
    """True to brightness: a pure blur, which tells what the filters do without the shift of brightness."""
    return _cuda(settings, "kernel-sum")


def _cuda(settings: PoisonSettings, normalise: str) -> Callable[[Sample], np.ndarray]:
    def poison(image: Sample) -> np.ndarray:
        result = image.pixels.copy()
        for index, region in regions(image, settings):
            result[region] = filtered(image.pixels, kernel_of(settings.seed, index), normalise)[region]
        return result

    return poison


def kernel_of(seed: int, index: int) -> np.ndarray:
    """A class's filter `(3,3)`, the same for all images and channels."""
    rng = numpy_rng(seed, "cuda", index)
    kernel = rng.uniform(0, BLUR, 9)
    kernel[rng.integers(9)] = 1
    return kernel.reshape(3, 3)


def filtered(pixels: np.ndarray, kernel: np.ndarray, normalise: str) -> np.ndarray:
    """The whole image uint8 `(H,W,3)` filtered, black beyond its border, scaled ("image" or "kernel-sum") and
    rounded; the released code cuts decimals off, which darkens by half a step.
    """
    height, width = pixels.shape[:2]
    padded = np.pad(pixels.astype(np.float32), ((1, 1), (1, 1), (0, 0)))
    shifted = (padded[i : i + height, j : j + width] * np.float32(kernel[i, j]) for i in range(3) for j in range(3))
    total = sum(shifted)
    total /= pick(SCALES, normalise, "scale of a filter")(total, kernel)
    return np.clip(np.rint(total), 0, 255).astype(np.uint8)
