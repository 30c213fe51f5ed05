"""The generator before any training, at the amplitude of the trained one: is it the training that poisons?"""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from unseg_lib.poisons.noise_cache import cached_noise, digest
from unseg_lib.poisons.settings import PoisonSettings, Sample, with_noise
from unseg_lib.poisons.unseg import open_generator, prompt_of, raw_noise
from unseg_lib.seeds import seed_for


def untrained(settings: PoisonSettings) -> Callable[[Sample], np.ndarray]:
    """Noise of a generator with the trained one's layout and random weights.

    Untrained noise is some twenty times weaker. Its logits are scaled, image by image, until its
    rms inside the protected mask equals that of the trained generator's noise (before gray or rounding).
    """
    from unseg_lib.method import place_noise

    trained, trained_name = open_generator(settings)
    fresh = random_twin(trained, settings.seed)
    name = digest("untrained", trained_name, str(settings.seed))

    def matched(image: Sample) -> torch.Tensor:
        goal = raw_noise(trained, trained_name, image, settings)
        noise = fresh.noise(image.pixels, **prompt_of(image, settings))
        return match_amplitude(noise, goal, image.mask)

    def poison(image: Sample) -> np.ndarray:
        if not image.mask.any():
            return image.pixels
        key = digest(image.pixels, image.mask, *prompt_of(image, settings).values())
        raw = cached_noise(settings.cache, name, key, lambda: matched(image))
        return with_noise(image, place_noise(raw, *image.mask.shape), settings, ignored=True)

    return poison


def random_twin(generator, seed: int):
    """A generator of the same kind with weights drawn from the seed, on the same device."""
    from unseg_lib.method import Generator

    with torch.random.fork_rng():
        torch.manual_seed(seed_for(seed, "untrained"))  # construction draws from the global generator
        twin = Generator(generator.layout, **generator.options)
    return twin.to(generator.noise_tokens.weight.device).eval()


def match_amplitude(noise: torch.Tensor, goal: torch.Tensor, mask: np.ndarray) -> torch.Tensor:
    """tanh(s * logits) of `noise` `(3,g,g)`, with s such that it is as strong as `goal` `(3,g,g)` in the image.

    Strength is the rms over the mask `(H,W)` after up-scaling, which weakens fine noise more than smooth
    noise. Where no s is enough, because the goal is saturated, the result is saturated too.
    """
    side = min(max(mask.shape), 4 * goal.shape[-1])  # finer than four times the grid, the rms hardly changes
    region = on_grid(mask, side)
    logits, wanted = torch.atanh(noise.double().clamp(-1 + 1e-9, 1 - 1e-9)), _rms(goal, region)
    low, high = -30.0, 30.0  # of log2(s)
    for _ in range(30):
        middle = (low + high) / 2
        if _rms(torch.tanh(logits * 2**middle), region) < wanted:
            low = middle
        else:
            high = middle
    return torch.tanh(logits * 2**low).float()


def on_grid(mask: np.ndarray, side: int) -> torch.Tensor:
    """Where a mask `(H,W)` lies on its padded square of `side` cells: bool `(side,side)`, all True if it vanishes."""
    from unseg_lib.method import square

    cells = square(torch.from_numpy(mask.copy())[None, None].float(), side, "nearest")[0, 0] > 0
    return cells if cells.any() else torch.ones_like(cells)


def _rms(noise: torch.Tensor, region: torch.Tensor) -> float:
    full = F.interpolate(noise[None].float(), region.shape, mode="bilinear", align_corners=False)[0]
    return full[:, region].square().mean().sqrt().item()
