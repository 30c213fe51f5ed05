"""What an attacker may do to published images, with gradients: the noise is trained to outlast it. Not in the paper.

Each takes images `(N,3,H,W)` in [0,1] and a generator of random numbers, and draws anew for every image or batch.
`defenses` holds the same as an attacker really does it, on files; what is here only resembles that.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as T

from unseg_lib.errors import UnsegError


def luma(x: Tensor, rng: torch.Generator) -> Tensor:
    """Training on gray images, ITU-R 601."""
    return T.rgb_to_grayscale(x, num_output_channels=3)


def jpeg(x: Tensor, rng: torch.Generator) -> Tensor:
    """JPEG of a quality from 25 to 90, each image its own; rounding lets gradients through (kornia's)."""
    from kornia.enhance import jpeg_codec_differentiable

    height, width = x.shape[2:]
    padded = F.pad(x, (0, -width % 16, 0, -height % 16), mode="replicate")
    quality = 25 + 65 * torch.rand(len(x), generator=rng).to(x.device)
    return jpeg_codec_differentiable(padded, quality)[..., :height, :width]


def blur(x: Tensor, rng: torch.Generator) -> Tensor:
    """A Gaussian of 0.5 to 1.5 pixels."""
    sigma = 0.5 + torch.rand((), generator=rng).item()
    return T.gaussian_blur(x, [7, 7], [sigma, sigma])


def halved(x: Tensor, rng: torch.Generator) -> Tensor:
    """Shrunk to 0.4 to 0.8 of its size, and enlarged again."""
    factor = 0.4 + 0.4 * torch.rand((), generator=rng).item()
    return T.resize(T.resize(x, [max(1, round(factor * side)) for side in x.shape[2:]]), list(x.shape[2:]))


def bits(x: Tensor, rng: torch.Generator) -> Tensor:
    """Two to four bits a channel; gradients pass as if nothing were rounded."""
    steps = 256 / 2 ** int(torch.randint(2, 5, (), generator=rng))
    return x + ((255 * x / steps).floor() * steps / 255 - x).detach()


def tinted(x: Tensor, rng: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation changed by up to a half, in half of the calls channels shuffled."""

    def factor() -> Tensor:
        return (0.5 + torch.rand(len(x), 1, 1, 1, generator=rng)).to(x.device)

    if torch.rand((), generator=rng) < 0.5:
        x = x[:, torch.randperm(3, generator=rng).to(x.device)]
    x = x * factor()
    x = x.mean(dim=(1, 2, 3), keepdim=True).lerp(x, factor())
    return luma(x, rng).lerp(x, factor()).clamp(0, 1)


ATTACKS = {function.__name__: function for function in (tinted, halved, blur, luma, jpeg, bits)}  # in this order


def attacks_of(text: str) -> dict[str, float]:
    """The chance that each attack has, from "luma=0.5 jpeg=0.3"; "" = none."""
    found = {}
    for part in text.split():
        name, _, chance = part.partition("=")
        try:
            found[name] = float(chance)
        except ValueError:
            found[name] = -1
        if name not in ATTACKS or not 0 <= found[name] <= 1:
            raise UnsegError(f"Expected attacks as 'luma=0.5 jpeg=0.3', of {', '.join(ATTACKS)}, found '{part}'.")
    return found


def attacked(x: Tensor, chances: dict[str, float], rng: torch.Generator) -> Tensor:
    """Images `(N,3,H,W)` after what an attacker may do: each attack meets each image with its chance."""
    for name, attack in ATTACKS.items():
        met = torch.rand(len(x), generator=rng) < chances.get(name, 0)
        if met.any():
            x = x.index_put((met.to(x.device),), attack(x[met.to(x.device)], rng).to(x.dtype))
    return x
