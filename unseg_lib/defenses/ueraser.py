"""UEraser-lite (Qin et al. 2023): strong photometric augmentation, drawn anew in every step.

One draw per image (the published "max" takes the worst of five). Of TrivialAugment only photometric operations are
drawn: the geometric ones would move an image away from its mask. Its autocontrast is left out, and so is the random
JPEG that is published in front of it against `ar`.
"""

import torch
from torch.nn import functional as F

from unseg_lib.defenses.defense import Defense

ROUGHNESS, STRENGTH = (0.3, 0.7), (0.5, 1.0)  # of the plasma brightness, as published
OPERATIONS = ("identity", "brightness", "saturation", "contrast", "sharpness", "posterize", "solarize", "equalize")
STRONGEST = 0.99  # of TrivialAugment's wide range: factors 0.01 to 1.99


def ueraser(seed: int) -> Defense:
    """Plasma brightness and contrast, each in half of the images, channels shuffled in half, one operation."""
    return Defense(batch=_batch)


def _batch(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    return torch.stack([_one(image, rng) for image in x])


def _one(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """One image float `(3,H,W)` in [0,1]."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=rng).item()

    if uniform(0, 1) < 0.5:
        x = (x + uniform(*STRENGTH) * (2 * plasma(x, uniform(*ROUGHNESS), rng) - 1)).clamp(0, 1)
    if uniform(0, 1) < 0.5:
        x = (0.5 + 4 * (x - 0.5) * plasma(x, uniform(*ROUGHNESS), rng)).clamp(0, 1)
    if uniform(0, 1) < 0.5:
        x = x[torch.randperm(3, generator=rng).to(x.device)]
    chosen = OPERATIONS[int(uniform(0, len(OPERATIONS)))]
    return operate(x, chosen, uniform(-1, 1))


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
    pixels = (255 * x).round().to(torch.uint8)
    factor = 1 + STRONGEST * strength
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
