"""UnSeg: one forward pass of the generator per image, for all its protected objects at once."""

from collections.abc import Callable

import numpy as np
import torch

from unseg_lib.files import sha256_of
from unseg_lib.poisons.noise_cache import cached_noise, digest
from unseg_lib.poisons.settings import PoisonSettings, Sample, with_noise
from unseg_lib.runtime import choose_device
from unseg_lib.seeds import torch_rng


def unseg(settings: PoisonSettings) -> Callable[[Sample], np.ndarray]:
    """Noise of the trained generator, prompted by the union of the protected objects.

    As published, ignored pixels count as background. Unlike published, the budget follows the mask
    itself and not the mask on the 256-cell prompt grid, where thin objects vanish.
    """
    from unseg_lib.method import place_noise

    generator, name = open_generator(settings)

    def poison(image: Sample) -> np.ndarray:
        if not image.mask.any():
            return image.pixels
        raw = raw_noise(generator, name, image, settings)
        return with_noise(image, place_noise(raw, *image.mask.shape), settings, ignored=True)

    return poison


def open_generator(settings: PoisonSettings):
    """The generator of the settings on their device, and the sha256 of its file."""
    from unseg_lib.method import generator_path, load_generator

    generator = load_generator(settings.generator, choose_device(settings.device))
    return generator, sha256_of(generator_path(settings.generator))


def raw_noise(generator, name: str, image: Sample, settings: PoisonSettings) -> torch.Tensor:
    """Noise `(3,g,g)` in [-1,1] of a generator called `name` (hex) for one image, through the cache."""
    prompt = prompt_of(image, settings)
    key = digest(image.pixels, *prompt.values())
    return cached_noise(settings.cache, name, key, lambda: generator.noise(image.pixels, **prompt))


def prompt_of(image: Sample, settings: PoisonSettings) -> dict[str, np.ndarray | None]:
    """The prompts of a mask that is not empty: mask `(H,W)`, box `(4,)` xyxy, points `(10,2)` xy; None if unused."""
    from unseg_lib.method import boxes_of, points_of

    kinds, mask = settings.prompt.split("+"), torch.from_numpy(image.mask.copy())[None]
    rng = torch_rng(settings.seed, "points", image.id)
    return {
        "mask": image.mask if "mask" in kinds else None,
        "box": boxes_of(mask)[0].numpy() if "box" in kinds else None,
        "points": points_of(mask, rng)[0].numpy() if "points" in kinds else None,
    }
