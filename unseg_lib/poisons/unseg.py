"""UnSeg: one forward pass of the generator per image, for all its protected objects at once; and its variants."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from unseg_lib.files import sha256_of
from unseg_lib.method import (
    Generator,
    boxes_of,
    generator_path,
    load_generator,
    place_noise,
    points_of,
    region_of,
    square,
)
from unseg_lib.poisons.noise_cache import cached_noise, digest
from unseg_lib.poisons.settings import Apply, Noise, PoisonSettings, Sample, within_budget
from unseg_lib.runtime import choose_device
from unseg_lib.seeds import seed_for, torch_rng


def unseg(settings: PoisonSettings) -> Apply:
    """Noise of the trained generator, prompted by the union of the protected objects.

    As published, ignored pixels count as background. Unlike published, the budget follows the mask
    itself and not the mask on the 256-cell prompt grid, where thin objects vanish.
    """
    return within_budget(_generated(settings), ignored=True)(settings)


def unseg_by_class(settings: PoisonSettings) -> Apply:
    """Inside the mask each pixel has the noise of its own class, outside the noise of the union, as in `unseg`.

    Not in the paper, whose noise is made for the union of all that is protected: where the union is the whole
    image, its mask tells the generator nothing about what is where.
    """
    noise_for = _generated(settings)

    def noise_of(image: Sample, settings: PoisonSettings) -> np.ndarray:
        noise, classes = noise_for(image, settings), np.unique(image.label[image.mask])
        for one in classes if len(classes) > 1 else ():
            region = image.mask & (image.label == one)
            noise = np.where(region[..., None], noise_for(replace(image, mask=region), settings), noise)
        return noise

    return within_budget(noise_of, ignored=True)(settings)


def _generated(settings: PoisonSettings) -> Noise:
    generator, name = open_generator(settings)
    return lambda image, settings: place_noise(raw_noise(generator, name, image, settings), *image.mask.shape)


# UnSeg as its owner uses it who has no mask. Here box and points are drawn from the true mask, as somebody would who
# knows the object. The region that they give gets the full budget, also where it is larger than the object.


def _in_region(prompt: Callable[[Sample, PoisonSettings], dict]) -> Callable[[PoisonSettings], Apply]:
    """`unseg` in the region that `region_of` finds by the prompt of an image."""

    def make(settings: PoisonSettings) -> Apply:
        apply = unseg(settings)

        def in_region(image: Sample) -> np.ndarray:
            if not image.mask.any():  # as the other poisons: nothing to protect
                return image.pixels
            return apply(replace(image, mask=region_of(image.pixels, **prompt(image, settings)).mask))

        return in_region

    return make


@_in_region
def unseg_box(image: Sample, settings: PoisonSettings) -> dict:
    """The region is the tight box of all that is to be protected."""
    return {"box": boxes_of(_batch(image.mask))[0].tolist()}


@_in_region
def unseg_points(image: Sample, settings: PoisonSettings) -> dict:
    """The region is what three points in the object give, see `around_points`."""
    rng = torch_rng(settings.seed, "region points", image.id)
    return {"points": points_of(_batch(image.mask), rng, 3)[0].tolist()}


@_in_region
def unseg_salient(image: Sample, settings: PoisonSettings) -> dict:
    """Nobody says what to protect: what stands out by its colour, at last the whole image."""
    return {}


def untrained(settings: PoisonSettings) -> Apply:
    """Noise of a generator with the trained one's layout and random weights: is it the training that poisons?

    Untrained noise is some twenty times weaker. Its logits are scaled, image by image, until its
    rms inside the protected mask equals that of the trained generator's noise (before gray or rounding).
    """
    trained, trained_name = open_generator(settings)
    fresh, name = random_twin(trained, settings.seed), digest("untrained", trained_name, str(settings.seed))

    def noise_of(image: Sample, settings: PoisonSettings) -> np.ndarray:
        prompt = prompt_of(image, settings)

        def matched() -> torch.Tensor:
            goal = raw_noise(trained, trained_name, image, settings)
            return match_amplitude(fresh.noise(image.pixels, **prompt), goal, image.mask)

        raw = cached_noise(settings.cache, name, digest(image.pixels, image.mask, *prompt.values()), matched)
        return place_noise(raw, *image.mask.shape)

    return within_budget(noise_of, ignored=True)(settings)


def open_generator(settings: PoisonSettings) -> tuple[Generator, str]:
    """The generator of the settings on their device, and the sha256 of its file."""
    generator = load_generator(settings.generator, choose_device(settings.device))
    return generator, sha256_of(generator_path(settings.generator))


def raw_noise(generator: Generator, name: str, image: Sample, settings: PoisonSettings) -> torch.Tensor:
    """Noise `(3,g,g)` in [-1,1] of a generator called `name` (hex) for one image, through the cache."""
    prompt = prompt_of(image, settings)
    key = digest(image.pixels, *prompt.values())
    return cached_noise(settings.cache, name, key, lambda: generator.noise(image.pixels, **prompt))


def prompt_of(image: Sample, settings: PoisonSettings) -> dict[str, np.ndarray | None]:
    """The prompts of a mask that is not empty: mask `(H,W)`, box `(4,)` xyxy, points `(10,2)` xy; None if unused."""
    kinds, mask = settings.prompt.split("+"), _batch(image.mask)
    rng = torch_rng(settings.seed, "points", image.id)
    return {
        "mask": image.mask if "mask" in kinds else None,
        "box": boxes_of(mask)[0].numpy() if "box" in kinds else None,
        "points": points_of(mask, rng)[0].numpy() if "points" in kinds else None,
    }


def random_twin(generator: Generator, seed: int) -> Generator:
    """A generator of the same kind with weights drawn from the seed, on the same device."""
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
        weaker = _rms(torch.tanh(logits * 2**middle), region) < wanted
        low, high = (middle, high) if weaker else (low, middle)
    return torch.tanh(logits * 2**low).float()


def on_grid(mask: np.ndarray, side: int) -> torch.Tensor:
    """Where a mask `(H,W)` lies on its padded square of `side` cells: bool `(side,side)`, all True if it vanishes."""
    cells = square(_batch(mask)[None].float(), side, "nearest")[0, 0] > 0
    return cells if cells.any() else torch.ones_like(cells)


def _rms(noise: torch.Tensor, region: torch.Tensor) -> float:
    full = F.interpolate(noise[None].float(), region.shape, mode="bilinear", align_corners=False)[0]
    return full[:, region].square().mean().sqrt().item()


def _batch(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.copy())[None]
