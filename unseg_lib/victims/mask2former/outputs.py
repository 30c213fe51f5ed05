"""From what Mask2Former says to label maps, instances and panoptic segments, and their scores and drawings.

Class logits `(Q,C+1)`, the last one "no object", and mask logits `(Q,h,w)` of one image; masks are scaled up
before anything is decided (Cheng et al., CVPR 2022, and the inference of their code). transformers' own functions
are not used: they scale all masks to 384 x 384 first, weigh the panoptic threshold by the score, and mix devices.
Everything is at the run's size: the areas of AP's small, medium and large objects are in its pixels.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch.nn import functional as F

from unseg_lib.datasets import IGNORE
from unseg_lib.evaluation import (
    average_precision,
    confusion,
    intersection_over_union,
    mean_iou,
    pack,
    panoptic_quality,
    unpack,
)
from unseg_lib.victims.data import normalise, resized_label
from unseg_lib.victims.mask2former.data import MaskedImages, things
from unseg_lib.victims.mask2former.model import Layout
from unseg_lib.victims.run import LABEL_TASKS, VictimRun
from unseg_lib.victims.training import autocast, save_predictions, shown

INSTANCES = 100  # of an image, at most: COCO's limit
SURE = 0.5  # instances with a lower score count, but are not drawn

Logits = tuple[torch.Tensor, torch.Tensor]  # of one image: classes (Q,C+1), masks (Q,h,w)


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
    classes: torch.Tensor, masks: torch.Tensor, size: tuple[int, int], things: tuple[int, ...], layout: Layout
) -> tuple[np.ndarray, np.ndarray]:
    """Masks bool `(K,H,W)` without overlap and class indices int64 `(K,)`; one segment for every class of stuff.

    Queries whose class is less probable than the layout's `threshold` are left out, then those that keep less than
    the share `overlap` of their own mask once every pixel has gone to its most probable query.
    """
    probability, named = classes.softmax(dim=-1).max(dim=-1)
    kept = (named != classes.shape[-1] - 1) & (probability > layout.threshold)
    probability, named, likely = probability[kept], named[kept], scaled(masks[kept], size).sigmoid()
    found: list[np.ndarray] = []
    labels: list[int] = []
    winner = (probability[:, None, None] * likely).argmax(dim=0) if len(named) else None
    for i, index in enumerate(named.tolist()):
        own, won = likely[i] >= 0.5, winner == i
        mask = (own & won).cpu().numpy()
        if not mask.any() or won.sum() < layout.overlap * own.sum():
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


def scores(run: VictimRun, model: torch.nn.Module, data: MaskedImages) -> dict:
    """Scores of the run's task, see `train_victim`."""
    found, countable = predict(run, model, data.x), things(run.test)
    if run.task == "instance":
        return {"scores": _precision(run, data, (instances(*one, run.size, countable) for one in found))}
    if run.task == "panoptic":
        return {"scores": _panoptic_scores(run, data, found, model.layout)}
    iou = intersection_over_union(sum(_confusion(run, i, one) for i, one in enumerate(found)))
    return {"miou": mean_iou(iou), "iou": iou}


@torch.inference_mode()
def predict(run: VictimRun, model: torch.nn.Module, x: torch.Tensor) -> Iterator[Logits]:
    """What the model says of every image, uint8 `(N,3,H,W)`."""
    model.eval()
    for some in x.split(run.batch_size):
        with autocast(run):
            found = model(normalise(some.to(run.device)))
        yield from zip(found.class_queries_logits.float(), found.masks_queries_logits.float())


def _truths(data: MaskedImages, only: Iterable[int]) -> Iterator[tuple[np.ndarray, ...]]:
    """Masks, classes and crowds of every image, of some classes."""
    for i, (classes, crowd) in enumerate(zip(data.classes, data.crowd)):
        kept = torch.isin(classes, torch.tensor(list(only)))
        yield tuple(part[kept].numpy() for part in (data.masks(i), classes, crowd))


def _precision(run: VictimRun, data: MaskedImages, found: Iterable[tuple]) -> dict[str, float | None]:
    """AP of (masks, classes, scores) of every image, over the things; what is found in crowds does not count."""
    return average_precision(_truths(data, things(run.test)), found, run.test.classes)


