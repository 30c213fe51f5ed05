"""RSK+FF (Kim & Sandoval-Segura 2024): sharpen by a random kernel, then keep the lowest frequencies.

Made against CUDA's blur; drawn anew in every step, at the size that the victim sees, before flip and crop.
"""

from functools import cache

import torch
from torch.nn import functional as F

from unseg_lib.defenses.defense import Defense, need

SPREAD = 0.1  # standard deviation of every random weight


def sharpen_frequency(seed: int, *, centre: float = 2.5, keep: float = 0.3) -> Defense:
    """centre: mean weight of the kernel's middle. keep: this share of the rows and columns of the DCT stays."""
    need("centre", centre, 1, 10)
    need("keep", keep, 0.01, 1)

    def batch(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        return low_frequencies(sharpen(x, centre, rng), keep)

    return Defense(batch=batch)


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
