"""What is not published, all off by default: `hook` in a move of the game, `noise_of` where noise is read out.

A small generator trained from scratch without these settles on noise that dies of files, resizing, gray or subtraction:
one colour inside the mask, or a checkerboard of the finest scale. The paper's noise, of 256 cells for 512 pixels, is
smooth by construction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from unseg_lib.errors import UnsegError
from unseg_lib.method.attacks import attacked, attacks_of
from unseg_lib.method.pairs import resize
from unseg_lib.method.prompts import only

CHOICES = {"shown": ("subset", "mask"), "mean_of": ("noise", "logits")}


@dataclass(frozen=True)
class Variants:
    """Settings that the paper does not have, all off."""

    mean_free: int = 0  # the noise loses its mean over a window of that many grid cells (-1: all), see `noise_of`
    mean_of: str = "noise"  # what loses its mean: the "noise", or its "logits" alone
    logit_scale: float = 1.0  # of the generator's logits
    shown: str = "subset"  # prompts of the generator: a random subset of kinds, or always the "mask"
    gray: float = 0.0  # share of images shown gray, with the gray component of their noise
    shared_removed: float = 0.0  # share of steps in which what all noises have in common is taken away
    smallest: float = 1.0  # the surrogate sees images at a random size from this share of its own size
    attacks: str = ""  # what an attacker may do to noised images, with chances: "luma=0.5 jpeg=0.3", see attacks.py
    shifted: bool = False  # each image's noise starts at a place of its own, see `Generator`
    renew: int = 0  # every so many steps the surrogate starts again from its first weights

    def __post_init__(self):
        if self.mean_free < -1 or (self.mean_free > 0 and self.mean_free % 2 == 0):
            raise UnsegError(f"Expected mean_free to be 0, -1 or an odd window, found {self.mean_free}.")
        attacks_of(self.attacks)


def hook(config, x: Tensor, show: Callable, put: Callable, rng: torch.Generator) -> tuple:
    """One move's images `(N,3,S,S)`, and the two functions of the game that variants change, wrapped where they are on.

    show(prompts, rng) chooses what the generator is shown; put(config, x, y, noise, size) puts its noise on images.
    Which images are gray is drawn whatever the settings; a variant that is off draws nothing else.
    """
    gray = (torch.rand(len(x), generator=rng) < config.gray).to(x.device)
    chances = attacks_of(config.attacks)
    show = show if config.shown == "subset" else lambda prompts, rng: only(prompts, "mask")

    def put_worn(config, x: Tensor, y: Tensor, noise: Tensor, size: int) -> tuple:
        noise = gray_part(noise, gray)
        if config.shifted:
            noise = begun_at(noise, torch.randint(noise.shape[-1], (len(noise), 2), generator=rng).tolist())
        # what is left when somebody subtracts a universal pattern
        if torch.rand((), generator=rng) < config.shared_removed:
            noise = noise - noise.mean(dim=0, keepdim=True)
        # as it arrives at another size
        if config.smallest < 1:
            size = random_size(size, config.smallest, rng)
            noise = through_a_file(noise, size)
        x, y = put(config, x, y, noise, size)
        return (attacked(x, chances, rng) if chances else x), y

    return gray_part(x, gray), show, put_worn


def begun_at(noise: Tensor, starts: Sequence[tuple[int, int]]) -> Tensor:
    """Noise `(N,3,g,g)` that starts so many cells down and across, image by image, and goes on at the border."""
    return torch.stack([one.roll(tuple(start), dims=(1, 2)) for one, start in zip(noise, starts)])


def gray_part(x: Tensor, gray: Tensor) -> Tensor:
    """Where gray bool `(N,)` is True: the projection of images or noise `(N,3,H,W)` on R=G=B."""
    return torch.where(gray.view(-1, 1, 1, 1), x.mean(dim=1, keepdim=True), x)


def through_a_file(noise: Tensor, size: int) -> Tensor:
    """Noise `(N,3,g,g)` as it arrives at a model's input of `size`: written larger than its grid, then shrunk."""
    return resize(resize(noise, 2 * max(size, noise.shape[-1])), size)


def random_size(size: int, smallest: float, rng: torch.Generator) -> int:
    """A side from about smallest * size to size, in multiples that a U-Net can halve: 0.75 of 96 is 64, 80 or 96."""
    low, high = max(1, round(smallest * size / 16)), size // 16
    return size if low >= high else 16 * int(torch.randint(low, high + 1, (), generator=rng))


def noise_of(logits: Tensor, mean_free: int = 0, mean_of: str = "noise") -> Tensor:
    """Noise in [-1,1] from logits `(N,3,g,g)`: tanh, freed of its mean over a window (`local_mean`) where one is given.

    mean_of: "logits" takes the mean off before tanh, which still lets few strong logits and many weak ones of mean 0
    saturate to one colour with specks; "noise" takes it off the noise, too, and clips.
    """
    if not mean_free:
        return torch.tanh(logits)
    noise = torch.tanh(logits - local_mean(logits, mean_free))
    return noise if mean_of == "logits" else (noise - local_mean(noise, mean_free)).clamp(-1, 1)


def local_mean(x: Tensor, window: int) -> Tensor:
    """Mean of `(N,C,H,W)` over a centred square window of odd side, smaller at the borders; -1 = over the whole map."""
    if window < 0:
        return x.mean(dim=(2, 3), keepdim=True)
    return F.avg_pool2d(x, window, stride=1, padding=window // 2, count_include_pad=False)
