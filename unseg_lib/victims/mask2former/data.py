"""Images with a mask for every object, segment or class: what Mask2Former, RSPrompter and detectors learn from.

Masks stay run-length encoded in memory, as COCO's files have them: a hundredth of their pixels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unseg_lib.datasets import IGNORE, Instance, SegmentationSet
from unseg_lib.evaluation import pack, unpack
from unseg_lib.images import MEAN, image_size
from unseg_lib.runtime import progress
from unseg_lib.victims.data import normalise, random_windows, resized_image, resized_label, room
from unseg_lib.victims.run import LABEL_TASKS, VictimRun
from unseg_lib.victims.training import Rng, defended_batch

Size = tuple[int, int]


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


def inside(shape: Size, size: Size) -> Size:
    """As large as fits into `size`."""
    return _scaled(shape, min(side / own for side, own in zip(size, shape)))


def by_shorter(shape: Size, size: Size, shorter: float = 1.0, longer: float = 4.0) -> Size:
    """The shorter side, or where that would be too much the longer one, brought to so many of `size`'s shorter one."""
    return _scaled(shape, min(size) * min(shorter / min(shape), longer / max(shape)))


def _scaled(shape: Size, factor: float) -> Size:
    return tuple(max(1, round(factor * side)) for side in shape)


# what images become for training and for the test, before windows are cut. lsj: COCO's, 1024 pixels in training, the
# shorter side 800 and at most 1333 in the test; shorter: ADE20K's, 512 or 640 and at most four times that;
# pad: RSPrompter's, 1024, in the test with gray around. They keep their ratio and are scored at full size; squash: all
# become as large as `size`
FITS = {
    "squash": (),
    "lsj": (inside, partial(by_shorter, shorter=800 / 1024, longer=1333 / 1024)),
    "shorter": (by_shorter, by_shorter),
    "pad": (inside, inside),
}
GRAY = torch.tensor([round(255 * mean) for mean in MEAN], dtype=torch.uint8).view(3, 1, 1)
DIVISOR = 32  # of the sides of what a model sees, where images keep their ratio


@dataclass(frozen=True)
class MaskedImages:
    """Images uint8 `(N,3,H,W)`, or a list of `(3,h,w)`; of each packed masks, class indices `(K,)`, and crowds: last
    and not learnt. sizes: of the masks, where they are not those of the images. least: sides of what a model is shown.
    """

    x: Tensor | list[Tensor]
    packed: list[list[dict]]
    classes: list[Tensor]
    crowd: list[Tensor]
    sizes: list[Size] | None = None
    least: Size = (1, 1)

    def size(self, i: int) -> Size:
        """Height and width of the masks of image i."""
        return self.sizes[i] if self.sizes else tuple(self.x[i].shape[1:])

    def masks(self, i: int) -> Tensor:
        """The masks of image i, bool `(K,H,W)`."""
        return torch.from_numpy(unpack(self.packed[i], self.size(i)))

    def batch(self, chosen: Sequence[int]) -> tuple[Tensor, list[Size] | None]:
        """The images numbered `chosen`, uint8 `(N,3,H,W)`; where they are a list, gray around, and their shapes."""
        if isinstance(self.x, Tensor):
            return self.x[chosen], None
        shapes = [tuple(self.x[i].shape[1:]) for i in map(int, chosen)]
        sides = [max(least, *column) for least, column in zip(self.least, zip(*shapes))]
        x = GRAY.expand(len(shapes), 3, *(-(-side // DIVISOR) * DIVISOR for side in sides)).clone()
        for one, i, (height, width) in zip(x, map(int, chosen), shapes):
            one[:, :height, :width] = self.x[i]
        return x, shapes

    def learnt(self, chosen: Iterable[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Of the images numbered `chosen` the masks, and the class indices, without crowds."""
        kept = [(i, ~self.crowd[i]) for i in map(int, chosen)]
        return [self.masks(i)[some] for i, some in kept], [self.classes[i][some] for i, some in kept]


def read(run: VictimRun, source: SegmentationSet, what: str, fit: str = "squash") -> MaskedImages:
    """Read a data set for the run's task, by one of `FITS`; what: "training", or another word for the progress."""
    if fit == "squash":
        data = MaskedImages(room((len(source), 3, *run.size), run.out), [], [], [])
    else:
        full = [source.working_size or image_size(source.image_path(id)) for id in source.ids]
        shapes = [FITS[fit][what != "training"](one, run.size) for one in full]
        lengths = [3 * height * width for height, width in shapes]
        parts = room((sum(lengths),), run.out).split(lengths)
        x = [part.view(3, *shape) for part, shape in zip(parts, shapes)]
        least = run.size if fit == "pad" else (1, 1)
        data = MaskedImages(x, [], [], [], shapes if what == "training" else full, least)
    for i, id in enumerate(progress(source.ids, f"reading {what} images")):
        data.x[i][:] = resized_image(source.image(id), tuple(data.x[i].shape[1:]))
        masks, classes, crowd = targets(source, id, run.task, data.size(i))
        data.packed.append(pack(masks.numpy()))
        data.classes.append(classes)
        data.crowd.append(crowd)
    return data


def learnt_batch(
    run: VictimRun, layout: Any, data: MaskedImages, chosen: Tensor, rng: Rng, colour: bool = False, crop: float = 1.0
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The images numbered `chosen` as a step learns them, normalised, defended and augmented: see `augment`."""
    x, shapes = data.batch(chosen)
    x = defended_batch(run, x.to(run.device), rng("defence"))
    x = 255 * recolour(x.float() / 255, rng("colour")) if colour else x
    scale, found = (layout.scale_low, layout.scale_high), data.learnt(chosen)
    return augment(normalise(x), *found, scale, rng("augmentation"), crop, run.size, shapes)


def augment(
    x: Tensor,
    masks: Sequence[Tensor],
    classes: Sequence[Tensor],
    scale: tuple,
    rng: torch.Generator,
    crop: float = 1.0,
    size: Size | None = None,
    shapes: list[Size] | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Flip and scale-crop images of float `(N,3,H,W)`, zero = mean gray, with their masks bool `(K,H,W)`, see
    `random_windows`: the images, the masks that still have a pixel, and their classes `(K,)`, on the device of x.
    """
    grid = random_windows(x, scale, rng, crop, size, shapes)
    # around images that keep their ratio is gray, whatever a defence or other colours have made of it
    for one, (height, width) in zip(x, shapes or ()):
        one[:, height:], one[:, :, width:] = 0, 0
    around = [(0, x.shape[3] - width, 0, x.shape[2] - height) for height, width in shapes or ()]
    masks = [F.pad(one, sides) for one, sides in zip(masks, around)] if shapes else masks
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
