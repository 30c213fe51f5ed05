"""The loss of both players: binary cross entropy plus Dice on points sampled where the prediction is unsure.

PointRend's sampling, as SAM-HQ and Mask2Former use it; the paper adds the two with weights 1 : 1.
"""

import torch
from torch.nn import functional as F

POINTS = 112 * 112
OVERSAMPLE = 3.0
IMPORTANT = 0.75  # share of the points taken where |logit| is smallest


def sample_at(maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Bilinear values of `(N,1,H,W)` maps at `(N,P,2)` points, xy in [0,1] -> `(N,P)`."""
    values = F.grid_sample(maps, 2 * points.unsqueeze(2) - 1, align_corners=False)
    return values[:, 0, :, 0]


def uncertain_points(logits: torch.Tensor, count: int, rng: torch.Generator) -> torch.Tensor:
    """Draw `(N,count,2)` points in [0,1] for logits `(N,1,H,W)`.

    Three quarters lie where the logits are nearest to zero, among three times as many; the rest is uniform.
    """
    n, important = len(logits), int(IMPORTANT * count)
    candidates = torch.rand(n, int(OVERSAMPLE * count), 2, generator=rng).to(logits.device)
    certainty = sample_at(logits, candidates).abs()
    chosen = certainty.topk(important, dim=1, largest=False).indices
    unsure = candidates.gather(1, chosen.unsqueeze(2).expand(-1, -1, 2))
    uniform = torch.rand(n, count - important, 2, generator=rng).to(logits.device)
    return torch.cat([unsure, uniform], dim=1)


def dice_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - Dice of `(N,P)` logits against targets in [0,1], smoothed by one, mean over images."""
    p = logits.sigmoid()
    overlap = 2 * (p * target).sum(dim=1) + 1
    return (1 - overlap / (p.sum(dim=1) + target.sum(dim=1) + 1)).mean()


def segmentation_loss(
    logits: torch.Tensor, target: torch.Tensor, rng: torch.Generator, count: int = POINTS
) -> torch.Tensor:
    """BCE + Dice of logits `(N,1,h,w)` against soft targets `(N,1,H,W)` in [0,1], on `count` sampled points."""
    logits = logits.float()  # losses stay in full precision under bf16
    with torch.no_grad():
        points = uncertain_points(logits, count, rng)
        truth = sample_at(target, points)
    guess = sample_at(logits, points)
    return F.binary_cross_entropy_with_logits(guess, truth) + dice_loss(guess, truth)
