"""UnSeg as its owner uses it who has no mask: the region comes from a box, from points, or from nothing at all.

Here box and points are drawn from the true mask, as somebody would who knows the object. The region that they give
(`unseg_lib.method.region`) gets the full budget, also where it is larger than the object.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from unseg_lib.poisons.settings import PoisonSettings, Sample
from unseg_lib.poisons.unseg import unseg
from unseg_lib.seeds import torch_rng

Poison = Callable[[Sample], np.ndarray]
POINTS = 3


def unseg_box(settings: PoisonSettings) -> Poison:
    """The region is the tight box of all that is to be protected."""
    from unseg_lib.method import boxes_of

    return _with_region(settings, lambda image: {"box": boxes_of(_mask(image))[0].tolist()})


def unseg_points(settings: PoisonSettings) -> Poison:
    """The region is what three points in the object give, see `around_points`."""
    from unseg_lib.method import points_of

    def prompt(image: Sample) -> dict:
        rng = torch_rng(settings.seed, "region points", image.id)
        return {"points": points_of(_mask(image), rng, POINTS)[0].tolist()}

    return _with_region(settings, prompt)


def unseg_salient(settings: PoisonSettings) -> Poison:
    """Nobody says what to protect: what stands out by its colour, at last the whole image."""
    return _with_region(settings, lambda image: {})


def _with_region(settings: PoisonSettings, prompt: Callable[[Sample], dict]) -> Poison:
    from unseg_lib.method import region_of

    poison = unseg(settings)

    def with_region(image: Sample) -> np.ndarray:
        if not image.mask.any():  # as the other poisons: nothing to protect
            return image.pixels
        return poison(replace(image, mask=region_of(image.pixels, **prompt(image)).mask))

    return with_region


def _mask(image: Sample) -> torch.Tensor:
    return torch.from_numpy(image.mask.copy())[None]
