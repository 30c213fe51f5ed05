"""UnSeg: one forward pass of the generator per image, for all its protected objects at once; and its variants."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import find_objects, label
from torch.nn import functional as F

from unseg_lib import method
from unseg_lib.errors import UnsegError
from unseg_lib.files import sha256_of, whole_file
from unseg_lib.poisons.settings import Apply, Noise, PoisonSettings, Sample, within_budget
from unseg_lib.poisons.simple import Grating
from unseg_lib.runtime import choose_device
from unseg_lib.seeds import seed_for, torch_rng

LEVELS = 127  # of noise kept as int8: a step is 0.06/255 at eps = 8, far below one 8-bit step


def unseg(settings: PoisonSettings) -> Apply:
    """Noise of the trained generator, prompted by the union of the protected objects.

    As published, ignored pixels count as background. Unlike published, the budget follows the mask itself, not the
    mask on the 256-cell prompt grid, where thin objects vanish.
    """
    return within_budget(_generated(settings), ignored=True)(settings)


def unseg_by_class(settings: PoisonSettings) -> Apply:
    """Inside the mask each pixel has the noise of its own class, outside the noise of the union, as in `unseg`.

    Not in the paper, whose noise is for the union: where that is the whole image, it does not tell what is where.
    """
    noise_for = _generated(settings)

    def noise_of(image: Sample, settings: PoisonSettings) -> np.ndarray:
        noise, classes = noise_for(image, settings), np.unique(image.label[image.mask])
        for one in classes if len(classes) > 1 else ():
            region = image.mask & (image.label == one)
            noise = np.where(region[..., None], noise_for(replace(image, mask=region), settings), noise)
        return noise

    return within_budget(noise_of, ignored=True)(settings)


def unseg_quarters(settings: PoisonSettings) -> Apply:
    """As `unseg`, but each quarter of an image is protected for itself, so its noise is twice as fine.

    Not in the paper; for objects of a few cells, see `method.quarters`.
    """
    generator, name = open_generator(settings)

    def noise_of(image: Sample, settings: PoisonSettings) -> np.ndarray:
        parts = method.quarters(image.pixels, image.mask, generator.layout.grid)
        own = [part and replace(image, pixels=part[0], mask=part[1]) for part in parts]
        raw = method.joined([part and raw_noise(generator, name, part, settings) for part in own])
        return method.place_noise(raw, *image.mask.shape)

    return within_budget(noise_of, ignored=True)(settings)


def _generated(settings: PoisonSettings) -> Noise:
    generator, name = open_generator(settings)
    return lambda image, settings: method.place_noise(raw_noise(generator, name, image, settings), *image.mask.shape)


# UnSeg as its owner uses it who has no mask: box and points are drawn from the true one, as by somebody who knows the
# object, and the region that they give gets the full budget, also where it is larger than the object.


def _in_region(settings: PoisonSettings, prompt: Callable[[Sample], dict]) -> Apply:
    """`unseg` in the region that `find_region` finds by the prompt of an image; as it is with nothing to protect."""
    apply = unseg(settings)

    def in_region(image: Sample) -> np.ndarray:
        found = method.find_region(image.pixels, **prompt(image)).mask if image.mask.any() else image.mask
        return apply(replace(image, mask=found))

    return in_region


def unseg_box(settings: PoisonSettings) -> Apply:
    """The region is what the segmenter finds in tight boxes, one around each part that somebody would point at."""
    return _in_region(settings, lambda image: {"box": boxes_around_parts(image.mask)})


def boxes_around_parts(mask: np.ndarray) -> list[list[int]]:
    """x0, y0, x1, y1 of each connected part of a mask bool `(H,W)` that has a twentieth of it, and of the largest."""
    parts = label(mask, np.ones((3, 3)))[0]
    sizes = np.bincount(parts.ravel())[1:]
    found = [place for place, size in zip(find_objects(parts), sizes) if size >= min(mask.sum() / 20, sizes.max())]
    return [[across.start, down.start, across.stop - 1, down.stop - 1] for down, across in found]


def unseg_points(settings: PoisonSettings) -> Apply:
    """The region is what the segmenter finds by three points in the object."""

    def prompt(image: Sample) -> dict:
        rng = torch_rng(settings.seed, "region points", image.id)
        return {"points": method.points_of(_batch(image.mask), rng, 3)[0].tolist()}

    return _in_region(settings, prompt)


def unseg_salient(settings: PoisonSettings) -> Apply:
    """Nobody says what to protect: the salient objects, at last the whole image."""
    return _in_region(settings, lambda image: {})


def untrained(settings: PoisonSettings) -> Apply:
    """Noise of a generator with the trained one's layout and random weights: is it the training that poisons?

    Being some twenty times weaker, it is scaled, image by image, until its logits give the rms inside the protected
    mask that the trained generator's noise has (before gray or rounding).
    """
    trained, trained_name = open_generator(settings)
    fresh, name = random_twin(trained, settings.seed), method.digest("untrained", trained_name, str(settings.seed))

    def noise_of(image: Sample, settings: PoisonSettings) -> np.ndarray:
        prompt = prompt_of(image, settings)

        def matched() -> torch.Tensor:
            goal = raw_noise(trained, trained_name, image, settings)
            return match_amplitude(fresh.noise(image.pixels, **prompt), goal, image.mask)

        raw = cached_noise(settings.cache, name, method.digest(image.pixels, image.mask, *prompt.values()), matched)
        return method.place_noise(raw, *image.mask.shape)

    return within_budget(noise_of, ignored=True)(settings)


def random_twin(generator: method.Generator, seed: int) -> method.Generator:
    """A generator of the same kind with weights drawn from the seed, on the same device."""
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(seed, "untrained"))  # construction draws from the global generator
        twin = method.Generator(generator.layout, **generator.options)
    return twin.to(generator.noise_tokens.weight.device).eval()


def match_amplitude(noise: torch.Tensor, goal: torch.Tensor, mask: np.ndarray) -> torch.Tensor:
    """tanh(s * logits) of `noise` `(3,g,g)`, with s such that it is as strong as `goal` `(3,g,g)` in the image.

    Strength is the rms over the mask `(H,W)` after up-scaling, which weakens fine noise more than smooth
    noise. Where no s is enough, because the goal is saturated, the result is saturated too.
    """
    region = on_grid(mask, min(max(mask.shape), 4 * goal.shape[-1]))  # on a finer grid the rms hardly changes

    def rms(noise: torch.Tensor) -> float:
        full = F.interpolate(noise[None].float(), region.shape, mode="bilinear", align_corners=False)[0]
        return full[:, region].square().mean().sqrt().item()

    logits, wanted = torch.atanh(noise.double().clamp(-1 + 1e-9, 1 - 1e-9)), rms(goal)
    low, high = -30.0, 30.0  # of log2(s)
    for _ in range(30):
        middle = (low + high) / 2
        weaker = rms(torch.tanh(logits * 2**middle)) < wanted
        low, high = (middle, high) if weaker else (low, middle)
    return torch.tanh(logits * 2**low).float()


def on_grid(mask: np.ndarray, side: int) -> torch.Tensor:
    """Where a mask `(H,W)` lies on its padded square of `side` cells: bool `(side,side)`, all True if it vanishes."""
    cells = method.square(_batch(mask)[None].float(), side, "nearest")[0, 0] > 0
    return cells if cells.any() else torch.ones_like(cells)


def open_generator(settings: PoisonSettings) -> tuple[method.Generator, str]:
    """The generator of the settings on their device, and the sha256 of its file."""
    generator = method.load_generator(settings.generator, choose_device(settings.device))
    return generator, sha256_of(method.generator_path(settings.generator))


def inference_of(
    settings: PoisonSettings, *, quarters: bool = False, reference: bool = False, compiled: bool = False
) -> tuple[method.Inference | method.Quartered | Grating, str]:
    """The generator of the settings made ready for many images, see `Inference`, and the sha256 of its file; of
    "grating" a `Grating`, and its own."""
    drawn = settings.generator == "grating"
    if quarters and settings.prompt != "mask":
        raise UnsegError(f"Expected the prompt mask beside quarters, found {settings.prompt}.")
    if drawn and (quarters or reference or compiled or settings.prompt != "mask"):
        raise UnsegError("Expected a mask as prompt and no way to run a network, which the generator grating has not.")
    if drawn:
        return Grating(), Grating.sha256
    generator, sha256 = open_generator(settings)
    inference = method.Inference(generator, reference=reference, compiled=compiled)
    return method.Quartered(inference) if quarters else inference, sha256


def raw_noise(generator: method.Generator, name: str, image: Sample, settings: PoisonSettings) -> torch.Tensor:
    """Noise `(3,g,g)` in [-1,1] of a generator called `name` (hex) for one image, through the cache."""
    prompt = prompt_of(image, settings)
    key = method.digest(image.pixels, *prompt.values())
    return cached_noise(settings.cache, name, key, lambda: generator.noise(image.pixels, **prompt))


def prompt_of(image: Sample, settings: PoisonSettings) -> dict[str, np.ndarray | None]:
    """The prompts of a mask that is not empty: mask `(H,W)`, box `(4,)` xyxy, points `(10,2)` xy; None if unused."""
    kinds, mask = settings.prompt.split("+"), _batch(image.mask)
    rng = torch_rng(settings.seed, "points", image.id)
    return {
        "mask": image.mask if "mask" in kinds else None,
        "box": method.boxes_of(mask)[0].numpy() if "box" in kinds else None,
        "points": method.points_of(mask, rng)[0].numpy() if "points" in kinds else None,
    }


def _batch(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.copy())[None]


def cached_noise(folder: Path | None, generator: str, key: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Noise `(3,g,g)` in [-1,1] in steps of 1/127, from `folder` or computed and kept there: 192 KiB for g = 256.

    So another budget or file format never runs the generator again. `generator` and `key` are hex digests. Without a
    folder noise is rounded all the same: a cache changes no byte. Raises `UnsegError` where it is not finite.
    """
    path = Path(folder) / generator[:16] / f"{key[:32]}.npy" if folder else None
    with suppress(OSError, ValueError, EOFError):  # of no file, or a damaged one, which is made again
        if path:
            return torch.from_numpy(np.load(path, allow_pickle=False)).float() / LEVELS
    noise = compute()
    method.check_finite(noise.float().cpu().numpy())
    steps = (noise * LEVELS).round().to(torch.int8).cpu()
    if path:
        with whole_file(path) as partial:
            np.save(partial, steps.numpy(), allow_pickle=False)
    return steps.float() / LEVELS
