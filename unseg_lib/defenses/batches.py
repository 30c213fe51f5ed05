"""Defences that change a batch, drawn anew in every step; the recipes that cut crops do so before."""

from functools import cache

import torch
from torch.nn import functional as F

from unseg_lib.defenses.defense import Defense, need

SPREAD = 0.1  # standard deviation of every random weight of a sharpening kernel
# UEraser: of the plasma brightness, as published; and of TrivialAugment's wide range: factors 0.01 to 1.99
ROUGHNESS, STRENGTH, STRONGEST = (0.3, 0.7), (0.5, 1.0), 0.99
OPERATIONS = ("identity", "brightness", "saturation", "contrast", "sharpness", "posterize", "solarize", "equalize")


def sharpen_frequency(seed: int, *, centre: float = 2.5, keep: float = 0.3) -> Defense:
    """RSK+FF (Kim & Sandoval-Segura 2024), made against CUDA's blur: sharpen at random, keep the lowest frequencies.

    centre: mean weight of the kernel's middle. keep: this share of the rows and columns of the DCT stays.
    """
    need("centre", centre, 1, 10)
    need("keep", keep, 0.01, 1)
    return Defense(batch=lambda x, rng: low_frequencies(sharpen(x, centre, rng), keep))


def sharpen(x: torch.Tensor, centre: float, rng: torch.Generator) -> torch.Tensor:
    """Every image of `(N,3,H,W)` in [0,1] through a kernel of its own: a strong middle, four negative neighbours.

    Published without padding; here the border is reflected, so that the image keeps its size.
    """
    n, channels, height, width = x.shape
    middle = centre + SPREAD * torch.randn(n, generator=rng)
    around = (middle[:, None] - 1) / 4 + SPREAD * torch.randn(n, 4, generator=rng)
    kernel = torch.zeros(n, 9)
    kernel[:, 4], kernel[:, 1::2] = middle, -around
    kernel = kernel.view(n, 1, 3, 3).repeat_interleave(channels, dim=0).to(x.device)
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect").view(1, n * channels, height + 2, width + 2)
    return F.conv2d(padded, kernel, groups=n * channels).view_as(x).clamp(0, 1)


def low_frequencies(x: torch.Tensor, keep: float) -> torch.Tensor:
    """The part of `(N,3,H,W)` in the lowest `keep` of its 2-D DCT along each axis, clipped to [0,1]."""
    rows, columns = (_projection(n, keep).to(x.device) for n in x.shape[2:])
    return (rows @ x @ columns).clamp(0, 1)


@cache
def _projection(n: int, keep: float) -> torch.Tensor:
    """The matrix `(n,n)` that keeps the lowest frequencies of a column of n pixels."""
    import numpy as np
    from scipy.fft import dct

    lowest = dct(np.eye(n), axis=0, norm="ortho")[: max(1, round(keep * n))]
    return torch.from_numpy(lowest.T @ lowest).float()


def ueraser(seed: int) -> Defense:
    """UEraser-lite (Qin et al. 2023): strong photometric augmentation, one draw per image (its "max": the worst of 5).

    Plasma brightness and contrast, each in half of the images, channels shuffled in half, one operation of
    TrivialAugment: no geometric one, which would move an image away from its mask, nor autocontrast. The random JPEG
    that is published in front of it against `ar` is left out.
    """
    return Defense(batch=lambda x, rng: torch.stack([_erased(image, rng) for image in x]))


def _erased(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=rng).item()

    if uniform(0, 1) < 0.5:
        x = (x + uniform(*STRENGTH) * (2 * plasma(x, uniform(*ROUGHNESS), rng) - 1)).clamp(0, 1)
    if uniform(0, 1) < 0.5:
        x = (0.5 + 4 * (x - 0.5) * plasma(x, uniform(*ROUGHNESS), rng)).clamp(0, 1)
    if uniform(0, 1) < 0.5:
        x = x[torch.randperm(3, generator=rng).to(x.device)]
    return operate(x, OPERATIONS[int(uniform(0, len(OPERATIONS)))], uniform(-1, 1))


def plasma(x: torch.Tensor, roughness: float, rng: torch.Generator) -> torch.Tensor:
    """A cloud `(1,H,W)` in [0,1] for an image `(3,H,W)`: octaves of smooth noise, each `roughness` of the last."""
    cloud, weight, cells = torch.zeros(1, 1, *x.shape[1:]), 1.0, 1
    while cells < max(x.shape[1:]):
        cells *= 2
        noise = torch.rand(1, 1, cells, cells, generator=rng)
        cloud += weight * F.interpolate(noise, x.shape[1:], mode="bilinear", align_corners=False)
        weight *= roughness
    cloud = cloud - cloud.min()
    return (cloud / cloud.max().clamp(min=1e-6))[0].to(x.device)


def operate(x: torch.Tensor, name: str, strength: float) -> torch.Tensor:
    """One photometric operation of TrivialAugment on `(3,H,W)` in [0,1]; strength in [-1,1]."""
    from torchvision.transforms.v2 import functional as T

    if name == "identity":
        return x
    pixels, factor = (255 * x).round().to(torch.uint8), 1 + STRONGEST * strength
    changed = {
        "brightness": lambda: T.adjust_brightness(pixels, factor),
        "saturation": lambda: T.adjust_saturation(pixels, factor),
        "contrast": lambda: T.adjust_contrast(pixels, factor),
        "sharpness": lambda: T.adjust_sharpness(pixels, factor),
        "posterize": lambda: T.posterize(pixels, 8 - round(6 * abs(strength))),
        "solarize": lambda: T.solarize(pixels, 255 * (1 - abs(strength))),
        "equalize": lambda: T.equalize(pixels),
    }[name]()
    return changed.float() / 255
