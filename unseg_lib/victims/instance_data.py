"""Images with a mask for every object, segment or class: what Mask2Former learns from.

Masks stay run-length encoded in memory, as COCO's files have them: a hundredth of their pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from unseg_lib.datasets import IGNORE, Instance, SegmentationSet
from unseg_lib.runtime import progress
from unseg_lib.victims.data import random_windows, resized_image, resized_label, room
from unseg_lib.victims.run import LABEL_TASKS


def regions(source: SegmentationSet, id: str) -> list[Instance]:
    """One mask for every class in an image's label map; ignored pixels are in none."""
    label = source.label(id)
    return [Instance(label == index, int(index)) for index in np.unique(label[label != IGNORE])]


# task -> (set, id) -> masks at the image's own size
OBJECTS: dict[str, Callable[[SegmentationSet, str], list[Instance]]] = {
    **dict.fromkeys(LABEL_TASKS, regions),
    "instance": SegmentationSet.instances,
    "panoptic": SegmentationSet.segments,
}


def targets(source: SegmentationSet, id: str, size: tuple[int, int], task: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What is to be found in an image: masks bool `(K,H,W)` at `size`, and class indices int64 `(K,)`.

    task: "instance" gives the objects, "panoptic" the objects and one mask for every class of stuff, any other one
    mask for every class of the label map. What is too small to have a pixel at `size` is left out.
    """
    return _at_size(OBJECTS[task](source, id), size)


def crowds(source: SegmentationSet, id: str, size: tuple[int, int], task: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The crowds of an image as masks and classes; label maps have none, there they are ignored pixels."""
    return _at_size([] if task in LABEL_TASKS else source.crowds(id), size)


def _at_size(objects: list[Instance], size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    found = [(resized_label(one.mask, size), one.class_index) for one in objects]
    found = [(mask, index) for mask, index in found if mask.any()]
    masks = torch.stack([mask for mask, _ in found]) if found else torch.zeros(0, *size, dtype=torch.bool)
    return masks, torch.tensor([index for _, index in found], dtype=torch.long)


@dataclass(frozen=True)
class MaskedImages:
    """A data set: images uint8 `(N,3,H,W)`; of every image masks, packed, and class indices `(K,)`.

    crowd: of every image bool `(K,)`; crowds come last and are not learnt.
    """

    x: torch.Tensor
    packed: list[list[dict]]
    classes: list[torch.Tensor]
    crowd: list[torch.Tensor]

    def masks(self, i: int) -> torch.Tensor:
        """The masks of image i, bool `(K,H,W)`."""
        return unpack(self.packed[i], tuple(self.x.shape[2:]))

    def learnt(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks and classes of image i without its crowds."""
        return self.masks(i)[~self.crowd[i]], self.classes[i][~self.crowd[i]]


def read(
    source: SegmentationSet, size: tuple[int, int], task: str, what: str, folder: Path | None = None
) -> MaskedImages:
    """Read a data set at `size`; `what` names the progress, e.g. "training", `folder` as of `room`."""
    data = MaskedImages(room((len(source), 3, *size), folder), [], [], [])
    for i, id in enumerate(progress(source.ids, f"reading {what} images")):
        data.x[i] = resized_image(source.image(id), size)
        parts = targets(source, id, size, task), crowds(source, id, size, task)
        masks, classes = (torch.cat(pair) for pair in zip(*parts))
        data.packed.append(pack(masks))
        data.classes.append(classes)
        data.crowd.append(torch.arange(len(classes)) >= len(parts[0][1]))
    return data


def pack(masks: torch.Tensor) -> list[dict]:
    """Masks bool `(K,H,W)` as COCO's run lengths."""
    from pycocotools import mask

    return mask.encode(np.asfortranarray(masks.permute(1, 2, 0).numpy(), np.uint8)) if len(masks) else []


def unpack(packed: list[dict], size: tuple[int, int]) -> torch.Tensor:
    """The masks bool `(K,H,W)` that were packed."""
    from pycocotools import mask

    if not packed:
        return torch.zeros(0, *size, dtype=torch.bool)
    return torch.from_numpy(mask.decode(packed)).permute(2, 0, 1).bool()


def augment(
    x: torch.Tensor,
    masks: Sequence[torch.Tensor],
    scale: tuple[float, float],
    rng: torch.Generator,
    crop: float = 1.0,
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Flip and scale-crop images of float `(N,3,H,W)`, zero = mean gray, with their masks bool `(K,H,W)`.

    scale, crop: see `random_windows`.

    Returns the images, the masks that still have a pixel, and of every image which ones those are, bool `(K,)`.
    """
    grid = random_windows(x, scale, rng, crop)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    moved = [_move(one.to(x.device), grid[i : i + 1]) for i, one in enumerate(masks)]
    left = [one.flatten(1).any(dim=1) for one in moved]
    return x, [one[some] for one, some in zip(moved, left)], left


def _move(masks: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    if not len(masks):
        return masks
    moved = F.grid_sample(masks[None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved[0] > 0.5


def recolour(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
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
