"""What happens to noise between its making and a model's eye: files, resizing, gray, and its shared part removed.

A small generator trained without these settles on noise that dies of them: one colour inside the mask,
or a checkerboard at the finest scale, the same for every image. Not in the paper, whose generator
makes noise at 256 cells for a surrogate of 512 pixels, i.e. noise that is smooth by construction.
"""

import torch
from torch.nn import functional as F


def resize(x: torch.Tensor, size: int) -> torch.Tensor:
    """Bilinear, `(N,C,S,S)` -> `(N,C,size,size)`; antialiased when it shrinks (official code: it is not)."""
    if x.shape[-1] == size:
        return x
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=x.shape[-1] > size)


def through_a_file(noise: torch.Tensor, size: int) -> torch.Tensor:
    """Noise `(N,3,g,g)` as it arrives at a model's input of `size`: written larger than its grid, then shrunk."""
    return resize(resize(noise, 2 * max(size, noise.shape[-1])), size)


def gray_part(noise: torch.Tensor, gray: torch.Tensor) -> torch.Tensor:
    """Where gray bool `(N,)` is True: the projection of noise `(N,3,g,g)` on R=G=B."""
    return torch.where(gray.view(-1, 1, 1, 1), noise.mean(dim=1, keepdim=True), noise)


def without_shared(noise: torch.Tensor) -> torch.Tensor:
    """Noise `(N,3,g,g)` minus its mean over the batch: what is left when somebody subtracts a universal pattern."""
    return noise - noise.mean(dim=0, keepdim=True)


def random_size(size: int, smallest: float, rng: torch.Generator, multiple: int = 16) -> int:
    """A side from about smallest * size to size, in multiples that a U-Net can halve.

    The lower end is rounded to a multiple, halves to the even one: 0.75 of 96 gives 64, 80 or 96.
    """
    low, high = max(1, round(smallest * size / multiple)), size // multiple
    return size if low >= high else multiple * int(torch.randint(low, high + 1, (), generator=rng))
