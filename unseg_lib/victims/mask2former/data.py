"""Images with a mask for every object, segment or class: what Mask2Former, RSPrompter and detectors learn from.

Masks stay run-length encoded in memory, as COCO's files have them: a hundredth of their pixels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unseg_lib.datasets import IGNORE, Instance, SegmentationSet
from unseg_lib.evaluation import pack, unpack
from unseg_lib.runtime import progress
from unseg_lib.victims.data import random_windows, resized_image, resized_label, room
from unseg_lib.victims.run import LABEL_TASKS, VictimRun

Size = tuple[int, int]


def things(source: SegmentationSet) -> tuple[int, ...]:
    """Indices of the countable classes; where the set does not say, all but the background."""
    every = tuple(i for i in range(len(source.classes)) if i != source.background)
    return every if source.things is None else tuple(source.things)


def targets(source: SegmentationSet, id: str, task: str, size: Size | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """What is to be found in an image, as of `stacked`, crowds last: for "instance" and "detection" the objects, for
    "panoptic" also a mask for every class of stuff, else one for every class of the label map, which ignores crowds.
    """
    if task in LABEL_TASKS:
        label = source.label(id)
        regions = [Instance(label == index, int(index)) for index in np.unique(label[label != IGNORE])]
        return stacked(source, id, regions, size)
    objects = source.segments(id) if task == "panoptic" else source.instances(id)
    return stacked(source, id, objects + source.crowds(id), size)


def stacked(
    source: SegmentationSet, id: str, objects: list[Instance], size: Size | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks bool `(K,H,W)` of objects with a pixel at `size` (None: own), classes int64 and crowd bool `(K,)`."""
    found = [(one, resized_label(one.mask, size or one.mask.shape)) for one in objects]
    found = [(one, mask) for one, mask in found if mask.any()]
    size = size or (found[0][1].shape if found else source.image(id).shape[:2])
    masks = torch.stack([mask for _, mask in found]) if found else torch.zeros(0, *size, dtype=torch.bool)
    classes = torch.tensor([one.class_index for one, _ in found], dtype=torch.long)
    return masks, classes, torch.tensor([one.crowd for one, _ in found], dtype=torch.bool)


@dataclass(frozen=True)
class MaskedImages:
    """Images uint8 `(N,3,H,W)`; of each packed masks, class indices `(K,)`, and crowds: last and not learnt."""

    x: Tensor
    packed: list[list[dict]]
    classes: list[Tensor]
    crowd: list[Tensor]

    def masks(self, i: int) -> Tensor:
        """The masks of image i, bool `(K,H,W)`."""
        return torch.from_numpy(unpack(self.packed[i], tuple(self.x.shape[2:])))

    def learnt(self, chosen: Iterable[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Of the images numbered `chosen` the masks, and the class indices, without crowds."""
        kept = [(i, ~self.crowd[i]) for i in map(int, chosen)]
        return [self.masks(i)[some] for i, some in kept], [self.classes[i][some] for i, some in kept]


def read(run: VictimRun, source: SegmentationSet, what: str) -> MaskedImages:
    """Read a data set for the run's task, at its size; `what` names the progress, e.g. "training"."""
    data = MaskedImages(room((len(source), 3, *run.size), run.out), [], [], [])
    for i, id in enumerate(progress(source.ids, f"reading {what} images")):
        data.x[i] = resized_image(source.image(id), run.size)
        masks, classes, crowd = targets(source, id, run.task, run.size)
        data.packed.append(pack(masks.numpy()))
        data.classes.append(classes)
        data.crowd.append(crowd)
    return data


def augment(
    x: Tensor, masks: Sequence[Tensor], classes: Sequence[Tensor], scale: tuple, rng: torch.Generator, crop: float = 1.0
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Flip and scale-crop images of float `(N,3,H,W)`, zero = mean gray, with their masks bool `(K,H,W)`, see
    `random_windows`: the images, the masks that still have a pixel, and their classes `(K,)`, on the device of x.
    """
    grid = random_windows(x, scale, rng, crop)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    moved = [_move(one.to(x.device), grid[i : i + 1]) for i, one in enumerate(masks)]
    left = [one.flatten(1).any(dim=1) for one in moved]
    kept = [one.to(x.device)[some] for one, some in zip(classes, left)]
    return x, [one[some] for one, some in zip(moved, left)], kept


def _move(masks: Tensor, grid: Tensor) -> Tensor:
    if not len(masks):
        return masks.new_zeros(0, *grid.shape[1:3])
    return F.grid_sample(masks[None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)[0] > 0.5


def recolour(x: Tensor, rng: torch.Generator) -> Tensor:
    """Change the colours of float `(N,3,H,W)` in [0,1], each change half the time, as SSD does (Liu et al., 2016).

    Brightness by up to 32/255, contrast and saturation by a factor from 0.5 to 1.5, hue by up to 18 degrees.
    """
    from torchvision.transforms.v2 import functional as T

    def draw(low: float, high: float, same: float) -> list[float]:
        value = torch.empty(len(x)).uniform_(low, high, generator=rng)
        return torch.where(torch.rand(len(x), generator=rng) < 0.5, value, same).tolist()

    changes = zip(x, draw(-32 / 255, 32 / 255, 0), draw(0.5, 1.5, 1), draw(0.5, 1.5, 1), draw(-0.05, 0.05, 0))
    found = []
    for one, brightness, contrast, saturation, hue in changes:
        one = ((one + brightness) * contrast).clamp(0, 1)
        one = T.adjust_saturation(one, saturation) if saturation != 1 else one
        found.append(T.adjust_hue(one, hue) if hue else one)
    return torch.stack(found)
