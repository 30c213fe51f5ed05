"""Large-scale jitter: flip, rescale by a large factor, crop, pad to a square (SAM-HQ's, as in the released code)."""

import torch
from torch.nn import functional as F


def large_scale_jitter(
    image: torch.Tensor,
    mask: torch.Tensor,
    size: int,
    rng: torch.Generator,
    scales: tuple[float, float] = (0.1, 2.0),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Jitter one image and its mask to `size` x `size`.

    image uint8 `(3,H,W)`, mask uint8 `(H,W)` of 0..255 -> image float `(3,size,size)` in [0,1] and mask
    float `(1,size,size)` in [0,1] with soft edges. The long side becomes s * size with s uniform in
    `scales`; what is larger is cropped at random, what is smaller is padded right and below with 0.
    Shrinking is antialiased (official code: it is not).
    """
    both = torch.cat([image, mask[None]])[None].float() / 255
    if torch.rand((), generator=rng) < 0.5:
        both = both.flip(3)
    s = scales[0] + (scales[1] - scales[0]) * torch.rand((), generator=rng).item()
    ratio = s * size / max(both.shape[2:])
    height, width = (max(1, round(side * ratio)) for side in both.shape[2:])
    both = F.interpolate(both, (height, width), mode="bilinear", align_corners=False, antialias=ratio < 1)
    top, left = (int(torch.randint(max(0, side - size) + 1, (), generator=rng)) for side in (height, width))
    both = both[0, :, top : top + size, left : left + size]
    both = F.pad(both, (0, size - both.shape[2], 0, size - both.shape[1]))
    return both[:3], both[3:]
