"""Visual prompts: box, points and boundary-noised mask, drawn from a true mask (§ 4.3, SAM-HQ's recipe)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import masks_to_boxes

KINDS = ("box", "points", "mask")
POINTS = 10


@dataclass  # not frozen: Fabric rebuilds it when it moves the inputs of a module
class Prompts:
    """Prompts of N images: every kind is there, `use` says which kinds count for which image.

    boxes: float `(N,4)` xyxy in pixels of the model's input; points: float `(N,k,2)` xy, all positive;
    masks: float `(N,1,g,g)` of values 0 and 255; use: bool `(N,3)` in the order of `KINDS`.
    """

    boxes: Tensor
    points: Tensor
    masks: Tensor
    use: Tensor

    def by_kind(self) -> Iterator[tuple[Tensor, dict]]:
        """Yield (rows, {"points", "boxes", "masks"}, None where unused) for every combination of kinds that occurs."""
        code = self.use.long() @ torch.tensor([1, 2, 4], device=self.use.device)
        for value in code.unique().tolist():
            rows = (code == value).nonzero().flatten()
            points = self.points[rows], torch.ones_like(self.points[rows, :, 0])  # with labels: inside
            kinds = {"boxes": (1, self.boxes[rows]), "points": (2, points), "masks": (4, self.masks[rows])}
            yield rows, {kind: given if value & bit else None for kind, (bit, given) in kinds.items()}

    def to(self, device: str | torch.device) -> "Prompts":
        return Prompts(*(part.to(device) for part in vars(self).values()))


def boxes_of(mask: Tensor) -> Tensor:
    """Tight boxes, xyxy with inclusive corners, of bool masks `(N,H,W)` -> float `(N,4)`; zeros for an empty mask."""
    return masks_to_boxes(mask)


def points_of(mask: Tensor, rng: torch.Generator, k: int = POINTS) -> Tensor:
    """k random pixels xy inside each bool mask `(N,H,W)` -> float `(N,k,2)`; zeros for an empty mask.

    A mask with fewer than k pixels repeats some. official code: it switches points off for the whole batch.
    """
    points = torch.zeros(len(mask), k, 2)
    for i, one in enumerate(mask.cpu()):
        inside = one.nonzero().flip(1)
        n = len(inside)
        if n:
            drawn = torch.randperm(n, generator=rng) if n >= k else torch.randint(n, (k,), generator=rng)
            points[i] = inside[drawn[:k]].float()
    return points.to(mask.device)


def noisy_mask(mask: Tensor, rng: torch.Generator) -> Tensor:
    """Disturb the boundary of masks `(N,1,g,g)` in [0,1] -> a map of 0 and 255.

    Mask-Transfiner's noise: N(0,1) is added where eight-fold down- and up-sampling changes the mask, then thresholded.
    """
    size = mask.shape[-2:]
    coarse = F.interpolate(mask, [max(1, side // 8) for side in size], mode="bilinear", align_corners=False)
    residue = (mask - F.interpolate(coarse, size, mode="bilinear", align_corners=False)).abs()
    noise = torch.randn(mask.shape, generator=rng).to(mask.device)
    return 255.0 * (mask + noise * (residue >= 0.01) > 0.5)


def all_prompts(mask: Tensor, grid: int, rng: torch.Generator) -> Prompts:
    """All kinds for soft masks `(N,1,S,S)` in [0,1], the mask on a `grid`-sided map; for an empty one only the mask."""
    hard = mask[:, 0] > 0.5  # paper: mask > 128 of 255
    soft = F.interpolate(mask, (grid, grid), mode="bilinear", align_corners=False)
    there = hard.flatten(1).any(dim=1)
    use = torch.stack([there, there, torch.ones_like(there)], dim=1)
    return Prompts(boxes_of(hard), points_of(hard, rng), noisy_mask(soft, rng), use)


def subset(prompts: Prompts, rng: torch.Generator) -> Prompts:
    """Keep for each image a random number (1 to 3) of its kinds: what the generator is shown."""
    return _keep(prompts, rng, torch.randint(1, 4, (len(prompts.use), 1), generator=rng))


def one_kind(prompts: Prompts, rng: torch.Generator) -> Prompts:
    """Keep for each image exactly one kind, uniformly: what the surrogate is shown."""
    return _keep(prompts, rng, torch.ones(len(prompts.use), 1, dtype=torch.long))


def only(prompts: Prompts, kind: str) -> Prompts:
    """Keep one named kind for every image that has it."""
    return replace(prompts, use=prompts.use & prompts.use.new_tensor([k == kind for k in KINDS]))


def _keep(prompts: Prompts, rng: torch.Generator, count: Tensor) -> Prompts:
    """Keep `count` `(N,1)` of each image's available kinds, chosen uniformly."""
    lottery = torch.rand(prompts.use.shape, generator=rng).to(prompts.use.device)
    lottery = lottery.masked_fill(~prompts.use, 2.0)  # kinds that are not there are drawn last, and dropped
    rank = lottery.argsort(dim=1).argsort(dim=1)
    return replace(prompts, use=prompts.use & (rank < count.to(rank.device)))
