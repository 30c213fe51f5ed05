"""From what Mask2Former says to label maps, instances and panoptic segments, and their scores and drawings.

Class logits `(Q,C+1)`, the last one "no object", and mask logits `(Q,h,w)` of one image, which are scaled up to the
run's size before anything is decided (Cheng et al., CVPR 2022, and their code). transformers' own functions scale all
masks to 384 x 384 first, weigh the panoptic threshold by the score, and mix devices.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseg_lib.datasets import IGNORE
from unseg_lib.evaluation import average_precision, confusion, pack, panoptic_quality, unpack
from unseg_lib.victims.data import normalise, resized_label
from unseg_lib.victims.mask2former.data import MaskedImages, Size, targets
from unseg_lib.victims.mask2former.model import Layout
from unseg_lib.victims.run import LABEL_TASKS, VictimRun
from unseg_lib.victims.training import autocast, save_predictions, scores_of, shown, shown_image

INSTANCES = 100  # of an image, at most: COCO's limit
SURE = 0.5  # instances with a lower score count, but are not drawn

Logits = tuple[Tensor, Tensor]  # of one image: classes (Q,C+1), masks (Q,h,w)
Objects = tuple[np.ndarray, np.ndarray]  # masks bool (K,H,W), class indices int64 (K,)


def label_map(classes: Tensor, masks: Tensor, size: Size) -> Tensor:
    """Class of every pixel, int64 `(H,W)`: every query votes for its classes where its mask is."""
    return torch.einsum("qc,qhw->chw", classes.softmax(dim=-1)[:, :-1], scaled(masks, size).sigmoid()).argmax(dim=0)


def instances(
    classes: Tensor, masks: Tensor, size: Size, things: tuple[int, ...], *, panoptic: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks bool `(K,H,W)`, class indices int64 and scores `(K,)` in [0,1], the best first; masks may overlap. A score
    is the probability of the class times the mean probability inside the mask. panoptic: stuff competes for the places,
    too, before it is left out, as in Mask2Former's code.
    """
    among = range(classes.shape[-1] - 1) if panoptic else things
    likely = classes.softmax(dim=-1)[:, list(among)]
    score, index = likely.flatten().topk(min(INSTANCES, likely.numel()))
    named = torch.tensor(among, device=index.device)[index % len(among)]
    kept = torch.isin(named, torch.tensor(things, device=index.device))
    score, index, named = score[kept], index[kept], named[kept]
    found = scaled(masks, size)[index // len(among)]
    inside = found > 0
    area = inside.flatten(1).sum(dim=1)
    score = score * (found.sigmoid() * inside).flatten(1).sum(dim=1) / area.clamp(min=1)
    order = [i for i in score.argsort(descending=True, stable=True).tolist() if area[i]]
    return inside[order].cpu().numpy(), named[order].cpu().numpy(), score[order].cpu().numpy()


def segments(classes: Tensor, masks: Tensor, size: Size, things: tuple[int, ...], layout: Layout) -> Objects:
    """Masks without overlap and their classes; one segment for every class of stuff.

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


def scaled(masks: Tensor, size: Size) -> Tensor:
    """Mask logits `(Q,h,w)` at `(Q,H,W)`."""
    if not len(masks):
        return masks.new_zeros(0, *size)
    return F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]


def scores(run: VictimRun, model: nn.Module, data: MaskedImages) -> dict:
    """Scores of the run's task, see `train_victim`; AP's areas are in pixels of the masks, see `MaskedImages`."""
    found, countable = enumerate(predict(run, model, data, range(len(data.x)))), run.test.countable
    if run.task == "instance":
        return {"scores": _precision(run, data, (instances(*one, data.size(i), countable) for i, one in found))}
    if run.task == "panoptic":
        return {"scores": _panoptic_scores(run, data, found, model.layout)}
    return scores_of(sum(_confusion(run, i, one, data.size(i)) for i, one in found))


@torch.inference_mode()
def predict(run: VictimRun, model: nn.Module, data: MaskedImages, some: Sequence[int]) -> Iterator[Logits]:
    """What the model says of the images numbered `some`."""
    model.eval()
    step = run.batch_size if isinstance(data.x, Tensor) else 1  # of images of many shapes one by one, as published
    for start in range(0, len(some), step):
        x, shapes = data.batch(list(some[start : start + step]))
        with autocast(run):
            found = model(normalise(x.to(run.device)))
        masks = found.masks_queries_logits.float()
        # what is around an image that keeps its ratio is cut off
        masks = masks if shapes is None else scaled(masks[0], x.shape[2:])[None, :, : shapes[0][0], : shapes[0][1]]
        yield from zip(found.class_queries_logits.float(), masks)


def _truths(data: MaskedImages, only: Iterable[int]) -> Iterator[tuple[np.ndarray, ...]]:
    """Masks, classes and crowds of every image, of some classes."""
    for i, (classes, crowd) in enumerate(zip(data.classes, data.crowd)):
        kept = torch.isin(classes, torch.tensor(list(only)))
        yield tuple(part[kept].numpy() for part in (data.masks(i), classes, crowd))


def _precision(run: VictimRun, data: MaskedImages, found: Iterable[tuple]) -> dict[str, float | None]:
    """AP of (masks, classes, scores) of every image, over the things; what is found in crowds does not count."""
    return average_precision(_truths(data, run.test.countable), found, run.test.classes)


def _panoptic_scores(run: VictimRun, data: MaskedImages, found: Iterable[tuple], layout: Layout) -> dict:
    """PQ; "AP_pan" of the instances and "mIoU_pan" of the label maps that the same model gives, as published."""
    matrix, both, countable = 0, ([], []), run.test.countable
    for i, one in found:
        size = data.size(i)
        matrix += _confusion(run, i, one, size)
        parts = segments(*one, size, countable, layout), instances(*one, size, countable, panoptic=True)
        for kept, (masks, *more) in zip(both, parts):
            kept.append((pack(masks), *more))  # a large test set would not fit unpacked
    pieces, objects = (((unpack(masks, data.size(i)), *more) for i, (masks, *more) in enumerate(kept)) for kept in both)
    quality = panoptic_quality(_truths(data, range(len(run.test.classes))), pieces, run.test.classes, countable)
    return quality | {"AP_pan": _precision(run, data, objects)["AP"], "mIoU_pan": scores_of(matrix)["miou"]}


def _confusion(run: VictimRun, i: int, one: Logits, size: Size) -> Tensor:
    """Against the label map, which has what panoptic segments lack: crowds, and things without a mask."""
    label = resized_label(run.test.label(run.test.ids[i]), size)
    return confusion(label_map(*one, size).cpu(), label, len(run.test.classes))


def keep(run: VictimRun, model: nn.Module, data: MaskedImages) -> None:
    """Write predictions.npz of some test images: label maps, and of instances and segments also their numbers."""
    some = shown(len(data.x))
    found = zip((run.test.ids[i] for i in some), predict(run, model, data, some))
    save_predictions(run, [shown_image(run, id) | _drawings(run, id, one, model.layout) for id, one in found])


def _drawings(run: VictimRun, id: str, one: Logits, layout: Layout) -> dict:
    if run.task in LABEL_TASKS:
        return {"prediction": label_map(*one, run.size).cpu()}
    masks, classes, crowd = targets(run.test, id, run.task, run.size)
    if run.task == "panoptic":
        found = segments(*one, run.size, run.test.countable, layout)
    else:
        *found, score = instances(*one, run.size, run.test.countable)
        sure = np.flatnonzero(score >= SURE)[::-1]  # the best on top
        found = tuple(part[sure] for part in found)
    return drawings(run, by_area(masks[~crowd].numpy(), classes[~crowd].numpy()), found)


def by_area(masks: np.ndarray, classes: np.ndarray) -> Objects:
    """The largest first: small ones lie on top."""
    order = np.argsort(-masks.sum(axis=(1, 2)), kind="stable")
    return masks[order], classes[order]


def drawings(run: VictimRun, truth: Objects, found: Objects) -> dict[str, np.ndarray]:
    """What predictions.npz holds of objects that are true and found: label maps, and numbers of segments."""
    nothing = IGNORE if run.test.background is None or run.task == "panoptic" else run.test.background
    images = {name: drawn(*one, nothing) for name, one in {"truth": truth, "prediction": found}.items()}
    return {f"{name}{end}": image for name, both in images.items() for end, image in zip(("", "_segments"), both)}


def drawn(masks: np.ndarray, classes: np.ndarray, nothing: int) -> tuple[np.ndarray, np.ndarray]:
    """Class of every pixel, uint8 `(H,W)`, and number of its segment, int32 from 1 (0: none); later ones lie on top."""
    label = np.full(masks.shape[1:], nothing, np.uint8)
    number = np.zeros(masks.shape[1:], np.int32)
    for i, (mask, index) in enumerate(zip(masks, classes), start=1):
        label[mask], number[mask] = index, i
    return label, number
