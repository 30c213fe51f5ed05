"""From what Mask2Former says to label maps, instances and panoptic segments, as its authors do.

Class logits `(Q,C+1)`, the last one "no object", and mask logits `(Q,h,w)` of one image; masks are scaled up
before anything is decided (Cheng et al., CVPR 2022, and the inference of their code). transformers' own functions
are not used: they scale all masks to 384 x 384 first, weigh the panoptic threshold by the score, and mix devices.
"""

import numpy as np
import torch
from torch.nn import functional as F

INSTANCES = 100  # of an image, at most: COCO's limit


def label_map(classes: torch.Tensor, masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Class of every pixel, int64 `(H,W)`: every query votes for its classes where its mask is."""
    votes = torch.einsum("qc,qhw->chw", classes.softmax(dim=-1)[:, :-1], scaled(masks, size).sigmoid())
    return votes.argmax(dim=0)


def instances(
    classes: torch.Tensor, masks: torch.Tensor, size: tuple[int, int], things: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks bool `(K,H,W)`, class indices int64 and scores `(K,)` in [0,1], the best first; masks may overlap.

    A score is the probability of the class times the mean probability inside the mask.
    """
    likely = classes.softmax(dim=-1)[:, list(things)]
    score, index = likely.flatten().topk(min(INSTANCES, likely.numel()))
    found = scaled(masks, size)[index // len(things)]
    inside = found > 0
    area = inside.flatten(1).sum(dim=1)
    score = score * (found.sigmoid() * inside).flatten(1).sum(dim=1) / area.clamp(min=1)
    order = [i for i in score.argsort(descending=True, stable=True).tolist() if area[i]]
    named = torch.tensor(things, device=index.device)[index % len(things)]
    return inside[order].cpu().numpy(), named[order].cpu().numpy(), score[order].cpu().numpy()


def segments(
    classes: torch.Tensor,
    masks: torch.Tensor,
    size: tuple[int, int],
    things: tuple[int, ...],
    threshold: float,
    overlap: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Masks bool `(K,H,W)` without overlap and class indices int64 `(K,)`; one segment for every class of stuff.

    Queries whose class is less probable than `threshold` are left out, then those that keep less than the share
    `overlap` of their own mask once every pixel has gone to its most probable query.
    """
    probability, named = classes.softmax(dim=-1).max(dim=-1)
    kept = (named != classes.shape[-1] - 1) & (probability > threshold)
    probability, named, likely = probability[kept], named[kept], scaled(masks[kept], size).sigmoid()
    found: list[np.ndarray] = []
    labels: list[int] = []
    winner = (probability[:, None, None] * likely).argmax(dim=0) if len(named) else None
    for i, index in enumerate(named.tolist()):
        own, won = likely[i] >= 0.5, winner == i
        mask = (own & won).cpu().numpy()
        if not mask.any() or won.sum() < overlap * own.sum():
            continue
        if index not in things and index in labels:
            found[labels.index(index)] |= mask
        else:
            found.append(mask)
            labels.append(index)
    return np.stack(found) if found else np.zeros((0, *size), bool), np.array(labels, np.int64)


def scaled(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Mask logits `(Q,h,w)` at `(Q,H,W)`."""
    if not len(masks):
        return masks.new_zeros(0, *size)
    return F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]


def drawn(masks: np.ndarray, classes: np.ndarray, nothing: int) -> tuple[np.ndarray, np.ndarray]:
    """Segments as images; later ones lie on top.

    Class of every pixel, uint8 `(H,W)`, `nothing` where there is no segment; number of its segment, int32 from 1.
    """
    label = np.full(masks.shape[1:], nothing, np.uint8)
    number = np.zeros(masks.shape[1:], np.int32)
    for i, (mask, index) in enumerate(zip(masks, classes), start=1):
        label[mask], number[mask] = index, i
    return label, number
