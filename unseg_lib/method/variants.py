"""What is not published: settings and small functions that wrap the paper's game and its noise; all off by default.

A small generator trained from scratch without these settles on noise that dies of files, resizing, gray or subtraction:
one colour inside the mask, or a checkerboard at the finest scale, the same for every image. The paper's generator makes
noise at 256 cells for a surrogate of 512 pixels, i.e. noise that is smooth by construction. They enter at two places:
`hook` in a move of the game (bilevel.py), `noise_of` where noise is read out (generator.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from unseg_lib.errors import UnsegError
from unseg_lib.method.pairs import resize
from unseg_lib.method.prompts import Prompts, only

CHOICES = {"shown": ("subset", "mask"), "mean_of": ("noise", "logits")}


@dataclass(frozen=True)
class Variants:
    """Settings that the paper does not have; the defaults switch everything off."""

    mean_free: int = 0  # the noise loses its mean over a window of that many grid cells (-1: all), see `noise_of`
    mean_of: str = "noise"  # what loses its mean: the "noise", or its "logits" alone
    logit_scale: float = 1.0  # of the generator's logits
    shown: str = "subset"  # prompts of the generator: a random subset of kinds, or always the "mask"
    gray: float = 0.0  # share of images shown gray, with the gray component of their noise
    shared_removed: float = 0.0  # share of steps in which what all noises have in common is taken away
    smallest: float = 1.0  # the surrogate sees images at a random size from this share of its own size

    def __post_init__(self):
        if self.mean_free < -1 or (self.mean_free > 0 and self.mean_free % 2 == 0):
            raise UnsegError(f"Expected mean_free to be 0, -1 or an odd window, found {self.mean_free}.")


def hook(config, x: torch.Tensor, show: Callable, put: Callable, rng: torch.Generator) -> tuple:
    """One move's images `(N,3,S,S)`, and the two functions of the game that variants change, wrapped where they are on.

    show(prompts, rng) chooses what the generator is shown; put(config, x, y, noise, size) puts its noise on images.
    What is drawn is drawn whatever the settings, so that all other draws of a step stay the same.
    """
    gray = (torch.rand(len(x), generator=rng) < config.gray).to(x.device)

    def show_mask(prompts: Prompts, rng: torch.Generator) -> Prompts:
        return only(prompts, "mask")

    def put_worn(config, x: torch.Tensor, y: torch.Tensor, noise: torch.Tensor, size: int) -> tuple:
        noise = gray_part(noise, gray)
        # what is left when somebody subtracts a universal pattern
        if torch.rand((), generator=rng) < config.shared_removed:
            noise = noise - noise.mean(dim=0, keepdim=True)
        # as it arrives at another size
        if config.smallest < 1:
            size = random_size(size, config.smallest, rng)
            noise = through_a_file(noise, size)
        return put(config, x, y, noise, size)

    return gray_part(x, gray), show_mask if config.shown == "mask" else show, put_worn


def gray_part(x: torch.Tensor, gray: torch.Tensor) -> torch.Tensor:
    """Where gray bool `(N,)` is True: the projection of images or noise `(N,3,H,W)` on R=G=B."""
    return torch.where(gray.view(-1, 1, 1, 1), x.mean(dim=1, keepdim=True), x)


def through_a_file(noise: torch.Tensor, size: int) -> torch.Tensor:
    """Noise `(N,3,g,g)` as it arrives at a model's input of `size`: written larger than its grid, then shrunk."""
    return resize(resize(noise, 2 * max(size, noise.shape[-1])), size)


def random_size(size: int, smallest: float, rng: torch.Generator, multiple: int = 16) -> int:
    """A side from about smallest * size to size, in multiples that a U-Net can halve.

    The lower end is rounded to a multiple, halves to the even one: 0.75 of 96 gives 64, 80 or 96.
    """
    low, high = max(1, round(smallest * size / multiple)), size // multiple
    return size if low >= high else multiple * int(torch.randint(low, high + 1, (), generator=rng))


def noise_of(logits: torch.Tensor, mean_free: int = 0, mean_of: str = "noise") -> torch.Tensor:
    """Noise in [-1,1] from logits `(N,3,g,g)`: tanh, freed of its mean over a window (`local_mean`) where one is given.

    mean_of: "logits" takes the mean off before tanh alone. That is not enough: many weak logits and few strong ones
    have mean 0 and saturate to one colour with specks, as two of three seeds of the profile small learnt. "noise"
    takes it off the noise, too, and clips.
    """
    if not mean_free:
        return torch.tanh(logits)
    noise = torch.tanh(logits - local_mean(logits, mean_free))
    return noise if mean_of == "logits" else (noise - local_mean(noise, mean_free)).clamp(-1, 1)


def local_mean(x: torch.Tensor, window: int) -> torch.Tensor:
    """Mean of `(N,C,H,W)` over a centred square window of odd side, smaller at the borders; -1 = over the whole map."""
    if window < 0:
        return x.mean(dim=(2, 3), keepdim=True)
    return F.avg_pool2d(x, window, stride=1, padding=window // 2, count_include_pad=False)