def _panoptic_scores(
    run: VictimRun, data: MaskedImages, found: Iterable[Logits], layout: Layout
) -> dict[str, float | None]:
    """PQ; "AP_pan" of the instances and "mIoU_pan" of the label maps that the same model gives, as published."""
    matrix, both, countable = 0, ([], []), things(run.test)
    for i, one in enumerate(found):
        matrix += _confusion(run, i, one)
        parts = segments(*one, run.size, countable, layout), instances(*one, run.size, countable)
        for kept, (masks, *more) in zip(both, parts):
            kept.append((pack(masks), *more))  # a large test set would not fit unpacked
    pieces, objects = (((unpack(masks, run.size), *more) for masks, *more in kept) for kept in both)
    quality = panoptic_quality(_truths(data, range(len(run.test.classes))), pieces, run.test.classes, countable)
    precision = _precision(run, data, objects)["AP"]
    return quality | {"AP_pan": precision, "mIoU_pan": mean_iou(intersection_over_union(matrix))}


def _confusion(run: VictimRun, i: int, one: Logits) -> torch.Tensor:
    return confusion(label_map(*one, run.size).cpu(), _label(run, i), len(run.test.classes))


def _label(run: VictimRun, i: int) -> torch.Tensor:
    """The true label map, with what panoptic segments lack: crowds, and things without a mask."""
    return resized_label(run.test.label(run.test.ids[i]), run.size)


def keep(run: VictimRun, model: torch.nn.Module, data: MaskedImages) -> None:
    """Write predictions.npz of some test images: label maps, and of instances and segments also their numbers."""
    some = shown(len(data.x))
    found = zip(some, predict(run, model, data.x[some]))
    save_drawings(run, data.x[some], [_drawings(run, data, i, one, model.layout) for i, one in found])


def save_drawings(run: VictimRun, x: torch.Tensor, rows: list[dict[str, np.ndarray]]) -> None:
    """Write predictions.npz of K images `(K,3,H,W)` and for each what `drawings` gives."""
    columns = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
    save_predictions(run.out / "predictions.npz", x, **columns)


def _drawings(run: VictimRun, data: MaskedImages, i: int, one: Logits, layout: Layout) -> dict[str, np.ndarray]:
    if run.task in LABEL_TASKS:
        return {"y": _label(run, i).numpy(), "prediction": label_map(*one, run.size).cpu().numpy()}
    (masks,), (classes,) = data.learnt([i])
    truth = by_area(masks.numpy(), classes.numpy())
    if run.task == "panoptic":
        return drawings(run, truth, segments(*one, run.size, things(run.test), layout))
    masks, classes, score = instances(*one, run.size, things(run.test))
    sure = np.flatnonzero(score >= SURE)[::-1]  # the best on top
    return drawings(run, truth, (masks[sure], classes[sure]))


def by_area(masks: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks `(K,H,W)` and classes `(K,)`, the largest first: small ones lie on top."""
    order = np.argsort(-masks.sum(axis=(1, 2)), kind="stable")
    return masks[order], classes[order]


def drawings(run: VictimRun, truth: tuple, found: tuple) -> dict[str, np.ndarray]:
    """What predictions.npz holds of (masks, classes) that are true and found: label maps, and numbers of segments."""
    nothing = IGNORE if run.test.background is None or run.task == "panoptic" else run.test.background
    (y, truth_segments), (prediction, prediction_segments) = (drawn(*one, nothing) for one in (truth, found))
    return {
        **{"y": y, "prediction": prediction},
        **{"truth_segments": truth_segments, "prediction_segments": prediction_segments},
    }


def drawn(masks: np.ndarray, classes: np.ndarray, nothing: int) -> tuple[np.ndarray, np.ndarray]:
    """Segments as images; later ones lie on top.

    Class of every pixel, uint8 `(H,W)`, `nothing` where there is no segment; number of its segment, int32 from 1.
    """
    label = np.full(masks.shape[1:], nothing, np.uint8)
    number = np.zeros(masks.shape[1:], np.int32)
    for i, (mask, index) in enumerate(zip(masks, classes), start=1):
        label[mask], number[mask] = index, i
    return label, number
