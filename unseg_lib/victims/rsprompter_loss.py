"""The loss of a set of predicted masks: every true object goes to the query that fits it best.

Cost and loss are 2 x class + 5 x cross entropy + 5 x dice, masks compared at sampled points, as Mask2Former does
(Cheng et al., CVPR 2022, section 3.3) and RSPrompter after it. All in fp32.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from unseg_lib.method import sample_at, segmentation_loss

CLASS, MASK = 2.0, 5.0  # weights
NO_OBJECT = 0.1  # weight of a query that found nothing, for most do

Pairs = list[tuple[torch.Tensor, torch.Tensor]]  # of every image: numbers of queries, and of their objects


@dataclass(frozen=True)
class Objects:
    """What is to be found: of every image masks bool `(K,H,W)` and class indices int64 `(K,)`; K may be 0.

    points: at how many points masks are compared.
    """

    masks: list[torch.Tensor]
    classes: list[torch.Tensor]
    points: int


def set_loss(classes: torch.Tensor, masks: torch.Tensor, objects: Objects, rng: torch.Generator) -> torch.Tensor:
    """The loss of class logits `(N,Q,C+1)`, the last one "no object", and mask logits `(N,Q,h,w)`."""
    pairs = match(classes, masks, objects, rng)
    return class_loss(classes, objects, pairs) + mask_loss(chosen(masks, pairs), objects, pairs, rng)


def chosen(values: torch.Tensor, pairs: Pairs) -> list[torch.Tensor]:
    """Of every image the values `(Q,...)` of its queries that found an object."""
    return [one[queries] for one, (queries, _) in zip(values, pairs)]


def class_loss(classes: torch.Tensor, objects: Objects, pairs: Pairs) -> torch.Tensor:
    """Weighted cross entropy of class logits `(N,Q,C+1)`; a query without an object should say so."""
    target = torch.full(classes.shape[:2], classes.shape[2] - 1, device=classes.device)
    for row, labels, (queries, found) in zip(target, objects.classes, pairs):
        row[queries] = labels[found]
    weight = torch.ones(classes.shape[2], device=classes.device)
    weight[-1] = NO_OBJECT
    return CLASS * F.cross_entropy(classes.float().flatten(0, 1), target.flatten(), weight)


def mask_loss(guesses: list[torch.Tensor], objects: Objects, pairs: Pairs, rng: torch.Generator) -> torch.Tensor:
    """Cross entropy and dice of the mask logits `(k,h,w)` of every image's chosen queries; 0 where there are none."""
    truths = [masks[found].float() for masks, (_, found) in zip(objects.masks, pairs)]
    guess, truth = torch.cat(guesses)[:, None], torch.cat(truths)[:, None]
    return MASK * segmentation_loss(guess, truth, rng, objects.points) if len(guess) else guess.sum()


@torch.no_grad()
def match(classes: torch.Tensor, masks: torch.Tensor, objects: Objects, rng: torch.Generator) -> Pairs:
    """The cheapest one-to-one assignment in every image, `min(Q,K)` pairs."""
    images = zip(classes.float(), masks.float(), objects.masks, objects.classes)
    return [assign(price(*image, objects.points, rng)) for image in images]


def assign(price: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and their objects for prices `(Q,K)`, cheapest in sum."""
    from scipy.optimize import linear_sum_assignment

    queries, found = linear_sum_assignment(price.cpu().numpy())
    return torch.from_numpy(queries).to(price.device), torch.from_numpy(found).to(price.device)


def price(
    classes: torch.Tensor,
    masks: torch.Tensor,
    truth: torch.Tensor,
    labels: torch.Tensor,
    points: int,
    rng: torch.Generator,
) -> torch.Tensor:
    """What it would cost that query q is object k, `(Q,K)`; at random points, the same for all."""
    place = torch.rand(1, points, 2, generator=rng).to(masks.device)
    guess, true = (sample_at(maps[:, None], place.expand(len(maps), -1, -1)) for maps in (masks, truth.float()))
    return -CLASS * classes.softmax(dim=1)[:, labels] + MASK * (cross_entropy(guess, true) + dice(guess, true))


def cross_entropy(guess: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of each guess `(Q,P)`, logits, with each truth `(K,P)`: mean over the points, `(Q,K)`."""
    is_in, is_out = F.softplus(-guess), F.softplus(guess)
    return (is_in @ true.T + is_out @ (1 - true).T) / guess.shape[1]


def dice(guess: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """1 - Dice of each guess `(Q,P)`, logits, with each truth `(K,P)`, smoothed by one: `(Q,K)`."""
    p = guess.sigmoid()
    return 1 - (2 * p @ true.T + 1) / (p.sum(dim=1)[:, None] + true.sum(dim=1) + 1)
